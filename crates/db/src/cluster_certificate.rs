//! The certificate that all members of the cluster answer with, once it has been replaced.
//!
//! It is kept here with its key so that a member that was away finds it when it is back. Until a member has taken it
//! into use it shows an older one, and the others have to know which.

use std::collections::BTreeMap;
use std::fmt;

use api::{Error, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config;
use crate::tx::Tx;
use crate::warnings::{self, Kind, Subject};

const KEY: &str = "internal.cluster_certificate";

/// The certificate, and who does not show it yet.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterCertificate {
    /// SHA-256 of the certificate.
    pub fingerprint: String,
    /// PEM.
    pub certificate: String,
    /// PEM; never shown to anybody.
    pub key: String,
    /// The fingerprints of what members show that have not taken it into use, by Raft id.
    pub showing: BTreeMap<u64, String>,
}

impl fmt::Debug for ClusterCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterCertificate({}, not shown by {:?})", self.fingerprint, self.showing)
    }
}

/// The certificate, if it was ever replaced.
pub fn get(tx: &Tx<'_>) -> Result<Option<ClusterCertificate>> {
    let unreadable = |_| Error::internal("The certificate of the cluster in the database is unreadable");
    config::value(tx, KEY)?.map(|text| serde_json::from_str(&text).map_err(unreadable)).transpose()
}

fn put(tx: &Tx<'_>, certificate: &ClusterCertificate) -> Result<()> {
    let text = serde_json::to_string(certificate).map_err(|e| Error::internal(e.to_string()))?;
    config::set(tx, KEY, Some(&text))
}

/// Replaces the certificate. `shown` is the fingerprint of what was shown before it was replaced for the first time,
/// `silent` the row ids of the members that can't be told now, which is a warning until they have it.
pub fn replace(
    tx: &Tx<'_>,
    new: &ClusterCertificate,
    shown: &str,
    silent: &[(i64, String)],
    now: Timestamp,
) -> Result<()> {
    let before = get(tx)?;
    let last = before.as_ref().map_or(shown, |b| &b.fingerprint);
    let members = crate::members::list(tx)?;
    let showing = members.iter().filter_map(|m| m.raft_id).map(|id| {
        let older = before.as_ref().and_then(|b| b.showing.get(&id));
        (id, older.map_or(last, |o| o).to_owned())
    });
    put(tx, &ClusterCertificate { showing: showing.collect(), ..new.clone() })?;
    for (member, uuid) in silent {
        let about = Subject::member(Kind::ClusterCertificate, *member);
        warnings::raise(tx, about, "The member is offline and gets it when it is back", uuid, now)?;
    }
    Ok(())
}

/// A member shows the certificate with this fingerprint now.
pub fn taken(tx: &Tx<'_>, raft_id: u64, fingerprint: &str, now: Timestamp) -> Result<()> {
    let Some(mut certificate) = get(tx)?.filter(|c| c.fingerprint == fingerprint) else { return Ok(()) };
    if certificate.showing.remove(&raft_id).is_some() {
        put(tx, &certificate)?;
    }
    let member = crate::members::by_raft_id(tx, raft_id)?.id;
    warnings::resolve(tx, Subject::member(Kind::ClusterCertificate, member), now)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn it_is_known_what_each_member_shows() {
        let c = database();
        let tx = Tx(&c);
        c.execute_batch(
            "INSERT INTO nodes (id, name, address, schema, api_extensions) VALUES (2, 'node2', 'x', 1, 1);
             INSERT INTO raft_ids (id, node_id) VALUES (2, 2);",
        )
        .unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let new = |f: &str| ClusterCertificate {
            fingerprint: f.into(),
            certificate: "PEM".into(),
            key: "SECRET".into(),
            showing: BTreeMap::new(),
        };
        let showing = || get(&tx).unwrap().unwrap().showing.into_iter().collect::<Vec<_>>();
        assert_eq!(get(&tx).unwrap(), None);
        replace(&tx, &new("b"), "a", &[(2, "u".into())], now).unwrap();
        assert_eq!(showing(), [(1, "a".to_owned()), (2, "a".to_owned())]);
        taken(&tx, 1, "b", now).unwrap();
        taken(&tx, 1, "b", now).unwrap();
        assert_eq!(showing(), [(2, "a".to_owned())]);
        replace(&tx, &new("c"), "", &[], now).unwrap();
        taken(&tx, 2, "b", now).unwrap();
        assert_eq!(showing(), [(1, "b".to_owned()), (2, "a".to_owned())], "it was older, and took one that is old now");
        taken(&tx, 2, "c", now).unwrap();
        assert_eq!(showing(), [(1, "b".to_owned())]);
        let open: i64 = c.query_row("SELECT COUNT(*) FROM warnings WHERE status <> 3", [], |r| r.get(0)).unwrap();
        assert_eq!(open, 0);
        assert!(!format!("{:?}", get(&tx).unwrap()).contains("SECRET"));
        assert!(config::get(&tx).unwrap().is_empty(), "it is no configuration");
    }
}
