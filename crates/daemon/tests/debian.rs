//! A whole Debian with systemd in containers, from an image in two files (metadata, and a root file system as
//! squashfs): it boots, sees its limits, stops and reboots as it should.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lab::{Cluster, Result, debian};

const MEMORY: u64 = 512 << 20;

/// The image; `None`, loudly, where it can't be made.
fn image() -> Option<debian::Image> {
    if lab::run::root().is_err() {
        eprintln!("SKIPPED: this test makes namespaces and containers, it needs root");
        return None;
    }
    let started = Instant::now();
    match debian::image(Path::new(env!("CARGO_TARGET_TMPDIR"))) {
        Ok(image) => {
            println!("the image is there after {} s", started.elapsed().as_secs());
            Some(image)
        }
        Err(e) if debian::reachable() => panic!("no image of Debian could be made: {e}"),
        Err(e) => {
            eprintln!("SKIPPED: the archive of Debian can't be reached, no image can be made of it: {e}");
            None
        }
    }
}

/// lxcfs on a machine of the lab; it ends with this value.
struct Lxcfs(Child);

impl Lxcfs {
    fn start(cluster: &Cluster) -> Result<Option<Lxcfs>> {
        let machine = &cluster.lab.machines[0];
        if !Path::new("/usr/bin/lxcfs").exists() || !Path::new("/dev/fuse").exists() {
            eprintln!("SKIPPED: lxcfs can't run here, what it shows is not looked at");
            return Ok(None);
        }
        // Its mount is the machine's alone: the folder of this one is left as it is.
        machine.must("mount", &["-t", "tmpfs", "lxcfs", "/var/lib/lxcfs"])?;
        let pidfile = machine.dir.join("lxcfs.pid");
        let mut command = machine.command("lxcfs");
        command.arg("-f").arg("-p").arg(pidfile).arg("/var/lib/lxcfs");
        let lxcfs = Lxcfs(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        cluster.until("lxcfs serving", || {
            Ok((machine.run("test", &["-s", "/var/lib/lxcfs/proc/meminfo"], "")?.code == 0).then_some(()))
        })?;
        Ok(Some(lxcfs))
    }
}

impl Drop for Lxcfs {
    fn drop(&mut self) {
        if let Ok(pid) = lab::run::only_child(self.0.id()) {
            let _ = lab::must("kill", &[pid.to_string()]);
        }
        let _ = self.0.wait();
    }
}

/// Standard output of a program in an instance.
fn inside(cluster: &Cluster, name: &str, program: &[&str]) -> Result<String> {
    Ok(cluster.incus(1, &[&["exec", name, "--"], program].concat())?.trim().to_owned())
}

fn booted(cluster: &Cluster, name: &str) -> Result<()> {
    let up = || {
        let asked = cluster.incus_in(1, &["exec", name, "--", "systemctl", "is-system-running"], "")?;
        Ok(matches!(asked.out.trim(), "running" | "degraded").then_some(()))
    };
    cluster.until(&format!("{name} up"), up).map_err(|e| {
        let jobs = cluster.incus_in(1, &["exec", name, "--", "systemctl", "list-jobs"], "");
        format!("{e}\n{jobs:?}\n{:?}", cluster.incus_in(1, &["console", name, "--show-log"], "")).into()
    })
}

fn failed_units(cluster: &Cluster, name: &str) -> Result<String> {
    inside(cluster, name, &["systemctl", "--failed", "--plain", "--no-legend"])
}

#[test]
fn debian_boots_with_systemd() -> Result<()> {
    let Some(image) = image() else { return Ok(()) };
    let cluster = Cluster::temporary("debian", 1)?;
    let lxcfs = Lxcfs::start(&cluster)?;
    let file = |path: &Path| path.to_string_lossy().into_owned();
    cluster.incus(1, &["image", "import", &file(&image.metadata), &file(&image.rootfs), "--alias", "debian"])?;
    let limit = format!("limits.memory={MEMORY}");
    cluster.incus(1, &["launch", "debian", "deb", "-c", &limit])?;
    cluster.incus(1, &["launch", "debian", "nest", "-c", "security.nesting=true"])?;
    cluster.incus(1, &["launch", "debian", "priv", "-c", "security.privileged=true"])?;
    let started = Instant::now();
    for name in ["deb", "nest", "priv"] {
        booted(&cluster, name)?;
        println!("{name} is up after {:?}; failed: {:?}", started.elapsed(), failed_units(&cluster, name)?);
    }
    its_surroundings(&cluster, lxcfs.is_some())?;
    a_terminal(&cluster)?;
    a_reboot(&cluster)?;
    a_clean_stop(&cluster)
}

fn its_surroundings(cluster: &Cluster, lxcfs: bool) -> Result<()> {
    assert_eq!(inside(cluster, "deb", &["cat", "/proc/1/comm"])?, "systemd");
    assert_eq!(inside(cluster, "deb", &["systemd-detect-virt"])?, "lxc");
    assert_eq!(inside(cluster, "deb", &["hostname"])?, "deb");
    assert_eq!(inside(cluster, "deb", &["cat", "/etc/hostname"])?, "deb");
    for name in ["deb", "nest", "priv"] {
        assert_eq!(failed_units(cluster, name)?, "", "{name}");
    }
    // Each has an identity of its own.
    let ids = ["deb", "nest", "priv"].map(|name| inside(cluster, name, &["cat", "/etc/machine-id"]).unwrap());
    assert!(ids.iter().all(|id| id.len() == 32) && ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
    // It makes cgroups of its own, for each service, and its limit is above them.
    let unit = inside(cluster, "deb", &["systemctl", "show", "-p", "ControlGroup", "--value", "dbus"])?;
    assert!(unit.ends_with("/system.slice/dbus.service"), "{unit}");
    let state = cluster.get(1, "/1.0/instances/deb/state")?;
    assert_eq!(state["memory"]["total"], MEMORY, "{state}");
    inside(cluster, "deb", &["systemd-run", "--wait", "--quiet", "-p", "MemoryMax=100M", "true"])?;
    if lxcfs {
        let meminfo = inside(cluster, "deb", &["grep", "MemTotal", "/proc/meminfo"])?;
        assert!(meminfo.contains(&format!(" {} kB", MEMORY / 1024)), "{meminfo}");
        let uptime = inside(cluster, "deb", &["cat", "/proc/uptime"])?;
        assert!(uptime.split('.').next().unwrap().parse::<u64>()? < 300, "{uptime}");
    }
    // The journal takes what is logged.
    inside(cluster, "deb", &["systemd-cat", "-t", "test", "echo", "kept in the journal"])?;
    cluster.until("a line in the journal", || {
        let journal = inside(cluster, "deb", &["journalctl", "-t", "test", "-o", "cat"])?;
        Ok(journal.contains("kept in the journal").then_some(()))
    })?;
    assert_eq!(inside(cluster, "priv", &["cat", "/proc/self/uid_map"])?.split_whitespace().nth(1), Some("0"));
    assert_ne!(inside(cluster, "deb", &["cat", "/proc/self/uid_map"])?.split_whitespace().nth(1), Some("0"));
    // One that may nest can mount a fresh proc for what it holds.
    let nested = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "cat", "/proc/1/comm"];
    assert_eq!(inside(cluster, "nest", &nested)?, "cat");
    Ok(())
}

fn a_terminal(cluster: &Cluster) -> Result<()> {
    let shell = cluster.incus_in(1, &["exec", "-t", "deb", "--", "bash"], "tty; echo $((6*7)); exit 3\n")?;
    assert!(shell.out.contains("/dev/pts/") && shell.out.contains("42") && shell.code == 3, "{shell:?}");
    Ok(())
}

fn a_reboot(cluster: &Cluster) -> Result<()> {
    let boot = || inside(cluster, "deb", &["cat", "/proc/sys/kernel/random/boot_id"]);
    let pid = || Ok::<_, lab::run::Error>(cluster.get(1, "/1.0/instances/deb/state")?["pid"].clone());
    let (before, _) = (pid()?, boot()?);
    cluster.incus_in(1, &["exec", "deb", "--", "reboot"], "")?;
    cluster.until("another life", || {
        let now = pid()?;
        Ok((now != before && now != 0).then_some(()))
    })?;
    booted(cluster, "deb")?;
    // Nothing of what it had is lost.
    let journal = inside(cluster, "deb", &["systemctl", "is-active", "systemd-journald", "dbus"])?;
    assert_eq!(journal, "active\nactive");
    Ok(())
}

fn a_clean_stop(cluster: &Cluster) -> Result<()> {
    for name in ["deb", "nest", "priv"] {
        let started = Instant::now();
        cluster.incus(1, &["stop", name])?;
        let took = started.elapsed();
        println!("{name} stopped in {took:?}");
        assert!(took < Duration::from_secs(10), "{name} took {took:?} to stop");
    }
    let list = cluster.incus(1, &["list", "-f", "csv", "-c", "ns"])?;
    assert_eq!(list.trim(), "deb,STOPPED\nnest,STOPPED\npriv,STOPPED");
    // Power off from inside is the same.
    cluster.incus(1, &["start", "deb"])?;
    booted(cluster, "deb")?;
    cluster.incus_in(1, &["exec", "deb", "--", "poweroff"], "")?;
    cluster.until("it is off", || {
        let state = cluster.incus(1, &["list", "^deb$", "-f", "csv", "-c", "s"])?;
        Ok((state.trim() == "STOPPED").then_some(()))
    })
}
