//! Moving instances, emptying members and bringing them back, on real daemons with real containers.
#![allow(clippy::unwrap_used)]

mod asked;
mod cancel;
mod crash;
mod leaving;
mod lost;
mod world;

use lab::cluster::Programs;
use lab::{Cluster, Result};
use world::World;

/// The same cluster, driven by Debian's client; `None` if it isn't installed.
fn stock(cluster: &Cluster) -> Option<String> {
    let stock = cluster.programs.clone().with_stock_client().map(|Programs { incus, .. }| incus);
    if stock.is_none() {
        eprintln!("SKIPPED: Debian's client isn't installed, only ours is tried");
    }
    stock.map(|path| path.to_string_lossy().into_owned())
}

#[test]
fn instances_move_and_members_are_emptied_and_come_back() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let world = World::new("evacuate")?;
    world.container("c1", 1, true, &["boot.host_shutdown_timeout=5"])?;
    world.container("c2", 1, false, &[])?;
    moves(&world)?;
    evacuations(&world)
}

fn moves(world: &World) -> Result<()> {
    let cluster = &world.cluster;
    cluster.incus(2, &["snapshot", "create", "c2", "snap"])?;
    for (name, runs) in [("c1", true), ("c2", false)] {
        cluster.incus(3, &["move", name, "--target", "server2"])?;
        assert_eq!(world.cluster.instances(3)?[name].1, "server2");
        if let Some(stock) = stock(cluster) {
            cluster.lab.machines[0].must(&stock, &["move", name, "--target", "server3"])?;
            assert_eq!(world.cluster.instances(2)?[name].1, "server3");
        }
        cluster.incus(1, &["move", name, "--target", "server1"])?;
        println!("{name} was moved, running: {runs}");
    }
    world.check(2, &[("c1", 1, true), ("c2", 1, false)])?;
    assert!(cluster.incus(2, &["snapshot", "list", "c2", "-f", "csv"])?.contains("snap"));
    cluster.incus(2, &["snapshot", "delete", "c2", "snap"])?;

    for (args, words) in [
        (&["move", "c1", "--target", "server1"][..], "Target must be different"),
        (&["move", "c1", "--target", "server9"], "not found"),
        (&["move", "c9", "--target", "server2"], "not found"),
        (&["move", "c1", "--target", "@nothing"], "nothing"),
    ] {
        let said = cluster.refused(2, args)?;
        assert!(said.contains(words), "{args:?}: {said}");
    }

    // What the target can't start runs on where it was.
    let script = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/only-here";
    cluster.lab.machines[0].must("sh", &["-c", script])?;
    let device = ["config", "device", "add", "c1", "files", "disk", "source=/mnt/only-here", "path=/files"];
    cluster.incus(1, &device)?;
    let said = cluster.refused(1, &["move", "c1", "--target", "server2"])?;
    assert!(said.contains("Missing source path"), "{said}");
    world.check(1, &[("c1", 1, true), ("c2", 1, false)])?;
    cluster.incus(1, &["config", "device", "remove", "c1", "files"])?;
    elsewhere(world)
}

/// To a group, another pool and another project.
fn elsewhere(world: &World) -> Result<()> {
    let cluster = &world.cluster;
    cluster.incus(1, &["cluster", "group", "create", "far"])?;
    cluster.incus(1, &["cluster", "group", "add", "server3", "far"])?;
    cluster.incus(1, &["move", "c2", "--target", "@far"])?;
    world.check(1, &[("c1", 1, true), ("c2", 3, false)])?;
    cluster.incus(1, &["move", "c2", "--target", "server1"])?;
    cluster.incus(1, &["config", "unset", "c2", "volatile.cluster.group"])?;

    cluster.incus(1, &["storage", "create", "more", "dir"])?;
    cluster.incus(2, &["move", "c1", "--storage", "more"])?;
    assert_eq!(world.cluster.instances(2)?["c1"], ("RUNNING".into(), "server1".into()));
    assert!(world.volume(1, "more", "c1").join("rootfs/mark").exists() && !world.volume(1, "local", "c1").exists());
    cluster.incus(2, &["move", "c1", "--storage", "local"])?;
    cluster.incus(1, &["storage", "delete", "more"])?;

    cluster.incus(1, &["project", "create", "p", "-c", "features.images=false", "-c", "features.profiles=false"])?;
    cluster.incus(2, &["move", "c2", "--target-project", "p"])?;
    assert!(world.volume(1, "local", "p_c2").join("rootfs/mark").exists() && !world.volume(1, "local", "c2").exists());
    cluster.incus(2, &["move", "c2", "--project", "p", "--target-project", "default"])?;
    cluster.incus(1, &["project", "delete", "p"])?;
    world.check(1, &[("c1", 1, true), ("c2", 1, false)])
}

fn evacuations(world: &World) -> Result<()> {
    let cluster = &world.cluster;
    world.container("stays", 1, true, &["cluster.evacuate=stop", "boot.host_shutdown_timeout=5"])?;
    world.container("dies", 1, true, &["cluster.evacuate=force-stop"])?;
    for client in [Some(cluster.programs.incus.to_string_lossy().into_owned()), stock(cluster)].into_iter().flatten() {
        println!("with {client}");
        let run = |machine: usize, args: &[&str]| cluster.lab.machines[machine - 1].run(&client, args, "");
        // Modes that containers don't have change nothing.
        let said = run(2, &["cluster", "evacuate", "server1", "--force", "--action", "live-migrate"])?.refused()?;
        assert!(said.contains("can't be live-migrated"), "{said}");
        assert_eq!(cluster.member(2, 1, 's')?, "ONLINE");

        run(2, &["cluster", "evacuate", "server1", "--force"])?.ok()?;
        assert_eq!(cluster.member(3, 1, 's')?, "EVACUATED");
        let list = world.cluster.instances(2)?;
        let at = |name: &str| list[name].1.trim_start_matches("server").parse::<usize>().unwrap();
        assert!(at("c1") != 1 && at("c2") != 1, "{list:?}");
        let away = [("c1", at("c1"), true), ("c2", at("c2"), false), ("stays", 1, false), ("dies", 1, false)];
        world.check(3, &away)?;
        assert_eq!(cluster.incus(3, &["config", "get", "c1", "volatile.evacuate.origin"])?.trim(), "server1");
        for (args, words) in [
            (&["cluster", "evacuate", "server1", "--force"][..], "Cluster member is already evacuated"),
            (&["cluster", "evacuate", "server9", "--force"], "Cluster member not found"),
            (&["start", "stays"], "evacuated"),
            (&["cluster", "evacuate", "server2", "--force", "--action", "bogus"], "bogus"),
        ] {
            let said = run(2, args)?.refused()?;
            assert!(said.contains(words), "{args:?}: {said}");
        }
        run(3, &["cluster", "restore", "server1", "--force"])?.ok()?;
        assert_eq!(cluster.member(3, 1, 's')?, "ONLINE");
        world.check(3, &[("c1", 1, true), ("c2", 1, false), ("stays", 1, true), ("dies", 1, true)])?;
        assert_eq!(cluster.incus(3, &["config", "get", "c1", "volatile.evacuate.origin"])?.trim(), "");
        // One that is in service is restored without anything being done.
        run(2, &["cluster", "restore", "server2", "--force"])?.ok()?;
    }

    // Everything is stopped in place, and with "skip" nothing comes back.
    cluster.incus(1, &["cluster", "evacuate", "server1", "--force", "--action", "stop"])?;
    world.check(3, &[("c1", 1, false), ("c2", 1, false), ("stays", 1, false), ("dies", 1, false)])?;
    let said = cluster.refused(1, &["cluster", "restore", "server1", "--force", "--action", "bogus"])?;
    assert!(said.contains("Invalid restore mode"), "{said}");
    cluster.incus(1, &["cluster", "restore", "server1", "--force", "--action", "skip"])?;
    world.check(3, &[("c1", 1, false), ("c2", 1, false), ("stays", 1, false), ("dies", 1, false)])
}
