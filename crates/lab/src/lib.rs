//! A rack of machines in namespaces, for tests, the demo and benchmarks.
//!
//! A [`Machine`] has its own network, mounts, processes and host name, is plugged into a switch, and runs real
//! daemons. Switching it off ([`Machine::power_off`]) ends everything on it at once, as a pulled plug would;
//! cutting its cable ([`Lab::cut`]) leaves it running alone. Everything that a [`Lab`] makes is removed when it
//! is dropped, by the ids of processes that it started itself.
//!
//! [`history`] judges what clients of a store have seen.

pub mod cluster;
pub mod debian;
pub mod history;
pub mod machine;
pub mod run;

use std::path::{Path, PathBuf};
use std::process::Child;

pub use cluster::Cluster;
pub use machine::Machine;
pub use run::{Output, Result, must, skip};

/// A switch and the machines plugged into it.
pub struct Lab {
    /// Where everything of this lab lies.
    pub dir: PathBuf,
    /// The machines, first is number 1.
    pub machines: Vec<Machine>,
    name: String,
    switch: Option<Child>,
    keep: bool,
}

impl Lab {
    /// A lab with a switch and `machines` machines at 10.77.`net`.1, .2, …, below `dir` (made when missing).
    pub fn new(name: &str, dir: &Path, machines: usize) -> Result<Lab> {
        run::root()?;
        std::fs::create_dir_all(dir)?;
        let switch =
            run::namespace(&["--net"], "ip link set lo up && ip link add sw0 type bridge && ip link set sw0 up")?;
        let mut lab =
            Lab { dir: dir.to_owned(), machines: Vec::new(), name: name.to_owned(), switch: Some(switch), keep: false };
        for _ in 0..machines {
            lab.add_machine()?;
        }
        Ok(lab)
    }

    /// A lab in a temporary directory of its own.
    pub fn temporary(name: &str, machines: usize) -> Result<Lab> {
        let dir = tempfile::Builder::new().prefix(&format!("lab-{name}-")).tempdir()?.keep();
        Lab::new(name, &dir, machines)
    }

    /// Plugs another machine in and switches it on; its number.
    pub fn add_machine(&mut self) -> Result<usize> {
        let number = self.machines.len() + 1;
        let name = format!("server{number}");
        let machine = Machine::new(&name, number, &self.dir.join(&name));
        self.machines.push(machine);
        self.power_on(number)?;
        Ok(number)
    }

    /// Machine `number`, counted from 1.
    ///
    /// # Panics
    /// If there is none.
    pub fn machine(&mut self, number: usize) -> &mut Machine {
        &mut self.machines[number - 1]
    }

    /// Switches a machine on and plugs its cable in.
    pub fn power_on(&mut self, number: usize) -> Result<()> {
        let switch = self.switch_pid()?;
        self.machines[number - 1].power_on(switch)
    }

    /// Cuts the cable of a machine: it hears nobody, nobody hears it.
    pub fn cut(&self, number: usize) -> Result<()> {
        self.cable(number, "down")
    }

    /// Plugs the cable in again.
    pub fn mend(&self, number: usize) -> Result<()> {
        self.cable(number, "up")
    }

    fn cable(&self, number: usize, state: &str) -> Result<()> {
        let switch = self.switch_pid()?.to_string();
        must("nsenter", &["-t", &switch, "-n", "ip", "link", "set", &format!("port{number}"), state]).map(drop)
    }

    /// Leaves everything running when this value is dropped (`cargo xtask demo`).
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// The name given to [`Lab::new`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id of the switch's init; ending it takes the switch away.
    pub fn switch_pid(&self) -> Result<u32> {
        run::only_child(self.switch.as_ref().ok_or("the switch is gone")?.id())
    }

    /// The last lines of every daemon's log, for a failing test.
    pub fn logs(&self) -> String {
        self.machines.iter().map(|m| format!("--- {}\n{}\n", m.name, m.log_tail(60))).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for machine in &mut self.machines {
            machine.power_off();
        }
        if let Some(mut switch) = self.switch.take() {
            let _ = switch.kill();
            let _ = switch.wait();
        }
        run::sweep_cgroups(&self.dir);
        if std::env::var_os("LAB_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
