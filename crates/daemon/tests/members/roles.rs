//! Who votes, and which roles people can give.

use std::time::Duration;

use lab::{Cluster, Result};

use super::{members, voters, voters_until};

pub fn are_given_and_refused(cluster: &Cluster) -> Result<()> {
    cluster.incus(2, &["cluster", "role", "add", "server3", "ovn-chassis,event-hub"])?;
    let roles = cluster.member(4, 3, 'r')?;
    assert!(roles.contains("ovn-chassis") && roles.contains("event-hub"), "{roles}");
    cluster.refused_with(1, &["cluster", "role", "add", "server3", "event-hub"], "already has role")?;
    cluster.incus(2, &["cluster", "role", "remove", "server3", "ovn-chassis,event-hub"])?;
    let roles = cluster.member(4, 3, 'r')?;
    assert!(!roles.contains("ovn-chassis") && !roles.contains("event-hub"), "{roles}");
    cluster.refused_with(1, &["cluster", "role", "add", "server3", "bogus"], "Invalid cluster role \"bogus\"")?;
    let voter = voters(cluster, 1)?[1];
    let learner = (1..=5).find(|n| !voters(cluster, 1).is_ok_and(|v| v.contains(n))).ok_or("all vote")?;
    let (voter, learner) = (format!("server{voter}"), format!("server{learner}"));
    for (args, why) in [
        (["add", &learner, "database"], "The \"database\" role cannot be added at this time"),
        (["add", &learner, "database-leader"], "The \"database-leader\" role cannot be added at this time"),
        (["remove", &voter, "database"], "The \"database\" role cannot be dropped at this time"),
    ] {
        cluster.refused_with(2, &[&["cluster", "role"], &args[..]].concat(), why)?;
    }
    Ok(())
}

pub fn follow_domains_shutdowns_and_failures(cluster: &mut Cluster) -> Result<()> {
    spread_over_domains(cluster)?;
    for leads in [false, true] {
        shut_down(cluster, leads)?;
    }
    fail(cluster)?;
    database_clients(cluster)?;
    never_even(cluster)?;
    for number in 1..=5 {
        cluster.incus(1, &["cluster", "set", &format!("server{number}"), "-p", "failure_domain="])?;
    }
    Ok(())
}

/// Whatever the leaders have made of the voters so far, their number was odd.
fn never_even(cluster: &Cluster) -> Result<()> {
    let mut changes = 0;
    for machine in &cluster.lab.machines {
        let log = std::fs::read_to_string(machine.dir.join("incusd.log"))?;
        for list in log.lines().filter_map(|l| l.split_once("database voters are to be ")).map(|(_, list)| list) {
            assert!(list.split(',').count() % 2 == 1, "{}: {list}", machine.name);
            changes += 1;
        }
    }
    assert!(changes > 10, "only {changes} changes were found");
    Ok(())
}

const DOMAINS: [&str; 5] = ["a", "a", "b", "b", "c"];

fn one_in_each(voters: &[usize]) -> bool {
    let domains: std::collections::BTreeSet<&str> = voters.iter().map(|n| DOMAINS[n - 1]).collect();
    voters.len() == 3 && domains.len() == 3
}

/// Votes go where the fewest are, as their number goes up and down.
fn spread_over_domains(cluster: &Cluster) -> Result<()> {
    for (n, domain) in DOMAINS.iter().enumerate() {
        cluster
            .incus(2, &["cluster", "set", &format!("server{}", n + 1), "-p", &format!("failure_domain={domain}")])?;
    }
    voters_until(cluster, 1, "a voter in each domain", one_in_each)?;
    cluster.incus(2, &["config", "set", "cluster.max_voters=5"])?;
    voters_until(cluster, 3, "five voters", |v| v.len() == 5)?;
    cluster.incus(2, &["config", "set", "cluster.max_voters=3"])?;
    voters_until(cluster, 4, "three voters, one in each domain", one_in_each)?;
    Ok(())
}

/// A member that is shut down has given its vote to another, in its own domain where there is one, when it ends.
fn shut_down(cluster: &mut Cluster, leads: bool) -> Result<()> {
    let leader = cluster.leader(1)?;
    let voters = voters_until(cluster, leader, "a voter in each domain", one_in_each)?;
    let leaving = *voters.iter().find(|n| (**n == leader) == leads).ok_or("no such voter")?;
    let other = leaving % 5 + 1;
    cluster.machine(leaving).end_daemon("TERM", Duration::from_secs(20))?;
    let now = voters_until(cluster, other, "three others that vote", |v| v.len() == 3 && !v.contains(&leaving))?;
    assert_ne!(cluster.member(other, leaving, 's')?, "OFFLINE", "its vote was given away before it was missed");
    if DOMAINS[leaving - 1] != "c" {
        assert!(one_in_each(&now), "{leaving} of {voters:?} has left, now {now:?}");
    }
    cluster.incus(other, &["profile", "create", "written"])?;
    cluster.incus(other, &["profile", "delete", "written"])?;
    cluster.start(leaving)?;
    cluster.until("it is back", || Ok((cluster.member(other, leaving, 's')? == "ONLINE").then_some(())))
}

/// The vote of a member that has failed goes to another when it counts as offline.
fn fail(cluster: &mut Cluster) -> Result<()> {
    let leader = cluster.leader(1)?;
    let voters = voters_until(cluster, leader, "a voter in each domain", one_in_each)?;
    let failed = *voters.iter().find(|n| **n != leader).ok_or("no other voter")?;
    cluster.kill(failed)?;
    voters_until(cluster, leader, "its vote given away", |v| v.len() == 3 && !v.contains(&failed))?;
    assert_eq!(cluster.member(leader, failed, 's')?, "OFFLINE");
    assert!(cluster.member(leader, failed, 'm')?.starts_with("No heartbeat for 1"));
    cluster.start(failed)?;
    cluster.until("it is back", || Ok((cluster.member(leader, failed, 's')? == "ONLINE").then_some(())))
}

/// A `database-client` gives its vote up, the leader too; they can't all be.
fn database_clients(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader(1)?;
    let all: Vec<String> = (1..=5).map(|n| format!("server{n}")).collect();
    cluster.incus(1, &["cluster", "role", "add", &all[leader - 1], "database-client"])?;
    voters_until(cluster, 1, "three other voters", |v| v.len() == 3 && !v.contains(&leader))?;
    assert_ne!(cluster.leader(1)?, leader, "it has handed over");
    let mut clients = vec![leader];
    while clients.len() < 4 {
        // The one vote that is left is not the one to go: for a moment there would have to be two.
        let leader = cluster.leader(1)?;
        let next = (1..=5).find(|n| !clients.contains(n) && *n != leader).ok_or("all are")?;
        cluster.incus(1, &["cluster", "role", "add", &all[next - 1], "database-client"])?;
        clients.push(next);
        let want = if clients.len() < 3 { 3 } else { 1 };
        voters_until(cluster, 1, "other voters", |v| v.len() == want && !v.iter().any(|n| clients.contains(n)))?;
    }
    let last = (1..=5).find(|n| !clients.contains(n)).ok_or("all are")?;
    cluster.refused_with(
        1,
        &["cluster", "role", "add", &all[last - 1], "database-client"],
        "Assigning the 'database-client' role to all nodes is not allowed",
    )?;
    for client in clients {
        cluster.incus(last, &["cluster", "role", "remove", &all[client - 1], "database-client"])?;
    }
    voters_until(cluster, 1, "three voters", |v| v.len() == 3)?;
    assert!(members(cluster, 1)?.iter().all(|m| m["status"] == "Online"));
    Ok(())
}
