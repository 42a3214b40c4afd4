//! `/1.0/events`: telling those who listen, and listening to the other members.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::event::{Event, LIFECYCLE, LOGGING, OPERATION};
use api::{Error, Result};
use futures::{SinkExt as _, StreamExt as _};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use crate::edge::auth::Trust;
use crate::edge::websocket::upgrade;
use crate::edge::{Body, Cx, Router};
use crate::events::Hub;
use crate::state::Daemon;

/// How often the set of members listened to is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often a silent listener is asked whether it is still there.
const PING: Duration = Duration::from_secs(10);

pub fn routes(r: &mut Router) {
    r.raw(&api::server::EVENTS, events);
}

struct Wanted {
    kinds: Vec<String>,
    project: Option<String>,
    allowed: Option<std::collections::BTreeSet<String>>,
    /// Another member listens: it hears the others itself.
    only_from: Option<String>,
}

impl Wanted {
    fn accepts(&self, event: &Event) -> bool {
        self.kinds.contains(&event.kind)
            && self.only_from.as_ref().is_none_or(|name| *name == event.location)
            && (event.project.is_empty() || self.project.as_ref().is_none_or(|p| *p == event.project))
            && self.allowed.as_ref().is_none_or(|all| all.contains(&event.project))
    }
}

async fn events(cx: Cx, request: Request<Incoming>) -> Result<Response<Body>> {
    let kinds: Vec<String> = match cx.param("type") {
        "" => [OPERATION, LIFECYCLE, LOGGING].map(str::to_owned).into(),
        text => text.split(',').map(str::to_owned).collect(),
    };
    if let Some(unknown) =
        kinds.iter().find(|k| ![OPERATION, LIFECYCLE, LOGGING, "ovn", "network-acl"].contains(&k.as_str()))
    {
        return Err(Error::bad_request(format!("\"{unknown}\" isn't a supported event type")));
    }
    let allowed = match &cx.caller.trust {
        Trust::Restricted(projects) => Some(projects.clone()),
        _ => None,
    };
    let member = cx.caller.protocol == "cluster";
    let wanted = Wanted {
        kinds,
        project: (!cx.flag("all-projects") && !member).then(|| cx.project().to_owned()),
        allowed,
        only_from: member.then(|| cx.daemon.name()),
    };
    let mut events = cx.daemon.hub.subscribe();
    let (answer, socket) = upgrade(request)?;
    tokio::spawn(async move {
        let Ok(mut socket) = socket.await else { return };
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) if wanted.accepts(&event) => {
                        let text = serde_json::to_string(&*event).unwrap_or_default();
                        if socket.send(Message::text(text)).await.is_err() { return }
                    }
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                },
                message = socket.next() => match message {
                    Some(Ok(message)) if !message.is_close() => {}
                    _ => return,
                },
                () = tokio::time::sleep(PING) => {
                    if socket.send(Message::Ping(Vec::new().into())).await.is_err() { return }
                }
            }
        }
    });
    Ok(answer)
}

/// Listens to all other members, so that whoever listens here hears the whole cluster.
pub async fn follow_members(daemon: Arc<Daemon>) {
    let mut heard: HashMap<String, JoinHandle<()>> = HashMap::new();
    loop {
        let own = daemon.raft_id();
        let addresses: Vec<String> = match daemon.clustered() {
            true => {
                daemon.snapshot().members.iter().filter(|m| m.raft_id != Some(own)).map(|m| m.address.clone()).collect()
            }
            false => Vec::new(),
        };
        heard.retain(|address, task| {
            let stays = addresses.contains(address) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for address in addresses {
            heard.entry(address.clone()).or_insert_with(|| {
                let daemon = daemon.clone();
                tokio::spawn(async move {
                    if let Err(e) = listen_to(&daemon, &address).await {
                        tracing::debug!("events of {address}: {e}");
                    }
                })
            });
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = daemon.hub.missed() => {}
        }
    }
}

async fn listen_to(daemon: &Daemon, address: &str) -> Result<()> {
    let request = Request::get("/1.0/events")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, generate_key())
        .body(client::http::empty())
        .map_err(|e| Error::internal(e.to_string()))?;
    let answer = daemon.remote(address)?.send(request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::unavailable(answer.status().to_string()));
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(|e| Error::unavailable(e.to_string()))?;
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    let _heard = Heard::new(&daemon.hub, address);
    while let Some(Ok(message)) = tokio::time::timeout(PING * 3, socket.next()).await.unwrap_or(None) {
        if let Message::Text(text) = message
            && let Ok(event) = serde_json::from_str::<Event>(&text)
        {
            daemon.hub.pass_on(event);
        }
    }
    Ok(())
}

/// As long as this is there, the events of a member come in.
struct Heard<'a>(&'a Hub, &'a str);

impl<'a> Heard<'a> {
    fn new(hub: &'a Hub, address: &'a str) -> Heard<'a> {
        hub.set_heard(address, true);
        Heard(hub, address)
    }
}

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        self.0.set_heard(self.1, false);
    }
}
