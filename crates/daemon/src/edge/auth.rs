//! Who is asking, and may they?

use std::collections::BTreeSet;

use api::endpoint::Allow;
use api::event::Requestor;
use api::{Error, Result};

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What they are worth.
    pub trust: Trust,
    /// Their name, for events and `auth_user_name`.
    pub name: String,
    /// How they were recognised: `unix`, `tls` or `cluster`.
    pub protocol: &'static str,
    /// Where from; `@` for a unix socket.
    pub address: String,
    /// The certificate that they showed, in DER.
    pub certificate: Option<Vec<u8>>,
}

/// What a caller is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Anybody.
    None,
    /// May only read metrics.
    Metrics,
    /// A client that is limited to some projects.
    Restricted(BTreeSet<String>),
    /// A client that may do everything.
    Full,
    /// A local user, or another member of the cluster.
    Member,
}

impl Trust {
    /// True if who is worth this may do all that one may who is worth `other`.
    pub fn covers(&self, other: &Trust) -> bool {
        match (self, other) {
            (Trust::Restricted(own), Trust::Restricted(others)) => own.is_superset(others),
            _ => self.rank() >= other.rank(),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Trust::None => 0,
            Trust::Metrics => 1,
            Trust::Restricted(_) => 2,
            Trust::Full => 3,
            Trust::Member => 4,
        }
    }
}

impl Caller {
    /// True if they are trusted at all.
    pub fn trusted(&self) -> bool {
        !matches!(self.trust, Trust::None | Trust::Metrics)
    }

    /// As events name them.
    pub fn requestor(&self) -> Requestor {
        Requestor { username: self.name.clone(), protocol: self.protocol.to_owned(), address: self.address.clone() }
    }
}

/// Refuses a caller of that trust who may not call an endpoint in that project, in the words that clients know. What
/// is said depends on nothing but who asks: not on whether the thing exists.
pub fn check(trust: &Trust, allow: Allow, project: &str) -> Result<()> {
    match (trust, allow) {
        (_, Allow::Anyone) | (Trust::Member, _) | (Trust::Metrics, Allow::Metrics) => Ok(()),
        (Trust::None | Trust::Metrics, _) | (Trust::Full, Allow::Member) => Err(Error::forbidden("not authorized")),
        (Trust::Full, Allow::Metrics | Allow::Trusted | Allow::Project | Allow::Admin) => Ok(()),
        (Trust::Restricted(_), Allow::Metrics | Allow::Trusted) => Ok(()),
        (Trust::Restricted(projects), Allow::Project) if projects.contains(project) => Ok(()),
        (Trust::Restricted(_), Allow::Project) => {
            Err(Error::forbidden(format!("User does not have permission for project \"{project}\"")))
        }
        (Trust::Restricted(_), Allow::Admin | Allow::Member) => Err(restricted()),
    }
}

/// Whether a caller of that trust may call an endpoint in that project.
pub fn may(trust: &Trust, allow: Allow, project: &str) -> bool {
    check(trust, allow, project).is_ok()
}

/// What a client is told that asks for what is not of its projects alone.
pub fn restricted() -> Error {
    Error::forbidden("Certificate is restricted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_worth_more_may_do_what_who_is_worth_less_may() {
        let of = |projects: &[&str]| Trust::Restricted(projects.iter().map(|p| (*p).to_owned()).collect());
        let all = [Trust::None, Trust::Metrics, of(&["p"]), of(&["p", "q"]), Trust::Full, Trust::Member];
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert_eq!(one.covers(other), i >= j, "{one:?} {other:?}");
            }
        }
        assert!(!of(&["p"]).covers(&of(&["q"])) && !of(&["q"]).covers(&of(&["p"])));
    }

    #[test]
    fn each_endpoint_is_open_to_those_it_names_and_to_nobody_else() {
        let restricted = Trust::Restricted(["p".to_owned()].into());
        use Allow::*;
        for (trust, open) in [
            (Trust::None, &[Anyone][..]),
            (Trust::Metrics, &[Anyone, Metrics]),
            (restricted, &[Anyone, Metrics, Trusted, Project]),
            (Trust::Full, &[Anyone, Metrics, Trusted, Project, Admin]),
            (Trust::Member, &[Anyone, Metrics, Trusted, Project, Admin, Member]),
        ] {
            for allow in [Anyone, Metrics, Trusted, Project, Admin, Member] {
                assert_eq!(may(&trust, allow, "p"), open.contains(&allow), "{trust:?} {allow:?}");
            }
        }
        let none = Trust::Restricted(BTreeSet::new());
        for (trust, allow, project, why) in [
            (
                &Trust::Restricted(["p".to_owned()].into()),
                Project,
                "q",
                "User does not have permission for project \"q\"",
            ),
            (&none, Project, "", "User does not have permission for project \"\""),
            (&none, Admin, "q", "Certificate is restricted"),
            (&none, Member, "q", "Certificate is restricted"),
            (&Trust::Full, Member, "q", "not authorized"),
            (&Trust::None, Project, "q", "not authorized"),
        ] {
            assert_eq!(check(trust, allow, project), Err(Error::forbidden(why)));
        }
    }
}
