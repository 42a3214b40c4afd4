//! Getting things from web servers: by URL, over TLS with the machine's authorities or a certificate that is known.

use std::fmt::Display;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use api::{Error, Kind, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::header::{HOST, LOCATION};
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::{Body, empty, full};
use crate::proxy::{self, Proxies};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a server may take to answer, and to send more of an answer.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a server may send us elsewhere.
const MAX_REDIRECTS: usize = 10;
/// The largest text that is read whole, in bytes.
const MAX_TEXT: usize = 64 << 20;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Gets things by URL.
#[derive(Clone)]
pub struct Web {
    tls: Arc<ClientConfig>,
    headers: HeaderMap,
    proxies: Proxies,
}

impl Web {
    /// Believes servers that the machine's authorities vouch for (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others).
    pub fn new() -> Result<Web> {
        static SYSTEM: LazyLock<Result<Arc<ClientConfig>>> = LazyLock::new(system);
        Ok(Web { tls: SYSTEM.clone()?, headers: HeaderMap::new(), proxies: Proxies::default() })
    }

    /// Believes only the server with this certificate in PEM; the machine's authorities if it is empty.
    pub fn pinned(certificate: &str) -> Result<Web> {
        if certificate.is_empty() {
            return Web::new();
        }
        let fingerprint = crate::tls::fingerprint(certificate)?;
        let tls = crate::tls::client_config(&fingerprint, None)?;
        Ok(Web { tls, headers: HeaderMap::new(), proxies: Proxies::default() })
    }

    /// Sends these headers along with each request.
    #[must_use]
    pub fn with_headers(self, headers: HeaderMap) -> Web {
        Web { headers, ..self }
    }

    /// Reaches servers by these proxies.
    #[must_use]
    pub fn by(self, proxies: Proxies) -> Web {
        Web { proxies, ..self }
    }

    /// The answer to a `GET`, its body still to be read; anything but success is an error.
    pub async fn get(&self, url: &str) -> Result<Response<Incoming>> {
        self.ask(Method::GET, url).await
    }

    /// The headers that `GET` would answer with.
    pub async fn head(&self, url: &str) -> Result<HeaderMap> {
        Ok(self.ask(Method::HEAD, url).await?.headers().clone())
    }

    /// The whole of a small answer.
    pub async fn bytes(&self, url: &str) -> Result<Bytes> {
        let body = self.get(url).await?.into_body();
        let whole = timeout(SILENCE, Limited::new(body, MAX_TEXT).collect()).await;
        let whole = whole.map_err(|_| unreachable(url, "it takes too long"))?;
        Ok(whole.map_err(|e| unreachable(url, e))?.to_bytes())
    }

    /// The answer to a request, whatever it is; the server's address is that of `at`.
    pub async fn send(
        &self,
        method: &Method,
        at: &Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        self.clone().with_headers(headers.clone()).once(method, at, full(body)).await
    }

    async fn ask(&self, method: Method, url: &str) -> Result<Response<Incoming>> {
        let mut at = parse(url)?;
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.once(&method, &at, empty()).await?;
            let status = answer.status();
            if status.is_success() {
                return Ok(answer);
            }
            let to = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            match to.filter(|_| status.is_redirection()) {
                Some(to) => at = redirected(&at, to)?,
                None => {
                    return Err(Error::new(Kind::from_status(status.as_u16()), format!("{}: {status}", shown(&at))));
                }
            }
        }
        Err(Error::bad_request(format!("{url}: it sends from one place to another without end")))
    }

    async fn once(&self, method: &Method, at: &Uri, body: Body) -> Result<Response<Incoming>> {
        let opened = timeout(CONNECT, self.open(at)).await;
        let stream = opened.map_err(|_| unreachable(shown(at), "no answer"))?;
        let stream = stream.map_err(|e| unreachable(shown(at), e))?;
        let bad = |e: hyper::Error| unreachable(shown(at), e);
        let (mut sender, connection) = handshake::<_, Body>(TokioIo::new(stream)).await.map_err(bad)?;
        tokio::spawn(connection);
        let path = at.path_and_query().map_or("/", |p| p.as_str());
        // A proxy has to know the server, unless everything goes through it unread.
        let plain_by_proxy = at.scheme_str() == Some("http") && self.proxies.of(at).is_some();
        let target = if plain_by_proxy { at.to_string() } else { path.to_owned() };
        let mut request = Request::builder().method(method).uri(target);
        if let Some(headers) = request.headers_mut() {
            headers.clone_from(&self.headers);
        }
        let host = at.authority().map_or("", |a| a.as_str());
        let request = request.header(HOST, host).body(body).map_err(|e| Error::bad_request(e.to_string()))?;
        timeout(SILENCE, sender.send_request(request))
            .await
            .map_err(|_| unreachable(shown(at), "no answer"))?
            .map_err(bad)
    }

    async fn open(&self, at: &Uri) -> std::io::Result<Box<dyn Stream>> {
        let by = self.proxies.of(at);
        let mut stream = TcpStream::connect(proxy::place(by.unwrap_or(at))).await?;
        if at.scheme_str() != Some("https") {
            return Ok(Box::new(stream));
        }
        if by.is_some() {
            proxy::tunnel(&mut stream, at).await?;
        }
        let name = proxy::server_name(at)?;
        Ok(Box::new(tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, stream).await?))
    }
}

/// The next piece of an answer; a server that falls silent is an error.
pub async fn more(body: &mut Incoming) -> Option<Result<Bytes>> {
    loop {
        match timeout(SILENCE, body.frame()).await {
            Err(_) => return Some(Err(Error::unavailable("The server has fallen silent"))),
            Ok(None) => return None,
            Ok(Some(Err(e))) => return Some(Err(Error::unavailable(format!("The connection broke: {e}")))),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Some(Ok(data));
                }
            }
        }
    }
}

fn unreachable(url: impl Display, e: impl Display) -> Error {
    Error::unavailable(format!("Unable to get {url}: {e}"))
}

/// A URL without its query, where secrets stand.
fn shown(at: &Uri) -> String {
    format!("{}://{}{}", at.scheme_str().unwrap_or_default(), at.authority().map_or("", |a| a.as_str()), at.path())
}

fn parse(url: &str) -> Result<Uri> {
    let at: Uri = url.parse().map_err(|e| Error::bad_request(format!("\"{url}\" is no URL: {e}")))?;
    let with_user = at.authority().is_some_and(|a| a.as_str().contains('@'));
    if !matches!(at.scheme_str(), Some("http" | "https")) || at.host().is_none_or(str::is_empty) || with_user {
        return Err(Error::bad_request(format!("\"{url}\" is no URL of a web server: https://host/path")));
    }
    Ok(at)
}

/// Where a server sends us. Never from TLS to what anybody can read and change.
fn redirected(from: &Uri, to: &str) -> Result<Uri> {
    let scheme = from.scheme_str().unwrap_or("https");
    let host = from.authority().map_or("", |a| a.as_str());
    let next = match to {
        _ if to.contains("://") => to.to_owned(),
        _ if to.starts_with("//") => format!("{scheme}:{to}"),
        _ if to.starts_with('/') => format!("{scheme}://{host}{to}"),
        _ => {
            let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{host}{folder}/{to}")
        }
    };
    let next = parse(&next)?;
    if scheme == "https" && next.scheme_str() != Some("https") {
        return Err(Error::bad_request(format!("{} sends to {}, which is not safe", shown(from), shown(&next))));
    }
    Ok(next)
}

/// The authorities that this machine trusts.
pub fn roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for e in &found.errors {
        tracing::warn!("reading the machine's certificate authorities: {e}");
    }
    let mut roots = RootCertStore::empty();
    let (_, unusable) = roots.add_parsable_certificates(found.certs);
    if unusable > 0 {
        tracing::debug!("{unusable} of the machine's certificate authorities can't be used");
    }
    roots
}

fn system() -> Result<Arc<ClientConfig>> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal(format!("TLS: {e}")))?;
    Ok(Arc::new(config.with_root_certificates(roots()).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_web_servers_are_asked() {
        for url in ["", "x", "/etc/passwd", "file:///etc/passwd", "ftp://a/b", "https://", "https://a@b/c", "http:///x"]
        {
            assert!(parse(url).is_err(), "{url}");
        }
        assert_eq!(shown(&parse("https://a:1/b?secret=c").unwrap()), "https://a:1/b");
    }

    #[test]
    fn redirections_lead_where_they_say() {
        let from = parse("https://a:1/b/c?d").unwrap();
        for (to, want) in [
            ("https://x/y", "https://x/y"),
            ("//x/y", "https://x/y"),
            ("/y?z", "https://a:1/y?z"),
            ("y", "https://a:1/b/y"),
        ] {
            assert_eq!(redirected(&from, to).unwrap(), want, "{to}");
        }
        assert!(redirected(&from, "http://x/y").is_err(), "TLS is not given up");
        assert!(redirected(&from, "file://x/y").is_err());
    }
}
