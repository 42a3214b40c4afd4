//! The client of the benchmark: keeps connections open over mTLS and measures what it sees. It runs on a machine of
//! the lab, as a program of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Remote;
use client::tls::{Identity, client_config};
use serde_json::{Value, json};

use crate::sh::Result;

/// What to ask, of whom, how long.
#[derive(clap::Args)]
pub struct Load {
    /// `host:port` of the server.
    #[arg(long)]
    address: String,
    /// The fingerprint of its certificate.
    #[arg(long)]
    pin: String,
    /// Certificate and key of the client: this with `.crt`, `.key`.
    #[arg(long)]
    identity: PathBuf,
    /// Clients at once.
    #[arg(long, default_value = "1")]
    clients: usize,
    /// Stop after that many milliseconds.
    #[arg(long)]
    milliseconds: u64,
    /// Ask for this; without it, profiles are created and deleted.
    #[arg(long)]
    get: Option<String>,
}

/// What one client saw: how long each request (or pair) took, in milliseconds, and the last refusal.
#[derive(Default)]
struct Seen {
    times: Vec<f64>,
    refused: Option<String>,
}

/// Runs and prints what was seen, as JSON.
pub fn run(load: &Load) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let began = Instant::now();
    let seen = runtime.block_on(all(load))?;
    let seconds = began.elapsed().as_secs_f64();
    let refused = seen.iter().find_map(|s| s.refused.clone());
    let mut times: Vec<f64> = seen.into_iter().flat_map(|s| s.times).collect();
    times.sort_by(f64::total_cmp);
    println!("{}", summary(&times, seconds, refused));
    Ok(())
}

fn summary(sorted: &[f64], seconds: f64, refused: Option<String>) -> Value {
    let at = |part: usize| sorted.get((sorted.len() * part / 100).min(sorted.len().saturating_sub(1)));
    json!({
        "count": sorted.len(), "per_second": sorted.len() as f64 / seconds,
        "p50": at(50), "p99": at(99), "refused": refused,
    })
}

async fn all(load: &Load) -> Result<Vec<Seen>> {
    let read = |end: &str| std::fs::read_to_string(load.identity.with_extension(end));
    let own = Identity { certificate: read("crt")?, key: read("key")? };
    let config = client_config(&load.pin, Some(&own)).map_err(|e| e.message)?;
    let mut clients = Vec::new();
    for number in 0..load.clients {
        let remote = Arc::new(Remote::tls(&load.address, config.clone()));
        // The connection is made before the clock starts.
        remote.json("GET", "/1.0", None).await.map_err(|e| e.message)?;
        let until = Instant::now() + Duration::from_millis(load.milliseconds);
        let get = load.get.clone();
        clients.push(tokio::spawn(async move {
            match get {
                Some(path) => reads(&remote, &path, until).await,
                None => pairs(&remote, number, until).await,
            }
        }));
    }
    let mut seen = Vec::new();
    for client in clients {
        seen.push(client.await?);
    }
    Ok(seen)
}

async fn reads(remote: &Remote, path: &str, until: Instant) -> Seen {
    let mut seen = Seen::default();
    while Instant::now() < until {
        let began = Instant::now();
        // What a client makes of it is not the server's.
        match remote.fetch(path).await {
            Ok(_) => seen.times.push(began.elapsed().as_secs_f64() * 1e3),
            Err(e) => seen.refused = Some(e.message),
        }
    }
    seen
}

/// Profiles made and deleted, one after another.
async fn pairs(remote: &Remote, number: usize, until: Instant) -> Seen {
    let mut seen = Seen::default();
    for turn in 0.. {
        if Instant::now() >= until {
            break;
        }
        let name = format!("load-{}-{number}-{turn}", std::process::id());
        let began = Instant::now();
        let made = remote.json("POST", "/1.0/profiles", Some(&json!({"name": name}))).await;
        let gone = match made {
            Ok(_) => remote.json("DELETE", &format!("/1.0/profiles/{name}"), None).await,
            refused => refused,
        };
        match gone {
            Ok(_) => seen.times.push(began.elapsed().as_secs_f64() * 1e3),
            Err(e) => seen.refused = Some(e.message),
        }
    }
    seen
}
