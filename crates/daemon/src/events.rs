//! Events: what happens on this member goes to all who listen, here and on the other members.
//!
//! An event of this member gets an id that goes with it between members. It may come in on several ways, through several
//! hubs; whoever listens here is told once.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use api::event::{Event, LIFECYCLE, Lifecycle, OPERATION, Requestor};
use api::operation::Operation;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::{Notify, broadcast, watch};

/// Events that a slow listener may fall behind before it misses some.
const BACKLOG: usize = 1024;

/// For so many events is remembered that they have come in.
const REMEMBERED: usize = 16 * BACKLOG;

/// Who was a hub goes on passing events on for so long, until the others listen to each other.
const LINGER: Duration = Duration::from_secs(10);

/// How long the events of another member are waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// What tells an event from all others: a number drawn when its member's daemon started, and its place since then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Id(u64, u64);

/// What a member tells another that listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Told {
    /// An event.
    Event {
        /// Its id.
        id: Id,
        /// What it says.
        #[serde(flatten)]
        event: Event,
    },
    /// Whose events a hub passes on from now on, by address.
    Hears {
        /// All of them.
        hears: BTreeSet<String>,
    },
}

/// An event as it is told to those who listen here.
#[derive(Debug)]
pub struct Happened {
    /// What it says.
    pub event: Event,
    /// Its id; `None` for one that is told on this member only.
    pub id: Option<Id>,
}

/// On which ways events come in and go out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// True while this member passes on what it hears: it is a hub.
    pub relays: bool,
    /// Until when it does so though it is a hub no more.
    lingers: Option<Instant>,
    /// The members that it listens to, by address.
    pub direct: BTreeSet<String>,
    /// Whom the hubs that it listens to hear, by the hub's address.
    pub through: HashMap<String, BTreeSet<String>>,
}

impl Ways {
    /// True if a hub hears the member at this address, and passes that on.
    pub fn through_a_hub(&self, address: &str) -> bool {
        self.through.values().any(|heard| heard.contains(address))
    }

    /// True if a hub is heard.
    pub fn a_hub(&self) -> bool {
        self.through.values().any(|heard| !heard.is_empty())
    }

    /// True if the events of the member at this address come in.
    fn hear(&self, address: &str) -> bool {
        self.direct.contains(address) || self.through_a_hub(address)
    }

    /// True if the events of others go out to other members that listen here.
    pub fn relay(&self) -> bool {
        self.relays || self.lingers.is_some_and(|until| Instant::now() < until)
    }

    /// Whose events other members that listen here can count on, beside the own ones.
    pub fn passed_on(&self) -> BTreeSet<String> {
        if self.relays { self.direct.clone() } else { BTreeSet::new() }
    }
}

/// Where events come together.
pub struct Hub {
    events: broadcast::Sender<Arc<Happened>>,
    /// For the other members that listen: there may be many, whom most of what happens here does not concern.
    outgoing: broadcast::Sender<Arc<Happened>>,
    location: RwLock<String>,
    start: u64,
    sent: AtomicU64,
    seen: Mutex<Seen>,
    ways: watch::Sender<Ways>,
    /// Wakes whoever listens to the members.
    listen: Notify,
}

impl Hub {
    /// Nobody listens yet.
    pub fn new() -> Hub {
        Hub {
            events: broadcast::Sender::new(BACKLOG),
            outgoing: broadcast::Sender::new(BACKLOG),
            location: RwLock::new("none".into()),
            start: rand::random(),
            sent: AtomicU64::new(0),
            seen: Mutex::default(),
            ways: watch::Sender::default(),
            listen: Notify::new(),
        }
    }

    /// Under this name events are sent from now on.
    pub fn set_location(&self, name: &str) {
        name.clone_into(&mut self.location.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Listens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Happened>> {
        self.events.subscribe()
    }

    /// Listens from now on to what other members are told: the events of this one, and while it is a hub, all others too.
    pub fn outgoing(&self) -> broadcast::Receiver<Arc<Happened>> {
        self.outgoing.subscribe()
    }

    /// The ways, as they change.
    pub fn ways(&self) -> watch::Receiver<Ways> {
        self.ways.subscribe()
    }

    /// Notes whether this member passes on what it hears.
    pub fn set_relays(&self, relays: bool) {
        self.ways.send_if_modified(|ways| {
            let changed = std::mem::replace(&mut ways.relays, relays) != relays;
            if changed {
                ways.lingers = (!relays).then(|| Instant::now() + LINGER);
            }
            changed
        });
    }

    /// Notes whether the member at this address is listened to.
    pub fn set_heard(&self, address: &str, heard: bool) {
        self.ways.send_modify(|ways| {
            if heard {
                ways.direct.insert(address.to_owned());
            } else {
                ways.direct.remove(address);
                ways.through.remove(address);
            }
        });
    }

    /// Notes whom the member at this address hears and passes on.
    pub fn set_through(&self, address: &str, heard: BTreeSet<String>) {
        self.ways.send_modify(|ways| drop(ways.through.insert(address.to_owned(), heard)));
    }

    /// Waits until the events of the member at this address come in: whoever starts an operation there through this
    /// member listens here for its end, and would never hear of one that ends before. Goes on without them if they
    /// don't come.
    pub async fn hear(&self, address: &str) {
        let mut ways = self.ways.subscribe();
        if !ways.borrow().hear(address) {
            self.listen.notify_waiters();
            let _ = tokio::time::timeout(PATIENCE, ways.wait_for(|ways| ways.hear(address))).await;
        }
    }

    /// Waits until somebody misses the events of a member.
    pub async fn missed(&self) {
        self.listen.notified().await;
    }

    /// Takes in an event of another member. True if it is news and not here already, on another way.
    pub fn take_in(&self, id: Id, event: Event) -> bool {
        let news = id.0 != self.start && self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_new(id);
        if news {
            let happened = Arc::new(Happened { event, id: Some(id) });
            if self.ways.borrow().relay() {
                let _ = self.outgoing.send(happened.clone());
            }
            let _ = self.events.send(happened);
        }
        news
    }

    /// Tells those who listen on this member, and nobody else.
    pub fn tell_here(&self, event: Event) {
        let _ = self.events.send(Arc::new(Happened { event, id: None }));
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
        if self.events.receiver_count() + self.outgoing.receiver_count() == 0 {
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
        let id = Some(Id(self.start, self.sent.fetch_add(1, Ordering::Relaxed)));
        let happened = Arc::new(Happened { event, id });
        let _ = self.outgoing.send(happened.clone());
        let _ = self.events.send(happened);
    }
}

/// The last events that came in.
#[derive(Default)]
struct Seen {
    ids: HashSet<Id>,
    order: VecDeque<Id>,
}

impl Seen {
    fn is_new(&mut self, id: Id) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
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

        // A hub that is listened to hears it.
        hub.set_through("b", ["a".to_owned()].into());
        hub.hear("a").await;
        assert!(hub.ways().borrow().a_hub());
        hub.set_heard("b", false);
        assert!(!hub.ways().borrow().a_hub(), "whom a hub hears is forgotten with it");
        assert!(tokio::time::timeout(Duration::from_millis(20), hub.hear("a")).await.is_err());
    }

    #[test]
    fn other_members_are_told_of_own_events_and_by_a_hub_of_all() {
        let hub = Hub::new();
        let (mut here, mut outgoing) = (hub.subscribe(), hub.outgoing());
        let of_another = || Event {
            location: "server2".into(),
            metadata: Value::Null,
            project: String::new(),
            timestamp: Timestamp::now(),
            kind: LIFECYCLE.into(),
        };
        for (number, relays) in [(1, false), (2, true), (3, false)] {
            hub.set_relays(relays);
            hub.lifecycle(&lifecycle("own", "/1.0".into(), None), "");
            assert!(hub.take_in(Id(hub.start + 1, number), of_another()));
            hub.tell_here(of_another());
        }
        let ids = |told: &mut broadcast::Receiver<Arc<Happened>>| -> Vec<Option<Id>> {
            std::iter::from_fn(|| told.try_recv().ok()).map(|happened| happened.id).collect()
        };
        let (own, other) = (|n| Some(Id(hub.start, n)), |n| Some(Id(hub.start + 1, n)));
        assert_eq!(ids(&mut here), [own(0), other(1), None, own(1), other(2), None, own(2), other(3), None]);
        // Who was a hub goes on for a while.
        assert_eq!(ids(&mut outgoing), [own(0), own(1), other(2), own(2), other(3)]);
    }

    #[tokio::test]
    async fn an_event_that_comes_in_on_two_ways_is_told_once() {
        let (one, other) = (Hub::new(), Hub::new());
        one.set_location("server1");
        let (mut sent, mut told) = (one.subscribe(), other.subscribe());
        for action in ["first", "second"] {
            one.lifecycle(&lifecycle(action, "/1.0".into(), None), "");
        }
        for news in [true, true] {
            let happened = sent.recv().await.unwrap();
            let told = Told::Event { id: happened.id.unwrap(), event: happened.event.clone() };
            let text = serde_json::to_string(&told).unwrap();
            let Told::Event { id, event } = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
            assert_eq!(event, happened.event);
            assert_eq!(other.take_in(id, event.clone()), news);
            assert!(!other.take_in(id, event.clone()), "a hub says it again");
            assert!(!one.take_in(id, event), "it comes back to where it is from");
        }
        for action in ["first", "second"] {
            assert_eq!(told.recv().await.unwrap().event.metadata["action"], action);
        }
        assert!(told.try_recv().is_err() && sent.try_recv().is_err());

        let mut seen = Seen::default();
        assert!((0..=REMEMBERED as u64).all(|n| seen.is_new(Id(1, n))));
        assert!(!seen.is_new(Id(1, 5)));
        assert_eq!((seen.ids.len(), seen.order.len()), (REMEMBERED, REMEMBERED));
    }
}
