//! Removing members from the cluster: cleanly those that hold nothing any more, by force those that will not come back.

use std::sync::Arc;

use api::endpoint::{encode, fill};
use api::{Error, Result};
use db::Change;
use db::members::Member;
use jiff::Timestamp;

use super::images::store::ensure_local;
use super::members::Shown;
use crate::edge::Cx;
use crate::plans::point;
use crate::state::Daemon;

/// Removes a member. One that is removed cleanly becomes a fresh server; one that is removed by force finds out when it
/// asks the others (`crate::removed`).
pub async fn remove(cx: Cx, (): ()) -> Result<()> {
    let daemon = &cx.daemon;
    daemon.must_be_clustered()?;
    let force = cx.flag("force");
    let shown = Shown::load(daemon).await?;
    let member = shown.find(cx.arg(0))?.clone();
    if shown.snapshot.members.len() == 1 {
        return Err(Error::bad_request("Cannot remove the last member of the cluster"));
    }
    if member.raft_id == Some(daemon.raft_id()) {
        return by_another(daemon, &shown, &member, force).await;
    }
    if !force {
        daemon.must_be_online(&member, &shown.snapshot)?;
        save_images(daemon, &shown, &member).await?;
        let id = member.id;
        daemon.view(move |tx| db::members::check_empty(tx, id)).await?;
    }
    make_dispensable(daemon, &shown, &member).await?;
    forget(daemon, &member, force).await?;
    point::pass(daemon, "remove:forgotten").await;
    if !force {
        let told = async { daemon.remote(&member.address)?.json("POST", "/internal/cluster/reset", None).await };
        if let Err(e) = told.await {
            tracing::warn!("the removed member {} could not be told, it will find out: {e}", member.name);
        }
    }
    daemon.tell("cluster-member-removed", format!("/1.0/cluster/members/{}", member.name), &cx.caller);
    Ok(())
}

fn online<'a>(daemon: &'a Daemon, shown: &'a Shown, leaving: &'a Member) -> impl Iterator<Item = &'a Member> {
    let others = shown.snapshot.members.iter().filter(|m| m.id != leaving.id && m.state != db::members::State::Pending);
    others.filter(|m| daemon.must_be_online(m, &shown.snapshot).is_ok())
}

/// A member can't see its own removal through: another one does it.
async fn by_another(daemon: &Arc<Daemon>, shown: &Shown, member: &Member, force: bool) -> Result<()> {
    let other = online(daemon, shown, member).next();
    let other = other.ok_or_else(|| Error::unavailable("No other member is online to do without this one"))?;
    let path = fill("/1.0/cluster/members/{name}", &[&member.name]) + if force { "?force=1" } else { "" };
    daemon.remote(&other.address)?.json("DELETE", &path, None).await.map(drop)
}

/// Gives images that only this member has to another one.
async fn save_images(daemon: &Arc<Daemon>, shown: &Shown, member: &Member) -> Result<()> {
    let id = member.id;
    let online: Vec<&Member> = online(daemon, shown, member).collect();
    let own = online.iter().any(|m| m.raft_id == Some(daemon.raft_id()));
    for (project, fingerprint) in daemon.view(move |tx| db::members::only_images(tx, id)).await? {
        let saved = match online.first() {
            Some(other) if !own => {
                let query = format!("project={}", encode(&project));
                let remote = daemon.remote(&other.address)?;
                remote.call(&api::image::INTERNAL_FETCH, &[&fingerprint], &query, &()).await
            }
            _ => ensure_local(daemon, &project, &fingerprint).await.map(drop),
        };
        // What could not be saved is named by the refusal that follows.
        if let Err(e) = saved {
            tracing::warn!("saving the image {fingerprint} of the member {}: {e}", member.name);
        }
    }
    Ok(())
}

/// The leader goes last: it hands over first. The only voter gives another member a vote first.
async fn make_dispensable(daemon: &Arc<Daemon>, shown: &Shown, leaving: &Member) -> Result<()> {
    let Some(id) = leaving.raft_id.filter(|id| shown.status.voters.contains(id)) else { return Ok(()) };
    let others: Vec<u64> = online(daemon, shown, leaving).filter_map(|m| m.raft_id).collect();
    let nobody = || Error::unavailable("No other member is online to take the database over");
    if shown.status.voters == [id] {
        let heir = *others.first().ok_or_else(nobody)?;
        daemon.db().change(Change::Voters(vec![id, heir])).await?;
        return daemon.db().hand_over(heir).await;
    }
    if shown.status.leader == Some(id) {
        let heir = others.iter().find(|o| shown.status.voters.contains(o)).ok_or_else(nobody)?;
        daemon.db().hand_over(*heir).await?;
    }
    Ok(())
}

/// Takes a member out of the database, so that it can't write any more, and then forgets it. Unless by force this is
/// refused if something has come to lie on it, and it stays a member.
pub async fn forget(daemon: &Arc<Daemon>, member: &Member, force: bool) -> Result<()> {
    let status = daemon.db().status();
    let takes_part = member.raft_id.filter(|id| status.voters.contains(id) || status.learners.contains(id));
    if let Some(id) = takes_part {
        daemon.db().change(Change::Remove(id)).await?;
        point::pass(daemon, "remove:taken-out").await;
    }
    let (id, name) = (member.id, member.name.clone());
    let forgotten = daemon
        .write(move |tx| {
            if !force {
                db::members::check_empty(tx, id)?;
            }
            db::members::retire_raft_id(tx, id)?;
            db::certificates::delete_server(tx, &name)?;
            db::members::delete(tx, id, Timestamp::now())
        })
        .await;
    match (&forgotten, takes_part) {
        // Where it is not known what became of it, the leader brings the two in line.
        (Err(e), Some(id)) if !e.retryable() => daemon.db().change(Change::AddLearner(id)).await?,
        _ => {}
    }
    forgotten?;
    if let Some(id) = member.raft_id {
        daemon.health().forget(id);
    }
    Ok(())
}
