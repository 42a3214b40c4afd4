//! Snapshots that nobody asks for: each minute, and when an instance starts; on the member that has what they are of.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use lab::run::until;
use lab::{Cluster, Result};
use serde_json::Value;

/// Every minute comes within that.
const MINUTE: Duration = Duration::from_secs(90);

/// The snapshots of an instance or a volume.
fn snapshots(cluster: &Cluster, of: &str) -> Result<Vec<Value>> {
    let all = cluster.get(2, &format!("/1.0/{of}/snapshots?recursion=1"))?;
    Ok(all.as_array().unwrap().clone())
}

fn names(snapshots: &[Value]) -> Vec<&str> {
    snapshots.iter().map(|s| s["name"].as_str().unwrap().rsplit('/').next().unwrap()).collect()
}

fn wait_for(cluster: &Cluster, of: &str, name: &str) -> Result<Vec<Value>> {
    let there = || {
        let all = snapshots(cluster, of)?;
        Ok(names(&all).contains(&name).then_some(all))
    };
    until(MINUTE, there).map_err(|e| format!("{of}/{name}: {e}\n{}", cluster.lab.logs()).into())
}

#[test]
fn snapshots_are_taken_by_themselves() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("schedule", 2)?;
    cluster.import_busybox("busybox")?;
    for (args, why) in [
        (&["profile", "set", "default", "snapshots.schedule=@often"][..], "Unknown schedule \"@often\""),
        (
            &["init", "busybox", "bad", "-c", "snapshots.schedule=5 * * *"],
            "Schedule must be of the form: <minute> <hour>",
        ),
        (&["init", "busybox", "bad", "-c", "snapshots.schedule=61 * * * *"], "Error parsing schedule: "),
        (&["init", "busybox", "bad", "-c", "snapshots.schedule.stopped=perhaps"], "perhaps"),
        (&["storage", "volume", "create", "local", "bad", "snapshots.schedule=@startup"], "not for volumes"),
    ] {
        cluster.refused_with(1, args, why)?;
    }

    cluster.incus(1, &["profile", "create", "often"])?;
    for set in ["snapshots.schedule=* * * * *", "snapshots.pattern=auto-%d", "snapshots.expiry=1H"] {
        cluster.incus(1, &["profile", "set", "often", set])?;
    }
    let often = ["-p", "default", "-p", "often"];
    let make = |how, name, more: &[&str]| cluster.incus(2, &[&[how, "busybox", name][..], &often, more].concat());
    make("launch", "runs", &["--target", "server1", "-c", "snapshots.expiry.manual=5d"])?;
    make("launch", "other", &["--target", "server2", "-c", "snapshots.schedule=@never"])?;
    make("init", "rests", &["--target", "server1"])?;
    make("init", "rests-too", &["--target", "server2", "-c", "snapshots.schedule.stopped=true"])?;
    cluster.incus(1, &["storage", "volume", "create", "local", "v", "--target", "server2"])?;
    cluster
        .incus(1, &["storage", "volume", "set", "local", "v", "snapshots.schedule=* * * * *", "--target", "server2"])?;

    // Whenever it starts, and before it does.
    cluster.incus(1, &["init", "busybox", "starts", "-c", "snapshots.schedule=@startup", "--target", "server1"])?;
    assert_eq!(snapshots(&cluster, "instances/starts")?.len(), 0);
    cluster.incus(2, &["start", "starts"])?;
    assert_eq!(names(&snapshots(&cluster, "instances/starts")?), ["snap0"]);
    cluster.incus(2, &["restart", "starts", "--force"])?;
    assert_eq!(names(&snapshots(&cluster, "instances/starts")?), ["snap0", "snap1"]);

    let of_it = wait_for(&cluster, "instances/runs", "auto-0")?;
    let (made, expires) = (&of_it[0]["created_at"], &of_it[0]["expires_at"]);
    let [made, expires] = [made, expires].map(|at| at.as_str().unwrap().parse::<Timestamp>().unwrap());
    let kept = expires.duration_since(made).as_secs();
    assert!((3595..3605).contains(&kept), "what the schedule takes goes after an hour: {of_it:?}");
    wait_for(&cluster, "instances/rests-too", "auto-0")?;
    wait_for(&cluster, "storage-pools/local/volumes/custom/v", "snap0")?;

    // A daemon that was killed takes the next ones, and none twice.
    cluster.kill(1)?;
    cluster.start(1)?;
    let last = wait_for(&cluster, "instances/runs", "auto-1")?;
    let minutes: BTreeSet<&str> = last.iter().map(|s| &s["created_at"].as_str().unwrap()[..16]).collect();
    assert_eq!(minutes.len(), last.len(), "one a minute: {last:?}");
    for (of, most) in [("other", 0), ("rests", 0), ("starts", 2)] {
        assert_eq!(snapshots(&cluster, &format!("instances/{of}"))?.len(), most, "{of}");
    }
    Ok(())
}
