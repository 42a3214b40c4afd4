//! One machine of the lab, and the daemon on it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::run::{self, Output, Result, must, until};

/// A machine: namespaces with an init in them.
pub struct Machine {
    /// Its host name.
    pub name: String,
    /// Its number, counted from 1.
    pub number: usize,
    /// Its files; `incus` below it is the daemon's `INCUS_DIR`.
    pub dir: PathBuf,
    power: Option<Child>,
    daemon: Option<Child>,
}

impl Machine {
    pub(crate) fn new(name: &str, number: usize, dir: &Path) -> Machine {
        Machine { name: name.to_owned(), number, dir: dir.to_owned(), power: None, daemon: None }
    }

    /// Its address on the switch.
    pub fn address(&self) -> String {
        format!("10.77.0.{}", self.number)
    }

    /// The address of its network card, the same in every life.
    fn mac(&self) -> String {
        format!("02:00:00:77:00:{:02x}", self.number)
    }

    /// The daemon's `INCUS_DIR`.
    pub fn incus_dir(&self) -> PathBuf {
        self.dir.join("incus")
    }

    pub(crate) fn power_on(&mut self, switch: u32) -> Result<()> {
        std::fs::create_dir_all(self.dir.join("cgroups"))?;
        let cgroups = self.dir.join("cgroups");
        // A new /sys shows the machine's own network; the cgroup hierarchies are carried over into it.
        let setup = format!(
            "hostname {name}; mount --rbind /sys/fs/cgroup {cg}; mount -t sysfs sysfs /sys; \
             mount --rbind {cg} /sys/fs/cgroup; umount -l {cg}; ip link set lo up",
            name = self.name,
            cg = cgroups.display(),
        );
        let flags = ["--net", "--uts", "--ipc"];
        let power = run::namespace(&flags, &setup)?;
        let init = run::only_child(power.id())?.to_string();
        self.power = Some(power);
        let (port, switch) = (format!("port{}", self.number), switch.to_string());
        let in_switch = |args: &[&str]| must("nsenter", &[&["-t", &switch, "-n", "ip"], args].concat());
        // The port of an earlier life goes away with its network namespace, but not at once.
        let _ = in_switch(&["link", "del", &port]);
        in_switch(&[
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "address",
            &self.mac(),
            "netns",
            &init,
        ])?;
        in_switch(&["link", "set", &port, "master", "sw0", "up"])?;
        let address = format!("{}/24", self.address());
        self.must("ip", &["addr", "add", &address, "dev", "eth0"])?;
        self.must("ip", &["link", "set", "eth0", "up"]).map(drop)
    }

    /// Pulls the plug: every process on it ends at once, mounts and network are gone; its files stay.
    pub fn power_off(&mut self) {
        for child in [self.power.take(), self.daemon.take()].into_iter().flatten() {
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// True while it is switched on.
    pub fn is_on(&self) -> bool {
        self.power.is_some()
    }

    /// Process id of its init, as seen from outside.
    pub fn init(&self) -> Result<u32> {
        run::only_child(self.power.as_ref().ok_or("the machine is switched off")?.id())
    }

    /// A command on this machine, with `INCUS_DIR` and a home of its own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let init = self.init().map_or_else(|_| "0".to_owned(), |pid| pid.to_string());
        command.args(["-t", &init, "--mount", "--net", "--uts", "--ipc", "--pid", "--"]).arg(program);
        command
            .env("INCUS_DIR", self.incus_dir())
            .env("HOME", self.dir.join("home"))
            .env("INCUS_CONF", self.dir.join("home/client"))
            // That of the real machine is none of its business.
            .env("INCUS_WATCHDOG", "");
        command
    }

    /// Runs a program on this machine that has to succeed; its standard output.
    pub fn must(&self, program: &str, args: &[&str]) -> Result<String> {
        self.run(program, args, "")?
            .ok()
            .map_err(|e| format!("{}: {program} {}: {e}", self.name, args.join(" ")).into())
    }

    /// Runs a program on this machine.
    pub fn run(&self, program: &str, args: &[&str], stdin: &str) -> Result<Output> {
        run::run(self.command(program).args(args), stdin.as_bytes())
    }

    /// Starts the daemon so that it says all it does.
    pub fn start_daemon(&mut self, incusd: &Path, env: &[(&str, &str)]) -> Result<()> {
        self.start_daemon_with(incusd, &["--debug"], env)
    }

    /// Starts the daemon with these arguments.
    pub fn start_daemon_with(&mut self, incusd: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<()> {
        std::fs::create_dir_all(self.incus_dir())?;
        std::fs::create_dir_all(self.dir.join("home"))?;
        let log = File::options().create(true).append(true).open(self.dir.join("incusd.log"))?;
        let mut command = self.command(incusd);
        command.args(args).envs(env.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.daemon = Some(child);
        Ok(())
    }

    /// Waits until the daemon answers `GET /internal/ready`.
    pub fn wait_ready(&mut self, patience: Duration) -> Result<()> {
        let socket = self.incus_dir().join("unix.socket");
        let asked = until(patience, || {
            if let Some(status) = self.daemon.as_mut().map(Child::try_wait).transpose()?.flatten() {
                return Err(format!("incusd ended with {status}").into());
            }
            let args =
                ["-sf", "--max-time", "5", "--unix-socket", &socket.to_string_lossy(), "http://incus/internal/ready"];
            Ok((self.run("curl", &args, "")?.code == 0).then_some(()))
        });
        asked.map_err(|e| format!("{} is not ready: {e}\n{}", self.name, self.log_tail(40)).into())
    }

    /// Process id of the daemon as seen from outside; an error when it does not run.
    pub fn daemon_pid(&self) -> Result<u32> {
        let nsenter = self.daemon.as_ref().ok_or("no daemon was started")?.id();
        // nsenter forks to enter the process namespace and waits for the daemon.
        run::only_child(nsenter)
    }

    /// Sends a signal to the daemon, by name: `KILL`, `TERM`, `STOP`, `CONT`, `PWR`.
    pub fn signal_daemon(&self, signal: &str) -> Result<()> {
        let daemon = self.daemon_pid()?.to_string();
        let nsenter = self.daemon.as_ref().map(|d| d.id().to_string()).unwrap_or_default();
        // nsenter stops with its child, but does not go on with it.
        let all: &[&str] = if signal == "CONT" { &[&daemon, &nsenter] } else { &[&daemon] };
        must("kill", &[&["-s", signal], all].concat()).map(drop)
    }

    /// Ends the daemon with a signal and waits until it is gone.
    pub fn end_daemon(&mut self, signal: &str, patience: Duration) -> Result<()> {
        self.signal_daemon(signal)?;
        let ended = until(patience, || Ok(self.daemon.as_mut().map(Child::try_wait).transpose()?.flatten()));
        ended.map_err(|e| format!("{}: incusd does not end on {signal}: {e}\n{}", self.name, self.log_tail(40)))?;
        self.daemon = None;
        Ok(())
    }

    /// Process id of the guard as seen from outside; none when there is none.
    pub fn guard_pid(&self) -> Option<u32> {
        let socket = self.incus_dir().join("guard.socket").to_string_lossy().into_owned();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut ids = processes.filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok());
        ids.find(|pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = words.split(|b| *b == 0).collect();
            words.get(1) == Some(&&b"forkguard"[..]) && words.get(2) == Some(&socket.as_bytes())
        })
    }

    /// True while the daemon runs.
    pub fn daemon_runs(&mut self) -> bool {
        matches!(self.daemon.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    /// The last lines of the daemon's log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = std::fs::read_to_string(self.dir.join("incusd.log")).unwrap_or_default();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}
