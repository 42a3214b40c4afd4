//! `incusd cluster recover-from-quorum-loss`: going on with one member after a majority was lost for good; and `rejoin`,
//! with which the others that are left come back to it.

use std::fs;

use api::error::Context as _;
use api::{Error, Result};
use db::SCHEMA;
use db::engine::offline;
use db::local::Local;

use super::ask;
use super::nodes::in_words;
use crate::paths::Paths;
use crate::plans::point;

/// Makes this member the only one of the database.
pub async fn recover(paths: &Paths, local: &Local, quiet: bool) -> Result<()> {
    let id = local.raft_id()?.ok_or_else(|| Error::bad_request("This server has never been in a database"))?;
    let members = offline::members(&paths.global()).map_err(in_words)?;
    if members.voters == [id] && members.learners.is_empty() {
        return Err(Error::bad_request("This member is the only one of the database: there is nothing to recover"));
    }
    let (term, index) = members.last_log;
    let warning = format!(
        "The last entry of this member's log is {index}, of term {term} ({voters} members vote).\n\n\
         Do this only if a majority of the voters is lost for good, and only on one member: the one whose last entry\n\
         has the highest term, and among those the highest number (\"incusd cluster show\" on each). What is left of\n\
         the database on other members is refused from then on.\n\n\
         Nothing is removed from the database: the lost members are still listed, with what was on them, until they\n\
         are removed by \"incus cluster remove <member> --force\".\n",
        voters = members.voters.len(),
    );
    ask::sure(&warning, quiet, "Recover operation aborted")?;
    let settled = offline::Settled::new(&paths.global(), SCHEMA).await.map_err(in_words)?;
    point::pass_in(paths.root(), "recover:settled").await;
    settled.belongs_to(id)?;
    println!("This member holds the database alone now: start the daemon.");
    Ok(())
}

/// Gives up this member's database, to get that of the recovered member.
///
/// It comes back under its old Raft id, which is safe because the new database is another one: nobody there relies on
/// what it has acknowledged. In the old one somebody may, so that is refused as long as there is no new one.
pub fn rejoin(paths: &Paths, local: &Local, quiet: bool) -> Result<()> {
    let id = local.raft_id()?.ok_or_else(|| Error::bad_request("This server has never been in a database"))?;
    let members = offline::members(&paths.global()).map_err(in_words)?;
    if members.voters == [id] && members.learners.is_empty() {
        return Err(Error::bad_request("This member holds the database alone: the others rejoin it, it does not"));
    }
    let warning = "This gives up this member's copy of the database, in order to get that of a member that was recovered with\n\
                   \"incusd cluster recover-from-quorum-loss\". Instances, images and volumes stay. As long as no other member\n\
                   was recovered this one will not be able to serve.\n";
    ask::sure(warning, quiet, "The database was left as it was")?;
    let _closed = offline::keep_closed(&paths.global()).map_err(in_words)?;
    local.set_given_up(members.incarnation)?;
    match fs::remove_dir_all(paths.global_given_up()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::from(e).context("Making room")),
        _ => {}
    }
    fs::rename(paths.global(), paths.global_given_up()).context("Setting the database aside")?;
    println!("This member has no database now: start the daemon, and it gets the cluster's.");
    Ok(())
}
