//! Trust by an authority: with `server.ca` in the daemon's folder only clients whose certificate it has signed, and not
//! revoked in `ca.crl`, are trusted, each as far as it is known; with `core.trust_ca_certificates` also those that are
//! not known. Members of the cluster know each other without it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use api::Result;
use client::authority::Authority;

use crate::paths::Paths;

/// What an authority says of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is no authority.
    NotAsked,
    /// It vouches for it.
    Signed,
    /// It does not.
    Refused,
}

/// The authority, read again whenever its files change.
pub struct Pki {
    files: [PathBuf; 2],
    read: Mutex<Read>,
}

/// What was read of the files as they were.
#[derive(Default)]
struct Read {
    state: [Option<(SystemTime, u64)>; 2],
    /// `None` without an authority; an authority that can't be read vouches for nobody.
    authority: Option<Option<Arc<Authority>>>,
}

impl Pki {
    /// The authority of this server, if it has one.
    pub fn new(paths: &Paths) -> Pki {
        Pki { files: [paths.server_ca(), paths.ca_crl()], read: Mutex::default() }
    }

    /// What it says of a certificate (DER).
    pub fn judge(&self, certificate: &[u8]) -> Verdict {
        match self.authority() {
            None => Verdict::NotAsked,
            Some(Some(authority)) if authority.vouches_for(certificate) => Verdict::Signed,
            Some(_) => Verdict::Refused,
        }
    }

    fn authority(&self) -> Option<Option<Arc<Authority>>> {
        let seen = |file: &PathBuf| {
            std::fs::metadata(file).ok().map(|m| (m.modified().unwrap_or(SystemTime::UNIX_EPOCH), m.len()))
        };
        let state = [seen(&self.files[0]), seen(&self.files[1])];
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.state != state {
            let authority = state[0].map(|_| self.load(state[1].is_some()));
            if let Some(Err(e)) = &authority {
                tracing::error!("no client is trusted: {e}");
            }
            *read = Read { state, authority: authority.map(|a| a.ok().map(Arc::new)) };
        }
        read.authority.clone()
    }

    fn load(&self, revokes: bool) -> Result<Authority> {
        let [certificates, revoked] = &self.files;
        let revoked = revokes.then(|| std::fs::read_to_string(revoked)).transpose()?;
        Authority::new(&std::fs::read_to_string(certificates)?, revoked.as_deref())
    }
}
