//! Events: what happens on this member goes to all who listen, here and on the other members.

use std::sync::{Arc, PoisonError, RwLock};

use api::event::{Event, LIFECYCLE, Lifecycle, OPERATION, Requestor};
use api::operation::Operation;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::broadcast;

/// Events that a slow listener may fall behind before it misses some.
const BACKLOG: usize = 1024;

/// Where events come together.
pub struct Hub {
    events: broadcast::Sender<Arc<Event>>,
    location: RwLock<String>,
}

impl Hub {
    /// Nobody listens yet.
    pub fn new() -> Hub {
        Hub { events: broadcast::Sender::new(BACKLOG), location: RwLock::new("none".into()) }
    }

    /// Under this name events are sent from now on.
    pub fn set_location(&self, name: &str) {
        name.clone_into(&mut self.location.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Listens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }

    /// Passes on an event of another member.
    pub fn pass_on(&self, event: Event) {
        let _ = self.events.send(Arc::new(event));
    }

    /// Tells that an operation has changed.
    pub fn operation(&self, operation: &Operation, project: &str) {
        self.send(OPERATION, operation, project);
    }

    /// Tells that something has changed.
    pub fn lifecycle(&self, event: &Lifecycle, project: &str) {
        self.send(LIFECYCLE, event, project);
    }

    fn send(&self, kind: &str, metadata: &impl Serialize, project: &str) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let location = self.location.read().unwrap_or_else(PoisonError::into_inner).clone();
        let event = Event {
            location,
            metadata: serde_json::to_value(metadata).unwrap_or_default(),
            project: project.to_owned(),
            timestamp: Timestamp::now(),
            kind: kind.to_owned(),
        };
        let _ = self.events.send(Arc::new(event));
    }
}

impl Default for Hub {
    fn default() -> Self {
        Hub::new()
    }
}

/// A change of something without a project, as `cluster-member-renamed`.
pub fn lifecycle(action: &str, source: String, requestor: Option<Requestor>) -> Lifecycle {
    Lifecycle { action: action.to_owned(), source, requestor, ..Lifecycle::default() }
}

/// The same with more about it.
pub fn with_context(event: Lifecycle, context: impl IntoIterator<Item = (&'static str, Value)>) -> Lifecycle {
    let context: Map<String, Value> = context.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    Lifecycle { context, ..event }
}
