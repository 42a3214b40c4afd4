//! Instances on real daemons: what they are made from, their life, their devices and limits, what a daemon that is
//! killed or a machine that goes down does to them. Each with our client and with Debian's.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use lab::cluster::Programs;
use lab::{Cluster, Lab, Result};
use serde_json::Value;

fn column(cluster: &Cluster, from: usize, name: &str, column: &str) -> Result<String> {
    Ok(cluster.incus(from, &["list", &format!("^{name}$"), "-f", "csv", "-c", column])?.trim().to_owned())
}

fn instance(cluster: &Cluster, from: usize, name: &str) -> Result<Value> {
    cluster.get(from, &format!("/1.0/instances/{name}"))
}

fn rootfs(cluster: &Cluster, number: usize, name: &str) -> PathBuf {
    cluster.lab.machines[number - 1].incus_dir().join("storage-pools/local/containers").join(name).join("rootfs")
}

#[test]
fn an_instance_lives_on_any_member_and_is_ruled_from_any_other() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    for (client, programs) in Programs::clients()? {
        println!("with the client that is {client}");
        let cluster = Cluster::form(Lab::temporary(&format!("inst-{client}"), 2)?, programs)?;
        cluster.import_busybox("busybox")?;
        life(&cluster)?;
        snapshots_and_copies(&cluster)?;
        devices_and_limits(&cluster)?;
        refusals(&cluster)?;
    }
    Ok(())
}

fn life(cluster: &Cluster) -> Result<()> {
    cluster.incus(1, &["launch", "busybox", "c1"])?;
    cluster.incus(1, &["launch", "busybox", "c2", "--target", "server2", "-c", "user.color=blue"])?;
    // The one that is placed goes where there are fewest.
    cluster.incus(2, &["init", "busybox", "c3", "--target", "server1"])?;
    cluster.incus(2, &["init", "busybox", "c4"])?;
    assert_eq!(column(cluster, 1, "c4", "L")?, "server2");
    for from in [1, 2] {
        assert_eq!(column(cluster, from, "c2", "ns")?, "c2,RUNNING");
        assert_eq!(column(cluster, from, "c3", "ns")?, "c3,STOPPED");
        assert_eq!(instance(cluster, from, "c2")?["config"]["user.color"], "blue");
    }
    cluster.incus(1, &["start", "c3"])?;
    let state = cluster.get(2, "/1.0/instances/c3/state")?;
    assert!(state["pid"].as_i64().unwrap() > 0 && state["processes"].as_i64().unwrap() > 0, "{state}");
    assert!(state["memory"]["usage"].as_i64().unwrap() > 0, "{state}");
    cluster.incus(2, &["pause", "c3"])?;
    assert_eq!(column(cluster, 2, "c3", "s")?, "FROZEN");
    cluster.incus(2, &["resume", "c3"])?;
    assert_eq!(column(cluster, 2, "c3", "s")?, "RUNNING");
    cluster.incus(2, &["restart", "c3"])?;
    assert_ne!(cluster.get(2, "/1.0/instances/c3/state")?["pid"], state["pid"], "it is another life");
    cluster.incus(2, &["stop", "c3"])?;
    assert_eq!(column(cluster, 1, "c3", "s")?, "STOPPED");
    cluster.incus(1, &["rename", "c3", "renamed"])?;
    assert!(rootfs(cluster, 1, "renamed").is_dir() && !rootfs(cluster, 1, "c3").exists());
    cluster.incus(2, &["start", "renamed"])?;
    cluster.incus(1, &["delete", "renamed", "--force"])?;
    assert!(!rootfs(cluster, 1, "renamed").exists());
    cluster.incus(1, &["delete", "c4"])?;
    cluster.incus(1, &["launch", "busybox", "brief", "--ephemeral"])?;
    cluster.incus(2, &["stop", "brief", "--force"])?;
    cluster.until("the ephemeral instance gone", || Ok(column(cluster, 1, "brief", "n")?.is_empty().then_some(())))
}

fn snapshots_and_copies(cluster: &Cluster) -> Result<()> {
    std::fs::write(rootfs(cluster, 1, "c1").join("data"), "one")?;
    cluster.incus(2, &["snapshot", "create", "c1", "s1"])?;
    std::fs::write(rootfs(cluster, 1, "c1").join("data"), "two")?;
    cluster.incus(2, &["snapshot", "create", "c1"])?;
    let names = cluster.get(1, "/1.0/instances/c1/snapshots")?;
    assert_eq!(names, serde_json::json!(["/1.0/instances/c1/snapshots/s1", "/1.0/instances/c1/snapshots/snap0"]));
    cluster.incus(1, &["snapshot", "rename", "c1", "snap0", "s2"])?;
    cluster.incus(2, &["config", "set", "c1", "user.then=later"])?;
    cluster.incus(2, &["snapshot", "restore", "c1", "s1"])?;
    assert_eq!(std::fs::read_to_string(rootfs(cluster, 1, "c1").join("data"))?, "one");
    assert_eq!(instance(cluster, 2, "c1")?["config"].get("user.then"), None);
    assert_eq!(column(cluster, 2, "c1", "s")?, "RUNNING", "it was running, and is again");
    // With its snapshots to the other member, and from a snapshot alone.
    cluster.incus(1, &["copy", "c1", "far", "--target", "server2"])?;
    assert_eq!(std::fs::read_to_string(rootfs(cluster, 2, "far").join("data"))?, "one");
    assert_eq!(cluster.get(1, "/1.0/instances/far/snapshots")?.as_array().unwrap().len(), 2);
    cluster.incus(2, &["copy", "c1/s2", "old"])?;
    assert_eq!(std::fs::read_to_string(rootfs(cluster, 1, "old").join("data"))?, "two");
    let uuid = |name| Ok::<_, lab::run::Error>(instance(cluster, 1, name)?["config"]["volatile.uuid"].clone());
    assert_ne!(uuid("c1")?, uuid("far")?);
    cluster.incus(1, &["start", "far"])?;
    for name in ["far", "old"] {
        cluster.incus(1, &["delete", name, "--force"])?;
    }
    cluster.incus(1, &["snapshot", "delete", "c1", "s1"])?;
    cluster.incus(1, &["snapshot", "delete", "c1", "s2"]).map(drop)
}

fn devices_and_limits(cluster: &Cluster) -> Result<()> {
    let shared = cluster.lab.machines[1].dir.join("shared");
    std::fs::create_dir_all(&shared)?;
    std::fs::write(shared.join("hello"), "from outside")?;
    let source = format!("source={}", shared.display());
    let pid = cluster.get(1, "/1.0/instances/c2/state")?["pid"].to_string();
    let inside = |path: &str| {
        let path = format!("/proc/{pid}/root/{path}");
        cluster.lab.machines[1].run("cat", &[&path], "")
    };
    cluster.incus(1, &["config", "device", "add", "c2", "shared", "disk", &source, "path=/mnt/shared"])?;
    assert_eq!(inside("mnt/shared/hello")?.ok()?, "from outside");
    cluster.incus(1, &["config", "device", "remove", "c2", "shared"])?;
    assert!(inside("mnt/shared/hello")?.refused().is_ok());
    // A link appears and goes while it runs.
    cluster.incus(1, &["config", "device", "add", "c2", "eth7", "nic", "nictype=p2p", "name=eth7"])?;
    let network = cluster.get(1, "/1.0/instances/c2/state")?["network"].clone();
    assert!(network["eth7"]["host_name"].as_str().unwrap().starts_with("veth"), "{network}");
    cluster.incus(2, &["restart", "c2", "--force"])?;
    let network = cluster.get(1, "/1.0/instances/c2/state")?["network"].clone();
    assert_eq!(network["eth7"]["type"], "broadcast", "it is there in the next life, too: {network}");
    cluster.incus(1, &["config", "device", "remove", "c2", "eth7"])?;
    let network = cluster.get(1, "/1.0/instances/c2/state")?["network"].clone();
    assert_eq!(network.get("eth7"), None);
    // Limits hold at once.
    cluster.incus(2, &["config", "set", "c1", "limits.memory=64MiB"])?;
    assert_eq!(cluster.get(2, "/1.0/instances/c1/state")?["memory"]["total"], 64 << 20);
    cluster.incus(2, &["config", "unset", "c1", "limits.memory"])?;
    // By a profile likewise, on whichever member it is changed.
    cluster.incus(1, &["profile", "create", "small"])?;
    cluster.incus(1, &["profile", "add", "c1", "small"])?;
    cluster.incus(2, &["profile", "set", "small", "limits.memory=32MiB"])?;
    assert_eq!(cluster.get(2, "/1.0/instances/c1/state")?["memory"]["total"], 32 << 20);
    assert!(cluster.refused(1, &["profile", "delete", "small"])?.contains("in use"));
    assert!(
        cluster.refused(1, &["profile", "device", "remove", "default", "root"])?.contains("relies on this profile")
    );
    assert!(cluster.refused(1, &["profile", "set", "small", "bogus=1"])?.contains("Unknown configuration key"));
    cluster.incus(1, &["profile", "remove", "c1", "small"])?;
    cluster.incus(1, &["profile", "delete", "small"]).map(drop)
}

fn refusals(cluster: &Cluster) -> Result<()> {
    for (args, why) in [
        (&["init", "nothere", "x"][..], "not found"),
        (&["init", "busybox", "c1"], "Instance \"c1\" already exists"),
        (&["init", "busybox", "a_b"], "Invalid instance name"),
        (&["init", "busybox", "x", "-c", "bogus=1"], "Unknown configuration key: bogus"),
        (&["init", "busybox", "x", "-c", "limits.memory=much"], "limits.memory"),
        (&["init", "busybox", "x", "--target", "nope"], "Cluster member \"nope\" not found"),
        (&["init", "busybox", "x", "-p", "nope"], "Profile"),
        (&["init", "busybox", "x", "--no-profiles"], "No root device could be found"),
        (&["start", "c1"], "already running"),
        (&["start", "nope"], "Instance not found"),
        (&["info", "nope"], "Instance not found"),
        (&["delete", "c1"], "currently running"),
        (&["rename", "c1", "x"], "Renaming of running instance not allowed"),
        (&["snapshot", "restore", "c1", "nope"], "not found"),
        (&["config", "device", "add", "c1", "x", "gpu"], "not available"),
        (&["config", "device", "add", "c1", "x", "disk", "source=/nope/nope", "path=/x"], "Missing source path"),
        (&["copy", "nope", "x"], "not found"),
    ] {
        let said = cluster.refused(2, args)?;
        assert!(said.contains(why), "{args:?}: {said}");
    }
    assert_eq!(cluster.incus(1, &["list", "-f", "csv", "-c", "n"])?.trim(), "c1\nc2", "nothing has come of it");
    cluster.incus(1, &["config", "set", "c1", "security.protection.delete=true"])?;
    assert!(cluster.refused(1, &["delete", "c1", "--force"])?.contains("protected"));
    cluster.incus(1, &["config", "unset", "c1", "security.protection.delete"])?;
    cluster.incus(1, &["start", "c1"]).map(drop).or(Ok(()))
}

#[test]
fn instances_outlive_the_daemon_and_come_back_with_the_machine() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("outlive", 1)?;
    cluster.import_busybox("busybox")?;
    for name in ["runs", "rests", "always"] {
        cluster.incus(1, &["launch", "busybox", name])?;
    }
    cluster.incus(1, &["config", "device", "add", "runs", "eth0", "nic", "nictype=p2p"])?;
    let pid = |cluster: &Cluster, name: &str| {
        Ok::<_, lab::run::Error>(cluster.get(1, &format!("/1.0/instances/{name}/state"))?["pid"].clone())
    };
    let before = pid(&cluster, "runs")?;
    // Killed or stopped, the daemon leaves them alone and takes them up again.
    cluster.kill(1)?;
    cluster.start(1)?;
    assert_eq!((pid(&cluster, "runs")?, column(&cluster, 1, "runs", "s")?), (before.clone(), "RUNNING".into()));
    cluster.machine(1).end_daemon("TERM", Duration::from_secs(10))?;
    // One ends while nobody looks.
    let rests = pid(&cluster, "rests");
    assert!(rests.is_err(), "there is no daemon to ask");
    cluster.start(1)?;
    assert_eq!(pid(&cluster, "runs")?, before);
    cluster.incus(1, &["stop", "rests", "always"])?;
    cluster.incus(1, &["config", "set", "always", "boot.autostart=true"])?;
    // A clean shutdown of the machine stops them, and they are back afterwards.
    cluster.machine(1).end_daemon("PWR", Duration::from_secs(60))?;
    cluster.start(1)?;
    cluster.until("the instances back", || {
        let all = cluster.incus(1, &["list", "-f", "csv", "-c", "ns"])?;
        Ok((all.trim() == "always,RUNNING\nrests,STOPPED\nruns,RUNNING").then_some(()))
    })?;
    assert_ne!(pid(&cluster, "runs")?, before);
    // The plug is pulled: likewise.
    cluster.lab.machine(1).power_off();
    cluster.lab.power_on(1)?;
    cluster.start(1)?;
    cluster.until("the instances back after a power cut", || {
        let all = cluster.incus(1, &["list", "-f", "csv", "-c", "ns"])?;
        Ok((all.trim() == "always,RUNNING\nrests,STOPPED\nruns,RUNNING").then_some(()))
    })?;
    // A reboot from inside is a new life.
    let before = pid(&cluster, "runs")?;
    cluster.lab.machines[0].must("kill", &["-s", "TERM", &before.to_string()])?;
    cluster.until("the instance rebooted", || {
        let now = pid(&cluster, "runs")?;
        Ok((now != before && now != 0).then_some(()))
    })?;
    let network = cluster.get(1, "/1.0/instances/runs/state")?["network"].clone();
    assert!(network.get("eth0").is_some(), "{network}");
    Ok(())
}
