//! Opening a replica, also if its file is damaged: then a copy of another member's takes its place.
//!
//! What this member has promised and acknowledged stands in the log, which is another file: it goes on as the same member.

use std::io;

use api::{Error, Result};

use super::copy::Copy;
use super::disk::sql;
use super::log::Log;
use super::machine::{Machine, load};
use super::network::Way;
use super::{Options, Transport};

/// Opens it.
///
/// # Errors
/// It can't be opened; or it is damaged, and no other member has given a copy that fits.
pub(super) async fn open(options: &Options, log: &Log, transport: &dyn Transport) -> Result<Machine> {
    let path = options.dir.join("db.bin");
    let begins_after = log.state()?.last_purged_log_id;
    let open = || {
        let machine = Machine::open(&path, options.schema, options.pages, options.disk.clone())?;
        match machine.standing().last >= begins_after {
            true => Ok(machine),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "it lacks what is not in the log any more")),
        }
    };
    let machine = match open() {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            tracing::error!("the database of this member is damaged: {e}");
            let (copy, of) = fetch(options, log, transport).await.map_err(|why| {
                Error::unavailable(format!("The database of this member is damaged ({e}), and there is no copy: {why}"))
            })?;
            copy.put_in_place(&path)?;
            tracing::warn!("the database of this member was replaced by a copy of that of member {of}");
            open()?
        }
        opened => opened?,
    };
    match machine.incarnation() {
        0 => {}
        known => log.note_incarnation(known).await?,
    }
    Ok(machine)
}

/// A copy of another member's, and whose it is.
async fn fetch(options: &Options, log: &Log, transport: &dyn Transport) -> Result<(Copy, u64)> {
    let mut refused = Vec::new();
    for other in &options.others {
        let fetched = async {
            let way = Way { transport, from: options.id, incarnation: 0, to: *other };
            let copy = way.fetch(&options.dir).await?;
            fits(&copy, log).await?;
            Ok::<_, Error>(copy)
        };
        match fetched.await {
            Ok(copy) => return Ok((copy, *other)),
            Err(e) => refused.push(format!("member {other}: {e}")),
        }
    }
    Err(Error::unavailable(match refused.is_empty() {
        true => "there are no other members. Restore a backup".to_owned(),
        false => format!("{}. It is tried again at the next start", refused.join("; ")),
    }))
}

/// Refuses a copy to which the log does not belong. If the log has another entry where the copy ends, it is one that never
/// counted, and so are those after it.
async fn fits(copy: &Copy, log: &Log) -> Result<()> {
    let theirs = {
        let source = rusqlite::Connection::open(copy.path()?).map_err(sql)?;
        load(&source)?
    };
    let known = log.incarnation()?;
    if theirs.incarnation == 0 || (known != 0 && theirs.incarnation != known) {
        return Err(Error::forbidden("It has another database"));
    }
    let Some(last) = theirs.last else { return Err(Error::unavailable("It has nothing yet")) };
    let purged = log.state()?.last_purged_log_id.map_or(0, |id| id.index());
    if last.index() < purged {
        return Err(Error::unavailable(format!("It stands at entry {}, and this member at {purged}", last.index())));
    }
    match log.id_at(last.index())? {
        Some(ours) if ours != last => Ok(log.restart_at(last).await?),
        _ => Ok(()),
    }
}
