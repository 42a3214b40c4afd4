//! A real cluster under load while processes, networks and disks fail under it, several at a time; afterwards it comes
//! to rest, and what clients were told has to be what a server that never fails could have told them.
//!
//! `cargo xtask torture` runs it for longer. Everything that is chosen follows from one seed, which is printed; when
//! exactly it hits what does not, so a seed gives the same faults and not the same run.
#![allow(clippy::unwrap_used)]

mod ask;
mod checks;
mod instances;
mod nemesis;
mod rack;
mod steps;
mod workload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::Result;
use tokio::runtime::Runtime;

use ask::Client;
use instances::{Known, Owner};
use nemesis::Nemesis;
use rack::{Rack, Roots, within};
use workload::{Diary, Writer};

/// How long the cluster may take to come to rest.
const REST: Duration = Duration::from_secs(120);
/// What the clients have that make and move containers.
const NAMES: [&[&str]; 2] = [&["a1", "a2", "a3"], &["b1", "b2", "b3"]];

/// How it is to be run: `TORTURE_SECONDS`, `TORTURE_SEED`, `TORTURE_MEMBERS`.
struct Wanted {
    faults: Duration,
    seed: u64,
    members: usize,
}

impl Wanted {
    fn read() -> Wanted {
        let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
        let by_clock = std::time::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_secs() % 1_000_000);
        Wanted {
            faults: Duration::from_secs(number("TORTURE_SECONDS").unwrap_or(75)),
            seed: number("TORTURE_SEED").unwrap_or(by_clock),
            members: usize::try_from(number("TORTURE_MEMBERS").unwrap_or(3)).unwrap_or(3),
        }
    }

    fn command(&self) -> String {
        let minutes = self.faults.as_secs_f64() / 60.0;
        format!("cargo xtask torture --minutes {minutes:.2} --seed {} --members {}", self.seed, self.members)
    }
}

#[test]
fn a_cluster_that_is_tortured_keeps_what_it_has_promised() -> Result<()> {
    if lab::skip(&["/bin/busybox", "nft", "fsfreeze", "mkfs.ext4"]) {
        return Ok(());
    }
    let wanted = Wanted::read();
    println!("{}", wanted.command());
    let mut rack = Rack::form(wanted.members)?;
    let diary = Diary::new();
    let done = torture(&mut rack, &wanted, &diary);
    if let Err(e) = done {
        let logs = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("torture-{}", wanted.seed));
        rack.keep_logs(&logs)?;
        return Err(format!("{e}\nlogs: {}\nagain: {}", logs.display(), wanted.command()).into());
    }
    Ok(())
}

fn torture(rack: &mut Rack, wanted: &Wanted, diary: &Arc<Diary>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (roots, stop) = (rack.roots.clone(), Arc::new(AtomicBool::new(false)));
    runtime.block_on(workload::prepare(&mut Client::new(&roots, 1)))?;
    let clients = Clients::start(&runtime, &roots, wanted.seed, diary, &stop);
    let mut nemesis = Nemesis::new(wanted.seed);
    let faults = fail(rack, &mut nemesis, wanted, &runtime, diary);
    // Whatever went wrong, nothing stays as it is now.
    let healed = nemesis.heal(rack);
    let began = Instant::now();
    stop.store(true, Ordering::Relaxed);
    let known = runtime.block_on(clients.end());
    faults.and(healed)?;
    let rest = within(REST, || {
        rack.keep_up()?;
        runtime.block_on(checks::at_rest(&roots))?;
        // What belongs to nobody is removed in the background.
        runtime.block_on(checks::instances_are_in_one_place(rack))
    });
    let rest = rest.map(|()| began.elapsed());
    report(&nemesis, diary, rack, rest.as_ref().ok());
    rest?;
    runtime.block_on(checks::instances_are_as_told(rack, &known))?;
    runtime.block_on(Writer::new(&roots, 1, 0, wanted.seed, diary).read_all())?;
    checks::answers_are_possible(diary)?;
    match rack.complaints() {
        none if none.is_empty() => Ok(()),
        some => Err(some.join("\n").into()),
    }
}

/// The time of faults.
fn fail(rack: &mut Rack, nemesis: &mut Nemesis, wanted: &Wanted, runtime: &Runtime, diary: &Diary) -> Result<()> {
    let (began, roots) = (Instant::now(), rack.roots.clone());
    while began.elapsed() < wanted.faults {
        nemesis.turn(rack, began, || runtime.block_on(leader(&roots)))?;
        nemesis.note(roots.size(), diary.now());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The member that leads, as the first one says that answers in a moment.
async fn leader(roots: &Roots) -> Option<usize> {
    for number in 1..=roots.size() {
        let mut client = Client::new(roots, number);
        let asked = client.get("/1.0/cluster/members?recursion=1");
        let Ok(answer) = tokio::time::timeout(Duration::from_secs(1), asked).await else { continue };
        let Some(good) = answer.good() else { continue };
        let leads =
            |m: &&serde_json::Value| m["roles"].as_array().is_some_and(|r| r.iter().any(|r| r == "database-leader"));
        let leader = good.value.as_array().into_iter().flatten().find(leads);
        if let Some(name) = leader.and_then(|m| m["server_name"].as_str()) {
            return name.trim_start_matches("server").parse().ok();
        }
    }
    None
}

/// All that put load on the cluster.
struct Clients {
    writers: Vec<tokio::task::JoinHandle<()>>,
    owners: Vec<tokio::task::JoinHandle<BTreeMap<String, Known>>>,
}

impl Clients {
    fn start(runtime: &Runtime, roots: &Roots, seed: u64, diary: &Arc<Diary>, stop: &Arc<AtomicBool>) -> Clients {
        let _inside = runtime.enter();
        let mut writers = Vec::new();
        for number in 1..=roots.size() {
            let process = u64::try_from(number).unwrap_or(0);
            let writer = Writer::new(roots, number, process, seed, diary);
            writers.push(tokio::spawn(writer.run(stop.clone())));
        }
        writers.push(tokio::spawn(instances::evacuate(roots.clone(), seed, diary.clone(), stop.clone())));
        let owner = |names: &&[&str]| tokio::spawn(Owner::new(roots, names, seed, diary).run(stop.clone()));
        Clients { writers, owners: NAMES.iter().map(owner).collect() }
    }

    /// Waits until they have stopped; what is known of instances.
    async fn end(self) -> BTreeMap<String, Known> {
        for writer in self.writers {
            let _ = writer.await;
        }
        let mut known = BTreeMap::new();
        for owner in self.owners {
            known.extend(owner.await.unwrap_or_default());
        }
        known
    }
}

/// Says what was done and what came of it.
fn report(nemesis: &Nemesis, diary: &Diary, rack: &Rack, rest: Option<&Duration>) {
    let [good, refused, unknown] = diary.counts.each_ref().map(|n| n.load(Ordering::Relaxed));
    let faults: usize = nemesis.done.values().sum();
    println!("faults: {faults} {:?}", nemesis.done);
    println!("requests: {good} carried out, {refused} refused, {unknown} of which nobody knows");
    println!("daemons that ended by themselves: {:?}", rack.ended);
    let (pause, peaceful) = (diary.longest_pause(&[diary.span()]), diary.longest_pause(&nemesis.peace));
    println!("longest time without an accepted write: {:.1} s (from {:.1} s on)", pause.0, pause.1);
    println!("  while a majority was left in peace: {:.1} s (from {:.1} s on)", peaceful.0, peaceful.1);
    match rest {
        Some(rest) => println!("time to rest: {:.1} s", rest.as_secs_f64()),
        None => println!("time to rest: not within {} s", REST.as_secs()),
    }
}
