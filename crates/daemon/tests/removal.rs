//! Members that are removed, cleanly and by force, with real daemons on machines of the lab.
#![allow(clippy::unwrap_used)]

use lab::cluster::{HOLD, Programs};
use lab::{Cluster, Lab, Result};

fn three(name: &str) -> Result<Cluster> {
    let cluster = Cluster::form_in(Lab::temporary(name, 3)?, Programs::built()?, HOLD)?;
    cluster.incus(1, &["config", "set", "cluster.offline_threshold=11", "cluster.images_minimal_replica=1"])?;
    Ok(cluster)
}

/// Names of the members as a machine sees them.
fn members(cluster: &Cluster, from: usize) -> Result<Vec<String>> {
    let list = cluster.incus(from, &["cluster", "list", "-f", "csv", "-c", "n"])?;
    Ok(list.lines().map(str::to_owned).collect())
}

fn count(cluster: &Cluster, sql: &str) -> Result<i64> {
    let answer = cluster.incus(1, &["admin", "sql", "global", &format!("SELECT COUNT(*) FROM {sql}"), "-f", "csv"])?;
    Ok(answer.lines().last().unwrap_or_default().trim().parse()?)
}

fn files(cluster: &Cluster, number: usize, dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.lab.machines[number - 1].incus_dir().join(dir));
    entries.into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// The machine's server is one of its own, with nothing on it, and keeps what it is told.
fn is_fresh(cluster: &Cluster, number: usize) -> Result<()> {
    cluster.until("the removed member on its own", || {
        let said = cluster.incus_in(number, &["cluster", "list"], "")?;
        Ok((said.code != 0 && said.err.contains("isn't part of a cluster")).then_some(()))
    })?;
    for list in
        [&["list"][..], &["storage", "list"], &["image", "list"], &["config", "trust", "list"], &["warning", "list"]]
    {
        let listed = cluster.incus(number, &[list, &["-f", "csv"]].concat())?;
        assert_eq!(listed.trim(), "", "{list:?}");
    }
    let networks = cluster.incus(number, &["network", "list", "-f", "csv"])?;
    assert!(!networks.contains("br0"), "{networks}");
    let links = cluster.lab.machines[number - 1].must("ip", &["-o", "link"])?;
    assert!(!links.contains("br0"), "{links}");
    for dir in ["images", "storage-pools"] {
        assert!(files(cluster, number, dir).is_empty(), "{dir}: {:?}", files(cluster, number, dir));
    }
    assert!(!cluster.lab.machines[number - 1].incus_dir().join("cluster.crt").exists());
    cluster.incus(number, &["profile", "create", "own"])?;
    cluster.incus(number, &["profile", "delete", "own"]).map(drop)
}

#[test]
fn an_empty_member_is_removed_and_is_a_fresh_server_again() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = three("removal")?;
    cluster.incus(1, &["network", "create", "br0", "ipv4.address=10.9.0.1/24", "ipv6.address=none"])?;
    // Its file is on the member that took it in, and nowhere else.
    let file = cluster.lab.machines[1].dir.join("busybox.tar.gz").to_string_lossy().into_owned();
    let incusd = cluster.programs.incusd.to_string_lossy().into_owned();
    cluster.lab.machines[1].must(&incusd, &["forkimage", "busybox", &file])?;
    cluster.incus(2, &["image", "import", &file, "--alias", "bb"])?;
    assert_eq!(files(&cluster, 1, "images").len() + files(&cluster, 3, "images").len(), 0);

    cluster.incus(1, &["init", "bb", "c1", "--target", "server2"])?;
    cluster.refused_with(1, &["cluster", "remove", "server2"], "Node still has the following instances: c1")?;
    cluster.incus(1, &["delete", "c1"])?;
    cluster.incus(1, &["storage", "volume", "create", "local", "v1", "--target", "server2"])?;
    cluster.refused_with(1, &["cluster", "remove", "server2"], "Node still has the following custom volumes: v1")?;
    cluster.incus(1, &["storage", "volume", "delete", "local", "v1", "--target", "server2"])?;
    cluster.refused_with(1, &["cluster", "remove", "server9"], "not found")?;
    assert_eq!(members(&cluster, 2)?, ["server1", "server2", "server3"]);

    interrupted(&mut cluster)?;
    let said = cluster.incus(3, &["cluster", "remove", "server2"])?;
    assert_eq!(said.trim(), "Member server2 removed");
    assert_eq!(members(&cluster, 1)?, ["server1", "server3"]);
    is_fresh(&cluster, 2)?;
    // The image was saved, as one that can still be used.
    cluster.incus(1, &["init", "bb", "c2", "--target", "server1"])?;
    cluster.incus(1, &["delete", "c2"])?;
    cluster.join(2)?;
    assert_eq!(cluster.member(3, 2, 's')?, "ONLINE");

    // One that is asked to remove itself does so too, be it the leader; the last one stays.
    let leader = cluster.leader(1)?;
    cluster.incus(leader, &["cluster", "remove", &format!("server{leader}")])?;
    is_fresh(&cluster, leader)?;
    let (other, last) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.until("a leader", || Ok(cluster.leader(other).ok()))?;
    cluster.incus(last, &["cluster", "remove", &format!("server{other}")])?;
    is_fresh(&cluster, other)?;
    cluster.refused_with(last, &["cluster", "remove", &format!("server{last}")], "Cannot remove the last member")
}

/// Whoever carries the removal out dies when the member is out of the database and not forgotten yet: it is taken in
/// again, and nothing has happened.
fn interrupted(cluster: &mut Cluster) -> Result<()> {
    cluster.hold(1, "remove:taken-out")?;
    let program = cluster.programs.incus.to_string_lossy().into_owned();
    let mut client = cluster.lab.machines[0].command(&program).args(["cluster", "remove", "server2"]).spawn()?;
    cluster.held(1)?;
    cluster.kill(1)?;
    client.wait()?;
    cluster.release(1);
    cluster.start_in(1, HOLD)?;
    cluster.until("it takes part again", || {
        Ok((cluster.incus_in(2, &["profile", "create", "again"], "")?.code == 0).then_some(()))
    })?;
    cluster.until("it votes again", || Ok(cluster.member(1, 2, 'r')?.contains("database").then_some(())))?;
    cluster.incus(1, &["profile", "delete", "again"]).map(drop)
}

#[test]
fn a_dead_member_is_removed_by_force_and_finds_out_when_it_is_back() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = three("force")?;
    cluster.import_busybox("bb")?;
    for name in ["lost", "kept"] {
        let target = if name == "lost" { "server3" } else { "server2" };
        cluster.incus(1, &["launch", "bb", name, "--target", target])?;
    }
    cluster.incus(1, &["snapshot", "create", "lost"])?;
    cluster.incus(1, &["storage", "volume", "create", "local", "v1", "--target", "server3"])?;
    cluster.incus(1, &["config", "set", "kept", "volatile.evacuate.origin=server3"])?;
    cluster.refused_with(1, &["admin", "cluster", "wipe", "-q"], "is a member of its cluster")?;

    cluster.lab.machine(3).power_off();
    cluster.until("it is offline", || Ok((cluster.member(1, 3, 's')? == "OFFLINE").then_some(())))?;
    cluster.refused_with(1, &["cluster", "remove", "server3"], "is offline")?;
    let said = cluster.incus_in(1, &["cluster", "remove", "server3", "--force"], "no\n")?.refused()?;
    assert!(said.contains("User aborted delete operation"), "{said}");
    cluster.incus(1, &["cluster", "remove", "server3", "--force", "--yes"])?;
    nothing_dangles(&cluster)?;

    cluster.lab.power_on(3)?;
    cluster.start_in(3, HOLD)?;
    found_out(&cluster)?;
    wiped_and_back(&mut cluster)?;

    // The same for one that was only cut off, and ran on.
    cluster.incus(1, &["launch", "bb", "lost", "--target", "server3"])?;
    assert!(containers_run(&cluster, 3)?);
    cluster.lab.cut(3)?;
    cluster.until("it is offline", || Ok((cluster.member(1, 3, 's')? == "OFFLINE").then_some(())))?;
    cluster.incus(1, &["cluster", "remove", "server3", "--force", "--yes"])?;
    nothing_dangles(&cluster)?;
    cluster.lab.mend(3)?;
    found_out(&cluster)?;
    wiped_and_back(&mut cluster)
}

/// The database speaks of nothing that was on the member that is gone.
fn nothing_dangles(cluster: &Cluster) -> Result<()> {
    assert_eq!(members(cluster, 2)?, ["server1", "server2"]);
    assert_eq!(cluster.incus(2, &["list", "-f", "csv", "-c", "n"])?.trim(), "kept");
    let volumes = cluster.incus(2, &["storage", "volume", "list", "local", "-f", "csv"])?;
    assert!(!volumes.contains("lost") && !volumes.contains("v1"), "{volumes}");
    for sql in [
        "instances WHERE name = 'lost'",
        "instances_snapshots",
        "storage_volumes WHERE node_id NOT IN (SELECT id FROM nodes)",
        "storage_pools_nodes WHERE node_id NOT IN (SELECT id FROM nodes)",
        "images_nodes WHERE node_id NOT IN (SELECT id FROM nodes)",
        "images WHERE id NOT IN (SELECT image_id FROM images_nodes)",
        "warnings WHERE node_id NOT IN (SELECT id FROM nodes)",
        "warnings WHERE entity_type_code = 5 AND entity_id NOT IN (SELECT id FROM instances)",
        "certificates WHERE name = 'server3'",
        "instances_config WHERE key = 'volatile.evacuate.origin'",
        "operations WHERE node_id NOT IN (SELECT id FROM nodes)",
    ] {
        assert_eq!(count(cluster, sql)?, 0, "{sql}");
    }
    Ok(())
}

/// True if there is a monitor of a container on the machine.
fn containers_run(cluster: &Cluster, number: usize) -> Result<bool> {
    let processes = cluster.lab.machines[number - 1].must("ps", &["ax", "-o", "args"])?;
    Ok(processes.contains("[lxc monitor]"))
}

/// It serves nothing, says why, and its instances have stopped.
fn found_out(cluster: &Cluster) -> Result<()> {
    let why = "was removed from its cluster and serves nothing. \"incusd cluster wipe\"";
    cluster.until("it has found out", || {
        let said = cluster.incus_in(3, &["list"], "")?;
        Ok((said.code != 0 && said.err.contains(why)).then_some(()))
    })?;
    for args in [&["cluster", "list"][..], &["launch", "bb", "c9"], &["admin", "sql", "global", "SELECT 1"]] {
        cluster.refused_with(3, args, why)?;
    }
    cluster.until("its instances have stopped", || Ok((!containers_run(cluster, 3)?).then_some(())))?;
    // Nobody was disturbed by it.
    cluster.incus(1, &["profile", "create", "quiet"])?;
    cluster.incus(2, &["profile", "delete", "quiet"]).map(drop)
}

fn wiped_and_back(cluster: &mut Cluster) -> Result<()> {
    let said = cluster.incus_in(3, &["admin", "cluster", "wipe"], "no\n")?.refused()?;
    assert!(said.contains("left as it was"), "{said}");
    cluster.incus_in(3, &["admin", "cluster", "wipe"], "yes\n")?.ok()?;
    is_fresh(cluster, 3)?;
    cluster.refused_with(3, &["admin", "cluster", "wipe", "-q"], "not clustered")?;
    cluster.join(3)?;
    assert_eq!(cluster.member(1, 3, 's')?, "ONLINE");
    cluster.incus(1, &["launch", "bb", "new", "--target", "server3"])?;
    cluster.incus(1, &["delete", "-f", "new"])?;
    // It comes up as a member after a restart, too.
    cluster.kill(3)?;
    cluster.start_in(3, HOLD)?;
    cluster.until("it is online", || Ok((cluster.member(3, 3, 's')? == "ONLINE").then_some(())))
}
