//! SQLite's way to its files, with a [`Disk`] of ours in between: for simulations of disks that fail.
//!
//! The files are real ones. What SQLite does to those in a folder that has a disk ([`mount`]) is asked of that disk
//! first, which may refuse it; all other files are left alone, and so are locks and shared memory.
//!
//! Architecture invariant: no program but simulations and tests uses it, and it knows nothing of what is simulated.
//! Besides `host` the only crate with `unsafe`: SQLite asks for it. Each block says why.
#![allow(unsafe_code)]

mod shim;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use shim::Real;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error of the device (`EIO`).
    Broken,
    /// There is no room (`ENOSPC`).
    Full,
}

/// A disk that is asked before SQLite does something to one of its files, by the name of the file.
pub trait Disk: Send + Sync {
    /// Something is read.
    ///
    /// # Errors
    /// It can't be.
    fn read(&self, name: &str) -> Result<(), Fault>;

    /// So many bytes are written at this place of the file, which is given as it was before.
    ///
    /// # Errors
    /// They can't be. Some of the first ones are all the same: how many, beside the fault.
    fn write(&self, name: &str, real: &Real, at: u64, length: usize) -> Result<(), (Fault, usize)>;

    /// What comes after `to` bytes is cut off.
    ///
    /// # Errors
    /// It can't be.
    fn truncate(&self, name: &str, real: &Real, to: u64) -> Result<(), Fault>;

    /// All that was written is to be safe.
    ///
    /// # Errors
    /// It is not, and it is not known what of it is.
    fn sync(&self, name: &str, real: &Real) -> Result<(), Fault>;

    /// A file is gone.
    fn removed(&self, name: &str);
}

static DISKS: Mutex<Option<HashMap<PathBuf, Arc<dyn Disk>>>> = Mutex::new(None);

fn disks() -> MutexGuard<'static, Option<HashMap<PathBuf, Arc<dyn Disk>>>> {
    DISKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The disk and the name of a file, if its folder has a disk.
fn find(path: &Path) -> Option<(Arc<dyn Disk>, String)> {
    let disk = disks().as_ref()?.get(path.parent()?)?.clone();
    Some((disk, path.file_name()?.to_string_lossy().into_owned()))
}

/// A folder that has a disk, until this is dropped. Files that are open by then keep it.
pub struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(disks) = disks().as_mut() {
            disks.remove(&self.0);
        }
    }
}

/// From now on the files that this program's SQLite opens in the folder are on that disk. The folder is named as SQLite
/// will name it: absolute, and without links.
///
/// # Errors
/// SQLite refuses to go this way, in words.
pub fn mount(dir: &Path, disk: Arc<dyn Disk>) -> Result<Mounted, String> {
    shim::install()?;
    disks().get_or_insert_default().insert(dir.to_owned(), disk);
    Ok(Mounted(dir.to_owned()))
}
