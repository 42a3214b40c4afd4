//! What the members of a cluster are to each other: how events travel, who votes, what goes on while some are away, and
//! what is warned of. Real daemons on five machines; all cases share one cluster.
#![allow(clippy::unwrap_used)]

mod absence;
mod events;
mod groups;
mod keys;
mod roles;
mod warnings;

use lab::{Cluster, Result};

#[test]
fn five_members_share_events_votes_and_warnings() -> Result<()> {
    if lab::skip(&["nft"]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("members", 5)?;
    cluster.incus(1, &["config", "set", "cluster.offline_threshold=11"])?;
    keys::take_effect(&cluster)?;
    groups::are_made_changed_and_removed(&cluster)?;
    events::travel_through_hubs(&mut cluster)?;
    roles::are_given_and_refused(&cluster)?;
    roles::follow_domains_shutdowns_and_failures(&mut cluster)?;
    absence::hinders_nobody(&mut cluster)?;
    warnings::come_and_go(&mut cluster)
}

/// The members as machine `from` sees them, in the order of the machines.
fn members(cluster: &Cluster, from: usize) -> Result<Vec<serde_json::Value>> {
    let mut all: Vec<_> = cluster.get(from, "/1.0/cluster/members?recursion=1")?.as_array().unwrap().clone();
    all.sort_by_key(|m| m["server_name"].to_string());
    Ok(all)
}

/// The numbers of the machines that vote, as machine `from` sees them. While votes change hands it sees those that had
/// them and those that will.
fn voters(cluster: &Cluster, from: usize) -> Result<Vec<usize>> {
    let all = members(cluster, from)?;
    Ok((1..=all.len()).filter(|n| all[n - 1]["database"] == true).collect())
}

/// Waits until those that vote are as wanted; who they are.
fn voters_until(cluster: &Cluster, from: usize, what: &str, wanted: impl Fn(&[usize]) -> bool) -> Result<Vec<usize>> {
    cluster.until(what, || {
        let voters = voters(cluster, from)?;
        Ok(wanted(&voters).then_some(voters))
    })
}
