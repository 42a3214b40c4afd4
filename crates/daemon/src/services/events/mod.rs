//! `/1.0/events`: telling those who listen, and (in [`members`]) listening to the other members.

pub mod members;

use std::collections::BTreeSet;
use std::time::Duration;

use api::event::{Event, LIFECYCLE, LOGGING, OPERATION};
use api::{Error, Result};
use futures::{SinkExt as _, StreamExt as _};
use hyper::{Request, Response};
use tokio::sync::broadcast::error::RecvError;
use tokio_tungstenite::tungstenite::Message;

use crate::edge::auth::Trust;
use crate::edge::websocket::{WebSocket, upgrade};
use crate::edge::{Body, Cx, Incoming, Router};
use crate::events::Told;

/// How often a silent listener is asked whether it is still there.
const PING: Duration = Duration::from_secs(10);

pub fn routes(r: &mut Router) {
    r.raw(&api::server::EVENTS, events);
}

struct Wanted {
    kinds: Vec<String>,
    project: Option<String>,
    allowed: Option<BTreeSet<String>>,
}

impl Wanted {
    fn accepts(&self, event: &Event) -> bool {
        self.kinds.contains(&event.kind)
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
    let hub = cx.daemon.hub.clone();
    if cx.caller.protocol == "cluster" {
        let (answer, socket) = upgrade(request)?;
        tokio::spawn(async move {
            if let Ok(socket) = socket.await {
                tell_member(socket, &cx).await;
            }
        });
        return Ok(answer);
    }
    let project = (!cx.flag("all-projects")).then(|| cx.project().to_owned());
    let wanted = Wanted { kinds, project, allowed };
    let mut events = hub.subscribe();
    let (answer, socket) = upgrade(request)?;
    tokio::spawn(async move {
        let Ok(mut socket) = socket.await else { return };
        loop {
            let sent = tokio::select! {
                event = events.recv() => match event {
                    Ok(happened) if wanted.accepts(&happened.event) => send(&mut socket, &happened.event).await,
                    other => go_on(&other),
                },
                alive = still_there(&mut socket) => alive,
            };
            if !sent {
                return;
            }
        }
    });
    Ok(answer)
}

/// Tells another member what goes out from this one.
async fn tell_member(mut socket: WebSocket, cx: &Cx) {
    let hub = &cx.daemon.hub;
    let (mut events, mut ways) = (hub.outgoing(), hub.ways());
    let mut told = BTreeSet::new();
    loop {
        let passed_on = ways.borrow_and_update().passed_on();
        if told != passed_on {
            told.clone_from(&passed_on);
            if !send(&mut socket, &Told::Hears { hears: passed_on }).await {
                return;
            }
        }
        let sent = tokio::select! {
            event = events.recv() => match event.as_deref() {
                Ok(happened) => match happened.id {
                    Some(id) => send(&mut socket, &Told::Event { id, event: happened.event.clone() }).await,
                    None => true,
                },
                Err(_) => go_on(&event),
            },
            changed = ways.changed() => changed.is_ok(),
            alive = still_there(&mut socket) => alive,
        };
        if !sent {
            return;
        }
    }
}

/// True if it arrived, as far as can be told.
async fn send(socket: &mut WebSocket, what: &impl serde::Serialize) -> bool {
    socket.send(Message::text(serde_json::to_string(what).unwrap_or_default())).await.is_ok()
}

/// False at the end of all events. Events that were missed are gone, and a person has to know.
fn go_on<T>(event: &Result<T, RecvError>) -> bool {
    if let Err(RecvError::Lagged(missed)) = event {
        tracing::warn!("one who listens to events is too slow and missed {missed} of them");
    }
    !matches!(event, Err(RecvError::Closed))
}

/// Hears what a listener has to say, and asks a silent one whether it is still there; false if it is not.
async fn still_there(socket: &mut WebSocket) -> bool {
    match tokio::time::timeout(PING, socket.next()).await {
        Ok(Some(Ok(message))) => !message.is_close(),
        Ok(_) => false,
        Err(_) => socket.send(Message::Ping(Vec::new().into())).await.is_ok(),
    }
}
