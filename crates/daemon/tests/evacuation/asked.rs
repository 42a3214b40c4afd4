//! What an evacuation would do, what it must not do to the database, and how much it does at a time.

use lab::run::Output;
use lab::{Cluster, Lab, Result};

use crate::world::World;

#[test]
fn a_dry_run_says_what_would_happen_and_why_and_changes_nothing() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let world = World::new("asked")?;
    world.container("c1", 2, true, &["boot.host_shutdown_timeout=0"])?;
    world.container("c2", 2, false, &[])?;
    world.container("stays", 2, true, &["cluster.evacuate=stop", "boot.host_shutdown_timeout=0"])?;
    world.container("tied", 2, true, &["boot.host_shutdown_timeout=0"])?;
    world.cluster.lab.machines[1].must("sh", &["-c", "mount -t tmpfs tmpfs /mnt && mkdir /mnt/only-here"])?;
    let device = ["config", "device", "add", "tied", "files", "disk", "source=/mnt/only-here", "path=/files"];
    world.cluster.incus(1, &device)?;
    world.cluster.incus(1, &["cluster", "set", "server3", "scheduler.instance=manual"])?;
    dry_run(&world)?;
    modes(&world)?;
    at_a_time(&world)?;
    majority(&world)
}

fn plans(world: &World) -> Result<String> {
    world.cluster.incus(1, &["admin", "sql", "global", "SELECT count(*) FROM plans"])
}

fn dry(world: &World, args: &[&str]) -> Result<Output> {
    let all: Vec<&str> = args.iter().copied().chain(["--dry-run", "--format", "csv"]).collect();
    world.cluster.incus_in(1, &[&["cluster"], &all[..]].concat(), "")
}

fn dry_run(world: &World) -> Result<()> {
    let (before, list) = (plans(world)?, world.cluster.instances(1)?);
    let said = dry(world, &["evacuate", "server2"])?;
    assert_eq!(
        said.out,
        "default,c1,migrate,server1,server1 has the fewest instances\n\
         default,c2,migrate,server1,server1 has the fewest instances\n\
         default,stays,stop,server2,\"its mode is \"\"stop\"\"\"\n\
         default,tied,stop,server2,\"it can't leave this member: device \"\"files\"\": it shows files of this member\"\n"
    );
    assert!(said.err.contains("2 of the database's 3 voters are there"), "{}", said.err);
    let table = world.cluster.incus(1, &["cluster", "evacuate", "server2", "--dry-run", "--action", "force-stop"])?;
    assert!(table.contains("| default | c1       | force-stop | server2 | its mode is \"force-stop\" |"), "{table}");
    for (args, words) in [
        (&["evacuate", "server2", "--action", "bogus"][..], "Invalid evacuation mode \"bogus\""),
        (&["evacuate", "server2", "--action", "live-migrate"], "can't be live-migrated"),
        (&["evacuate", "server9"], "Cluster member not found"),
        (&["restore", "server2", "--action", "bogus"], "Invalid restore mode \"bogus\""),
    ] {
        let said = dry(world, args)?.refused()?;
        assert!(said.contains(words), "{args:?}: {said}");
    }
    assert_eq!((plans(world)?, world.cluster.instances(1)?), (before, list));
    assert_eq!(world.cluster.member(1, 2, 's')?, "ONLINE");

    world.cluster.incus(1, &["cluster", "evacuate", "server2", "--force"])?;
    assert!(dry(world, &["evacuate", "server2"])?.refused()?.contains("Cluster member is already evacuated"));
    let list = world.cluster.instances(1)?;
    let said = dry(world, &["restore", "server2"])?.ok()?;
    assert_eq!(
        said,
        "default,c1,migrate,server2,it comes from here\ndefault,c2,migrate,server2,it comes from here\n\
         default,stays,start,server2,it ran here before\ndefault,tied,start,server2,it ran here before\n"
    );
    assert_eq!(dry(world, &["restore", "server2", "--action", "skip"])?.ok()?, "");
    assert_eq!((world.cluster.instances(1)?, world.cluster.member(1, 2, 's')?.as_str()), (list, "EVACUATED"));
    world.cluster.incus(1, &["cluster", "restore", "server2", "--force"])?;
    world.check(1, &[("c1", 2, true), ("c2", 2, false), ("stays", 2, true), ("tied", 2, true)])
}

fn modes(world: &World) -> Result<()> {
    // What is asked for goes before what the instance says; what can't be had is a failure of that instance alone.
    let said = world.cluster.refused(1, &["cluster", "evacuate", "server2", "--force", "--action", "migrate"])?;
    assert!(said.contains("Instance \"tied\"") && said.contains("back in service"), "{said}");
    world.check(1, &[("c1", 1, true), ("c2", 1, false), ("stays", 1, true), ("tied", 2, true)])?;
    world.cluster.incus(1, &["cluster", "restore", "server2", "--force"])?;
    let said = world.cluster.refused(1, &["cluster", "evacuate", "server2", "--force", "--action", "stateful-stop"])?;
    assert!(said.contains("can't be stopped with their state"), "{said}");
    world.cluster.incus(1, &["cluster", "evacuate", "server2", "--force", "--action", "force-stop"])?;
    world.check(1, &[("c1", 2, false), ("c2", 2, false), ("stays", 2, false), ("tied", 2, false)])?;
    world.cluster.incus(1, &["cluster", "restore", "server2", "--force"])?;
    world.check(1, &[("c1", 2, true), ("c2", 2, false), ("stays", 2, true), ("tied", 2, true)])
}

fn at_a_time(world: &World) -> Result<()> {
    let cluster = &world.cluster;
    let said = cluster.refused(1, &["config", "set", "cluster.evacuation.parallel=-1"])?;
    assert!(said.contains("Value must be between 0 and 1000"), "{said}");
    for width in ["1", "3"] {
        cluster.incus(1, &["config", "set", &format!("cluster.evacuation.parallel={width}")])?;
        world.cluster.hold(2, "plan:stop:before")?;
        let mut client = world.begin(1, &["cluster", "evacuate", "server2", "--force", "--action", "stop"])?;
        world.cluster.held(2)?;
        let running = ["admin", "sql", "global", "SELECT 'n' || count(*) FROM plan_steps WHERE state = 'running'"];
        // The one that doesn't run needs nothing.
        let wanted = format!("n{width}");
        cluster.until("as many begun", || Ok(cluster.incus(1, &running)?.contains(&wanted).then_some(())))?;
        world.cluster.release(2);
        assert!(client.wait()?.success());
        cluster.incus(1, &["cluster", "restore", "server2", "--force"])?;
    }
    cluster.incus(1, &["config", "unset", "cluster.evacuation.parallel"]).map(drop)
}

/// Members are emptied one after another, up to the one that the database can't do without.
fn majority(world: &World) -> Result<()> {
    let cluster = &world.cluster;
    for emptied in [1, 3] {
        cluster.incus(2, &["cluster", "evacuate", &format!("server{emptied}"), "--force"])?;
        cluster.until("another leader", || Ok((cluster.leader(2)? != emptied).then_some(())))?;
    }
    cluster.until("a single voter", || {
        let roles = (1..=3).map(|n| cluster.member(2, n, 'r')).collect::<Result<Vec<_>>>()?;
        let votes = |roles: &String| roles.contains("database") && !roles.contains("standby");
        Ok((!votes(&roles[0]) && votes(&roles[1]) && !votes(&roles[2])).then_some(()))
    })?;
    for args in [&["cluster", "evacuate", "server2", "--force"][..], &["cluster", "evacuate", "server2", "--dry-run"]] {
        let said = cluster.refused(2, args)?;
        assert!(said.contains("Without \"server2\" the database has no majority"), "{said}");
    }
    assert_eq!(cluster.member(2, 2, 's')?, "ONLINE");
    for emptied in ["server1", "server3"] {
        cluster.incus(2, &["cluster", "restore", emptied, "--force"])?;
    }
    cluster.vote(2, &[1, 2, 3])?;
    cluster.incus(2, &["cluster", "evacuate", "server2", "--force"])?;
    cluster.incus(1, &["cluster", "restore", "server2", "--force"]).map(drop)
}

#[test]
fn a_cluster_of_one_member_can_only_stop_its_instances() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let cluster = Cluster::form(Lab::temporary("alone", 1)?, lab::cluster::Programs::built()?)?;
    cluster.import_busybox("bb")?;
    cluster.incus(1, &["launch", "bb", "c1", "-c", "boot.host_shutdown_timeout=0"])?;
    let state = || cluster.incus(1, &["list", "-f", "csv", "-c", "s"]);
    for mode in ["migrate", "live-migrate"] {
        for more in ["--force", "--dry-run"] {
            let said = cluster.refused(1, &["cluster", "evacuate", "server1", "--action", mode, more])?;
            let words = format!("Can't perform \"{mode}\" evacuation on a single node cluster");
            assert!(said.contains(&words), "{said}");
        }
    }
    let said = cluster.incus_in(1, &["cluster", "evacuate", "server1", "--dry-run", "--format", "csv"], "")?;
    assert_eq!((said.out.as_str(), said.err.as_str()), ("default,c1,stop,server1,\"its mode is \"\"stop\"\"\"\n", ""));
    for mode in ["auto", "stop", "force-stop"] {
        cluster.incus(1, &["cluster", "evacuate", "server1", "--force", "--action", mode])?;
        assert_eq!((cluster.member(1, 1, 's')?.as_str(), state()?.trim()), ("EVACUATED", "STOPPED"));
        cluster.incus(1, &["cluster", "restore", "server1", "--force"])?;
        assert_eq!((cluster.member(1, 1, 's')?.as_str(), state()?.trim()), ("ONLINE", "RUNNING"));
    }
    Ok(())
}
