//! What clients do: they append to lists, read them, and read, write and exchange the values of registers, on all members.
//!
//! A list and a register are values of the configuration, which is what the database has for such.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Error, Result};
use db::{Db, Tx};
use lab::history::{Event, list, register};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::world::World;
use crate::breaks::Break;
use crate::invariants::caught_up::First;
use crate::invariants::histories::Histories;

/// Lists, and as many registers.
const KEYS: u64 = 2;

/// The clients.
pub struct Load {
    world: Arc<World>,
    seen: Mutex<Histories>,
    values: AtomicU64,
    stop: AtomicBool,
}

fn micros(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
}

fn list_of(text: Option<&String>) -> Vec<u64> {
    text.map(|t| t.split(',').filter_map(|v| v.parse().ok()).collect()).unwrap_or_default()
}

fn read_list(tx: &Tx<'_>, key: &str) -> Result<Vec<u64>> {
    Ok(list_of(db::config::get(tx)?.get(&format!("user.list.{key}"))))
}

fn read_register(tx: &Tx<'_>, key: &str) -> Result<Option<u64>> {
    Ok(db::config::get(tx)?.get(&format!("user.register.{key}")).and_then(|v| v.parse().ok()))
}

fn write_register(tx: &Tx<'_>, key: &str, value: u64) -> Result<()> {
    db::config::set(tx, &format!("user.register.{key}"), Some(&value.to_string()))
}

/// What became of something that a client asked for.
enum Outcome<T> {
    /// It was answered.
    Answered(T),
    /// It may have been done, or may still be.
    Unknown,
    /// It was not done.
    Refused,
}

impl<T> From<Result<T>> for Outcome<T> {
    fn from(result: Result<T>) -> Self {
        match result {
            Ok(answer) => Outcome::Answered(answer),
            // It is taken at its word.
            Err(e) if e.message.contains("and nothing was changed") => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        }
    }
}

impl Load {
    /// Nobody has done anything.
    pub fn new(world: &Arc<World>) -> Arc<Load> {
        let (seen, values, stop) = (Mutex::default(), AtomicU64::new(1), AtomicBool::new(false));
        Arc::new(Load { world: world.clone(), seen, values, stop })
    }

    /// What was seen.
    pub fn seen(&self) -> MutexGuard<'_, Histories> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clients begin nothing more.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    /// Works as a client until it is stopped.
    pub async fn work(self: Arc<Self>, process: u64, mut chance: StdRng) {
        while !self.stop.load(Ordering::Relaxed) {
            self.world.wait(chance.random_range(0.02..0.8)).await;
            let there = self.world.net.there();
            if there.is_empty() {
                continue;
            }
            let (id, member) = &there[chance.random_range(0..there.len())];
            let key = chance.random_range(1..=KEYS).to_string();
            let ask = Ask { load: &self, process, member: *id, life: member.life, db: &member.db };
            match chance.random_range(0..10) {
                0..3 => ask.append(&key).await,
                3..6 => drop(ask.read_list(&key).await),
                6..8 => ask.read_register(&key).await,
                8 => ask.write_register(&key).await,
                _ => ask.exchange(&key).await,
            }
        }
    }

    /// One write and one read on a member; how long they took together, or why not.
    pub async fn try_one(&self, id: u64) -> Option<(Duration, Option<String>)> {
        let member = self.world.net.reach(id)?;
        let ask = Ask { load: self, process: 90, member: id, life: member.life, db: &member.db };
        let began = self.world.now();
        let asked = match ask.append_one("1").await {
            Outcome::Answered(()) => ask.read_list("1").await.map(drop).ok_or("the read was refused".to_owned()),
            Outcome::Unknown | Outcome::Refused => Err("the write was refused".to_owned()),
        };
        Some((self.world.now().saturating_sub(began), asked.err()))
    }

    /// Looks at a member that has just started, until it answers.
    pub async fn look_at(self: Arc<Self>, id: u64) {
        let Some(member) = self.world.net.reach(id) else { return };
        for _ in 0..30 {
            let acknowledged: Vec<u64> = {
                let seen = self.seen();
                let of = seen.lists.iter().filter(|e| e.key == "1" && e.returned.is_some());
                of.filter_map(|e| if let list::Action::Append(value) = e.action { Some(value) } else { None }).collect()
            };
            let ask = Ask { load: &self, process: 80, member: id, life: member.life, db: &member.db };
            if let Some(shown) = ask.read_list("1").await {
                let first = First { member: id, acknowledged: &acknowledged, shown: &shown };
                return self.world.judge("a member never serves before it has caught up", first.check());
            }
            self.world.wait(0.3).await;
        }
    }
}

/// A client at a member.
struct Ask<'a> {
    load: &'a Load,
    process: u64,
    member: u64,
    life: u64,
    db: &'a Db,
}

impl Ask<'_> {
    /// Waits for the answer of a member, which does not come if that has ended meanwhile.
    async fn outcome<T>(&self, asked: impl Future<Output = Result<T>>) -> Outcome<T> {
        let here = || self.load.world.net.reach(self.member).is_some_and(|there| there.life == self.life);
        let gone = async {
            while here() {
                self.load.world.wait(0.1).await;
            }
        };
        tokio::select! {
            biased;
            () = gone => Outcome::Unknown,
            answered = asked => if here() { answered.into() } else { Outcome::Unknown },
        }
    }

    async fn read<T: Send + 'static>(&self, f: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static) -> Outcome<T> {
        match self.load.world.broken {
            Some(Break::StaleReads) => self.outcome(self.db.peek(f)).await,
            _ => self.outcome(self.db.read(f)).await,
        }
    }

    fn event<A>(&self, key: &str, called: Duration, answered: bool, action: A) -> Event<A> {
        let returned = answered.then(|| micros(self.load.world.now()));
        Event { process: self.process, called: micros(called), returned, key: key.to_owned(), action }
    }

    fn note(&self, what: &str) {
        self.load.world.note(format_args!("client {} at member {}: {what}", self.process, self.member));
    }

    fn list(&self, key: &str, called: Duration, answered: bool, action: list::Action) {
        self.note(&format!("list {key}: {action}{}", if answered { "" } else { " (unknown)" }));
        self.load.seen().lists.push(self.event(key, called, answered, action));
    }

    fn register(&self, key: &str, called: Duration, answered: bool, action: register::Action) {
        self.note(&format!("register {key}: {action}{}", if answered { "" } else { " (unknown)" }));
        self.load.seen().registers.push(self.event(key, called, answered, action));
    }

    async fn append(&self, key: &str) {
        let _ = self.append_one(key).await;
    }

    /// What was not known to be done: whether it was, by the member as it is now.
    async fn look_for(&self, key: &str, value: u64) {
        let Some(member) = self.load.world.net.reach(self.member) else { return };
        let ask = Ask { life: member.life, db: &member.db, ..*self };
        if ask.read_list(key).await.is_some_and(|shown| !shown.contains(&value)) {
            self.load.seen().given_up.push((key.to_owned(), value));
        }
    }

    async fn append_one(&self, key: &str) -> Outcome<()> {
        let (called, value, of) = (self.load.world.now(), self.load.value(), key.to_owned());
        let write = move |tx: &Tx<'_>| {
            let mut all: Vec<String> = read_list(tx, &of)?.iter().map(u64::to_string).collect();
            all.push(value.to_string());
            db::config::set(tx, &format!("user.list.{of}"), Some(&all.join(",")))
        };
        let outcome = self.outcome(self.db.write(write)).await;
        match outcome {
            Outcome::Answered(()) => self.list(key, called, true, list::Action::Append(value)),
            Outcome::Unknown => {
                self.list(key, called, false, list::Action::Append(value));
                self.look_for(key, value).await;
            }
            Outcome::Refused => self.note("refused"),
        }
        outcome
    }

    async fn read_list(&self, key: &str) -> Option<Vec<u64>> {
        let (called, of) = (self.load.world.now(), key.to_owned());
        let Outcome::Answered(shown) = self.read(move |tx| read_list(tx, &of)).await else {
            self.note("no answer");
            return None;
        };
        self.list(key, called, true, list::Action::Read(shown.clone()));
        Some(shown)
    }

    async fn read_register(&self, key: &str) {
        let (called, of) = (self.load.world.now(), key.to_owned());
        match self.read(move |tx| read_register(tx, &of)).await {
            Outcome::Answered(shown) => self.register(key, called, true, register::Action::Read(shown)),
            _ => self.note("no answer"),
        }
    }

    async fn write_register(&self, key: &str) {
        let (called, value, of) = (self.load.world.now(), self.load.value(), key.to_owned());
        let action = register::Action::Write(value);
        match self.outcome(self.db.write(move |tx| write_register(tx, &of, value))).await {
            Outcome::Answered(()) => self.register(key, called, true, action),
            Outcome::Unknown => self.register(key, called, false, action),
            Outcome::Refused => self.note("refused"),
        }
    }

    /// Exchanges what is there for something new, or refuses to, if it is not what it was a moment ago.
    async fn exchange(&self, key: &str) {
        let of = key.to_owned();
        let Ok(from) = self.db.peek(move |tx| read_register(tx, &of)).await else { return };
        let (called, to, of) = (self.load.world.now(), self.load.value(), key.to_owned());
        let write = move |tx: &Tx<'_>| {
            let fits = read_register(tx, &of)? == from;
            if fits {
                write_register(tx, &of, to)?;
            }
            Ok::<bool, Error>(fits)
        };
        let action = |done| register::Action::CompareAndSet { from, to, done };
        match self.outcome(self.db.write(write)).await {
            Outcome::Answered(done) => self.register(key, called, true, action(done)),
            Outcome::Unknown => self.register(key, called, false, action(true)),
            Outcome::Refused => self.note("refused"),
        }
    }
}
