//! Network links, addresses, routes and settings of a network namespace, through route netlink.
//!
//! A [`Net`] speaks to the namespace in which it was opened, from whatever thread it is used later. Calls block
//! for the moment that the kernel takes. Nothing here reads `/sys`, which may show another namespace.

mod link;
mod qdisc;
mod route;
pub mod sysctl;
mod wire;

use std::io;

pub use link::{Bridge, Change, Counters, Kind, Link, Peer, Place, Vlan};
pub use route::{Address, Route};

use crate::netns::Netns;

/// A hold on the network of one namespace.
#[derive(Debug)]
pub struct Net {
    wire: wire::Wire,
}

impl Net {
    /// The network of the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        let wire = wire::Wire::open().map_err(|e| words(e, "Failed to open a netlink socket"))?;
        Ok(Self { wire })
    }

    /// The network of another namespace, as of a container.
    ///
    /// # Errors
    /// When that namespace cannot be entered.
    pub fn open_in(namespace: &Netns) -> io::Result<Self> {
        namespace.run(Self::open)?
    }
}

/// The same kind of error with words before it.
pub(crate) fn words(e: io::Error, what: impl std::fmt::Display) -> io::Error {
    io::Error::new(e.kind(), format!("{what}: {e}"))
}

#[cfg(test)]
mod tests;
