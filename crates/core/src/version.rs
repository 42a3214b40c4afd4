//! Which versions of the program serve together, and when a cluster of several versions goes on to the newer one.

use api::Error;
use serde::{Deserialize, Serialize};

/// What the program of a member can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The oldest version of the schema that it can serve with.
    pub oldest: i64,
    /// The newest.
    pub latest: i64,
    /// How many extensions of the API it has.
    pub extensions: i64,
}

/// How a program fits the version of the schema that a database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It can serve it.
    Serves,
    /// It has to be updated first.
    TooOld,
    /// The others have to be updated first.
    TooNew,
}

/// How the program of a member compares with those of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It serves, and nobody has a newer one.
    Newest,
    /// It serves, and newer members wait for it.
    Older,
    /// It can't serve, as it is too old.
    TooOld,
    /// It can't serve yet, as others are too old.
    TooNew,
}

/// An offline member is waited for until it has been silent for so many times `cluster.offline_threshold`: a machine
/// that only starts again does not find itself left behind.
pub const GRACE: u64 = 5;

/// True if a change to a newer version waits for a member that has been silent for so long.
pub const fn waited_for(silent_ms: u64, threshold_ms: u64) -> bool {
    silent_ms <= threshold_ms.saturating_mul(GRACE)
}

impl Program {
    /// How it fits this version of the schema; an empty database, of version 0, fits all.
    pub const fn fit(self, version: i64) -> Fit {
        if version > self.latest {
            Fit::TooOld
        } else if version != 0 && version < self.oldest {
            Fit::TooNew
        } else {
            Fit::Serves
        }
    }

    /// True if the other one has something that this one does not.
    pub const fn is_behind(self, other: Program) -> bool {
        self.latest < other.latest || (self.latest == other.latest && self.extensions < other.extensions)
    }

    /// How it compares with those of all members, in a database with this version of the schema.
    pub fn standing(self, version: i64, all: &[Program]) -> Standing {
        match self.fit(version) {
            Fit::TooOld => Standing::TooOld,
            Fit::TooNew => Standing::TooNew,
            Fit::Serves if all.iter().any(|other| self.is_behind(*other)) => Standing::Older,
            Fit::Serves => Standing::Newest,
        }
    }

    /// Why a member with this program refuses requests; `waiting` are the members that have to be updated first.
    pub fn refusal(self, version: i64, waiting: &[String]) -> Option<Error> {
        let serves = if self.oldest == self.latest {
            format!("version {}", self.latest)
        } else {
            format!("versions {} to {}", self.oldest, self.latest)
        };
        let what = format!("the database has schema version {version}, this server can serve {serves}");
        let why = match self.fit(version) {
            Fit::Serves => return None,
            Fit::TooOld => format!(
                "This server needs updating to the newer version of the other cluster members: {what}. Install that \
                 version"
            ),
            Fit::TooNew if waiting.is_empty() => format!(
                "This server waits until all cluster members have been updated: {what}. It then goes on by itself"
            ),
            Fit::TooNew => format!(
                "This server waits until all cluster members have been updated: {what}. To be updated: {}. It then \
                 goes on by itself",
                waiting.join(", ")
            ),
        };
        Some(Error::unavailable(format!("{why}. Instances keep running; other members can be asked meanwhile")))
    }
}

/// The version that the schema is to have: what all these programs can serve. `None` if that is what it has.
pub fn next_schema(version: i64, programs: &[Program]) -> Option<i64> {
    programs.iter().map(|p| p.latest).min().filter(|common| *common > version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn program(oldest: i64, latest: i64, extensions: i64) -> Program {
        Program { oldest, latest, extensions }
    }

    #[test]
    fn neighbours_serve_together_and_the_schema_moves_when_all_can() {
        use Standing::*;
        let (old, new, far) = (program(1, 1, 10), program(1, 2, 11), program(3, 3, 12));
        for (version, all, standings, next) in [
            (1, &[old, old, old][..], &[Newest, Newest, Newest][..], None),
            (1, &[new, old, old], &[Newest, Older, Older], None),
            (1, &[new, new, new], &[Newest, Newest, Newest], Some(2)),
            (2, &[new, new, old], &[Newest, Newest, TooOld], None),
            (1, &[far, old, old], &[TooNew, Older, Older], None),
            (1, &[far, new, new], &[TooNew, Older, Older], Some(2)),
            (2, &[far, far, far], &[TooNew, TooNew, TooNew], Some(3)),
            (3, &[far, far, new], &[Newest, Newest, TooOld], None),
            (0, &[far], &[Newest], Some(3)),
            (1, &[old, program(1, 1, 11)], &[Older, Newest], None),
        ] {
            let got: Vec<Standing> = all.iter().map(|p| p.standing(version, all)).collect();
            assert_eq!((got.as_slice(), next_schema(version, all)), (standings, next), "{version} {all:?}");
        }
        assert_eq!(next_schema(1, &[]), None);
    }

    #[test]
    fn a_member_is_waited_for_while_it_may_only_be_starting_again() {
        assert!(waited_for(100_000, 20_000) && !waited_for(100_001, 20_000));
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        let far = program(3, 3, 12);
        let said = far.refusal(1, &["server2".into(), "server3".into()]).map(|e| e.message).unwrap_or_default();
        assert!(said.contains("To be updated: server2, server3") && said.contains("can serve version 3"), "{said}");
        let said = program(1, 2, 11).refusal(3, &[]).map(|e| e.message).unwrap_or_default();
        assert!(said.contains("needs updating") && said.contains("versions 1 to 2"), "{said}");
        assert_eq!(far.refusal(3, &[]), None);
    }
}
