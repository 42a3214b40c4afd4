//! Clients of the API: each keeps a connection to one daemon, over its socket, and knows after each request whether it
//! was carried out, was not, or may have been.

use std::time::Duration;

use client::Remote;
use client::http::{empty, full};
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::header::{ETAG, IF_MATCH};
use serde_json::Value;

use crate::rack::Roots;

/// How long a client waits for an answer; then nobody knows.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it waits for the end of an operation.
const LONG: Duration = Duration::from_secs(60);

/// What came of a request.
#[derive(Debug)]
pub enum Answer {
    /// It was carried out.
    Good(Good),
    /// It was not carried out, and why.
    Refused(String),
    /// It may have been carried out, or may still be.
    Unknown(String),
}

/// What was answered.
#[derive(Debug, Default)]
pub struct Good {
    /// The value in the envelope.
    pub value: Value,
    /// The header `ETag`, as it is to be sent back.
    pub etag: String,
    /// False if no majority has confirmed that it is the newest state.
    pub confirmed: bool,
}

impl Answer {
    /// What was answered, if it was carried out.
    pub fn good(self) -> Option<Good> {
        match self {
            Answer::Good(good) => Some(good),
            Answer::Refused(..) | Answer::Unknown(_) => None,
        }
    }
}

/// A client of the daemon of one machine.
pub struct Client {
    roots: Roots,
    /// The machine.
    pub number: usize,
    remote: Option<Remote>,
    /// True if nobody was there when it asked last.
    pub unreachable: bool,
}

impl Client {
    /// A client that has not connected yet.
    pub fn new(roots: &Roots, number: usize) -> Client {
        Client { roots: roots.clone(), number, remote: None, unreachable: false }
    }

    /// `GET`.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, None, None).await
    }

    /// Asks once.
    pub async fn ask(&mut self, method: &str, path: &str, body: Option<&Value>, if_match: Option<&str>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(etag) = if_match {
            request = request.header(IF_MATCH, etag);
        }
        let body = body.map_or_else(empty, |body| full(body.to_string()));
        match request.body(body) {
            Ok(request) => self.send(request, PATIENCE).await,
            Err(e) => Answer::Refused(e.to_string()),
        }
    }

    /// Puts a file into an instance.
    pub async fn push(&mut self, instance: &str, path: &str, content: &str) -> Answer {
        let uri = format!("/1.0/instances/{instance}/files?path={path}");
        let request = Request::builder().method("POST").uri(uri).header("X-Incus-type", "file");
        match request.body(full(content.to_owned())) {
            Ok(request) => self.send(request, PATIENCE).await,
            Err(e) => Answer::Refused(e.to_string()),
        }
    }

    /// Begins an operation and waits for its end. A failed one may have done some of it.
    pub async fn run(&mut self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let begun = match self.ask(method, path, body, None).await {
            Answer::Good(good) => good,
            other => return other,
        };
        let id = begun.value["id"].as_str().unwrap_or_default();
        let wait = Request::builder().uri(format!("/1.0/operations/{id}/wait?timeout={}", LONG.as_secs()));
        let Ok(wait) = wait.body(empty()) else { return Answer::Unknown("no operation".into()) };
        match self.send(wait, LONG + PATIENCE).await {
            Answer::Good(ended) if ended.value["status"] == "Success" => Answer::Good(ended),
            Answer::Good(ended) => Answer::Unknown(format!(
                "{}: {}",
                ended.value["status"],
                ended.value["err"].as_str().unwrap_or_default()
            )),
            Answer::Refused(why) | Answer::Unknown(why) => Answer::Unknown(why),
        }
    }

    async fn send(&mut self, request: Request<client::http::Body>, patience: Duration) -> Answer {
        let (roots, number) = (&self.roots, self.number);
        let socket = || roots.incus_dir(number).join("unix.socket");
        let remote = self.remote.get_or_insert_with(|| Remote::unix(socket()));
        let exchange = async {
            let answer = remote.send(request).await?;
            let (parts, body) = answer.into_parts();
            let read = body.collect().await.map_err(|e| api::Error::internal(e.to_string()))?;
            Ok::<_, api::Error>((parts, read.to_bytes()))
        };
        let (parts, bytes) = match tokio::time::timeout(patience, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => {
                self.remote = None;
                self.unreachable = e.message.starts_with("Unable to");
                return match self.unreachable {
                    true => Answer::Refused(e.message),
                    false => Answer::Unknown(e.message),
                };
            }
            Err(_) => {
                self.remote = None;
                return Answer::Unknown("no answer".into());
            }
        };
        self.unreachable = false;
        let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let text: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let status = parts.status.as_u16();
        let why = || text["error"].as_str().unwrap_or_default().to_owned();
        match status {
            200..300 => Answer::Good(Good {
                value: text["metadata"].clone(),
                etag: header(ETAG.as_str()),
                confirmed: header(api::endpoint::UNCONFIRMED).is_empty(),
            }),
            // Also without a majority it may come true later.
            500..600 => Answer::Unknown(format!("{status}: {}", why())),
            _ => Answer::Refused(format!("{status}: {}", why())),
        }
    }
}
