//! The daemon as a whole: what its parts find each other by.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use api::error::Context as _;
use api::event::Lifecycle;
use api::key::{Config, Read as _};
use api::keys::server::{PROXY_HTTP, PROXY_HTTPS, PROXY_IGNORE_HOSTS};
use api::{Error, Result};
use client::proxy::Proxies;
use client::tls::{Identity, client_config_for, server_config};
use client::{Remote, Web};
use cluster::Health;
use db::certificates::{Certificate, CertificateType};
use db::cluster_certificate::ClusterCertificate;
use db::local::{Local, Moved};
use db::members::{Member, NOT_CLUSTERED, State};
use db::{Db, Tx};
use drivers::instance::Containers;
use drivers::network::Networks;
use incus_core::version::Standing;
use rustls::ServerConfig;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::edge::auth::{Caller, Trust};
use crate::edge::door::Door;
use crate::edge::{Cx, Router, Session, reply};
use crate::events::Hub;
use crate::guard::Guard;
use crate::instances::Instances;
use crate::instances::placing::Placing;
use crate::kept::Kept;
use crate::operations::{self, Class, New, Operation, Operations, Resources};
use crate::paths::Paths;
use crate::pki::{Pki, Verdict};
use crate::plans::{Plans, point};
use crate::services::instances::{Consoles, Seen, Which};
use crate::sockets::Sockets;

/// How long a reader waits for a majority to confirm that the own replica is up to date.
const MOMENT: Duration = Duration::from_secs(1);

/// What of the database every request needs, kept in memory and renewed when the database changes.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// The [revision](Db::revision_of) of [its tables](Snapshot::TABLES) that it was read from; an older one if they
    /// have changed meanwhile.
    revision: u64,
    /// All members.
    pub members: Vec<Member>,
    /// All trusted certificates.
    pub certificates: Vec<Certificate>,
    /// The server configuration that holds everywhere.
    pub config: Config,
    /// The cluster's certificate, if it was replaced.
    pub certificate: Option<ClusterCertificate>,
    /// What an ACME authority is answered, by token.
    pub challenges: BTreeMap<String, String>,
}

impl Snapshot {
    /// The tables that it is read from.
    pub const TABLES: [&'static str; 11] = [
        "certificates",
        "certificates_projects",
        "cluster_groups",
        "config",
        "nodes",
        "nodes_cluster_groups",
        "nodes_config",
        "nodes_failure_domains",
        "nodes_roles",
        "projects",
        "raft_ids",
    ];

    /// Reads it.
    pub fn load(tx: &Tx<'_>) -> Result<Snapshot> {
        Ok(Snapshot {
            revision: 0,
            members: db::members::list(tx)?,
            certificates: db::certificates::list(tx)?,
            config: db::config::get(tx)?,
            certificate: db::cluster_certificate::get(tx)?,
            challenges: db::acme::challenges(tx)?,
        })
    }
}

/// The certificates in use.
struct Tls {
    own: Identity,
    cluster: Option<Identity>,
    server: Arc<ServerConfig>,
}

impl Tls {
    fn new(own: Identity, cluster: Option<Identity>) -> Result<Tls> {
        let server = server_config(cluster.as_ref().unwrap_or(&own))?;
        Ok(Tls { own, cluster, server })
    }
}

/// The daemon.
pub struct Daemon {
    /// Where its files are.
    pub paths: Paths,
    /// The member's own database.
    pub local: Local,
    /// All handlers.
    pub router: Arc<Router>,
    /// Where events come together.
    pub hub: Arc<Hub>,
    /// Background operations.
    pub operations: Operations,
    /// Who is connected to consoles.
    pub consoles: Consoles,
    /// When it was started.
    pub started: Instant,
    /// Wakes the main task when the daemon is to stop.
    pub stop: Notify,
    /// The containers of this member.
    pub containers: Arc<Containers>,
    /// What renews the leases of this member and ends what may not run on.
    pub guard: Arc<Guard>,
    /// What is remembered of the instances of this member.
    pub instances: Instances,
    /// Instances that are being placed.
    pub placing: Placing,
    /// Plans that this member carries out.
    pub plans: Plans,
    /// Instances as clients see them.
    pub instance_lists: Kept<Which, Vec<Seen>>,
    /// Leases of volumes that all members reach.
    pub leases: crate::leases::Leases,
    /// How many may be connected.
    pub door: Door,
    /// What it listens on.
    pub(crate) listeners: tokio::sync::Mutex<BTreeMap<crate::start::Listens, JoinHandle<()>>>,
    /// True once this member has caught up with the others; requests wait for that.
    pub ready: watch::Sender<bool>,
    /// The networks of this member.
    pub networks: Arc<Networks>,
    /// What it has made of them.
    pub places: crate::services::networks::Places,
    refreshing: tokio::sync::Mutex<()>,
    taking: tokio::sync::Mutex<()>,
    /// When a reader last waited for the majority in vain.
    missed: Mutex<Option<Instant>>,
    /// Where challenges of an ACME authority are answered, while there are any.
    pub acme: crate::services::acme::Listener,
    /// The authority that signs the certificates of clients, if there is one.
    pub pki: Pki,
    /// Tells that others may be trusted than before, or with something else.
    pub trust: watch::Sender<()>,
    /// Tells that what is known of the cluster was renewed after a change of the database.
    pub renewed: watch::Sender<()>,
    /// Tells that another database was taken into use.
    pub db_replaced: Notify,
    db: RwLock<Db>,
    health: RwLock<Arc<Health>>,
    health_task: Mutex<Option<JoinHandle<()>>>,
    tls: RwLock<Tls>,
    snapshot: RwLock<Arc<Snapshot>>,
    remotes: Mutex<HashMap<String, Arc<Remote>>>,
    addresses: RwLock<HashMap<u64, String>>,
    moved: RwLock<Vec<Moved>>,
    removed: AtomicBool,
    raft_id: AtomicU64,
    member_id: AtomicI64,
}

impl Daemon {
    /// Puts the parts together.
    pub fn new(
        paths: Paths,
        local: Local,
        own: Identity,
        cluster: Option<Identity>,
        router: Router,
        parts: Parts,
    ) -> Result<Arc<Daemon>> {
        let hub = Arc::new(Hub::new());
        let program = std::env::current_exe().context("Finding the own program")?;
        let networks = Arc::new(Networks::new(paths.root(), &own.fingerprint()?));
        let places = crate::services::networks::Places::open(networks.clone(), &paths);
        let guard = Arc::new(Guard::new(paths.guard(), program.clone()));
        let containers = Arc::new(Containers::new(paths.root(), program));
        let moved = local.moved()?;
        let pki = Pki::new(&paths);
        Ok(Arc::new(Daemon {
            paths,
            local,
            router: Arc::new(router),
            operations: Operations::new(hub.clone()),
            hub,
            consoles: Consoles::default(),
            started: Instant::now(),
            stop: Notify::new(),
            containers,
            guard,
            instances: Instances::default(),
            placing: Placing::default(),
            plans: Plans::default(),
            instance_lists: Kept::default(),
            leases: crate::leases::Leases::default(),
            door: Door::new(files_at_once()),
            listeners: tokio::sync::Mutex::default(),
            ready: watch::Sender::new(false),
            networks,
            places,
            refreshing: tokio::sync::Mutex::default(),
            taking: tokio::sync::Mutex::default(),
            missed: Mutex::default(),
            acme: crate::services::acme::Listener::default(),
            pki,
            trust: watch::Sender::default(),
            renewed: watch::Sender::default(),
            db_replaced: Notify::new(),
            db: RwLock::new(parts.db),
            health: RwLock::new(parts.health),
            health_task: Mutex::default(),
            tls: RwLock::new(Tls::new(own, cluster)?),
            snapshot: RwLock::default(),
            remotes: Mutex::default(),
            addresses: RwLock::new(parts.addresses),
            moved: RwLock::new(moved),
            removed: AtomicBool::new(false),
            raft_id: AtomicU64::new(parts.raft_id),
            member_id: AtomicI64::new(1),
        }))
    }

    /// The replicated database.
    pub fn db(&self) -> Db {
        self.db.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The health of the cluster.
    pub fn health(&self) -> Arc<Health> {
        self.health.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes another database into use: this server joins or leaves a cluster.
    pub fn replace_db(&self, raft_id: u64, db: Db, health: Arc<Health>) {
        self.raft_id.store(raft_id, Ordering::SeqCst);
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = db;
        *self.health.write().unwrap_or_else(PoisonError::into_inner) = health;
        self.db_replaced.notify_one();
    }

    /// Starts (again) what the health of the cluster does all the time.
    pub fn watch_health(&self) {
        let task = tokio::spawn(self.health().run(self.db()));
        if let Some(old) = self.health_task.lock().unwrap_or_else(PoisonError::into_inner).replace(task) {
            old.abort();
        }
    }

    /// This member's Raft id.
    pub fn raft_id(&self) -> u64 {
        self.raft_id.load(Ordering::SeqCst)
    }

    /// Row id of this member.
    pub fn member_id(&self) -> i64 {
        self.member_id.load(Ordering::SeqCst)
    }

    /// What is known of the cluster without asking.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This member's row.
    pub fn own_row(&self) -> Option<Member> {
        let id = self.raft_id();
        self.snapshot().members.iter().find(|m| m.raft_id == Some(id)).cloned()
    }

    /// True if a member has this address.
    pub fn has_member_at(&self, ip: IpAddr) -> bool {
        let of = |m: &Member| m.address.parse::<SocketAddr>().is_ok_and(|a| a.ip() == ip.to_canonical());
        self.snapshot().members.iter().any(of)
    }

    /// This member's name; `none` outside of a cluster.
    pub fn name(&self) -> String {
        self.own_row().map_or_else(|| NOT_CLUSTERED.to_owned(), |m| m.name)
    }

    /// True on a member of a cluster.
    pub fn clustered(&self) -> bool {
        self.name() != NOT_CLUSTERED
    }

    /// Refuses outside of a cluster.
    pub fn must_be_clustered(&self) -> Result<()> {
        if self.clustered() { Ok(()) } else { Err(Error::bad_request("This server is not clustered")) }
    }

    /// Refuses on a member that was evacuated: no instance is made or started on it.
    pub fn must_take_instances(&self) -> Result<()> {
        match self.own_row() {
            Some(own) if own.state == State::Evacuated => {
                Err(Error::bad_request("The cluster member is evacuated: restore it first"))
            }
            _ => Ok(()),
        }
    }

    /// Reads the newest state; without a majority the own replica as it is, which the answer to the request tells.
    pub async fn view<T: Send + 'static>(
        &self,
        f: impl Fn(&Tx<'_>) -> Result<T> + Clone + Send + Sync + 'static,
    ) -> Result<T> {
        let db = self.db();
        self.catch_up(&db).await;
        db.peek(f).await
    }

    /// As [`Daemon::view`], of what is often asked for: it is read again when the database has changed.
    pub async fn view_kept<K: Eq + Hash + Send, T: Send + Sync + 'static>(
        &self,
        kept: &Kept<K, T>,
        key: K,
        f: impl Fn(&Tx<'_>) -> Result<T> + Clone + Send + Sync + 'static,
    ) -> Result<Arc<T>> {
        self.catch_up(&self.db()).await;
        self.peek_kept(kept, key, f).await
    }

    /// Reads the own replica as it is, of what is looked at again and again: it is read again when that has changed.
    pub async fn peek_kept<K: Eq + Hash + Send, T: Send + Sync + 'static>(
        &self,
        kept: &Kept<K, T>,
        key: K,
        f: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<Arc<T>> {
        let db = self.db();
        let revision = db.revision();
        if let Some(value) = kept.get(revision, &key) {
            return Ok(value);
        }
        let value = Arc::new(db.peek(f).await?);
        if db.revision() == revision {
            kept.put(revision, key, value.clone());
        }
        Ok(value)
    }

    /// What every request needs, from the newest state as [`Daemon::view`] knows it.
    pub async fn newest(&self) -> Result<Arc<Snapshot>> {
        let db = self.db();
        self.catch_up(&db).await;
        self.refresh().await?;
        Ok(self.snapshot())
    }

    /// Brings the own replica to the newest state, or notes that the answer to the request may be older.
    async fn catch_up(&self, db: &Db) {
        if db.status().leader.is_some() && !self.majority_missed_lately() {
            // What can't be had in a moment can't be had: the replica answers, and the next readers don't wait for it.
            match tokio::time::timeout(MOMENT, db.read_barrier()).await {
                Ok(Ok(())) => return,
                _ => self.majority_missed(),
            }
        }
        reply::unconfirmed();
    }

    fn majority_missed(&self) {
        *self.missed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn majority_missed_lately(&self) -> bool {
        let missed = *self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        missed.is_some_and(|at| at.elapsed() < MOMENT)
    }

    /// Renews what is known of the cluster, if that has changed.
    pub async fn refresh(&self) -> Result<()> {
        let db = self.db();
        self.instance_lists.forget_unless(db.revision());
        let is_new = || self.snapshot().revision == db.revision_of(&Snapshot::TABLES);
        if is_new() {
            return Ok(());
        }
        // One after another, so that what was read earlier never replaces what was read later.
        let _one = self.refreshing.lock().await;
        if is_new() {
            return Ok(());
        }
        let revision = db.revision_of(&Snapshot::TABLES);
        let mut fresh = Snapshot { revision, ..db.peek(Snapshot::load).await? };
        crate::moved::apply(&self.moved(), &mut fresh.members);
        {
            let mut addresses = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
            for member in &fresh.members {
                if let Some(id) = member.raft_id {
                    addresses.insert(id, member.address.clone());
                }
            }
        }
        let before = self.snapshot();
        let other_certificate = before.certificate != fresh.certificate;
        let other_trust = before.certificates != fresh.certificates || before.config != fresh.config;
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        if other_trust {
            self.trust.send_replace(());
        }
        if other_certificate {
            // Those that are in use go on; new connections go by what is expected now.
            self.remotes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        if let Some(own) = self.own_row() {
            self.member_id.store(own.id, Ordering::SeqCst);
            self.hub.set_location(&own.name);
        }
        Ok(())
    }

    /// Writes a transaction and renews what is known of the cluster.
    pub async fn write<T: Send + 'static>(
        &self,
        f: impl Fn(&Tx<'_>) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        let value = self.db().write(f).await?;
        self.refresh().await?;
        Ok(value)
    }

    /// What the holder of a certificate (DER) with this fingerprint is worth; `None` if nobody knows it.
    pub async fn trust_of(&self, certificate: &[u8], fingerprint: &str) -> Option<Trust> {
        let known = self.known(fingerprint).await;
        if known == Some(Trust::Member) {
            return known;
        }
        match self.pki.judge(certificate) {
            Verdict::NotAsked => known,
            Verdict::Refused => None,
            Verdict::Signed => {
                let all = self.snapshot().config.read(&api::keys::server::TRUST_CA);
                known.or(all.then_some(Trust::Full))
            }
        }
    }

    async fn known(&self, fingerprint: &str) -> Option<Trust> {
        let known = |s: &Snapshot| s.certificates.iter().find(|c| c.fingerprint == fingerprint).map(trust);
        if let Some(trust) = known(&self.snapshot()) {
            return Some(trust);
        }
        // Members trust each other before there is a majority to ask.
        let servers = self.local.trusted_servers().unwrap_or_default();
        if servers.iter().any(|s| s.fingerprint == fingerprint) {
            return Some(Trust::Member);
        }
        // It may have come to be trusted a moment ago, through another member.
        let all = self.db().peek(db::certificates::list).await.ok()?;
        all.iter().find(|c| c.fingerprint == fingerprint).map(trust)
    }

    /// The TLS configuration of the listeners.
    pub fn server_tls(&self) -> Arc<ServerConfig> {
        self.tls().server.clone()
    }

    /// This server's own certificate.
    pub fn own_identity(&self) -> Identity {
        self.tls().own.clone()
    }

    /// The cluster's certificate.
    pub fn cluster_identity(&self) -> Option<Identity> {
        self.tls().cluster.clone()
    }

    /// The certificate that the API answers with.
    pub fn api_identity(&self) -> Identity {
        let tls = self.tls();
        tls.cluster.clone().unwrap_or_else(|| tls.own.clone())
    }

    /// Answers with the certificate of a cluster that is entered or left.
    pub async fn set_cluster_identity(&self, cluster: Option<Identity>) -> Result<()> {
        let _one = self.taking.lock().await;
        self.answer_with(cluster)
    }

    /// Keeps the certificate that the cluster's database has now and answers with it. True if another one of the cluster
    /// was in use.
    pub async fn take_cluster_identity(&self) -> Result<bool> {
        // Who replaces the certificate comes here, and who follows the database, at the same time.
        let _one = self.taking.lock().await;
        let (snapshot, used) = (self.snapshot(), self.cluster_identity());
        let (Some(wanted), Some(used)) = (&snapshot.certificate, used) else { return Ok(false) };
        if used.fingerprint()? == wanted.fingerprint {
            return Ok(false);
        }
        let wanted = crate::services::cluster_certificate::identity(wanted);
        crate::certs::write_cluster(&self.paths, &wanted)?;
        point::pass(self, "certificate:written").await;
        self.answer_with(Some(wanted))?;
        Ok(true)
    }

    fn answer_with(&self, cluster: Option<Identity>) -> Result<()> {
        let fresh = Tls::new(self.own_identity(), cluster)?;
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.remotes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    fn tls(&self) -> std::sync::RwLockReadGuard<'_, Tls> {
        self.tls.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What gets things from web servers: believes only the one with this certificate in PEM, or the machine's authorities
    /// if it is empty, and goes by the proxies that the configuration names.
    pub async fn web(&self, certificate: &str) -> Result<Web> {
        let config = self.view(db::config::get).await?;
        let [http, https, direct] = [&PROXY_HTTP, &PROXY_HTTPS, &PROXY_IGNORE_HOSTS].map(|key| config.read(key));
        Ok(Web::pinned(certificate)?.by(Proxies::new(&http, &https, &direct)?))
    }

    /// The other member at `address`.
    pub fn remote(&self, address: &str) -> Result<Arc<Remote>> {
        let mut remotes = self.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remote) = remotes.get(address) {
            return Ok(remote.clone());
        }
        let expected = self.expected_at(address)?;
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        let remote = Arc::new(Remote::tls(address, client_config_for(&expected, Some(&self.own_identity()))?));
        remotes.insert(address.to_owned(), remote.clone());
        Ok(remote)
    }

    /// The certificates, as fingerprints, of which the member at `address` shows one: that of the cluster, or an older
    /// one if it was away when that was replaced.
    fn expected_at(&self, address: &str) -> Result<Vec<String>> {
        let snapshot = self.snapshot();
        let mut expected = vec![self.api_identity().fingerprint()?];
        if let Some(certificate) = &snapshot.certificate {
            expected.push(certificate.fingerprint.clone());
            let member = snapshot.members.iter().find(|m| m.address == address).and_then(|m| m.raft_id);
            expected.extend(member.and_then(|id| certificate.showing.get(&id)).cloned());
        }
        Ok(expected)
    }

    /// The address of the member with this Raft id.
    pub fn address_of(&self, raft_id: u64) -> Option<String> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).get(&raft_id).cloned()
    }

    /// Members' addresses that were changed while the daemon was down and are not in the database yet.
    pub fn moved(&self) -> Vec<Moved> {
        self.moved.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All changed addresses are in the database.
    pub fn forget_moved(&self) -> Result<()> {
        self.local.forget_moved()?;
        self.moved.write().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    /// True if the cluster does not know this member any more.
    pub fn removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    /// Notes whether the cluster still knows this member.
    pub fn set_removed(&self, removed: bool) {
        self.removed.store(removed, Ordering::SeqCst);
    }

    /// Learns addresses before the database is there to tell them.
    pub fn learn_addresses(&self, known: impl IntoIterator<Item = (u64, String)>) {
        self.addresses.write().unwrap_or_else(PoisonError::into_inner).extend(known);
    }

    /// The address of the member of that name, or `None` if that is this one. Refuses for one that is offline.
    pub async fn member_address(&self, name: &str) -> Result<Option<String>> {
        if name == self.name() {
            return Ok(None);
        }
        let snapshot = self.snapshot();
        let not_found = || Error::not_found("Cluster member not found");
        let member = snapshot.members.iter().find(|m| m.name == name).ok_or_else(not_found)?;
        self.must_be_online(member, &snapshot)?;
        Ok(Some(member.address.clone()))
    }

    /// Refuses if the member is offline.
    pub fn must_be_online(&self, member: &Member, snapshot: &Snapshot) -> Result<()> {
        let seen = self.health().seen(member, &snapshot.config, Standing::Newest, jiff::Timestamp::now());
        if seen.offline() && Some(self.raft_id()) != member.raft_id {
            return Err(Error::unavailable(format!("Cluster member \"{}\" is offline", member.name)));
        }
        Ok(())
    }

    /// The address of the member that runs an operation, or `None` if that is this one.
    pub fn operation_address(&self, id: &str) -> Option<String> {
        let member = operations::member_of(id);
        if self.operations.get(id).is_ok() || member == self.raft_id() { None } else { self.address_of(member) }
    }

    /// The address of the member that holds an instance, or `None` if that is this one or nobody does.
    pub async fn instance_address(&self, project: &str, name: &str) -> Result<Option<String>> {
        let (project, name, own) = (project.to_owned(), name.to_owned(), self.member_id());
        let place = match self.view(move |tx| db::instances::place(tx, &project, &name)).await {
            Ok(place) => place.member_id,
            Err(e) if e.kind == api::Kind::NotFound => own,
            Err(e) => return Err(e),
        };
        let snapshot = self.snapshot();
        match snapshot.members.iter().find(|m| m.id == place && m.id != own) {
            None => Ok(None),
            Some(member) => {
                self.must_be_online(member, &snapshot)?;
                Ok(Some(member.address.clone()))
            }
        }
    }

    /// The address of the leader, or `None` if that is this member or nobody leads.
    pub fn leader_address(&self) -> Option<String> {
        let status = self.db().status();
        if status.leads() { None } else { self.address_of(status.leader?) }
    }

    /// What a new operation begins with.
    pub fn operation(&self, description: &'static str, project: &str, resources: Resources) -> New {
        New {
            id: String::new(),
            class: Class::Task,
            description,
            resources,
            metadata: serde_json::Map::new(),
            may_cancel: false,
            project: project.to_owned(),
            location: self.name(),
            raft_id: self.raft_id(),
        }
    }

    /// Runs work in the background.
    pub fn run<F, Fut>(&self, new: New, work: F) -> Arc<Operation>
    where
        F: FnOnce(Arc<Operation>) -> Fut,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.operations.run(new, work)
    }

    /// Runs work in the background that talks to the client through websockets of these names. It is cancelled when the
    /// client loses the trust for that.
    pub fn converse<F, Fut>(&self, cx: &Cx, new: New, names: &[&'static str], work: F) -> Arc<Operation>
    where
        F: FnOnce(Arc<Operation>, Sockets) -> Fut,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let operation = self.operations.converse(new, names, work);
        let (session, watched) = (Session::of(cx), operation.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = session.ended() => watched.begin_cancelling(),
                _ = watched.wait(None) => {}
            }
        });
        operation
    }

    /// Tells that something without a project has changed.
    pub fn tell(&self, action: &str, source: String, caller: &Caller) {
        self.hub.lifecycle(&crate::events::lifecycle(action, source, Some(caller.requestor())), "");
    }

    /// Tells that something in a project has changed.
    pub fn tell_in(&self, event: &Lifecycle, project: &str) {
        self.hub.lifecycle(event, project);
    }
}

/// What the daemon begins with.
pub struct Parts {
    /// The replicated database.
    pub db: Db,
    /// The health of the cluster.
    pub health: Arc<Health>,
    /// The members' addresses as they were last known.
    pub addresses: HashMap<u64, String>,
    /// This member's Raft id.
    pub raft_id: u64,
}

fn trust(certificate: &Certificate) -> Trust {
    match certificate.kind {
        CertificateType::Server => Trust::Member,
        CertificateType::Metrics => Trust::Metrics,
        CertificateType::Client if certificate.restricted => {
            Trust::Restricted(certificate.projects.iter().cloned().collect())
        }
        CertificateType::Client => Trust::Full,
    }
}

/// How many files this process may have open at once.
fn files_at_once() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use db::Rehearsal;

    use super::*;

    #[test]
    fn a_snapshot_is_read_from_the_tables_that_it_names() {
        let replica = Rehearsal::new().unwrap();
        replica.read_from(&Snapshot::TABLES, Snapshot::load).unwrap();
        for table in Snapshot::TABLES {
            let fewer: Vec<&str> = Snapshot::TABLES.into_iter().filter(|t| *t != table).collect();
            assert!(replica.read_from(&fewer, Snapshot::load).is_err(), "{table} is not read");
        }
    }
}
