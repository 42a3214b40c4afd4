//! Bad days: a full disk, files that are no images, members that are away, no majority, no liblxc. Each is told in
//! clear words and soon, leaves nothing half done, and is over when its cause is.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::run::until;
use lab::{Cluster, Result};

fn skip() -> bool {
    let skip = lab::run::root().is_err() || !Path::new("/bin/busybox").exists();
    if skip {
        eprintln!("SKIPPED: this test makes namespaces and containers, it needs root and busybox-static");
    }
    skip
}

/// Refused with these words, and within so many seconds.
fn refused(cluster: &Cluster, from: usize, args: &[&str], why: &str, seconds: u64) -> Result<()> {
    let started = Instant::now();
    let said = cluster.refused(from, args)?;
    let took = started.elapsed();
    assert!(said.contains(why), "{args:?}: {said}");
    assert!(took < Duration::from_secs(seconds), "{args:?} took {took:?}: {said}");
    Ok(())
}

fn at_once(cluster: &Cluster, from: usize, args: &[&str]) -> Result<String> {
    let started = Instant::now();
    let said = cluster.incus(from, args)?;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(4), "{args:?} took {took:?}");
    Ok(said)
}

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> = std::fs::read_dir(dir)
        .map(|d| d.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    all.sort();
    all
}

#[test]
fn a_full_disk() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let cluster = Cluster::temporary("full", 1)?;
    cluster.import_busybox("busybox")?;
    let machine = &cluster.lab.machines[0];
    let (disk, place) = (machine.dir.join("disk.ext4"), machine.dir.join("small"));
    let (disk, at) = (disk.to_string_lossy().into_owned(), place.to_string_lossy().into_owned());
    std::fs::create_dir(&place)?;
    machine.must("truncate", &["-s", "24M", &disk])?;
    machine.must("mkfs.ext4", &["-q", "-m", "0", &disk])?;
    // What is mounted here the test does not see: it looks through the machine's eyes.
    machine.must("mount", &["-o", "loop", &disk, &at])?;
    let pool = format!("{at}/pool");
    machine.must("mkdir", &[&pool])?;
    cluster.incus(1, &["storage", "create", "small", "dir", &format!("source={pool}"), "--target", "server1"])?;
    cluster.incus(1, &["storage", "create", "small", "dir"])?;
    let volumes = || machine.must("sh", &["-c", "cd $0/containers && ls", &pool]);
    cluster.incus(1, &["launch", "busybox", "first", "-s", "small"])?;
    let ballast = format!("{at}/ballast");
    let fill = || machine.run("dd", &["if=/dev/zero", &format!("of={ballast}"), "bs=64k"], "").map(drop);
    fill()?;
    refused(&cluster, 1, &["launch", "busybox", "second", "-s", "small"], "No space left", 20)?;
    refused(&cluster, 1, &["copy", "first", "second"], "No space left", 20)?;
    refused(&cluster, 1, &["snapshot", "create", "first", "s"], "No space left", 20)?;
    assert_eq!(cluster.incus(1, &["list", "-f", "csv", "-c", "ns"])?.trim(), "first,RUNNING");
    assert_eq!(volumes()?.trim(), "first");
    // Stopping needs no space, and neither does deleting.
    cluster.incus(1, &["stop", "first"])?;
    machine.must("rm", &[&ballast])?;
    cluster.incus(1, &["launch", "busybox", "second", "-s", "small"])?;
    cluster.incus(1, &["snapshot", "create", "first", "s"])?;
    fill()?;
    cluster.incus(1, &["delete", "-f", "first", "second"])?;
    assert_eq!(volumes()?.trim(), "");

    // Images: the place where they come to lie is full.
    let images = machine.incus_dir().join("images").to_string_lossy().into_owned();
    let file = machine.dir.join("other.tar.gz").to_string_lossy().into_owned();
    let incusd = cluster.programs.incusd.to_string_lossy().into_owned();
    machine.must(&incusd, &["forkimage", "busybox", &file])?;
    cluster.incus(1, &["image", "delete", "busybox"])?;
    machine.must("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", &images])?;
    refused(&cluster, 1, &["image", "import", &file, "--alias", "other"], "No space left", 20)?;
    assert_eq!(machine.must("ls", &["-A", &images])?.trim(), "");
    assert_eq!(cluster.incus(1, &["image", "list", "-f", "csv"])?.trim(), "");
    machine.must("umount", &[&images])?;
    cluster.incus(1, &["image", "import", &file, "--alias", "other"])?;
    cluster.incus(1, &["launch", "other", "third"]).map(drop)
}

/// A tarball with a good `metadata.yaml` and what else `script` makes in the folder or appends to `$1`.
fn tarball(cluster: &Cluster, name: &str, script: &str) -> Result<String> {
    let machine = &cluster.lab.machines[0];
    let dir = machine.dir.join(format!("{name}.d"));
    std::fs::create_dir_all(dir.join("rootfs/sbin"))?;
    std::fs::write(dir.join("metadata.yaml"), format!("architecture: {}\ncreation_date: 1\n", std::env::consts::ARCH))?;
    std::fs::copy("/bin/busybox", dir.join("rootfs/sbin/init"))?;
    let file = machine.dir.join(format!("{name}.tar")).to_string_lossy().into_owned();
    let script = format!("set -e; cd \"$0\"; {script}");
    machine.must("sh", &["-c", &script, &dir.to_string_lossy(), &file])?;
    Ok(file)
}

#[test]
fn files_that_are_no_images() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let cluster = Cluster::temporary("noimage", 1)?;
    let machine = &cluster.lab.machines[0];
    let write = |name: &str, content: &[u8]| -> Result<PathBuf> {
        let path = machine.dir.join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    };
    for (path, why) in [
        (write("text", b"this is no image\n")?, "neither a tarball"),
        (write("empty", b"")?, "empty"),
        (write("torn.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2])?, "Not an image"),
    ] {
        refused(&cluster, 1, &["image", "import", &path.to_string_lossy()], why, 10)?;
    }
    let bare = tarball(&cluster, "bare", "rm metadata.yaml; tar -cf \"$1\" rootfs")?;
    refused(&cluster, 1, &["image", "import", &bare], "metadata.yaml", 10)?;
    assert_eq!(cluster.incus(1, &["image", "list", "-f", "csv"])?.trim(), "");
    assert!(names(&machine.incus_dir().join("images")).is_empty());

    // Those that look like one at first: nothing is written outside of the volume, and no devices come to be.
    let outside = machine.dir.join("outside");
    std::fs::create_dir(&outside)?;
    std::fs::write(outside.join("kept"), "as it was")?;
    let out = outside.display();
    for (name, script) in [
        (
            "dots",
            "tar -cf \"$1\" *; echo x > x; tar -rPf \"$1\" --transform 's#^x$#rootfs/../../../escaped#' x".to_owned(),
        ),
        ("absolute", format!("tar -cf \"$1\" *; echo x > x; tar -rPf \"$1\" --transform 's#^x$#{out}/escaped#' x")),
        (
            "link",
            format!(
                "ln -s {out} rootfs/way; tar -cf \"$1\" metadata.yaml rootfs; echo x > x; \
                 tar -rPf \"$1\" --transform 's#^x$#rootfs/way/escaped#' x"
            ),
        ),
        (
            "hard",
            format!(
                "mkdir -p rootfs/a; ln {out}/kept rootfs/a/first; ln rootfs/a/first rootfs/a/second; \
                 tar -cPf \"$1\" --transform 's#^rootfs/a/first$#{out}/kept#' metadata.yaml rootfs"
            ),
        ),
        ("device", "mknod rootfs/disk b 7 0; tar -cf \"$1\" metadata.yaml rootfs".to_owned()),
    ] {
        let file = tarball(&cluster, name, &script)?;
        let imported = cluster.incus_in(1, &["image", "import", &file, "--alias", name], "")?;
        if imported.code == 0 {
            let made = cluster.incus_in(1, &["init", name, name], "")?;
            println!("{name}: imported, then {made:?}");
        } else {
            println!("{name}: {}", imported.err.trim());
            assert!(imported.err.contains("Not an image") || imported.err.contains("escape"), "{imported:?}");
        }
        let root = machine.incus_dir().join("storage-pools/local/containers").join(name).join("rootfs");
        assert!(!root.join("disk").exists(), "{name}: a device");
        assert_eq!(names(&outside), ["kept"], "{name}");
        assert_eq!(std::fs::read_to_string(outside.join("kept"))?, "as it was", "{name}");
        let escaped = lab::must("find", &[machine.dir.as_os_str(), "-name".as_ref(), "escaped".as_ref()])?;
        let inside = format!("{}/", root.display());
        assert!(escaped.lines().all(|path| path.starts_with(&inside)), "{name}: {escaped}");
    }
    Ok(())
}

#[test]
fn members_that_are_away_and_no_majority() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("away", 3)?;
    cluster.import_busybox("busybox")?;
    cluster.incus(1, &["config", "set", "cluster.offline_threshold=11"])?;
    for n in 1..=3 {
        cluster.incus(1, &["launch", "busybox", &format!("c{n}"), "--target", &format!("server{n}")])?;
    }
    cluster.until("three voters", || {
        let roles = (1..=3).map(|n| cluster.member(1, n, 'r')).collect::<Result<Vec<_>>>()?;
        Ok(roles.iter().all(|r| r.contains("database") && !r.contains("standby")).then_some(()))
    })?;
    cluster.kill(3)?;
    one_is_away(&cluster)?;
    cluster.kill(2)?;
    no_majority(&mut cluster)
}

fn one_is_away(cluster: &Cluster) -> Result<()> {
    // Nobody has noticed yet: what needs it fails soon, and the rest goes on.
    cluster.until("its instances in error", || {
        let list = at_once(cluster, 1, &["list", "-f", "csv", "-c", "ns"])?;
        Ok((list.trim() == "c1,RUNNING\nc2,RUNNING\nc3,ERROR").then_some(()))
    })?;
    cluster
        .until("it counts as offline", || Ok((cluster.member(1, 3, 's')?.to_uppercase() == "OFFLINE").then_some(())))?;
    let offline = "Cluster member \"server3\" is offline";
    for from in [1, 2] {
        refused(cluster, from, &["launch", "busybox", "x", "--target", "server3"], offline, 3)?;
        for args in [&["stop", "c3"][..], &["exec", "c3", "true"], &["config", "set", "c3", "user.a=b"]] {
            refused(cluster, from, args, offline, 3)?;
        }
        assert!(at_once(cluster, from, &["list", "-f", "csv", "-c", "ns"])?.contains("c3,ERROR"));
        assert!(at_once(cluster, from, &["config", "show", "c3"])?.contains("volatile.uuid"));
    }
    // Everything else works.
    cluster.incus(2, &["launch", "busybox", "c4"])?;
    cluster.incus(2, &["delete", "-f", "c4"]).map(drop)
}

fn no_majority(cluster: &mut Cluster) -> Result<()> {
    for args in [
        &["list", "-f", "csv"][..],
        &["cluster", "list", "-f", "csv"],
        &["config", "show"],
        &["image", "list", "-f", "csv"],
        &["profile", "show", "default"],
        &["config", "show", "c1"],
        &["info", "c1"],
    ] {
        at_once(cluster, 1, args)?;
    }
    assert!(at_once(cluster, 1, &["list", "-f", "csv", "-c", "ns"])?.contains("c1,RUNNING"));
    let why = "majority of the voters";
    // The first who asks may wait until it is clear that the others are gone.
    cluster.refused(1, &["config", "set", "user.a=b"])?;
    refused(cluster, 1, &["config", "set", "user.a=b"], why, 5)?;
    refused(cluster, 1, &["profile", "create", "x"], why, 5)?;
    refused(cluster, 1, &["launch", "busybox", "x"], why, 8)?;
    assert_eq!(names(&cluster.lab.machines[0].incus_dir().join("storage-pools/local/containers")), ["c1"]);
    // A program can be run, and what runs can be stopped, but not be started.
    assert_eq!(at_once(cluster, 1, &["exec", "c1", "--", "echo", "here"])?.trim(), "here");
    let started = Instant::now();
    cluster.incus(1, &["stop", "-f", "c1"])?;
    assert!(started.elapsed() < Duration::from_secs(8), "it took {:?}", started.elapsed());
    assert!(at_once(cluster, 1, &["list", "-f", "csv", "-c", "ns"])?.contains("c1,STOPPED"));
    refused(cluster, 1, &["start", "c1"], why, 8)?;
    // With a majority again all works, and it is written down that the instance was stopped.
    cluster.start(2)?;
    let power = || Ok(cluster.incus(1, &["config", "get", "c1", "volatile.last_state.power"])?.trim() == "STOPPED");
    until(Duration::from_secs(30), || power().map(|stopped| stopped.then_some(())))?;
    cluster.incus(1, &["start", "c1"])?;
    cluster.incus(1, &["config", "set", "user.a=b"]).map(drop)
}

#[test]
fn no_liblxc() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("nolxc", 1)?;
    cluster.import_busybox("busybox")?;
    cluster.incus(1, &["launch", "busybox", "c1"])?;
    cluster.machine(1).end_daemon("PWR", Duration::from_secs(60))?;
    let machine = &cluster.lab.machines[0];
    let library = machine.must("sh", &["-c", "ldconfig -p | sed -n 's#.*liblxc.so.1 .*=> ##p' | head -1"])?;
    let library = machine.must("readlink", &["-f", library.trim()])?.trim().to_owned();
    machine.must("mount", &["--bind", "/dev/null", &library])?;
    cluster.start(1)?;
    // Everything else is served.
    cluster.incus(1, &["profile", "create", "p"])?;
    assert_eq!(cluster.incus(1, &["list", "-f", "csv", "-c", "ns"])?.trim(), "c1,STOPPED");
    cluster.incus(1, &["copy", "c1", "c2"])?;
    cluster.incus(1, &["snapshot", "create", "c2"])?;
    assert_eq!(cluster.get(1, "/1.0")?["environment"]["driver"], "");
    for args in [&["launch", "busybox", "x"][..], &["start", "c1"]] {
        refused(&cluster, 1, args, "Containers need liblxc", 10)?;
    }
    cluster.until("a warning", || {
        let warnings = cluster.incus(1, &["query", "/1.0/warnings?recursion=1"])?;
        Ok((warnings.contains("Instance type not operational") && warnings.contains("liblxc")).then_some(()))
    })?;
    // There again, it is over.
    cluster.machine(1).end_daemon("TERM", Duration::from_secs(20))?;
    cluster.lab.machines[0].must("umount", &[&library])?;
    cluster.start(1)?;
    cluster.incus(1, &["start", "c2"])?;
    cluster.until("the warning resolved", || {
        let warnings = cluster.get(1, "/1.0/warnings?recursion=1")?;
        let mut all = warnings.as_array().unwrap().iter();
        Ok(all.all(|w| w["type"] != "Instance type not operational" || w["status"] == "resolved").then_some(()))
    })
}
