//! Who is asking, and may they?

use std::collections::BTreeSet;

use api::endpoint::Allow;
use api::event::Requestor;

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

/// Whether a caller of that trust may call an endpoint in that project.
pub fn may(trust: &Trust, allow: Allow, project: &str) -> bool {
    match (trust, allow) {
        (_, Allow::Anyone) | (Trust::Member, _) => true,
        (Trust::None | Trust::Metrics, _) | (Trust::Restricted(_) | Trust::Full, Allow::Member) => false,
        (Trust::Full, Allow::Trusted | Allow::Project | Allow::Admin) => true,
        (Trust::Restricted(_), Allow::Trusted) => true,
        (Trust::Restricted(projects), Allow::Project) => projects.contains(project),
        (Trust::Restricted(_), Allow::Admin) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_is_open_to_those_it_names_and_to_nobody_else() {
        let restricted = Trust::Restricted(["p".to_owned()].into());
        use Allow::*;
        for (trust, open) in [
            (Trust::None, &[Anyone][..]),
            (Trust::Metrics, &[Anyone]),
            (restricted, &[Anyone, Trusted, Project]),
            (Trust::Full, &[Anyone, Trusted, Project, Admin]),
            (Trust::Member, &[Anyone, Trusted, Project, Admin, Member]),
        ] {
            for allow in [Anyone, Trusted, Project, Admin, Member] {
                assert_eq!(may(&trust, allow, "p"), open.contains(&allow), "{trust:?} {allow:?}");
            }
        }
        assert!(!may(&Trust::Restricted(["p".to_owned()].into()), Project, "default"));
    }
}
