//! Faults of ours that are planted, each of which some invariant has to find.

/// A fault that is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Break {
    /// Clients read a member's replica as it is, without asking the leader.
    StaleReads,
    /// Disks lose at a power cut what they had said to be safe.
    LyingDisks,
    /// Disks make safe what is in write-ahead logs, and not what is taken over from them into their files.
    UnsafeFiles,
    /// The leader takes over the instances of a member once it is silent, without looking at their leases.
    EagerHealing,
    /// A guard that has lost its lease lets its instances run on.
    LazyGuards,
    /// Nobody takes over the plan of a member that is gone.
    OrphanedPlans,
    /// The leader does not look after the roles.
    IdleLeader,
}

impl Break {
    /// The word for it, on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Break::StaleReads => "stale-reads",
            Break::LyingDisks => "lying-disks",
            Break::UnsafeFiles => "unsafe-files",
            Break::EagerHealing => "eager-healing",
            Break::LazyGuards => "lazy-guards",
            Break::OrphanedPlans => "orphaned-plans",
            Break::IdleLeader => "idle-leader",
        }
    }
}
