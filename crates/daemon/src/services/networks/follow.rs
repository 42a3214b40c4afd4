//! Each member makes its own place of each network, as the database says, whoever changed that and whenever.

use std::sync::Arc;
use std::time::Duration;

use api::cluster::MemberConfigKey;
use api::key::Config;
use api::{Error, Kind, Result};
use db::Tx;
use db::members::Member;
use db::networks::Network;
use db::value::Progress;
use db::warnings::{Entity, Subject};
use drivers::network::{Definition, Networks};
use jiff::Timestamp;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};
use tokio::time::{Instant, MissedTickBehavior};

use super::made::{Made, Wanted};
use crate::blocking;
use crate::paths::Paths;
use crate::state::Daemon;

/// When what could not be made or taken down is tried again: a link may have come or gone meanwhile.
const AGAIN: Duration = Duration::from_secs(10);

/// This member's places of the networks.
pub struct Places {
    /// What was made.
    pub made: Arc<Made>,
    /// One change of this member's networks at a time, from the row to the link.
    busy: Arc<Mutex<()>>,
    /// Tells that the database has changed.
    due: Notify,
}

impl Places {
    /// As the last daemon left them.
    pub fn open(networks: Arc<Networks>, paths: &Paths) -> Places {
        let made = Arc::new(Made::open(networks, paths.networks_made()));
        Places { made, busy: Arc::default(), due: Notify::new() }
    }

    /// Nobody else changes networks on this member until this is dropped.
    pub async fn alone(&self) -> OwnedMutexGuard<()> {
        self.busy.clone().lock_owned().await
    }

    /// The database has changed.
    pub fn look(&self) {
        self.due.notify_one();
    }
}

/// The network as it is on a member.
pub fn definition(network: &Network, member: i64) -> Definition {
    Definition { name: network.name.clone(), kind: network.kind.as_str().to_owned(), config: network.config_on(member) }
}

/// What this member is to have, and how far it is with it.
struct Task {
    own: i64,
    networks: Vec<Network>,
}

impl Task {
    /// Nothing if the database does not know this member: it joins or leaves a cluster.
    fn read(tx: &Tx<'_>, raft_id: u64) -> Result<Option<Task>> {
        let own = match db::members::by_raft_id(tx, raft_id) {
            Err(e) if e.kind == Kind::NotFound => return Ok(None),
            own => own?.id,
        };
        let mut networks = db::networks::list(tx, None)?;
        networks.retain(|n| n.state == Progress::Created && n.state_on(own).is_some());
        Ok(Some(Task { own, networks }))
    }

    fn wanted(&self) -> Vec<Wanted> {
        self.networks.iter().map(|n| Wanted { id: n.id, def: definition(n, self.own) }).collect()
    }
}

/// What became of a network on this member, where that is not what its row says.
#[derive(Clone)]
struct News {
    id: i64,
    name: String,
    project: String,
    refused: Option<Error>,
}

/// Brings this member in line; the caller is alone. What the rows do not tell yet is in the answer.
async fn bring(daemon: &Arc<Daemon>, again: bool) -> Result<(i64, Vec<News>)> {
    let raft_id = daemon.raft_id();
    let Some(task) = daemon.db().peek(move |tx| Task::read(tx, raft_id)).await? else { return Ok((0, Vec::new())) };
    let (made, wanted) = (daemon.places.made.clone(), task.wanted());
    let done = blocking::run(move || Ok(made.bring(&wanted, again))).await?;
    let mut news = Vec::new();
    for (network, (_, done)) in task.networks.iter().zip(done) {
        let now = if done.is_ok() { Progress::Created } else { Progress::Errored };
        if network.state_on(task.own) != Some(now) {
            let (name, project) = (network.name.clone(), network.project.clone());
            news.push(News { id: network.id, name, project, refused: done.err() });
        }
    }
    Ok((task.own, news))
}

/// Writes down what became of networks on this member, and warns of those that could not be made.
async fn record(daemon: &Arc<Daemon>, own: i64, news: Vec<News>) -> Result<()> {
    for n in &news {
        match &n.refused {
            Some(why) => tracing::error!("network \"{}\": {why}", n.name),
            None => tracing::info!("network \"{}\" is there", n.name),
        }
    }
    if news.is_empty() {
        return Ok(());
    }
    let now = Timestamp::now();
    daemon
        .db()
        .write(move |tx| {
            for n in &news {
                let state = if n.refused.is_some() { Progress::Errored } else { Progress::Created };
                match db::networks::set_member_state(tx, n.id, own, state) {
                    Err(e) if e.kind == Kind::NotFound => continue, // it was deleted meanwhile
                    done => done?,
                }
                let about = Subject {
                    kind: db::warnings::Kind::NetworkUnavailable,
                    member: Some(own),
                    project: Some(db::projects::id(tx, &n.project)?),
                    entity: Some((Entity::Network, n.id)),
                };
                match &n.refused {
                    Some(why) => {
                        db::warnings::raise(tx, about, &why.message, &uuid::Uuid::new_v4().to_string(), now)?;
                    }
                    None => db::warnings::resolve(tx, about, now)?,
                }
            }
            Ok(())
        })
        .await
}

/// Brings up all networks of this member when the daemon starts. What there is to record is recorded later: a
/// member without a majority starts all the same.
pub async fn start(daemon: &Arc<Daemon>) -> Result<()> {
    let _alone = daemon.places.alone().await;
    bring(daemon, true).await?;
    daemon.places.look();
    Ok(())
}

/// Keeps this member in line with the database.
pub async fn follow(daemon: Arc<Daemon>) {
    // The first one is not due yet: all was tried at the start.
    let mut rounds = tokio::time::interval_at(Instant::now() + AGAIN, AGAIN);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let again = tokio::select! {
            () = daemon.places.due.notified() => false,
            _ = rounds.tick() => true,
        };
        if again && !daemon.places.made.has_failed() {
            continue;
        }
        let _alone = daemon.places.alone().await;
        let done = async {
            let (own, news) = bring(&daemon, again).await?;
            record(&daemon, own, news).await
        };
        if let Err(e) = done.await {
            tracing::warn!("bringing the networks in line with the database: {e}");
        }
    }
}

/// The keys that each member has of its own, as far as some member has set them.
pub async fn questions(daemon: &Daemon) -> Result<Vec<MemberConfigKey>> {
    let mut all = Vec::new();
    for network in daemon.view(|tx| db::networks::list(tx, None)).await? {
        let mut keys: Vec<&String> = network.members.iter().flat_map(|m| m.config.keys()).collect();
        keys.sort();
        keys.dedup();
        all.extend(keys.into_iter().map(|key| MemberConfigKey {
            entity: "network".into(),
            name: network.name.clone(),
            key: key.clone(),
            value: String::new(),
            description: format!("\"{key}\" property for network \"{}\"", network.name),
        }));
    }
    Ok(all)
}

/// Puts all networks onto a member that joins.
pub async fn define_on_joiner(daemon: &Arc<Daemon>, own: &Member, answers: &[MemberConfigKey]) -> Result<()> {
    let (id, answers) = (own.id, answers.to_vec());
    daemon
        .write(move |tx| {
            let created = |n: &Network| n.state == Progress::Created && n.state_on(id).is_none();
            for network in db::networks::list(tx, None)?.into_iter().filter(created) {
                let of_network =
                    |k: &&MemberConfigKey| k.entity == "network" && k.name == network.name && !k.value.is_empty();
                let config: Config =
                    answers.iter().filter(of_network).map(|k| (k.key.clone(), k.value.clone())).collect();
                super::change::only_members_own(&config)?;
                db::networks::define_on(tx, network.id, id, Progress::Pending, &config)?;
                let def = definition(&db::networks::get(tx, &network.project, &network.name)?, id);
                drivers::network::validate(&def.kind, &def.name, &def.config)?;
            }
            Ok(())
        })
        .await?;
    let _alone = daemon.places.alone().await;
    let (own, news) = bring(daemon, true).await?;
    if let Some((name, why)) = news.iter().find_map(|n| Some((&n.name, n.refused.clone()?))) {
        return Err(why.context(format!("Network \"{name}\"")));
    }
    record(daemon, own, news).await
}

/// Takes all networks of this member down: it leaves the cluster. They are not made again while the answer is held.
pub async fn forget_all(daemon: &Arc<Daemon>) -> OwnedMutexGuard<()> {
    let alone = daemon.places.alone().await;
    let made = daemon.places.made.clone();
    if let Err(e) = blocking::run(move || Ok(made.bring(&[], true))).await {
        tracing::warn!("removing the networks of the cluster: {e}");
    }
    alone
}
