//! `cargo xtask demo`: a cluster of three members to look at and play with.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::cluster::Programs;
use lab::{Cluster, Lab};

use crate::packages;
use crate::sh::{Result, cargo, say, target};

/// Where the demo lives, and what it needs to find its processes again.
fn home() -> PathBuf {
    PathBuf::from("/var/tmp/incus-rs-demo")
}

/// Forms the cluster and shows it; leaves it up.
pub fn up() -> Result<()> {
    if home().exists() {
        down()?;
    }
    packages::install()?;
    say("building");
    cargo(&["build", "--workspace"])?;
    say("three machines, in namespaces of their own, plugged into one switch");
    let lab = Lab::new("demo", &home(), 3)?;
    let bin = target().join("debug");
    let programs = Programs { incusd: bin.join("incusd"), incus: bin.join("incus") };
    let started = Instant::now();
    let mut demo = Demo { cluster: Cluster::daemons(lab, programs)? };
    demo.form()?;
    demo.launch()?;
    demo.evacuate()?;
    demo.lose_the_leader()?;
    demo.leave_it_up()?;
    say(&format!("all that took {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

struct Demo {
    cluster: Cluster,
}

impl Demo {
    /// Shows a command as a person would type it on a member, and what it answers.
    fn type_on(&self, number: usize, args: &[&str]) -> Result<String> {
        println!("root@server{number}:~# incus {}", args.join(" "));
        let out = self.cluster.incus(number, args)?;
        print!("{out}");
        Ok(out)
    }

    fn form(&self) -> Result<()> {
        say("forming the cluster");
        self.cluster.bootstrap()?;
        for number in 2..=3 {
            println!(
                "root@server1:~# incus cluster add server{number}     # its token goes to server{number}: incus admin init"
            );
            self.cluster.join(number)?;
        }
        self.cluster.vote(1, &[1, 2, 3])?;
        self.type_on(1, &["cluster", "list"]).map(drop)
    }

    /// A network, an image, and containers on every member.
    fn launch(&self) -> Result<()> {
        say("a network and an image for all members, and containers on each");
        self.type_on(1, &["network", "create", "incusbr0", "ipv4.address=10.123.0.1/24", "ipv6.address=none"])?;
        self.type_on(1, &["profile", "device", "add", "default", "eth0", "nic", "network=incusbr0"])?;
        self.cluster.import_busybox("busybox")?;
        self.type_on(2, &["image", "list", "-c", "lfdas"])?;
        for number in 1..=3 {
            self.type_on(number, &["launch", "busybox", &format!("c{number}")])?;
        }
        self.type_on(1, &["init", "busybox", "spare", "--target", "server2"])?;
        let addresses = |list: String| list.lines().filter(|l| l.contains("10.123.0.")).count() == 3;
        self.cluster.until("an address for each", || {
            Ok(addresses(self.cluster.incus(1, &["list", "-f", "csv", "-c", "n4"])?).then_some(()))
        })?;
        self.type_on(1, &["list", "-c", "ns4tL"])?;
        self.type_on(3, &["exec", "c1", "--", "sh", "-c", "echo precious > /root/data; hostname; uptime"]).map(drop)
    }

    fn evacuate(&self) -> Result<()> {
        say("server2 needs maintenance: its instances go elsewhere, and come back");
        self.type_on(1, &["cluster", "evacuate", "server2", "--force"])?;
        self.type_on(3, &["list", "-c", "nstL"])?;
        self.type_on(3, &["cluster", "list", "-c", "nrsm"])?;
        self.type_on(1, &["cluster", "restore", "server2", "--force"])?;
        self.type_on(3, &["list", "-c", "nstL"]).map(drop)
    }

    fn lose_the_leader(&mut self) -> Result<()> {
        let leader = self.cluster.leader(1)?;
        let other = leader % 3 + 1;
        say(&format!("killing the daemon of the leader, server{leader}, and writing on server{other}"));
        self.cluster.kill(leader)?;
        let killed = Instant::now();
        self.cluster.until("a write without the old leader", || {
            let done = self.cluster.incus_in(other, &["profile", "create", "after-the-leader"], "")?;
            Ok((done.code == 0).then_some(()))
        })?;
        println!("# the first write was accepted {:.1} s after the kill", killed.elapsed().as_secs_f64());
        self.type_on(other, &["launch", "busybox", "c4", "--target", &format!("server{other}")])?;
        say(&format!(
            "starting the daemon on server{leader} again: it has what it missed, its containers never stopped"
        ));
        self.cluster.start(leader)?;
        self.cluster.until("all running", || {
            let list = self.cluster.incus(leader, &["list", "-f", "csv", "-c", "ns"])?;
            Ok((list.lines().filter(|l| l.ends_with("RUNNING")).count() == 4).then_some(()))
        })?;
        self.type_on(leader, &["list", "-c", "ns4tL"])?;
        self.type_on(leader, &["exec", "c1", "--", "cat", "/root/data"])?;
        self.type_on(other, &["cluster", "list"]).map(drop)
    }

    /// Writes down the processes to end later, and a command per machine to play with.
    fn leave_it_up(&mut self) -> Result<()> {
        let lab = &mut self.cluster.lab;
        let mut holders = vec![lab.switch_pid()?];
        let bin = self.cluster.programs.incus.parent().unwrap_or(Path::new("/")).to_owned();
        for machine in &lab.machines {
            let init = machine.init()?;
            holders.push(init);
            let script = format!(
                "#!/bin/sh\n# Runs a command on {name}.\n\
                 exec nsenter -t {init} --mount --net --uts --ipc --pid -- env INCUS_DIR={dir} PATH={bin}:$PATH \"${{@:-sh}}\"\n",
                name = machine.name,
                dir = machine.incus_dir().display(),
                bin = bin.display(),
            );
            let path = home().join(&machine.name).join("run");
            fs::write(&path, script.replace("\"${@:-sh}\"", "\"$@\""))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        let lines: Vec<String> =
            holders.iter().map(|pid| Ok(format!("{pid} {}", started(*pid)?))).collect::<Result<_>>()?;
        fs::write(home().join("processes"), lines.join("\n"))?;
        lab.keep();
        say("it is yours");
        println!("    {}/server1/run incus cluster list   (server2, server3 likewise)", home().display());
        println!("    cargo xtask demo --down                              takes it down");
        // Daemons that are children of this process run on when it ends.
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    }
}

/// When a process was started, in the kernel's ticks: with its id it names one process for good.
fn started(pid: u32) -> Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().nth(19).map(str::to_owned).ok_or_else(|| "no start time".into())
}

/// Takes the cluster of an earlier demo down and removes all of it.
pub fn down() -> Result<()> {
    let Ok(processes) = fs::read_to_string(home().join("processes")) else {
        return match home().exists() {
            true => fs::remove_dir_all(home()).map_err(|e| format!("removing {}: {e}", home().display()).into()),
            false => Ok(()),
        };
    };
    say("taking the demo down");
    for line in processes.lines() {
        let Some((pid, start)) = line.split_once(' ') else { continue };
        if pid.parse().is_ok_and(|p| started(p).is_ok_and(|s| s == start)) {
            lab::must("kill", &["-9", pid])?;
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    lab::run::sweep_cgroups(&home());
    fs::remove_dir_all(home()).map_err(|e| format!("removing {}: {e}", home().display()).into())
}
