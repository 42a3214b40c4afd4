//! Mounts into a container that runs.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use api::error::Context as _;
use api::{Error, Result};
use host::mounts::Tree;

use super::Containers;
use super::helper::{Ask, Done};

/// A directory or file of the host that is mounted into a running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hotplug {
    /// On the host.
    pub source: PathBuf,
    /// Path inside.
    pub target: String,
    /// Nothing can be written through it.
    pub readonly: bool,
    /// With what is mounted below the source.
    pub recursive: bool,
    /// Its files belong to the same ids inside as on the host.
    pub shift: bool,
}

impl Containers {
    /// Mounts into a running container; makes the mount point.
    pub fn mount(&self, id: &str, mount: &Hotplug) -> Result<()> {
        let init = self.init(id)?.pid();
        let what = || format!("Mounting {} at {} in \"{id}\"", mount.source.display(), mount.target);
        let tree = Tree::copy(&mount.source, mount.recursive).context(what())?;
        if mount.shift && !same_users(init)? {
            let users = File::open(format!("/proc/{init}/ns/user")).context("Opening its user namespace")?;
            tree.map_ids(users.as_fd()).context(what())?;
        }
        if mount.readonly {
            tree.make_readonly().context(what())?;
        }
        let ask = Ask::Mount { init, target: mount.target.clone(), directory: tree.directory };
        let mut helper = self.help("forkmount", id, &ask, &[tree.as_fd()])?;
        let done = helper.answer::<Done>();
        helper.end()?;
        done?.map_err(|e| Error::internal(e).context(what()))
    }

    /// Takes away what is mounted at a path inside.
    pub fn unmount(&self, id: &str, target: &str) -> Result<()> {
        let init = self.init(id)?.pid();
        let ask = Ask::Unmount { init, target: target.to_owned() };
        let mut helper = self.help("forkmount", id, &ask, &[])?;
        let done = helper.answer::<Done>();
        helper.end()?;
        done?.map_err(|e| Error::internal(e).context(format!("In \"{id}\"")))
    }
}

/// True for a privileged container.
fn same_users(init: u32) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let ns = |pid: &str| std::fs::metadata(format!("/proc/{pid}/ns/user")).map(|m| m.ino());
    Ok(ns(&init.to_string())? == ns("self")?)
}
