//! A member's machine: what runs on it, its daemon, and the guard that ends what others may start.

use std::collections::BTreeMap;
use std::time::Duration;

use drivers::storage::lease::{Held, Leases, Owner, Renewed, State as LeaseState, TTL};
use drivers::storage::{Kind, Volume};
use incus_core::guard::{self, Quorum};

/// How often leases are renewed.
const RENEWAL: Duration = Duration::from_secs(2);

/// How a machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It runs.
    On,
    /// Nothing of it runs.
    Off,
    /// It stands still, and goes on later as if nothing had been.
    Frozen,
}

/// A machine with all that is on it.
pub struct Machine {
    /// Row id and Raft id of the member.
    pub id: i64,
    /// How it is doing.
    pub power: Power,
    /// Its daemon answers. The guard goes on without it.
    pub daemon: bool,
    /// It reaches the shared storage.
    pub storage: bool,
    /// Its clock against the real one: how fast, and how far ahead when all began.
    pub clock: (f64, Duration),
    /// What runs here, with the lease of its volume.
    pub runs: BTreeMap<i64, Held>,
    /// What its guard was told of the cluster.
    pub quorum: Quorum,
}

/// The volume of an instance.
pub fn volume(instance: i64) -> Volume {
    Volume::new(Kind::Container, "default", &format!("c{instance}"))
}

impl Machine {
    /// A machine that was switched on, with nothing on it.
    pub fn new(id: i64, clock: (f64, Duration), fence_after: Duration) -> Machine {
        let quorum = Quorum { confirmed: clock.1, fence_after: Some(fence_after) };
        Machine { id, power: Power::On, daemon: true, storage: true, clock, runs: BTreeMap::new(), quorum }
    }

    /// What its own clock says.
    pub fn now(&self, now: Duration) -> Duration {
        now.mul_f64(self.clock.0) + self.clock.1
    }

    /// True if its daemon does what it is to do.
    pub fn serves(&self) -> bool {
        self.power == Power::On && self.daemon
    }

    /// Who it is to other members that look at leases.
    pub fn owner(&self) -> Owner {
        Owner { id: self.id.unsigned_abs(), name: format!("server{}", self.id) }
    }

    /// Starts an instance, which takes its lease.
    pub fn start(&mut self, leases: &Leases, instance: i64, now: Duration) -> Result<(), String> {
        if self.runs.contains_key(&instance) {
            return Ok(());
        }
        if !self.storage {
            return Err("the storage can't be reached".into());
        }
        let clock = self.now(now);
        let held = leases.take(&volume(instance), &self.owner(), TTL, || clock).map_err(|e| e.message)?;
        self.runs.insert(instance, held);
        Ok(())
    }

    /// Stops an instance, which gives its lease back.
    pub fn stop(&mut self, instance: i64) -> Result<(), String> {
        match self.runs.remove(&instance) {
            Some(held) if self.storage => held.release(LeaseState::Released).map_err(|e| e.message),
            // It lapses.
            _ => Ok(()),
        }
    }

    /// Renews the leases, and ends what has to end. The instances that were ended, each with why.
    pub fn guard(&mut self, now: Duration, lazy: bool) -> Vec<(i64, String)> {
        let clock = self.now(now);
        let due = self.storage && now.as_millis().is_multiple_of(RENEWAL.as_millis());
        let mut ended = Vec::new();
        for (instance, held) in &mut self.runs {
            let renewed = if due { held.renew(|| clock).ok() } else { None };
            let lost = matches!(renewed, Some(Renewed::Lost(_)));
            let lease = guard::Lease { valid_until: held.valid_until(), ttl: held.record().ttl(), lost };
            if let Some(why) = guard::must_end(clock, &lease, &self.quorum).filter(|_| !lazy) {
                ended.push((*instance, why.to_string()));
            }
        }
        for (instance, _) in &ended {
            if let Some(held) = self.runs.remove(instance).filter(|_| self.storage) {
                // Where that does not work the lease lapses.
                let _ = held.release(LeaseState::Fenced);
            }
        }
        ended
    }

    /// Gives back the leases that it has from before and nothing here uses.
    pub fn tidy_up(&self, leases: &Leases, now: Duration) {
        let clock = self.now(now);
        let unused = leases.held_by(self.owner().id).unwrap_or_default().into_iter();
        for of in unused.filter(|of| self.runs.values().all(|held| held.volume() != of)) {
            if let Ok(held) = leases.take(&of, &self.owner(), TTL, || clock) {
                let _ = held.release(LeaseState::Released);
            }
        }
    }

    /// The power goes.
    pub fn switch_off(&mut self) {
        self.power = Power::Off;
        self.runs.clear();
    }

    /// It boots: its clock begins anew.
    pub fn switch_on(&mut self, now: Duration) {
        self.power = Power::On;
        self.daemon = true;
        self.quorum.confirmed = self.now(now);
    }
}
