//! Making a backup while the cluster runs, on any member.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use api::error::Context as _;
use api::internal::MemberOwn;
use api::{Error, Result};
use db::SCHEMA;
use db::engine::offline;
use futures::future::join_all;
use hyper::{Request, Response};
use jiff::Timestamp;

use super::archive::{self, Keys, Manifest, Member};
use crate::blocking;
use crate::edge::{Body, Cx, Incoming};
use crate::services::cluster_certificate;
use crate::services::images::export::file_stream;
use crate::state::Daemon;

/// How long a member may take to tell what it has of its own.
const PATIENCE: Duration = Duration::from_secs(5);

/// `GET /internal/cluster/own`.
pub async fn own(cx: Cx, (): ()) -> Result<MemberOwn> {
    owned(&cx.daemon)
}

fn owned(daemon: &Daemon) -> Result<MemberOwn> {
    let identity = daemon.own_identity();
    let text = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    Ok(MemberOwn {
        certificate: identity.certificate,
        key: identity.key,
        config: daemon.local.config()?,
        authority: text(daemon.paths.server_ca()),
        revoked: text(daemon.paths.ca_crl()),
    })
}

/// `GET /internal/cluster/backup`.
pub async fn serve(cx: Cx, _: Request<Incoming>) -> Result<Response<Body>> {
    let daemon = &cx.daemon;
    daemon.must_be_clustered()?;
    let file = make(daemon).await?;
    let size = file.metadata()?.len();
    Response::builder()
        .header("content-type", "application/octet-stream")
        .header("content-length", size)
        .body(file_stream(file))
        .map_err(|e| Error::internal(e.to_string()))
}

/// Makes a backup in a file that has no name any more.
async fn make(daemon: &Arc<Daemon>) -> Result<File> {
    let identity = cluster_certificate::newest(daemon)?;
    let mut keys = Keys { certificate: identity.certificate, key: identity.key, members: everybody_s(daemon).await };
    keys.members.insert(daemon.name(), owned(daemon)?);
    let (copy, confirmed) = daemon.db().copy().await?;
    let made_on = daemon.name();
    let beside = daemon.paths.root().join(format!("database/backup-{:016x}", rand::random::<u64>()));
    blocking::run(move || {
        let (_, (schema, members)) =
            offline::look_into(copy.path()?, SCHEMA, |tx| Ok((db::schema::of(tx)?, db::members::list(tx)?)))?;
        let member = |m: db::members::Member| {
            let has_keys = keys.members.contains_key(&m.name);
            Some(Member { raft_id: m.raft_id?, name: m.name, address: m.address, has_keys })
        };
        let members = members.into_iter().filter_map(member).collect();
        let created = Timestamp::now();
        let manifest = Manifest { format: 0, created, made_on, confirmed, schema, members, sums: BTreeMap::new() };
        let mut file = File::options().create_new(true).read(true).write(true).mode(0o600).open(&beside)?;
        std::fs::remove_file(&beside)?;
        archive::write(&file, manifest, &keys, copy.path()?).context("Writing the backup")?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    })
    .await
}

/// What the other members have of their own, by name; without those that can't be asked.
async fn everybody_s(daemon: &Arc<Daemon>) -> BTreeMap<String, MemberOwn> {
    let (own, snapshot) = (daemon.raft_id(), daemon.snapshot());
    let others = snapshot.members.iter().filter(|m| m.raft_id.is_some_and(|id| id != own));
    let asked = others.map(|m| async {
        let remote = daemon.remote(&m.address).ok()?;
        let call = remote.call(&api::internal::OWN, &[], "", &());
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(Ok(theirs)) => return Some((m.name.clone(), theirs)),
            Ok(Err(e)) => tracing::warn!("the keys of {} are not in the backup: {e}", m.name),
            Err(_) => tracing::warn!("the keys of {} are not in the backup: it does not answer", m.name),
        }
        None
    });
    join_all(asked).await.into_iter().flatten().collect()
}
