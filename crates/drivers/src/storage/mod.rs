//! Storage: pools and the volumes in them.
//!
//! A volume is a directory that is there as a whole or not at all: it is made under another name and moved into
//! place. What an interrupted daemon leaves is removed by [`Driver::recover`].

pub mod dir;
pub mod lease;
mod remove;
pub mod shared;
pub mod tree;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use api::Result;
use api::cluster::StoragePoolState;
use serde::{Deserialize, Serialize};

/// What a volume is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The root of a container.
    Container,
    /// Anything that is attached to instances.
    Custom,
}

impl Kind {
    /// The folder in a pool.
    pub const fn folder(self) -> &'static str {
        match self {
            Kind::Container => "containers",
            Kind::Custom => "custom",
        }
    }

    /// The kind whose volumes lie in that folder.
    pub fn of_folder(folder: &str) -> Option<Kind> {
        [Kind::Container, Kind::Custom].into_iter().find(|k| k.folder() == folder)
    }
}

/// A volume of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Volume {
    /// What it is for.
    pub kind: Kind,
    /// Its name in the pool: with its project before it, unless that is the default one.
    pub name: String,
}

impl Volume {
    /// The volume of that name in a project.
    pub fn new(kind: Kind, project: &str, name: &str) -> Volume {
        // Custom volumes always bear their project.
        let plain = project == "default" && kind == Kind::Container;
        Volume { kind, name: if plain { name.to_owned() } else { format!("{project}_{name}") } }
    }
}

/// What of a volume is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The volume and its snapshots.
    Whole,
    /// The volume without its snapshots.
    Alone,
    /// A snapshot, as if it were a volume.
    Snapshot(String),
}

/// Copies a volume to another place on this machine. It is there as a whole or not at all.
pub fn copy(
    (from, volume): (&dyn Driver, &Volume),
    part: &Part,
    (to, copy): (&dyn Driver, &Volume),
    progress: tree::Progress<'_>,
) -> Result<()> {
    tree::piped(|out| from.send(volume, part, out, &mut |_| {}), |input| to.receive(copy, input, progress))
}

/// A sort of pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// As pools name it.
    pub name: &'static str,
    /// True if all members reach the same volumes.
    pub remote: bool,
}

/// The sorts of pools that there are.
pub const BACKENDS: &[Backend] =
    &[Backend { name: "dir", remote: false }, Backend { name: shared::NAME, remote: true }];

/// True if all members reach the same volumes in pools of that sort.
pub fn is_remote(backend: &str) -> bool {
    BACKENDS.iter().any(|b| b.name == backend && b.remote)
}

/// What a pool's backend must do. Everything blocks.
pub trait Driver: Send + Sync {
    /// Makes the pool; its source must be empty or missing. If it is remote one member does this once, before the
    /// others [`Driver::start`] it.
    fn create(&self) -> Result<()>;
    /// Removes the pool with all that is in it.
    fn delete(&self) -> Result<()>;
    /// Removes what only this member has of the pool: what others reach, too, stays.
    fn leave(&self) -> Result<()> {
        self.delete()
    }
    /// What keeps volumes that several members reach from being used by two of them; `None` where nobody else
    /// reaches them.
    fn sharing(&self) -> Option<&shared::Sharing> {
        None
    }
    /// Keeps a member from writing into the pool although it may be alive, where the backend can do that: a member
    /// that runs on without knowing of the others is shut out. In pools where the lease alone protects the volumes
    /// there is nothing to do: its owner ends what it runs before the lease lapses.
    fn fence(&self, member: &str) -> Result<()> {
        let _ = member;
        Ok(())
    }
    /// Makes the pool usable after the machine was started.
    fn start(&self) -> Result<()>;
    /// Removes what an interrupted daemon has left.
    fn recover(&self) -> Result<()>;
    /// How full it is.
    fn usage(&self) -> Result<StoragePoolState>;
    /// Where a volume lies, whether it is there or not.
    fn path(&self, volume: &Volume) -> PathBuf;
    /// True if the volume is there.
    fn exists(&self, volume: &Volume) -> bool;
    /// All volumes, those of which only snapshots are left among them.
    fn volumes(&self) -> Result<Vec<Volume>>;
    /// Makes a volume; `fill` puts into the directory that it is given what is to be in it.
    fn create_volume(&self, volume: &Volume, fill: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()>;
    /// Makes beside a volume what is to take its place, as a whole or not at all, as [`Driver::create_volume`] does. It
    /// waits there, also for the next daemon, until it is put in place or dropped.
    fn prepare(&self, volume: &Volume, fill: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()>;
    /// Puts what was prepared in the place of the volume; what was interrupted is ended by doing it again. If nothing is
    /// prepared it was done before.
    fn replace(&self, volume: &Volume) -> Result<()>;
    /// Removes what was prepared; if there is nothing that is fine.
    fn drop_prepared(&self, volume: &Volume) -> Result<()>;
    /// The volumes beside which something is prepared.
    fn prepared(&self) -> Result<Vec<Volume>>;
    /// Removes a volume with its snapshots; one that is not there is fine.
    fn delete_volume(&self, volume: &Volume) -> Result<()>;
    /// Renames a volume with its snapshots. What was interrupted is completed by doing it again.
    fn rename_volume(&self, volume: &Volume, to: &Volume) -> Result<()>;
    /// Snapshots of a volume, oldest first.
    fn snapshots(&self, volume: &Volume) -> Result<Vec<String>>;
    /// Where a snapshot lies.
    fn snapshot_path(&self, volume: &Volume, snapshot: &str) -> PathBuf;
    /// Takes a snapshot.
    fn snapshot(&self, volume: &Volume, snapshot: &str) -> Result<()>;
    /// Removes a snapshot; one that is not there is fine.
    fn delete_snapshot(&self, volume: &Volume, snapshot: &str) -> Result<()>;
    /// Renames a snapshot.
    fn rename_snapshot(&self, volume: &Volume, from: &str, to: &str) -> Result<()>;
    /// Puts a volume back into the state of a snapshot.
    fn restore(&self, volume: &Volume, snapshot: &str) -> Result<()>;
    /// Writes a volume as a stream.
    fn send(&self, volume: &Volume, part: &Part, out: &mut dyn Write, progress: tree::Progress<'_>) -> Result<()>;
    /// Makes a volume and its snapshots from a stream: all of it, or nothing.
    fn receive(&self, volume: &Volume, from: &mut dyn Read, progress: tree::Progress<'_>) -> Result<()>;
}
