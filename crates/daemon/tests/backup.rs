//! `incus admin cluster backup` and `restore`: three machines become the cluster that three others were, with real
//! daemons on machines of the lab.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use lab::cluster::{HOLD, PATIENCE, Programs};
use lab::{Cluster, Lab, Result};

/// What the API shows of the cluster. Left out are what belongs to a machine and not to the cluster: its `environment`
/// but for the certificate, the use of its resources and its networks' states, its warnings and its operations.
const SHOWN: &[&str] = &[
    "/1.0/certificates?recursion=1",
    "/1.0/cluster/groups?recursion=1",
    "/1.0/cluster/members?recursion=1",
    "/1.0/images?recursion=1&all-projects=true",
    "/1.0/instances?recursion=1&all-projects=true",
    "/1.0/networks?recursion=1",
    "/1.0/profiles?recursion=1&all-projects=true",
    "/1.0/projects?recursion=1",
    "/1.0/storage-pools?recursion=1",
    "/1.0/storage-pools/data/volumes?recursion=1",
    "/1.0/storage-pools/local/volumes?recursion=1",
];

/// Rows of the database that are not the same after a restore: those of the members have new addresses and times, and
/// which images' files are where is not told by a backup but seen.
const OTHER_ROWS: &[&str] = &["INSERT INTO nodes ", "INSERT INTO warnings ", "INSERT INTO sqlite_sequence "];

/// All of the API and of the database, as machine `from` shows it, as bytes. The only things that are made equal
/// are the addresses of the members, and which of them leads the database or votes in it.
fn dump(cluster: &Cluster, from: usize) -> Result<String> {
    let mut all = String::new();
    for path in SHOWN {
        let mut answer = cluster.get(from, path)?;
        for member in answer.as_array_mut().into_iter().flatten().filter(|_| path.contains("members")) {
            member.as_object_mut().unwrap().shift_remove("database");
            if let Some(roles) = member.get_mut("roles").and_then(|r| r.as_array_mut()) {
                roles.retain(|r| !r.as_str().is_some_and(|r| r.starts_with("database")));
            }
        }
        all += &format!("{path}\n{answer:#}\n");
    }
    for path in ["/1.0?target=server1", "/1.0?target=server2", "/1.0?target=server3"] {
        let server = cluster.get(from, path)?;
        all += &format!("{path}\n{}\n{}\n", server["config"], server["environment"]["certificate"]);
    }
    let rows = cluster.incus(from, &["admin", "sql", "global", ".dump"])?;
    let same = rows.lines().filter(|l| OTHER_ROWS.iter().all(|other| !l.starts_with(other)));
    all += &same.collect::<Vec<_>>().join("\n");
    Ok((1..=3).fold(all, |all, n| all.replace(&format!("10.77.0.{}:", n + 3), &format!("10.77.0.{n}:"))))
}

fn admin(cluster: &Cluster, number: usize, args: &[&str]) -> Result<lab::Output> {
    cluster.incus_in(number, &[&["admin", "cluster"], args].concat(), "")
}

fn refused(cluster: &Cluster, number: usize, args: &[&str], why: &str) -> Result<()> {
    let said = admin(cluster, number, args)?.refused()?;
    assert!(said.contains(why), "{args:?}: {said}");
    Ok(())
}

fn fill(cluster: &Cluster) -> Result<()> {
    cluster.import_busybox("busybox")?;
    let key = cluster.lab.dir.join("client");
    let client = client::tls::Identity::generate("laptop", &[])?;
    std::fs::write(&key, &client.certificate)?;
    for args in [
        &["config", "set", "cluster.max_standby=1", "user.a=b"][..],
        &["project", "create", "p1", "-c", "features.networks=false"],
        &["profile", "create", "web", "--project", "p1"],
        &["profile", "set", "web", "limits.memory=64MiB", "--project", "p1"],
        &["network", "create", "br7", "ipv4.address=none", "ipv6.address=none"],
        &["storage", "create", "data", "dir"],
        &["cluster", "group", "create", "g1"],
        &["cluster", "group", "assign", "server3", "default,g1"],
        &["cluster", "role", "add", "server2", "event-hub"],
        &["cluster", "set", "server1", "user.rack=7"],
        &["config", "trust", "add-certificate", &key.to_string_lossy(), "--restricted", "--projects", "p1"],
        &["config", "trust", "add", "someone"],
        &["init", "busybox", "c1", "--target", "server2"],
        &["init", "busybox", "c2", "--target", "server3"],
        &["snapshot", "create", "c1", "before"],
        &["storage", "volume", "create", "data", "v1", "--target", "server2"],
    ] {
        cluster.incus(1, args)?;
    }
    cluster.incus(2, &["start", "c1"])?;
    cluster.incus(2, &["exec", "c1", "--", "sh", "-c", "echo precious > /root/data; sync"])?;
    cluster.incus(2, &["stop", "c1", "--force"]).map(drop)
}

/// Machine `number` becomes what machine `number - 3` was.
fn wish(number: usize, file: &Path) -> Vec<String> {
    let mut args = vec!["restore".to_owned(), file.display().to_string(), "-q".to_owned()];
    args.push(format!("--member=server{}", number - 3));
    args.extend((1..=3).map(|n| format!("--address=server{n}=10.77.0.{}", n + 3)));
    args
}

fn restore(cluster: &Cluster, number: usize, file: &Path) -> Result<String> {
    let args = wish(number, file);
    admin(cluster, number, &args.iter().map(String::as_str).collect::<Vec<_>>())?.ok()
}

#[test]
fn a_cluster_is_restored_on_other_machines() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = Cluster::daemons(Lab::temporary("backup", 6)?, Programs::built()?)?;
    cluster.bootstrap()?;
    cluster.join(2)?;
    cluster.join(3)?;
    cluster.vote(1, &[1, 2, 3])?;
    fill(&cluster)?;

    let dir = cluster.lab.dir.join("kept");
    std::fs::create_dir(&dir)?;
    let file = dir.join("cluster.backup");
    let name = file.to_string_lossy().into_owned();
    refused(&cluster, 4, &["backup", &name], "not clustered")?;
    refused(&cluster, 2, &["backup", "/nowhere/x"], "/nowhere")?;
    full_disk(&cluster)?;
    let before = dump(&cluster, 2)?;
    let said = admin(&cluster, 1, &["backup", &name])?.ok()?;
    assert!(said.contains("Backup of 3 members") && said.contains("all keys"), "{said}");
    assert_eq!(std::fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&dir)?.count(), 1, "nothing else is left");
    refused(&cluster, 2, &["backup", &name], "exists already")?;
    let log = cluster.lab.machines.iter().map(|m| std::fs::read_to_string(m.dir.join("incusd.log")).unwrap());
    assert!(log.into_iter().all(|l| !l.contains("PRIVATE KEY")));

    // It is online, and what comes after it is not in it.
    cluster.incus(3, &["profile", "create", "later"])?;
    cluster.incus(2, &["storage", "volume", "create", "data", "later", "--target", "server2"])?;
    one_is_away(&mut cluster, &dir)?;
    wrong_files(&mut cluster, &file)?;

    for number in 1..=3 {
        cluster.lab.machines[number - 1].power_off();
    }
    first_is_killed(&mut cluster, &file)?;
    // What lay in the pools of server2 is there again; of server3 it is lost.
    for number in [5, 6] {
        cluster.kill(number)?;
    }
    let pools = |n: usize| cluster.lab.machines[n - 1].incus_dir().join("storage-pools");
    lab::must("cp", &["-a", &format!("{}/.", pools(2).display()), &pools(5).display().to_string()])?;
    for number in [5, 6] {
        let said = restore(&cluster, number, &file)?;
        assert!(said.contains(&format!("\"server{}\" now", number - 3)) && said.contains("\"server1\""), "{said}");
    }
    let programs = cluster.programs.clone();
    for number in [4, 6] {
        cluster.lab.machine(number).start_daemon(&programs.incusd, &[])?;
    }
    cluster.start(5)?;
    for number in [4, 6] {
        cluster.lab.machine(number).wait_ready(PATIENCE)?;
    }
    for name in ["server1", "server2", "server3"] {
        cluster.until("all are online", || {
            let list = cluster.incus(4, &["cluster", "list", "-f", "csv", "-c", "ns"])?;
            Ok(list.contains(&format!("{name},ONLINE")).then_some(()))
        })?;
    }
    for number in 4..=6 {
        let after = dump(&cluster, number)?;
        let differs: Vec<_> = before.lines().zip(after.lines()).filter(|(b, a)| b != a).collect();
        assert!(before == after, "machine {number}: {differs:?}");
    }
    goes_on(&mut cluster)
}

/// A backup is whole or not there.
fn full_disk(cluster: &Cluster) -> Result<()> {
    let machine = &cluster.lab.machines[1];
    let dir = machine.dir.join("full");
    std::fs::create_dir(&dir)?;
    machine.must("mount", &["-t", "tmpfs", "-o", "size=64k", "none", &dir.to_string_lossy()])?;
    refused(cluster, 2, &["backup", &dir.join("x").to_string_lossy()], "No space left")?;
    assert_eq!(machine.must("ls", &["-A", &dir.to_string_lossy()])?, "");
    machine.must("umount", &[&*dir.to_string_lossy()]).map(drop)
}

/// The keys of a member that does not answer are missing, and it is said.
fn one_is_away(cluster: &mut Cluster, dir: &Path) -> Result<()> {
    cluster.lab.cut(3)?;
    let file = dir.join("without.backup").to_string_lossy().into_owned();
    let said = admin(cluster, 1, &["backup", &file])?.ok()?;
    assert!(said.contains("server3 did not answer: its keys are missing"), "{said}");
    cluster.lab.mend(3)?;
    cluster.until("it is back", || Ok((cluster.member(1, 3, 's')? == "ONLINE").then_some(())))?;
    cluster.kill(6)?;
    refused(
        cluster,
        6,
        &["restore", &file, "-q", "--member=server3"],
        "The keys of \"server3\" are not in the backup",
    )?;
    cluster.start(6)
}

/// What is refused leaves the server as it was.
fn wrong_files(cluster: &mut Cluster, file: &Path) -> Result<()> {
    let name = file.to_string_lossy().into_owned();
    refused(cluster, 4, &["restore", &name, "-q", "--member=server1"], "The daemon is running")?;
    refused(cluster, 1, &["restore", &name, "-q"], "belongs to a cluster already")?;
    cluster.incus(5, &["storage", "create", "mine", "dir"])?;
    cluster.kill(5)?;
    refused(cluster, 5, &["restore", &name, "-q", "--member=server1"], "This server has 1 storage pools")?;
    cluster.start(5)?;
    cluster.incus(5, &["storage", "delete", "mine"])?;

    cluster.kill(4)?;
    let bytes = std::fs::read(file)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let wrong = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = file.with_file_name(name);
        std::fs::write(&path, bytes)?;
        Ok(path)
    };
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 0x10;
    let at = text.find("\"format\": 1").unwrap() + "\"format\": ".len();
    let mut newer = bytes.clone();
    newer[at] = b'9';
    for (path, why) in [
        (wrong("cut", &bytes[..bytes.len() / 2])?, "no whole backup"),
        (wrong("flipped", &flipped)?, "no whole backup"),
        (wrong("newer", &newer)?, "a backup of format 9"),
        (wrong("text", b"hello")?, "no whole backup"),
        (PathBuf::from("/nowhere"), "/nowhere"),
    ] {
        refused(cluster, 4, &["restore", &path.to_string_lossy(), "-q", "--member=server1"], why)?;
    }
    for (args, why) in [
        (&[][..], "Say which one this server becomes with --member"),
        (&["--member=nobody"], "The backup has no member \"nobody\": it has server1, server2, server3"),
        (&["--member=server1", "--first=nobody"], "no member \"nobody\""),
        (&["--member=server1", "--address=10.0.0.1"], "NAME=ADDRESS"),
        (&["--member=server1", "--address=nobody=10.0.0.1"], "no member \"nobody\""),
        (&["--member=server1", "--address=server1=[::]:8443"], "needs a host and a port"),
        (&["--member=server1", "--address=server1=10.77.0.2"], "Two members have the address"),
    ] {
        refused(cluster, 4, &[&["restore", &name, "-q"], args].concat(), why)?;
    }
    refused(cluster, 4, &["restore", &name, "--member=server1"], "The server was left as it was")?;
    let left = cluster.lab.machines[3].incus_dir().join("database/restoring.new");
    assert!(!left.exists());
    cluster.start(4)?;
    assert!(cluster.refused(4, &["cluster", "list"])?.contains("isn't part of a cluster"));
    cluster.kill(4)
}

/// The restore is killed before it has begun, which leaves a fresh server, and after, which the daemon makes up for.
fn first_is_killed(cluster: &mut Cluster, file: &Path) -> Result<()> {
    for point in ["restore:ready", "restore:begun"] {
        let machine = &cluster.lab.machines[3];
        cluster.hold(4, point)?;
        let mut command = machine.command(&cluster.programs.incusd);
        command.arg("cluster").args(wish(4, file)).envs(HOLD.iter().copied());
        let mut child = command.spawn()?;
        cluster.held(4)?;
        lab::must("kill", &["-KILL", &lab::run::only_child(child.id())?.to_string()])?;
        child.wait()?;
        cluster.release(4);
        let begun = machine.incus_dir().join("database/restoring").exists();
        assert_eq!(begun, point == "restore:begun");
        if !begun {
            cluster.start(4)?;
            assert!(cluster.refused(4, &["cluster", "list"])?.contains("isn't part of a cluster"));
            cluster.kill(4)?;
        }
    }
    Ok(())
}

fn goes_on(cluster: &mut Cluster) -> Result<()> {
    cluster.incus(6, &["profile", "create", "after"])?;
    assert!(!cluster.incus(4, &["profile", "list", "-f", "csv"])?.contains("later"));
    cluster.until("three vote", || {
        let list = cluster.incus(5, &["cluster", "list", "-f", "csv", "-c", "r"])?;
        Ok((list.matches("database").count() == 4 && !list.contains("standby")).then_some(()))
    })?;
    // Whose files are there runs, with what was in it; whose files are not says so.
    cluster.incus(4, &["start", "c1"])?;
    assert_eq!(cluster.incus(6, &["exec", "c1", "--", "cat", "/root/data"])?.trim(), "precious");
    let said = cluster.refused(4, &["start", "c2"])?;
    assert!(said.contains("c2") && said.contains("not") && said.contains("local"), "{said}");
    cluster.incus(4, &["delete", "c2"])?;
    // What is younger than the backup is not removed.
    let younger = cluster.lab.machines[4].incus_dir().join("storage-pools/data/custom/default_later");
    assert!(younger.exists());
    // The files of images are not in it.
    let said = cluster.refused(4, &["init", "busybox", "c3"])?;
    assert!(said.contains("image"), "{said}");
    cluster.kill(4)?;
    cluster.start(4)?;
    cluster.incus(4, &["profile", "show", "after"]).map(drop)
}
