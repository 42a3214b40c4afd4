//! HTTP/1.1 to one server, with connections that are kept open and used again.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::endpoint::{Reply, fill};
use api::envelope::Envelope;
use api::operation::Operation;
use api::{Endpoint, Error, Kind, Result};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

/// A server that has sent nothing for so long is asked whether it is still there, so often, and so many times.
const SILENCE: Duration = Duration::from_secs(5);
const ASK: (Duration, u32) = (Duration::from_secs(3), 3);
/// Servers close a connection on which nothing was asked for half a minute: one that has been idle for so long is not used
/// any more, lest a request meet the end of it.
const IDLE: Duration = Duration::from_secs(20);
/// What it does not confirm to have got within this time, in milliseconds, it will not get.
const CONFIRM: u32 = 60_000;

/// Lets a connection break when the machine at its other end is gone: one that has lost its power does not hang up. After
/// so much silence the kernel asks whether it is there, so many `times`, one after each time `every`.
pub fn keep_alive(stream: &TcpStream, silence: Duration, every: Duration, times: u32) -> std::io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, silence)?;
    sockopt::set_tcp_keepintvl(stream, every)?;
    Ok(sockopt::set_tcp_keepcnt(stream, times)?)
}

/// The body of a request.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// A body with nothing in it.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// Idle connections that are kept.
const KEPT: usize = 4;

enum Way {
    Unix(PathBuf),
    Tls { address: String, config: Arc<ClientConfig> },
}

/// A server, and the open connections to it.
pub struct Remote {
    way: Way,
    /// Connections that wait for a request, and since when.
    idle: Mutex<Vec<(Instant, SendRequest<Body>)>>,
}

/// Reads the envelope of the answer to `what`; an error envelope becomes the error.
pub async fn envelope(answer: Response<Incoming>, what: &str) -> Result<Envelope> {
    let status = answer.status();
    let bytes = answer.into_body().collect().await.map_err(|e| Error::internal(format!("{what}: {e}")))?.to_bytes();
    let envelope: Envelope = serde_json::from_slice(&bytes)
        .map_err(|_| Error::new(Kind::from_status(status.as_u16()), format!("{what}: {status}")))?;
    envelope.as_error().map_or(Ok(envelope), Err)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Remote {
    /// The server behind a unix socket.
    pub fn unix(socket: impl Into<PathBuf>) -> Remote {
        Remote { way: Way::Unix(socket.into()), idle: Mutex::default() }
    }

    /// The server at `host:port`, with a [configuration](crate::tls::client_config) that says who it must be.
    pub fn tls(address: impl Into<String>, config: Arc<ClientConfig>) -> Remote {
        Remote { way: Way::Tls { address: address.into(), config }, idle: Mutex::default() }
    }

    async fn connect(&self) -> Result<SendRequest<Body>> {
        let name = match &self.way {
            Way::Unix(path) => path.display().to_string(),
            Way::Tls { address, .. } => address.clone(),
        };
        let opened = tokio::time::timeout(CONNECT, self.open()).await;
        let stream = match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(Error::unavailable(format!("Unable to connect to {name}: {e}"))),
            Err(_) => return Err(Error::unavailable(format!("Unable to connect to {name}: no answer"))),
        };
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|e| Error::unavailable(format!("Unable to talk to {name}: {e}")))?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    async fn open(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match &self.way {
            Way::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Way::Tls { address, config } => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                keep_alive(&stream, SILENCE, ASK.0, ASK.1)?;
                sockopt::set_tcp_user_timeout(&stream, CONFIRM)?;
                // The certificate is pinned: the name serves no purpose but to be there.
                let name = ServerName::try_from("incus").map_err(std::io::Error::other)?;
                Box::new(tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream).await?)
            }
        })
    }

    /// Sends a request and gives the answer with its body still to be read, whatever its status is.
    ///
    /// The request is sent once: an idle connection is only used if it is open, and its server will not just be closing it.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>> {
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, hyper::header::HeaderValue::from_static("incus"));
        }
        let idle = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(since, sender)| !sender.is_closed() && since.elapsed() < IDLE);
            // One whose last answer is still being read is not ready, and stays for later.
            idle.iter().position(|(_, sender)| sender.is_ready()).map(|i| idle.swap_remove(i).1)
        };
        let mut sender = match idle {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let answer =
            sender.send_request(request).await.map_err(|e| Error::unavailable(format!("The connection broke: {e}")))?;
        if answer.status() != hyper::StatusCode::SWITCHING_PROTOCOLS {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < KEPT {
                idle.push((Instant::now(), sender));
            }
        }
        Ok(answer)
    }

    /// Sends JSON and reads the envelope that comes back; an error envelope becomes the error.
    pub async fn json(&self, method: &str, path: &str, body: Option<&serde_json::Value>) -> Result<Envelope> {
        let bad = |e: &dyn std::fmt::Display| Error::internal(format!("{method} {path}: {e}"));
        let (kind, body) = match body {
            Some(body) => ("application/json", full(serde_json::to_vec(body).map_err(|e| bad(&e))?)),
            None => ("", empty()),
        };
        let mut request = Request::builder().method(method).uri(path);
        if !kind.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
        }
        let answer = self.send(request.body(body).map_err(|e| bad(&e))?).await?;
        envelope(answer, &format!("{method} {path}")).await
    }

    /// Gets what is at a path, as it is sent; an error envelope becomes the error.
    pub async fn fetch(&self, path: &str) -> Result<Bytes> {
        let bad = |e: &dyn std::fmt::Display| Error::internal(format!("GET {path}: {e}"));
        let answer = self.send(Request::get(path).body(empty()).map_err(|e| bad(&e))?).await?;
        if !answer.status().is_success() {
            return Err(envelope(answer, &format!("GET {path}")).await.err().unwrap_or_else(|| bad(&"no answer")));
        }
        Ok(answer.into_body().collect().await.map_err(|e| bad(&e))?.to_bytes())
    }

    /// Sends JSON, and if that begins a background operation waits until it has ended; the operation then. One that
    /// failed is the error.
    pub async fn run(&self, method: &str, path: &str, body: Option<&serde_json::Value>) -> Result<Operation> {
        let begun = self.json(method, path, body).await?;
        let unreadable = |e: serde_json::Error| Error::internal(format!("{method} {path}: {e}"));
        let begun: Operation = serde_json::from_value(begun.metadata).map_err(unreadable)?;
        let ended = self.json("GET", &format!("{}/wait", begun.url()), None).await?;
        let ended: Operation = serde_json::from_value(ended.metadata).map_err(unreadable)?;
        if ended.err.is_empty() { Ok(ended) } else { Err(Error::internal(ended.err)) }
    }

    /// Calls an endpoint: `args` fill the `{…}` of its path, `query` is appended as it is (`project=a&target=b`).
    pub async fn call<B: Serialize, R: Reply>(
        &self,
        endpoint: &Endpoint<B, R>,
        args: &[&str],
        query: &str,
        body: &B,
    ) -> Result<R::Value>
    where
        R::Value: DeserializeOwned,
    {
        let path = fill(endpoint.info.path, args);
        let path = if query.is_empty() { path } else { format!("{path}?{query}") };
        let body = serde_json::to_value(body).map_err(|e| Error::internal(e.to_string()))?;
        let body = (!body.is_null()).then_some(body);
        let envelope = self.json(endpoint.info.method.as_str(), &path, body.as_ref()).await?;
        serde_json::from_value(envelope.metadata).map_err(|e| Error::internal(format!("{path}: {e}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    /// Answers every request with "ok", and counts the connections.
    async fn serve(listener: UnixListener, connections: Arc<AtomicUsize>) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while stream.read_exact(&mut byte).await.is_ok() {
                    head.push(byte[0]);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                    }
                }
            });
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_idle_for_too_long_is_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, connections) = (dir.path().join("socket"), Arc::new(AtomicUsize::new(0)));
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = tokio::spawn(serve(listener, connections.clone()));
        let remote = Remote::unix(socket);
        // The clock stands still only while it is put forward: what goes over a socket takes real time.
        let later = async |time: Duration| {
            tokio::time::pause();
            tokio::time::advance(time).await;
            tokio::time::resume();
        };
        let ask = async || {
            assert_eq!(remote.fetch("/").await.unwrap(), "ok");
            // The connection is free again once the answer has been read.
            let free = || remote.idle.lock().unwrap().iter().all(|(_, sender)| sender.is_ready());
            while !free() {
                tokio::task::yield_now().await;
            }
            connections.load(Ordering::SeqCst)
        };
        assert_eq!((ask().await, ask().await), (1, 1));
        later(IDLE - Duration::from_secs(1)).await;
        assert_eq!(ask().await, 1, "it has been used lately");
        later(IDLE - Duration::from_secs(1)).await;
        assert_eq!(ask().await, 1, "from its last use on");
        later(IDLE).await;
        assert_eq!((ask().await, remote.idle.lock().unwrap().len()), (2, 1), "the old one is given up");
        serving.abort();
    }
}
