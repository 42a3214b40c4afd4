//! What projects limit and forbid, on real daemons: for instances and for the profiles that they come from.
#![allow(clippy::unwrap_used)]

use lab::{Cluster, Result};

#[test]
fn projects_limit_and_restrict() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let cluster = Cluster::temporary("projects", 2)?;
    cluster.import_busybox("busybox")?;
    keys(&cluster)?;
    numbers(&cluster)?;
    sums(&cluster)?;
    restrictions(&cluster)?;
    targets(&cluster)
}

fn keys(cluster: &Cluster) -> Result<()> {
    for (config, why) in [
        ("bogus=1", "Invalid project configuration key \"bogus\""),
        ("limits.instances=-1", "must not be negative"),
        ("limits.memory=lots", "limits.memory"),
        ("restricted.devices.nic=perhaps", "not one of allow, block, managed"),
        ("restricted.cluster.groups=nope", "Cluster_group not found"),
    ] {
        cluster.refused_with(2, &["project", "create", "bad", "-c", config], why)?;
        cluster.refused_with(2, &["project", "set", "default", config], why)?;
    }
    assert!(!cluster.incus(1, &["project", "list", "-f", "csv"])?.contains("bad"));
    Ok(())
}

/// A project that shares images and profiles with the default one.
fn project(cluster: &Cluster, name: &str, config: &[&str]) -> Result<()> {
    let shared = ["project", "create", name, "-c", "features.images=false", "-c", "features.profiles=false"];
    let more = config.iter().flat_map(|c| ["-c", c]);
    cluster.incus(1, &shared.into_iter().chain(more).collect::<Vec<_>>()).map(drop)
}

fn numbers(cluster: &Cluster) -> Result<()> {
    project(cluster, "few", &["limits.instances=3", "limits.virtual-machines=0"])?;
    // Many at once, on both members: as many as are allowed come to be.
    let made: usize = std::thread::scope(|s| {
        let create = |n: usize| {
            let (name, from) = (format!("c{n}"), 1 + n % 2);
            cluster.incus_in(from, &["init", "busybox", &name, "--project", "few"], "")
        };
        let all: Vec<_> = (0..6).map(|n| s.spawn(move || create(n).is_ok_and(|o| o.code == 0))).collect();
        all.into_iter().map(|one| usize::from(one.join().unwrap())).sum()
    });
    let names = cluster.incus(2, &["list", "--project", "few", "-f", "csv", "-c", "n"])?;
    assert_eq!((made, names.lines().count()), (3, 3), "{names}");
    cluster.refused_with(
        2,
        &["init", "busybox", "x", "--project", "few"],
        "Reached maximum number of instances in project",
    )?;
    let one = names.lines().next().unwrap();
    cluster.refused_with(2, &["copy", one, "x", "--project", "few"], "Reached maximum number of instances")?;
    let told = cluster.incus(1, &["project", "info", "few", "-f", "csv"])?;
    for row in ["CONTAINERS,UNLIMITED,3", "INSTANCES,3,3", "VIRTUAL-MACHINES,0,0", "MEMORY,UNLIMITED,0B"] {
        assert!(told.lines().any(|line| line == row), "{row}: {told}");
    }
    cluster.refused_with(2, &["project", "info", "nope"], "Project not found")?;
    // What could not be made has left no volume.
    for machine in &cluster.lab.machines {
        let folder = machine.incus_dir().join("storage-pools/local/containers");
        for volume in std::fs::read_dir(folder)?.flatten() {
            let name = volume.file_name().to_string_lossy().into_owned();
            assert!(names.lines().any(|n| name == format!("few_{n}")), "{name} is left");
        }
    }
    // A limit is not set below what is there, and one that is freed can be used again.
    cluster.refused_with(2, &["project", "set", "few", "limits.containers=2"], "of type \"container\"")?;
    cluster.incus(1, &["delete", one, "--project", "few"])?;
    cluster.incus(2, &["project", "set", "few", "limits.containers=2"])?;
    cluster.refused_with(2, &["init", "busybox", "x", "--project", "few"], "of type \"container\"")?;
    cluster.incus(1, &["init", "busybox", "mover"])?;
    cluster.refused_with(2, &["move", "mover", "mover", "--target-project", "few"], "of type \"container\"")?;
    cluster.incus(1, &["delete", "mover"]).map(drop)
}

fn sums(cluster: &Cluster) -> Result<()> {
    project(cluster, "lean", &["limits.memory=256MiB", "limits.processes=100", "limits.cpu=3"])?;
    let init = |name: &str, memory: &str, cpus: &str| {
        let (memory, cpus) = (format!("limits.memory={memory}"), format!("limits.cpu={cpus}"));
        let args =
            ["init", "busybox", name, "--project", "lean", "-c", "limits.processes=40", "-c", &memory, "-c", &cpus];
        cluster.incus_in(1, &args, "")
    };
    let none = cluster.incus_in(1, &["init", "busybox", "x", "--project", "lean"], "")?.refused()?;
    assert!(none.contains("config, either directly or via a profile"), "{none}");
    init("a", "128MiB", "1")?.ok()?;
    for (memory, cpus, why) in [
        ("129MiB", "1", "Reached maximum aggregate value \"256MiB\" for \"limits.memory\""),
        ("10%", "1", "can't be a percentage"),
        ("1MiB", "3", "for \"limits.cpu\""),
        ("1MiB", "0-1", "CPUs can't be pinned"),
    ] {
        let said = init("x", memory, cpus)?.refused()?;
        assert!(said.contains(why), "{memory} {cpus}: {said}");
    }
    init("b", "128MiB", "2")?.ok()?;
    let told = cluster.incus(1, &["project", "info", "lean", "-f", "csv"])?;
    for row in ["CPU,3,3", "MEMORY,256.00MiB,256.00MiB", "PROCESSES,100,80", "INSTANCES,UNLIMITED,2"] {
        assert!(told.lines().any(|line| line == row), "{row}: {told}");
    }
    cluster.refused_with(2, &["config", "set", "a", "limits.memory=200MiB", "--project", "lean"], "aggregate value")?;
    cluster.refused_with(
        2,
        &["config", "unset", "a", "limits.processes", "--project", "lean"],
        "'limits.processes' config",
    )?;
    cluster.refused_with(
        2,
        &["config", "set", "a", "limits.processes=61", "--project", "lean"],
        "\"limits.processes\"",
    )?;
    cluster.incus(2, &["config", "set", "a", "limits.memory=64MiB", "--project", "lean"])?;
    cluster.refused_with(2, &["project", "set", "lean", "limits.memory=100MiB"], "aggregate value \"100MiB\"")?;
    cluster.incus(2, &["project", "set", "lean", "limits.memory=192MiB"])?;
    // What an instance has from a profile counts, and so does a change of the profile.
    cluster.incus(1, &["profile", "create", "size"])?;
    cluster.incus(1, &["profile", "set", "size", "limits.memory=64MiB"])?;
    cluster.incus(1, &["profile", "add", "a", "size", "--project", "lean"])?;
    cluster.incus(1, &["config", "unset", "a", "limits.memory", "--project", "lean"])?;
    cluster.refused_with(2, &["profile", "set", "size", "limits.memory=65MiB"], "aggregate value \"192MiB\"")?;
    assert_eq!(cluster.incus(1, &["profile", "get", "size", "limits.memory"])?.trim(), "64MiB");
    cluster.incus(1, &["delete", "a", "b", "--project", "lean"]).map(drop)
}

fn restrictions(cluster: &Cluster) -> Result<()> {
    cluster.incus(1, &["project", "create", "tame", "-c", "restricted=true", "-c", "features.images=false"])?;
    let root = ["profile", "device", "add", "default", "root", "disk", "path=/", "pool=local", "--project", "tame"];
    cluster.incus(1, &root)?;
    cluster.incus(1, &["init", "busybox", "c1", "--project", "tame"])?;
    for (config, why) in [
        ("security.privileged=true", "Privileged containers are forbidden"),
        ("security.nesting=true", "Container nesting is forbidden"),
        ("raw.lxc=lxc.environment = A=b", "Low-level options are forbidden"),
        ("volatile.idmap.next=x", "Use of low-level config \"volatile.idmap.next\""),
    ] {
        cluster.refused_with(2, &["init", "busybox", "x", "--project", "tame", "-c", config], why)?;
        cluster.refused_with(2, &["config", "set", "c1", config, "--project", "tame"], why)?;
        if !config.starts_with("volatile") {
            cluster.refused_with(2, &["profile", "set", "default", config, "--project", "tame"], why)?;
        }
    }
    let disk = ["source=/etc", "path=/mnt"];
    let nic = ["nictype=p2p", "name=eth0"];
    for (kind, options, why) in
        [("disk", disk, "not of a storage pool are forbidden"), ("nic", nic, "Only managed networks can be used")]
    {
        let device = [&["d", kind], &options[..], &["--project", "tame"]].concat();
        cluster.refused_with(2, &[&["config", "device", "add", "c1"], &device[..]].concat(), why)?;
        cluster.refused_with(2, &[&["profile", "device", "add", "default"], &device[..]].concat(), why)?;
    }
    cluster.refused_with(
        2,
        &["snapshot", "create", "c1", "--project", "tame"],
        "doesn't allow for snapshot creation",
    )?;
    // Allowed, it works; and it can't be forbidden again while it is used.
    for key in ["containers.privilege", "containers.nesting", "containers.lowlevel", "devices.disk", "devices.nic"] {
        cluster.incus(1, &["project", "set", "tame", &format!("restricted.{key}=allow")])?;
    }
    cluster.incus(1, &["project", "set", "tame", "restricted.snapshots=allow"])?;
    for config in ["security.nesting=true", "raw.lxc=lxc.environment = A=b"] {
        cluster.incus(2, &["config", "set", "c1", config, "--project", "tame"])?;
    }
    cluster
        .incus(1, &["config", "device", "add", "c1", "d", "disk", "source=/etc", "path=/mnt", "--project", "tame"])?;
    cluster.incus(1, &["snapshot", "create", "c1", "--project", "tame"])?;
    cluster.incus(1, &["start", "c1", "--project", "tame"])?;
    cluster.refused_with(
        2,
        &["project", "set", "tame", "restricted.containers.nesting=block"],
        "nesting is forbidden",
    )?;
    cluster.refused_with(2, &["project", "unset", "tame", "restricted.devices.disk"], "Invalid device \"d\"")?;
    // Without `restricted` the rest means nothing.
    cluster.incus(1, &["project", "set", "tame", "restricted=false"])?;
    cluster.incus(1, &["project", "set", "tame", "restricted.containers.nesting=block"])?;
    cluster.refused_with(2, &["project", "set", "tame", "restricted=true"], "nesting is forbidden")?;
    cluster.incus(1, &["delete", "-f", "c1", "--project", "tame"]).map(drop)
}

fn targets(cluster: &Cluster) -> Result<()> {
    cluster.incus(1, &["cluster", "group", "create", "left"])?;
    cluster.incus(1, &["cluster", "group", "create", "right"])?;
    cluster.incus(1, &["cluster", "group", "assign", "server1", "default,left"])?;
    cluster.incus(1, &["cluster", "group", "assign", "server2", "default,right"])?;
    project(cluster, "here", &["restricted=true"])?;
    let init = |name: &str, target: &str| -> Result<lab::Output> {
        cluster.incus_in(2, &["init", "busybox", name, "--project", "here", "--target", target], "")
    };
    for target in ["server1", "@left"] {
        let said = init("x", target)?.refused()?;
        assert!(said.contains("doesn't allow cluster member targeting"), "{target}: {said}");
    }
    cluster.incus(1, &["project", "set", "here", "restricted.cluster.target=allow"])?;
    cluster.incus(1, &["project", "set", "here", "restricted.cluster.groups=left"])?;
    for (target, why) in [("@right", "isn't allowed to use this cluster group"), ("server2", "isn't allowed to use")] {
        let said = init("x", target)?.refused()?;
        assert!(said.contains(why), "{target}: {said}");
    }
    init("a", "@left")?.ok()?;
    init("b", "server1")?.ok()?;
    // Placed by itself it stays in the group, although the other member has fewer.
    cluster.incus(2, &["init", "busybox", "c", "--project", "here"])?;
    let places = cluster.incus(2, &["list", "--project", "here", "-f", "csv", "-c", "nL"])?;
    assert_eq!(places.trim(), "a,server1\nb,server1\nc,server1");
    cluster.refused_with(2, &["move", "a", "--project", "here", "--target", "server2"], "isn't allowed to use")
}
