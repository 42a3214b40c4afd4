//! Files of clusters that have been formed, made once: each life begins with a copy of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use api::{Error, Result};
use db::members::{NewMember, State};
use db::value::Architecture;

use super::disk::End;
use super::world::World;
use super::{VOTERS, folder, simulated};
use crate::invariants::rest;
use crate::trace::Trace;

/// The files of a member: name and content of each.
pub type Files = Vec<(OsString, Vec<u8>)>;

/// The files of a cluster of so many members, by Raft id.
pub fn of(members: u64) -> Result<Arc<BTreeMap<u64, Files>>> {
    static MADE: Mutex<BTreeMap<u64, Arc<BTreeMap<u64, Files>>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(files) = made.get(&members) {
        return Ok(files.clone());
    }
    // On a thread of its own, as this one may be in the middle of a life.
    let files = std::thread::spawn(move || make(members)).join();
    let files = Arc::new(files.map_err(|_| Error::internal("Forming a cluster has panicked"))??);
    made.insert(members, files.clone());
    Ok(files)
}

/// Puts the files of a member into its folder.
pub fn lay_out(files: &Files, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    files.iter().try_for_each(|(name, bytes)| std::fs::write(to.join(name), bytes))
}

fn take_in(from: &Path) -> std::io::Result<Files> {
    let all = std::fs::read_dir(from)?.map(|entry| entry.and_then(|e| Ok((e.file_name(), std::fs::read(e.path())?))));
    all.collect()
}

fn make(members: u64) -> Result<BTreeMap<u64, Files>> {
    let work = folder()?;
    simulated(members, form(members, work.path()))?
}

async fn form(members: u64, work: &Path) -> Result<BTreeMap<u64, Files>> {
    let world = World::new(members, work, Trace::new(false), None);
    let first = world.start(1).await?;
    first.bootstrap().await?;
    for id in 2..=members {
        world.start(id).await?;
    }
    first.write(move |tx| join(tx, members)).await?;
    let settled = || {
        let statuses = world.statuses();
        rest::unrest(&statuses).is_none() && statuses.first().is_some_and(|s| s.voters.len() == VOTERS)
    };
    for _ in 0..1000 {
        world.wait(0.5).await;
        if settled() {
            let files = (1..=members).map(|id| {
                world.end(id, End::Killed);
                Ok((id, take_in(&work.join(format!("{id}.2")))?))
            });
            return files.collect();
        }
    }
    Err(Error::internal(format!("No cluster of {members} members forms: {:?}", rest::unrest(&world.statuses()))))
}

fn join(tx: &db::Tx<'_>, members: u64) -> Result<()> {
    // So that roles change in a short life, too.
    db::config::set(tx, "cluster.offline_threshold", Some("5"))?;
    for n in 2..=members {
        let new = NewMember {
            name: format!("server{n}"),
            address: format!("10.0.0.{n}:8443"),
            schema: db::SCHEMA.latest,
            api_extensions: 1,
            architecture: Architecture::X86_64,
            state: State::Created,
        };
        let row = db::members::create(tx, &new)?;
        db::members::allocate_raft_id(tx, row)?;
    }
    Ok(())
}
