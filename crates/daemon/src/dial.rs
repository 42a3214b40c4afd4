//! Opening links to other members: mutual TLS, then an upgrade of `/internal/link`.

use std::sync::{Arc, OnceLock, Weak};

use api::{Error, Result};
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
}

impl Dialler {
    /// The daemon is there now.
    pub fn belongs_to(&self, daemon: &Arc<Daemon>) {
        let _ = self.daemon.set(Arc::downgrade(daemon));
    }
}

impl Dial for Dialler {
    fn dial(&self, to: u64) -> BoxFuture<'static, Result<Box<dyn Stream>>> {
        let daemon = self.daemon.get().and_then(Weak::upgrade);
        Box::pin(async move {
            let daemon = daemon.ok_or_else(|| Error::unavailable("The daemon is starting"))?;
            let unknown = || Error::unavailable(format!("The address of member {to} is not known"));
            let address = daemon.address_of(to).ok_or_else(unknown)?;
            let request = Request::get("/internal/link")
                .header(CONNECTION, "upgrade")
                .header(UPGRADE, cluster::link::OFFERED.join(", "))
                .body(client::http::empty())
                .map_err(|e| Error::internal(e.to_string()))?;
            let answer = daemon.remote(&address)?.send(request).await?;
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
