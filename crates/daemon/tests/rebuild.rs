//! An instance that is rebuilt has its old root file system or the new one, whatever happens meanwhile: an image that
//! does not fit, one that is torn or hostile, a daemon that is killed, a majority that is lost.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Stdio;

use lab::cluster::{HOLD, Programs};
use lab::{Cluster, Lab, Result};

/// Rebuilds from an image, or from nothing.
fn rebuild(cluster: &Cluster, name: &str, image: Option<&str>) -> Result<lab::run::Output> {
    cluster.incus_in(1, &["rebuild", image.unwrap_or("--empty"), name], "")
}

fn refused(cluster: &Cluster, name: &str, image: &str, why: &str) -> Result<()> {
    let said = rebuild(cluster, name, Some(image))?;
    assert!(said.code != 0 && said.err.contains(why), "{image}: {said:?}");
    assert!(said.err.contains("The instance keeps its root file system"), "{image}: {said:?}");
    Ok(())
}

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

#[test]
fn a_rebuild_that_fails_leaves_the_old_root_file_system() -> Result<()> {
    if lab::skip(&["/bin/busybox", "mkfs.ext4"]) {
        return Ok(());
    }
    let cluster = Cluster::daemons(Lab::temporary("rebuild", 1)?, Programs::built()?)?;
    cluster.bootstrap()?;
    cluster.import_busybox("busybox")?;
    let machine = &cluster.lab.machines[0];
    let (disk, place) = (machine.dir.join("disk.ext4"), machine.dir.join("small"));
    let (disk, at) = (disk.to_string_lossy().into_owned(), place.to_string_lossy().into_owned());
    fs::create_dir(&place)?;
    machine.must("truncate", &["-s", "24M", &disk])?;
    machine.must("mkfs.ext4", &["-q", "-m", "0", &disk])?;
    // What is mounted here the test does not see: it looks through the machine's eyes.
    machine.must("mount", &["-o", "loop", &disk, &at])?;
    let sh = |script: &str| machine.must("sh", &["-c", &format!("cd {at} && {script}")]);
    sh("mkdir pool")?;
    let source = format!("source={at}/pool");
    cluster.incus(1, &["storage", "create", "small", "dir", &source, "--target", "server1"])?;
    cluster.incus(1, &["storage", "create", "small", "dir"])?;
    cluster.incus(1, &["init", "busybox", "c1", "-s", "small"])?;
    let as_it_was = |what: &str| -> Result<()> {
        let now = sh("ls -A pool/containers; cat pool/containers/c1/rootfs/mark")?;
        assert_eq!(now, "c1\nold", "{what}");
        assert_ne!(cluster.incus(1, &["config", "get", "c1", "volatile.base_image"])?.trim(), "");
        Ok(())
    };
    sh("printf old > pool/containers/c1/rootfs/mark")?;
    as_it_was("at first")?;

    machine.run("dd", &["if=/dev/zero", &format!("of={at}/ballast"), "bs=64k"], "")?;
    refused(&cluster, "c1", "busybox", "needs room for the new one beside it")?;
    as_it_was("a full pool")?;
    sh("rm ballast")?;

    // Looked at from its beginning it is an image like others.
    let dir = machine.dir.join("hostile");
    fs::create_dir_all(dir.join("rootfs"))?;
    fs::write(dir.join("metadata.yaml"), format!("architecture: {}\ncreation_date: 1\n", std::env::consts::ARCH))?;
    fs::write(dir.join("x"), "x")?;
    let file = machine.dir.join("hostile.tar").to_string_lossy().into_owned();
    let pack = "cd \"$0\"; tar -cf \"$1\" metadata.yaml rootfs; \
                tar -rPf \"$1\" --transform 's#^x$#rootfs/../../../escaped#' x";
    machine.must("sh", &["-c", pack, &dir.to_string_lossy(), &file])?;
    cluster.incus(1, &["image", "import", &file, "--alias", "hostile"])?;
    refused(&cluster, "c1", "hostile", "Not an image")?;
    as_it_was("a hostile image")?;

    cluster.incus(1, &["image", "delete", "hostile"])?;
    let images = machine.incus_dir().join("images");
    let fingerprint = cluster.incus(1, &["config", "get", "c1", "volatile.base_image"])?.trim().to_owned();
    let (image, whole) = (images.join(&fingerprint), fs::read(images.join(&fingerprint))?);
    fs::write(&image, &whole[..whole.len() / 2])?;
    refused(&cluster, "c1", "busybox", "")?;
    as_it_was("a torn image")?;
    fs::write(&image, &whole)?;

    let done = rebuild(&cluster, "c1", Some("busybox"))?;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(sh("ls -A pool/containers; ls pool/containers/c1/rootfs | grep -c mark || true")?.trim(), "c1\n0");
    cluster.incus(1, &["start", "c1"])?;
    let running = rebuild(&cluster, "c1", None)?;
    assert!(running.err.contains("stop it first or pass --force"), "{running:?}");
    let asked = ["query", "-X", "POST", "-d", r#"{"source": {"type": "none"}}"#, "/1.0/instances/c1/rebuild"];
    cluster.refused_with(1, &asked, "Instance must be stopped to be rebuilt")?;
    sh("printf old > pool/containers/c1/rootfs/mark")?;
    cluster.incus(1, &["rebuild", "busybox", "c1", "--force"])?;
    assert!(cluster.incus(1, &["list", "-f", "csv", "-c", "ns"])?.contains("c1,RUNNING"));
    assert!(!sh("ls pool/containers/c1/rootfs")?.contains("mark"));
    cluster.incus(1, &["stop", "c1", "--force"])?;
    for (args, why) in [
        (&["rebuild", "c1"][..], "Missing instance name"),
        (&["rebuild", "--empty", "busybox", "c1"], "--empty cannot be combined"),
        (&["rebuild", "busybox", "nothere"], "not found"),
        (&["rebuild", "nothere", "c1"], "not found"),
    ] {
        cluster.refused_with(1, args, why)?;
    }
    cluster.incus(1, &["snapshot", "create", "c1"])?;
    let with_snapshots = rebuild(&cluster, "c1", None)?;
    assert!(with_snapshots.err.contains("Cannot rebuild an instance with snapshots"), "{with_snapshots:?}");
    Ok(())
}

#[test]
fn a_rebuild_that_is_interrupted_is_undone_or_ended() -> Result<()> {
    if lab::skip(&["/bin/busybox", "curl"]) {
        return Ok(());
    }
    let mut cluster = Cluster::form_in(Lab::temporary("rebuilds", 1)?, Programs::built()?, HOLD)?;
    cluster.import_busybox("busybox")?;
    let home = cluster.lab.machines[0].incus_dir();
    let common = cluster.lab.machines[0].dir.join("common");
    fs::create_dir(&common)?;
    cluster.incus(1, &["storage", "create", "nfs", "shared", &format!("source={}", common.display())])?;
    for pool in ["local", "nfs"] {
        for (point, done) in [("rebuild:prepared", false), ("rebuild:noted", true)] {
            let containers = home.join("storage-pools").join(pool).join("containers");
            let root = containers.join("c1/rootfs");
            let base = |cluster: &Cluster| -> Result<bool> {
                Ok(!cluster.incus(1, &["config", "get", "c1", "volatile.base_image"])?.trim().is_empty())
            };
            cluster.incus(1, &["init", "--empty", "c1", "-s", pool])?;
            fs::write(root.join("mark"), "old")?;
            cluster.hold(1, point)?;
            let (socket, body) = (
                home.join("unix.socket").to_string_lossy().into_owned(),
                r#"{"source": {"type": "image", "alias": "busybox"}}"#,
            );
            let url = "http://incus/1.0/instances/c1/rebuild";
            let ask = ["-s", "--unix-socket", &socket, "-X", "POST", "-d", body, url];
            cluster.lab.machines[0].must("curl", &ask)?;
            cluster.held(1)?;
            assert_eq!(fs::read_to_string(root.join("mark"))?, "old", "{pool}, {point}: until then it is there");
            cluster.kill(1)?;
            cluster.release(1);
            cluster.start_in(1, HOLD)?;
            cluster.until("what was left is gone", || Ok((names(&containers) == ["c1"]).then_some(())))?;
            assert_eq!((!root.join("mark").exists(), base(&cluster)?), (done, done), "{pool}, {point}");
            if !done {
                let again = rebuild(&cluster, "c1", Some("busybox"))?;
                assert_eq!(again.code, 0, "{pool}: {again:?}");
            }
            assert!(!root.join("mark").exists() && base(&cluster)?, "{pool}, {point}");
            cluster.incus(1, &["start", "c1"])?;
            cluster.incus(1, &["delete", "c1", "--force"])?;
            assert!(names(&containers).is_empty(), "{:?}", names(&containers));
        }
    }
    Ok(())
}

/// When the others are back that make a majority.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Back {
    /// While the transaction is tried.
    Meanwhile,
    /// After it has been given up.
    Later,
    /// After it has been given up, and without the member that tried it, which comes after them.
    Alone,
}

#[test]
fn a_rebuild_that_loses_the_majority_is_undone_or_ended() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = Cluster::form_in(Lab::temporary("rebuild3", 3)?, Programs::built()?, HOLD)?;
    cluster.import_busybox("busybox")?;
    let containers = cluster.lab.machines[0].incus_dir().join("storage-pools/local/containers");
    let mark = containers.join("c1/rootfs/mark");
    for back in [Back::Meanwhile, Back::Later, Back::Alone] {
        cluster.incus(1, &["init", "--empty", "c1", "-s", "local", "--target", "server1"])?;
        fs::write(&mark, "old")?;
        cluster.hold(1, "rebuild:prepared")?;
        let mut command = cluster.lab.machines[0].command(&cluster.programs.incus);
        command.args(["rebuild", "busybox", "c1"]).stdin(Stdio::null()).stderr(Stdio::null());
        let mut asked = command.spawn()?;
        cluster.held(1)?;
        cluster.kill(2)?;
        cluster.kill(3)?;
        cluster.release(1);
        let mut said = None;
        if back != Back::Meanwhile {
            said = Some(cluster.until("it is given up", || Ok(asked.try_wait()?))?.success());
            assert_eq!(
                (said, mark.exists()),
                (Some(false), true),
                "{back:?}: nothing is taken away before it is known"
            );
        }
        if back == Back::Alone {
            cluster.kill(1)?;
        }
        let incusd = cluster.programs.incusd.clone();
        for number in [2, 3] {
            cluster.lab.machine(number).start_daemon(&incusd, HOLD)?;
        }
        if back == Back::Alone {
            cluster.until("a majority", || {
                Ok((cluster.incus_in(2, &["config", "set", "user.back=1"], "")?.code == 0).then_some(()))
            })?;
            cluster.start_in(1, HOLD)?;
        }
        cluster.until("what was left is gone", || Ok((names(&containers) == ["c1"]).then_some(())))?;
        let said = said.map_or_else(|| asked.wait().map(|code| code.success()), Ok)?;
        let base = cluster.incus(1, &["config", "get", "c1", "volatile.base_image"])?;
        let done = !base.trim().is_empty();
        assert_eq!(!mark.exists(), done, "{back:?}");
        assert!(done || !said, "{back:?}: what is said to be done is");
        println!(
            "the majority was back {back:?}: the rebuild said {said}, and was {}",
            if done { "done" } else { "undone" }
        );
        cluster.incus(1, &["rebuild", "busybox", "c1"])?;
        cluster.incus(1, &["delete", "c1"])?;
        assert!(names(&containers).is_empty(), "{:?}", names(&containers));
    }
    Ok(())
}
