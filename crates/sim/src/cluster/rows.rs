//! What the database holds of members, instances and plans. Here it is simply there: that it keeps what it is told is the
//! business of the other simulation. Who reaches a majority of the voters can use it.

use std::collections::BTreeMap;
use std::time::Duration;

use incus_core::member::State;
use incus_core::plan::{Kind, Step};

/// A member.
#[derive(Clone, Debug)]
pub struct Member {
    /// What it is doing.
    pub state: State,
    /// It votes.
    pub voter: bool,
    /// Its failure domain.
    pub domain: String,
}

/// An instance.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The member that it belongs to.
    pub member: i64,
    /// It is to run.
    pub runs: bool,
    /// The member that it was taken away from.
    pub origin: Option<i64>,
}

/// How far a step of a plan is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It was not begun.
    Waiting,
    /// It was begun, to end on that member, at that time.
    Begun(i64, Duration),
    /// It has ended well.
    Done,
    /// It has ended.
    Failed(String),
}

impl Progress {
    /// True if nothing more happens.
    pub const fn ended(&self) -> bool {
        matches!(self, Progress::Done | Progress::Failed(_))
    }
}

/// A plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is for.
    pub kind: Kind,
    /// The member that it is about.
    pub about: i64,
    /// The member that carries it out.
    pub runner: i64,
    /// Its steps.
    pub steps: Vec<(Step, Progress)>,
    /// When it has ended.
    pub ended: Option<Duration>,
    /// A step has failed.
    pub failed: bool,
    /// When it was made.
    pub made: Duration,
}

/// All rows.
#[derive(Default)]
pub struct Rows {
    /// Members by row id, which is their Raft id, too.
    pub members: BTreeMap<i64, Member>,
    /// Instances by row id.
    pub instances: BTreeMap<i64, Instance>,
    /// Plans, in the order in which they were made.
    pub plans: Vec<Plan>,
}

impl Rows {
    /// True if a plan is at work on an instance: nobody else starts it.
    pub fn is_planned(&self, instance: i64) -> bool {
        let of = |plan: &Plan| plan.steps.iter().any(|(step, at)| step.instance == instance && !at.ended());
        self.plans.iter().any(|plan| plan.ended.is_none() && of(plan))
    }

    /// How many instances belong to a member.
    pub fn holds(&self, member: i64) -> usize {
        self.instances.values().filter(|i| i.member == member).count()
    }
}
