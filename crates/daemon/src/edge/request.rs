//! What a handler gets: who asks, for what, and the whole daemon to answer with.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::endpoint::decode;
use api::{Error, Info, Kind, Result};
use bytes::BytesMut;
use futures::{Stream, StreamExt as _};
use http_body_util::BodyDataStream;
use hyper::HeaderMap;
use hyper::body::Body as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::auth::Caller;
use super::incoming::Incoming;
use super::{permit, reply};
use crate::state::Daemon;

/// How long a client may take to send a JSON body: four megabytes on a slow line.
const SENDING: Duration = Duration::from_secs(30);
/// For how long the rest of a body that is refused is read.
const DISCARDING: Duration = Duration::from_secs(10);

/// The context of a request.
#[derive(Clone)]
pub struct Cx {
    /// The daemon.
    pub daemon: Arc<Daemon>,
    /// Who asks.
    pub caller: Caller,
    /// The member that has sent the request on, if one has: it has decided which member serves it.
    pub carrier: Option<Caller>,
    /// What is asked for.
    pub info: Info,
    /// What stands in the `{…}` of the path, in order.
    pub args: Vec<String>,
    /// The query.
    pub query: BTreeMap<String, String>,
    /// The request's headers.
    pub headers: HeaderMap,
    /// What the handler adds to the answer.
    pub answer: Arc<Answer>,
}

/// What a handler adds to an answer beside its value.
#[derive(Default)]
pub struct Answer {
    /// The header `ETag`.
    pub etag: OnceLock<String>,
    /// The header `Location`; makes the status 201.
    pub location: OnceLock<String>,
}

impl Cx {
    /// True if another member has sent the request on.
    pub fn forwarded(&self) -> bool {
        self.carrier.is_some()
    }

    /// The `i`th part of the path that is not fixed.
    pub fn arg(&self, i: usize) -> &str {
        self.args.get(i).map_or("", String::as_str)
    }

    /// A parameter of the query; empty if it is not there.
    pub fn param(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// True if a parameter of the query is set to something true.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.param(name), "1" | "true" | "yes" | "on")
    }

    /// The project that the request is about.
    pub fn project(&self) -> &str {
        match self.param("project") {
            "" => "default",
            name => name,
        }
    }

    /// Says which state of the thing the answer shows.
    pub fn show_etag(&self, state: &impl Serialize) {
        let _ = self.answer.etag.set(reply::etag(state));
    }

    /// Refuses if the caller wants to change another state of the thing than the one it has now.
    pub fn check_etag(&self, state: &impl Serialize) -> Result<()> {
        let Some(wanted) = self.headers.get("if-match").and_then(|v| v.to_str().ok()) else { return Ok(()) };
        let (wanted, have) = (wanted.trim_matches('"'), reply::etag(state));
        if wanted.is_empty() || wanted == "*" || wanted == have {
            return Ok(());
        }
        Err(Error::new(Kind::PreconditionFailed, format!("ETag doesn't match: {have} vs {wanted}")))
    }

    /// Says where the new thing is.
    pub fn created(&self, url: String) {
        let _ = self.answer.location.set(url);
    }
}

/// Reads `a=b&c=d`. Of what is said twice the first counts, as for all servers in Go.
pub fn parse_query(query: &str) -> BTreeMap<String, String> {
    let plain = |s: &str| decode(&s.replace('+', " "));
    let mut all = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        all.entry(plain(name)).or_insert_with(|| plain(value));
    }
    all
}

/// Reads the JSON body of a request. Who takes long to send it has to be let in at its end as well.
pub async fn body<B: DeserializeOwned>(cx: &Cx, body: Incoming) -> Result<B> {
    let there = body.is_end_stream();
    let read = json(body).await?;
    match there || permit::still(cx).await {
        true => Ok(read),
        false => Err(Error::forbidden("not authorized")),
    }
}

/// Reads a JSON body.
pub async fn json<B: DeserializeOwned>(body: Incoming) -> Result<B> {
    let limit = body.json_limit();
    let (mut stream, mut bytes) = (BodyDataStream::new(body), BytesMut::new());
    let read = async {
        while let Some(more) = stream.next().await {
            let more = more.map_err(|e| e.context("The body can't be read"))?;
            if bytes.len() + more.len() > limit {
                let why = format!("The body is too large: at most {limit} bytes are accepted");
                return Err(Error::new(Kind::TooLarge, why));
            }
            bytes.extend_from_slice(&more);
        }
        Ok(())
    };
    let why = || Error::new(Kind::TimedOut, format!("The body did not come within {} seconds", SENDING.as_secs()));
    let read = tokio::time::timeout(SENDING, read).await.unwrap_or_else(|_| Err(why()));
    if let Err(e) = read {
        if e.kind == Kind::TooLarge {
            discard(stream).await;
        }
        return Err(e);
    }
    api::body::parse(&bytes)
}

/// Reads what is left of a body that is refused and throws it away, within limits: most clients look for an answer
/// only when they have sent everything, and would be told that the connection broke.
pub async fn discard(rest: impl Stream + Unpin) {
    let _ = tokio::time::timeout(DISCARDING, rest.for_each(async |_| ())).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = parse_query("a=1&b=x%20y+z&c&=&d=%2F&a=2&%61=3");
        let got: Vec<_> = query.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(got, ["=", "a=1", "b=x y z", "c=", "d=/"]);
    }
}
