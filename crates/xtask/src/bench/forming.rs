//! Starting alone, bootstrapping a cluster, joining it.

use std::time::Instant;

use super::Bench;
use super::rows::Better::Less;
use super::side::{SIZE, Side, since};
use crate::sh::Result;

/// Measures, and leaves a cluster of three voters on both sides.
pub fn measure(bench: &mut Bench) -> Result<()> {
    for side in &mut bench.sides {
        side.start(1)?;
    }
    let rounds = bench.rounds(5);
    bench.measure(("standalone, restart to ready", "ms", Less), rounds, |side| {
        side.stop(1)?;
        side.start(1)
    });
    let bridge = bench.sides[0].has("network")?;
    let bootstrap = if bridge { "bootstrap (pool and bridge)" } else { "bootstrap (pool)" };
    let names =
        [(bootstrap, "ms", Less), ("join of the 2nd member", "ms", Less), ("join of the 3rd member", "ms", Less)];
    let rounds = bench.rounds(3);
    bench.measure_all(&names, rounds, |side| form(side, bridge));
    for side in &bench.sides {
        side.whole(1)?;
        side.trust_client()?;
    }
    Ok(())
}

/// A new cluster; how long each step took.
fn form(side: &mut Side, bridge: bool) -> Result<Vec<f64>> {
    side.renew(SIZE)?;
    for number in 1..=SIZE {
        side.start(number)?;
    }
    let mut preseed = side.cluster.bootstrap_preseed();
    if bridge {
        preseed += "networks:\n- name: bench0\n  type: bridge\n  config:\n    ipv4.address: 10.88.0.1/24\n    \
                    ipv4.nat: \"true\"\n    ipv6.address: none\n";
    }
    let began = Instant::now();
    side.cluster.incus_in(1, &["admin", "init", "--preseed"], &preseed)?.ok()?;
    let mut took = vec![since(began)];
    for number in 2..=SIZE {
        let token = side.cluster.token(&format!("server{number}"))?;
        let began = Instant::now();
        side.cluster.join_with(number, &token)?.ok()?;
        took.push(since(began));
    }
    Ok(took)
}
