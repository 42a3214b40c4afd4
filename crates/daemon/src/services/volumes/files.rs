//! The files of a volume on this member, and keeping them in step with its row.

use std::sync::Arc;

use api::{Error, Kind, Result};
use db::Tx;
use db::volumes::Volume as Row;
use drivers::storage::{Driver, Volume};

use crate::services::pools;
use crate::state::Daemon;
use crate::{blocking, volumes};

/// The key under which a row notes what was begun with its files.
pub const UNFINISHED: &str = "volatile.unfinished";

/// What was begun with the files of a volume and has to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// The volume gets this name.
    Rename(String),
    /// A snapshot gets another name.
    RenameSnapshot {
        /// Its name.
        from: String,
        /// The other name.
        to: String,
    },
    /// What was prepared takes the place of the volume.
    Replace,
}

impl Unfinished {
    /// As it stands in a row. Names hold no spaces.
    fn write(&self) -> String {
        match self {
            Unfinished::Rename(to) => format!("rename {to}"),
            Unfinished::RenameSnapshot { from, to } => format!("rename-snapshot {from} {to}"),
            Unfinished::Replace => "replace".to_owned(),
        }
    }

    /// What a row says.
    pub fn of(row: &Row) -> Option<Unfinished> {
        let words: Vec<&str> = row.config.get(UNFINISHED)?.split(' ').collect();
        match words[..] {
            ["replace"] => Some(Unfinished::Replace),
            ["rename", to] => Some(Unfinished::Rename(to.to_owned())),
            ["rename-snapshot", from, to] => {
                Some(Unfinished::RenameSnapshot { from: from.to_owned(), to: to.to_owned() })
            }
            _ => None,
        }
    }
}

/// The files of a volume.
pub fn of(row: &Row) -> Result<Volume> {
    volumes::files(row)
        .ok_or_else(|| Error::bad_request(format!("Storage volumes of type \"{}\" have no files here", row.kind)))
}

/// Holds the files of a volume; the row as it is then, with nothing left unfinished.
pub async fn hold(daemon: &Arc<Daemon>, row: &Row) -> Result<(volumes::Lock, Row)> {
    let lock = volumes::lock(daemon, &row.pool, &of(row)?).await?;
    let id = row.id;
    let now = daemon.db().read(move |tx| db::volumes::by_id(tx, id)).await?;
    if now.member_id.is_some_and(|m| m != daemon.member_id()) || (&now.name, &now.pool) != (&row.name, &row.pool) {
        return Err(Error::conflict("The storage volume has just been renamed or moved"));
    }
    match Unfinished::of(&now) {
        None => Ok((lock, now)),
        Some(Unfinished::Rename(_)) => {
            complete(daemon, &now).await?;
            Err(Error::conflict("The storage volume has just been renamed"))
        }
        Some(Unfinished::RenameSnapshot { .. } | Unfinished::Replace) => {
            complete(daemon, &now).await?;
            let now = daemon.db().read(move |tx| db::volumes::by_id(tx, id)).await?;
            Ok((lock, now))
        }
    }
}

/// Does it with the files and the row. The caller holds the files.
pub async fn carry_out(daemon: &Arc<Daemon>, row: &Row, what: &Unfinished) -> Result<()> {
    let (id, note) = (row.id, what.write());
    let noted = daemon
        .write(move |tx| {
            db::volumes::set_config_value(tx, id, UNFINISHED, Some(&note))?;
            db::volumes::by_id(tx, id)
        })
        .await?;
    complete(daemon, &noted).await
}

/// Ends what a row says was begun. The caller holds the files, or nothing else is going on yet.
pub async fn complete(daemon: &Arc<Daemon>, row: &Row) -> Result<()> {
    let Some(what) = Unfinished::of(row) else { return Ok(()) };
    let (driver, volume, doing) = (pools::open(daemon, &row.pool).await?, of(row)?, what.clone());
    let other = |name: &str| Volume::new(volume.kind, &row.project, name);
    let to = if let Unfinished::Rename(name) = &what { other(name) } else { volume.clone() };
    let renamed = blocking::run(move || match &doing {
        Unfinished::Rename(_) => driver.rename_volume(&volume, &to),
        Unfinished::RenameSnapshot { from, to } => {
            let done = !driver.snapshot_path(&volume, from).exists() && driver.snapshot_path(&volume, to).exists();
            if done { Ok(()) } else { driver.rename_snapshot(&volume, from, to) }
        }
        Unfinished::Replace => driver.replace(&volume),
    })
    .await;
    // A name stays as it was if it can't be changed; what takes the place of a volume is only waiting for that.
    if what == Unfinished::Replace {
        renamed.clone()?;
    }
    let (id, done) = (row.id, renamed.is_ok());
    daemon
        .write(move |tx| {
            db::volumes::set_config_value(tx, id, UNFINISHED, None)?;
            match &what {
                Unfinished::Replace => Ok(()),
                _ if !done => Ok(()),
                Unfinished::Rename(name) => db::volumes::rename(tx, id, name),
                Unfinished::RenameSnapshot { from, to } => {
                    db::volume_snapshots::rename(tx, db::volume_snapshots::get(tx, id, from)?.id, to)
                }
            }
        })
        .await?;
    renamed
}

/// Notes in a transaction that what was prepared takes the place of the volume.
pub fn note_replacing(tx: &Tx<'_>, row: &Row) -> Result<()> {
    db::volumes::set_config_value(tx, row.id, UNFINISHED, Some(&Unfinished::Replace.write()))
}

/// Puts what was prepared in the place of a volume if its row says so, and drops it otherwise. The caller holds the files.
pub async fn decide(daemon: &Arc<Daemon>, pool: &str, volume: &Volume) -> Result<()> {
    let (asked, own, of) = (pool.to_owned(), daemon.member_id(), volume.clone());
    let find = move |tx: &Tx<'_>| {
        Ok(volumes::rows(tx, &asked, own)?.into_iter().find(|r| volumes::files(r).as_ref() == Some(&of)))
    };
    match daemon.db().read(find).await? {
        Some(row) if Unfinished::of(&row) == Some(Unfinished::Replace) => complete(daemon, &row).await,
        _ => {
            let (driver, volume) = (pools::open(daemon, pool).await?, volume.clone());
            blocking::run(move || driver.drop_prepared(&volume)).await
        }
    }
}

/// Makes sure that a place is free: no row says that something is there, and what lies there nevertheless is removed.
/// The caller holds the files.
pub async fn clear(daemon: &Arc<Daemon>, pool: &str, driver: &Arc<dyn Driver>, volume: &Volume) -> Result<()> {
    if volumes::owned(daemon, pool, volume).await? {
        let name = volume.name.split_once('_').map_or(&*volume.name, |(_, name)| name);
        return Err(Error::conflict(format!("Storage volume \"{name}\" already exists")));
    }
    let (driver, volume) = (driver.clone(), volume.clone());
    blocking::run(move || driver.delete_volume(&volume)).await
}

/// Removes what was made for a row that did not come to be, unless it did: a write whose outcome is not known may have
/// happened. What can't be decided now is left to the next start. The caller holds the files.
pub async fn give_up(daemon: &Arc<Daemon>, pool: &str, driver: &Arc<dyn Driver>, volume: &Volume) {
    match volumes::owned(daemon, pool, volume).await {
        Ok(true) => {}
        Ok(false) => {
            let (driver, gone) = (driver.clone(), volume.clone());
            if let Err(e) = blocking::run(move || driver.delete_volume(&gone)).await {
                tracing::warn!("removing what is left of the volume {}: {e}", volume.name);
            }
        }
        Err(e) => tracing::warn!("the files of the volume {} stay until the next start: {e}", volume.name),
    }
}

/// True if an error means that the thing is not there.
pub fn missing(e: &Error) -> bool {
    e.kind == Kind::NotFound
}
