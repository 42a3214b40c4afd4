//! Events: what happens on this member goes to all who listen, here and on the other members.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use api::event::{Event, LIFECYCLE, Lifecycle, OPERATION, Requestor};
use api::operation::Operation;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::{Notify, broadcast, watch};

/// Events that a slow listener may fall behind before it misses some.
const BACKLOG: usize = 1024;

/// How long the events of another member are waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where events come together.
pub struct Hub {
    events: broadcast::Sender<Arc<Event>>,
    location: RwLock<String>,
    /// The addresses of the members whose events come in.
    heard: watch::Sender<HashSet<String>>,
    /// Wakes whoever listens to the members.
    listen: Notify,
}

impl Hub {
    /// Nobody listens yet.
    pub fn new() -> Hub {
        Hub {
            events: broadcast::Sender::new(BACKLOG),
            location: RwLock::new("none".into()),
            heard: watch::Sender::default(),
            listen: Notify::new(),
        }
    }

    /// Under this name events are sent from now on.
    pub fn set_location(&self, name: &str) {
        name.clone_into(&mut self.location.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Listens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }

    /// Notes whether the events of the member at this address come in.
    pub fn set_heard(&self, address: &str, heard: bool) {
        self.heard.send_modify(|all| {
            if heard {
                all.insert(address.to_owned());
            } else {
                all.remove(address);
            }
        });
    }

    /// Waits until the events of the member at this address come in: whoever starts an operation there through this
    /// member listens here for its end, and would never hear of one that ends before. Goes on without them if they
    /// don't come.
    pub async fn hear(&self, address: &str) {
        let mut heard = self.heard.subscribe();
        if !heard.borrow().contains(address) {
            self.listen.notify_waiters();
            let _ = tokio::time::timeout(PATIENCE, heard.wait_for(|all| all.contains(address))).await;
        }
    }

    /// Waits until somebody misses the events of a member.
    pub async fn missed(&self) {
        self.listen.notified().await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_events_of_a_member_are_waited_for() {
        let hub = Arc::new(Hub::new());
        let waiting = tokio::spawn({
            let hub = hub.clone();
            async move { hub.hear("a").await }
        });
        hub.missed().await;
        assert!(!waiting.is_finished());
        hub.set_heard("b", true);
        hub.set_heard("a", true);
        waiting.await.unwrap();
        hub.hear("a").await;
        hub.set_heard("a", false);
        assert!(tokio::time::timeout(Duration::from_millis(20), hub.hear("a")).await.is_err());
    }
}
