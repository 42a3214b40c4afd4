//! Clusters that are simulated: many short lives of a cluster, each from a number, its seed, that gives the whole of it
//! again.
//!
//! There are two. [`database`] runs the real database engine of several members, with the links, heartbeats and roles
//! of the real daemon, on a network, disks and a clock that are simulated. [`cluster`] runs what decides about members,
//! plans and instances, for up to a hundred members.
//!
//! A life begins with faults of all kinds. Then all is mended, and everything has to come to rest. What has to hold
//! meanwhile and in the end are the [`invariants`], one file each. [`breaks`] are faults of ours, planted to see that
//! they are found.

pub mod breaks;
pub mod cluster;
pub mod database;
pub mod invariants;
pub mod many;
pub mod trace;

use breaks::Break;

/// Which of the simulations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The database engine.
    Database,
    /// Members, plans and instances.
    Cluster,
}

impl Kind {
    /// Both.
    pub const ALL: [Kind; 2] = [Kind::Database, Kind::Cluster];

    /// The word for it, on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Database => "database",
            Kind::Cluster => "cluster",
        }
    }
}

/// What a life is.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Which simulation.
    pub kind: Kind,
    /// All else follows from it.
    pub seed: u64,
    /// A fault of ours that is planted.
    pub broken: Option<Break>,
    /// Tells on standard output what happens.
    pub told: bool,
}

/// What came of a life.
#[derive(Debug)]
pub struct Ended {
    /// A hash of all that happened: two lives of the same seed have the same.
    pub trace: u64,
    /// What did not hold, with the name of the invariant.
    pub violations: Vec<String>,
    /// How many things clients did, or instances went through.
    pub done: usize,
}

impl Life {
    /// Lives it.
    pub fn live(self) -> Ended {
        match self.kind {
            Kind::Database => database::live(self),
            Kind::Cluster => cluster::live(self),
        }
    }

    /// The command that lives it again.
    pub fn command(&self) -> String {
        let broken = self.broken.map(|b| format!(" --break {}", b.as_str())).unwrap_or_default();
        format!("cargo run -p incus-sim -- {} --seed {}{broken} --tell", self.kind.as_str(), self.seed)
    }
}
