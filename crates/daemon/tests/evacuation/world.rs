//! A cluster with containers on it, and what can be asked about where they are.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lab::cluster::{HOLD, Programs};
use lab::{Cluster, Lab, Result};

/// Three members and an image.
pub struct World {
    pub cluster: Cluster,
}

impl World {
    /// A fresh one.
    pub fn new(name: &str) -> Result<World> {
        let cluster = Cluster::form_in(Lab::temporary(name, 3)?, Programs::built()?, HOLD)?;
        cluster.import_busybox("bb")?;
        cluster.incus(1, &["config", "set", "cluster.offline_threshold=11"])?;
        cluster.vote(2, &[1, 2, 3])?;
        Ok(World { cluster })
    }

    /// Makes a container with a file in it that no image has.
    pub fn container(&self, name: &str, machine: usize, runs: bool, config: &[&str]) -> Result<()> {
        let target = format!("server{machine}");
        let mut args = vec!["init", "bb", name, "--target", &target];
        args.extend(config.iter().flat_map(|c| ["-c", *c]));
        self.cluster.incus(1, &args)?;
        std::fs::write(self.volume(machine, "local", name).join("rootfs/mark"), name)?;
        if runs {
            self.cluster.incus(1, &["start", name])?;
        }
        Ok(())
    }

    /// Where the files of a container lie on a machine.
    pub fn volume(&self, machine: usize, pool: &str, id: &str) -> PathBuf {
        self.cluster.lab.machines[machine - 1].incus_dir().join("storage-pools").join(pool).join("containers").join(id)
    }

    /// How many containers run on a machine, as its own daemon knows.
    fn runs(&self, machine: usize) -> Result<usize> {
        let text = self.cluster.incus(machine, &["query", "/internal/instances"])?;
        // The client prints nothing for an empty map.
        let all: serde_json::Value = serde_json::from_str(if text.trim().is_empty() { "{}" } else { &text })?;
        Ok(all.as_object().map_or(0, serde_json::Map::len))
    }

    /// Each container is where it is to be and nowhere else, with its file, and runs if it is to run.
    pub fn check(&self, from: usize, wanted: &[(&str, usize, bool)]) -> Result<()> {
        let list = self.cluster.instances(from)?;
        for (name, machine, runs) in wanted {
            let state = if *runs { "RUNNING" } else { "STOPPED" };
            let is = list.get(*name).ok_or_else(|| format!("{name} is not in {list:?}"))?;
            if *is != (state.to_owned(), format!("server{machine}")) {
                return Err(format!("{name} is {is:?} instead of {state} on server{machine}").into());
            }
        }
        let names: Vec<&str> = wanted.iter().map(|(name, ..)| *name).collect();
        for machine in 1..=3 {
            for name in &names {
                let here = wanted.iter().any(|(n, at, _)| n == name && *at == machine);
                let mark = std::fs::read_to_string(self.volume(machine, "local", name).join("rootfs/mark"));
                match mark {
                    Ok(text) if here && text == *name => {}
                    Err(_) if !here && !self.volume(machine, "local", name).exists() => {}
                    other => return Err(format!("{name} on server{machine}: {other:?}, to be there: {here}").into()),
                }
            }
            let run = wanted.iter().filter(|(_, at, runs)| *at == machine && *runs).count();
            if self.runs(machine)? != run {
                return Err(format!("{} instead of {run} run on server{machine}", self.runs(machine)?).into());
            }
        }
        Ok(())
    }

    /// Restores a member as soon as machine `from` has heard that it is back.
    pub fn restore(&self, from: usize, member: usize) -> Result<()> {
        let name = format!("server{member}");
        self.cluster.until("the member back", || {
            let done = self.cluster.incus_in(from, &["cluster", "restore", &name, "--force"], "")?;
            match done.code {
                0 => Ok(Some(())),
                _ if done.err.contains("is offline") => Ok(None),
                _ => Err(format!("restoring {name}: {}", done.err).into()),
            }
        })
    }

    /// The same within a moment: what belongs to nobody is removed in the background.
    pub fn soon(&self, from: usize, wanted: &[(&str, usize, bool)]) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.check(from, wanted) {
                Err(e) if began.elapsed() > Duration::from_secs(20) => {
                    return Err(format!("{e}\n{}", self.cluster.lab.logs()).into());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Begins something that ends while other things happen.
    pub fn begin(&self, machine: usize, args: &[&str]) -> Result<Child> {
        let machine = &self.cluster.lab.machines[machine - 1];
        let mut command = machine.command(&self.cluster.programs.incus);
        Ok(command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }

    /// Starts the daemon of a machine again.
    pub fn start(&mut self, number: usize) -> Result<()> {
        self.cluster.start_in(number, HOLD)
    }

    /// Waits until the maintenance of a member has ended; its state.
    pub fn settled(&self, from: usize, member: usize) -> Result<String> {
        self.cluster.until("the plan ended", || {
            let state = self.cluster.member(from, member, 's');
            Ok(state.ok().filter(|s| matches!(s.as_str(), "EVACUATED" | "ONLINE" | "OFFLINE")))
        })
    }
}
