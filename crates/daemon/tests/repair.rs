//! `incusd cluster`: repairing a cluster from the files of its members, with real daemons on machines of the lab.
#![allow(clippy::unwrap_used)]

use lab::cluster::{HOLD, PATIENCE, Programs};
use lab::{Cluster, Lab, Result};

/// `incus admin cluster` on a machine; what it printed.
fn repair(cluster: &Cluster, number: usize, args: &[&str], stdin: &str) -> Result<lab::Output> {
    cluster.incus_in(number, &[&["admin", "cluster"], args].concat(), stdin)
}

fn refused(cluster: &Cluster, number: usize, args: &[&str], stdin: &str, why: &str) -> Result<()> {
    let said = repair(cluster, number, args, stdin)?.refused()?;
    assert!(said.contains(why), "{args:?}: {said}");
    Ok(())
}

/// The recovery is killed when all is settled and nothing is changed yet.
fn killed_in_the_middle(cluster: &Cluster) -> Result<()> {
    cluster.hold(1, "recover:settled")?;
    let mut command = cluster.lab.machines[0].command(&cluster.programs.incusd);
    command.args(["cluster", "recover-from-quorum-loss", "-q"]).envs(HOLD.iter().copied());
    let mut child = command.spawn()?;
    cluster.held(1)?;
    lab::must("kill", &["-KILL", &lab::run::only_child(child.id())?.to_string()])?;
    child.wait()?;
    cluster.release(1);
    Ok(())
}

#[test]
fn a_lost_majority_is_given_up_and_the_rest_goes_on() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let mut cluster = Cluster::daemons(Lab::temporary("quorum", 4)?, Programs::built()?)?;
    refused(&cluster, 1, &["show"], "", "not clustered")?;
    cluster.bootstrap()?;
    cluster.join(2)?;
    cluster.join(3)?;
    cluster.vote(1, &[1, 2, 3])?;
    cluster.incus(2, &["profile", "create", "p1"])?;
    cluster.incus(1, &["profile", "show", "p1"])?;
    cluster.incus(1, &["storage", "volume", "create", "local", "v1", "--target", "server2"])?;
    for command in ["show", "edit", "recover-from-quorum-loss"] {
        refused(&cluster, 1, &[command], "members: []\n", "The daemon is running")?;
    }

    for number in [2, 3, 1] {
        cluster.kill(number)?;
    }
    // The daemon's own program knows the same commands under both names.
    let incusd = cluster.programs.incusd.to_string_lossy().into_owned();
    let shown = repair(&cluster, 1, &["show"], "")?.ok()?;
    for words in [&["cluster", "show"][..], &["admin", "cluster", "show"]] {
        assert_eq!(cluster.lab.machines[0].must(&incusd, words)?, shown);
    }
    assert!(shown.starts_with("# Latest segment ID: "), "{shown}");
    assert_eq!(shown.matches("role: voter").count(), 3, "{shown}");
    assert!(shown.contains("  - id: 2\n    name: server2\n    address: 10.77.0.2:8443\n"), "{shown}");
    let listed = repair(&cluster, 1, &["list-database"], "")?.ok()?;
    assert!((1..=3).all(|n| listed.contains(&format!("│ 10.77.0.{n}:8443 │"))), "{listed}");

    // Not without a typed yes.
    for answer in ["", "no\n", "y\n"] {
        refused(&cluster, 1, &["recover-from-quorum-loss"], answer, "Recover operation aborted")?;
    }
    assert_eq!(repair(&cluster, 1, &["show"], "")?.ok()?, shown, "nothing has changed");

    killed_in_the_middle(&cluster)?;
    assert!(repair(&cluster, 1, &["show"], "")?.ok()?.contains("server3"), "it is as it was");
    repair(&cluster, 1, &["recover-from-quorum-loss"], "yes\n")?.ok()?;
    cluster.start(1)?;
    cluster.incus(1, &["profile", "create", "p2"])?;
    assert!(cluster.incus(1, &["profile", "list", "-f", "csv"])?.contains("p1"), "nothing was forgotten");
    cluster.kill(1)?;
    refused(&cluster, 1, &["recover-from-quorum-loss", "-q"], "", "nothing to recover")?;
    refused(&cluster, 1, &["rejoin", "-q"], "", "holds the database alone")?;
    cluster.start(1)?;

    // What is left of the old database does not disturb the new one.
    let machine = cluster.lab.machine(2);
    machine.start_daemon(&cluster.programs.incusd, &[])?;
    machine.wait_ready(PATIENCE)?;
    cluster.incus(1, &["profile", "create", "p3"])?;
    assert!(!cluster.incus(2, &["profile", "list", "-f", "csv"])?.contains("p3"));
    refused(&cluster, 2, &["rejoin", "-q"], "", "The daemon is running")?;
    cluster.kill(2)?;

    // It comes back, with what is on it, when it takes the new one.
    refused(&cluster, 2, &["rejoin"], "no\n", "left as it was")?;
    repair(&cluster, 2, &["rejoin"], "yes\n")?.ok()?;
    refused(&cluster, 2, &["show"], "", "There is no database")?;
    cluster.start(2)?;
    cluster.until("it is online", || Ok((cluster.member(1, 2, 's')? == "ONLINE").then_some(())))?;
    assert!(cluster.incus(2, &["profile", "list", "-f", "csv"])?.contains("p3"));
    assert!(cluster.lab.machines[1].dir.join("incus/storage-pools/local/custom/default_v1").exists());
    cluster.incus(2, &["storage", "volume", "set", "local", "v1", "user.x=1", "--target", "server2"])?;
    assert!(!cluster.lab.machines[1].incus_dir().join("database/global.given-up").exists());
    cluster.kill(2)?;
    cluster.start(2)?;

    // The dead one is removed, and another takes its place.
    cluster.incus(1, &["cluster", "remove", "server3", "--force", "--yes"])?;
    assert_eq!(cluster.incus(1, &["cluster", "list", "-f", "csv", "-c", "n"])?.trim(), "server1\nserver2");
    cluster.join(4)?;
    assert_eq!(cluster.member(4, 4, 's')?, "ONLINE");
    cluster.vote(1, &[1, 2, 4])?;
    assert!(cluster.incus(4, &["profile", "list", "-f", "csv"])?.contains("p3"));
    Ok(())
}

#[test]
fn all_addresses_change_while_the_daemons_are_down() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("addresses", 3)?;
    cluster.incus(3, &["profile", "create", "p1"])?;
    for number in 1..=3 {
        cluster.kill(number)?;
        let machine = &cluster.lab.machines[number - 1];
        machine.must("ip", &["addr", "del", &format!("{}/24", machine.address()), "dev", "eth0"])?;
        machine.must("ip", &["addr", "add", &format!("10.77.0.10{number}/24"), "dev", "eth0"])?;
    }
    let shown = repair(&cluster, 1, &["show"], "")?.ok()?;
    let edited = shown.replace("10.77.0.", "10.77.0.10");
    for (text, why) in [
        ("members: [", "Error: "),
        ("members: []", "Members can't be added or removed"),
        (&edited.replace("role: voter", "role: spare"), "At least one member must be a \"voter\""),
        (&edited.replacen("role: voter", "role: spare", 2), "Number of \"voter\" must be 2 or more"),
        (&edited.replacen("role: voter", "role: spare", 1), "can't be changed while the daemons are down"),
        (&edited.replace("10.77.0.102", "10.77.0.101"), "Two members have the address"),
        (&edited.replace("10.77.0.102:8443", "\"[::]:8443\""), "needs a host and a port"),
    ] {
        refused(&cluster, 1, &["edit"], text, why)?;
    }
    assert_eq!(repair(&cluster, 1, &["show"], "")?.ok()?, shown, "what is refused changes nothing");

    // Once wrongly, then rightly: the last edit counts.
    repair(&cluster, 1, &["edit"], &shown.replace("10.77.0.", "10.99.0."))?.ok()?;
    for number in 1..=3 {
        let text = repair(&cluster, number, &["show"], "")?.ok()?;
        let text = text.replace("10.99.0.", "10.77.0.").replace("10.77.0.", "10.77.0.10");
        repair(&cluster, number, &["edit"], &text)?.ok()?;
    }
    for number in 1..=3 {
        let machine = cluster.lab.machine(number);
        machine.start_daemon(&cluster.programs.incusd, &[])?;
    }
    for machine in &mut cluster.lab.machines {
        machine.wait_ready(PATIENCE)?;
    }
    for from in 1..=3 {
        for number in 1..=3 {
            cluster.until("all are online at their new addresses", || {
                let url = format!("https://10.77.0.10{number}:8443");
                Ok((cluster.member(from, number, 's')? == "ONLINE" && cluster.member(from, number, 'u')? == url)
                    .then_some(()))
            })?;
        }
        assert_eq!(
            cluster.incus(from, &["config", "get", "cluster.https_address"])?.trim(),
            format!("10.77.0.10{from}:8443")
        );
    }
    cluster.incus(2, &["profile", "create", "p2"])?;
    let profiles = cluster.incus(3, &["profile", "list", "-f", "csv"])?;
    assert!(profiles.contains("p1") && profiles.contains("p2"), "{profiles}");
    // It stays so after another start.
    cluster.kill(2)?;
    cluster.start(2)?;
    assert_eq!(cluster.member(2, 3, 'u')?, "https://10.77.0.103:8443");
    cluster.vote(1, &[1, 2, 3])?;
    given_up_without_need(&mut cluster)?;
    ghost(&mut cluster)
}

/// A voter that has forgotten what it acknowledged gets no say in the same database again; put back, it goes on.
fn given_up_without_need(cluster: &mut Cluster) -> Result<()> {
    cluster.kill(2)?;
    repair(cluster, 2, &["rejoin", "-q"], "")?.ok()?;
    let incusd = cluster.programs.incusd.clone();
    cluster.lab.machine(2).start_daemon(&incusd, &[])?;
    let waiting = "waiting for the cluster's database";
    cluster.until("it waits", || Ok(cluster.lab.machines[1].log_tail(40).contains(waiting).then_some(())))?;
    for name in ["w1", "w2", "w3"] {
        cluster.incus(1, &["profile", "create", name])?;
    }
    cluster.kill(2)?;
    assert!(cluster.lab.machines[1].log_tail(40).split(waiting).last().is_some_and(|l| !l.contains("serving")));
    let dir = cluster.lab.machines[1].incus_dir().join("database");
    std::fs::remove_dir_all(dir.join("global"))?;
    std::fs::rename(dir.join("global.given-up"), dir.join("global"))?;
    cluster.start(2)?;
    cluster.until("it is online", || Ok((cluster.member(1, 2, 's')? == "ONLINE").then_some(())))?;
    assert!(cluster.incus(2, &["profile", "list", "-f", "csv"])?.contains("w3"));
    cluster.vote(1, &[1, 2, 3])
}

/// A member of the database that is no member of the cluster is taken out.
fn ghost(cluster: &mut Cluster) -> Result<()> {
    refused(cluster, 1, &["remove-raft-node", "10.77.0.103:8443", "-q"], "", "incus cluster remove server3")?;
    refused(cluster, 1, &["remove-raft-node", "10.77.0.3:8443", "-q"], "", "No member of the database is known")?;
    refused(cluster, 1, &["remove-raft-node", "10.77.0.103:8443"], "no\n", "left as it was")?;
    cluster.kill(3)?;
    refused(cluster, 3, &["remove-raft-node", "10.77.0.103:8443", "-q"], "", "The daemon does not run")?;
    cluster.incus(1, &["admin", "sql", "global", "DELETE FROM nodes WHERE name = 'server3'"])?;
    let nodes = || cluster.incus(1, &["admin", "sql", "local", "SELECT address FROM raft_nodes", "-f", "csv"]);
    assert!(nodes()?.contains("10.77.0.103:8443"));
    let removed = repair(cluster, 1, &["remove-raft-node", "10.77.0.103:8443"], "yes\n")?.ok();
    removed.map_err(|e| format!("{e}\n{}", cluster.lab.logs()))?;
    cluster.incus(1, &["profile", "create", "p3"])?;
    cluster.until("the ghost gone", || Ok((!nodes()?.contains("10.77.0.103:8443")).then_some(())))
}

#[test]
fn a_member_without_a_vote_can_go_on_alone_too() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("pair", 2)?;
    cluster.incus(1, &["profile", "create", "p1"])?;
    cluster.incus(2, &["profile", "show", "p1"])?;
    assert!(!cluster.member(1, 2, 'r')?.split(',').any(|r| r == "database"), "of two members one votes");
    cluster.kill(1)?;
    cluster.kill(2)?;
    in_an_editor(&cluster)?;
    repair(&cluster, 2, &["recover-from-quorum-loss", "-q"], "")?.ok()?;
    cluster.start(2)?;
    cluster.incus(2, &["profile", "create", "p2"])?;
    assert!(cluster.incus(2, &["profile", "list", "-f", "csv"])?.contains("p1"));

    // The one that voted comes back to it.
    repair(&cluster, 1, &["rejoin", "-q"], "")?.ok()?;
    cluster.start(1)?;
    cluster.until("both are online", || Ok((cluster.member(2, 1, 's')? == "ONLINE").then_some(())))?;
    assert!(cluster.incus(1, &["profile", "list", "-f", "csv"])?.contains("p2"));
    cluster.incus(1, &["profile", "create", "p3"]).map(drop)
}

/// At a terminal the editor is opened; here it is one that needs nobody.
fn in_an_editor(cluster: &Cluster) -> Result<()> {
    if !std::path::Path::new("/usr/bin/script").exists() {
        eprintln!("SKIPPED: there is no program script, which makes terminals");
        return Ok(());
    }
    let incusd = cluster.programs.incusd.to_string_lossy().into_owned();
    let edit = |change: &str| -> Result<()> {
        let mut command = cluster.lab.machines[1].command("/usr/bin/script");
        command
            .args(["-qec", &format!("{incusd} cluster edit"), "/dev/null"])
            .env("EDITOR", format!("sed -i {change}"));
        lab::run::run(&mut command, b"")?.ok().map(drop)
    };
    edit("s/10.77.0.2:8443/10.77.0.2:8444/")?;
    assert!(repair(cluster, 2, &["show"], "")?.ok()?.contains("10.77.0.2:8444"));
    edit("s/10.77.0.2:8444/10.77.0.2:8443/")?;
    assert!(repair(cluster, 2, &["show"], "")?.ok()?.contains("10.77.0.2:8443"));
    Ok(())
}
