//! Making this server a member of the cluster in a backup, while its daemon is down.
//!
//! All that is to be is made ready in the folder `database/restoring` under another name; from the moment at which it
//! bears its name, the restore is done in any case: what is left to do is done by whoever comes next, the same command
//! or the daemon when it starts.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use api::error::Context as _;
use api::internal::MemberOwn;
use api::{Error, Result};
use client::tls::Identity;
use db::SCHEMA;
use db::engine::offline;
use db::local::{Local, Moved, RaftNode, RaftRole, TrustedServer};
use db::members;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::archive::{self, Keys, Manifest};
use crate::paths::Paths;
use crate::{certs, join, repair};

/// What is wanted of a restore.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The member that this server becomes.
    pub member: Option<String>,
    /// The member that holds the database first.
    pub first: Option<String>,
    /// New addresses, as `NAME=ADDRESS`.
    pub addresses: Vec<String>,
}

/// A backup that fits this server, unpacked.
pub struct Ready {
    /// What it is.
    pub manifest: Manifest,
    /// The member that this server becomes.
    pub member: String,
    /// The member that holds the database first.
    pub first: String,
    keys: Keys,
    nodes: Vec<RaftNode>,
    moved: Vec<Moved>,
}

impl Ready {
    /// Name and address of each member.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, &str)> {
        self.nodes.iter().map(|n| (n.name.as_str(), n.address.as_str()))
    }
}

/// What this server is to be: `restoring/state.json`.
#[derive(Serialize, Deserialize)]
struct Goal {
    created: Timestamp,
    raft_id: u64,
    /// The incarnation of the database in the backup, on a server that gets the database from the first one; else 0.
    given_up: u64,
    /// Raft id, name and address of the members.
    nodes: Vec<(u64, String, String)>,
    /// Fingerprint, name and certificate of the members.
    servers: Vec<(String, String, String)>,
    certificate: String,
    key: String,
    own: MemberOwn,
}

/// Reads and checks everything, and changes nothing that is in use.
pub fn prepare(paths: &Paths, file: &Path, wish: &Wish) -> Result<Ready> {
    must_be_free(paths)?;
    let dir = paths.restoring_new();
    remove(&dir)?;
    fs::create_dir_all(&dir).context("Making room for the backup")?;
    let mut database = File::options().create_new(true).write(true).open(dir.join("database.db"))?;
    let ready = archive::read(file, &mut database).and_then(|(manifest, keys)| choose(manifest, keys, wish));
    database.sync_all()?;
    if ready.is_err() {
        remove(&dir)?;
    }
    ready
}

/// Removes what [`prepare`] has unpacked.
pub fn forget(paths: &Paths) -> Result<()> {
    remove(&paths.restoring_new())
}

/// Makes this server what `ready` says.
pub async fn carry_out(paths: &Paths, ready: &Ready) -> Result<()> {
    let dir = paths.restoring_new();
    let copy = dir.join("database.db");
    let (incarnation, certificates) = offline::look_into(&copy, SCHEMA, db::certificates::list)?;
    let own = ready.nodes.iter().find(|n| n.name == ready.member);
    let own = own.ok_or_else(|| Error::internal("The member is not in the backup"))?;
    let first = ready.first == ready.member;
    if first {
        let moved = ready.moved.clone();
        offline::restore(&dir.join("global"), &copy, own.id, SCHEMA, move |tx| {
            while !members::move_addresses(tx, &moved)? {}
            Ok(())
        })
        .await?;
    } else {
        fs::remove_file(&copy)?;
    }
    let keys = &ready.keys;
    let mut theirs = keys.members.get(&ready.member).cloned().unwrap_or_default();
    if let Some(moved) = ready.moved.iter().find(|m| m.id == own.id) {
        theirs.config.extend(repair::own_config(&theirs.config, &moved.old, &moved.new));
    }
    let servers = certificates.into_iter().filter(|c| c.kind == db::certificates::CertificateType::Server);
    let goal = Goal {
        created: ready.manifest.created,
        raft_id: own.id,
        given_up: if first { 0 } else { incarnation },
        nodes: ready.nodes.iter().map(|n| (n.id, n.name.clone(), n.address.clone())).collect(),
        servers: servers.map(|c| (c.fingerprint, c.name, c.certificate)).collect(),
        certificate: keys.certificate.clone(),
        key: keys.key.clone(),
        own: theirs,
    };
    let text = serde_json::to_vec(&goal).map_err(|e| Error::internal(e.to_string()))?;
    fs::write(dir.join("state.json"), text)?;
    File::open(dir.join("state.json"))?.sync_all()?;
    crate::plans::point::pass_in(paths.root(), "restore:ready").await;
    fs::rename(&dir, paths.restoring()).context("Beginning the restore")?;
    File::open(paths.root().join("database"))?.sync_all()?;
    crate::plans::point::pass_in(paths.root(), "restore:begun").await;
    finish(paths)
}

/// Ends a restore that has been begun.
pub fn finish(paths: &Paths) -> Result<()> {
    let dir = paths.restoring();
    if !dir.exists() {
        return Ok(());
    }
    let unreadable = |e| Error::internal(format!("{} is unreadable: {e}", dir.join("state.json").display()));
    let goal: Goal = serde_json::from_slice(&fs::read(dir.join("state.json"))?).map_err(unreadable)?;
    let local = Local::open(&paths.local_db(), Timestamp::now())?;
    let node = |(id, name, address): &(u64, String, String)| RaftNode {
        id: *id,
        name: name.clone(),
        address: address.clone(),
        role: if *id == goal.raft_id && goal.given_up == 0 { RaftRole::Voter } else { RaftRole::Spare },
    };
    let server = |(fingerprint, name, certificate): &(String, String, String)| TrustedServer {
        fingerprint: fingerprint.clone(),
        name: name.clone(),
        certificate: certificate.clone(),
    };
    local.forget_cluster()?;
    local.set_raft_id(goal.raft_id)?;
    local.set_given_up(goal.given_up)?;
    local.replace_raft_nodes(&goal.nodes.iter().map(node).collect::<Vec<_>>())?;
    local.replace_trusted_servers(&goal.servers.iter().map(server).collect::<Vec<_>>())?;
    local.replace_config(&goal.own.config)?;
    certs::write_own(paths, &Identity { certificate: goal.own.certificate.clone(), key: goal.own.key.clone() })?;
    for (path, text) in [(paths.server_ca(), &goal.own.authority), (paths.ca_crl(), &goal.own.revoked)] {
        if !text.is_empty() {
            fs::write(&path, text).context(format!("Writing {}", path.display()))?;
        }
    }
    // Here or never: the folder has been moved already.
    if dir.join("global").exists() || goal.given_up != 0 {
        remove(&paths.global())?;
    }
    if dir.join("global").exists() {
        fs::rename(dir.join("global"), paths.global()).context("Putting the database in its place")?;
    }
    certs::write_cluster(paths, &Identity { certificate: goal.certificate.clone(), key: goal.key.clone() })?;
    fs::write(paths.restored(), format!("from a backup of {}\n", goal.created)).context("Noting the restore")?;
    remove(&dir)
}

/// Refuses where something would be lost.
fn must_be_free(paths: &Paths) -> Result<()> {
    if paths.cluster_cert().exists() {
        return Err(Error::conflict(format!(
            "This server belongs to a cluster already. To restore another one, or an older state of the same, stop the \
             daemon and move {} and {} away first",
            paths.root().join("database").display(),
            paths.cluster_cert().display()
        )));
    }
    if !paths.global().exists() {
        return Ok(());
    }
    let _closed = offline::keep_closed(&paths.global()).map_err(repair::in_words)?;
    let (_, used) = offline::look_into(&paths.global().join("db.bin"), SCHEMA, join::belongings)?;
    match used.is_empty() {
        true => Ok(()),
        false => Err(Error::conflict(format!(
            "This server has {}: only a server with nothing on it can become a member of the cluster in a backup",
            used.join(", ")
        ))),
    }
}

/// Who this server becomes, who is first, and which addresses there are.
fn choose(manifest: Manifest, keys: Keys, wish: &Wish) -> Result<Ready> {
    let names: Vec<&str> = manifest.members.iter().map(|m| m.name.as_str()).collect();
    let known = |name: &str| {
        let unknown = || format!("The backup has no member \"{name}\": it has {}", names.join(", "));
        if names.contains(&name) { Ok(name.to_owned()) } else { Err(Error::bad_request(unknown())) }
    };
    let member = match (&wish.member, names.as_slice()) {
        (Some(name), _) => known(name)?,
        (None, [one]) => (*one).to_owned(),
        (None, _) => known(&certs::hostname())
            .map_err(|e| Error::bad_request(format!("{e}. Say which one this server becomes with --member")))?,
    };
    let first = wish.first.as_ref().map_or_else(|| Ok(manifest.made_on.clone()), |name| known(name))?;
    for name in [&member, &first] {
        if !keys.members.contains_key(name) {
            return Err(Error::bad_request(format!(
                "The keys of \"{name}\" are not in the backup: it did not answer when that was made. Restore the others, \
                 remove it there (\"incus cluster remove {name} --force\"), and let this server join as a new member"
            )));
        }
    }
    let mut nodes = Vec::new();
    for m in &manifest.members {
        let new = wish.addresses.iter().filter_map(|a| a.split_once('=')).find(|(name, _)| *name == m.name);
        let address = new.map_or_else(|| Ok(m.address.clone()), |(_, address)| repair::usable(address))?;
        nodes.push(RaftNode { id: m.raft_id, name: m.name.clone(), address, role: RaftRole::Spare });
    }
    for address in &wish.addresses {
        let (name, _) = address.split_once('=').ok_or_else(|| {
            Error::bad_request(format!("\"{address}\" does not say whose address that is: write NAME=ADDRESS"))
        })?;
        known(name)?;
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = nodes.iter().find(|n| !seen.insert(&n.address)) {
        return Err(Error::bad_request(format!("Two members have the address \"{}\"", twice.address)));
    }
    let moved = manifest.members.iter().zip(&nodes).filter(|(m, n)| m.address != n.address);
    let moved = moved.map(|(m, n)| Moved { id: n.id, old: m.address.clone(), new: n.address.clone() }).collect();
    Ok(Ready { manifest, member, first, keys, nodes, moved })
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::from(e).context(format!("Removing {}", dir.display())))
        }
        _ => Ok(()),
    }
}
