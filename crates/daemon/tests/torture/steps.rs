//! A daemon is killed at each step of everything that takes several: the one that it is about, the one on the other
//! side, the leader. Whoever it is, afterwards each thing is in one place, or was never begun, and it can be done again.
//!
//! All combinations take too long for every run: some are drawn, other ones each time; `cargo xtask torture --steps`
//! tries all. Evacuations have a test of their own that always tries all (`tests/evacuation/crash.rs`), healing another
//! (`tests/healing`).

#[allow(dead_code)]
#[path = "../evacuation/world.rs"]
mod world;

use std::process::Child;
use std::time::Instant;

use lab::{Cluster, Result};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use world::World;

/// How many cases of each job are drawn unless all are tried.
const DRAWN: usize = 4;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// An instance is moved from the subject to the target.
    Move,
    /// The subject, which was evacuated, gets its instances back from the target.
    Restore,
    /// An instance of the subject is copied to the target.
    Copy,
    /// The subject is removed from the cluster; the target was asked to do that.
    Remove,
    /// The subject, a server of its own, joins the cluster; the target lets it in.
    Join,
}

const JOBS: [Job; 5] = [Job::Move, Job::Restore, Job::Copy, Job::Remove, Job::Join];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Subject,
    Target,
    Leader,
}

use Role::*;

/// Who is held at which point, and who is killed then.
#[derive(Clone, Debug)]
struct Case {
    job: Job,
    held: Role,
    point: String,
    killed: Role,
}

impl Job {
    /// The points that its daemons come by.
    fn points(self) -> Vec<(Role, String)> {
        let plan = ["stop", "copy", "commit", "start", "clean"];
        let around = |points: &[&str]| -> Vec<String> {
            points.iter().flat_map(|p| [format!("{p}:before"), format!("{p}:after")]).collect()
        };
        let all = |role: Role, points: Vec<String>| points.into_iter().map(move |p| (role, p));
        let plan: Vec<String> = plan.iter().map(|p| format!("plan:{p}")).collect();
        let plan: Vec<&str> = plan.iter().map(String::as_str).collect();
        let words = |points: &[&str]| points.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        match self {
            Job::Move => all(Subject, around(&plan))
                .chain(all(Target, around(&["member:fetch", "member:start"])))
                .chain(all(Subject, around(&["member:stop", "member:remove"])))
                .collect(),
            Job::Restore => all(Subject, around(&plan))
                .chain(all(Subject, words(&["plan:end:before"])))
                .chain(all(Subject, around(&["member:fetch", "member:start"])))
                .chain(all(Target, around(&["member:stop", "member:remove"])))
                .collect(),
            Job::Copy => {
                all(Target, words(&["create:files:before", "create:files:after", "create:row:after"])).collect()
            }
            Job::Remove => all(Target, words(&["remove:taken-out", "remove:forgotten"]))
                .chain(all(Subject, words(&["reset:begun", "reset:noted", "reset:left"])))
                .collect(),
            Job::Join => {
                let points = ["accepted", "aside", "connected", "caught-up", "made", "joined"];
                all(Subject, points.iter().map(|p| format!("join:{p}")).collect()).collect()
            }
        }
    }

    fn cases(self) -> Vec<Case> {
        let points = self.points().into_iter();
        points
            .flat_map(|(held, point)| {
                [Subject, Target, Leader].map(|killed| Case { job: self, held, point: point.clone(), killed })
            })
            .collect()
    }
}

/// All cases, or those that are drawn; of one job with `TORTURE_JOB`.
fn chosen() -> Vec<Case> {
    let all = std::env::var_os("TORTURE_ALL").is_some();
    let seed = crate::Wanted::read().seed;
    println!("drawn by TORTURE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut chosen = Vec::new();
    let only = std::env::var("TORTURE_JOB").ok();
    for job in JOBS.into_iter().filter(|job| only.as_ref().is_none_or(|only| format!("{job:?}") == *only)) {
        let mut cases = job.cases();
        if !all {
            cases.shuffle(&mut rng);
            cases.truncate(DRAWN);
        }
        chosen.extend(cases);
    }
    chosen
}

#[test]
fn whoever_is_killed_at_whichever_step_it_is_done_or_was_never_begun() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut world = World::new("steps")?;
    world.container("c1", 2, true, &["boot.host_shutdown_timeout=0"])?;
    world.container("c2", 2, false, &[])?;
    // Each member has its files, so that none of them is the only one.
    world.cluster.incus(1, &["config", "set", "cluster.images_minimal_replica=3"])?;
    let mut turn = StdRng::seed_from_u64(1);
    for case in chosen() {
        let began = Instant::now();
        one(&mut world, &case, &mut turn).map_err(|e| format!("{case:?}: {e}\n{}", world.cluster.lab.logs()))?;
        println!("{:>6} ms  {case:?}", began.elapsed().as_millis());
    }
    Ok(())
}

/// Which machine has which role.
struct Cast {
    subject: usize,
    target: usize,
    leader: usize,
}

impl Cast {
    /// None of the others leads; which of them is which is left to chance.
    fn new(world: &World, turn: &mut StdRng) -> Result<Cast> {
        let leader = world.cluster.until("a leader", || Ok((1..=3).find_map(|n| world.cluster.leader(n).ok())))?;
        let others: Vec<usize> = (1..=3).filter(|n| *n != leader).collect();
        let first = turn.random_range(0..2);
        Ok(Cast { subject: others[first], target: others[1 - first], leader })
    }

    fn of(&self, role: Role) -> usize {
        match role {
            Subject => self.subject,
            Target => self.target,
            Leader => self.leader,
        }
    }

    /// One that is not killed, and not what it is about.
    fn witness(&self, killed: Role) -> usize {
        if killed == Leader { self.target } else { self.leader }
    }
}

fn one(world: &mut World, case: &Case, turn: &mut StdRng) -> Result<()> {
    all_at_work(world)?;
    let cast = Cast::new(world, turn)?;
    prepare(world, case.job, &cast)?;
    let (held, killed) = (cast.of(case.held), cast.of(case.killed));
    world.cluster.hold(held, &case.point)?;
    let mut client = begin(world, case, &cast)?;
    world.cluster.held(held)?;
    world.cluster.kill(killed)?;
    world.cluster.release(held);
    world.start(killed)?;
    ended(world, case, &cast, &mut client)
}

/// All three are members, in service, and vote.
fn all_at_work(world: &World) -> Result<()> {
    world.cluster.until("all in service", || {
        let status = |n| world.cluster.member(1, n, 's').map(|s| s == "ONLINE");
        Ok((1..=3).all(|n| status(n).unwrap_or(false)).then_some(()))
    })?;
    world.cluster.vote(1, &[1, 2, 3])
}

fn bring(world: &World, names: &[&str], to: usize) -> Result<()> {
    for name in names {
        let at = world.cluster.instances(to)?.get(*name).map(|i| i.1.clone());
        let target = format!("server{to}");
        if at.is_some_and(|at| at != target) {
            world.cluster.incus(to, &["move", name, "--target", &target])?;
        }
    }
    Ok(())
}

fn prepare(world: &mut World, job: Job, cast: &Cast) -> Result<()> {
    let subject = format!("server{}", cast.subject);
    match job {
        Job::Move | Job::Copy => bring(world, &["c1", "c2"], cast.subject),
        Job::Restore => {
            bring(world, &["c1", "c2"], cast.subject)?;
            let manual = |policy: &str| {
                let policy = format!("scheduler.instance={policy}");
                world.cluster.incus(cast.target, &["cluster", "set", &format!("server{}", cast.leader), &policy])
            };
            manual("manual")?;
            world.cluster.incus(cast.target, &["cluster", "evacuate", &subject, "--force"])?;
            manual("all")?;
            world.soon(cast.target, &[("c1", cast.target, true), ("c2", cast.target, false)])
        }
        Job::Remove => bring(world, &["c1", "c2"], cast.target),
        Job::Join => {
            bring(world, &["c1", "c2"], cast.target)?;
            world.cluster.incus(cast.target, &["cluster", "remove", &subject])?;
            alone(&world.cluster, cast.subject)
        }
    }
}

/// Waits until a server is one of its own.
fn alone(cluster: &Cluster, number: usize) -> Result<()> {
    cluster.until("the server on its own", || {
        let said = cluster.incus_in(number, &["cluster", "list"], "")?;
        Ok((said.code != 0 && said.err.contains("isn't part of a cluster")).then_some(()))
    })
}

fn begin(world: &World, case: &Case, cast: &Cast) -> Result<Child> {
    let (subject, target) = (format!("server{}", cast.subject), format!("server{}", cast.target));
    let from = cast.witness(case.killed);
    match case.job {
        Job::Move => world.begin(from, &["move", "c1", "--target", &target]),
        Job::Restore => world.begin(from, &["cluster", "restore", &subject, "--force"]),
        Job::Copy => world.begin(from, &["copy", "c1", "c3", "--target", &target]),
        Job::Remove => world.begin(cast.target, &["cluster", "remove", &subject]),
        Job::Join => {
            let token = world.cluster.incus(cast.target, &["cluster", "add", &subject])?;
            let token = token.lines().last().unwrap_or_default().trim();
            let machine = |n: usize| world.cluster.lab.machines[n - 1].address();
            let preseed = format!(
                "cluster:\n  enabled: true\n  server_address: {}:8443\n  cluster_address: {}:8443\n  cluster_token: {token}\n",
                machine(cast.subject),
                machine(cast.target),
            );
            let file = world.cluster.lab.dir.join("preseed.yaml");
            std::fs::write(&file, preseed)?;
            let script =
                format!("exec {} admin init --preseed < {}", world.cluster.programs.incus.display(), file.display());
            let mut command = world.cluster.lab.machines[cast.subject - 1].command("sh");
            Ok(command.args(["-c", &script]).spawn()?)
        }
    }
}

fn ended(world: &mut World, case: &Case, cast: &Cast, client: &mut Child) -> Result<()> {
    let witness = cast.witness(case.killed);
    no_plans(world, witness)?;
    match case.job {
        Job::Move => {
            finish(client);
            world.soon(witness, &[("c1", cast.target, true), ("c2", cast.subject, false)])
        }
        Job::Restore => {
            finish(client);
            assert_eq!(world.settled(witness, cast.subject)?, "ONLINE");
            world.soon(witness, &[("c1", cast.subject, true), ("c2", cast.subject, false)])
        }
        Job::Copy => copied(world, witness, cast, client),
        Job::Remove => {
            let _ = client.wait();
            member_or_not(world, witness, cast.subject)
        }
        Job::Join => {
            // The one that is killed can't say what becomes of it.
            let _ = client.wait();
            member_or_not(world, witness, cast.subject)
        }
    }
}

/// Whoever asked may wait for somebody who is gone.
fn finish(client: &mut Child) {
    let _ = client.kill();
    let _ = client.wait();
}

fn no_plans(world: &World, from: usize) -> Result<()> {
    count_is(world, from, "plans WHERE ended IS NULL", 0)
}

fn count_is(world: &World, from: usize, what: &str, wanted: i64) -> Result<()> {
    let query = format!("SELECT COUNT(*) FROM {what}");
    world.cluster.until(what, || {
        let answer = world.cluster.incus_in(from, &["admin", "sql", "global", &query, "-f", "csv"], "")?;
        Ok((answer.out.lines().last().map(str::trim) == Some(&wanted.to_string())).then_some(()))
    })
}

/// The copy is there as a whole, or there is nothing of it.
fn copied(world: &mut World, witness: usize, cast: &Cast, client: &mut Child) -> Result<()> {
    let _ = client.wait();
    let place = world.volume(cast.target, "local", "c3");
    let listed = world.cluster.until("the copy, or nothing of it", || {
        let list = world.cluster.instances(witness)?;
        Ok((list.contains_key("c3") == place.exists()).then_some(list))
    })?;
    if listed.contains_key("c3") {
        assert_eq!(std::fs::read_to_string(place.join("rootfs/mark"))?, "c1");
        world.cluster.incus(witness, &["start", "c3"])?;
        world.cluster.incus(witness, &["delete", "-f", "c3"])?;
    }
    // It can be done again.
    world.cluster.incus(witness, &["copy", "c1", "c3", "--target", &format!("server{}", cast.target)])?;
    world.cluster.incus(witness, &["delete", "c3"])?;
    world.soon(witness, &[("c1", cast.subject, true), ("c2", cast.subject, false)])
}

/// It is a member and works as one, or it is none and nothing is left of it on either side; then it can join.
fn member_or_not(world: &mut World, witness: usize, subject: usize) -> Result<()> {
    let cluster = &world.cluster;
    let name = format!("server{subject}");
    let listed = || -> Result<bool> {
        let list = cluster.incus(witness, &["cluster", "list", "-f", "csv", "-c", "n"])?;
        Ok(list.lines().any(|l| l == name))
    };
    let is_member = cluster.until("one or the other", || {
        let own = cluster.incus_in(subject, &["cluster", "list", "-f", "csv", "-c", "ns"], "")?;
        let listed = listed()?;
        let is = own.code == 0 && listed && own.out.contains(&format!("{name},ONLINE"));
        let fresh = own.err.contains("isn't part of a cluster");
        let removed = own.err.contains("was removed from its cluster");
        if removed && !listed {
            cluster.incus(subject, &["admin", "cluster", "wipe", "-q"])?;
        }
        Ok(if is { Some(true) } else { (fresh && !listed).then_some(false) })
    })?;
    if is_member {
        // It may have been taken out of the database for a moment.
        cluster.until("it writes", || {
            let made = cluster.incus_in(subject, &["profile", "create", "again"], "")?;
            Ok((made.code == 0).then_some(()))
        })?;
        cluster.incus(witness, &["profile", "delete", "again"])?;
    } else {
        count_is(world, witness, &format!("nodes WHERE name = '{name}'"), 0)?;
        count_is(world, witness, &format!("certificates WHERE name = '{name}'"), 0)?;
        let token = cluster.incus(witness, &["cluster", "add", &name])?;
        let token = token.lines().last().unwrap_or_default().trim().to_owned();
        cluster.join_with(subject, &token)?.ok()?;
    }
    cluster.until("it counts as online", || Ok((cluster.member(witness, subject, 's')? == "ONLINE").then_some(())))
}
