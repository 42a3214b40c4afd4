//! What can be done with a database while no server uses it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use api::{Error, Result};
use openraft::Membership;
use openraft::storage::RaftLogStorage as _;
use openraft::type_config::alias::{LeaderIdOf, StoredMembershipOf, VoteOf};
use openraft::vote::{RaftLeaderId as _, RaftVote as _};
use rusqlite::{Connection, OpenFlags};

use super::disk::PAGES;
use super::log::Log;
use super::machine::{Machine, Standing, load, make_durable, store};
use super::runtime::random;
use super::types::Types;
use super::{Schema, lock};
use crate::tx::{Tx, failed};

/// What the files of a member say of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Members that vote.
    pub voters: Vec<u64>,
    /// Members that hold the database and do not vote.
    pub learners: Vec<u64>,
    /// The last term that this member has heard of.
    pub term: u64,
    /// Term and index of the last entry in its log. Where a majority is lost for good, go on with the member where
    /// these are highest: it has all that was ever acknowledged to anybody, if any of those that are left has.
    pub last_log: (u64, u64),
    /// The last entry that its replica holds.
    pub applied: u64,
    /// The schema version.
    pub schema: i64,
    /// Names the database among all others.
    pub incarnation: u64,
}

/// The database is not in use, and can't be taken into use before this is dropped.
#[derive(Debug)]
pub struct Closed(#[allow(dead_code)] std::fs::File);

/// Makes sure that no server uses the database in the folder `dir`.
pub fn keep_closed(dir: &Path) -> Result<Closed> {
    if !dir.join("db.bin").exists() || !dir.join("raft.db").exists() {
        return Err(Error::not_found(format!("There is no database in {}", dir.display())));
    }
    lock(dir).map(Closed)
}

fn open(dir: &Path) -> Result<Log> {
    Ok(Log::open(&dir.join("raft.db"), PAGES, None)?)
}

/// The members of the database in the folder `dir`, as its files tell. Refused while a server uses it.
pub fn members(dir: &Path) -> Result<Members> {
    let _closed = keep_closed(dir)?;
    let log = open(dir)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(dir.join("db.bin"), flags).map_err(failed)?;
    let mut standing = load(&db)?;
    for entries in log.entries(standing.last.map_or(0, |id| id.index())) {
        for entry in entries? {
            if let openraft::EntryPayload::Membership(m) = entry.payload {
                standing.membership = StoredMembershipOf::<Types>::new(Some(entry.log_id), m);
            }
        }
    }
    let last = log.state()?.last_log_id.max(standing.last);
    let voters: BTreeSet<u64> = standing.membership.voter_ids().collect();
    Ok(Members {
        learners: standing.membership.nodes().map(|(id, _)| *id).filter(|id| !voters.contains(id)).collect(),
        voters: voters.into_iter().collect(),
        term: log.vote()?.map_or(0, |vote| vote.leader_id().term()),
        last_log: last.map_or((0, 0), |id| (id.committed_leader_id().term, id.index())),
        applied: standing.last.map_or(0, |id| id.index()),
        schema: standing.version,
        incarnation: standing.incarnation,
    })
}

/// Makes this member, whose Raft id is `id`, the only one of the database in the folder `dir`, after a majority
/// of the voters was lost for good. Refused while a server uses it.
///
/// Everything that is in this member's log is kept, even if it was never confirmed. The database gets a new
/// incarnation: what is left of the old one on other members is refused from now on, and they have to join again
/// with an empty database and new ids. The number returned is the new incarnation.
pub async fn recover_from_quorum_loss(dir: &Path, id: u64, schema: Schema) -> Result<u64> {
    Settled::new(dir, schema).await?.belongs_to(id)
}

/// A database whose log is empty because its replica holds everything. It can still be used as it was before.
#[derive(Debug)]
pub struct Settled {
    closed: Closed,
    path: PathBuf,
}

impl Settled {
    /// Applies all that is in the log of the database in the folder `dir`. Refused while a server uses it.
    pub async fn new(dir: &Path, schema: Schema) -> Result<Settled> {
        let closed = keep_closed(dir)?;
        let log = open(dir)?;
        let path = dir.join("db.bin");
        let machine = Machine::open(&path, schema, PAGES, None)?;
        for entries in log.entries(machine.standing().last.map_or(0, |id| id.index())) {
            machine.apply_all(&entries?).map_err(|halt| Error::internal(halt.why))?;
        }
        let Some(last) = machine.standing().last else {
            return Err(Error::bad_request("The database of this member is empty: go on with another member"));
        };
        drop(machine);
        make_durable(&super::machine::connect(&path).map_err(failed)?)?;
        // Its older memberships, and the incarnation that it began with, must not come back from it.
        log.restart_at(last).await?;
        Ok(Settled { closed, path })
    }

    /// Makes `id` its only member, under a new incarnation, which is returned: one write, done or not done.
    pub fn belongs_to(self, id: u64) -> Result<u64> {
        let db = super::machine::connect(&self.path).map_err(failed)?;
        let standing = load(&db)?;
        let incarnation = random::<u64>() | 1;
        let alone = Membership::new_with_defaults(vec![BTreeSet::from([id])], []);
        let membership = StoredMembershipOf::<Types>::new(standing.last, alone);
        store(&db, &Standing { membership, incarnation, ..standing })?;
        make_durable(&db)?;
        drop(self.closed);
        Ok(incarnation)
    }
}

/// What `f` reads from a whole copy of a replica, after the incarnation of the database.
pub fn look_into<T>(copy: &Path, schema: Schema, f: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<(u64, T)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(copy, flags).map_err(failed)?;
    let standing = load(&db)?;
    too_new(standing.version, schema)?;
    Ok((standing.incarnation, f(&Tx(&db))?))
}

/// Makes a database in the folder `dir` of a whole copy of a replica: `id` is its only member, under a new incarnation,
/// which is returned, and `change` is made in it. The copy is moved there. A crash leaves a folder that is no
/// good: it is made anew.
pub async fn restore(
    dir: &Path,
    copy: &Path,
    id: u64,
    schema: Schema,
    change: impl FnOnce(&Tx<'_>) -> Result<()>,
) -> Result<u64> {
    std::fs::create_dir(dir)?;
    std::fs::rename(copy, dir.join("db.bin"))?;
    let mut log = open(dir)?;
    let settled = Settled::new(dir, schema).await?;
    let db = super::machine::connect(&settled.path).map_err(failed)?;
    let last = load(&db)?.last;
    // It is elected in a term that is newer than all that it has.
    let term = last.map_or(0, |id| id.committed_leader_id().term) + 1;
    log.save_vote(&VoteOf::<Types>::from_leader_id(LeaderIdOf::<Types>::new(term, id), false)).await?;
    drop(log);
    db.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    change(&Tx(&db))?;
    db.execute_batch("COMMIT").map_err(failed)?;
    drop(db);
    settled.belongs_to(id)
}

/// Refuses a database that this program does not know yet.
fn too_new(version: i64, schema: Schema) -> Result<()> {
    if version <= schema.latest {
        return Ok(());
    }
    Err(Error::bad_request(format!(
        "The database has schema version {version}, and this server knows versions up to {}: upgrade it",
        schema.latest
    )))
}
