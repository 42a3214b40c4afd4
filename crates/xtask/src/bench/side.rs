//! One side of the comparison: a cluster of one kind of daemon with the client that belongs to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use client::Remote;
use client::tls::Identity;
use lab::cluster::{PATIENCE, Programs};
use lab::run::{Output, run, until};
use lab::{Cluster, Lab, must};
use serde_json::Value;

use super::peer;
use crate::sh::{Result, target};

/// Members of each cluster, where it is not its growth that is measured.
pub const SIZE: usize = 3;

/// Ours, or the peer's.
pub struct Side {
    /// `ours` or `peer`.
    pub name: &'static str,
    /// The machines and what runs on them.
    pub cluster: Cluster,
    /// Files of a package that are laid over each machine.
    over: Option<PathBuf>,
    home: PathBuf,
    lives: u32,
    runtime: tokio::runtime::Runtime,
}

/// Milliseconds since then.
pub fn since(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

impl Side {
    /// A side with its machines switched on and no daemon running; `over` makes it the peer's.
    pub fn new(name: &'static str, home: &Path, programs: Programs, over: Option<PathBuf>) -> Result<Side> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let cluster = Cluster { lab: machines(name, home, over.as_deref(), SIZE)?, programs };
        Ok(Side { name, cluster, over, home: home.to_owned(), lives: 0, runtime })
    }

    /// Throws everything away and switches that many new machines on.
    pub fn renew(&mut self, size: usize) -> Result<()> {
        self.lives += 1;
        let name = format!("{}-{}", self.name, self.lives);
        self.cluster.lab = machines(&name, &self.home, self.over.as_deref(), size)?;
        Ok(())
    }

    /// True if this is the peer's.
    pub fn is_peer(&self) -> bool {
        self.over.is_some()
    }

    /// Starts the daemon of a machine; milliseconds until it says that it is ready.
    pub fn start(&mut self, number: usize) -> Result<f64> {
        let incusd = self.cluster.programs.incusd.clone();
        let began = Instant::now();
        self.cluster.machine(number).start_daemon_with(&incusd, &["--group", "root"], &[])?;
        let ready = loop {
            if self.ask(number, "GET", "/internal/ready", None).is_ok() {
                break since(began);
            }
            if began.elapsed() > PATIENCE || !self.cluster.machine(number).daemon_runs() {
                return Err(format!("not ready:\n{}", self.cluster.lab.machines[number - 1].log_tail(20)).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        Ok(ready)
    }

    /// Stops the daemon of a machine as an init would.
    pub fn stop(&mut self, number: usize) -> Result<()> {
        self.cluster.machine(number).end_daemon("TERM", PATIENCE)
    }

    fn socket(&self, number: usize) -> PathBuf {
        self.cluster.lab.machines[number - 1].incus_dir().join("unix.socket")
    }

    /// A request over the unix socket of a machine; the value in the envelope.
    pub fn ask(&self, number: usize, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let remote = Remote::unix(self.socket(number));
        let answer = self.runtime.block_on(remote.json(method, path, body)).map_err(|e| e.message)?;
        Ok(answer.metadata)
    }

    /// A request that starts an operation, until that has ended well.
    pub fn operate(&self, number: usize, method: &str, path: &str, body: &Value) -> Result<()> {
        let remote = Remote::unix(self.socket(number));
        let done = self.runtime.block_on(async {
            let started = remote.json(method, path, Some(body)).await?;
            remote.json("GET", &format!("{}/wait?timeout=120", started.operation), None).await
        });
        let done = done.map_err(|e| e.message)?.metadata;
        match done["status_code"].as_u64() {
            Some(200) => Ok(()),
            _ => Err(format!("{method} {path}: {}", done["err"]).into()),
        }
    }

    /// Runs the client against a machine, with nothing between; how long the whole process took, in milliseconds.
    pub fn timed(&self, number: usize, args: &[&str]) -> Result<(f64, Output)> {
        let machine = &self.cluster.lab.machines[number - 1];
        let mut command = Command::new(&self.cluster.programs.incus);
        command
            .args(args)
            .env("INCUS_DIR", machine.incus_dir())
            .env("HOME", machine.dir.join("home"))
            .env("INCUS_CONF", machine.dir.join("home/client"));
        let began = Instant::now();
        let out = run(&mut command, b"")?;
        Ok((since(began), out))
    }

    /// As [`Side::timed`], and it has to succeed.
    pub fn client(&self, number: usize, args: &[&str]) -> Result<f64> {
        let (took, out) = self.timed(number, args)?;
        out.ok().map_err(|e| format!("incus {}: {e}", args.join(" ")))?;
        Ok(took)
    }

    /// True if its API has this extension.
    pub fn has(&self, extension: &str) -> Result<bool> {
        let server = self.ask(1, "GET", "/1.0", None)?;
        Ok(server["api_extensions"].as_array().is_some_and(|all| all.iter().any(|e| e == extension)))
    }

    /// The members as machine `from` sees them.
    pub fn members(&self, from: usize) -> Result<Vec<Value>> {
        let members = self.ask(from, "GET", "/1.0/cluster/members?recursion=1", None)?;
        Ok(members.as_array().cloned().unwrap_or_default())
    }

    /// The number of the leader, as machine `from` sees it.
    pub fn leader(&self, from: usize) -> Result<usize> {
        let leads = |m: &Value| has_role(m, "database-leader");
        let member = self.members(from)?.into_iter().find(leads).ok_or("no leader")?;
        let name = member["server_name"].as_str().unwrap_or_default();
        Ok(name.trim_start_matches("server").parse()?)
    }

    /// Waits until the members of all its machines are online and three of them vote, as machine `from` sees it.
    pub fn whole(&self, from: usize) -> Result<()> {
        let size = self.cluster.lab.machines.len();
        let asked = until(Duration::from_secs(90), || {
            let members = self.members(from).unwrap_or_default();
            let leads = members.iter().any(|m| has_role(m, "database-leader"));
            let vote = members.iter().filter(|m| has_role(m, "database")).count() >= SIZE.min(size);
            let online = members.iter().filter(|m| m["status"] == "Online").count() == size;
            Ok((leads && vote && online).then_some(()))
        });
        asked.map_err(|e| format!("{}: {size} members online: {e}", self.name).into())
    }

    /// Has a client certificate trusted, for [`Side::load`].
    pub fn trust_client(&self) -> Result<()> {
        let made = Identity::generate("bench", &[]).map_err(|e| e.message)?;
        let stem = self.cluster.lab.dir.join("client");
        fs::write(stem.with_extension("crt"), made.certificate)?;
        fs::write(stem.with_extension("key"), made.key)?;
        let file = stem.with_extension("crt").to_string_lossy().into_owned();
        self.client(1, &["config", "trust", "add-certificate", &file]).map(drop)
    }

    /// Lets a client on machine `from` talk to the server of machine `to`; what it saw.
    pub fn load(&self, from: usize, to: usize, args: &[&str]) -> Result<Value> {
        let cluster = &self.cluster;
        let pem = fs::read_to_string(cluster.lab.machines[to - 1].incus_dir().join("cluster.crt"))?;
        let pin = client::tls::fingerprint(&pem).map_err(|e| e.message)?;
        let address = format!("{}:8443", cluster.lab.machines[to - 1].address());
        let identity = cluster.lab.dir.join("client").to_string_lossy().into_owned();
        let program = target().join("release/xtask").to_string_lossy().into_owned();
        let fixed = ["load", "--address", &address, "--pin", &pin, "--identity", &identity];
        let said = cluster.lab.machines[from - 1].must(&program, &[&fixed[..], args].concat())?;
        Ok(serde_json::from_str(&said)?)
    }

    /// A line of the daemon's `/proc/…/smaps_rollup`, in MB.
    pub fn memory(&self, number: usize, line: &str) -> Result<f64> {
        let pid = self.cluster.lab.machines[number - 1].daemon_pid()?;
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'));
        let kilobytes: f64 = value.unwrap_or_default().trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes / 1024.0)
    }

    /// CPU time that the daemon has used, in milliseconds.
    pub fn cpu(&self, number: usize) -> Result<f64> {
        let pid = self.cluster.lab.machines[number - 1].daemon_pid()?;
        let mut spent = 0.0;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            // Nanoseconds on a CPU come first.
            let stat = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            spent += stat.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1e6;
        }
        Ok(spent)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        for machine in &mut self.cluster.lab.machines {
            machine.power_off();
        }
        // Containers whose machine was switched off have left their cgroups: empty ones, named by us.
        let script = "find /sys/fs/cgroup -depth -type d '(' -path '*/lxc.*.bench-*' -o -name lxc.pivot ')' \
                      -exec rmdir {} ';' 2>/dev/null; true";
        let _ = must("sh", &["-c", script]);
    }
}

/// True if the member has that role.
pub fn has_role(member: &Value, role: &str) -> bool {
    member["roles"].as_array().is_some_and(|roles| roles.iter().any(|r| r == role))
}

fn machines(name: &str, home: &Path, over: Option<&Path>, size: usize) -> Result<Lab> {
    let lab = Lab::new(&format!("bench-{name}"), &home.join(name), size)?;
    if let Some(root) = over {
        for machine in &lab.machines {
            peer::lay_over(machine, root)?;
        }
    }
    Ok(lab)
}
