//! Clients of all members that read and write rows, and remember what they asked for and what they were told: registers
//! with compare-and-set, lists that grow, and a set of rows.
//!
//! All of it is in the descriptions and names of profiles that nobody uses.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lab::history::{Event, list, register};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::ask::{Answer, Client};
use crate::rack::Roots;

/// How many registers there are.
const REGISTERS: u64 = 3;
/// A list takes no more appends after this time: another one begins.
const LIST: Duration = Duration::from_secs(60);
/// Milliseconds between two requests of a client, at most.
const PACE: u64 = 60;
/// How long is waited when there is nobody to ask.
const NOBODY: Duration = Duration::from_millis(250);

/// What was done and answered, by all clients.
pub struct Diary {
    began: Instant,
    values: AtomicU64,
    /// What was done to registers.
    pub registers: Mutex<Vec<Event<register::Action>>>,
    /// What was done to lists.
    pub lists: Mutex<Vec<Event<list::Action>>>,
    /// What was done to the set of rows.
    pub rows: Mutex<Rows>,
    /// When writes were accepted, in microseconds.
    pub accepted: Mutex<Vec<u64>>,
    /// Requests that were carried out, refused, and of which nobody knows.
    pub counts: [AtomicU64; 3],
}

/// A set of rows, to which each is added once.
#[derive(Default)]
pub struct Rows {
    /// Those that were added: when that was asked for and acknowledged, and the name.
    pub added: Vec<(u64, Option<u64>, String)>,
    /// What was seen: when it was asked for and answered, and the names.
    pub seen: Vec<(u64, u64, Vec<String>)>,
}

/// The lock, whoever has panicked.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Diary {
    /// An empty one.
    pub fn new() -> Arc<Diary> {
        Arc::new(Diary {
            began: Instant::now(),
            values: AtomicU64::new(1),
            registers: Mutex::default(),
            lists: Mutex::default(),
            rows: Mutex::default(),
            accepted: Mutex::default(),
            counts: Default::default(),
        })
    }

    /// Microseconds since it was begun.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Counts a request by what came of it.
    pub fn count(&self, answer: &Answer) {
        let which = match answer {
            Answer::Good(_) => 0,
            Answer::Refused(..) => 1,
            Answer::Unknown(_) => 2,
        };
        self.counts[which].fetch_add(1, Ordering::Relaxed);
    }

    /// The longest of the times between these moments within which no write was accepted: its length and its beginning,
    /// in seconds.
    pub fn longest_pause(&self, within: &[(u64, u64)]) -> (f64, f64) {
        let mut times = lock(&self.accepted).clone();
        times.sort_unstable();
        let longest = |from: u64, to: u64| {
            let inside = times.iter().copied().filter(|t| *t > from && *t < to);
            let all: Vec<u64> = [from].into_iter().chain(inside).chain([to]).collect();
            all.windows(2).map(|pair| (pair[1] - pair[0], pair[0])).max().unwrap_or_default()
        };
        let (pause, from) = within.iter().map(|(from, to)| longest(*from, *to)).max().unwrap_or_default();
        (pause as f64 / 1e6, from as f64 / 1e6)
    }

    /// When the first and the last write was accepted.
    pub fn span(&self) -> (u64, u64) {
        let times = lock(&self.accepted);
        (times.iter().min().copied().unwrap_or(0), times.iter().max().copied().unwrap_or(0))
    }
}

/// Makes what the clients use.
pub async fn prepare(client: &mut Client) -> lab::Result<()> {
    for name in (0..REGISTERS).map(|n| format!("register{n}")) {
        if let refused @ (Answer::Refused(..) | Answer::Unknown(_)) = add(client, &name).await {
            return Err(format!("{name}: {refused:?}").into());
        }
    }
    Ok(())
}

async fn add(client: &mut Client, name: &str) -> Answer {
    client.ask("POST", "/1.0/profiles", Some(&json!({ "name": name })), None).await
}

/// A client of a member that does this and that until it is told to stop.
pub struct Writer {
    process: u64,
    client: Client,
    rng: StdRng,
    diary: Arc<Diary>,
}

impl Writer {
    /// A client of that member.
    pub fn new(roots: &Roots, number: usize, process: u64, seed: u64, diary: &Arc<Diary>) -> Writer {
        let rng = StdRng::seed_from_u64(seed ^ process.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Writer { process, client: Client::new(roots, number), rng, diary: diary.clone() }
    }

    /// Works until `stop`.
    pub async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            match self.rng.random_range(0..20) {
                0..4 => self.read().await,
                4..6 => self.write().await,
                6..11 => self.exchange().await,
                11..15 => self.append().await,
                15..17 => self.read_list().await,
                17..19 => self.add_row().await,
                _ => self.read_rows().await,
            }
            let pause = self.rng.random_range(1..PACE);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.client.unreachable {
                tokio::time::sleep(NOBODY).await;
            }
        }
    }

    fn register(&mut self) -> String {
        format!("register{}", self.rng.random_range(0..REGISTERS))
    }

    fn value(&self) -> u64 {
        self.diary.values.fetch_add(1, Ordering::Relaxed)
    }

    /// A profile's description and its state, if it was answered.
    async fn look(&mut self, name: &str) -> Option<(String, String, bool)> {
        let answer = self.client.get(&format!("/1.0/profiles/{name}")).await;
        self.diary.count(&answer);
        let good = answer.good()?;
        Some((good.value["description"].as_str().unwrap_or_default().to_owned(), good.etag, good.confirmed))
    }

    /// Sets a profile's description, if it is still in that state.
    async fn set(&mut self, name: &str, text: &str, etag: Option<&str>) -> Answer {
        let body = json!({ "description": text, "config": {}, "devices": {} });
        let answer = self.client.ask("PUT", &format!("/1.0/profiles/{name}"), Some(&body), etag).await;
        self.diary.count(&answer);
        if matches!(answer, Answer::Good(_)) {
            lock(&self.diary.accepted).push(self.diary.now());
        }
        answer
    }

    fn note(&self, key: String, called: u64, known: bool, action: register::Action) {
        let returned = known.then(|| self.diary.now());
        lock(&self.diary.registers).push(Event { process: self.process, called, returned, key, action });
    }

    fn note_list(&self, key: String, called: u64, known: bool, action: list::Action) {
        let returned = known.then(|| self.diary.now());
        lock(&self.diary.lists).push(Event { process: self.process, called, returned, key, action });
    }

    async fn read(&mut self) {
        let (name, called) = (self.register(), self.diary.now());
        // What no majority has confirmed may be old, and says so.
        if let Some((text, _, true)) = self.look(&name).await {
            self.note(name, called, true, register::Action::Read(text.parse().ok()));
        }
    }

    async fn write(&mut self) {
        let (name, value, called) = (self.register(), self.value(), self.diary.now());
        match self.set(&name, &value.to_string(), None).await {
            Answer::Refused(..) => {}
            answer => self.note(name, called, answer.good().is_some(), register::Action::Write(value)),
        }
    }

    async fn exchange(&mut self) {
        let (name, called) = (self.register(), self.diary.now());
        let Some((text, etag, confirmed)) = self.look(&name).await else { return };
        let from = text.parse().ok();
        if confirmed {
            self.note(name.clone(), called, true, register::Action::Read(from));
        }
        let (to, called) = (self.value(), self.diary.now());
        let (known, done) = match self.set(&name, &to.to_string(), Some(&etag)).await {
            Answer::Good(_) => (true, true),
            // It was compared, though perhaps with what no majority has confirmed.
            Answer::Refused(..) => return,
            Answer::Unknown(_) => (false, true),
        };
        self.note(name, called, known, register::Action::CompareAndSet { from, to, done });
    }

    fn list(&self) -> String {
        format!("list{}", self.diary.began.elapsed().as_secs() / LIST.as_secs())
    }

    async fn append(&mut self) {
        let name = self.list();
        let Some((text, etag, _)) = self.look(&name).await else {
            // Somebody has to make it.
            let answer = add(&mut self.client, &name).await;
            return self.diary.count(&answer);
        };
        let (value, called) = (self.value(), self.diary.now());
        let longer = if text.is_empty() { value.to_string() } else { format!("{text},{value}") };
        match self.set(&name, &longer, Some(&etag)).await {
            Answer::Refused(..) => {}
            answer => self.note_list(name, called, answer.good().is_some(), list::Action::Append(value)),
        }
    }

    async fn read_list(&mut self) {
        let (name, called) = (self.list(), self.diary.now());
        if let Some((text, _, true)) = self.look(&name).await {
            self.note_list(name, called, true, list::Action::Read(values(&text)));
        }
    }

    async fn add_row(&mut self) {
        let (name, called) = (format!("row{}", self.value()), self.diary.now());
        let answer = add(&mut self.client, &name).await;
        self.diary.count(&answer);
        let returned = match answer {
            Answer::Refused(..) => return,
            Answer::Good(_) => Some(self.diary.now()),
            Answer::Unknown(_) => None,
        };
        lock(&self.diary.accepted).extend(returned);
        lock(&self.diary.rows).added.push((called, returned, name));
    }

    async fn read_rows(&mut self) {
        let called = self.diary.now();
        let answer = self.client.get("/1.0/profiles").await;
        self.diary.count(&answer);
        if let Some(good) = answer.good().filter(|good| good.confirmed) {
            lock(&self.diary.rows).seen.push((called, self.diary.now(), rows(&good.value)));
        }
    }

    /// Reads all there is once more.
    pub async fn read_all(&mut self) -> lab::Result<()> {
        for number in 0..REGISTERS {
            let (name, called) = (format!("register{number}"), self.diary.now());
            let seen = self.look(&name).await.ok_or("a register can't be read")?;
            self.note(name, called, true, register::Action::Read(seen.0.parse().ok()));
        }
        let called = self.diary.now();
        let all = self.client.ask("GET", "/1.0/profiles?recursion=1", None, None).await.good().ok_or("no profiles")?;
        let profiles = all.value.as_array().cloned().unwrap_or_default();
        for profile in &profiles {
            let name = profile["name"].as_str().unwrap_or_default();
            if name.starts_with("list") {
                let seen = values(profile["description"].as_str().unwrap_or_default());
                self.note_list(name.to_owned(), called, true, list::Action::Read(seen));
            }
        }
        let names = profiles.iter().filter_map(|p| Some(p["name"].as_str()?.to_owned())).collect();
        lock(&self.diary.rows).seen.push((called, self.diary.now(), names));
        Ok(())
    }
}

fn values(text: &str) -> Vec<u64> {
    text.split(',').filter_map(|v| v.parse().ok()).collect()
}

/// The names in a list of URLs.
fn rows(urls: &Value) -> Vec<String> {
    let name = |url: &Value| Some(url.as_str()?.rsplit('/').next()?.to_owned());
    urls.as_array().into_iter().flatten().filter_map(name).collect()
}

impl Rows {
    /// Checks that nothing was lost, nothing was there before it was asked for, and nothing went away again.
    pub fn check(&self) -> Result<(), String> {
        let mut known = std::collections::HashMap::new();
        for (called, returned, name) in &self.added {
            known.insert(name.as_str(), (*called, *returned));
        }
        let mut seen: Vec<_> = self.seen.iter().collect();
        seen.sort_by_key(|(called, ..)| *called);
        // When each was seen first: those who ask later have to see it, too.
        let mut first = std::collections::HashMap::<&str, u64>::new();
        for (_, returned, names) in &seen {
            let names: std::collections::HashSet<&str> = names.iter().map(String::as_str).collect();
            for name in names.iter().filter(|n| n.starts_with("row")) {
                match known.get(name) {
                    None => return Err(format!("{name} was seen, which nobody has added for sure")),
                    Some((added, _)) if added > returned => return Err(format!("{name} was seen before it was added")),
                    Some(_) => {}
                }
                let at = first.entry(name).or_insert(*returned);
                *at = (*at).min(*returned);
            }
        }
        for (called, _, names) in &seen {
            let names: std::collections::HashSet<&str> = names.iter().map(String::as_str).collect();
            for (name, (_, returned)) in &known {
                let since = [*returned, first.get(name).copied()].into_iter().flatten().min();
                if since.is_some_and(|since| since < *called) && !names.contains(name) {
                    return Err(format!("{name} was there at {since:?} and not seen by who asked at {called}"));
                }
            }
        }
        Ok(())
    }
}
