//! The certificate of the cluster from an authority that speaks ACME.
//!
//! The leader gets it and renews it in time. The challenge's answer is in the database, so that the authority may ask any
//! member: each answers on its API's address, and as long as a challenge is open also by plain HTTP. The certificate goes
//! the way of one that a person replaces.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::key::{Config, Read as _};
use api::keys::server as keys;
use api::{Error, Result};
use client::{acme, tls};
use db::acme::Account;
use db::warnings::{self, Kind, Subject};
use futures::future::join_all;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;

use super::cluster_certificate;
use crate::edge::reply::full;
use crate::edge::{self, Body, Connection, Cx, Router, listen};
use crate::state::Daemon;

/// Where challenges are answered.
const PLACE: &str = "/.well-known/acme-challenge/";
/// After so long it is looked again whether there is something to do.
const ROUND: Duration = Duration::from_secs(10);
/// After so long a failed attempt is made again, unless the configuration changes: authorities count attempts.
const AGAIN: Duration = Duration::from_secs(3600);
/// How long before its end a certificate is renewed: a third of its life, but no longer than this.
const BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How long another member may take to have the answer to a challenge.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn routes(r: &mut Router) {
    r.raw(&api::server::ACME_CHALLENGE, challenge);
}

/// The plain listener of this member, with the address that it was asked for.
#[derive(Default)]
pub struct Listener(Mutex<Option<(String, JoinHandle<()>)>>);

/// What a person has configured.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settings {
    url: String,
    domain: String,
    email: String,
}

impl Settings {
    /// `None` unless a certificate is wanted.
    fn of(config: &Config) -> Option<Settings> {
        let settings = Settings {
            url: config.read(&keys::ACME_CA_URL),
            domain: config.read(&keys::ACME_DOMAIN),
            email: config.read(&keys::ACME_EMAIL),
        };
        let agreed = config.read(&keys::ACME_AGREE_TOS);
        (agreed && !settings.domain.is_empty() && !settings.email.is_empty()).then_some(settings)
    }
}

/// Gets and renews the certificate whenever this member leads.
pub async fn watch(daemon: Arc<Daemon>) {
    let mut tried: Option<(Settings, Instant)> = None;
    loop {
        let db = daemon.db();
        let seen = db.data_index();
        let wanted = Settings::of(&daemon.snapshot().config).filter(|_| daemon.clustered() && db.status().leads());
        let lately = |s: &Settings| tried.as_ref().is_some_and(|(t, at)| t == s && at.elapsed() < AGAIN);
        if let Some(settings) = wanted.filter(|s| !lately(s) && due(&daemon, s)) {
            tried = Some((settings.clone(), Instant::now()));
            let done = renew(&daemon, &settings).await;
            if let Err(e) = &done {
                tracing::error!("getting a certificate for {}: {e}", settings.domain);
            }
            if let Err(e) = tell(&daemon, done.err()).await {
                tracing::debug!("warning of it: {e}");
            }
        }
        tokio::select! {
            () = db.changed_since(seen) => tokio::time::sleep(Duration::from_millis(100)).await,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

/// True if the certificate of the cluster is not for the domain, or ends soon.
fn due(daemon: &Daemon, settings: &Settings) -> bool {
    let have = cluster_certificate::newest(daemon).and_then(|have| tls::about(&have.certificate));
    have.is_ok_and(|have| ends_soon(&have, &settings.domain, Timestamp::now()))
}

fn ends_soon(have: &tls::About, domain: &str, now: Timestamp) -> bool {
    let before = (have.until.duration_since(have.from) / 3).min(BEFORE);
    have.names.iter().all(|n| n != domain) || now >= have.until - before
}

async fn renew(daemon: &Arc<Daemon>, settings: &Settings) -> Result<()> {
    let account = account(daemon, settings).await?;
    let theirs = daemon.clone();
    let answer = move |token: String, key: String| -> acme::Done {
        let daemon = theirs.clone();
        Box::pin(async move { open(&daemon, token, key).await })
    };
    let got = acme::certificate(daemon.web("").await?, &account.credentials, &settings.domain, answer).await;
    daemon.write(|tx| db::acme::set_challenges(tx, &BTreeMap::new())).await?;
    cluster_certificate::replace(daemon, got?).await?;
    daemon.hub.lifecycle(
        &crate::events::lifecycle("cluster-certificate-updated", "/1.0/cluster/certificate".into(), None),
        "",
    );
    Ok(())
}

/// The account that the cluster has with the authority, or a new one.
async fn account(daemon: &Arc<Daemon>, settings: &Settings) -> Result<Account> {
    let known = daemon.db().read(db::acme::account).await?;
    if let Some(known) = known.filter(|a| a.url == settings.url && a.email == settings.email) {
        return Ok(known);
    }
    let credentials = acme::account(daemon.web("").await?, &settings.url, &settings.email).await?;
    let new = Account { url: settings.url.clone(), email: settings.email.clone(), credentials };
    let kept = new.clone();
    daemon.write(move |tx| db::acme::set_account(tx, &kept)).await?;
    Ok(new)
}

/// Has all members that are online answer a challenge.
async fn open(daemon: &Arc<Daemon>, token: String, key: String) -> Result<()> {
    let path = format!("{PLACE}{}", api::endpoint::encode(&token));
    daemon
        .write(move |tx| {
            let mut all = db::acme::challenges(tx)?;
            all.insert(token.clone(), key.clone());
            db::acme::set_challenges(tx, &all)
        })
        .await?;
    follow(daemon);
    let (own, snapshot) = (daemon.raft_id(), daemon.snapshot());
    let online = |m: &&db::members::Member| m.raft_id != Some(own) && daemon.must_be_online(m, &snapshot).is_ok();
    let asked = snapshot.members.iter().filter(online).map(|m| async {
        let answers = async {
            let remote = daemon.remote(&m.address)?;
            loop {
                let request = Request::get(&path).body(client::http::empty());
                let request = request.map_err(|e| Error::internal(e.to_string()))?;
                if remote.send(request).await?.status() == StatusCode::OK {
                    return Ok::<(), Error>(());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if !matches!(tokio::time::timeout(PATIENCE, answers).await, Ok(Ok(()))) {
            tracing::warn!("{} does not answer the challenge of the ACME authority yet", m.name);
        }
    });
    join_all(asked).await;
    Ok(())
}

async fn challenge(cx: Cx, _: Request<edge::Incoming>) -> Result<Response<Body>> {
    // Who asks may be the leader, that wants to know whether this member is ready.
    if !cx.daemon.snapshot().challenges.contains_key(cx.arg(0)) {
        cx.daemon.refresh().await?;
    }
    follow(&cx.daemon);
    Ok(answer(&cx.daemon, cx.arg(0)))
}

fn answer(daemon: &Daemon, token: &str) -> Response<Body> {
    let found = daemon.snapshot().challenges.get(token).cloned();
    let status = if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let mut response = Response::new(full(found.unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/octet-stream"));
    response
}

/// Listens for the authority as long as a challenge is open.
pub fn follow(daemon: &Arc<Daemon>) {
    let snapshot = daemon.snapshot();
    let wanted = (!snapshot.challenges.is_empty()).then(|| snapshot.config.read(&keys::ACME_HTTP_PORT));
    let mut listener = daemon.acme.0.lock().unwrap_or_else(PoisonError::into_inner);
    if listener.as_ref().map(|(address, _)| address) == wanted.as_ref() {
        return;
    }
    if let Some((_, task)) = listener.take() {
        task.abort();
    }
    let Some(address) = wanted else { return };
    match listen::bind(&address) {
        Ok(socket) => *listener = Some((address, serve(daemon.clone(), socket))),
        Err(e) => tracing::warn!("the challenge of the ACME authority is only answered by the API: {e}"),
    }
}

fn serve(daemon: Arc<Daemon>, socket: tokio::net::TcpListener) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let Ok((stream, peer)) = socket.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Some((seat, None)) = daemon.door.knock(peer, false) else { continue };
            let daemon = daemon.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let token = request.uri().path().strip_prefix(PLACE).unwrap_or_default();
                let response = answer(&daemon, &api::endpoint::decode(token));
                async move { Ok::<_, std::convert::Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(Connection::new(stream, seat, Arc::default())), service);
            tokio::spawn(async move { drop(connection.await) });
        }
    })
}

/// Warns of what went wrong, and not any more when it went well.
async fn tell(daemon: &Arc<Daemon>, failed: Option<Error>) -> Result<()> {
    let about = Subject::member(Kind::ClusterCertificate, daemon.member_id());
    daemon
        .write(move |tx| match &failed {
            Some(e) => {
                let uuid = uuid::Uuid::new_v4().to_string();
                warnings::raise(tx, about, &e.message, &uuid, Timestamp::now()).map(drop)
            }
            None => warnings::resolve(tx, about, Timestamp::now()),
        })
        .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_time() {
        let day = |d: i64| Timestamp::from_second(d * 86400).unwrap();
        let about =
            |name: &str, from, until| tls::About { names: vec![name.into()], from: day(from), until: day(until) };
        for (have, now, want) in [
            (about("other", 0, 1000), 1, true),
            (about("x.net", 0, 90), 0, false),
            (about("x.net", 0, 90), 59, false),
            (about("x.net", 0, 90), 60, true),
            (about("x.net", 0, 90), 100, true),
            (about("x.net", 0, 1000), 969, false),
            (about("x.net", 0, 1000), 970, true),
            (about("x.net", 0, 6), 3, false),
            (about("x.net", 0, 6), 4, true),
        ] {
            assert_eq!(ends_soon(&have, "x.net", day(now)), want, "{have:?} {now}");
        }
    }

    #[test]
    fn it_is_only_wanted_by_who_has_agreed() {
        let config = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Config>();
        let all = [("acme.domain", "x.net"), ("acme.email", "a@x.net"), ("acme.agree_tos", "true")];
        let wanted = Settings::of(&config(&all)).unwrap();
        assert_eq!(wanted.url, "https://acme-v02.api.letsencrypt.org/directory");
        for without in 0..3 {
            let mut some = all.to_vec();
            some.remove(without);
            assert_eq!(Settings::of(&config(&some)), None);
        }
    }
}
