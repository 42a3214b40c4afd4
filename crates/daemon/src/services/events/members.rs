//! Listening to the other members, so that whoever listens here hears the whole cluster.
//!
//! Clients wait for the end of an operation by listening, wherever it runs. A member that ends before its operation
//! can't tell: those who have heard of the operation tell it then.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::event::{Event, OPERATION};
use api::operation::{Operation, StatusCode};
use api::{Error, Result};
use futures::StreamExt as _;
use hyper::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::{Request, StatusCode as HttpStatus};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::PING;
use crate::events::Hub;
use crate::state::Daemon;

/// How often the set of members listened to is looked at, and a member that can't be heard is tried again.
const LOOK: Duration = Duration::from_secs(2);

/// Listens to all other members.
pub async fn follow(daemon: Arc<Daemon>) {
    let mut followed: HashMap<String, JoinHandle<()>> = HashMap::new();
    loop {
        let own = daemon.raft_id();
        let addresses: Vec<String> = match daemon.clustered() {
            true => {
                daemon.snapshot().members.iter().filter(|m| m.raft_id != Some(own)).map(|m| m.address.clone()).collect()
            }
            false => Vec::new(),
        };
        followed.retain(|address, task| {
            let stays = addresses.contains(address);
            if !stays {
                task.abort();
            }
            stays
        });
        for address in addresses {
            followed.entry(address.clone()).or_insert_with(|| tokio::spawn(follow_one(daemon.clone(), address)));
        }
        pause(&daemon).await;
    }
}

/// Waits a little, or until somebody misses the events of a member.
async fn pause(daemon: &Daemon) {
    tokio::select! {
        () = tokio::time::sleep(LOOK) => {}
        () = daemon.hub.missed() => {}
    }
}

async fn follow_one(daemon: Arc<Daemon>, address: String) {
    let mut unended = Unended::default();
    loop {
        if let Err(e) = listen(&daemon, &address, &mut unended).await {
            tracing::debug!("events of {address}: {e}");
        }
        if offline(&daemon, &address) {
            unended.end(&daemon.hub, &BTreeMap::new(), "is offline");
        }
        pause(&daemon).await;
    }
}

fn offline(daemon: &Daemon, address: &str) -> bool {
    let snapshot = daemon.snapshot();
    let member = snapshot.members.iter().find(|m| m.address == address);
    member.is_some_and(|m| daemon.must_be_online(m, &snapshot).is_err())
}

async fn listen(daemon: &Daemon, address: &str, unended: &mut Unended) -> Result<()> {
    let request = Request::get("/1.0/events")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, generate_key())
        .body(client::http::empty())
        .map_err(|e| Error::internal(e.to_string()))?;
    let remote = daemon.remote(address)?;
    let answer = remote.send(request).await?;
    if answer.status() != HttpStatus::SWITCHING_PROTOCOLS {
        return Err(Error::unavailable(answer.status().to_string()));
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(|e| Error::unavailable(e.to_string()))?;
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    let _heard = Heard::new(&daemon.hub, address);
    if !unended.0.is_empty() {
        let answer = remote.json("GET", "/1.0/operations?recursion=1&all-projects=true", None).await?;
        let by_status: BTreeMap<String, Vec<Operation>> =
            serde_json::from_value(answer.metadata).map_err(|e| Error::internal(e.to_string()))?;
        let there = by_status.into_values().flatten().map(|o| (o.id.clone(), o)).collect();
        unended.end(&daemon.hub, &there, "has been started again");
    }
    while let Some(Ok(message)) = tokio::time::timeout(PING * 3, socket.next()).await.unwrap_or(None) {
        if let Message::Text(text) = message
            && let Ok(event) = serde_json::from_str::<Event>(&text)
        {
            unended.note(&event);
            daemon.hub.pass_on(event);
        }
    }
    Ok(())
}

/// The operations of a member that were heard of and have not ended yet, with their projects.
#[derive(Default)]
struct Unended(HashMap<String, (Operation, String)>);

impl Unended {
    fn note(&mut self, event: &Event) {
        if event.kind != OPERATION {
            return;
        }
        let Ok(operation) = serde_json::from_value::<Operation>(event.metadata.clone()) else { return };
        if ended(&operation) {
            self.0.remove(&operation.id);
        } else {
            self.0.insert(operation.id.clone(), (operation, event.project.clone()));
        }
    }

    /// Tells the end of those that are not among `there`, the operations that the member has, or have ended there.
    fn end(&mut self, hub: &Hub, there: &BTreeMap<String, Operation>, why: &str) {
        self.0.retain(|id, (operation, project)| {
            let end = match there.get(id) {
                Some(now) if !ended(now) => return true,
                Some(now) => now.clone(),
                None => lost(operation.clone(), why),
            };
            hub.pass_on(Event {
                location: end.location.clone(),
                metadata: serde_json::to_value(&end).unwrap_or_default(),
                project: project.clone(),
                timestamp: jiff::Timestamp::now(),
                kind: OPERATION.to_owned(),
            });
            false
        });
    }
}

fn ended(operation: &Operation) -> bool {
    use StatusCode::{Cancelled, Failure, Success};
    [Success, Failure, Cancelled].iter().any(|s| s.code() == operation.status_code)
}

fn lost(operation: Operation, why: &str) -> Operation {
    let err = format!("It is not known how it ended: the cluster member \"{}\" {why}", operation.location);
    Operation {
        status: StatusCode::Failure.name().into(),
        status_code: StatusCode::Failure.code(),
        updated_at: jiff::Timestamp::now(),
        err,
        ..operation
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(id: &str, status: StatusCode) -> Operation {
        let now = jiff::Timestamp::now();
        Operation {
            id: id.into(),
            class: "task".into(),
            description: "Testing".into(),
            created_at: now,
            updated_at: now,
            status: status.name().into(),
            status_code: status.code(),
            resources: None,
            metadata: None,
            may_cancel: false,
            err: String::new(),
            location: "server2".into(),
        }
    }

    fn event(operation: &Operation) -> Event {
        Event {
            location: "server2".into(),
            metadata: serde_json::to_value(operation).unwrap(),
            project: "default".into(),
            timestamp: jiff::Timestamp::now(),
            kind: OPERATION.into(),
        }
    }

    #[tokio::test]
    async fn what_a_member_can_tell_no_more_is_told_for_it() {
        let (hub, mut unended) = (Hub::new(), Unended::default());
        let mut heard = hub.subscribe();
        for id in ["ends", "goes-on", "ended-meanwhile", "lost"] {
            unended.note(&event(&operation(id, StatusCode::Running)));
        }
        unended.note(&event(&operation("ends", StatusCode::Success)));
        let there = [operation("goes-on", StatusCode::Running), operation("ended-meanwhile", StatusCode::Success)];
        let there = there.into_iter().map(|o| (o.id.clone(), o)).collect();
        unended.end(&hub, &there, "has been started again");
        let mut told = BTreeMap::new();
        while let Ok(event) = heard.try_recv() {
            let operation: Operation = serde_json::from_value(event.metadata.clone()).unwrap();
            told.insert(operation.id.clone(), (operation.status, operation.err));
        }
        assert_eq!(told["ended-meanwhile"], ("Success".into(), String::new()));
        let why = "It is not known how it ended: the cluster member \"server2\" has been started again";
        assert_eq!(told["lost"], ("Failure".into(), why.into()));
        assert_eq!((told.len(), unended.0.len()), (2, 1));
    }
}
