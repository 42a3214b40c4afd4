//! Listening to the other members, so that whoever listens here hears the whole cluster: to all of them, or to the
//! hubs ([`incus_core::event_route`]).
//!
//! Clients wait for the end of an operation by listening, wherever it runs. A member that ends before its operation
//! can't tell: those who have heard of the operation tell it then.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::event::{Event, OPERATION};
use api::operation::{Operation, StatusCode};
use api::{Error, Result};
use db::engine::runtime::beat;
use db::members::{Member, Role, State};
use futures::StreamExt as _;
use hyper::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::{Request, StatusCode as HttpStatus};
use hyper_util::rt::TokioIo;
use incus_core::event_route::Mode;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::{self, Message};

use super::PING;
use crate::edge::websocket::limits;
use crate::events::{Hub, Told};
use crate::operations::member_of;
use crate::state::{Daemon, Snapshot};

/// How often the set of members listened to is looked at, and a member that can't be heard is tried again.
const LOOK: Duration = Duration::from_secs(2);

/// Listens to those other members that it takes to hear all.
pub async fn follow(daemon: Arc<Daemon>) {
    let mut followed: HashMap<String, Followed> = HashMap::new();
    let unended = Arc::new(Mutex::new(Unended::default()));
    let mut ways = daemon.hub.ways();
    loop {
        let snapshot = daemon.snapshot();
        let others = others(&daemon, &snapshot);
        let mode = mode(&daemon, &snapshot);
        daemon.hub.set_relays(mode == Mode::Hub);
        let listens_to = |m: &Member| {
            let through = daemon.hub.ways().borrow().through_a_hub(&m.address);
            mode.listens_to(is_hub(m), through)
        };
        followed.retain(|address, follower| match others.iter().find(|m| m.address == *address) {
            Some(member) => follower.stays(listens_to(member)),
            None => false,
        });
        for member in &others {
            if listens_to(member) && !followed.contains_key(&member.address) {
                let task = tokio::spawn(follow_one(daemon.clone(), (*member).clone(), unended.clone()));
                followed.insert(member.address.clone(), Followed { task, idle: None });
            }
            if daemon.must_be_online(member, &snapshot).is_err() {
                lock(&unended).end(&daemon.hub, member.raft_id, &BTreeMap::new(), "is offline");
            }
        }
        tokio::select! {
            () = pause(&daemon) => {}
            _ = ways.changed() => {}
        }
    }
}

/// How events travel here, as clients are told.
pub fn event_mode(daemon: &Daemon) -> &'static str {
    mode(daemon, &daemon.snapshot()).as_str(daemon.hub.ways().borrow().a_hub())
}

fn mode(daemon: &Daemon, snapshot: &Snapshot) -> Mode {
    let hubs: Vec<&Member> = snapshot.members.iter().filter(|m| is_hub(m)).collect();
    Mode::of(hubs.iter().any(|m| m.raft_id == Some(daemon.raft_id())), hubs.len())
}

fn is_hub(member: &Member) -> bool {
    member.state != State::Pending && member.roles.contains(&Role::EventHub)
}

fn others<'a>(daemon: &Daemon, snapshot: &'a Snapshot) -> Vec<&'a Member> {
    let own = daemon.raft_id();
    if daemon.clustered() { snapshot.members.iter().filter(|m| m.raft_id != Some(own)).collect() } else { Vec::new() }
}

/// A member that is listened to.
struct Followed {
    task: JoinHandle<()>,
    /// Since when it need not be.
    idle: Option<Instant>,
}

impl Followed {
    /// False when it has not been needed for a while: what was on its way has arrived by then.
    fn stays(&mut self, needed: bool) -> bool {
        self.idle = if needed { None } else { self.idle.or_else(|| Some(Instant::now())) };
        self.idle.is_none_or(|since| since.elapsed() < LOOK)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits a little, or until somebody misses the events of a member.
async fn pause(daemon: &Daemon) {
    tokio::select! {
        () = beat(LOOK) => {}
        () = daemon.hub.missed() => {}
    }
}

async fn follow_one(daemon: Arc<Daemon>, member: Member, unended: Arc<Mutex<Unended>>) {
    loop {
        if let Err(e) = listen(&daemon, &member, &unended).await {
            tracing::debug!("events of {}: {e}", member.address);
        }
        pause(&daemon).await;
    }
}

async fn listen(daemon: &Daemon, member: &Member, unended: &Mutex<Unended>) -> Result<()> {
    let (hub, address) = (&*daemon.hub, member.address.as_str());
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
    let (stream, role) = (TokioIo::new(upgraded), protocol::Role::Client);
    let mut socket = WebSocketStream::from_raw_socket(stream, role, Some(limits())).await;
    let _heard = Heard::new(hub, address);
    if lock(unended).of(member.raft_id) {
        let answer = remote.json("GET", "/1.0/operations?recursion=1&all-projects=true", None).await?;
        let by_status: BTreeMap<String, Vec<Operation>> =
            serde_json::from_value(answer.metadata).map_err(|e| Error::internal(e.to_string()))?;
        let there = by_status.into_values().flatten().map(|o| (o.id.clone(), o)).collect();
        lock(unended).end(hub, member.raft_id, &there, "has been started again");
    }
    while let Some(Ok(message)) = tokio::time::timeout(PING * 3, socket.next()).await.unwrap_or(None) {
        let Message::Text(text) = message else { continue };
        match serde_json::from_str(&text) {
            Ok(Told::Event { id, event }) => {
                if hub.take_in(id, event.clone()) {
                    lock(unended).note(&event);
                }
            }
            Ok(Told::Hears { hears }) => hub.set_through(address, hears),
            Err(e) => tracing::debug!("{address} tells what can't be read: {e}"),
        }
    }
    Ok(())
}

fn lock(unended: &Mutex<Unended>) -> std::sync::MutexGuard<'_, Unended> {
    unended.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The operations of other members that were heard of and have not ended yet, with their projects.
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

    /// True if there are some of that member.
    fn of(&self, member: Option<u64>) -> bool {
        self.0.keys().any(|id| Some(member_of(id)) == member)
    }

    /// Tells the end of those of a member that are not among `there`, the operations that it has, or have ended there.
    fn end(&mut self, hub: &Hub, member: Option<u64>, there: &BTreeMap<String, Operation>, why: &str) {
        self.0.retain(|id, (operation, project)| {
            if Some(member_of(id)) != member {
                return true;
            }
            let end = match there.get(id) {
                Some(now) if !ended(now) => return true,
                Some(now) => now.clone(),
                None => lost(operation.clone(), why),
            };
            hub.tell_here(Event {
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
        let of_another = event(&operation("0003", StatusCode::Running));
        unended.note(&of_another);
        for id in ["ends-0002", "goes-on-0002", "ended-meanwhile-0002", "lost-0002"] {
            unended.note(&event(&operation(id, StatusCode::Running)));
        }
        unended.note(&event(&operation("ends-0002", StatusCode::Success)));
        let there = ["goes-on-0002", "ended-meanwhile-0002"]
            .into_iter()
            .zip([StatusCode::Running, StatusCode::Success])
            .map(|(id, status)| operation(id, status));
        let there = there.map(|o| (o.id.clone(), o)).collect();
        unended.end(&hub, Some(2), &there, "has been started again");
        let mut told = BTreeMap::new();
        while let Ok(event) = heard.try_recv() {
            let operation: Operation = serde_json::from_value(event.event.metadata.clone()).unwrap();
            told.insert(operation.id.clone(), (operation.status, operation.err));
        }
        assert_eq!(told["ended-meanwhile-0002"], ("Success".into(), String::new()));
        let why = "It is not known how it ended: the cluster member \"server2\" has been started again";
        assert_eq!(told["lost-0002"], ("Failure".into(), why.into()));
        assert_eq!((told.len(), unended.0.len(), unended.of(Some(3))), (2, 2, true));
    }
}
