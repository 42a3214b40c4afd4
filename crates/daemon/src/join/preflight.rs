//! What stands in the way of a server that is to form or join a cluster: all of it is found before anything is changed,
//! and told at once.
//!
//! The cluster says what it sees of the joining server, and what it has; the server compares that with what it has
//! itself. Nothing here uses the token up.

use std::sync::Arc;
use std::time::Duration;

use api::cluster::{JoinToken, MemberConfigKey};
use api::key::Config;
use api::{Error, Kind, Result};
use client::Remote;
use client::tls::{client_config, fingerprint};
use db::Tx;
use drivers::network::Definition;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Accept, belongings, hash, invited, must_be_specific, not_empty, same_version, shown_by};
use crate::edge::auth::Caller;
use crate::services::{networks, pools};
use crate::start;
use crate::state::Daemon;

/// How long the cluster tries to reach the joining server.
const PATIENCE: Duration = Duration::from_secs(5);
/// How far the clocks may be apart, in seconds.
const SKEW: i64 = 10;

/// What stands in the way, as it is found.
#[derive(Debug, Default)]
pub struct Faults(Vec<Error>);

impl Faults {
    /// Notes what is wrong, and goes on with what is right.
    pub fn note<T>(&mut self, found: Result<T>) -> Option<T> {
        found.map_err(|e| self.0.push(e)).ok()
    }

    /// One fault is told as it is, several in a list.
    pub fn end(mut self, what: &str) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            1 => Err(self.0.remove(0)),
            n => {
                let all: String = self.0.iter().map(|e| format!("\n- {e}")).collect();
                Err(Error::bad_request(format!("{what}: {n} things have to be put right first{all}")))
            }
        }
    }
}

/// What the cluster answers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Status and message of what is wrong.
    pub faults: Vec<(u16, String)>,
    /// Name and driver of its storage pools.
    pub pools: Vec<(String, String)>,
    /// Its networks: name, kind, and the configuration that is the same everywhere.
    pub networks: Vec<(String, String, Config)>,
}

/// What is wrong with this server by itself, as the first member of a new cluster.
pub async fn of_bootstrap(daemon: &Arc<Daemon>, name: &str, address: &Result<String>) -> Result<()> {
    let mut faults = Faults::default();
    faults.note(api::name::member(name));
    match address {
        Ok(address) => address_faults(daemon, address, &mut faults).await,
        Err(e) => drop(faults.note(Err::<(), _>(e.clone()))),
    }
    faults.end("This server can't form a cluster as it is")
}

/// What is wrong with this server by itself, whatever the cluster is.
pub async fn of_joiner(daemon: &Arc<Daemon>, address: &Result<String>, faults: &mut Faults) -> Result<()> {
    for used in daemon.db().peek(belongings).await? {
        faults.note(Err::<(), _>(not_empty(&used)));
    }
    match address {
        Ok(address) => address_faults(daemon, address, faults).await,
        Err(e) => drop(faults.note(Err::<(), _>(e.clone()))),
    }
    Ok(())
}

async fn address_faults(daemon: &Arc<Daemon>, address: &str, faults: &mut Faults) {
    if faults.note(must_be_specific(address)).is_some() {
        faults.note(start::can_listen(daemon, address).await);
    }
}

/// What is wrong with this server beside what the cluster has.
pub async fn beside(daemon: &Arc<Daemon>, found: &Found, answers: &[MemberConfigKey], faults: &mut Faults) {
    let answered = |entity: &str, name: &str| -> Config {
        let of = |k: &&MemberConfigKey| k.entity == entity && k.name == name && !k.value.is_empty();
        answers.iter().filter(of).map(|k| (k.key.clone(), k.value.clone())).collect()
    };
    for (name, driver) in &found.pools {
        let fits = pools::fits(daemon, name, driver, &answered("storage-pool", name));
        faults.note(fits.map_err(|e| e.context(format!("Storage pool \"{name}\""))));
    }
    for (name, kind, config) in &found.networks {
        let own = answered("network", name);
        if faults.note(networks::only_members_own(&own)).is_none() {
            continue;
        }
        let config = config.clone().into_iter().chain(own).collect();
        let definition = Definition { name: name.clone(), kind: kind.clone(), config };
        let all = daemon.networks.clone();
        let fits = crate::blocking::run(move || all.fits(&definition)).await;
        faults.note(fits.map_err(|e| e.context(format!("Network \"{name}\""))));
    }
    for k in answers {
        let known = match k.entity.as_str() {
            "storage-pool" => found.pools.iter().any(|(name, _)| *name == k.name),
            "network" => found.networks.iter().any(|(name, ..)| *name == k.name),
            _ => false,
        };
        if !known {
            faults.note(Err::<(), _>(Error::bad_request(format!(
                "member_config speaks of the {} \"{}\", which the cluster does not have",
                k.entity, k.name
            ))));
        }
    }
}

// ---- on the cluster's side ---------------------------------------------------------------------------------

/// Looks at a server that wants to join. Only one that could is told anything.
pub async fn look(daemon: &Arc<Daemon>, caller: &Caller, request: Accept) -> Result<Found> {
    daemon.must_be_clustered()?;
    let shown = shown_by(caller, &request)?;
    let now = Timestamp::now();
    let token = if request.token.is_empty() { None } else { Some(JoinToken::decode(&request.token)?) };
    let (name, pools, networks) = daemon
        .view(move |tx| {
            let refused = || Error::forbidden("not authorized");
            let name = match &token {
                Some(token) => {
                    let good =
                        db::tokens::find(tx, db::tokens::Kind::Join, &token.server_name, &hash(&token.secret), now)?;
                    good.ok_or_else(refused)?.name
                }
                None => invited(tx, &shown)?,
            };
            Ok((name, db::pools::list(tx)?, db::networks::list(tx, None)?))
        })
        .await?;
    let mut faults = Faults::default();
    faults.note(same_version(&request));
    faults.note(same_time(request.now, now));
    let address = request.address.clone();
    let listens = !address.is_empty();
    let taken = daemon.view(move |tx| free(tx, &name, &address)).await?;
    let free = taken.iter().all(Result::is_ok);
    for one in taken {
        faults.note(one);
    }
    if free && listens {
        faults.note(reach(daemon, &request).await);
    }
    Ok(Found {
        faults: faults.0.into_iter().map(|e| (e.kind.status(), e.message)).collect(),
        pools: pools.into_iter().map(|p| (p.name, p.driver)).collect(),
        networks: networks.into_iter().map(|n| (n.name, n.kind.as_str().to_owned(), n.config)).collect(),
    })
}

fn same_time(theirs: Option<Timestamp>, ours: Timestamp) -> Result<()> {
    let apart = theirs.map_or(0, |theirs| theirs.as_second() - ours.as_second());
    if apart.abs() <= SKEW {
        return Ok(());
    }
    let how = if apart > 0 { "ahead of" } else { "behind" };
    Err(Error::bad_request(format!(
        "The clock of the joining server is {} seconds {how} that of the cluster: set it first, as NTP does",
        apart.abs()
    )))
}

/// Whether the name and the address are nobody else's.
fn free(tx: &Tx<'_>, name: &str, address: &str) -> Result<Vec<Result<()>>> {
    let members = db::members::list(tx)?;
    let taken =
        |what: &str, value: &str| Error::conflict(format!("The cluster already has a member with {what}: {value}"));
    let check = |is_taken: bool, what: &str, value: &str| if is_taken { Err(taken(what, value)) } else { Ok(()) };
    Ok(vec![
        check(members.iter().any(|m| m.name == name), "name", name),
        check(members.iter().any(|m| m.address == address), "address", address),
    ])
}

/// Whether the cluster reaches the joining server where that says that it is.
async fn reach(daemon: &Arc<Daemon>, request: &Accept) -> Result<()> {
    let config = client_config(&fingerprint(&request.certificate)?, Some(&daemon.own_identity()))?;
    let remote = Remote::tls(&request.address, config);
    let why = match tokio::time::timeout(PATIENCE, remote.json("GET", "/1.0", None)).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(e)) => e.message,
        Err(_) => "no answer".to_owned(),
    };
    Err(Error::bad_request(format!(
        "The member \"{}\" can't reach the joining server at {}: {why}. Is that its address, and does a firewall let \
         port {} through?",
        daemon.name(),
        request.address,
        request.address.rsplit(':').next().unwrap_or_default()
    )))
}

/// What the cluster has found, as errors that name the request.
pub fn told(found: &Found) -> impl Iterator<Item = Error> {
    let error = |(status, message): &(u16, String)| Error::new(Kind::from_status(*status), message.clone());
    found.faults.iter().map(error).map(|e| e.context("Failed request to add member"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_fault_is_told_as_it_is_and_several_in_a_list() {
        let faults = |n: usize| {
            let mut faults = Faults::default();
            for i in 0..n {
                faults.note(Err::<(), _>(Error::conflict(format!("fault {i}"))));
            }
            assert_eq!(faults.note(Ok(7)), Some(7));
            faults.end("It can't")
        };
        assert_eq!(faults(0), Ok(()));
        assert_eq!(faults(1), Err(Error::conflict("fault 0")));
        let all = faults(2).unwrap_err();
        assert_eq!(all.message, "It can't: 2 things have to be put right first\n- fault 0\n- fault 1");
    }

    #[test]
    fn clocks_may_be_a_little_apart() {
        let at = |s: i64| Timestamp::from_second(1_000_000 + s).unwrap();
        for (theirs, want) in [
            (None, None),
            (Some(at(0)), None),
            (Some(at(10)), None),
            (Some(at(-10)), None),
            (Some(at(11)), Some("is 11 seconds ahead of")),
            (Some(at(-3600)), Some("is 3600 seconds behind")),
        ] {
            let said = same_time(theirs, at(0)).err().map(|e| e.message);
            assert_eq!(said.is_some(), want.is_some(), "{theirs:?}");
            assert!(want.is_none_or(|w| said.unwrap().contains(w)));
        }
    }
}
