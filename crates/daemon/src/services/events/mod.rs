//! `/1.0/events`: telling those who listen, and (in [`members`]) listening to the other members.

pub mod members;

use std::time::Duration;

use api::event::{Event, LIFECYCLE, LOGGING, OPERATION};
use api::{Error, Result};
use futures::{SinkExt as _, StreamExt as _};
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio_tungstenite::tungstenite::Message;

use crate::edge::auth::Trust;
use crate::edge::websocket::upgrade;
use crate::edge::{Body, Cx, Router};

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
