//! Becoming a member of a cluster, and ceasing to be one.
//!
//! The joining server does the work; the cluster holds a pending row for it. Until the very last transaction, in
//! which that row becomes a member, everything can be undone: the server keeps its own database aside, and the
//! cluster forgets the row and gives the token back. A crash is undone or made up for at the next start ([`unfinished`]).

pub mod preflight;
pub mod unfinished;

use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use api::cluster::{ClusterPut, JoinToken};
use api::error::Context as _;
use api::key::Config;
use api::{Error, Kind, Result};
use client::Remote;
use client::tls::{Identity, client_config, fingerprint};
use db::Tx;
use db::members::{NewMember, State};
use db::value::Architecture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::edge::auth::Caller;
use crate::join::preflight::{Faults, Found};
use crate::join::unfinished::Note;
use crate::paths::Paths;
use crate::plans::point;
use crate::services::removal;
use crate::state::Daemon;
use crate::{certs, start, versions};

/// How long the joining server may take to get the database.
const CATCH_UP: Duration = Duration::from_secs(60);

/// What a joining server tells of itself: `POST /internal/cluster/accept`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Accept {
    /// The join token; empty if the server's certificate is trusted for this name already.
    pub token: String,
    /// The name it wants; the token's wins.
    pub name: String,
    /// Where its API is.
    pub address: String,
    /// The newest schema version that it knows.
    pub schema: i64,
    /// How many API extensions it has.
    pub api_extensions: i64,
    /// Its processor.
    pub architecture: String,
    /// Its certificate (PEM).
    pub certificate: String,
    /// What its clock says.
    pub now: Option<Timestamp>,
}

/// What it is told.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Accepted {
    /// Its name.
    pub name: String,
    /// Its Raft id.
    pub raft_id: u64,
    /// The cluster's certificate (PEM).
    pub cluster_certificate: String,
    /// Its key (PEM).
    pub cluster_key: String,
    /// Raft id, name and address of the members.
    pub members: Vec<(u64, String, String)>,
    /// Fingerprint, name and certificate of the members.
    pub servers: Vec<(String, String, String)>,
}

/// `POST /internal/cluster/connect` and `/internal/cluster/abort`: the member that is ready for the database, or
/// gives up.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Joiner {
    /// Its Raft id.
    pub raft_id: u64,
    /// The join token that it used, to be valid again.
    pub token: String,
}

/// Makes this server the first member of a new cluster.
pub async fn bootstrap(daemon: &Arc<Daemon>, name: &str, address: Option<String>) -> Result<()> {
    if daemon.clustered() {
        return Err(Error::bad_request("This server is already clustered"));
    }
    let config = daemon.local.config()?;
    let address = address.filter(|a| !a.is_empty()).map(|a| start::with_port(&a));
    let configured = |key: &str| config.get(key).filter(|a| !a.is_empty()).map(|a| start::with_port(a));
    let address = configured("cluster.https_address").or(address).or_else(|| configured("core.https_address"));
    let address = address.ok_or_else(|| {
        Error::bad_request("No address for the cluster: set core.https_address or cluster.https_address first")
    });
    preflight::of_bootstrap(daemon, name, &address).await?;
    let address = address?;
    daemon.local.patch_config(&[("cluster.https_address".to_owned(), address.clone())].into())?;
    start::listen_again(daemon).await?;
    let cluster = certs::generate()?;
    let (own, own_name) = (trusted(&daemon.own_identity(), name)?, name.to_owned());
    certs::write_cluster(&daemon.paths, &cluster)?;
    let done = daemon
        .write(move |tx| {
            db::members::rename(tx, 1, &own_name)?;
            db::members::set_address(tx, 1, &address)?;
            db::certificates::create(tx, &own).map(drop)
        })
        .await;
    if let Err(e) = done {
        certs::forget_cluster(&daemon.paths);
        return Err(e);
    }
    daemon.set_cluster_identity(Some(cluster)).await
}

/// An address that other members can use names a host.
fn must_be_specific(address: &str) -> Result<()> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    if matches!(host, "" | "[::]" | "0.0.0.0") {
        return Err(Error::bad_request(format!(
            "Cannot use the wildcard address \"{address}\" for the cluster: set cluster.https_address to an address of this machine"
        )));
    }
    Ok(())
}

fn trusted(identity: &Identity, name: &str) -> Result<db::certificates::NewCertificate> {
    Ok(db::certificates::NewCertificate {
        fingerprint: identity.fingerprint()?,
        kind: db::certificates::CertificateType::Server,
        name: name.to_owned(),
        certificate: identity.certificate.clone(),
        restricted: false,
        description: String::new(),
        projects: Vec::new(),
    })
}

/// Joins the cluster that `put` names.
pub async fn join(daemon: &Arc<Daemon>, put: &ClusterPut) -> Result<()> {
    if daemon.clustered() {
        return Err(Error::bad_request("This server is already clustered"));
    }
    let before = daemon.local.config()?;
    let (door, answer) = match apply(daemon, put).await {
        Ok(answered) => answered,
        Err(e) => {
            daemon.local.replace_config(&before)?;
            start::listen_again(daemon).await?;
            return Err(e);
        }
    };
    let accepted: Accepted = serde_json::from_value(answer).map_err(unreadable)?;
    let cluster = Identity { certificate: accepted.cluster_certificate.clone(), key: String::new() };
    let note = Note {
        old: daemon.local.raft_id()?.unwrap_or(1),
        joiner: Joiner { raft_id: accepted.raft_id, token: put.cluster_token.clone() },
        doors: accepted.members.iter().map(|(_, _, address)| address.clone()).collect(),
        pin: cluster.fingerprint()?,
        pools: Vec::new(),
        last: false,
    };
    note.write(&daemon.paths)?;
    let joined = async {
        enter(daemon, &door, &accepted, &note, put).await?;
        Note { last: true, ..note.clone() }.write(&daemon.paths)?;
        unfinished::become_member(daemon).await
    };
    if let Err(e) = joined.await {
        leave_again(daemon, &note).await;
        return Err(e);
    }
    Ok(())
}

/// Looks for everything that stands in the way, on both sides, and only if there is nothing asks to be taken in.
async fn apply(daemon: &Arc<Daemon>, put: &ClusterPut) -> Result<(Remote, serde_json::Value)> {
    let mut faults = Faults::default();
    let address = own_address(daemon, put);
    preflight::of_joiner(daemon, &address, &mut faults).await?;
    let doors = faults.note(doors(put));
    let program = versions::program();
    let request = Accept {
        token: put.cluster_token.clone(),
        name: put.server_name.clone(),
        address: address.clone().unwrap_or_default(),
        schema: program.latest,
        api_extensions: program.extensions,
        architecture: std::env::consts::ARCH.into(),
        certificate: daemon.own_identity().certificate,
        now: Some(Timestamp::now()),
    };
    if let Some((doors, pin)) = &doors {
        // The cluster tries whether it gets through, if anybody listens.
        let listens = listen_on(daemon, &request.address).await.is_ok();
        let address = if listens { request.address.clone() } else { String::new() };
        let question = in_json(&Accept { address, ..request.clone() })?;
        if let Some((_, found)) = faults.note(knock(daemon, doors, pin, "/internal/cluster/preflight", &question).await)
        {
            let found: Found = serde_json::from_value(found).map_err(unreadable)?;
            for fault in preflight::told(&found) {
                faults.note(Err::<(), _>(fault));
            }
            preflight::beside(daemon, &found, &put.member_config, &mut faults).await;
        }
    }
    faults.end("This server can't join the cluster as it is")?;
    let (doors, pin) = doors.ok_or_else(|| Error::internal("The way into the cluster is lost"))?;
    knock(daemon, &doors, &pin, "/internal/cluster/accept", &in_json(&request)?).await
}

/// Listens for the cluster, and for clients too if they had nowhere to go yet.
async fn listen_on(daemon: &Arc<Daemon>, address: &str) -> Result<()> {
    must_be_specific(address)?;
    start::can_listen(daemon, address).await?;
    let mut changes: Config = [("cluster.https_address".to_owned(), address.to_owned())].into();
    if daemon.local.config()?.get("core.https_address").is_none_or(String::is_empty) {
        changes.insert("core.https_address".to_owned(), address.to_owned());
    }
    daemon.local.patch_config(&changes)?;
    start::listen_again(daemon).await
}

fn in_json(request: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(request).map_err(|e| Error::internal(e.to_string()))
}

fn unreadable(e: serde_json::Error) -> Error {
    Error::internal(format!("Unreadable answer of the cluster: {e}"))
}

/// What a server has that it would lose as a member of another cluster.
pub fn belongings(tx: &Tx<'_>) -> Result<Vec<String>> {
    let all = [
        ("instances", db::instances::names(tx, db::instances::Filter::default())?.len()),
        ("storage pools", db::pools::list(tx)?.len()),
        ("networks", db::networks::list(tx, None)?.len()),
    ];
    Ok(all.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect())
}

/// Why a server with that on it can't join.
fn not_empty(used: &str) -> Error {
    Error::bad_request(format!("This server has {used}: only a server with nothing on it can join a cluster"))
}

fn own_address(daemon: &Daemon, put: &ClusterPut) -> Result<String> {
    let config = daemon.local.config()?;
    let configured = |key: &str| config.get(key).filter(|a| !a.is_empty()).cloned();
    let given = Some(put.server_address.clone()).filter(|a| !a.is_empty());
    let address = given.or_else(|| configured("cluster.https_address")).or_else(|| configured("core.https_address"));
    let address =
        address.ok_or_else(|| Error::bad_request("No server address provided for this member: set server_address"))?;
    Ok(start::with_port(&address))
}

/// Where the cluster can be entered, and the fingerprint that its certificate must have.
fn doors(put: &ClusterPut) -> Result<(Vec<String>, String)> {
    if !put.cluster_token.is_empty() {
        let token = JoinToken::decode(&put.cluster_token)?;
        if token.expires_at < Timestamp::now() {
            return Err(Error::bad_request("The cluster join token has expired: ask for a new one"));
        }
        let mut doors = token.addresses;
        if !put.cluster_address.is_empty() {
            doors.insert(0, start::with_port(&put.cluster_address));
        }
        return Ok((doors, token.fingerprint));
    }
    if put.cluster_address.is_empty() || put.cluster_certificate.is_empty() {
        return Err(Error::bad_request("To join a cluster a join token is needed: \"incus cluster add\" gives one"));
    }
    Ok((vec![start::with_port(&put.cluster_address)], fingerprint(&put.cluster_certificate)?))
}

/// Asks to be accepted at one door after another; a refusal is final, an unreachable member is passed over.
async fn knock(
    daemon: &Daemon,
    doors: &[String],
    pin: &str,
    path: &str,
    request: &serde_json::Value,
) -> Result<(Remote, serde_json::Value)> {
    let mut last = Error::unavailable("The join token names no member");
    for door in doors {
        let remote = Remote::tls(door, client_config(pin, Some(&daemon.own_identity()))?);
        match remote.json("POST", path, Some(request)).await {
            Ok(answer) => return Ok((remote, answer.metadata)),
            Err(e) if e.kind == Kind::Unavailable => last = e,
            Err(e) if e.kind == Kind::Forbidden => {
                return Err(Error::bad_request(
                    "Failed to setup cluster trust: Failed to add server cert to cluster: not authorized",
                ));
            }
            Err(e) => return Err(e.context("Failed request to add member")),
        }
    }
    Err(last.context("Failed to connect to the cluster"))
}

/// Takes the cluster's database in the place of the own one and becomes a member.
async fn enter(daemon: &Arc<Daemon>, door: &Remote, accepted: &Accepted, note: &Note, put: &ClusterPut) -> Result<()> {
    point::pass(daemon, "join:accepted").await;
    let paths = &daemon.paths;
    daemon.db().shutdown().await?;
    let _ = fs::remove_dir_all(paths.global_before());
    fs::rename(paths.global(), paths.global_before()).context("Setting the own database aside")?;
    point::pass(daemon, "join:aside").await;
    let cluster = Identity { certificate: accepted.cluster_certificate.clone(), key: accepted.cluster_key.clone() };
    certs::write_cluster(paths, &cluster)?;
    daemon.set_cluster_identity(Some(cluster)).await?;
    daemon.local.set_raft_id(accepted.raft_id)?;
    let servers = accepted.servers.iter().map(|(fingerprint, name, certificate)| db::local::TrustedServer {
        fingerprint: fingerprint.clone(),
        name: name.clone(),
        certificate: certificate.clone(),
    });
    daemon.local.replace_trusted_servers(&servers.collect::<Vec<_>>())?;
    daemon.learn_addresses(accepted.members.iter().map(|(id, _, address)| (*id, address.clone())));
    start::take(daemon, accepted.raft_id).await?;
    door.json("POST", "/internal/cluster/connect", Some(&in_json(&note.joiner)?)).await?;
    point::pass(daemon, "join:connected").await;
    catch_up(daemon, accepted.raft_id).await?;
    let pools = crate::services::pools::on_joiner(daemon, &put.member_config).await?;
    Note { pools, ..note.clone() }.write(paths)?;
    daemon.refresh().await?;
    start::keep_for_start(daemon)?;
    point::pass(daemon, "join:caught-up").await;
    let own = daemon.own_row().ok_or_else(|| Error::internal("The cluster's database does not know this member"))?;
    crate::services::cluster::create_local(daemon, &own, &put.member_config).await?;
    point::pass(daemon, "join:made").await;
    Ok(())
}

/// Waits until the database has arrived, with the row of this member in it.
async fn catch_up(daemon: &Daemon, raft_id: u64) -> Result<()> {
    let started = std::time::Instant::now();
    let db = daemon.db();
    while started.elapsed() < CATCH_UP {
        let here = db.schema_version() > 0 && db.peek(move |tx| db::members::by_raft_id(tx, raft_id)).await.is_ok();
        if here && db.status().leader.is_some() {
            return db.read_barrier().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(Error::unavailable("The cluster's database did not arrive: can the other members reach this one?"))
}

/// Undoes a join that failed, on both sides.
async fn leave_again(daemon: &Arc<Daemon>, note: &Note) {
    let told = unfinished::told(daemon, note).await;
    let back = async {
        let _no_networks = crate::services::networks::forget_all(daemon).await;
        if let Err(e) = crate::services::pools::forget_all(daemon).await {
            tracing::debug!("no storage pools of the cluster to remove: {e}");
        }
        daemon.db().shutdown().await?;
        daemon.set_cluster_identity(None).await?;
        unfinished::undo(&daemon.paths)?;
        start::take(daemon, note.old).await?;
        daemon.db().wait_for(|s| s.leads()).await?;
        daemon.refresh().await
    };
    if let Err(e) = back.await {
        tracing::error!("going back to a server without a cluster: {e}; a restart does it");
    }
    if told {
        let _ = fs::remove_file(daemon.paths.joining_undone());
    } else {
        let daemon = daemon.clone();
        tokio::spawn(async move { unfinished::tell(&daemon).await });
    }
}

// ---- on the cluster's side ---------------------------------------------------------------------------------

/// Accepts a server as a pending member.
pub async fn accept(daemon: &Arc<Daemon>, caller: &Caller, request: Accept) -> Result<Accepted> {
    daemon.must_be_clustered()?;
    let shown = shown_by(caller, &request)?;
    let token = if request.token.is_empty() { None } else { Some(JoinToken::decode(&request.token)?) };
    let architecture = Architecture::parse_any(&request.architecture)?;
    same_version(&request)?;
    let now = Timestamp::now();
    let (raft_id, name, used) = daemon
        .write(move |tx| {
            let (name, used) = match &token {
                Some(token) => {
                    let hash = hash(&token.secret);
                    let name = Some(token.server_name.as_str());
                    let used = db::tokens::redeem(tx, db::tokens::Kind::Join, name, &hash, now)?;
                    let used = used.ok_or_else(|| Error::forbidden("not authorized"))?;
                    // Whoever had another certificate trusted for that name is not who joins.
                    db::certificates::delete_server(tx, &used.name)?;
                    (used.name.clone(), Some(used.operation))
                }
                None => (invited(tx, &shown)?, None),
            };
            // A join of before that was never ended: whoever has a token for the name comes in its place.
            if let Some(before) = db::members::find(tx, &name)?.filter(|m| m.state == State::Pending) {
                db::members::retire_raft_id(tx, before.id)?;
                db::certificates::delete_server(tx, &name)?;
                db::members::delete(tx, before.id, now)?;
            }
            let new = NewMember {
                name: name.clone(),
                address: request.address.clone(),
                schema: request.schema,
                api_extensions: request.api_extensions,
                architecture,
                state: State::Pending,
            };
            let id = db::members::create(tx, &new)?;
            let raft_id = db::members::allocate_raft_id(tx, id)?;
            if db::certificates::list(tx)?.iter().all(|c| c.fingerprint != shown) {
                let identity = Identity { certificate: request.certificate.clone(), key: String::new() };
                db::certificates::create(tx, &trusted(&identity, &name)?)?;
            }
            Ok((raft_id, name, used))
        })
        .await?;
    if let Some(operation) = used {
        daemon.operations.end_token(&operation);
    }
    let cluster = crate::services::cluster_certificate::newest(daemon)?;
    let snapshot = daemon.snapshot();
    Ok(Accepted {
        name,
        raft_id,
        cluster_certificate: cluster.certificate,
        cluster_key: cluster.key,
        members: snapshot
            .members
            .iter()
            .filter_map(|m| Some((m.raft_id?, m.name.clone(), m.address.clone())))
            .collect(),
        servers: snapshot
            .certificates
            .iter()
            .filter(|c| c.kind == db::certificates::CertificateType::Server)
            .map(|c| (c.fingerprint.clone(), c.name.clone(), c.certificate.clone()))
            .collect(),
    })
}

/// The name of a server whose certificate is trusted by an earlier use of its token. Those of clients are trusted too,
/// with less: with them nobody joins, or a restricted one would be told the cluster's key.
fn invited(tx: &Tx<'_>, shown: &str) -> Result<String> {
    let all = db::certificates::list(tx)?;
    let found = all.into_iter().find(|c| c.fingerprint == shown && c.kind == db::certificates::CertificateType::Server);
    found.map(|c| c.name).ok_or_else(|| Error::forbidden("not authorized"))
}

/// The fingerprint of the certificate that the joining server holds the key of; it has to be the one that it tells.
fn shown_by(caller: &Caller, request: &Accept) -> Result<String> {
    let refused = || Error::forbidden("not authorized");
    let shown = caller.certificate.as_deref().map(client::tls::fingerprint_of).ok_or_else(refused)?;
    if fingerprint(&request.certificate)? == shown { Ok(shown) } else { Err(refused()) }
}

/// SHA-256 of a secret, as it is stored.
pub fn hash(secret: &str) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(secret))
}

fn same_version(request: &Accept) -> Result<()> {
    let program = versions::program();
    if (request.schema, request.api_extensions) == (program.latest, program.extensions) {
        return Ok(());
    }
    Err(Error::bad_request(
        "The joining server version doesn't match (expected the same version of incusd on all members)",
    ))
}

/// Lets the database flow to a pending member that is ready for it.
pub async fn connect(daemon: &Arc<Daemon>, joiner: &Joiner) -> Result<()> {
    let id = joiner.raft_id;
    daemon.db().peek(move |tx| db::members::by_raft_id(tx, id)).await?;
    daemon.db().change(db::Change::AddLearner(id)).await
}

/// Forgets a pending member that gave up; its token is good again.
pub async fn abort(daemon: &Arc<Daemon>, joiner: &Joiner) -> Result<()> {
    let id = joiner.raft_id;
    let member = daemon.db().peek(move |tx| db::members::by_raft_id(tx, id)).await?;
    if member.state != State::Pending {
        return Err(Error::conflict("The member has joined already"));
    }
    let token = JoinToken::decode(&joiner.token).ok();
    removal::forget(daemon, &member, true).await?;
    if let Some(token) = token {
        let again = db::tokens::Token {
            kind: db::tokens::Kind::Join,
            name: token.server_name.clone(),
            secret_hash: hash(&token.secret),
            operation: uuid::Uuid::new_v4().to_string(),
            created: Timestamp::now(),
            expires: Some(token.expires_at),
            body: serde_json::json!({ "fingerprint": token.fingerprint, "addresses": token.addresses }),
        };
        daemon.db().write(move |tx| db::tokens::create(tx, &again)).await?;
    }
    Ok(())
}

/// This member was removed: it becomes a server of its own again, with nothing on it. A crash is made up for at the
/// next start.
pub async fn reset(daemon: &Arc<Daemon>) -> Result<()> {
    point::pass(daemon, "reset:begun").await;
    crate::instances::boot::shut_down(daemon).await;
    let _no_networks = crate::services::networks::forget_all(daemon).await;
    if let Err(e) = crate::services::pools::forget_all(daemon).await {
        tracing::warn!("removing the storage pools of the cluster: {e}");
    }
    fs::write(daemon.paths.leaving(), "").context("Noting that the cluster is left")?;
    point::pass(daemon, "reset:noted").await;
    daemon.db().shutdown().await?;
    daemon.set_cluster_identity(None).await?;
    end_leaving(&daemon.paths, &daemon.local)?;
    point::pass(daemon, "reset:left").await;
    let (dialler, db, health) = start::open(&daemon.paths, 1).await?;
    dialler.belongs_to(daemon);
    db.bootstrap().await?;
    db.write(|tx| db::members::allocate_raft_id(tx, 1)).await?;
    daemon.replace_db(1, db, health);
    daemon.watch_health();
    daemon.set_removed(false);
    daemon.refresh().await?;
    daemon.hub.set_location(db::members::NOT_CLUSTERED);
    start::listen_again(daemon).await
}

/// Forgets all that ties this server to a cluster, if that has been begun.
pub fn end_leaving(paths: &Paths, local: &db::local::Local) -> Result<()> {
    if !paths.leaving().exists() {
        return Ok(());
    }
    for dir in [paths.global(), paths.global_before()] {
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            removed => removed.context(format!("Removing {}", dir.display()))?,
        }
    }
    for image in fs::read_dir(paths.images()).into_iter().flatten().flatten() {
        fs::remove_file(image.path()).context(format!("Removing {}", image.path().display()))?;
    }
    certs::forget_cluster(paths);
    local.forget_cluster()?;
    local.patch_config(&[("cluster.https_address".to_owned(), String::new())].into())?;
    local.set_raft_id(1)?;
    fs::remove_file(paths.leaving()).context("Forgetting that the cluster was left")
}
