//! A cluster at rest and at work: memory, CPU, reads and writes.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::rows::Better::{Less, More};
use super::side::{SIZE, Side, since};
use super::{Bench, Measure};
use crate::sh::Result;

/// Measures.
pub fn measure(bench: &mut Bench) -> Result<()> {
    let names = [("memory, idle leader, RSS", "MB", Less), ("memory, idle leader, PSS", "MB", Less)];
    bench.measure_all(&names, 1, |side| {
        let leader = side.leader(1)?;
        Ok(vec![side.memory(leader, "Rss")?, side.memory(leader, "Pss")?])
    });
    idle(bench);
    let rounds = bench.rounds(20);
    bench.measure(("`incus cluster list`, whole process", "ms", Less), rounds, |side| {
        side.client(1, &["cluster", "list"])
    });
    reads(bench);
    writes(bench);
    bench.measure(("memory after thousands of requests, leader, RSS", "MB", Less), 1, |side| {
        let leader = side.leader(1)?;
        side.memory(leader, "Rss")
    });
    let rounds = bench.rounds(3);
    bench.measure(("clustered follower, restart to ready", "ms", Less), rounds, |side| {
        let follower = side.leader(1)? % SIZE + 1;
        side.stop(follower)?;
        let took = side.start(follower)?;
        side.whole(follower)?;
        Ok(took)
    });
    Ok(())
}

/// CPU over some seconds in which nobody asks for anything, both sides in the same ones.
fn idle(bench: &mut Bench) {
    let window = Duration::from_secs(if bench.quick { 8 } else { 30 });
    let took = |side: &Side| -> Result<[f64; 2]> {
        let leader = side.leader(1)?;
        Ok([side.cpu(leader)?, side.cpu(leader % SIZE + 1)?])
    };
    let before: Vec<_> = bench.sides.iter().map(took).collect();
    let began = Instant::now();
    std::thread::sleep(window);
    let wall = since(began);
    let after: Vec<_> = bench.sides.iter().map(took).collect();
    for (which, name) in ["CPU, idle leader", "CPU, idle follower"].into_iter().enumerate() {
        let mut spent = before.iter().zip(&after).map(|(before, after)| match (before, after) {
            (Ok(before), Ok(after)) => Ok((after[which] - before[which]) / wall * 100.0),
            (Err(e), _) | (_, Err(e)) => Err(e.to_string().into()),
        });
        bench.measure((name, "%", Less), 1, |_| spent.next().unwrap_or_else(|| Err("not measured".into())));
    }
}

/// One client on the third machine beside the leader and the follower asks over and over.
fn reads(bench: &mut Bench) {
    let milliseconds = if bench.quick { "700" } else { "2000" };
    let members = "/1.0/cluster/members?recursion=1";
    for (path, to, p50, p99) in [
        (members, 0, "GET members?recursion=1 of the leader, p50", "GET members?recursion=1 of the leader, p99"),
        (members, 1, "GET members?recursion=1 of a follower, p50", "GET members?recursion=1 of a follower, p99"),
        ("/1.0", 0, "GET /1.0 of the leader, p50", "GET /1.0 of the leader, p99"),
    ] {
        let names: [Measure<'_>; 2] = [(p50, "ms", Less), (p99, "ms", Less)];
        let rounds = bench.rounds(5);
        bench.measure_all(&names, rounds, |side| {
            let seen = load(side, to, &["--milliseconds", milliseconds, "--get", path])?;
            Ok(vec![number(&seen, "p50")?, number(&seen, "p99")?])
        });
    }
}

/// Profiles are created and deleted through the leader and through a follower.
fn writes(bench: &mut Bench) {
    let milliseconds = if bench.quick { "1000" } else { "3000" };
    for (to, clients, name) in [
        (0, "1", "profile create + delete, leader, 1 client"),
        (0, "8", "profile create + delete, leader, 8 clients"),
        (1, "1", "profile create + delete, follower, 1 client"),
        (1, "8", "profile create + delete, follower, 8 clients"),
    ] {
        let rounds = bench.rounds(5);
        bench.measure((name, "/s", More), rounds, |side| {
            let seen = load(side, to, &["--milliseconds", milliseconds, "--clients", clients])?;
            number(&seen, "per_second")
        });
    }
}

/// Asks the leader, or (`after` 1) the follower after it; the client is on the last machine of the three.
pub fn load(side: &Side, after: usize, args: &[&str]) -> Result<Value> {
    let leader = side.leader(1)?;
    let place = |n: usize| (leader - 1 + n) % SIZE + 1;
    let seen = side.load(place(2), place(after), args)?;
    if let Some(refused) = seen["refused"].as_str() {
        eprintln!("    {}: some requests were refused: {refused}", side.name);
    }
    Ok(seen)
}

/// A figure of what a load saw.
pub fn number(seen: &Value, name: &str) -> Result<f64> {
    seen[name].as_f64().ok_or_else(|| format!("nothing was answered: {seen}").into())
}
