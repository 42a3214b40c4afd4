//! Starting, stopping and watching containers.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::PoisonError;
use std::thread::sleep;
use std::time::{Duration, Instant};

use api::error::Context as _;
use api::{Error, Result};
use host::process::{self, Process};
use incus_core::lxc_conf::{Runtime, Spec};

use super::helper::{Ask, Started};
use super::{Containers, End, Status, log, not_running};

/// How long a killed container may take to be gone before its monitor is killed, too.
const KILL_PATIENCE: Duration = Duration::from_secs(15);
/// How often an init is looked at that does not listen to signals yet.
const GLANCE: Duration = Duration::from_millis(50);

impl Containers {
    /// Starts a container; the process id of its init as the host sees it.
    ///
    /// # Errors
    /// With the reasons that liblxc has logged.
    pub fn start(&self, id: &str, spec: &Spec) -> Result<u32> {
        if self.status(id)? != Status::Stopped {
            return Err(Error::bad_request("The instance is already running"));
        }
        self.sweep(id)?;
        check_rootfs(&spec.rootfs)?;
        self.prepare(id, spec)?;
        let cgroups = self.placing.read().unwrap_or_else(PoisonError::into_inner);
        let mut helper = self.help("forkstart", id, &Ask::Start(self.handle(id)), &[])?;
        let answer = helper.answer::<Started>();
        helper.end()?;
        drop(cgroups);
        match answer {
            Ok(Ok(pid)) => Ok(pid),
            Ok(Err(what)) => Err(self.failed(id, spec, &what)),
            Err(e) => Err(self.failed(id, spec, &e.message)),
        }
    }

    /// Writes what liblxc reads, and forgets what the last run has left in the folder of its logs.
    fn prepare(&self, id: &str, spec: &Spec) -> Result<()> {
        let logs = self.logs(id);
        let make = |dir: &Path, mode| {
            let made = fs::DirBuilder::new().recursive(true).mode(mode).create(dir);
            made.context(format!("Making {}", dir.display()))
        };
        make(&self.lxcpath(), 0o711)?;
        make(&self.rootfs_mount(), 0o711)?;
        make(&logs, 0o700)?;
        let _ = fs::rename(logs.join("lxc.log"), logs.join("lxc.log.old"));
        for old in ["console.log", "monitor", "ended", "fenced"] {
            match fs::remove_file(logs.join(old)) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::from(e).context("Removing old logs")),
                _ => {}
            }
        }
        // Tells whoever tidies up the machine which cgroups are ours.
        fs::write(self.dir.join("cgroup.name"), &self.parent).context("Writing cgroup.name")?;
        let text = |name: &str| logs.join(name).to_string_lossy().into_owned();
        let runtime = Runtime {
            log: text("lxc.log"),
            rootfs_mount: self.rootfs_mount().to_string_lossy().into_owned(),
            pivot: self.parent.clone(),
            monitor: text("monitor"),
            ended: text("ended"),
            apparmor: fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|on| on.starts_with('Y')),
        };
        let spec = Spec { cgroup: self.cgroup(id), console_log: text("console.log"), ..spec.clone() };
        let config = self.config(id);
        let text = spec.render(&runtime).map_err(Error::bad_request)?;
        fs::write(&config, text).context(format!("Writing {}", config.display()))
    }

    fn rootfs_mount(&self) -> std::path::PathBuf {
        self.dir.join("lxc")
    }

    /// Why it was not started; what the attempt has left is removed.
    fn failed(&self, id: &str, spec: &Spec, what: &str) -> Error {
        let text = fs::read_to_string(self.logs(id).join("lxc.log")).unwrap_or_default();
        let mut message = format!("Failed to start \"{id}\": {what}");
        for reason in log::reasons(&text) {
            message = format!("{message}; {reason}");
        }
        if spec.idmap.is_some() && log::lacks_idmapped_mounts(&text) {
            message = format!(
                "{message}. The file system of {} seems to have no id-mapped mounts, which an unprivileged container \
                 needs: use a storage pool on another one, or set security.privileged to true",
                spec.rootfs
            );
        }
        if let Err(e) = self.sweep(id) {
            message = format!("{message}; {e}");
        }
        Error::internal(message)
    }

    /// Removes what an earlier life of a container that does not run has left: its monitor, its cgroups.
    fn sweep(&self, id: &str) -> Result<()> {
        if let Some(monitor) = self.monitor(id)? {
            // It has nothing left to do but to end; some never do.
            if !monitor.wait(Some(Duration::from_secs(2)))? {
                monitor.signal(KILL)?;
                monitor.wait(Some(Duration::from_secs(5)))?;
            }
        }
        for name in self.own_cgroups(id) {
            self.hierarchies.remove(&name).map_err(Error::from)?;
        }
        Ok(())
    }

    fn own_cgroups(&self, id: &str) -> [String; 2] {
        let cgroup = self.cgroup(id);
        [format!("{cgroup}.monitor"), cgroup]
    }

    /// Asks its init to halt; true if it stopped within `timeout` (none: for ever).
    pub fn shutdown(&self, id: &str, timeout: Option<Duration>) -> Result<bool> {
        let end = timeout.and_then(|t| Instant::now().checked_add(t));
        let Some(init) = self.init_pid(id)? else { return self.gone(id, end) };
        let container = self.open_configured(id)?;
        let (signal, process) = (self.halt_signal(id), Process::open(init)?);
        let listened = process::expects(init, signal);
        container.shutdown(0).context(format!("Asking \"{id}\" to shut down"))?;
        // An init that has only just been started may have heard nothing: it is asked again as soon as it listens.
        if !listened {
            while process.as_ref().is_some_and(|p| matches!(p.wait(Some(GLANCE)), Ok(false))) {
                if process::expects(init, signal) {
                    container.shutdown(0)?;
                    break;
                }
                if end.is_some_and(|end| Instant::now() >= end) {
                    return Ok(false);
                }
            }
        }
        self.gone(id, end)
    }

    /// The number of the signal with which it is asked to halt.
    fn halt_signal(&self, id: &str) -> i32 {
        let text = fs::read_to_string(self.config(id)).unwrap_or_default();
        let mut named =
            text.lines().filter_map(|l| l.split_once('=').filter(|(key, _)| key.trim() == "lxc.signal.halt"));
        match named.next_back().map(|(_, value)| value.trim()) {
            Some("SIGUSR2") => 12,
            Some("SIGRTMIN+3") => 37,
            _ => 30,
        }
    }

    /// Ends all its processes at once and waits until it is stopped.
    pub fn stop(&self, id: &str) -> Result<()> {
        let end = Instant::now() + KILL_PATIENCE;
        while let Some(init) = self.init_pid(id)?.map(Process::open).transpose()?.flatten() {
            init.signal(KILL).context(format!("Killing \"{id}\""))?;
            // What is frozen doesn't die.
            if matches!(self.status(id)?, Status::Frozen | Status::Freezing) {
                let _ = self.unfreeze(id);
            }
            if init.wait(Some(Duration::from_millis(500)))? || Instant::now() > end {
                break;
            }
        }
        if self.gone(id, Some(end))? { Ok(()) } else { self.sweep(id) }
    }

    /// Stops all its processes where they are.
    pub fn freeze(&self, id: &str) -> Result<()> {
        self.init(id)?;
        self.open_configured(id)?.freeze().context(format!("Freezing \"{id}\""))
    }

    /// Lets its processes go on.
    pub fn unfreeze(&self, id: &str) -> Result<()> {
        self.init(id)?;
        self.open_configured(id)?.unfreeze().context(format!("Thawing \"{id}\""))
    }

    /// Blocks until it does not run any more, whoever ended it, and tells how it ended; at once if it does not run.
    pub fn wait(&self, id: &str) -> Result<End> {
        self.gone(id, None)?;
        if self.fenced(id).exists() {
            return Ok(End::Fenced);
        }
        let ended = fs::read_to_string(self.logs(id).join("ended")).unwrap_or_default();
        Ok(if ended.trim() == "reboot" { End::Reboot } else { End::Stopped })
    }

    /// Waits until its monitor has ended, and removes its cgroups; false if it has not ended by then.
    fn gone(&self, id: &str, end: Option<Instant>) -> Result<bool> {
        while let Some(monitor) = self.monitor(id)? {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if !monitor.wait(left)? {
                return Ok(false);
            }
            // Its init dies with it.
            sleep(Duration::from_millis(1));
        }
        if self.status(id)? == Status::Stopped {
            self.sweep(id)?;
        }
        Ok(true)
    }

    /// Removes the folder of its logs and its cgroups.
    pub fn forget(&self, id: &str) -> Result<()> {
        if self.status(id)? != Status::Stopped {
            return Err(Error::bad_request("The instance is running"));
        }
        self.sweep(id)?;
        match fs::remove_dir_all(self.logs(id)) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::from(e).context("Removing its logs")),
            _ => {}
        }
        // The cgroup above all ours goes with the last one, unless one is being made just now.
        if let Ok(_all) = self.placing.try_write() {
            self.hierarchies.remove_empty(&format!("{}/lxc.pivot", self.parent));
            self.hierarchies.remove_empty(&self.parent);
        }
        Ok(())
    }

    /// Sets cgroup values while it runs (`Spec::limits`).
    pub fn set_limits(&self, id: &str, limits: &[(&str, String)]) -> Result<()> {
        self.init(id)?;
        for (key, value) in limits {
            let file = self.cgroup_file(id, key).ok_or_else(not_running)?;
            fs::write(&file, value).context(format!("Setting {key} to {value}"))?;
        }
        Ok(())
    }

    /// The file of a cgroup value, as `memory.max`.
    pub(super) fn cgroup_file(&self, id: &str, key: &str) -> Option<std::path::PathBuf> {
        let controller = key.split('.').next()?;
        Some(self.hierarchies.place(controller, &self.cgroup(id))?.join(key)).filter(|f| f.exists())
    }
}

/// SIGKILL.
const KILL: i32 = 9;

fn check_rootfs(rootfs: &str) -> Result<()> {
    match fs::metadata(rootfs) {
        Ok(m) if m.is_dir() => Ok(()),
        Ok(_) => Err(Error::internal(format!("The root file system {rootfs} is not a directory"))),
        Err(e) => Err(Error::from(e).context(format!("The root file system {rootfs} can't be used"))),
    }
}
