//! Warnings about the cluster are raised once, and resolved, by themselves.

use std::time::Duration;

use lab::{Cluster, Result};
use serde_json::Value;

use super::voters_until;

const OFFLINE: &str = "Offline cluster member";
const SKEW: &str = "Time skew detected between leader and local";
const MARGIN: &str = "No database voter to spare";
const CERTIFICATE: &str = "Cluster certificate near its end";

/// Warnings of this sort, of this member if one is named, that are not resolved.
fn open(cluster: &Cluster, from: usize, kind: &str, member: &str) -> Result<Vec<Value>> {
    let all = cluster.get(from, "/1.0/warnings?recursion=1")?;
    let matches = |w: &&Value| w["type"] == kind && w["location"] == member && w["status"] != "resolved";
    Ok(all.as_array().unwrap().iter().filter(matches).cloned().collect())
}

fn until_open(cluster: &Cluster, from: usize, kind: &str, member: &str) -> Result<Value> {
    cluster.until(&format!("{kind} {member}"), || Ok(open(cluster, from, kind, member)?.pop()))
}

fn until_none(cluster: &Cluster, from: usize, kind: &str, member: &str) -> Result<()> {
    cluster
        .until(&format!("no more {kind} {member}"), || Ok(open(cluster, from, kind, member)?.is_empty().then_some(())))
}

pub fn come_and_go(cluster: &mut Cluster) -> Result<()> {
    // What the cases before have left behind: a certificate that ends soon, and nobody who is away.
    let ends = until_open(cluster, 2, CERTIFICATE, "")?;
    assert!(ends["last_message"].as_str().unwrap().contains("incus cluster update-certificate"), "{ends}");
    for number in 1..=5 {
        until_none(cluster, 1, OFFLINE, &format!("server{number}"))?;
    }
    offline_and_margin(cluster)?;
    skew(cluster)
}

fn offline_and_margin(cluster: &mut Cluster) -> Result<()> {
    for number in [5, 4] {
        cluster.machine(number).end_daemon("TERM", Duration::from_secs(20))?;
    }
    voters_until(cluster, 1, "the others vote", |v| v == [1, 2, 3])?;
    let warning = until_open(cluster, 2, OFFLINE, "server5")?;
    assert_eq!(warning["entity_url"], "/1.0/cluster/members/server5");
    assert!(warning["last_message"].as_str().unwrap().starts_with("No heartbeat since 2"), "{warning}");
    assert!(open(cluster, 1, MARGIN, "")?.is_empty(), "three of three vote");
    let leader = cluster.leader(1)?;
    cluster.kill(leader)?;
    let (other, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let margin = until_open(cluster, other, MARGIN, "")?;
    assert_eq!(
        margin["last_message"],
        "2 of 3 database voters can be reached and 2 are needed: the cluster stops when one more fails"
    );
    until_open(cluster, third, OFFLINE, &format!("server{leader}"))?;
    // Another leader, and still the same warning, raised once.
    let again = open(cluster, third, OFFLINE, "server5")?;
    assert_eq!((again.len(), &again[0]["uuid"], &again[0]["count"]), (1, &warning["uuid"], &warning["count"]));
    // Where there is room for it, it is told; the list says what Incus says.
    let info = cluster.incus(other, &["cluster", "info", &format!("server{third}")])?;
    assert!(info.contains(MARGIN), "{info}");
    assert_eq!(cluster.member(other, third, 'm')?, "Fully operational");

    // Acknowledged, it is quiet, and goes when it is over.
    let uuid = again[0]["uuid"].as_str().unwrap();
    cluster.incus(other, &["warning", "acknowledge", uuid])?;
    for number in [4, 5, leader] {
        cluster.start(number)?;
    }
    for number in [4, 5, leader] {
        until_none(cluster, other, OFFLINE, &format!("server{number}"))?;
    }
    until_none(cluster, other, MARGIN, "")
}

fn skew(cluster: &mut Cluster) -> Result<()> {
    let leader = cluster.leader(1)?;
    let number = leader % 5 + 1;
    let name = format!("server{number}");
    cluster.kill(number)?;
    cluster.start_in(number, &[("INCUS_TEST_CLOCK_AHEAD", "-60000")])?;
    let warning = until_open(cluster, leader, SKEW, &name)?;
    let said = warning["last_message"].as_str().unwrap();
    assert!(said.starts_with(&format!("The clock of {name} is ")) && said.contains("s behind that of"), "{said}");
    let info = cluster.incus(leader, &["cluster", "info", &name])?;
    assert!(info.contains(SKEW), "{info}");
    cluster.kill(number)?;
    cluster.start(number)?;
    until_none(cluster, leader, SKEW, &name)
}
