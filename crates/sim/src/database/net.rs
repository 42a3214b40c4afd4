//! The network between the members: messages take their time, are lost, come twice and in another order; ways are cut,
//! also in one direction only.
//!
//! Members talk over the real links ([`cluster::link`]); what travels on them passes through here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use api::{Error, Result};
use bytes::Bytes;
use cluster::health::Health;
use cluster::link::{Channel, Dial, Stream, serve};
use db::Db;
use futures::future::BoxFuture;
use rand::RngExt as _;
use rand::rngs::StdRng;

/// How messages fare.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// How likely a message is lost.
    pub lost: f64,
    /// How likely it comes twice.
    pub twice: f64,
    /// Most microseconds that it takes.
    pub slowest: u64,
}

/// All is well.
pub const FAIR: Weather = Weather { lost: 0.0, twice: 0.0, slowest: 4_000 };

/// A member that can be reached.
#[derive(Clone)]
pub struct Reached {
    /// Which life of its program it is.
    pub life: u64,
    /// Its database.
    pub db: Db,
    /// Its health.
    pub health: Arc<Health>,
}

/// The network.
pub struct Net(Mutex<State>);

struct State {
    rng: StdRng,
    members: BTreeMap<u64, Reached>,
    cut: BTreeSet<(u64, u64)>,
    weather: Weather,
}

impl Net {
    /// A network without members.
    pub fn new(rng: StdRng) -> Arc<Net> {
        let (members, cut) = (BTreeMap::new(), BTreeSet::new());
        Arc::new(Net(Mutex::new(State { rng, members, cut, weather: FAIR })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member can be reached from now on.
    pub fn plug_in(&self, id: u64, member: Reached) {
        self.state().members.insert(id, member);
    }

    /// A member can't be reached any more, and nothing of what it still sends arrives.
    pub fn pull_out(&self, id: u64) -> Option<Reached> {
        self.state().members.remove(&id)
    }

    /// The member, if it is there.
    pub fn reach(&self, id: u64) -> Option<Reached> {
        self.state().members.get(&id).cloned()
    }

    /// Those that are there.
    pub fn there(&self) -> Vec<(u64, Reached)> {
        self.state().members.iter().map(|(id, member)| (*id, member.clone())).collect()
    }

    /// Cuts the ways that the closure names: from, to.
    pub fn cut(&self, cut: impl Fn(u64, u64) -> bool, ids: &[u64]) {
        let all = ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to)));
        self.state().cut.extend(all.filter(|(from, to)| from != to && cut(*from, *to)));
    }

    /// Mends all ways.
    pub fn mend(&self) {
        self.state().cut.clear();
    }

    /// From now on messages fare so.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Returns when a message has arrived, and never if it does not.
    async fn travel(&self, (from, life): (u64, u64), to: u64) {
        let takes = {
            let mut state = self.state();
            let Weather { lost, slowest, .. } = state.weather;
            let here = state.members.get(&from).is_some_and(|m| m.life == life);
            let lost = state.rng.random_bool(lost) || !here || state.cut.contains(&(from, to));
            let slow = state.rng.random_bool(0.01);
            let takes = state.rng.random_range(200..=slowest) * if slow { 50 } else { 1 };
            (!lost).then_some(takes)
        };
        match takes {
            Some(takes) => tokio::time::sleep(Duration::from_micros(takes)).await,
            None => std::future::pending().await,
        }
    }

    async fn deliver(self: Arc<Self>, from: (u64, u64), to: u64, channel: Channel, body: Bytes) -> Result<Bytes> {
        self.travel(from, to).await;
        let there = self.reach(to).ok_or_else(|| Error::unavailable("The connection was reset"))?;
        let again = {
            let mut state = self.state();
            let twice = state.weather.twice;
            state.rng.random_bool(twice).then(|| Duration::from_millis(state.rng.random_range(0..500)))
        };
        if let Some(later) = again {
            let (there, body) = (there.clone(), body.clone());
            tokio::spawn(async move {
                tokio::time::sleep(later).await;
                answer(&there, channel, body).await
            });
        }
        let answered = answer(&there, channel, body).await;
        self.travel((to, there.life), from.0).await;
        answered
    }
}

async fn answer(there: &Reached, channel: Channel, body: Bytes) -> Result<Bytes> {
    match channel {
        Channel::Database => there.db.serve(body).await,
        Channel::Heartbeat => there.health.hear(&body, &there.db),
    }
}

/// How one life of a member reaches the others.
pub struct Dialler {
    /// The network, which has the members.
    pub net: Weak<Net>,
    /// The member.
    pub from: u64,
    /// Which life of its program it is.
    pub life: u64,
}

impl Dial for Dialler {
    fn dial(&self, to: u64) -> BoxFuture<'static, Result<Box<dyn Stream>>> {
        let (net, from) = (self.net.clone(), (self.from, self.life));
        Box::pin(async move {
            let net = net.upgrade().ok_or_else(|| Error::unavailable("There is no network"))?;
            net.travel(from, to).await;
            let there = net.reach(to).ok_or_else(|| Error::unavailable("Connection refused"))?;
            net.travel((to, there.life), from.0).await;
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let serving = serve(theirs, move |channel, body| net.clone().deliver(from, to, channel, body));
            tokio::spawn(serving);
            Ok(Box::new(ours) as Box<dyn Stream>)
        })
    }
}
