//! The database engine of several members, as it is, on a network, disks and a clock that are simulated.

mod disk;
mod faults;
mod load;
mod net;
mod pending;
mod template;
mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use db::Status;
use db::engine::runtime::{simulate, simulate_no_more};
use db::members::State;
use rand::RngExt as _;

use self::disk::End;
use self::load::Load;
use self::net::FAIR;
use self::world::World;
use crate::invariants::leaders::Leaders;
use crate::invariants::replicas::Replicas;
use crate::invariants::{rest, voters, waiting};
use crate::trace::Trace;
use crate::{Ended, Life};

/// Clients.
const CLIENTS: u64 = 2;
/// `cluster.max_voters`.
const VOTERS: usize = 3;
/// For so many seconds things go wrong.
const FAULTS: std::ops::Range<f64> = 8.0..30.0;
/// So many seconds all has to come to rest in.
const REST: f64 = 120.0;

/// A folder for files that nobody needs afterwards: in memory, if that can be.
pub(crate) fn folder() -> std::io::Result<tempfile::TempDir> {
    let builder = || tempfile::Builder::new().prefix("incus-sim-").to_owned();
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(dir) = builder().tempdir_in(memory)
    {
        return Ok(dir);
    }
    builder().tempdir()
}

/// Runs a life on a clock of its own.
fn simulated<T>(seed: u64, life: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let ended = runtime.block_on(async {
        simulate(seed);
        life.await
    });
    drop(runtime);
    simulate_no_more();
    Ok(ended)
}

/// Lives a life.
pub fn live(life: Life) -> Ended {
    let trace = Trace::new(life.told);
    let lived = folder().and_then(|dir| simulated(life.seed, whole(life, dir.path(), trace)));
    lived.unwrap_or_else(|e| Ended { trace: 0, violations: vec![format!("the simulation: {e}")], done: 0 })
}

async fn whole(life: Life, dir: &Path, trace: Trace) -> Ended {
    let world = World::new(life.seed, dir, trace, life.broken);
    let members = [3, 3, 4, 5][world.chance().random_range(0..4)];
    world.note(format_args!("{members} members"));
    match begin(&world, members).await {
        Ok(()) => through(&world).await,
        Err(e) => {
            world.judge("the simulation", Err(e.to_string()));
            world.ended(0)
        }
    }
}

/// Starts all members, with the files of a cluster that has been formed before.
async fn begin(world: &Arc<World>, members: u64) -> api::Result<()> {
    for (id, files) in template::of(members)?.iter() {
        template::lay_out(files, &world.first_folder(*id))?;
        world.start(*id).await?;
    }
    Ok(())
}

impl World {
    fn ended(&self, done: usize) -> Ended {
        let (trace, violations) = self.trace.ended();
        Ended { trace, violations, done }
    }

    fn statuses(&self) -> Vec<Status> {
        self.net.there().into_iter().map(|(_, member)| member.db.status()).collect()
    }
}

async fn through(world: &Arc<World>) -> Ended {
    let load = Load::new(world);
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (1..=CLIENTS).map(|n| tokio::spawn(load.clone().work(n, world.chance()))).collect();
    let watching = tokio::spawn(watch(world.clone(), over.clone()));
    let seconds = world.chance().random_range(FAULTS);
    faults::happen(world, &load, seconds).await;

    world.note("all is mended");
    world.net.mend();
    world.net.set_weather(FAIR);
    for disk in world.ids().into_iter().filter_map(|id| world.disk(id)) {
        disk.mend();
    }
    // By then those that were being shut down are, on whatever disk.
    world.wait(10.0).await;
    for id in world.off() {
        faults::start(world, &load, id).await;
    }
    load.stop();
    for client in clients {
        let _ = client.await;
    }
    come_to_rest(world).await;
    do_without_one(world, &load).await;
    over.store(true, Ordering::Relaxed);
    let _ = watching.await;

    let seen = load.seen();
    for (invariant, text) in seen.check() {
        world.judge(invariant, Err(text));
    }
    world.ended(seen.lists.len() + seen.registers.len())
}

/// Looks at all members now and then, until it is over.
async fn watch(world: Arc<World>, over: Arc<AtomicBool>) {
    let (mut leaders, mut replicas) = (Leaders::default(), Replicas::default());
    let mut known = BTreeMap::new();
    let mut rounds = 0_u64;
    while !over.load(Ordering::Relaxed) {
        world.wait(0.1).await;
        rounds += 1;
        for status in world.statuses() {
            let now = format!("term {}, leader {:?}, voters {:?}", status.term, status.leader, status.voters);
            if known.get(&status.id) != Some(&now) {
                world.note(format_args!("member {} knows: {now}", status.id));
                known.insert(status.id, now);
            }
            if let Some(leader) = status.leader {
                world.judge("at most one leader per term", leaders.observe(status.term, leader));
                world.judge("voters", voters::check_always(status.voters.len(), VOTERS));
            }
        }
        if rounds.is_multiple_of(80) {
            compare(&world, &mut replicas).await;
        }
    }
    compare(&world, &mut replicas).await;
}

async fn compare(world: &World, replicas: &mut Replicas) {
    for (id, member) in world.net.there() {
        if let Ok((index, hash)) = member.db.content_hash().await {
            world.judge("replicas are equal", replicas.observe(id, index, &hash));
        }
    }
}

/// Waits until nothing changes any more, and judges what it is then.
async fn come_to_rest(world: &Arc<World>) {
    let until = world.now().as_secs_f64() + REST;
    let mut quiet = BTreeMap::new();
    let why = loop {
        let statuses = world.statuses();
        let why = match rest::unrest(&statuses) {
            None => voters_are_right(world, &statuses).await.err(),
            unrest => unrest,
        };
        let Some(why) = why else { break None };
        *quiet.entry(why.clone()).or_insert(0) += 1;
        if world.now().as_secs_f64() > until {
            break Some(why);
        }
        world.wait(0.5).await;
    };
    world.judge("all comes to rest", why.map_or(Ok(()), Err));
    world.note("at rest");
}

/// Whether as many vote as there should, by the rows of the members.
async fn voters_are_right(world: &World, statuses: &[Status]) -> Result<(), String> {
    let Some((_, member)) = world.net.there().into_iter().next() else { return Err("nobody is there".into()) };
    let rows = member.db.peek(db::members::list).await.map_err(|e| e.to_string())?;
    let fit: Vec<u64> = rows.iter().filter(|m| m.state == State::Created).filter_map(|m| m.raft_id).collect();
    let voting = statuses.first().map_or(&[][..], |s| &s.voters);
    voters::check_at_rest(voters::Seats {
        voters: voting.len(),
        fit_voters: voting.iter().filter(|id| fit.contains(id)).count(),
        fit: fit.len(),
        wanted: VOTERS,
    })
}

/// A member is switched off: after a while, in which others notice, all goes on without it.
async fn do_without_one(world: &Arc<World>, load: &Arc<Load>) {
    let ids = world.ids();
    let away = ids[world.chance().random_range(0..ids.len())];
    let voting = world.statuses().first().map_or(0, |s| s.voters.len());
    world.end(away, End::PowerCut);
    world.wait(20.0).await;
    // Where only one votes, that one can't be done without.
    for id in ids.iter().copied().filter(|id| *id != away && voting >= 3) {
        if let Some((took, refused)) = load.try_one(id).await {
            let found = waiting::check(id, away, "a write and a read", took, refused);
            world.judge("nothing waits for an offline member", found);
        }
    }
    faults::start(world, load, away).await;
    come_to_rest(world).await;
}
