//! What a handler gets: who asks, for what, and the whole daemon to answer with.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::endpoint::decode;
use api::{Error, Kind, Result};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, Limited};
use hyper::HeaderMap;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::auth::Caller;
use super::reply;
use crate::state::Daemon;

/// The largest JSON body that is accepted, in bytes.
const MAX_JSON: usize = 4 << 20;
/// For how long the rest of a body that is refused is read.
const DISCARDING: Duration = Duration::from_secs(10);

/// The context of a request.
#[derive(Clone)]
pub struct Cx {
    /// The daemon.
    pub daemon: Arc<Daemon>,
    /// Who asks.
    pub caller: Caller,
    /// What stands in the `{…}` of the path, in order.
    pub args: Vec<String>,
    /// True if another member has sent the request on: it has decided which member serves it.
    pub forwarded: bool,
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

/// Reads a JSON body.
pub async fn json<B: DeserializeOwned>(body: Incoming) -> Result<B> {
    let bytes = Limited::new(body, MAX_JSON)
        .collect()
        .await
        .map_err(|e| Error::bad_request(format!("The body can't be read (at most {MAX_JSON} bytes): {e}")))?
        .to_bytes();
    parse(&bytes)
}

/// Reads what is left of a body that is refused and throws it away, within limits: most clients look for an answer
/// only when they have sent everything, and would be told that the connection broke.
pub async fn discard(rest: impl Stream + Unpin) {
    let _ = tokio::time::timeout(DISCARDING, rest.for_each(async |_| ())).await;
}

fn parse<B: DeserializeOwned>(bytes: &Bytes) -> Result<B> {
    // An endpoint without a body ignores what is sent.
    if size_of::<B>() == 0
        && let Ok(nothing) = serde_json::from_str("null")
    {
        return Ok(nothing);
    }
    if bytes.is_empty() {
        return Err(Error::bad_request("EOF"));
    }
    serde_json::from_slice(bytes).or_else(|e| {
        let refused = || Error::bad_request(json_error(bytes, &e));
        if !e.is_data() {
            return Err(refused());
        }
        // Clients in Go write `null` for an empty list or map.
        let mut value = serde_json::from_slice(bytes).map_err(|_| refused())?;
        drop_nulls(&mut value);
        serde_json::from_value(value).map_err(|_| refused())
    })
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, v| !v.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The words that clients know for the commonest slips; otherwise those of the parser.
fn json_error(bytes: &[u8], e: &serde_json::Error) -> String {
    let upto: usize = bytes.split_inclusive(|b| *b == b'\n').take(e.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let at = (upto + e.column()).saturating_sub(1);
    match (e.classify(), bytes.get(at)) {
        (serde_json::error::Category::Eof, _) => "unexpected EOF".into(),
        (serde_json::error::Category::Syntax, Some(&c)) => {
            let before = bytes[..at].iter().rev().find(|b| !b.is_ascii_whitespace());
            let place = match before {
                None => "looking for beginning of value",
                Some(b'{' | b',') if e.to_string().starts_with("key must be a string") => {
                    "looking for beginning of object key string"
                }
                Some(_) => return e.to_string(),
            };
            format!("invalid character '{}' {place}", char::from(c))
        }
        _ => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_json_is_explained_in_known_words() {
        for (text, want) in [
            ("", "EOF"),
            ("{nope", "invalid character 'n' looking for beginning of object key string"),
            ("nope", "expected ident at line 1 column 2"),
            ("?", "invalid character '?' looking for beginning of value"),
            ("{\"a\":", "unexpected EOF"),
        ] {
            let got = parse::<Value>(&Bytes::from(text)).unwrap_err();
            assert_eq!((got.kind, got.message.as_str()), (Kind::BadRequest, want), "{text}");
        }
        assert_eq!(parse::<()>(&Bytes::from("anything")), Ok(()));
    }

    #[test]
    fn null_is_nothing() {
        let put: api::cluster::ClusterPut =
            parse(&Bytes::from("{\"member_config\": null, \"server_name\": \"a\"}")).unwrap();
        assert_eq!((put.server_name.as_str(), put.member_config.len()), ("a", 0));
    }

    #[test]
    fn queries_are_decoded() {
        let query = parse_query("a=1&b=x%20y+z&c&=&d=%2F&a=2&%61=3");
        let got: Vec<_> = query.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(got, ["=", "a=1", "b=x y z", "c=", "d=/"]);
    }
}
