//! Members that are away, one first, then so many that there is no majority.

use std::time::Duration;

use lab::run::until;
use lab::{Cluster, Result};

use crate::{SOON, at_once, names, refused};

#[test]
fn members_that_are_away_and_no_majority() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("away", 3)?;
    cluster.import_busybox("busybox")?;
    cluster.incus(1, &["config", "set", "cluster.offline_threshold=11"])?;
    for n in 1..=3 {
        cluster.incus(1, &["launch", "busybox", &format!("c{n}"), "--target", &format!("server{n}")])?;
    }
    cluster.kill(3)?;
    one_is_away(&cluster)?;
    cluster.kill(2)?;
    no_majority(&mut cluster)?;
    a_member_that_loses_its_power(&mut cluster)
}

fn one_is_away(cluster: &Cluster) -> Result<()> {
    // Nobody has noticed yet: what needs it fails soon, and the rest goes on.
    cluster.until("its instances in error", || {
        let list = at_once(cluster, 1, &["list", "-f", "csv", "-c", "ns"])?;
        Ok((list.trim() == "c1,RUNNING\nc2,RUNNING\nc3,ERROR").then_some(()))
    })?;
    cluster
        .until("it counts as offline", || Ok((cluster.member(1, 3, 's')?.to_uppercase() == "OFFLINE").then_some(())))?;
    let offline = "Cluster member \"server3\" is offline";
    for from in [1, 2] {
        for args in [
            &["launch", "busybox", "x", "--target", "server3"][..],
            &["copy", "c2", "x", "--target", "server3"],
            &["move", "c2", "--target", "server3"],
            &["stop", "c3"],
            &["exec", "c3", "true"],
            &["config", "set", "c3", "user.a=b"],
        ] {
            refused(cluster, from, args, offline)?;
        }
        assert!(at_once(cluster, from, &["list", "-f", "csv", "-c", "ns"])?.contains("c3,ERROR"));
        assert!(at_once(cluster, from, &["config", "show", "c3"])?.contains("volatile.uuid"));
    }
    // Everything else works.
    cluster.incus(2, &["launch", "busybox", "c4"])?;
    cluster.incus(2, &["delete", "-f", "c4"]).map(drop)
}

/// Whoever waits for it through another member does not wait for ever: it can't hang up.
fn a_member_that_loses_its_power(cluster: &mut Cluster) -> Result<()> {
    cluster.until("it runs", || {
        let list = cluster.incus(1, &["list", "-f", "csv", "-c", "ns"])?;
        Ok(list.contains("c2,RUNNING").then_some(()))
    })?;
    let log = cluster.lab.dir.join("exec.log");
    let mut client = cluster.lab.machines[0].command(&cluster.programs.incus);
    client.args(["exec", "c2", "--", "sh", "-c", "echo here; sleep 1000"]).stdin(std::process::Stdio::null());
    let mut client = client.stdout(std::fs::File::create(&log)?).spawn()?;
    cluster.until("it is there", || Ok(std::fs::read_to_string(&log)?.contains("here").then_some(())))?;
    cluster.lab.machine(2).power_off();
    let ended = until(SOON + Duration::from_secs(10), || Ok(client.try_wait()?));
    let _ = client.kill();
    let _ = client.wait();
    assert!(!ended?.success());
    Ok(())
}

fn no_majority(cluster: &mut Cluster) -> Result<()> {
    for args in [
        &["list", "-f", "csv"][..],
        &["cluster", "list", "-f", "csv"],
        &["config", "show"],
        &["image", "list", "-f", "csv"],
        &["profile", "show", "default"],
        &["config", "show", "c1"],
        &["info", "c1"],
    ] {
        at_once(cluster, 1, args)?;
    }
    assert!(at_once(cluster, 1, &["list", "-f", "csv", "-c", "ns"])?.contains("c1,RUNNING"));
    let why = "majority of the voters";
    // The first who asks may wait until it is clear that the others are gone.
    cluster.refused(1, &["config", "set", "user.a=b"])?;
    refused(cluster, 1, &["config", "set", "user.a=b"], why)?;
    refused(cluster, 1, &["profile", "create", "x"], why)?;
    refused(cluster, 1, &["launch", "busybox", "x"], why)?;
    // A program can be run, and what runs can be stopped, but not be started.
    assert_eq!(at_once(cluster, 1, &["exec", "c1", "--", "echo", "here"])?.trim(), "here");
    at_once(cluster, 1, &["stop", "-f", "c1"])?;
    assert!(at_once(cluster, 1, &["list", "-f", "csv", "-c", "ns"])?.contains("c1,STOPPED"));
    refused(cluster, 1, &["start", "c1"], why)?;
    // With a majority again all works, and it is written down that the instance was stopped.
    cluster.start(2)?;
    let volumes = cluster.lab.machines[0].incus_dir().join("storage-pools/local/containers");
    cluster.until("no volume of what was not made", || Ok((names(&volumes) == ["c1"]).then_some(())))?;
    let power = || Ok(cluster.incus(1, &["config", "get", "c1", "volatile.last_state.power"])?.trim() == "STOPPED");
    until(Duration::from_secs(30), || power().map(|stopped| stopped.then_some(())))?;
    cluster.incus(1, &["start", "c1"])?;
    cluster.incus(1, &["config", "set", "user.a=b"]).map(drop)
}
