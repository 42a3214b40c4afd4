//! The way to web servers that leads through a proxy.

use std::io;
use std::net::IpAddr;

use api::{Error, Result};
use hyper::Uri;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest answer to `CONNECT`, in bytes.
const MAX_ANSWER: usize = 16 << 10;

/// By which proxies web servers are reached, and which are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Uri>,
    https: Option<Uri>,
    direct: Vec<String>,
}

impl Proxies {
    /// Those of the settings: URLs of the proxies for `http` and `https`, and hosts that are reached without, separated
    /// by commas. What is empty is taken from `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` in the environment.
    ///
    /// # Errors
    /// If a proxy is no URL of a kind that can be used.
    pub fn new(http: &str, https: &str, direct: &str) -> Result<Proxies> {
        let or = |set: &str, variable: &str| {
            let environment = || std::env::var(variable).or_else(|_| std::env::var(variable.to_lowercase()));
            if set.is_empty() { environment().unwrap_or_default() } else { set.to_owned() }
        };
        let direct = or(direct, "NO_PROXY");
        let direct = direct.split(',').map(|d| d.trim().to_lowercase()).filter(|d| !d.is_empty());
        Ok(Proxies {
            http: proxy(&or(http, "HTTP_PROXY"))?,
            https: proxy(&or(https, "HTTPS_PROXY"))?,
            direct: direct.collect(),
        })
    }

    /// The proxy for a server; none if it is asked directly. A machine's own servers always are.
    pub(crate) fn of(&self, at: &Uri) -> Option<&Uri> {
        let proxy = if at.scheme_str() == Some("https") { &self.https } else { &self.http };
        let host = at.host().unwrap_or_default().trim_matches(['[', ']']).to_lowercase();
        let own = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let port = at.port_u16().map(|p| format!("{host}:{p}"));
        let named = |d: &String| {
            let domain = d.trim_start_matches('.');
            d == "*" || *d == host || Some(d) == port.as_ref() || host.ends_with(&format!(".{domain}"))
        };
        proxy.as_ref().filter(|_| !own && !self.direct.iter().any(named))
    }
}

/// Reads the URL of a proxy, `http://host:port`, or just `host:port`; empty is none.
///
/// # Errors
/// If it is not that.
pub fn proxy(text: &str) -> Result<Option<Uri>> {
    if text.is_empty() {
        return Ok(None);
    }
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri =
        url.parse::<Uri>().ok().filter(|u| u.scheme_str() == Some("http") && u.host().is_some_and(|h| !h.is_empty()));
    let with_user = |u: &Uri| u.authority().is_some_and(|a| a.as_str().contains('@'));
    match uri {
        Some(uri) if with_user(&uri) => {
            Err(Error::bad_request("A proxy that wants a name and a password can't be used"))
        }
        Some(uri) => Ok(Some(uri)),
        // What may hold a password is not repeated.
        None if text.contains('@') => Err(Error::bad_request("That is no proxy: http://host:port")),
        None => Err(Error::bad_request(format!("\"{text}\" is no proxy: http://host:port"))),
    }
}

/// Host and port of a URL.
pub(crate) fn place(at: &Uri) -> (&str, u16) {
    let usual = if at.scheme_str() == Some("https") { 443 } else { 80 };
    (at.host().unwrap_or_default().trim_matches(['[', ']']), at.port_u16().unwrap_or(usual))
}

/// Asks a proxy to let everything through to a server (RFC 9110, section 9.3.6).
pub(crate) async fn tunnel<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, at: &Uri) -> io::Result<()> {
    let (host, port) = place(at);
    let to = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    stream.write_all(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte: what comes after the empty line is the server's.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() > MAX_ANSWER {
            return Err(io::Error::other("the proxy talks too much"));
        }
        answer.push(stream.read_u8().await?);
    }
    let first = String::from_utf8_lossy(&answer);
    let first = first.lines().next().unwrap_or_default();
    match first.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(()),
        _ => Err(io::Error::other(format!("the proxy refuses: {first}"))),
    }
}

/// The name that a server's certificate has to have.
pub(crate) fn server_name(at: &Uri) -> io::Result<ServerName<'static>> {
    ServerName::try_from(place(at).0.to_owned()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_is_asked_by_a_proxy_and_who_directly() {
        let all = Proxies::new("http://p:1", "p:2", "example.net, .inner, 10.0.0.1:81,*.x").unwrap();
        for (url, want) in [
            ("http://example.org/x", Some("http://p:1/")),
            ("https://example.org/x", Some("http://p:2/")),
            ("https://example.net/x", None),
            ("https://www.example.net/x", None),
            ("https://notexample.net/x", Some("http://p:2/")),
            ("http://a.inner", None),
            ("http://10.0.0.1:81/", None),
            ("http://10.0.0.1:82/", Some("http://p:1/")),
            ("http://localhost:5", None),
            ("https://127.0.0.5/", None),
            ("https://[::1]/", None),
        ] {
            let of = all.of(&url.parse().unwrap()).map(ToString::to_string);
            assert_eq!(of.as_deref(), want, "{url}");
        }
        let none = Proxies { direct: vec!["*".into()], ..all };
        assert_eq!(none.of(&"http://example.org/x".parse().unwrap()), None);
    }

    #[test]
    fn what_is_no_proxy_is_refused() {
        assert_eq!(proxy("").unwrap(), None);
        for (text, why) in [
            ("https://p:1", "is no proxy"),
            ("http://", "is no proxy"),
            ("a b", "is no proxy"),
            ("http://name:secret@p:1", "a name and a password"),
        ] {
            let said = proxy(text).unwrap_err().message;
            assert!(said.contains(why) && !said.contains("secret"), "{text}: {said}");
        }
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_is_told() {
        for (answer, want) in [
            ("HTTP/1.1 200 Fine\r\nX: y\r\n\r\n", None),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", Some("the proxy refuses: HTTP/1.1 403 Forbidden")),
            ("HTTP/1.1 200", Some("unexpected end of file")),
        ] {
            let (mut near, mut far) = tokio::io::duplex(1024);
            far.write_all(answer.as_bytes()).await.unwrap();
            far.shutdown().await.unwrap();
            let said = tunnel(&mut near, &"https://[fd00::1]/x".parse().unwrap()).await.err().map(|e| e.to_string());
            assert_eq!(said.as_deref(), want);
            let mut asked = vec![0; 20];
            far.read_exact(&mut asked).await.unwrap();
            assert_eq!(asked, b"CONNECT [fd00::1]:44");
        }
    }
}
