//! Instances as a person has them: created, launched, entered, moved, evacuated.

use std::time::Instant;

use serde_json::json;

use super::rows::Better::{Less, More};
use super::side::{SIZE, Side, since};
use super::steady::{load, number};
use super::{Bench, Measure};
use crate::sh::Result;

const EMPTY: Measure<'_> = ("create an empty instance (POST and wait)", "ms", Less);
const LIST: Measure<'_> = ("GET instances?recursion=1, 50 stopped, p50", "ms", Less);
const LIST_RATE: Measure<'_> = ("GET instances?recursion=1, 50 stopped", "/s", More);
const LAUNCH: Measure<'_> = ("`incus launch` of busybox, image cached, whole process", "ms", Less);
const EXEC: Measure<'_> = ("`incus exec` of true, whole process", "ms", Less);
const MOVE: Measure<'_> = ("`incus move` of a stopped instance, whole process", "ms", Less);
const EVACUATE: Measure<'_> = ("evacuate 10 stopped and 5 running", "ms", Less);
const RESTORE: Measure<'_> = ("restore 10 stopped and 5 running", "ms", Less);

/// Measures what our server says that it can do.
pub fn measure(bench: &mut Bench) -> Result<()> {
    if !bench.sides[0].has("instances")? {
        for row in [EMPTY, LIST, LIST_RATE, LAUNCH, EXEC, MOVE, EVACUATE, RESTORE] {
            bench.skip(row, ["this version does not advertise `instances`", "not measured without ours beside it"]);
        }
        return Ok(());
    }
    empty(bench);
    running(bench);
    let movable = bench.rows.iter().any(|r| r.name == LAUNCH.0 && r.ratio().is_some());
    if !movable {
        for row in [MOVE, EVACUATE, RESTORE] {
            bench.skip(row, ["nothing could be launched"; 2]);
        }
        return Ok(());
    }
    moved(bench);
    match (bench.sides[0].has("clustering_evacuation")?, bench.quick) {
        (_, true) => [EVACUATE, RESTORE].into_iter().for_each(|r| bench.skip(r, ["left out of a quick run"; 2])),
        (false, _) => [EVACUATE, RESTORE].into_iter().for_each(|r| {
            bench.skip(
                r,
                ["this version does not advertise `clustering_evacuation`", "not measured without ours beside it"],
            );
        }),
        (true, false) => bench.measure_all(&[EVACUATE, RESTORE], 1, evacuated),
    }
    Ok(())
}

/// Empty ones on the first member: what making them takes, and listing them.
fn empty(bench: &mut Bench) {
    let mut made = [0, 0];
    bench.measure(EMPTY, 50, |side| {
        let count = &mut made[usize::from(side.is_peer())];
        *count += 1;
        let new = json!({"name": format!("bench-e{count}"), "type": "container", "source": {"type": "none"}});
        let began = Instant::now();
        side.operate(1, "POST", "/1.0/instances?target=server1", &new)?;
        Ok(since(began))
    });
    let milliseconds = if bench.quick { "700" } else { "2000" };
    let rounds = bench.rounds(5);
    bench.measure_all(&[LIST, LIST_RATE], rounds, |side| {
        let seen = load(side, 0, &["--milliseconds", milliseconds, "--get", "/1.0/instances?recursion=1"])?;
        Ok(vec![number(&seen, "p50")?, number(&seen, "per_second")?])
    });
    for side in &bench.sides {
        for n in 1..=made[usize::from(side.is_peer())] {
            let _ = side.operate(1, "DELETE", &format!("/1.0/instances/bench-e{n}"), &json!({}));
        }
    }
}

/// Launched from an image that the member has; a program run in it.
fn running(bench: &mut Bench) {
    let image = bench.sides[0].cluster.lab.dir.join("busybox.tar.gz").to_string_lossy().into_owned();
    let incusd = bench.sides[0].cluster.programs.incusd.to_string_lossy().into_owned();
    let built = lab::must(&incusd, &["forkimage", "busybox", &image]);
    let imported = built.and_then(|_| {
        for side in &bench.sides {
            side.client(1, &["image", "import", &image, "--alias", "busybox"])?;
            // The first one unpacks what the rest is made from.
            side.client(1, &["launch", "busybox", "bench-first", "--target", "server1"])?;
        }
        Ok(())
    });
    if let Err(e) = imported {
        let why = format!("the image of busybox: {e}");
        [LAUNCH, EXEC].into_iter().for_each(|row| bench.skip(row, [&why; 2]));
        return;
    }
    let rounds = bench.rounds(9);
    bench.measure(LAUNCH, rounds, |side| {
        let took = side.client(1, &["launch", "busybox", "bench-launched", "--target", "server1"])?;
        side.client(1, &["delete", "-f", "bench-launched"])?;
        Ok(took)
    });
    let rounds = bench.rounds(20);
    bench.measure(EXEC, rounds, |side| side.client(1, &["exec", "bench-first", "--", "true"]));
}

/// Stopped, from the first member to the second and back.
fn moved(bench: &mut Bench) {
    for side in &bench.sides {
        let _ = side.client(1, &["stop", "-f", "bench-first"]);
    }
    let mut turn = 0;
    let rounds = bench.rounds(6).next_multiple_of(2);
    bench.measure(MOVE, rounds, |side| {
        turn += 1;
        let target = if (turn - 1) / 2 % 2 == 0 { "server2" } else { "server1" };
        side.client(1, &["move", "bench-first", "--target", target])
    });
}

/// The last member with ten stopped and five running instances, emptied and filled again.
fn evacuated(side: &mut Side) -> Result<Vec<f64>> {
    let member = format!("server{SIZE}");
    for n in 1..=10 {
        side.client(1, &["init", "busybox", &format!("bench-s{n}"), "--target", &member])?;
    }
    for n in 1..=5 {
        side.client(1, &["launch", "busybox", &format!("bench-r{n}"), "--target", &member])?;
    }
    let evacuate = side.client(1, &["cluster", "evacuate", &member, "--force"])?;
    let restore = side.client(1, &["cluster", "restore", &member, "--force"])?;
    for name in (1..=10).map(|n| format!("bench-s{n}")).chain((1..=5).map(|n| format!("bench-r{n}"))) {
        side.client(1, &["delete", "-f", &name])?;
    }
    Ok(vec![evacuate, restore])
}
