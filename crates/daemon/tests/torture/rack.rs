//! The machines: each daemon keeps its files on a small disk of its own. A daemon that has ended although it is to run
//! is started again, as an init would do.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use lab::cluster::{PATIENCE, Programs};
use lab::{Cluster, Lab, Result};

/// The size of a disk. What is not used of it takes no space.
const DISK: &str = "256M";

/// What the machines see as `/`, from where this program is; it changes when a machine is switched on again.
#[derive(Clone)]
pub struct Roots {
    roots: Arc<Vec<RwLock<PathBuf>>>,
    dirs: Arc<Vec<PathBuf>>,
}

impl Roots {
    fn new(lab: &Lab) -> Result<Roots> {
        let roots = Roots {
            roots: Arc::new(lab.machines.iter().map(|_| RwLock::default()).collect()),
            dirs: Arc::new(lab.machines.iter().map(lab::Machine::incus_dir).collect()),
        };
        (1..=lab.machines.len()).try_for_each(|n| roots.find(lab, n))?;
        Ok(roots)
    }

    fn find(&self, lab: &Lab, number: usize) -> Result<()> {
        let root = PathBuf::from(format!("/proc/{}/root", lab.machines[number - 1].init()?));
        *self.roots[number - 1].write().unwrap_or_else(PoisonError::into_inner) = root;
        Ok(())
    }

    /// The folder of the daemon of a machine.
    pub fn incus_dir(&self, number: usize) -> PathBuf {
        let root = self.roots[number - 1].read().unwrap_or_else(PoisonError::into_inner);
        let dir = &self.dirs[number - 1];
        root.join(dir.strip_prefix("/").unwrap_or(dir))
    }

    /// How many machines there are.
    pub fn size(&self) -> usize {
        self.dirs.len()
    }
}

/// The machines and the daemons on them.
pub struct Rack {
    /// The cluster on them.
    pub cluster: Cluster,
    /// The ways to their files.
    pub roots: Roots,
    /// Which daemons are to run.
    wanted: Vec<bool>,
    /// How far each daemon believes its clock to be ahead, in milliseconds.
    ahead: Vec<i64>,
    /// Daemons that ended by themselves.
    pub ended: Vec<usize>,
}

impl Rack {
    /// A formed cluster with an image `bb`.
    pub fn form(members: usize) -> Result<Rack> {
        let lab = Lab::temporary("torture", members)?;
        for machine in &lab.machines {
            let disk = disk(machine);
            machine.must("truncate", &["-s", DISK, &disk])?;
            machine.must("mkfs.ext4", &["-q", "-m", "0", &disk])?;
            mount(machine)?;
        }
        let roots = Roots::new(&lab)?;
        let cluster = Cluster::daemons(lab, Programs::built()?)?;
        cluster.bootstrap()?;
        for number in 2..=members {
            cluster.join(number)?;
        }
        cluster.import_busybox("bb")?;
        // The shortest there is: then much happens in a short time.
        cluster.incus(1, &["config", "set", "cluster.offline_threshold=11"])?;
        cluster.until("the votes", || {
            let voters = (1..=members).map(|n| cluster.member(1, n, 'r')).collect::<Result<Vec<_>>>()?;
            let votes = voters.iter().filter(|r| r.contains("database") && !r.contains("standby")).count();
            Ok((votes == 3).then_some(()))
        })?;
        Ok(Rack { cluster, roots, wanted: vec![true; members], ahead: vec![0; members], ended: Vec::new() })
    }

    /// Ends a daemon and lets it be.
    pub fn end(&mut self, number: usize, signal: &str) -> Result<()> {
        self.wanted[number - 1] = false;
        if !self.cluster.machine(number).daemon_runs() {
            return Ok(());
        }
        self.cluster.machine(number).end_daemon(signal, PATIENCE)
    }

    /// Starts a daemon; its clock is believed to be ahead by so many milliseconds.
    pub fn start(&mut self, number: usize, ahead: i64) -> Result<()> {
        (self.wanted[number - 1], self.ahead[number - 1]) = (true, ahead);
        let (incusd, ahead) = (self.cluster.programs.incusd.clone(), ahead.to_string());
        self.cluster.machine(number).start_daemon(&incusd, &[("INCUS_TEST_CLOCK_AHEAD", &ahead)])
    }

    /// Starts again what has ended by itself.
    pub fn keep_up(&mut self) -> Result<()> {
        for number in 1..=self.roots.size() {
            if self.wanted[number - 1] && !self.cluster.machine(number).daemon_runs() {
                self.ended.push(number);
                self.start(number, self.ahead[number - 1])?;
            }
        }
        Ok(())
    }

    /// Pulls the plug.
    pub fn power_off(&mut self, number: usize) {
        self.wanted[number - 1] = false;
        self.cluster.machine(number).power_off();
    }

    /// Switches a machine on again, with its disk and its daemon.
    pub fn power_on(&mut self, number: usize) -> Result<()> {
        self.cluster.lab.power_on(number)?;
        mount(&self.cluster.lab.machines[number - 1])?;
        self.roots.find(&self.cluster.lab, number)?;
        self.start(number, 0)
    }

    /// Runs a program on a machine.
    pub fn must(&self, number: usize, program: &str, args: &[&str]) -> Result<String> {
        self.cluster.lab.machines[number - 1].must(program, args)
    }

    /// Copies the daemons' logs to a folder that stays.
    pub fn keep_logs(&self, to: &Path) -> Result<()> {
        std::fs::create_dir_all(to)?;
        for machine in &self.cluster.lab.machines {
            std::fs::copy(machine.dir.join("incusd.log"), to.join(format!("{}.log", machine.name)))?;
        }
        Ok(())
    }

    /// Lines of the daemons' logs that never may be there.
    pub fn complaints(&self) -> Vec<String> {
        let bad = |line: &&str| line.contains("panicked at") || line.contains("differs from that of most others");
        let mut all = Vec::new();
        for machine in &self.cluster.lab.machines {
            let log = std::fs::read(machine.dir.join("incusd.log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            all.extend(log.lines().filter(bad).map(|line| format!("{}: {line}", machine.name)));
        }
        all
    }
}

/// Asks again until there is an answer, for at most that long; the reason why there was none at the end.
pub fn within<T>(patience: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let began = std::time::Instant::now();
    loop {
        match ask() {
            Err(e) if began.elapsed() > patience => return Err(format!("{e} (after {patience:?})").into()),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
            good => return good,
        }
    }
}

fn disk(machine: &lab::Machine) -> String {
    machine.dir.join("disk.ext4").to_string_lossy().into_owned()
}

/// What is mounted on a machine is seen there only, and gone when it is switched off.
fn mount(machine: &lab::Machine) -> Result<()> {
    let at = machine.incus_dir();
    std::fs::create_dir_all(&at)?;
    machine.must("mount", &["-o", "loop", &disk(machine), &at.to_string_lossy()]).map(drop)
}
