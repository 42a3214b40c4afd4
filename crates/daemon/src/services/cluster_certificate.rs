//! `/1.0/cluster/certificate`: the certificate that all members answer with is replaced.
//!
//! The new one is written into the database, which needs a majority. Each member takes it into use when it sees it
//! there, at once or when it is back, and says so; until then the others expect the one that it shows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::cluster::ClusterCertificatePut;
use api::{Error, Result};
use client::tls::Identity;
use db::cluster_certificate::{self, ClusterCertificate};
use jiff::Timestamp;

use crate::edge::Cx;
use crate::state::Daemon;

/// How long is waited for the members that are online.
const MOMENT: Duration = Duration::from_secs(5);

/// Replaces it.
pub async fn put(cx: Cx, put: ClusterCertificatePut) -> Result<()> {
    let daemon = &cx.daemon;
    daemon.must_be_clustered()?;
    for (what, text) in [("certificate", &put.cluster_certificate), ("certificate's key", &put.cluster_certificate_key)]
    {
        if text.trim().is_empty() {
            return Err(Error::bad_request(format!("The cluster's new {what} is missing")));
        }
    }
    let identity = Identity { certificate: put.cluster_certificate, key: put.cluster_certificate_key };
    replace(daemon, identity).await?;
    daemon.tell("cluster-certificate-updated", "/1.0/cluster/certificate".into(), &cx.caller);
    Ok(())
}

/// Replaces it on all members: those that are online have it when this returns.
pub async fn replace(daemon: &Arc<Daemon>, identity: Identity) -> Result<()> {
    identity.check(Timestamp::now())?;
    let new = ClusterCertificate {
        fingerprint: identity.fingerprint()?,
        certificate: identity.certificate,
        key: identity.key,
        showing: BTreeMap::new(),
    };
    let (shown, silent) = (daemon.api_identity().fingerprint()?, silent(daemon));
    daemon.write(move |tx| cluster_certificate::replace(tx, &new, &shown, &silent, Timestamp::now())).await?;
    take(daemon).await?;
    wait_for_others(daemon).await;
    Ok(())
}

/// The members that are offline, by row id, each with a UUID for a warning.
fn silent(daemon: &Daemon) -> Vec<(i64, String)> {
    let snapshot = daemon.snapshot();
    let offline = snapshot.members.iter().filter(|m| daemon.must_be_online(m, &snapshot).is_err());
    offline.map(|m| (m.id, uuid::Uuid::new_v4().to_string())).collect()
}

/// Takes the certificate that the database has into use, if another one is in use, and says so.
pub async fn take(daemon: &Arc<Daemon>) -> Result<()> {
    let taken = daemon.take_cluster_identity().await?;
    let (own, fingerprint) = (daemon.raft_id(), daemon.api_identity().fingerprint()?);
    if taken {
        tracing::info!("the cluster has another certificate: {fingerprint}");
    }
    let untold = daemon.snapshot().certificate.as_ref().is_some_and(|c| c.showing.contains_key(&own));
    // Without a majority it is said later: whatever the next leader writes is the occasion.
    if untold && daemon.db().status().leader.is_some() {
        daemon.write(move |tx| cluster_certificate::taken(tx, own, &fingerprint, Timestamp::now())).await?;
    }
    Ok(())
}

/// The certificate that joining members are given.
pub fn newest(daemon: &Daemon) -> Result<Identity> {
    let replaced = daemon.snapshot().certificate.as_ref().map(identity);
    replaced.or_else(|| daemon.cluster_identity()).ok_or_else(|| Error::internal("The cluster has no certificate"))
}

/// The certificate with its key.
pub fn identity(certificate: &ClusterCertificate) -> Identity {
    Identity { certificate: certificate.certificate.clone(), key: certificate.key.clone() }
}

async fn wait_for_others(daemon: &Arc<Daemon>) {
    let silent: Vec<i64> = silent(daemon).into_iter().map(|(id, _)| id).collect();
    let all = async {
        loop {
            let db = daemon.db();
            let seen = db.data_index();
            let snapshot = daemon.snapshot();
            let waits = |id: &u64| snapshot.members.iter().any(|m| m.raft_id == Some(*id) && !silent.contains(&m.id));
            if !snapshot.certificate.as_ref().is_some_and(|c| c.showing.keys().any(waits)) {
                return;
            }
            db.changed_since(seen).await;
            if daemon.refresh().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(MOMENT, all).await.is_err() {
        tracing::warn!("some members have not taken the new certificate of the cluster into use yet");
    }
}
