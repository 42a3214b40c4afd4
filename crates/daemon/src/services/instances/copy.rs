//! Copies of instances and of their snapshots, from wherever they are in the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::instance::InstanceSource;
use api::key::Config;
use api::{Error, Result};
use db::snapshots::{NewSnapshot, Snapshot};
use drivers::storage::{self, Part};
use incus_core::expand::is_volatile;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::edge::Cx;
use crate::edge::auth::check;
use crate::instances::{Loaded, expanded};
use crate::operations::Operation;
use crate::services::pools;
use crate::state::Daemon;
use crate::volumes::{self, Source};

/// What is copied.
pub struct Original {
    /// The instance.
    pub loaded: Loaded,
    /// The pool that it lies in.
    pool: String,
    /// The snapshot of it that is copied, if not the instance itself.
    snapshot: Option<Snapshot>,
    /// All its snapshots.
    snapshots: Vec<Snapshot>,
}

impl Original {
    /// Looks up what `source` names; the caller must be allowed to see it.
    pub async fn find(cx: &Cx, source: &InstanceSource) -> Result<Original> {
        let project = if source.project.is_empty() { cx.project() } else { &source.project }.to_owned();
        check(&cx.caller.trust, api::endpoint::Allow::Project, &project)?;
        let (name, snapshot) = match source.source.split_once('/') {
            Some((name, snapshot)) => (name.to_owned(), Some(snapshot.to_owned())),
            None => (source.source.clone(), None),
        };
        if name.is_empty() {
            return Err(Error::bad_request("Must specify a source instance"));
        }
        cx.daemon
            .view(move |tx| {
                let loaded = expanded(tx, db::instances::get(tx, &project, &name)?)?;
                let id = loaded.row.id;
                let snapshot = snapshot.as_ref().map(|s| db::snapshots::get(tx, id, s)).transpose()?;
                let pool = db::volumes::of_instance(tx, id)?.pool;
                Ok(Original { loaded, pool, snapshot, snapshots: db::snapshots::list(tx, id)? })
            })
            .await
    }

    /// True if an instance of the new name exists and is to be brought up to date.
    pub async fn refreshes(&self, cx: &Cx, name: &str) -> Result<bool> {
        let (project, name) = (cx.project().to_owned(), name.to_owned());
        Ok(cx.daemon.view(move |tx| db::instances::find(tx, &project, &name)).await?.is_some())
    }

    /// Adds to the configuration of the copy what it takes over.
    pub fn complete(&self, config: &mut Config) {
        let then = self.snapshot.as_ref().map_or(&self.loaded.row.config, |s| &s.config);
        let taken = |key: &str| !is_volatile(key) || key == "volatile.base_image";
        for (key, value) in then.iter().filter(|(key, _)| taken(key)) {
            config.entry(key.clone()).or_insert_with(|| value.clone());
        }
        config.retain(|key, _| taken(key));
    }

    fn part(&self, source: &InstanceSource) -> Part {
        match &self.snapshot {
            Some(snapshot) => Part::Snapshot(snapshot.name.clone()),
            None if source.instance_only => Part::Alone,
            None => Part::Whole,
        }
    }

    /// Copies the files, while the caller holds the lock of the new volume; the snapshots that came with them, to be recorded.
    pub async fn copy_volume(
        &self,
        daemon: &Arc<Daemon>,
        copy: &Loaded,
        pool: &str,
        source: &InstanceSource,
        operation: &Arc<Operation>,
    ) -> Result<Vec<NewSnapshot>> {
        let part = self.part(source);
        let (from, to) = (self.loaded.volume(), copy.volume());
        let progress = progress(operation.clone());
        match daemon.member_address(&self.loaded.row.member).await? {
            None => {
                let (from_pool, to_pool) = (pools::open(daemon, &self.pool).await?, pools::open(daemon, pool).await?);
                let part = part.clone();
                blocking::run(move || {
                    storage::copy((&*from_pool, &from), &part, (&*to_pool, &to), &mut |n| progress(n))
                })
                .await?;
            }
            Some(address) => {
                let (whole, stop) = (part.clone(), CancellationToken::new());
                let source = Source { address: &address, pool: &self.pool, volume: &from, part: whole, stop };
                volumes::fetch_locked(daemon, &source, pool, &to, progress).await?;
            }
        }
        if part != Part::Whole {
            return Ok(Vec::new());
        }
        let snapshot = |s: &Snapshot| NewSnapshot {
            instance_id: 0,
            name: s.name.clone(),
            created: s.created,
            expires: s.expires,
            stateful: s.stateful,
            description: s.description.clone(),
            config: s.config.clone(),
            devices: s.devices.clone(),
        };
        Ok(self.snapshots.iter().map(snapshot).collect())
    }
}

/// Tells now and then how much has come over.
pub fn progress(operation: Arc<Operation>) -> impl Fn(u64) + Send + Sync + 'static {
    /// Bytes between two reports.
    const STEP: u64 = 8 << 20;
    let told = AtomicU64::new(0);
    move |bytes| {
        if bytes / STEP > told.swap(bytes / STEP, Ordering::Relaxed) {
            let text = format!("{}MB", bytes >> 20);
            operation.report([("fs_progress".to_owned(), Value::from(text))]);
        }
    }
}
