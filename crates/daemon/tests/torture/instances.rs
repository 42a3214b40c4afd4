//! Clients that make, start, stop, move and delete containers, and one that empties members and brings them back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use crate::ask::{Answer, Client};
use crate::rack::Roots;
use crate::workload::Diary;

/// Milliseconds between two requests of a client, at most.
const PACE: u64 = 1_500;
/// Milliseconds between an evacuation and the restoring, at most.
const AWAY: u64 = 8_000;

/// What a client was told of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Known {
    /// It does not exist.
    #[default]
    Absent,
    /// It exists; in it is a file with this text, if one was put there.
    Present(Option<String>),
    /// It may exist.
    Unsure,
}

/// A client with some instances of its own, of which it knows what became.
pub struct Owner {
    clients: Vec<Client>,
    rng: StdRng,
    diary: Arc<Diary>,
    /// What is known of its instances.
    pub known: BTreeMap<String, Known>,
    marks: u64,
}

impl Owner {
    /// A client with instances of these names.
    pub fn new(roots: &Roots, names: &[&str], seed: u64, diary: &Arc<Diary>) -> Owner {
        Owner {
            clients: (1..=roots.size()).map(|n| Client::new(roots, n)).collect(),
            rng: StdRng::seed_from_u64(seed),
            diary: diary.clone(),
            known: names.iter().map(|n| ((*n).to_owned(), Known::Absent)).collect(),
            marks: 0,
        }
    }

    /// Works until `stop`; what it knows then.
    pub async fn run(mut self, stop: Arc<AtomicBool>) -> BTreeMap<String, Known> {
        let names: Vec<String> = self.known.keys().cloned().collect();
        while !stop.load(Ordering::Relaxed) {
            let name = names.choose(&mut self.rng).cloned().unwrap_or_default();
            let known = match self.known.get(&name).cloned().unwrap_or_default() {
                Known::Absent => self.create(&name).await,
                known => self.change(&name, known).await,
            };
            self.known.insert(name, known);
            let pause = self.rng.random_range(100..PACE);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.known
    }

    fn target(&mut self) -> String {
        format!("server{}", self.rng.random_range(1..=self.clients.len()))
    }

    async fn run_on_any(&mut self, method: &str, path: &str, body: Option<&serde_json::Value>) -> Answer {
        let which = self.rng.random_range(0..self.clients.len());
        let answer = self.clients[which].run(method, path, body).await;
        self.diary.count(&answer);
        answer
    }

    async fn create(&mut self, name: &str) -> Known {
        let path = format!("/1.0/instances?target={}", self.target());
        let body = json!({
            "name": name,
            "source": { "type": "image", "alias": "bb" },
            "config": { "boot.host_shutdown_timeout": "0" },
            "start": self.rng.random_bool(0.6),
        });
        match self.run_on_any("POST", &path, Some(&body)).await {
            Answer::Good(_) => Known::Present(self.mark(name).await),
            Answer::Refused(..) => Known::Absent,
            Answer::Unknown(_) => Known::Unsure,
        }
    }

    /// Puts a file into it that no image has; what is in it, if it is known to be there.
    async fn mark(&mut self, name: &str) -> Option<String> {
        self.marks += 1;
        let text = format!("{name} {}", self.marks);
        let which = self.rng.random_range(0..self.clients.len());
        let answer = self.clients[which].push(name, "/mark", &text).await;
        self.diary.count(&answer);
        answer.good().map(|_| text)
    }

    async fn change(&mut self, name: &str, known: Known) -> Known {
        let url = format!("/1.0/instances/{name}");
        let state = |action: &str| json!({ "action": action, "force": true, "timeout": 0 });
        match self.rng.random_range(0..10) {
            0..3 => drop(self.run_on_any("PUT", &format!("{url}/state"), Some(&state("start"))).await),
            3..5 => drop(self.run_on_any("PUT", &format!("{url}/state"), Some(&state("stop"))).await),
            5..8 => {
                let path = format!("{url}?target={}", self.target());
                drop(self.run_on_any("POST", &path, Some(&json!({ "migration": true }))).await);
            }
            8 => drop(self.run_on_any("PUT", &format!("{url}/state"), Some(&state("restart"))).await),
            _ => {
                drop(self.run_on_any("PUT", &format!("{url}/state"), Some(&state("stop"))).await);
                return match self.run_on_any("DELETE", &url, None).await {
                    Answer::Good(_) => Known::Absent,
                    Answer::Refused(..) => known,
                    Answer::Unknown(_) => Known::Unsure,
                };
            }
        }
        known
    }
}

/// Empties members and brings them back until `stop`.
pub async fn evacuate(roots: Roots, seed: u64, diary: Arc<Diary>, stop: Arc<AtomicBool>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut clients: Vec<Client> = (1..=roots.size()).map(|n| Client::new(&roots, n)).collect();
    while !stop.load(Ordering::Relaxed) {
        let member = rng.random_range(1..=clients.len());
        for action in ["evacuate", "restore"] {
            let which = rng.random_range(0..clients.len());
            let answer = set_state(&mut clients[which], member, action).await;
            diary.count(&answer);
            let pause = rng.random_range(500..AWAY);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
}

/// Empties a member or brings it back.
pub async fn set_state(client: &mut Client, member: usize, action: &str) -> Answer {
    let path = format!("/1.0/cluster/members/server{member}/state");
    client.run("POST", &path, Some(&json!({ "action": action, "mode": "" }))).await
}
