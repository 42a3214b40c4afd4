//! One connection to a server at a time, over a unix socket or mTLS, kept open between requests.

use std::{path::PathBuf, sync::Arc};

use api::{Error, Kind, Result, envelope::Envelope};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{Method, Request, Response, body::Incoming, client::conn::http1::SendRequest, header::HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::Mutex,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

/// The body of a request.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// A stream to a server.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A websocket to a server.
pub type WebSocket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Where a server listens.
#[derive(Clone)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// TLS on `host:port`.
    Tls {
        /// Host name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
        /// Whom we trust and who we are.
        config: Arc<rustls::ClientConfig>,
    },
}

/// A way to a server.
pub struct Transport {
    endpoint: Endpoint,
    idle: Mutex<Option<SendRequest<Body>>>,
}

/// A body that is empty.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

impl Transport {
    /// A way to the server at `endpoint`; nothing is connected yet.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, idle: Mutex::new(None) }
    }

    async fn connect(&self) -> Result<Box<dyn Stream>> {
        match &self.endpoint {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|e| unix_error(path, &e))?;
                Ok(Box::new(stream))
            }
            Endpoint::Tls { host, port, config } => {
                let unreachable =
                    |e: std::io::Error| Error::unavailable(format!("Unable to connect to {host}:{port}: {e}"));
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
                let _ = stream.set_nodelay(true);
                let name = rustls::pki_types::ServerName::try_from(host.clone())
                    .map_err(|_| Error::bad_request(format!("Invalid host name {host:?}")))?;
                let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(unreachable)?;
                Ok(Box::new(stream))
            }
        }
    }

    async fn sender(&self) -> Result<SendRequest<Body>> {
        if let Some(mut idle) = self.idle.lock().await.take()
            && idle.ready().await.is_ok()
        {
            return Ok(idle);
        }
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await?)).await.map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// Sends a request; `headers` are added to it. The answer's body is still to be read.
    pub async fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(String, String)],
        body: Body,
    ) -> Result<(Response<Incoming>, SendRequest<Body>)> {
        let bad = |e: String| Error::bad_request(format!("Invalid request {method} {url}: {e}"));
        let method = Method::from_bytes(method.as_bytes()).map_err(|e| bad(e.to_string()))?;
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.parse().map_err(|e: hyper::http::uri::InvalidUri| bad(e.to_string()))?;
        let map = request.headers_mut();
        map.insert("host", HeaderValue::from_str(&self.host()).map_err(|e| bad(e.to_string()))?);
        map.insert("user-agent", HeaderValue::from_static(concat!("Incus ", env!("CARGO_PKG_VERSION"))));
        for (name, value) in headers {
            let name: hyper::header::HeaderName =
                name.parse().map_err(|e: hyper::header::InvalidHeaderName| bad(e.to_string()))?;
            map.insert(name, HeaderValue::from_str(value).map_err(|e| bad(e.to_string()))?);
        }
        let mut sender = self.sender().await?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok((response, sender))
    }

    /// Gives a connection back whose answer has been read to its end.
    pub async fn put_back(&self, sender: SendRequest<Body>) {
        *self.idle.lock().await = Some(sender);
    }

    /// Opens a websocket.
    pub async fn websocket(&self, url: &str) -> Result<WebSocket> {
        let key = BASE64_STANDARD.encode(uuid_bytes());
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", &key),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
        let (response, _) = self.send("GET", url, &headers, empty()).await?;
        if response.status() != hyper::StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
            let error = serde_json::from_slice::<Envelope>(&bytes).ok().and_then(|e| e.as_error());
            return Err(error.unwrap_or_else(|| Error::new(Kind::from_status(status.as_u16()), status.to_string())));
        }
        let stream = hyper::upgrade::on(response).await.map_err(broken)?;
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Client, None).await)
    }

    fn host(&self) -> String {
        match &self.endpoint {
            Endpoint::Unix(_) => "unix.socket".into(),
            Endpoint::Tls { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tls { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

/// Sixteen bytes that differ each time, as the key of a websocket must.
fn uuid_bytes() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let (a, b) = (RandomState::new().hash_one(0u8), RandomState::new().hash_one(1u8));
    let mut out = [0; 16];
    out[..8].copy_from_slice(&a.to_ne_bytes());
    out[8..].copy_from_slice(&b.to_ne_bytes());
    out
}

fn unix_error(path: &std::path::Path, e: &std::io::Error) -> Error {
    let path = path.display();
    match e.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            Error::unavailable(format!("The incus daemon doesn't appear to be started (socket path: {path})"))
        }
        std::io::ErrorKind::PermissionDenied => Error::new(
            Kind::Forbidden,
            format!("You don't have the needed permissions to talk to the incus daemon (socket path: {path})"),
        ),
        _ => Error::unavailable(format!("Unable to connect to the incus daemon (socket path: {path}): {e}")),
    }
}

/// The error of a connection that broke.
pub fn broken(e: hyper::Error) -> Error {
    Error::unavailable(format!("The connection to the server broke: {e}"))
}
