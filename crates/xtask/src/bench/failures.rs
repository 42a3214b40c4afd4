//! A leader that dies, and a cluster without a majority. Takes members away: comes last.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Bench;
use super::rows::Better::Less;
use super::side::{SIZE, Side, since};
use crate::sh::Result;

/// Measures.
pub fn measure(bench: &mut Bench) -> Result<()> {
    let rounds = bench.rounds(3);
    let mut turn = 0;
    bench.measure(("leader killed, to the next write accepted", "ms", Less), rounds, |side| {
        turn += 1;
        let leader = side.leader(1)?;
        let other = leader % SIZE + 1;
        side.cluster.kill(leader)?;
        let took = next_write(side, other, turn)?;
        side.start(leader)?;
        side.whole(other)?;
        Ok(took)
    });
    let offline = ("leader killed, to shown offline (threshold 20 s)", "ms", Less);
    match bench.quick {
        true => bench.skip(offline, ["left out of a quick run"; 2]),
        false => bench.measure(offline, 1, shown_offline),
    }
    let mut said = Vec::new();
    bench.measure(("`incus cluster list` without a majority", "ms", Less), 1, |side| {
        let (took, code) = without_majority(side)?;
        said.push((side.is_peer(), if code == 0 { "answers" } else { "refuses" }));
        Ok(took)
    });
    if let Some(row) = bench.rows.last_mut() {
        said.into_iter().for_each(|(peer, what)| row.sides[usize::from(peer)].note = what.to_owned());
    }
    Ok(())
}

/// Milliseconds until a profile can be created.
fn next_write(side: &Side, on: usize, turn: u32) -> Result<f64> {
    let began = Instant::now();
    for attempt in 0.. {
        let profile = json!({"name": format!("after-{turn}-{attempt}")});
        if side.ask(on, "POST", "/1.0/profiles", Some(&profile)).is_ok() {
            break;
        }
        if began.elapsed() > Duration::from_secs(60) {
            return Err("no write was accepted within a minute".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(since(began))
}

fn shown_offline(side: &mut Side) -> Result<f64> {
    let leader = side.leader(1)?;
    let other = leader % SIZE + 1;
    let name = format!("server{leader}");
    let offline = |m: &Value| m["server_name"] == name.as_str() && m["status"] == "Offline";
    side.cluster.kill(leader)?;
    let began = Instant::now();
    while !side.members(other).unwrap_or_default().iter().any(offline) {
        if began.elapsed() > Duration::from_secs(90) {
            return Err("not within 90 s".into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = since(began);
    side.start(leader)?;
    side.whole(other)?;
    Ok(took)
}

/// How long the list takes on the one member that is left, and how it ends.
fn without_majority(side: &mut Side) -> Result<(f64, i32)> {
    for number in 2..=SIZE {
        side.cluster.kill(number)?;
    }
    // The one that is left has to notice.
    std::thread::sleep(Duration::from_secs(3));
    side.timed(1, &["cluster", "list"]).map(|(took, out)| (took, out.code))
}
