//! Updating the members of a cluster one after the other, with real daemons of two versions: the one under test, and
//! one with a migration, an API extension and an endpoint more (the feature `next`, built by `cargo xtask next`).

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use lab::cluster::{PATIENCE, Programs};
use lab::run::until;
use lab::{Cluster, Result};
use serde_json::{Value, json};

const FINE: &str = "Fully operational";
const WAITED_FOR: &str = "Fully operational; needs updating to newer version";
const MOTTO: &str = "/1.0/cluster/members/server1/motto";
/// What makes the newer version one that can't serve what the older one does.
const FAR: &[(&str, &str)] = &[("INCUS_TEST_OLDEST_SCHEMA", "2")];

// ---- requests ----------------------------------------------------------------------------------------------

/// One request to the daemon behind a socket: the status, and what the envelope holds or refuses with.
fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Result<(u16, Value)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: incus\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or("no status")?;
    let envelope: Value = serde_json::from_str(body)?;
    let value = if status < 400 { envelope["metadata"].clone() } else { envelope["error"].clone() };
    Ok((status, value))
}

/// One that has to succeed.
fn must(socket: &Path, method: &str, path: &str, body: &str) -> Result<Value> {
    match ask(socket, method, path, body).map_err(|e| format!("{method} {path}: {e}"))? {
        (status, value) if status < 400 => Ok(value),
        (status, why) => Err(format!("{method} {path}: {status} {why}").into()),
    }
}

// ---- load --------------------------------------------------------------------------------------------------

/// Reads and writes on a member without end; each request has to succeed, and to see what was written before.
struct Load {
    /// Held by whoever does not want any requests for a while.
    pause: Arc<Mutex<()>>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    task: Option<JoinHandle<()>>,
}

impl Load {
    fn on(cluster: &Cluster, number: usize) -> Load {
        let socket = socket(cluster, number);
        let mut load = Load {
            pause: Arc::default(),
            stop: Arc::default(),
            done: Arc::default(),
            failed: Arc::default(),
            task: None,
        };
        let (pause, stop, done, failed) =
            (load.pause.clone(), load.stop.clone(), load.done.clone(), load.failed.clone());
        load.task = Some(std::thread::spawn(move || {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                {
                    let _not_paused = pause.lock().unwrap_or_else(PoisonError::into_inner);
                    round += 1;
                    match requests(&socket, number, round) {
                        Ok(n) => drop(done.fetch_add(n, Ordering::Relaxed)),
                        Err(e) => failed.lock().unwrap_or_else(PoisonError::into_inner).push(e.to_string()),
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }));
        load
    }

    /// Ends it: how many requests there were, and those that failed.
    fn end(mut self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(task) = self.task.take() {
            let _ = task.join();
        }
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.done.load(Ordering::Relaxed), failed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn requests(socket: &Path, number: usize, round: u64) -> Result<u64> {
    let profile = format!("/1.0/profiles/load{number}");
    let config = json!({"description": "", "config": {"user.round": round.to_string()}, "devices": {}});
    must(socket, "PUT", &profile, &config.to_string())?;
    let seen = must(socket, "GET", &profile, "")?["config"]["user.round"].clone();
    if seen != json!(round.to_string()) {
        return Err(format!("{profile}: {round} was written, and {seen} is read").into());
    }
    must(socket, "GET", "/1.0", "")?;
    must(socket, "GET", "/1.0/instances?recursion=1", "")?;
    must(socket, "GET", "/1.0/cluster/members?recursion=1", "")?;
    Ok(5)
}

// ---- a cluster that is updated -----------------------------------------------------------------------------

struct World {
    cluster: Cluster,
    next: PathBuf,
    /// By machine: process ids of the containers, as their daemons see them.
    pids: Vec<i64>,
    loads: Vec<Load>,
}

fn socket(cluster: &Cluster, number: usize) -> PathBuf {
    cluster.lab.machines[number - 1].incus_dir().join("unix.socket")
}

impl World {
    /// A cluster of three with a container on each; `None` where that is not possible.
    fn new(name: &str) -> Result<Option<World>> {
        if lab::skip(&["busybox"]) {
            return Ok(None);
        }
        let next = Programs::built()?.next()?;
        let cluster = Cluster::temporary(name, 3)?;
        cluster.import_busybox("busybox")?;
        let mut world = World { cluster, next, pids: Vec::new(), loads: Vec::new() };
        for number in 1..=3 {
            let (container, target) = (format!("c{number}"), format!("server{number}"));
            world.cluster.incus(number, &["launch", "busybox", &container, "--target", &target])?;
            world.cluster.incus(number, &["profile", "create", &format!("load{number}")])?;
            let pid = world.pid(number)?;
            world.pids.push(pid);
        }
        Ok(Some(world))
    }

    fn pid(&self, number: usize) -> Result<i64> {
        let state = self.cluster.get(number, &format!("/1.0/instances/c{number}/state"))?;
        state["pid"].as_i64().filter(|pid| *pid > 0).ok_or_else(|| format!("c{number} does not run: {state}").into())
    }

    /// All containers are in the same life as at the beginning.
    fn nothing_was_restarted(&self) -> Result<()> {
        for number in 1..=3 {
            assert_eq!(self.pid(number)?, self.pids[number - 1], "c{number} was restarted");
        }
        Ok(())
    }

    /// The container of a machine runs, whatever its daemon does.
    fn runs(&self, number: usize) -> Result<()> {
        let comm = format!("/proc/{}/cmdline", self.pids[number - 1]);
        let command = self.cluster.lab.machines[number - 1].must("cat", &[&comm])?;
        assert!(command.contains("init"), "c{number}: {command:?}");
        Ok(())
    }

    fn socket(&self, number: usize) -> PathBuf {
        socket(&self.cluster, number)
    }

    fn begin_load(&mut self, numbers: &[usize]) {
        self.loads = numbers.iter().map(|n| Load::on(&self.cluster, *n)).collect();
    }

    /// Not one request has failed.
    fn end_load(&mut self) {
        for load in self.loads.drain(..) {
            let (done, failed) = load.end();
            println!("{done} requests");
            assert!(failed.is_empty(), "of {done} requests some failed: {failed:#?}");
            assert!(done > 100, "only {done} requests were made");
        }
    }

    /// Ends the daemon of a machine cleanly and starts another program in its place; true if it comes to serve.
    fn replace(&mut self, number: usize, program: &Path, env: &[(&str, &str)], serves: bool) -> Result<()> {
        let pause = self.loads.get(number - 1).map(|load| load.pause.clone());
        let paused = pause.as_ref().map(|pause| pause.lock().unwrap_or_else(PoisonError::into_inner));
        let machine = self.cluster.machine(number);
        if machine.daemon_runs() {
            machine.end_daemon("TERM", Duration::from_secs(20))?;
        }
        machine.start_daemon(program, env)?;
        if !serves {
            return Ok(());
        }
        machine.wait_ready(PATIENCE)?;
        drop(paused);
        self.load_goes_on()
    }

    /// Waits until every member has had its share of requests since.
    fn load_goes_on(&self) -> Result<()> {
        let done = |load: &Load| load.done.load(Ordering::Relaxed);
        let before: Vec<u64> = self.loads.iter().map(done).collect();
        self.cluster.until("requests on all members", || {
            let enough = self.loads.iter().zip(&before).all(|(load, before)| {
                let failed = !load.failed.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
                failed || done(load) >= before + 55
            });
            Ok(enough.then_some(()))
        })
    }

    fn up(&mut self, number: usize) -> Result<()> {
        self.replace(number, &self.next.clone(), &[], true)
    }

    fn down(&mut self, number: usize) -> Result<()> {
        self.replace(number, &self.cluster.programs.incusd.clone(), &[], true)
    }

    fn schema(&self, number: usize) -> Result<String> {
        let sql = ["admin", "sql", "global", "-f", "csv", "SELECT MAX(version) AS v FROM schema"];
        Ok(self.cluster.incus(number, &sql)?.lines().last().unwrap_or_default().to_owned())
    }

    /// The messages of all members, as seen from one.
    fn messages(&self, from: usize) -> Result<Vec<String>> {
        (1..=3).map(|n| self.cluster.member(from, n, 'm')).collect()
    }

    fn wait_for_messages(&self, from: usize, wanted: [&str; 3]) -> Result<()> {
        let mut seen = Vec::new();
        let found = self.cluster.until("the messages", || {
            seen = self.messages(from)?;
            Ok((seen == wanted).then_some(()))
        });
        found.map_err(|e| format!("{seen:?}, and not {wanted:?}: {e}").into())
    }

    /// Waits until a member refuses requests in words that hold these; until then it may not listen, or be starting.
    fn wait_for_refusal(&self, number: usize, words: &[&str]) -> Result<()> {
        let mut said = String::new();
        let found = self.cluster.until("the refusal", || {
            said = match ask(&self.socket(number), "GET", "/1.0/instances", "") {
                Ok((503, why)) => why.to_string(),
                other => format!("{other:?}"),
            };
            Ok(words.iter().all(|w| said.contains(w)).then_some(()))
        });
        found.map_err(|e| format!("{said}, and not {words:?}: {e}").into())
    }

    fn has_extension(&self, number: usize, extension: &str) -> Result<bool> {
        let all = must(&self.socket(number), "GET", "/1.0", "")?["api_extensions"].clone();
        Ok(all.as_array().is_some_and(|all| all.iter().any(|e| e == extension)))
    }

    /// The newer version is in use on these members, and all that it brings.
    fn wait_for_switch(&self, numbers: &[usize], patience: Duration) -> Result<()> {
        let switched = until(patience, || {
            for n in numbers {
                if self.schema(*n)? != "2" || !self.has_extension(*n, "next_motto")? {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        });
        switched.map_err(|e| format!("the switch: {e}\n{}", self.cluster.lab.logs()))?;
        let motto = json!(format!("set on {}", numbers[0])).to_string();
        must(&self.socket(numbers[0]), "PUT", MOTTO, &motto)?;
        for n in numbers {
            assert_eq!(must(&self.socket(*n), "GET", MOTTO, "")?.to_string(), motto);
        }
        Ok(())
    }

    /// Nothing of the newer version is in use on these members.
    fn not_switched(&self, numbers: &[usize]) -> Result<()> {
        for n in numbers {
            assert_eq!(self.schema(*n)?, "1");
            assert!(!self.has_extension(*n, "next_motto")?, "server{n} shows what it does not do yet");
            assert_eq!(ask(&self.socket(*n), "GET", MOTTO, "")?, (404, json!("not found")));
        }
        Ok(())
    }
}

// ---- tests -------------------------------------------------------------------------------------------------

#[test]
fn members_are_updated_one_by_one_back_again_and_up_without_a_failed_request() -> Result<()> {
    let Some(mut world) = World::new("upgrade")? else { return Ok(()) };
    world.begin_load(&[1, 2, 3]);
    world.up(1)?;
    world.up(2)?;
    for from in [1, 3] {
        world.wait_for_messages(from, [FINE, FINE, WAITED_FOR])?;
        assert_eq!(world.cluster.member(from, 3, 's')?, "ONLINE");
    }
    world.not_switched(&[1, 2, 3])?;
    // As nothing has changed yet there is a way back.
    world.down(2)?;
    world.down(1)?;
    world.wait_for_messages(2, [FINE, FINE, FINE])?;
    world.not_switched(&[1, 2, 3])?;

    for number in [1, 2, 3] {
        world.up(number)?;
    }
    world.wait_for_switch(&[1, 2, 3], PATIENCE)?;
    world.wait_for_messages(3, [FINE, FINE, FINE])?;
    world.end_load();
    world.nothing_was_restarted()?;

    // Now there is none: the older version says so, and spoils nothing.
    let old = world.cluster.programs.incusd.clone();
    world.replace(3, &old, &[], false)?;
    world.wait_for_refusal(3, &["needs updating to the newer version", "schema version 2", "can serve version 1"])?;
    for from in [1, 2] {
        world.wait_for_messages(from, [FINE, FINE, "Needs updating to newer version"])?;
        assert_eq!(world.cluster.member(from, 3, 's')?, "BLOCKED");
    }
    let refused = world.cluster.refused(1, &["launch", "busybox", "c4", "--target", "server3"])?;
    assert!(refused.contains("serves nothing until all members have been updated"), "{refused}");
    world.runs(3)?;
    let motto = json!("written while server3 was too old").to_string();
    must(&world.socket(1), "PUT", MOTTO, &motto)?;
    world.up(3)?;
    world.wait_for_messages(3, [FINE, FINE, FINE])?;
    assert_eq!(must(&world.socket(3), "GET", MOTTO, "")?.to_string(), motto);
    world.nothing_was_restarted()
}

#[test]
fn a_member_that_is_switched_off_holds_nobody_up() -> Result<()> {
    let Some(mut world) = World::new("upgradeoff")? else { return Ok(()) };
    world.cluster.incus(1, &["config", "set", "cluster.offline_threshold=11"])?;
    world.begin_load(&[1, 2]);
    world.cluster.machine(3).power_off();
    world.up(1)?;
    world.up(2)?;
    world.not_switched(&[1, 2])?;
    // It is waited for while it may only be starting again, and not for ever.
    world.cluster.until("that it is seen as offline", || {
        let message = world.cluster.member(1, 3, 'm')?;
        let seen = message.starts_with("No heartbeat for") && message.ends_with("; needs updating to newer version");
        Ok(seen.then_some(()))
    })?;
    world.wait_for_switch(&[1, 2], PATIENCE * 3)?;
    world.end_load();

    // Back with the older version it serves what it has while it is alone, and nothing once it knows of the newer one.
    world.cluster.lab.power_on(3)?;
    world.cluster.lab.cut(3)?;
    world.down(3)?;
    assert!(world.cluster.incus(3, &["profile", "list", "-f", "csv"])?.contains("load3"));
    world.cluster.lab.mend(3)?;
    world.wait_for_refusal(3, &["needs updating to the newer version", "schema version 2"])?;
    world.wait_for_messages(2, [FINE, FINE, "Needs updating to newer version"])?;
    // With the newer version it has all that it missed.
    world.up(3)?;
    world.wait_for_messages(3, [FINE, FINE, FINE])?;
    world.wait_for_switch(&[3, 2, 1], PATIENCE)?;
    // Its container ran when the power went.
    world.cluster.until("its container again", || Ok(world.pid(3).ok()))?;
    world.pids[2] = world.pid(3)?;
    world.nothing_was_restarted()
}

#[test]
fn versions_too_far_apart_are_blocked_until_the_last_member_is_updated() -> Result<()> {
    let Some(mut world) = World::new("upgradefar")? else { return Ok(()) };
    let (old, next) = (world.cluster.programs.incusd.clone(), world.next.clone());
    // What updates a member by itself: here it only says that it was called.
    let dir = world.cluster.lab.machines[2].dir.clone();
    let (script, called) = (dir.join("update"), dir.join("called"));
    std::fs::write(&script, format!("#!/bin/sh\ntouch {}\n", called.display()))?;
    lab::must("chmod", &["+x", &script.to_string_lossy()])?;
    world.replace(3, &old, &[("INCUS_CLUSTER_UPDATE", &script.to_string_lossy())], true)?;

    world.replace(1, &next, FAR, false)?;
    world
        .wait_for_refusal(1, &["waits until all cluster members have been updated", "server2, server3", "by itself"])?;
    for from in [2, 3] {
        world.wait_for_messages(from, ["Waiting for other members to be updated", WAITED_FOR, WAITED_FOR])?;
        assert_eq!(world.cluster.member(from, 1, 's')?, "BLOCKED");
    }
    world.cluster.incus(3, &["profile", "create", "p1"])?;
    world.cluster.until("the call for an update", || Ok(called.exists().then_some(())))?;

    world.replace(2, &next, FAR, false)?;
    world.wait_for_refusal(2, &["To be updated: server3"])?;
    // The last one serves on its own, with the votes of those that don't.
    world.cluster.until("a write on the last one", || {
        Ok((world.cluster.incus_in(3, &["profile", "create", "p2"], "")?.code == 0).then_some(()))
    })?;
    for number in [1, 2] {
        world.runs(number)?;
    }
    world.replace(3, &next, FAR, true)?;
    for number in [1, 2] {
        world.cluster.machine(number).wait_ready(PATIENCE)?;
    }
    world.wait_for_messages(1, [FINE, FINE, FINE])?;
    world.wait_for_switch(&[2, 3, 1], PATIENCE)?;
    assert!(world.cluster.incus(2, &["profile", "list", "-f", "csv"])?.contains("p2"));
    world.nothing_was_restarted()
}

#[test]
fn extensions_are_switched_on_with_the_last_member() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("upgradeext", 2)?;
    let shown = |cluster: &Cluster, number| {
        let all = must(&socket(cluster, number), "GET", "/1.0", "")?["api_extensions"].clone();
        Ok::<_, lab::run::Error>(all.as_array().map_or(Vec::new(), Clone::clone))
    };
    let before = shown(&cluster, 1)?;

    // What has nothing in common can't even talk, and is told why.
    let socket = socket(&cluster, 1).to_string_lossy().into_owned();
    let far = ["-s", "--unix-socket", &socket, "-H", "Connection: upgrade", "-H", "Upgrade: incus-link/9"];
    let said = cluster.lab.machines[0].must("curl", &[&far[..], &["http://incus/internal/link"]].concat())?;
    assert!(said.contains("too far apart") && said.contains("The older one needs updating"), "{said}");

    let bumped: &[_] = &[("INCUS_ARTIFICIALLY_BUMP_API_EXTENSIONS", "2")];
    let stop = Duration::from_secs(20);
    cluster.machine(1).end_daemon("TERM", stop)?;
    cluster.start_in(1, bumped)?;
    cluster.until("who is waited for", || Ok((cluster.member(2, 2, 'm')? == WAITED_FOR).then_some(())))?;
    assert_eq!(shown(&cluster, 1)?, before);
    assert_eq!(cluster.member(1, 1, 'm')?, FINE);
    cluster.machine(2).end_daemon("TERM", stop)?;
    cluster.start_in(2, bumped)?;
    for number in [1, 2] {
        cluster.until("the new extensions", || {
            let all = shown(&cluster, number)?;
            Ok((all.len() == before.len() + 2 && all.last() == Some(&json!("artificial_1"))).then_some(()))
        })?;
    }
    Ok(())
}
