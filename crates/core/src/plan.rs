//! Plans: how anything that touches more than one member or instance is carried out.
//!
//! A plan is made by a pure function from a snapshot of the database, stored, and then worked through by a
//! runner. The runner asks [`Move::next`] what comes next for an instance; every answer is idempotent, so that
//! a runner which takes over after a crash starts from what the database says and does the last thing again.

use api::{Error, Result};
use serde::{Deserialize, Serialize};

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Empty a member.
    Evacuate,
    /// Bring an evacuated member back.
    Restore,
    /// Move one instance.
    Move,
    /// Start elsewhere what a member ran that is gone.
    Heal,
}

/// What becomes of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is left as it is.
    Leave,
    /// It is stopped cleanly where it is; after `boot.host_shutdown_timeout` it is stopped by force.
    Stop,
    /// It is stopped by force where it is.
    ForceStop,
    /// It goes to another member: stopped, moved, and started there if it was running.
    Migrate,
    /// It goes to another member without its own, which is gone: its files lie where both can reach them.
    TakeOver,
    /// It is started where it is.
    Start,
}

impl Action {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Action::Leave => "leave",
            Action::Stop => "stop",
            Action::ForceStop => "force-stop",
            Action::Migrate => "migrate",
            Action::TakeOver => "take-over",
            Action::Start => "start",
        }
    }
}

/// One instance's part of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Row id of the instance.
    pub instance: i64,
    /// Its project.
    pub project: String,
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub action: Action,
    /// Row id of the member that holds it when the plan is made.
    pub from: i64,
    /// Row id of the member it goes to; equal to `from` unless it migrates.
    pub to: i64,
    /// True if it is to run in the end.
    pub start: bool,
    /// Seconds that a clean stop may take.
    pub timeout: u64,
    /// Why this and nothing else, for `--dry-run` and the result.
    pub why: String,
}

impl Step {
    /// True if the instance ran when the plan was made and was stopped where it is, if `here` says that it still is
    /// there: when the plan is cancelled it is started again.
    pub const fn starts_again(&self, here: bool) -> bool {
        match self.action {
            Action::Stop | Action::ForceStop => true,
            Action::Migrate => self.start && here,
            Action::Leave | Action::TakeOver | Action::Start => false,
        }
    }
}

/// What a runner sees of a migrating instance: all of it can be read again after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The database says that the target holds it.
    pub committed: bool,
    /// It runs on the source.
    pub runs_on_source: bool,
    /// Its volume lies where both members reach it: nothing is copied, and nothing is removed.
    pub shared: bool,
    /// A complete copy of its volume lies on the target.
    pub copied: bool,
    /// Its volume still lies on the source.
    pub on_source: bool,
    /// It is to run in the end.
    pub start: bool,
    /// It runs on the target.
    pub runs_on_target: bool,
}

/// The next thing to do for a migrating instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    /// Stop it on the source.
    StopOnSource,
    /// Let the target fetch its volume.
    Copy,
    /// Write the target into the database: the one moment at which it changes its place.
    Commit,
    /// Start it on the target.
    StartOnTarget,
    /// Remove the volume from the source.
    CleanSource,
    /// Nothing is left to do.
    Done,
}

impl Move {
    /// The next thing to do. Before the commit the source is the truth, after it the target.
    pub const fn next(&self) -> Do {
        match self {
            Move { committed: false, runs_on_source: true, .. } => Do::StopOnSource,
            Move { committed: false, shared: false, copied: false, .. } => Do::Copy,
            Move { committed: false, .. } => Do::Commit,
            Move { committed: true, start: true, runs_on_target: false, .. } => Do::StartOnTarget,
            Move { committed: true, shared: false, on_source: true, .. } => Do::CleanSource,
            Move { committed: true, .. } => Do::Done,
        }
    }

    /// What has to be undone, in order, when it is given up: nothing after the commit, which is kept.
    pub fn undo(&self) -> Vec<Undo> {
        let mut all = Vec::new();
        if !self.committed {
            if self.copied && !self.shared {
                all.push(Undo::RemoveCopy);
            }
            if self.start && !self.runs_on_source {
                all.push(Undo::StartOnSource);
            }
        }
        all
    }
}

/// One thing to undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Remove the copy from the target.
    RemoveCopy,
    /// Start it on the source again.
    StartOnSource,
}

/// How an evacuation treats instances: `--action`, or the key `cluster.evacuate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// What suits the instance.
    Auto,
    /// Move it, with a short stop.
    Migrate,
    /// Move it without a stop (virtual machines).
    LiveMigrate,
    /// Stop it here.
    Stop,
    /// Stop it here with its memory kept.
    StatefulStop,
    /// Stop it here by force.
    ForceStop,
}

impl Mode {
    /// Reads a mode; empty is `None`.
    pub fn parse(s: &str) -> Result<Option<Mode>> {
        Ok(Some(match s {
            "" => return Ok(None),
            "auto" => Mode::Auto,
            "migrate" => Mode::Migrate,
            "live-migrate" => Mode::LiveMigrate,
            "stop" => Mode::Stop,
            "stateful-stop" => Mode::StatefulStop,
            "force-stop" => Mode::ForceStop,
            _ => return Err(Error::bad_request(format!("Invalid evacuation mode \"{s}\""))),
        }))
    }

    /// The mode of containers, or why it cannot be had.
    pub fn for_containers(self) -> Result<Mode> {
        match self {
            Mode::LiveMigrate => {
                Err(Error::bad_request("Containers can't be live-migrated: use the mode \"migrate\" or \"auto\""))
            }
            Mode::StatefulStop => {
                Err(Error::bad_request("Containers can't be stopped with their state: use the mode \"stop\""))
            }
            other => Ok(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Move = Move {
        committed: false,
        runs_on_source: true,
        shared: false,
        copied: false,
        on_source: true,
        start: true,
        runs_on_target: false,
    };

    /// Does what is asked, as a member would.
    fn carry_out(mut m: Move, what: Do) -> Move {
        match what {
            Do::StopOnSource => m.runs_on_source = false,
            Do::Copy => m.copied = true,
            Do::Commit => m.committed = true,
            Do::StartOnTarget => m.runs_on_target = true,
            Do::CleanSource => m.on_source = false,
            Do::Done => {}
        }
        m
    }

    #[test]
    fn a_move_ends_in_one_place_wherever_it_starts_again() {
        for start in [true, false] {
            let mut now = Move { start, runs_on_source: start, ..FRESH };
            let mut steps = Vec::new();
            while now.next() != Do::Done {
                assert!(!(now.runs_on_source && now.runs_on_target), "never two at once");
                // A crash before the thing was noted as done means that it is done twice.
                let again = carry_out(carry_out(now, now.next()), now.next());
                assert_eq!(again, carry_out(now, now.next()));
                steps.push(now.next());
                now = again;
            }
            assert!(now.committed && !now.on_source && !now.runs_on_source && now.runs_on_target == start);
            assert_eq!(steps.len(), if start { 5 } else { 3 });
        }
    }

    #[test]
    fn what_both_members_reach_is_neither_copied_nor_removed() {
        for start in [true, false] {
            // The files are seen on either side all the time.
            let mut now = Move { start, runs_on_source: start, shared: true, copied: true, ..FRESH };
            let mut steps = Vec::new();
            while now.next() != Do::Done {
                assert!(!(now.runs_on_source && now.runs_on_target), "never two at once");
                steps.push(now.next());
                now = carry_out(now, now.next());
            }
            assert!(now.committed && now.on_source && now.runs_on_target == start);
            let all = [Do::StopOnSource, Do::Commit, Do::StartOnTarget];
            assert_eq!(steps, if start { all.to_vec() } else { vec![Do::Commit] });
        }
    }

    #[test]
    fn giving_up_before_the_commit_leaves_it_running_where_it_was() {
        for (m, want) in [
            (FRESH, vec![]),
            (Move { runs_on_source: false, ..FRESH }, vec![Undo::StartOnSource]),
            (Move { runs_on_source: false, copied: true, ..FRESH }, vec![Undo::RemoveCopy, Undo::StartOnSource]),
            (Move { runs_on_source: false, copied: true, committed: true, ..FRESH }, vec![]),
            (Move { runs_on_source: false, start: false, ..FRESH }, vec![]),
            // What the target sees is no copy.
            (Move { runs_on_source: false, shared: true, copied: true, ..FRESH }, vec![Undo::StartOnSource]),
        ] {
            assert_eq!(m.undo(), want, "{m:?}");
        }
    }

    #[test]
    fn modes_are_read_as_incus_writes_them() {
        assert_eq!(Mode::parse(""), Ok(None));
        assert_eq!(Mode::parse("force-stop"), Ok(Some(Mode::ForceStop)));
        assert_eq!(Mode::parse("bogus").unwrap_err().message, "Invalid evacuation mode \"bogus\"");
        assert!(Mode::LiveMigrate.for_containers().is_err());
    }
}
