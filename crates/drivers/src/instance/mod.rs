//! Containers, as liblxc runs them: started, watched, stopped, and what can be done with one that runs.
//!
//! Nothing is remembered in this process: the daemon may end and come back while containers run on. What forks is
//! done by a helper process (`incusd fork…`); everything else goes over the container's command socket, its cgroups
//! and `/proc`.

mod console;
mod exec;
pub mod fork;
mod helper;
mod hotplug;
mod lifecycle;
mod log;
mod usage;

use std::path::{Path, PathBuf};
use std::sync::RwLock;

use api::error::Context as _;
use api::{Error, Result};
use host::cgroup::Hierarchies;
use host::process::{self, Process};
use incus_core::lxc_conf::{Cgroups, Mount};
use sha2::{Digest as _, Sha256};

pub use console::Console;
pub use exec::{Exec, Running};
pub use hotplug::Hotplug;
pub use usage::{Card, Usage};

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does not run.
    Stopped,
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It is ending.
    Stopping,
    /// It is about to be frozen.
    Freezing,
    /// Its processes stand still.
    Frozen,
    /// It has just been thawed.
    Thawed,
    /// Its start is given up.
    Aborting,
    /// Nobody can tell.
    Error,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// For good.
    Stopped,
    /// It wants to be started again.
    Reboot,
    /// It was ended because another member may start it.
    Fenced,
}

/// The containers of this member.
#[derive(Debug)]
pub struct Containers {
    dir: PathBuf,
    program: PathBuf,
    hierarchies: Hierarchies,
    /// Parent of all cgroups of this daemon's containers.
    parent: String,
    /// Held for reading while cgroups are made below `parent`, for writing while it is removed.
    placing: RwLock<()>,
}

impl Containers {
    /// The containers of the daemon whose directory (`INCUS_DIR`) this is; `program` is run as its helper.
    pub fn new(incus_dir: &Path, program: PathBuf) -> Containers {
        let digest = Sha256::digest(incus_dir.as_os_str().as_encoded_bytes());
        Containers {
            dir: incus_dir.to_owned(),
            program,
            hierarchies: Hierarchies::read().unwrap_or_default(),
            parent: format!("incus-{}", hex::encode(&digest[..6])),
            placing: RwLock::default(),
        }
    }

    /// The machine's hierarchies.
    pub fn cgroups(&self) -> Cgroups {
        if self.hierarchies.unified() { Cgroups::V2 } else { Cgroups::V1 }
    }

    /// What it does now.
    pub fn status(&self, id: &str) -> Result<Status> {
        let state = self.open(id)?.state().context(format!("Asking for the state of \"{id}\""))?;
        Ok(match state.as_str() {
            // Its monitor cleans up when the container is gone.
            "STOPPED" if self.monitor(id)?.is_some() => match self.init_pid(id)? {
                None => Status::Stopping,
                Some(_) => Status::Running,
            },
            "STOPPED" => Status::Stopped,
            "STARTING" => Status::Starting,
            "RUNNING" => Status::Running,
            "STOPPING" => Status::Stopping,
            "FREEZING" => Status::Freezing,
            "FROZEN" => Status::Frozen,
            "THAWED" => Status::Thawed,
            "ABORTING" => Status::Aborting,
            _ => Status::Error,
        })
    }

    /// Process id of its init, if it runs.
    pub fn init_pid(&self, id: &str) -> Result<Option<u32>> {
        self.open(id)?.init_pid().context(format!("Asking for the process of \"{id}\""))
    }

    /// Where the files of its runs lie: `lxc.conf`, `lxc.log`, `console.log`.
    pub fn logs(&self, id: &str) -> PathBuf {
        self.dir.join("logs").join(id)
    }

    fn lxcpath(&self) -> PathBuf {
        self.dir.join("containers")
    }

    fn config(&self, id: &str) -> PathBuf {
        self.logs(id).join("lxc.conf")
    }

    /// The file in which is noted why it was ended although nobody of this machine wanted that.
    pub fn fenced(&self, id: &str) -> PathBuf {
        self.logs(id).join("fenced")
    }

    /// The name of the cgroups of its processes.
    pub fn cgroup(&self, id: &str) -> String {
        format!("{}/{id}", self.parent)
    }

    /// A handle for questions.
    fn open(&self, id: &str) -> Result<host::lxc::Container> {
        Ok(host::lxc::Container::open(id, &self.lxcpath(), None)?)
    }

    /// A handle for what needs its configuration.
    fn open_configured(&self, id: &str) -> Result<host::lxc::Container> {
        Ok(host::lxc::Container::open(id, &self.lxcpath(), Some(&self.config(id)))?)
    }

    /// Its monitor, while there is one.
    fn monitor(&self, id: &str) -> Result<Option<Process>> {
        // Written by the monitor itself before it starts init; whether it is still the same process, its title tells.
        let title = format!("[lxc monitor] {} {id}", self.lxcpath().display());
        let text = std::fs::read_to_string(self.logs(id).join("monitor")).unwrap_or_default();
        let Ok(pid) = text.trim().parse() else { return Ok(None) };
        let found = Process::open(pid).context("Looking for a monitor")?;
        Ok(found.filter(|_| process::title(pid).is_some_and(|t| t == title)))
    }

    /// Its init; refuses if it does not run.
    fn init(&self, id: &str) -> Result<Process> {
        let init = match self.init_pid(id)? {
            Some(pid) => Process::open(pid)?,
            None => None,
        };
        init.ok_or_else(not_running)
    }
}

fn not_running() -> Error {
    Error::bad_request("Instance is not running")
}

/// Whether containers can run here; the error says what is missing.
pub fn operational() -> Result<()> {
    Ok(host::lxc::version().map(drop)?)
}

/// The mounts with which a container sees its own memory, processors and uptime in `/proc`, if lxcfs runs here.
pub fn lxcfs_mounts() -> Vec<Mount> {
    const FILES: &[&str] = &["cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"];
    let mount = |path: String| {
        let source = format!("/var/lib/lxcfs/{path}");
        std::fs::metadata(&source).ok()?;
        let options = "bind,create=file,optional".into();
        Some(Mount { source, target: path, options })
    };
    FILES.iter().filter_map(|file| mount(format!("proc/{file}"))).collect()
}
