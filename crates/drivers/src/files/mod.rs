//! The files of an instance, by one mechanism: a helper process that is confined to them and speaks SFTP (version 3).
//!
//! The daemon runs itself again as `incusd forkfile` with a socket as standard input. The helper enters the instance
//! (see [`Place`]), and from then on nothing that lies in there, be it a link, a pipe or a device, can lead it to
//! anything of the host. Clients of the API talk to it directly (`/1.0/instances/{name}/sftp`), or through
//! [`Client`], which is what `/1.0/instances/{name}/files` uses.

mod client;
mod helper;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use std::path::PathBuf;

use api::Result;
use api::error::Context as _;

pub use client::{Client, Flags, Handle};
pub use helper::Helper;
pub use wire::{Attributes, Kind};

/// Where files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// What the process with this id sees as `/`.
    Process(i32),
    /// Below a directory of the host.
    Directory(PathBuf),
}

/// Serves the files of a place on standard input, which is a socket, until the other end closes it or the process
/// that was entered ends. For the main function of a process with one thread.
pub fn serve(place: &Place) -> Result<()> {
    // Taken before anything is entered: afterwards nothing of the host is open but this.
    let socket = rustix::stdio::stdin().try_clone_to_owned()?;
    let alive = match place {
        Place::Process(pid) => {
            Some(host::enter::process(*pid).context(format!("Entering the namespaces of process {pid}"))?)
        }
        Place::Directory(path) => {
            host::enter::directory(path).context(format!("Entering {}", path.display()))?;
            None
        }
    };
    // Modes are those that clients ask for.
    rustix::process::umask(rustix::fs::Mode::empty());
    host::confine::keep(host::confine::FILES).context("Giving up what files don't need")?;
    server::run(socket.into(), alive)
}
