//! Starting and stopping, as lists to read from top to bottom.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::Result;
use api::error::Context as _;
use api::key::{Config, Read as _};
use client::tls::Identity;
use cluster::{Health, Links};
use db::local::{Local, RaftNode, RaftRole, TrustedServer};
use db::{Db, Options, SCHEMA};
use jiff::Timestamp;
use tokio::task::JoinHandle;

use crate::args::Args;
use crate::dial::{Before, Dialler};
use crate::edge::{Router, listen};
use crate::paths::Paths;
use crate::state::{Daemon, Parts, Snapshot};
use crate::{
    backup, certs, concerns, guard, instances, join, leases, moved, plans, removed, revive, services, versions,
};

/// Where the API is reached unless an address says otherwise.
const API_PORT: u16 = 8443;
/// The same for metrics.
const METRICS_PORT: u16 = 9100;

/// How long a starting member waits for a majority before it serves what needs none.
const LEADER: Duration = Duration::from_secs(10);

/// How long a member that is shut down waits until its vote is given to another.
const VOTE: Duration = Duration::from_secs(5);

/// Brings the daemon up as far as other members and clients can reach it; [`settle`] is what comes next.
pub async fn up(args: &Args) -> Result<Arc<Daemon>> {
    let paths = Paths::from_env();
    paths.create().context(format!("Making the folders in {}", paths.root().display()))?;
    join::unfinished::at_start(&paths)?;
    backup::restore::finish(&paths)?;
    services::images::store::remove_torn(&paths.images());
    let local = Local::open(&paths.local_db(), Timestamp::now())?;
    join::end_leaving(&paths, &local)?;
    let own = certs::own(&paths)?;
    let cluster = certs::of_cluster(&paths)?;
    let (dialler, parts) = database(&paths, &local, own.clone(), cluster.clone()).await?;
    let mut router = Router::default();
    services::routes(&mut router);
    let daemon = Daemon::new(paths, local, own, cluster, router, parts)?;
    dialler.belongs_to(&daemon);
    let group = args.group.as_deref().map(listen::group_id).transpose()?;
    listen::unix(daemon.clone(), &daemon.paths.socket(), group)?;
    listen_again(&daemon).await?;
    std::fs::write(daemon.paths.pid(), format!("{}\n", std::process::id())).context("Writing the pid file")?;
    Ok(daemon)
}

/// Opens the replicated database with the Raft id that this member has.
async fn database(
    paths: &Paths,
    local: &Local,
    own: Identity,
    cluster: Option<Identity>,
) -> Result<(Arc<Dialler>, Parts)> {
    let raft_id = match local.raft_id()? {
        Some(id) => id,
        None => {
            local.set_raft_id(1)?;
            1
        }
    };
    let nodes = local.raft_nodes()?;
    let addresses: HashMap<u64, String> = nodes.into_iter().map(|n| (n.id, n.address)).collect();
    let others = addresses.keys().copied().filter(|id| *id != raft_id).collect();
    let before = Before { own: Some(own), cluster, addresses: addresses.clone() };
    let options = Options { given_up: local.given_up()?, others, ..options(paths, raft_id) };
    let (dialler, db, health) = open_with(options, Dialler::new(before)).await?;
    if !db.is_initialized().await? && addresses.is_empty() {
        db.bootstrap().await?;
        db.write(|tx| db::members::allocate_raft_id(tx, 1)).await?;
    }
    Ok((dialler, Parts { db, health, addresses, raft_id }))
}

/// Opens the replicated database as the member `raft_id`.
pub async fn open(paths: &Paths, raft_id: u64) -> Result<(Arc<Dialler>, Db, Arc<Health>)> {
    open_with(options(paths, raft_id), Dialler::default()).await
}

/// How the member `raft_id` opens it. Who is trusted, and what holds for all requests, is known everywhere at once.
fn options(paths: &Paths, raft_id: u64) -> Options {
    Options { at_once: &Snapshot::TABLES, ..Options::new(paths.global(), raft_id, SCHEMA) }
}

async fn open_with(options: Options, dialler: Dialler) -> Result<(Arc<Dialler>, Db, Arc<Health>)> {
    let dialler = Arc::new(dialler);
    let links = Arc::new(Links::new(dialler.clone()));
    let health = Arc::new(Health::new(options.id, links.clone(), versions::program()));
    let db = Db::open(options, links).await?;
    Ok((dialler, db, health))
}

/// Opens the database as the member `raft_id` and uses it from now on.
pub async fn take(daemon: &Arc<Daemon>, raft_id: u64) -> Result<()> {
    let (dialler, db, health) = open(&daemon.paths, raft_id).await?;
    dialler.belongs_to(daemon);
    daemon.replace_db(raft_id, db, health);
    daemon.watch_health();
    Ok(())
}

/// What has to be there before the first request, once the database is open; and what goes on from then on. A member
/// whose program can't serve the database's version of the schema stays in here.
pub async fn settle(daemon: &Arc<Daemon>) -> Result<()> {
    wait_for_database(daemon).await;
    daemon.watch_health();
    tokio::spawn(versions::update_when_behind(daemon.clone()));
    versions::wait(daemon).await;
    daemon.refresh().await?;
    let caught_up = tokio::time::timeout(LEADER, caught_up(daemon)).await.is_ok();
    // It may have come across a version of the schema that it does not know.
    versions::wait(daemon).await;
    if caught_up {
        daemon.refresh().await?;
        announce(daemon).await?;
    } else {
        tracing::warn!("no majority of the database's voters can be reached: serving what needs none");
        removed::look_at_start(daemon).await;
    }
    join::unfinished::clear(daemon).await;
    services::pools::start(daemon).await?;
    services::networks::start(daemon).await?;
    instances::boot::end_strays(daemon).await?;
    instances::boot::take_up(daemon).await?;
    leases::give_back_stale(daemon).await;
    services::volumes::recover::start(daemon).await?;
    daemon.ready.send_replace(true);
    tokio::spawn(join::unfinished::end(daemon.clone()));
    tokio::spawn(know(daemon.clone()));
    tokio::spawn(follow(daemon.clone()));
    tokio::spawn(revive::watch(daemon.clone()));
    tokio::spawn(moved::write_down(daemon.clone()));
    tokio::spawn(removed::watch(daemon.clone()));
    tokio::spawn(services::networks::follow(daemon.clone()));
    tokio::spawn(services::images::store::sweep(daemon.clone()));
    tokio::spawn(services::images::expire::watch(daemon.clone()));
    tokio::spawn(services::images::refresh::watch(daemon.clone()));
    tokio::spawn(services::volumes::snapshots::prune(daemon.clone()));
    tokio::spawn(services::schedule::watch(daemon.clone()));
    tokio::spawn(services::shared_pools::watch(daemon.clone()));
    tokio::spawn(services::events::members::follow(daemon.clone()));
    tokio::spawn(guard::watch(daemon.clone()));
    tokio::spawn(services::acme::watch(daemon.clone()));
    tokio::spawn(leases::keep(daemon.clone()));
    tokio::spawn(plans::watch(daemon.clone()));
    tokio::spawn(plans::heal::watch(daemon.clone()));
    tokio::spawn(concerns::watch(daemon.clone()));
    tokio::spawn(instances::boot::bring_up(daemon.clone()));
    Ok(())
}

/// Waits until a member that has given its database up has got another one: the leader offers it.
async fn wait_for_database(daemon: &Daemon) {
    if daemon.db().schema_version() == 0 {
        tracing::warn!("waiting for the cluster's database: a member that was recovered has to lead the others");
    }
    while daemon.db().schema_version() == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let _ = std::fs::remove_dir_all(daemon.paths.global_given_up());
}

/// Returns when this replica holds everything that was acknowledged while the daemon was away.
async fn caught_up(daemon: &Daemon) {
    let beyond = || daemon.db().wanted_version() > daemon.db().schema_version();
    while !beyond() && (daemon.db().status().leader.is_none() || daemon.db().read_barrier().await.is_err()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Tells the others what this program can do, if that has changed since its last start.
async fn announce(daemon: &Arc<Daemon>) -> Result<()> {
    let Some(own) = daemon.own_row() else { return Ok(()) };
    let architecture = db::value::Architecture::parse_any(std::env::consts::ARCH)?;
    let program = versions::program();
    let (schema, extensions) = (program.latest, program.extensions);
    if (own.schema, own.api_extensions, own.architecture) == (schema, extensions, architecture) {
        return Ok(());
    }
    let raft_id = daemon.raft_id();
    daemon
        .write(move |tx| {
            db::members::set_architecture(tx, own.id, architecture)?;
            db::versions::record(tx, raft_id, schema, extensions)
        })
        .await
}

/// Renews what is kept in memory whenever the database changes, whoever changed it. Who is trusted goes by that, so
/// nothing else is waited for.
async fn know(daemon: Arc<Daemon>) {
    let mut kept = None;
    loop {
        let db = daemon.db();
        let seen = db.data_index();
        if let Err(e) = daemon.refresh().await {
            tracing::warn!("refreshing what is known of the cluster: {e}");
        }
        let (snapshot, status) = (daemon.snapshot(), db.status());
        let members = (status.voters, status.learners);
        if !kept.as_ref().is_some_and(|(then, before)| Arc::ptr_eq(then, &snapshot) && *before == members) {
            match keep_for_start(&daemon) {
                Ok(()) => kept = Some((snapshot, members)),
                Err(e) => tracing::warn!("keeping the members' addresses for the next start: {e}"),
            }
        }
        daemon.renewed.send_replace(());
        tokio::select! {
            () = db.changed_since(seen) => {}
            () = daemon.db_replaced.notified() => kept = None,
        }
        // Changes come in groups.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Does what follows for this member from a change of the database.
async fn follow(daemon: Arc<Daemon>) {
    let mut renewed = daemon.renewed.subscribe();
    let mut pools = None;
    loop {
        let now = (daemon.db().revision_of(&services::pools::TABLES), daemon.member_id());
        if pools != Some(now) {
            match services::pools::sync(&daemon).await {
                Ok(()) => pools = Some(now),
                Err(e) => tracing::warn!("bringing the storage pools in line with the database: {e}"),
            }
        }
        if let Err(e) = services::cluster_certificate::take(&daemon).await {
            tracing::warn!("taking the cluster's certificate into use: {e}");
        }
        services::acme::follow(&daemon);
        daemon.places.look();
        if renewed.changed().await.is_err() {
            return;
        }
    }
}

/// Writes down what a start without a majority needs: where the members are, and whom to trust as one.
pub fn keep_for_start(daemon: &Daemon) -> Result<()> {
    if !daemon.clustered() {
        return Ok(());
    }
    let (snapshot, status) = (daemon.snapshot(), daemon.db().status());
    let role = |id: u64| if status.voters.contains(&id) { RaftRole::Voter } else { RaftRole::Spare };
    let node = |m: &db::members::Member| {
        let id = m.raft_id?;
        Some(RaftNode { id, name: m.name.clone(), address: m.address.clone(), role: role(id) })
    };
    let mut nodes: Vec<RaftNode> = snapshot.members.iter().filter_map(node).collect();
    let known = daemon.local.raft_nodes()?;
    // Those that take part in the database and are members no more: a person may want to know where they were.
    let left = |n: &&RaftNode| status.voters.contains(&n.id) || status.learners.contains(&n.id);
    for ghost in known.iter().filter(left) {
        if nodes.iter().all(|n| n.id != ghost.id && n.address != ghost.address) {
            nodes.push(RaftNode { name: String::new(), role: role(ghost.id), ..ghost.clone() });
        }
    }
    nodes.sort_by_key(|n| n.id);
    if known != nodes {
        daemon.local.replace_raft_nodes(&nodes)?;
    }
    let servers = snapshot.certificates.iter().filter(|c| c.kind == db::certificates::CertificateType::Server);
    let mut servers: Vec<TrustedServer> = servers
        .map(|c| TrustedServer {
            fingerprint: c.fingerprint.clone(),
            name: c.name.clone(),
            certificate: c.certificate.clone(),
        })
        .collect();
    servers.sort_by(|a, b| a.fingerprint.cmp(&b.fingerprint));
    if daemon.local.trusted_servers()? != servers {
        daemon.local.replace_trusted_servers(&servers)?;
        daemon.trust.send_replace(());
    }
    Ok(())
}

/// Where is listened: an address, and the one path that is served there, if not all are.
pub type Listens = (String, Option<&'static str>);

/// Where the configuration says to listen.
fn listens(config: &Config) -> Vec<Listens> {
    let wanted = |key: &str, port| config.get(key).filter(|a| !a.is_empty()).map(|a| with_default_port(a, port));
    let core = wanted("core.https_address", API_PORT);
    // One socket serves both when they are the same, or when the first listens everywhere.
    let cluster = wanted("cluster.https_address", API_PORT).filter(|a| core.as_ref().is_none_or(|c| !covers(c, a)));
    let metrics = wanted("core.metrics_address", METRICS_PORT).map(|a| (a, Some(api::server::METRICS.info.path)));
    core.into_iter().chain(cluster).map(|a| (a, None)).chain(metrics).collect()
}

/// Listens on the addresses that the configuration names now, and nowhere else. One that can't be used is the error, and
/// it goes on where it listened before.
pub async fn listen_again(daemon: &Arc<Daemon>) -> Result<()> {
    let wanted = listens(&daemon.local.config()?);
    let mut listeners = daemon.listeners.lock().await;
    let before: Vec<Listens> = listeners.keys().cloned().collect();
    let changed = listen_on(daemon, &mut listeners, &wanted).await;
    if changed.is_err()
        && let Err(e) = listen_on(daemon, &mut listeners, &before).await
    {
        tracing::error!("listening as before: {e}");
    }
    changed
}

async fn listen_on(
    daemon: &Arc<Daemon>,
    listeners: &mut BTreeMap<Listens, JoinHandle<()>>,
    wanted: &[Listens],
) -> Result<()> {
    // What is to go goes first: it may be in the way of what is to come.
    let gone: Vec<Listens> = listeners.keys().filter(|l| !wanted.contains(l)).cloned().collect();
    for task in gone.iter().filter_map(|l| listeners.remove(l)) {
        task.abort();
        let _ = task.await;
    }
    for (address, only) in wanted {
        let key = (address.clone(), *only);
        if let std::collections::btree_map::Entry::Vacant(e) = listeners.entry(key) {
            let listener = listen::bind(address)?;
            e.insert(listen::https(daemon.clone(), listener, *only));
        }
    }
    Ok(())
}

/// Refuses an address on which this server does not listen, and can't.
pub async fn can_listen(daemon: &Daemon, address: &str) -> Result<()> {
    let listeners = daemon.listeners.lock().await;
    if listeners.keys().any(|(own, only)| only.is_none() && covers(own, address)) {
        return Ok(());
    }
    listen::bind(address).map(drop)
}

/// The address with the usual port of the API if it names none.
pub fn with_port(address: &str) -> String {
    with_default_port(address, API_PORT)
}

fn with_default_port(address: &str, port: u16) -> String {
    let bare_v6 = address.matches(':').count() > 1 && !address.contains('[');
    if bare_v6 {
        format!("[{address}]:{port}")
    } else if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        address.to_owned()
    } else {
        format!("{address}:{port}")
    }
}

/// True if a listener on `listener` also answers on `address`.
fn covers(listener: &str, address: &str) -> bool {
    let split = |a: &str| a.rsplit_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap_or_default();
    let ((host, port), (other, other_port)) = (split(listener), split(address));
    port == other_port && (host == other || matches!(host.as_str(), "" | "[::]" | "0.0.0.0"))
}

/// Takes the daemon down; instances run on. A leader hands over first, so that nobody waits for an election, and a
/// voter gives its vote to somebody who can take it.
pub async fn down(daemon: &Arc<Daemon>) {
    guard::leave_alone(daemon).await;
    if daemon.clustered() {
        daemon.health().leave();
        hand_leadership_over(daemon).await;
        give_vote_away(daemon).await;
    }
    let _ = daemon.db().shutdown().await;
    for path in [daemon.paths.socket(), daemon.paths.pid()] {
        let _ = std::fs::remove_file(path);
    }
}

/// Waits for the operations that run here before the machine goes down, for as long as `core.shutdown_timeout` allows.
pub async fn finish_operations(daemon: &Daemon) {
    let minutes = daemon.snapshot().config.read(&api::keys::server::SHUTDOWN_TIMEOUT);
    let patience = Duration::from_secs(u64::try_from(minutes).unwrap_or(0).saturating_mul(60));
    let running = daemon.operations.tasks();
    if !running.is_empty() {
        tracing::info!("waiting for {} operations, for up to {minutes} minutes", running.len());
        let all = futures::future::join_all(running.iter().map(|o| o.wait(None)));
        let _ = tokio::time::timeout(patience, all).await;
    }
}

async fn hand_leadership_over(daemon: &Daemon) {
    let db = daemon.db();
    let status = db.status();
    let heir = status.voters.iter().find(|id| status.leads() && **id != status.id && reachable(daemon, **id));
    if let Some(heir) = heir {
        let handed = tokio::time::timeout(Duration::from_secs(3), db.hand_over(*heir)).await;
        tracing::info!("leadership handed to member {heir}: {handed:?}");
    }
}

/// Waits until the leader, who was told that this member leaves, has given its vote to another, if there is one.
async fn give_vote_away(daemon: &Daemon) {
    let db = daemon.db();
    let status = db.status();
    let snapshot = daemon.snapshot();
    let can_vote = |m: &&db::members::Member| {
        let learns = m.raft_id.is_some_and(|id| status.learners.contains(&id));
        learns && m.state == db::members::State::Created && !m.roles.contains(&db::members::Role::DatabaseClient)
    };
    let others = snapshot.members.iter().filter(can_vote).any(|m| daemon.must_be_online(m, &snapshot).is_ok());
    if status.votes() && status.quorum && others {
        let given = async {
            while db.status().votes() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let given = tokio::time::timeout(VOTE, given).await;
        tracing::info!("the vote was given to another member: {}", given.is_ok());
    }
}

fn reachable(daemon: &Daemon, raft_id: u64) -> bool {
    let snapshot = daemon.snapshot();
    let member = snapshot.members.iter().find(|m| m.raft_id == Some(raft_id));
    member.is_some_and(|m| daemon.must_be_online(m, &snapshot).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_usual_port_and_share_a_socket_where_they_can() {
        for (address, want) in [
            ("192.0.2.1", "192.0.2.1:8443"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("[::]:8443", "[::]:8443"),
            ("::", "[::]:8443"),
            (":8443", ":8443"),
        ] {
            assert_eq!(with_port(address), want);
        }
        let config = |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let cluster = ("cluster.https_address", "192.0.2.1:8443");
        for (core, want) in [("192.0.2.1", 1), (":8443", 1), ("192.0.2.1:1", 2), ("", 1)] {
            assert_eq!(listens(&config(&[cluster, ("core.https_address", core)])).len(), want, "{core}");
        }
        let metrics = listens(&config(&[("core.metrics_address", "192.0.2.1")]));
        assert_eq!(metrics, [("192.0.2.1:9100".to_owned(), Some("/1.0/metrics"))]);
        assert!(covers("[::]:8443", "192.0.2.1:8443") && covers("192.0.2.1:8443", "192.0.2.1:8443"));
        assert!(!covers("192.0.2.1:8443", "192.0.2.2:8443") && !covers("[::]:1", "192.0.2.1:8443"));
    }
}
