//! Opening links to other members: mutual TLS, then an upgrade of `/internal/link`.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use api::{Error, Result};
use client::Remote;
use client::tls::{Identity, client_config};
use cluster::{Dial, Stream};
use futures::future::BoxFuture;
use hyper::header::{CONNECTION, UPGRADE};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;

use crate::state::Daemon;

/// Opens links for a daemon that comes into being after its database.
#[derive(Default)]
pub struct Dialler {
    daemon: OnceLock<Weak<Daemon>>,
    before: Before,
}

/// What is known before the daemon is there.
#[derive(Default)]
pub struct Before {
    /// What this member shows to others.
    pub own: Option<Identity>,
    /// What others show.
    pub cluster: Option<Identity>,
    /// Where they are, by Raft id.
    pub addresses: HashMap<u64, String>,
}

impl Before {
    fn remote(&self, to: u64) -> Result<Arc<Remote>> {
        let address = self.addresses.get(&to).ok_or_else(|| unknown(to))?;
        let cluster = self.cluster.as_ref().ok_or_else(|| Error::unavailable("The daemon is starting"))?;
        let config = client_config(&cluster.fingerprint()?, self.own.as_ref())?;
        Ok(Arc::new(Remote::tls(address, config)))
    }
}

fn unknown(to: u64) -> Error {
    Error::unavailable(format!("The address of member {to} is not known"))
}

impl Dialler {
    /// One that can be used before the daemon is there.
    pub fn new(before: Before) -> Dialler {
        Dialler { daemon: OnceLock::new(), before }
    }

    /// The daemon is there now.
    pub fn belongs_to(&self, daemon: &Arc<Daemon>) {
        let _ = self.daemon.set(Arc::downgrade(daemon));
    }
}

impl Dial for Dialler {
    fn dial(&self, to: u64) -> BoxFuture<'static, Result<Box<dyn Stream>>> {
        let remote = match self.daemon.get() {
            None => self.before.remote(to),
            Some(daemon) => match daemon.upgrade() {
                None => Err(Error::unavailable("The daemon is ending")),
                Some(daemon) => {
                    daemon.address_of(to).ok_or_else(|| unknown(to)).and_then(|address| daemon.remote(&address))
                }
            },
        };
        Box::pin(async move {
            let remote = remote?;
            let request = Request::get("/internal/link")
                .header(CONNECTION, "upgrade")
                .header(UPGRADE, cluster::link::OFFERED.join(", "))
                .body(client::http::empty())
                .map_err(|e| Error::internal(e.to_string()))?;
            let answer = remote.send(request).await?;
            if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                let refused = client::http::envelope(answer, "the link").await.err();
                let why = refused.map_or_else(|| "it does not know what a link is".to_owned(), |e| e.message);
                return Err(Error::unavailable(format!("Member {to} refuses the link: {why}")));
            }
            let upgraded = hyper::upgrade::on(answer).await.map_err(|e| Error::unavailable(e.to_string()))?;
            Ok(Box::new(TokioIo::new(upgraded)) as Box<dyn Stream>)
        })
    }
}
