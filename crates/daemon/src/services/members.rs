//! `/1.0/cluster/members`.

use std::sync::Arc;

use api::cluster::{
    ClusterMember, ClusterMemberPlan, ClusterMemberPost, ClusterMemberPut, ClusterMemberState, ClusterMemberStatePost,
    ClusterMemberSysInfo, ClusterMembersPost,
};
use api::key::Read as _;
use api::{Error, Result};
use db::members::{Member, Role, State};
use incus_core::plan::Mode;
use incus_core::roles;
use jiff::Timestamp;
use serde_json::Value;

use super::{Change, tokens};
use crate::edge::{Cx, Router};
use crate::operations::Operation;
use crate::plans;
use crate::state::{Daemon, Snapshot};
use crate::versions::Compared;

pub fn routes(r: &mut Router) {
    r.list(&api::cluster::MEMBERS, list);
    r.operation(&api::cluster::MEMBER_ADD, add);
    r.sync(&api::cluster::MEMBER, get);
    r.sync(&api::cluster::MEMBER_PUT, put);
    r.sync(&api::cluster::MEMBER_PATCH, patch);
    r.sync(&api::cluster::MEMBER_RENAME, rename);
    r.sync(&api::cluster::MEMBER_REMOVE, super::removal::remove);
    r.sync(&api::cluster::MEMBER_STATE, state);
    r.operation(&api::cluster::MEMBER_STATE_POST, change_state);
    r.sync(&api::cluster::MEMBER_STATE_PLAN, plan_state);
    r.sync(&api::cluster::CERTIFICATE, super::cluster_certificate::put);
}

/// The members as clients see them, from one moment of the database.
pub(super) struct Shown {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) status: db::Status,
    standbys: Vec<u64>,
    compared: Compared,
    now: Timestamp,
}

impl Shown {
    pub(super) async fn load(daemon: &Daemon) -> Result<Shown> {
        let snapshot = daemon.newest().await?;
        let status = daemon.db().status();
        let candidates: Vec<roles::Member> = snapshot
            .members
            .iter()
            .filter_map(|m| {
                let id = m.raft_id?;
                Some(roles::Member {
                    id,
                    voter: status.voters.contains(&id),
                    healthy: true,
                    in_maintenance: false,
                    client_only: m.roles.contains(&Role::DatabaseClient),
                    failure_domain: m.failure_domain.clone(),
                    matched: 0,
                })
            })
            .collect();
        let standbys = roles::standbys(&candidates, cluster::health::max_standby(&snapshot.config));
        let compared = Compared::new(daemon, &snapshot);
        Ok(Shown { snapshot, status, standbys, compared, now: Timestamp::now() })
    }

    pub(super) fn find(&self, name: &str) -> Result<&Member> {
        let found = self.snapshot.members.iter().find(|m| m.name == name && m.state != State::Pending);
        found.ok_or_else(|| Error::not_found("Cluster member not found"))
    }

    fn member(&self, daemon: &Daemon, m: &Member) -> ClusterMember {
        let health = daemon.health();
        let seen = health.seen(m, &self.snapshot.config, self.compared.standing(daemon, m), self.now);
        let last = health.last_heard(m).unwrap_or(Timestamp::UNIX_EPOCH);
        let last = last.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z").to_string();
        let id = m.raft_id.unwrap_or(0);
        let voter = self.status.voters.contains(&id);
        let mut message = seen.message(&last);
        if self.status.leader.is_none() && !seen.offline() {
            message.push_str("; the database has no majority: it can be read but not changed");
        }
        let mut roles: Vec<String> = m.roles.iter().map(ToString::to_string).collect();
        if self.status.leader == Some(id) {
            roles.push("database-leader".into());
        }
        if voter {
            roles.push("database".into());
        } else if self.standbys.contains(&id) {
            roles.push("database-standby".into());
        }
        ClusterMember {
            roles,
            failure_domain: m.failure_domain.clone(),
            description: m.description.clone(),
            config: m.config.clone(),
            groups: m.groups.clone(),
            server_name: m.name.clone(),
            url: format!("https://{}", m.address),
            database: voter,
            status: seen.status().as_str().into(),
            message,
            architecture: m.architecture.to_string(),
        }
    }
}

async fn list(cx: Cx, (): ()) -> Result<Vec<ClusterMember>> {
    if !cx.daemon.clustered() {
        return Err(Error::internal("Server is not clustered"));
    }
    all(&cx.daemon).await
}

async fn get(cx: Cx, (): ()) -> Result<ClusterMember> {
    cx.daemon.must_be_clustered()?;
    let shown = Shown::load(&cx.daemon).await?;
    let member = shown.member(&cx.daemon, shown.find(cx.arg(0))?);
    cx.show_etag(&changeable(&member));
    Ok(member)
}

/// What can be changed of a member, as it stands in the database now.
fn now(m: &Member, shown: &[String]) -> ClusterMemberPut {
    let automatic = shown.iter().filter(|r| AUTOMATIC.contains(&r.as_str())).cloned();
    ClusterMemberPut {
        roles: m.roles.iter().map(ToString::to_string).chain(automatic).collect(),
        failure_domain: m.failure_domain.clone(),
        description: m.description.clone(),
        config: m.config.clone(),
        groups: m.groups.clone(),
    }
}

fn changeable(m: &ClusterMember) -> ClusterMemberPut {
    ClusterMemberPut {
        roles: m.roles.clone(),
        failure_domain: m.failure_domain.clone(),
        description: m.description.clone(),
        config: m.config.clone(),
        groups: m.groups.clone(),
    }
}

async fn add(cx: Cx, new: ClusterMembersPost) -> Result<Arc<Operation>> {
    cx.daemon.must_be_clustered()?;
    let name = new.server_name;
    api::name::member(&name)?;
    let taken = |m: &Member| m.name == name && m.state != State::Pending;
    if cx.daemon.newest().await?.members.iter().any(taken) {
        return Err(Error::conflict(format!("The cluster already has a member with name: {name}")));
    }
    let expiry = cx.daemon.snapshot().config.read(&api::keys::server::JOIN_TOKEN_EXPIRY);
    let token = tokens::New { kind: db::tokens::Kind::Join, name, expiry, body: serde_json::Map::new() };
    let operation = tokens::give_out(&cx.daemon, token).await?;
    cx.daemon.tell("cluster-token-created", "/1.0/cluster/members".into(), &cx.caller);
    Ok(operation)
}

async fn put(cx: Cx, new: ClusterMemberPut) -> Result<()> {
    change(&cx, Change::Put(new)).await
}

async fn patch(cx: Cx, new: Value) -> Result<()> {
    change(&cx, Change::Patch(new)).await
}

const AUTOMATIC: [&str; 3] = ["database", "database-leader", "database-standby"];

/// The roles that a person assigns, among those wanted. The automatic ones must stay as they are.
fn assigned(old: &[String], new: &[String]) -> Result<Vec<Role>> {
    for role in AUTOMATIC {
        let (had, wanted) = (old.iter().any(|r| r == role), new.iter().any(|r| r == role));
        if wanted && !had {
            return Err(Error::bad_request(format!("The \"{role}\" role cannot be added at this time")));
        }
        if had && !wanted && role == "database" {
            return Err(Error::bad_request(format!("The \"{role}\" role cannot be dropped at this time")));
        }
    }
    let by_hand = new.iter().filter(|r| !AUTOMATIC.contains(&r.as_str()));
    by_hand.map(|r| Role::parse(r).map_err(|e| e.context("Update roles"))).collect()
}

async fn change(cx: &Cx, change: Change<ClusterMemberPut>) -> Result<()> {
    cx.daemon.must_be_clustered()?;
    let (name, request) = (cx.arg(0).to_owned(), cx.clone());
    // The roles that nobody assigns are not in the database.
    let shown = Shown::load(&cx.daemon).await?;
    let automatic = changeable(&shown.member(&cx.daemon, shown.find(&name)?)).roles;
    cx.daemon
        .write(move |tx| {
            let id = db::members::id(tx, &name)?;
            let old = now(&db::members::get(tx, id)?, &automatic);
            let new = change.of(&request, &old)?;
            api::keys::member::check(&new.config)?;
            let roles = assigned(&old.roles, &new.roles)?;
            if new.groups.is_empty() {
                return Err(Error::bad_request("Cluster members need to belong to at least one group"));
            }
            db::members::set_roles(tx, id, &roles)?;
            let members = db::members::list(tx)?;
            if members.iter().all(|m| m.roles.contains(&Role::DatabaseClient)) {
                return Err(Error::bad_request("Assigning the 'database-client' role to all nodes is not allowed"));
            }
            db::members::set_config(tx, id, &new.config)?;
            db::members::set_description(tx, id, &new.description)?;
            db::members::set_failure_domain(tx, id, &new.failure_domain)?;
            db::members::set_groups(tx, id, &new.groups)
        })
        .await?;
    cx.daemon.tell("cluster-member-updated", format!("/1.0/cluster/members/{}", cx.arg(0)), &cx.caller);
    Ok(())
}

async fn rename(cx: Cx, new: ClusterMemberPost) -> Result<()> {
    cx.daemon.must_be_clustered()?;
    let (old, name) = (cx.arg(0).to_owned(), new.server_name);
    api::name::member(&name)?;
    let (from, to) = (old.clone(), name.clone());
    cx.daemon
        .write(move |tx| {
            db::members::rename(tx, db::members::id(tx, &from)?, &to)?;
            db::certificates::rename_server(tx, &from, &to)
        })
        .await?;
    let event = crate::events::lifecycle(
        "cluster-member-renamed",
        format!("/1.0/cluster/members/{name}"),
        Some(cx.caller.requestor()),
    );
    cx.daemon.tell_in(&crate::events::with_context(event, [("old_name", old.into())]), "");
    Ok(())
}

async fn state(cx: Cx, (): ()) -> Result<ClusterMemberState> {
    cx.daemon.must_be_clustered()?;
    let name = cx.arg(0).to_owned();
    let warnings = crate::concerns::of_member(&cx.daemon, &name).await?;
    cx.daemon.view(move |tx| db::members::by_name(tx, &name)).await?;
    Ok(ClusterMemberState { warnings, ..own_state(&cx.daemon).await? })
}

/// How busy this member is.
pub async fn own_state(daemon: &Arc<Daemon>) -> Result<ClusterMemberState> {
    let storage_pools = super::pools::usage(daemon).await?;
    Ok(ClusterMemberState { sysinfo: sysinfo(), storage_pools, warnings: Vec::new() })
}

/// All members as clients see them.
pub async fn all(daemon: &Daemon) -> Result<Vec<ClusterMember>> {
    let shown = Shown::load(daemon).await?;
    let joined = shown.snapshot.members.iter().filter(|m| m.state != State::Pending);
    Ok(joined.map(|m| shown.member(daemon, m)).collect())
}

fn sysinfo() -> ClusterMemberSysInfo {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    // The kernel gives loads as fixed point numbers with 16 bits behind the point.
    let load = |n: u64| ((n as f64 / 65536.0) * 100.0).round() / 100.0;
    ClusterMemberSysInfo {
        uptime: info.uptime,
        load_averages: info.loads.iter().map(|n| load(*n)).collect(),
        total_ram: info.totalram * unit,
        free_ram: info.freeram * unit,
        shared_ram: info.sharedram * unit,
        buffered_ram: info.bufferram * unit,
        total_swap: info.totalswap * unit,
        free_swap: info.freeswap * unit,
        processes: info.procs.into(),
    }
}

async fn change_state(cx: Cx, body: ClusterMemberStatePost) -> Result<Arc<Operation>> {
    cx.daemon.must_be_clustered()?;
    let name = cx.arg(0).to_owned();
    let asked = name.clone();
    cx.daemon.view(move |tx| db::members::by_name(tx, &asked)).await?;
    let (requestor, change) = (Some(cx.caller.requestor()), Ask::parse(&body)?);
    match change {
        _ if name != cx.daemon.name() => change_state_of_absent(&cx, &name, change).await,
        Ask::Evacuate(mode) => plans::evacuate(&cx.daemon, requestor, mode, false).await,
        Ask::Restore { skip } => plans::restore(&cx.daemon, requestor, skip).await,
    }
}

async fn plan_state(cx: Cx, body: ClusterMemberStatePost) -> Result<ClusterMemberPlan> {
    cx.daemon.must_be_clustered()?;
    let name = cx.arg(0).to_owned();
    let asked = name.clone();
    cx.daemon.view(move |tx| db::members::by_name(tx, &asked)).await?;
    match Ask::parse(&body)? {
        Ask::Evacuate(mode) if name != cx.daemon.name() => plans::gone::evacuation(&cx.daemon, &name, mode).await,
        Ask::Restore { .. } if name != cx.daemon.name() => Err(offline(&name)),
        Ask::Evacuate(mode) => plans::evacuation(&cx.daemon, mode).await,
        Ask::Restore { skip } => plans::restoration(&cx.daemon, skip).await,
    }
}

/// What the state of a member is to become.
enum Ask {
    Evacuate(Option<Mode>),
    Restore { skip: bool },
}

impl Ask {
    fn parse(body: &ClusterMemberStatePost) -> Result<Ask> {
        match (body.action.as_str(), body.mode.as_str()) {
            ("evacuate", mode) => Ok(Ask::Evacuate(Mode::parse(mode)?)),
            ("restore", "" | "skip") => Ok(Ask::Restore { skip: body.mode == "skip" }),
            ("restore", other) => Err(Error::bad_request(format!("Invalid restore mode \"{other}\""))),
            (other, _) => Err(Error::bad_request(format!("Unknown action \"{other}\""))),
        }
    }
}

/// What goes without the member: its instances can be started elsewhere, but nothing can come back to it.
async fn change_state_of_absent(cx: &Cx, name: &str, change: Ask) -> Result<Arc<Operation>> {
    match change {
        Ask::Evacuate(mode) => plans::gone::evacuate(&cx.daemon, name, mode, Some(cx.caller.requestor())).await,
        Ask::Restore { .. } => Err(offline(name)),
    }
}

fn offline(name: &str) -> Error {
    Error::unavailable(format!("Cluster member \"{name}\" is offline"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_roles_of_people_can_be_changed() {
        let roles = |all: &[&str]| all.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>();
        for (old, new, want) in [
            (&["database"][..], &["database", "event-hub"][..], Ok(1)),
            (&["event-hub"], &[], Ok(0)),
            (&["database-leader", "database"], &["database"], Ok(0)),
            (&["database"], &["database", "bogus"], Err("Update roles: Invalid cluster role \"bogus\"")),
            (&[], &["database"], Err("The \"database\" role cannot be added at this time")),
            (&["database"], &[], Err("The \"database\" role cannot be dropped at this time")),
        ] {
            let got = assigned(&roles(old), &roles(new)).map(|r| r.len()).map_err(|e| e.message);
            assert_eq!(got, want.map_err(str::to_owned), "{old:?} {new:?}");
        }
    }
}
