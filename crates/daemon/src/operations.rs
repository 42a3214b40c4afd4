//! Background operations of this member.
//!
//! An operation lives in the memory of the member that runs it. Its id names that member (the last four digits are
//! its Raft id), so that every member knows where to ask without looking anything up.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::operation::{Operation as View, StatusCode};
use api::{Error, Kind, Result};
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::events::Hub;
use crate::sockets::{self, Channels, Sockets};

/// How long an operation can still be looked at after it has ended.
const REMEMBERED: Duration = Duration::from_secs(5);

/// The name of the secret of a token among what an operation tells.
pub const SECRET: &str = "secret";

/// What kind of operation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Work.
    Task,
    /// A token that waits to be used.
    Token,
    /// Work that talks to a client through websockets.
    Websocket,
}

impl Class {
    const fn as_str(self) -> &'static str {
        match self {
            Class::Task => "task",
            Class::Token => "token",
            Class::Websocket => "websocket",
        }
    }
}

/// What an operation is about: URLs by kind.
pub type Resources = BTreeMap<String, Option<Vec<String>>>;

/// A background operation.
pub struct Operation {
    view: Mutex<View>,
    /// The project that it belongs to; empty if none.
    pub project: String,
    ended: watch::Sender<bool>,
    cancel: CancellationToken,
    channels: Channels,
    hub: Arc<Hub>,
}

impl Operation {
    /// The websockets that it waits for.
    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    /// As clients see it now.
    pub fn view(&self) -> View {
        self.lock().clone()
    }

    /// Its id.
    pub fn id(&self) -> String {
        self.lock().id.clone()
    }

    /// Tells how far it is, or what came of it: `values` replace those of the same name.
    pub fn report(&self, values: impl IntoIterator<Item = (String, Value)>) {
        self.change(|view| view.metadata.get_or_insert_default().extend(values));
    }

    /// Ends when somebody cancels it.
    pub fn cancelled(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Lets it know that it is to end early.
    pub fn begin_cancelling(&self) {
        self.cancel.cancel();
        self.set_status(StatusCode::Cancelling, None);
    }

    /// True once it has ended.
    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until it has ended, for at most `timeout`; as clients see it then.
    pub async fn wait(&self, timeout: Option<Duration>) -> View {
        let mut ended = self.ended.subscribe();
        let end = ended.wait_for(|ended| *ended);
        match timeout {
            Some(timeout) => drop(tokio::time::timeout(timeout, end).await),
            None => drop(end.await),
        }
        self.view()
    }

    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut View)) {
        let mut view = {
            let mut view = self.lock();
            change(&mut view);
            view.updated_at = Timestamp::now();
            view.clone()
        };
        // Whoever listens learns that something happens, not the secrets to take part in it: those of websockets, tokens
        // and downloads are told to the one who asked for them.
        if let Some(metadata) = &mut view.metadata {
            metadata.remove(sockets::FDS);
            metadata.remove(SECRET);
        }
        self.hub.operation(&view, &self.project);
    }

    fn set_status(&self, status: StatusCode, error: Option<&Error>) {
        if self.has_ended() {
            return;
        }
        self.change(|view| {
            view.status = status.name().into();
            view.status_code = status.code();
            if let Some(e) = error {
                view.err.clone_from(&e.message);
            }
        });
        if status.is_final() {
            self.ended.send_replace(true);
        }
    }
}

/// The operations of this member.
pub struct Operations {
    hub: Arc<Hub>,
    all: Arc<Mutex<HashMap<String, Arc<Operation>>>>,
}

impl Operations {
    /// None yet.
    pub fn new(hub: Arc<Hub>) -> Operations {
        Operations { hub, all: Arc::default() }
    }

    /// Adds an operation that runs in the background until `work` ends.
    pub fn run<F, Fut>(&self, new: New, work: F) -> Arc<Operation>
    where
        F: FnOnce(Arc<Operation>) -> Fut,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let operation = self.add(new, Channels::default());
        self.spawn(&operation, work(operation.clone()));
        operation
    }

    /// Adds an operation that talks to a client through websockets of these names.
    pub fn converse<F, Fut>(&self, new: New, names: &[&'static str], work: F) -> Arc<Operation>
    where
        F: FnOnce(Arc<Operation>, Sockets) -> Fut,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let (channels, sockets, secrets) = Channels::new(names);
        let mut new = New { class: Class::Websocket, ..new };
        new.metadata.insert(sockets::FDS.into(), secrets);
        let operation = self.add(new, channels);
        self.spawn(&operation, work(operation.clone(), sockets));
        operation
    }

    fn spawn(&self, operation: &Arc<Operation>, work: impl Future<Output = Result<()>> + Send + 'static) {
        operation.set_status(StatusCode::Running, None);
        let (running, all) = (operation.clone(), self.all.clone());
        tokio::spawn(async move {
            let cancel = running.cancelled();
            // Work that must not be torn down in the middle watches for cancellation itself.
            let done = tokio::spawn(work).await.unwrap_or_else(|e| Err(Error::internal(format!("It crashed: {e}"))));
            match done {
                Ok(()) => running.set_status(StatusCode::Success, None),
                Err(e) if cancel.is_cancelled() => running.set_status(StatusCode::Cancelled, Some(&e)),
                Err(e) => running.set_status(StatusCode::Failure, Some(&e)),
            }
            tokio::time::sleep(REMEMBERED).await;
            all.lock().unwrap_or_else(PoisonError::into_inner).remove(&running.id());
        });
    }

    /// Adds a token: an operation that does nothing but wait to be used or cancelled.
    pub fn token(&self, new: New) -> Arc<Operation> {
        let operation = self.add(New { class: Class::Token, may_cancel: true, ..new }, Channels::default());
        operation.set_status(StatusCode::Running, None);
        operation
    }

    fn add(&self, new: New, channels: Channels) -> Arc<Operation> {
        let now = Timestamp::now();
        let view = View {
            id: if new.id.is_empty() { new_id(new.raft_id) } else { new.id },
            class: new.class.as_str().into(),
            description: new.description.into(),
            created_at: now,
            updated_at: now,
            status: StatusCode::Pending.name().into(),
            status_code: StatusCode::Pending.code(),
            resources: Some(new.resources),
            metadata: Some(new.metadata),
            may_cancel: new.may_cancel,
            err: String::new(),
            location: new.location,
        };
        let operation = Arc::new(Operation {
            project: new.project,
            ended: watch::Sender::new(false),
            cancel: CancellationToken::new(),
            channels,
            hub: self.hub.clone(),
            view: Mutex::new(view),
        });
        self.lock().insert(operation.id(), operation.clone());
        operation
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Vec<Arc<Operation>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by_key(|o| o.lock().created_at);
        all
    }

    /// Those that run by themselves, and not as long as a client talks, and have not ended.
    pub fn tasks(&self) -> Vec<Arc<Operation>> {
        let runs = |o: &Arc<Operation>| o.lock().class == Class::Task.as_str() && !o.has_ended();
        self.list().into_iter().filter(runs).collect()
    }

    /// The operation with that id.
    pub fn get(&self, id: &str) -> Result<Arc<Operation>> {
        self.lock().get(id).cloned().ok_or_else(|| Error::not_found("Operation not found"))
    }

    /// Cancels an operation, if it can be.
    pub fn cancel(&self, id: &str) -> Result<()> {
        let operation = self.get(id)?;
        let view = operation.view();
        if !view.may_cancel {
            return Err(Error::new(Kind::BadRequest, "This operation can't be cancelled"));
        }
        if view.class == Class::Token.as_str() {
            operation.cancel.cancel();
            self.end_token(id);
        } else {
            operation.begin_cancelling();
        }
        Ok(())
    }

    /// Ends a token that was used or revoked.
    pub fn end_token(&self, id: &str) {
        if let Some(operation) = self.lock().remove(id) {
            operation.set_status(StatusCode::Cancelled, None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Operation>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an operation begins with.
pub struct New {
    /// Its id, if it was given one before: that of its stored plan. Otherwise empty.
    pub id: String,
    /// What kind.
    pub class: Class,
    /// What it does, as clients know it.
    pub description: &'static str,
    /// What it is about.
    pub resources: Resources,
    /// What it tells from the beginning.
    pub metadata: Map<String, Value>,
    /// True if it can be cancelled.
    pub may_cancel: bool,
    /// The project that it belongs to; empty if none.
    pub project: String,
    /// Name of the member that runs it.
    pub location: String,
    /// Raft id of that member.
    pub raft_id: u64,
}

/// A new id for an operation of the member with this Raft id.
pub fn new_id(raft_id: u64) -> String {
    let mut bytes = Uuid::new_v4().into_bytes();
    // Ids beyond 65535 members that ever were are found by asking.
    let id = u16::try_from(raft_id).unwrap_or(0);
    bytes[14..].copy_from_slice(&id.to_be_bytes());
    Uuid::from_bytes(bytes).to_string()
}

/// The Raft id of the member that runs the operation `id`; 0 if it does not tell.
pub fn member_of(id: &str) -> u64 {
    id.get(id.len().saturating_sub(4)..).and_then(|last| u64::from_str_radix(last, 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(class: Class, may_cancel: bool) -> New {
        New {
            id: String::new(),
            class,
            description: "Testing",
            resources: Resources::new(),
            metadata: Map::new(),
            may_cancel,
            project: String::new(),
            location: "server1".into(),
            raft_id: 7,
        }
    }

    #[tokio::test]
    async fn operations_end_as_their_work_does() {
        let operations = Operations::new(Arc::new(Hub::new()));
        let good = operations.run(new(Class::Task, false), |_| async { Ok(()) });
        let bad = operations.run(new(Class::Task, false), |_| async { Err(Error::not_found("nothing there")) });
        let stuck = operations.run(new(Class::Task, true), |op| async move {
            op.cancelled().cancelled().await;
            Err(Error::internal("cancelled"))
        });
        assert_eq!(member_of(&good.id()), 7);
        assert_eq!(good.wait(None).await.status, "Success");
        let failed = bad.wait(None).await;
        assert_eq!(
            (failed.status.as_str(), failed.status_code, failed.err.as_str()),
            ("Failure", 400, "nothing there")
        );
        assert_eq!(stuck.wait(Some(Duration::from_millis(10))).await.status, "Running");
        let running: Vec<String> = operations.tasks().iter().map(|o| o.id()).collect();
        assert_eq!(running, [stuck.id()], "what has ended is not waited for");
        assert_eq!(operations.cancel(&bad.id()).unwrap_err().message, "This operation can't be cancelled");
        operations.cancel(&stuck.id()).unwrap();
        assert_eq!(stuck.wait(None).await.status, "Cancelled");
        operations.cancel(&stuck.id()).unwrap();
        assert_eq!(stuck.view().status, "Cancelled", "what has ended stays so");
        assert_eq!(operations.get("x").map(|_| ()).unwrap_err().message, "Operation not found");
    }

    #[tokio::test]
    async fn a_token_waits_until_it_is_used() {
        let hub = Arc::new(Hub::new());
        let mut told = hub.subscribe();
        let operations = Operations::new(hub);
        let secret = [(SECRET.to_owned(), Value::from("known to one"))].into_iter().collect();
        let token = operations.token(New { metadata: secret, ..new(Class::Task, false) });
        assert_eq!((token.view().class.as_str(), token.view().status.as_str()), ("token", "Running"));
        assert_eq!(token.view().metadata.unwrap_or_default()[SECRET], "known to one");
        operations.end_token(&token.id());
        assert_eq!(token.wait(None).await.status, "Cancelled");
        assert!(operations.list().is_empty());
        for _ in 0..2 {
            let event = told.recv().await.unwrap();
            assert_eq!(event.event.metadata["metadata"], serde_json::json!({}), "not to those who listen");
        }
    }
}
