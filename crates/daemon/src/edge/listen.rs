//! Accepting connections, and finding out who is there.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::error::Context as _;
use api::{Error, Result};
use client::http::keep_alive;
use client::tls::fingerprint_of;
use hyper::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::auth::{Caller, Trust};
use super::connection::Connection;
use super::door::Seated;
use super::incoming::Incoming;
use super::reply;
use super::session::Session;
use crate::state::Daemon;

/// How long a client may take for its TLS handshake: a few round trips.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take for the head of a request, and how long a connection may be without one: clients open
/// another one when they need it.
const HEAD: Duration = Duration::from_secs(30);
/// The largest head of a request, in bytes. A member that sends a request on adds the projects of a restricted client.
const HEAD_SIZE: usize = 128 << 10;
/// How long who is refused may take to hear so.
const REFUSING: Duration = Duration::from_secs(5);
/// After so much silence the kernel asks whether the other end is still there; nothing else would notice for a
/// websocket on which nothing happens.
const SILENCE: Duration = Duration::from_secs(60);

/// Serves the unix socket until the task is aborted.
pub fn unix(daemon: Arc<Daemon>, path: &Path, group: Option<u32>) -> Result<JoinHandle<()>> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).context(format!("Listening on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).context("Setting the socket's mode")?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group)).context("Setting the socket's group")?;
    }
    Ok(tokio::spawn(async move {
        let listening = Listening::default();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Some(seated) = daemon.door.local() else { continue };
            let uid = stream.peer_cred().map_or(0, |c| c.uid());
            let caller = Caller {
                trust: Trust::Member,
                name: user_name(uid),
                protocol: "unix",
                address: "@".into(),
                certificate: None,
            };
            tokio::spawn(serve(daemon.clone(), caller, None, stream, seated, listening.watch()));
        }
    }))
}

/// A TCP socket on `address` (`host:port`; `[::]` and an empty host stand for all).
pub fn bind(address: &str) -> Result<TcpListener> {
    let failed =
        |e: &dyn std::fmt::Display| Error::bad_request(format!("Cannot listen on https socket \"{address}\": {e}"));
    let text = match address {
        a if a.starts_with(':') => format!("[::]{a}"),
        a => a.to_owned(),
    };
    let parsed: SocketAddr = text.parse().map_err(|e| failed(&e))?;
    let socket = if parsed.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(|e| failed(&e))?;
    socket.set_reuseaddr(true).map_err(|e| failed(&e))?;
    socket.bind(parsed).map_err(|e| failed(&e))?;
    socket.listen(1024).map_err(|e| failed(&e))
}

/// As long as this is there, connections stay open. Those that are open when it goes end what they are at.
#[derive(Default)]
struct Listening(watch::Sender<()>);

impl Listening {
    fn watch(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// Serves HTTPS until the task is aborted; clients that are connected then are told to connect anew for what comes
/// next. The certificate is looked up for each connection. `only` is the one path that is served, if not all are.
pub fn https(daemon: Arc<Daemon>, listener: TcpListener, only: Option<&'static str>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let listening = Listening::default();
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            // Whoever is not even refused is closed without a handshake: that would cost more than asking did.
            let Some(seated) = daemon.door.knock(peer, daemon.has_member_at(peer.ip())) else { continue };
            let _ = stream.set_nodelay(true);
            let _ = keep_alive(&stream, SILENCE, SILENCE / 6, 6);
            let (daemon, open) = (daemon.clone(), listening.watch());
            tokio::spawn(async move {
                let acceptor = tokio_rustls::TlsAcceptor::from(daemon.server_tls());
                let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
                let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec());
                let caller = tls_caller(&daemon, peer, certificate).await;
                let seated = daemon.door.recognise(seated, &caller);
                serve(daemon, caller, only, stream, seated, open).await;
            });
        }
    })
}

async fn tls_caller(daemon: &Daemon, peer: SocketAddr, certificate: Option<Vec<u8>>) -> Caller {
    let address = peer.to_string();
    let nobody = Caller { trust: Trust::None, name: String::new(), protocol: "tls", address, certificate };
    let Some(certificate) = &nobody.certificate else { return nobody };
    let fingerprint = fingerprint_of(certificate);
    match daemon.trust_of(certificate, &fingerprint).await {
        Some(Trust::Member) => Caller { trust: Trust::Member, name: fingerprint, protocol: "cluster", ..nobody },
        Some(trust) => Caller { trust, name: fingerprint, ..nobody },
        None => nobody,
    }
}

async fn serve(
    daemon: Arc<Daemon>,
    caller: Caller,
    only: Option<&'static str>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (seat, refused): Seated,
    mut open: watch::Receiver<()>,
) {
    let became = Arc::new(OnceLock::new());
    let stream = Connection::new(stream, seat, became.clone());
    let is_refused = refused.is_some();
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (daemon, mut caller, refused, became) = (daemon.clone(), caller.clone(), refused.clone(), became.clone());
        async move {
            if let Some(why) = refused {
                return Ok(reply::last(reply::error(&why)));
            }
            // A client may have been trusted or distrusted since it connected.
            if let Some(certificate) = &caller.certificate {
                let fingerprint = fingerprint_of(certificate);
                let trust = daemon.trust_of(certificate, &fingerprint).await;
                caller.protocol = if trust == Some(Trust::Member) { "cluster" } else { "tls" };
                caller.name = if trust.is_some() { fingerprint } else { String::new() };
                caller.trust = trust.unwrap_or(Trust::None);
            }
            let router = daemon.router.clone();
            let request = request.map(|body| Incoming::new(body, caller.trusted()));
            let mut answer = match only {
                Some(path) if request.uri().path() != path => reply::error(&Error::not_found("not found")),
                _ => router.serve(daemon, caller, request).await,
            };
            if let Some(session) = answer.extensions_mut().remove::<Session>() {
                let _ = became.set(session);
            }
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_header_size(HEAD_SIZE)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        _ = open.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = tokio::time::sleep(REFUSING), if is_refused => return,
    };
    if let Err(e) = served {
        tracing::debug!("connection: {e}");
    }
}

/// The name of a user of this machine; the number if it has none.
fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    };
    users.lines().find_map(of_line).unwrap_or_else(|| uid.to_string())
}

/// The id of a group of this machine.
pub fn group_id(name: &str) -> Result<u32> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    groups.lines().find_map(of_line).ok_or_else(|| Error::bad_request(format!("The group \"{name}\" does not exist")))
}
