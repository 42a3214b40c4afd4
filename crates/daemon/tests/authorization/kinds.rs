//! The answers byte for byte as clients know them, and trust that ends.

use lab::Result;

use crate::{REFUSED, UNTRUSTED, Who, World, get, refusal};

/// What `GET /1.0` tells is the same whichever member answers, and whatever a stranger calls it.
pub fn how_much_is_told_does_not_depend_on_the_member(world: &World) -> Result<()> {
    let (client, print) = world.identity("leaving", Some(&[]))?;
    let (unknown, _) = world.identity("somebody", None)?;
    let (metrics, _) = world.identity("watching", Some(&["--type", "metrics"]))?;
    let paths = ["/1.0", "/1.0?target=server1", "/1.0?target=server2", "/1.0?target=nope"];
    for who in [Who::nobody(), unknown, metrics, world.removed.clone(), world.of_machine(1, "cluster")] {
        for (path, answer) in paths.iter().zip(world.ask_all(&who, &paths.map(get))?) {
            assert_eq!(answer, (200, UNTRUSTED.to_owned()), "GET {path} with {}", who.0);
        }
    }
    for who in [client.clone(), world.of_machine(2, "server"), world.local()] {
        for path in &paths[..3] {
            assert_eq!(world.value(&who, get(path))?["auth"], "trusted", "GET {path} with {}", who.0);
        }
        assert_eq!(world.ask(&who, get(paths[3]))?.0, 404);
    }
    // Who is trusted no more is refused on the connection that they have.
    world.cluster.incus(2, &["config", "trust", "remove", &print])?;
    world.cluster.until("the client trusted no more", || {
        let answer = world.ask(&client, get("/1.0/cluster/members"))?;
        Ok((answer == (403, refusal(REFUSED))).then_some(()))
    })
}
