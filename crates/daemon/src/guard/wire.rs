//! What the daemon and the guard say to each other over the guard's socket.
//!
//! A guard outlives the daemon that has started it: it may be one version older than the daemon that talks to it. Fields
//! are added with a default, and nothing is taken away.

use std::path::PathBuf;
use std::time::Duration;

use drivers::storage::lease::Held;
use serde::{Deserialize, Serialize};

/// What the daemon asks; each is answered by a [`Report`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Nothing: only tell.
    Look,
    /// Renew this lease from now on, and end those who use it before others may take it. A name that is known gets
    /// another lease.
    Hold {
        /// What the daemon calls it.
        name: String,
        /// The lease.
        lease: Box<Held>,
        /// Who uses the volume.
        users: Vec<User>,
    },
    /// Others use the volume of that lease from now on.
    Use {
        /// As it was called.
        name: String,
        /// All who use the volume.
        users: Vec<User>,
    },
    /// Nobody uses the volume any more: give its lease back.
    GiveBack {
        /// As it was called.
        name: String,
    },
    /// What is known of the cluster, by the clock of the machine.
    Quorum {
        /// When a majority was last known to count this member among those that are there.
        confirmed: Duration,
        /// After so long without that all users are ended; none: never.
        fence_after: Option<Duration>,
    },
}

/// A container that uses a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// What it is called on this machine.
    pub name: String,
    /// The name of its cgroups.
    pub cgroup: String,
    /// The file in which it is noted why it was ended.
    pub note: PathBuf,
}

/// What the guard holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// All leases.
    pub leases: Vec<Told>,
}

/// What the guard knows of a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// What the daemon calls it.
    pub name: String,
    /// Which of the volume's leases it is.
    pub incarnation: u64,
    /// Who uses the volume.
    pub users: Vec<String>,
    /// Why the users were or are being ended; empty: they were not.
    pub ended: String,
}
