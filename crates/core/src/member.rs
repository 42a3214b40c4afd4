//! The states of a cluster member, and what a person is told about them.

use api::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::version::Standing;

/// The stored state of a member, as in the column `nodes.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// A full member.
    Created,
    /// Joining; not shown to clients.
    Pending,
    /// Emptied for maintenance.
    Evacuated,
    /// Being emptied.
    Evacuating,
    /// Getting its instances back.
    Restoring,
}

/// What can happen to the state of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A joining member has everything it needs.
    Joined,
    /// Somebody asked to empty it.
    Evacuate,
    /// The evacuation ended with every instance looked after.
    EvacuationDone,
    /// The evacuation was given up; what had moved stays where it is.
    EvacuationFailed,
    /// Somebody asked to bring it back.
    Restore,
    /// The restore ended.
    RestoreDone,
    /// The restore was given up.
    RestoreFailed,
}

impl State {
    /// All states.
    pub const ALL: [State; 5] = [State::Created, State::Pending, State::Evacuated, State::Evacuating, State::Restoring];

    /// The number in the column `nodes.state`.
    pub const fn code(self) -> i64 {
        match self {
            State::Created => 0,
            State::Pending => 1,
            State::Evacuated => 2,
            State::Evacuating => 3,
            State::Restoring => 4,
        }
    }

    /// The state that a number in the database stands for.
    pub fn from_code(code: i64) -> Result<State> {
        Self::ALL
            .into_iter()
            .find(|s| s.code() == code)
            .ok_or_else(|| Error::internal(format!("Unknown cluster member state {code} in the database")))
    }

    /// The state after an event, or why the event is refused in this state.
    pub fn after(self, event: Event) -> Result<State> {
        use Event::*;
        use State::*;
        let refused = |why: &str| Err(Error::bad_request(why));
        match (self, event) {
            (Pending, Joined) => Ok(Created),
            (Created, Evacuate) => Ok(Evacuating),
            (Evacuating, EvacuationDone) => Ok(Evacuated),
            (Evacuating, EvacuationFailed) => Ok(Created),
            // Restoring a member that is in service is asked for by scripts, and changes nothing.
            (Created | Evacuated, Restore) => Ok(Restoring),
            (Restoring, RestoreDone) => Ok(Created),
            (Restoring, RestoreFailed) => Ok(Evacuated),
            (Evacuated, Evacuate) => refused("Cluster member is already evacuated"),
            (Evacuating, Evacuate) => refused("Cluster member is already being evacuated"),
            (Restoring, Evacuate) => refused("Cluster member is being restored; evacuate it when that has ended"),
            (Evacuating, Restore) => refused("Cluster member is being evacuated; restore it when that has ended"),
            (Restoring, Restore) => refused("Cluster member is already being restored"),
            (Pending, _) => refused("Cluster member is still joining"),
            (Created | Evacuated | Evacuating | Restoring, Joined)
            | (Created | Evacuated | Restoring, EvacuationDone | EvacuationFailed)
            | (Created | Evacuated | Evacuating, RestoreDone | RestoreFailed) => {
                Err(Error::internal(format!("Cluster member is {self:?}, {event:?} is not expected")))
            }
        }
    }
}

/// What is shown of a member: `status` and `message`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// In service.
    Online,
    /// Silent for longer than `cluster.offline_threshold`.
    Offline,
    /// Its version is too far from that of the rest for it to serve.
    Blocked,
    /// Emptied.
    Evacuated,
    /// Being emptied.
    Evacuating,
    /// Getting its instances back.
    Restoring,
}

impl Status {
    /// As in the JSON: `Online`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Online => "Online",
            Status::Offline => "Offline",
            Status::Blocked => "Blocked",
            Status::Evacuated => "Evacuated",
            Status::Evacuating => "Evacuating",
            Status::Restoring => "Restoring",
        }
    }
}

/// What the status of a member is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Its stored state.
    pub state: State,
    /// Milliseconds since it was last heard of.
    pub silent_ms: u64,
    /// `cluster.offline_threshold`, in milliseconds.
    pub threshold_ms: u64,
    /// How its program compares with those of the others.
    pub standing: Standing,
}

impl Seen {
    /// True if it has been silent for longer than the threshold.
    pub const fn offline(&self) -> bool {
        self.silent_ms > self.threshold_ms
    }

    /// Its status. Maintenance hides silence: an evacuated member that is switched off is shown as evacuated.
    pub const fn status(&self) -> Status {
        match self.state {
            State::Evacuated => Status::Evacuated,
            State::Evacuating => Status::Evacuating,
            State::Restoring => Status::Restoring,
            State::Created | State::Pending if self.offline() => Status::Offline,
            State::Created | State::Pending => match self.standing {
                Standing::TooOld | Standing::TooNew => Status::Blocked,
                Standing::Older | Standing::Newest => Status::Online,
            },
        }
    }

    /// The words beside the status; `last` is the time it was last heard of, ready to print.
    pub fn message(&self, last: &str) -> String {
        let waited_for = matches!(self.standing, Standing::Older | Standing::TooOld);
        let text = match self.status() {
            Status::Online => "Fully operational".into(),
            Status::Offline => format!("No heartbeat for {} ({last})", seconds(self.silent_ms)),
            Status::Blocked if waited_for => return "Needs updating to newer version".into(),
            Status::Blocked => "Waiting for other members to be updated".into(),
            Status::Evacuated | Status::Evacuating | Status::Restoring => "Unavailable due to maintenance".into(),
        };
        if waited_for { format!("{text}; needs updating to newer version") } else { text }
    }
}

/// A duration rounded to seconds, as `1h2m3s`.
fn seconds(ms: u64) -> String {
    let s = (ms + 500) / 1000;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    match (h, m) {
        (0, 0) => format!("{s}s"),
        (0, _) => format!("{m}m{s}s"),
        _ => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_through_maintenance_ends_in_service_or_evacuated() {
        use Event::*;
        use State::*;
        for (path, want) in [
            (&[Evacuate, EvacuationDone][..], Evacuated),
            (&[Evacuate, EvacuationFailed], Created),
            (&[Evacuate, EvacuationDone, Restore, RestoreDone], Created),
            (&[Evacuate, EvacuationDone, Restore, RestoreFailed], Evacuated),
            (&[Restore, RestoreDone], Created),
        ] {
            let got = path.iter().try_fold(Created, |s, e| s.after(*e));
            assert_eq!(got, Ok(want), "{path:?}");
        }
        assert_eq!(Evacuated.after(Evacuate).unwrap_err().message, "Cluster member is already evacuated");
        for state in State::ALL {
            assert_eq!(State::from_code(state.code()), Ok(state));
        }
        assert!(State::from_code(9).is_err());
    }

    #[test]
    fn maintenance_hides_silence_and_silence_hides_age() {
        use Standing::*;
        let seen = |state, silent_ms, standing| Seen { state, silent_ms, threshold_ms: 20_000, standing };
        for (seen, status, message) in [
            (seen(State::Created, 20_000, Newest), "Online", "Fully operational"),
            (seen(State::Created, 0, Older), "Online", "Fully operational; needs updating to newer version"),
            (seen(State::Created, 20_001, Newest), "Offline", "No heartbeat for 20s (then)"),
            (
                seen(State::Created, 20_001, TooOld),
                "Offline",
                "No heartbeat for 20s (then); needs updating to newer version",
            ),
            (seen(State::Created, 3_723_400, Newest), "Offline", "No heartbeat for 1h2m3s (then)"),
            (seen(State::Created, 0, TooOld), "Blocked", "Needs updating to newer version"),
            (seen(State::Created, 0, TooNew), "Blocked", "Waiting for other members to be updated"),
            (seen(State::Evacuated, 99_000, Newest), "Evacuated", "Unavailable due to maintenance"),
            (seen(State::Evacuated, 0, TooNew), "Evacuated", "Unavailable due to maintenance"),
            (
                seen(State::Evacuating, 0, TooOld),
                "Evacuating",
                "Unavailable due to maintenance; needs updating to newer version",
            ),
            (seen(State::Restoring, 0, Newest), "Restoring", "Unavailable due to maintenance"),
        ] {
            assert_eq!((seen.status().as_str(), seen.message("then").as_str()), (status, message));
        }
    }
}
