//! Pools in a directory that all members mount, on real daemons: made, used by everybody, moved on without a copy, and
//! never used by two members at once, also when daemons are killed in the middle.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use lab::cluster::{HOLD, Programs};
use lab::{Cluster, Lab, Result};
use serde_json::Value;

/// Three members and a directory that all of them have.
struct World {
    cluster: Cluster,
    mnt: PathBuf,
}

impl World {
    fn new(name: &str, programs: Programs) -> Result<World> {
        let cluster = Cluster::form_in(Lab::temporary(name, 3)?, programs, HOLD)?;
        cluster.import_busybox("bb")?;
        cluster.incus(1, &["config", "set", "cluster.offline_threshold=11"])?;
        cluster.vote(2, &[1, 2, 3])?;
        let mnt = cluster.lab.machines[0].dir.join("mnt");
        fs::create_dir(&mnt)?;
        Ok(World { cluster, mnt })
    }

    fn with_pool(name: &str, programs: Programs) -> Result<World> {
        let world = World::new(name, programs)?;
        world.cluster.incus(2, &["storage", "create", "nfs", "shared", &format!("source={}", world.mnt.display())])?;
        Ok(world)
    }

    /// A container in the pool with a file that no image has.
    fn container(&self, name: &str, machine: usize) -> Result<()> {
        let target = format!("server{machine}");
        let args = ["init", "bb", name, "-s", "nfs", "--target", &target, "-c", "boot.host_shutdown_timeout=0"];
        self.cluster.incus(1, &args)?;
        fs::write(self.root(name).join("mark"), name)?;
        self.cluster.incus(1, &["start", name]).map(drop)
    }

    fn root(&self, name: &str) -> PathBuf {
        self.mnt.join("containers").join(name).join("rootfs")
    }

    /// State and member of an instance.
    fn is(&self, from: usize, name: &str) -> Result<String> {
        let list = self.cluster.incus(from, &["list", name, "-f", "csv", "-c", "sL"])?;
        Ok(list.trim().to_owned())
    }

    fn must_be(&self, from: usize, name: &str, want: &str) -> Result<()> {
        match self.is(from, name)? {
            is if is == want => Ok(()),
            is => Err(format!("{name} is {is} instead of {want}\n{}", self.cluster.lab.logs()).into()),
        }
    }

    /// The lease of a volume, as its file says.
    fn lease(&self, volume: &str) -> Option<Value> {
        let files = fs::read_dir(self.mnt.join("leases")).unwrap().flatten();
        let mut all: Vec<PathBuf> = files.map(|e| e.path()).collect();
        all.sort();
        let of = |p: &&PathBuf| p.file_stem().is_some_and(|s| s.to_string_lossy() == volume);
        all.iter().rfind(of).map(|p| serde_json::from_slice(&fs::read(p).unwrap()).unwrap())
    }

    /// Whose lease it is, if it is held.
    fn holder(&self, volume: &str) -> Option<String> {
        let lease = self.lease(volume)?;
        (lease["state"] == "held").then(|| lease["name"].as_str().unwrap().to_owned())
    }

    /// The containers that run on a machine, as its own daemon knows.
    fn running(&self, machine: usize) -> Result<usize> {
        let text = self.cluster.incus(machine, &["query", "/internal/instances"])?;
        let all: Value = serde_json::from_str(if text.trim().is_empty() { "{}" } else { &text })?;
        Ok(all.as_object().map_or(0, serde_json::Map::len))
    }

    /// A lease by another owner, as a member that is not there any more has left it.
    fn forge(&self, volume: &str, owner: u64, name: &str) {
        let number = self.lease(volume).map_or(0, |l| l["incarnation"].as_u64().unwrap()) + 1;
        let text = serde_json::json!({
            "owner": owner, "name": name, "incarnation": number, "beat": 7, "ttl_ms": 10_000, "state": "held",
        });
        fs::write(self.mnt.join("leases").join(format!("{volume}.{number}")), text.to_string()).unwrap();
    }
}

/// Names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        fs::read_dir(dir).unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

/// Everything below the pool but its own order.
fn left(mnt: &Path) -> Vec<String> {
    let folders = ["containers", "containers-snapshots", "custom", "custom-snapshots", "leases", "locks"];
    folders.iter().flat_map(|f| names(&mnt.join(f)).into_iter().map(move |n| format!("{f}/{n}"))).collect()
}

#[test]
fn instances_move_on_shared_storage_without_a_copy() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    for (client, programs) in Programs::clients()? {
        let world = World::with_pool(&format!("shm{}", &client[..1]), programs)?;
        let cluster = &world.cluster;
        let server: Value = cluster.get(1, "/1.0")?;
        let drivers = server["environment"]["storage_supported_drivers"].as_array().unwrap().clone();
        assert!(drivers.iter().any(|d| d["Name"] == "shared" && d["Remote"] == true), "{drivers:?}");
        world.container("c1", 1)?;
        let inode = fs::metadata(world.root("c1").join("mark"))?.ino();
        assert_eq!(world.holder("containers_c1").as_deref(), Some("server1"));
        cluster.incus(3, &["exec", "c1", "--", "sh", "-c", "echo precious > /root/data"])?;
        for (from, to) in [(1, 2), (2, 3), (3, 1)] {
            cluster.incus(2, &["move", "c1", "--target", &format!("server{to}")])?;
            world.must_be(3, "c1", &format!("RUNNING,server{to}"))?;
            assert_eq!((world.running(from)?, world.running(to)?), (0, 1));
            assert_eq!(world.holder("containers_c1"), Some(format!("server{to}")));
            assert_eq!(fs::metadata(world.root("c1").join("mark"))?.ino(), inode, "nothing was copied");
            assert_eq!(cluster.incus(2, &["exec", "c1", "--", "cat", "/root/data"])?.trim(), "precious");
        }
        // Everybody's: no place.
        let list = cluster.incus(2, &["storage", "volume", "list", "nfs", "-f", "csv", "-c", "nL"])?;
        assert_eq!(list.trim(), "c1,");
        cluster.incus(2, &["cluster", "evacuate", "server1", "--force"])?;
        let away = world.is(2, "c1")?;
        assert!(away.starts_with("RUNNING,server") && !away.ends_with("server1"), "{away}");
        assert_eq!(fs::metadata(world.root("c1").join("mark"))?.ino(), inode);
        cluster.incus(2, &["cluster", "restore", "server1", "--force"])?;
        world.must_be(2, "c1", "RUNNING,server1")?;
        assert_eq!(fs::metadata(world.root("c1").join("mark"))?.ino(), inode);

        // A member with instances on it is not removed cleanly.
        cluster.refused_with(2, &["cluster", "remove", "server1"], "instances: c1")?;
        life(&world)?;
    }
    Ok(())
}

/// Snapshots, copies, images and the other pool, as on a directory; and nothing is left in the end.
fn life(world: &World) -> Result<()> {
    let cluster = &world.cluster;
    cluster.incus(2, &["snapshot", "create", "c1", "s"])?;
    cluster.incus(2, &["exec", "c1", "--", "sh", "-c", "echo worse > /root/data"])?;
    cluster.incus(2, &["snapshot", "restore", "c1", "s"])?;
    assert_eq!(cluster.incus(2, &["exec", "c1", "--", "cat", "/root/data"])?.trim(), "precious");
    cluster.incus(2, &["copy", "c1", "c2", "--target", "server3"])?;
    assert_eq!(fs::read_to_string(world.root("c2").join("mark"))?, "c1");
    cluster.incus(1, &["stop", "c1", "--force"])?;
    assert_eq!(world.holder("containers_c1"), None);
    cluster.incus(1, &["rename", "c1", "c3"])?;
    cluster.incus(1, &["publish", "c3", "--alias", "published"])?;
    cluster.incus(1, &["start", "c3"])?;
    cluster.incus(1, &["stop", "c3", "--force"])?;
    // To a pool of one member, and back under another name.
    cluster.incus(1, &["move", "c3", "--storage", "local"])?;
    assert_eq!(names(&world.mnt.join("containers")), ["c2"]);
    cluster.incus(1, &["move", "c3", "c4", "--storage", "nfs", "--target", "server2"])?;
    cluster.incus(1, &["move", "c4", "c5", "--target", "server3"])?;
    assert_eq!(names(&world.mnt.join("containers")), ["c2", "c5"]);
    assert_eq!(fs::read_to_string(world.root("c5").join("mark"))?, "c1");
    for name in ["c2", "c5"] {
        cluster.incus(1, &["delete", name])?;
    }
    cluster.until("locks given back", || Ok(left(&world.mnt).is_empty().then_some(())))?;
    cluster.incus(3, &["storage", "delete", "nfs"])?;
    assert_eq!(names(&world.mnt), Vec::<String>::new());
    for machine in &cluster.lab.machines {
        let link = machine.incus_dir().join("storage-pools/nfs");
        assert!(fs::symlink_metadata(&link).is_err(), "{} is still there", link.display());
    }
    Ok(())
}

#[test]
fn nothing_runs_on_a_volume_that_another_member_uses() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut world = World::with_pool("shlease", Programs::built()?)?;
    world.container("c1", 1)?;
    world.cluster.incus(1, &["storage", "volume", "create", "nfs", "data"])?;
    let attach = |name: &str| vec!["config".to_owned(), "device".into(), "add".into(), name.into(), "data".into()];
    let with = |name: &str| -> Vec<String> {
        attach(name).into_iter().chain(["disk", "pool=nfs", "source=data", "path=/data"].map(str::to_owned)).collect()
    };
    let run = |w: &World, machine: usize, args: Vec<String>| {
        w.cluster.incus(machine, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    // A volume is used by instances of one member, however many.
    run(&world, 1, with("c1"))?;
    world.cluster.incus(1, &["exec", "c1", "--", "sh", "-c", "echo hello > /data/f"])?;
    assert_eq!(world.holder("custom_default_data").as_deref(), Some("server1"));
    world.container("c2", 2)?;
    world.cluster.incus(2, &["stop", "c2", "--force"])?;
    run(&world, 2, with("c2"))?;
    world.cluster.refused_with(3, &["start", "c2"], "in use by the cluster member \"server1\"")?;
    assert_eq!(world.holder("containers_c2"), None, "what is not started holds nothing");
    world.cluster.incus(3, &["move", "c2", "--target", "server1"])?;
    world.cluster.incus(3, &["start", "c2"])?;
    assert_eq!(world.cluster.incus(2, &["exec", "c2", "--", "cat", "/data/f"])?.trim(), "hello");
    world.cluster.incus(3, &["stop", "c1", "--force"])?;
    assert_eq!(world.holder("custom_default_data").as_deref(), Some("server1"), "c2 uses it");
    world.cluster.incus(3, &["config", "device", "remove", "c2", "data"])?;
    assert_eq!(world.holder("custom_default_data"), None);
    world.cluster.refused_with(3, &["storage", "volume", "delete", "nfs", "data"], "still in use")?;

    // A daemon that is killed and comes back takes its leases up again and stops nothing.
    let pid = |w: &World| w.cluster.incus(2, &["exec", "c2", "--", "cat", "/proc/1/stat"]);
    let before = pid(&world)?;
    world.cluster.kill(1)?;
    world.cluster.start_in(1, HOLD)?;
    world.cluster.until("c2 seen again", || Ok(world.is(2, "c2").ok().filter(|s| s == "RUNNING,server1")))?;
    let started = |stat: &str| stat.split(' ').nth(21).map(str::to_owned);
    assert_eq!(started(&pid(&world)?), started(&before));
    assert_eq!(world.holder("containers_c2").as_deref(), Some("server1"));
    // It goes on renewing.
    let beat = world.lease("containers_c2").unwrap()["beat"].as_u64().unwrap();
    world.cluster.until("a renewal", || {
        Ok(world.lease("containers_c2").filter(|l| l["beat"].as_u64().unwrap() > beat).map(drop))
    })?;

    // The root of an instance is another member's: it does not start.
    let other = world.cluster.get(1, "/1.0/cluster/members/server3")?;
    assert_eq!(other["server_name"], "server3");
    let raft = |w: &World| -> u64 {
        w.container("c9", 3).unwrap();
        w.lease("containers_c9").unwrap()["owner"].as_u64().unwrap()
    };
    let third = raft(&world);
    world.forge("containers_c1", third, "server3");
    world.cluster.refused_with(2, &["start", "c1"], "can't be started here")?;
    world.must_be(2, "c1", "STOPPED,server1")?;
    // One of a member that was removed long ago: its lease lapses, and then it is free.
    world.forge("containers_c1", 4711, "gone");
    world.cluster.incus(2, &["start", "c1"])?;
    assert_eq!(world.holder("containers_c1").as_deref(), Some("server1"));

    // What runs although the lease is somebody else's is ended.
    world.forge("containers_c2", third, "server3");
    world.cluster.until("c2 ended", || Ok((world.is(2, "c2")? == "STOPPED,server1").then_some(())))?;
    assert_eq!(world.holder("containers_c2").as_deref(), Some("server3"));
    world.must_be(2, "c1", "RUNNING,server1")?;

    // Whoever can't renew stops in time, and starts by itself when the storage is back.
    let (leases, away) = (world.mnt.join("leases"), world.mnt.join("away"));
    fs::rename(&leases, &away)?;
    world.cluster.until("c1 ended", || Ok((world.is(2, "c1")? == "STOPPED,server1").then_some(())))?;
    world.cluster.refused_with(2, &["start", "c1"], "is the shared storage mounted?")?;
    fs::rename(&away, &leases)?;
    world.cluster.until("c1 back", || Ok((world.is(2, "c1")? == "RUNNING,server1").then_some(())))?;
    assert_eq!(world.holder("containers_c1").as_deref(), Some("server1"));
    Ok(())
}

#[test]
fn a_move_on_shared_storage_survives_a_killed_daemon_at_each_step() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut world = World::with_pool("shcrash", Programs::built()?)?;
    world.container("c1", 1)?;
    let inode = fs::metadata(world.root("c1").join("mark"))?.ino();
    let mut at = 1;
    for source in [true, false] {
        for step in ["stop", "commit", "start"] {
            for when in ["before", "after"] {
                let to = if at == 1 { 2 } else { 1 };
                let point = format!("plan:{step}:{when}");
                let case = format!("{} killed at {point}", if source { "the source" } else { "the target" });
                world.cluster.until("the members online", || {
                    let all = [1, 2].map(|n| world.cluster.member(3, n, 's'));
                    Ok(all.into_iter().all(|s| s.is_ok_and(|s| s == "ONLINE")).then_some(()))
                })?;
                world.cluster.hold(at, &point)?;
                let machine = &world.cluster.lab.machines[2];
                let mut client = machine
                    .command(&world.cluster.programs.incus)
                    .args(["move", "c1", "--target", &format!("server{to}")])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()?;
                world.cluster.held(at)?;
                let victim = if source { at } else { to };
                world.cluster.kill(victim)?;
                world.cluster.release(at);
                world.cluster.start_in(victim, HOLD)?;
                // It arrives, or it stays: in either case it runs in one place and keeps its files.
                let place = world.cluster.until(&case, || {
                    let is = world.is(3, "c1").unwrap_or_default();
                    let place = [1, 2].into_iter().find(|n| is == format!("RUNNING,server{n}"));
                    let idle = world.cluster.incus(3, &["query", "/1.0/operations?recursion=1"])?;
                    let busy = idle.contains("Migrating instance") && idle.contains("\"running\"");
                    Ok(place.filter(|_| !busy))
                });
                let place = place.map_err(|e| format!("{case}: {e}"))?;
                let _ = client.kill();
                let _ = client.wait();
                let runs = (world.running(1)?, world.running(2)?);
                assert_eq!(runs, if place == 1 { (1, 0) } else { (0, 1) }, "{case}");
                assert_eq!(world.holder("containers_c1"), Some(format!("server{place}")), "{case}");
                assert_eq!(fs::metadata(world.root("c1").join("mark"))?.ino(), inode, "{case}");
                println!("{case}: it is on server{place}");
                at = place;
            }
        }
    }
    Ok(())
}

#[test]
fn a_member_without_the_directory_is_in_error_until_it_has_it() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let world = World::new("shmark", Programs::built()?)?;
    let (cluster, mnt) = (&world.cluster, world.mnt.display().to_string());
    cluster.refused_with(1, &["storage", "create", "nfs", "shared"], "needs \"source\"")?;
    cluster.refused_with(1, &["storage", "create", "nfs", "shared", "source=/nowhere"], "mount it first")?;
    fs::write(world.mnt.join("x"), "mine")?;
    cluster.refused_with(1, &["storage", "create", "nfs", "shared", &format!("source={mnt}")], "isn't empty")?;
    fs::remove_file(world.mnt.join("x"))?;
    assert!(cluster.incus(1, &["storage", "list", "-f", "csv"])?.lines().all(|l| !l.starts_with("nfs")));

    // Server 3 has another directory there.
    let wrong = cluster.lab.machines[2].dir.join("wrong");
    fs::create_dir(&wrong)?;
    for (n, source) in [(1, mnt.clone()), (2, mnt.clone()), (3, wrong.display().to_string())] {
        let (target, source) = (format!("server{n}"), format!("source={source}"));
        cluster.incus(1, &["storage", "create", "nfs", "shared", "--target", &target, &source])?;
    }
    cluster.incus(1, &["storage", "create", "nfs", "shared"])?;
    cluster.refused_with(1, &["storage", "create", "again", "shared", &format!("source={mnt}")], "already")?;
    let warned = |status: &str| -> Result<Option<()>> {
        let all: Value = cluster.get(2, "/1.0/warnings?recursion=1")?;
        let of = |w: &&Value| w["type"] == "Storage pool unavailable" && w["location"] == "server3";
        let all = all.as_array().cloned().unwrap_or_default();
        Ok(all.iter().find(of).filter(|w| w["status"] == status).map(drop))
    };
    cluster.until("the warning", || warned("new"))?;
    let last: Value = cluster.get(2, "/1.0/warnings?recursion=1")?;
    assert!(last.to_string().contains("mount the same file system"), "{last}");
    assert_eq!(names(&wrong), Vec::<String>::new(), "nothing is made in a directory of somebody else");
    cluster.refused_with(1, &["init", "bb", "c1", "-s", "nfs", "--target", "server3"], "not ready on this member")?;
    world.container("c1", 1)?;
    cluster.refused_with(1, &["move", "c1", "--target", "server3"], "not ready on the cluster member \"server3\"")?;
    world.must_be(1, "c1", "RUNNING,server1")?;
    // The right one is put there.
    fs::remove_dir(&wrong)?;
    std::os::unix::fs::symlink(&world.mnt, &wrong)?;
    cluster.until("the warning resolved", || warned("resolved"))?;
    cluster.incus(1, &["move", "c1", "--target", "server3"])?;
    world.must_be(1, "c1", "RUNNING,server3")?;
    cluster.incus(1, &["delete", "c1", "--force"])?;
    cluster.incus(1, &["storage", "delete", "nfs"])?;
    assert_eq!(names(&world.mnt), Vec::<String>::new());
    Ok(())
}

#[test]
fn custom_volumes_are_everybodys() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut world = World::with_pool("shvol", Programs::built()?)?;
    let cluster = &world.cluster;
    cluster.incus(1, &["storage", "volume", "create", "nfs", "v"])?;
    let place = world.mnt.join("custom/default_v");
    fs::write(place.join("f"), "one")?;
    let list = cluster.incus(3, &["storage", "volume", "list", "nfs", "-f", "csv", "-c", "nL"])?;
    assert_eq!(list.trim(), "v,");
    cluster.incus(2, &["storage", "volume", "snapshot", "create", "nfs", "v", "s"])?;
    fs::write(place.join("f"), "two")?;
    cluster.incus(3, &["storage", "volume", "snapshot", "restore", "nfs", "v", "s"])?;
    assert_eq!(fs::read_to_string(place.join("f"))?, "one");
    cluster.incus(2, &["storage", "volume", "copy", "nfs/v", "local/w", "--destination-target", "server2"])?;
    cluster.incus(2, &["storage", "volume", "rename", "nfs", "v", "x"])?;
    assert_eq!(names(&world.mnt.join("custom")), ["default_x"]);
    // Two members make one of the same name: one of them does.
    let made: Vec<bool> = std::thread::scope(|s| {
        let make = |n| cluster.incus_in(n, &["storage", "volume", "create", "nfs", "same"], "").unwrap().code == 0;
        let all: Vec<_> = (1..=3).map(|n| s.spawn(move || make(n))).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|m| **m).count(), 1, "{made:?}");
    assert_eq!(names(&world.mnt.join("custom")), ["default_same", "default_x"]);
    // What a killed daemon left of one that has no row goes when any member starts; what has a row stays.
    fs::create_dir(world.mnt.join("custom/default_nobodys"))?;
    world.cluster.kill(2)?;
    world.cluster.start_in(2, HOLD)?;
    world.cluster.until("the leftover gone", || {
        Ok((names(&world.mnt.join("custom")) == ["default_same", "default_x"]).then_some(()))
    })?;
    // They stay when a member goes.
    let cluster = &world.cluster;
    cluster.incus(1, &["storage", "volume", "delete", "local", "w", "--target", "server2"])?;
    cluster.incus(1, &["cluster", "remove", "server2", "--yes"])?;
    assert_eq!(names(&world.mnt.join("custom")), ["default_same", "default_x"]);
    for name in ["same", "x"] {
        cluster.incus(3, &["storage", "volume", "delete", "nfs", name])?;
    }
    world.cluster.until("locks given back", || Ok(left(&world.mnt).is_empty().then_some(())))?;
    cluster.incus(1, &["storage", "delete", "nfs"])?;
    assert_eq!(names(&world.mnt), Vec::<String>::new());
    Ok(())
}
