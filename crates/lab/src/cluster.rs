//! A cluster of real daemons on the machines of a lab.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::run::{Output, Result, until};
use crate::{Lab, Machine};

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The daemon.
    pub incusd: PathBuf,
    /// The client that drives it: ours, or Debian's.
    pub incus: PathBuf,
}

impl Programs {
    /// Those that cargo built beside the running test, bench or xtask program, or in `$INCUS_BIN`.
    pub fn built() -> Result<Programs> {
        let here = match std::env::var_os("INCUS_BIN") {
            Some(dir) => PathBuf::from(dir),
            None => {
                let exe = std::env::current_exe()?;
                let dir = exe.parent().ok_or("no parent directory")?;
                if dir.ends_with("deps") { dir.parent().unwrap_or(dir).to_owned() } else { dir.to_owned() }
            }
        };
        let programs = Programs { incusd: here.join("incusd"), incus: here.join("incus") };
        for program in [&programs.incusd, &programs.incus] {
            if !program.exists() {
                return Err(format!("{} is missing: cargo build --workspace first", program.display()).into());
            }
        }
        Ok(programs)
    }

    /// The daemon as a later version could be, for tests of upgrades: `cargo xtask next` builds it.
    pub fn next(&self) -> Result<PathBuf> {
        let next = self.incusd.with_file_name("next").join("incusd");
        if next.exists() {
            Ok(next)
        } else {
            Err(format!("{} is missing: cargo xtask next first", next.display()).into())
        }
    }

    /// The same daemon, driven by the client of Debian's package `incus-client`; `None` if it isn't installed.
    pub fn with_stock_client(self) -> Option<Programs> {
        let incus = PathBuf::from("/usr/bin/incus");
        incus.exists().then_some(Programs { incus, ..self })
    }

    /// Those with our client, named `ours`, and those with Debian's, named `stock`, where it is installed.
    pub fn clients() -> Result<Vec<(&'static str, Programs)>> {
        let ours = Programs::built()?;
        let mut all = vec![("ours", ours.clone())];
        match ours.with_stock_client() {
            Some(stock) => all.push(("stock", stock)),
            None => eprintln!("SKIPPED: Debian's client isn't installed, only ours is tried"),
        }
        Ok(all)
    }
}

/// How long a daemon may take to become ready, and anything else that should take a moment.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Environment of programs that tests can hold at points of what they do: see [`Cluster::hold`].
pub const HOLD: &[(&str, &str)] = &[("INCUS_TEST_HOLD", "1")];

/// A lab with a cluster on it.
pub struct Cluster {
    /// The machines.
    pub lab: Lab,
    /// What runs on them.
    pub programs: Programs,
}

impl Cluster {
    /// A lab of `size` machines with a daemon on each, not yet initialised.
    pub fn daemons(lab: Lab, programs: Programs) -> Result<Cluster> {
        Cluster::daemons_in(lab, programs, &[])
    }

    /// The same, with daemons that have these variables in their environment.
    pub fn daemons_in(mut lab: Lab, programs: Programs, env: &[(&str, &str)]) -> Result<Cluster> {
        for machine in &mut lab.machines {
            machine.start_daemon(&programs.incusd, env)?;
        }
        for machine in &mut lab.machines {
            machine.wait_ready(PATIENCE)?;
        }
        Ok(Cluster { lab, programs })
    }

    /// A formed cluster.
    pub fn form(lab: Lab, programs: Programs) -> Result<Cluster> {
        Cluster::form_in(lab, programs, &[])
    }

    /// The same, with daemons that have these variables in their environment.
    pub fn form_in(lab: Lab, programs: Programs, env: &[(&str, &str)]) -> Result<Cluster> {
        let cluster = Cluster::daemons_in(lab, programs, env)?;
        cluster.bootstrap()?;
        let size = cluster.lab.machines.len();
        for number in 2..=size {
            cluster.join(number)?;
        }
        // Else members would change by themselves while a test edits them.
        if size >= 3 {
            cluster.vote(1, &[1, 2, 3])?;
        }
        Ok(cluster)
    }

    /// A cluster in a temporary lab, named for the test that wants it.
    pub fn temporary(name: &str, size: usize) -> Result<Cluster> {
        Cluster::form(Lab::temporary(name, size)?, Programs::built()?)
    }

    /// Makes machine 1 the first member, with a pool `local` (dir) and a root disk on it in the default profile.
    pub fn bootstrap(&self) -> Result<()> {
        self.incus_in(1, &["admin", "init", "--preseed"], &self.bootstrap_preseed())?.ok().map(drop)
    }

    /// What [`Cluster::bootstrap`] wants the first member to be.
    pub fn bootstrap_preseed(&self) -> String {
        let first = &self.lab.machines[0];
        format!(
            "config:\n  core.https_address: {address}:8443\ncluster:\n  enabled: true\n  server_name: {name}\n\
             storage_pools:\n- name: local\n  driver: dir\n\
             profiles:\n- name: default\n  devices:\n    root:\n      path: /\n      pool: local\n      type: disk\n",
            address = first.address(),
            name = first.name,
        )
    }

    /// Joins machine `number` with a token from machine 1.
    pub fn join(&self, number: usize) -> Result<()> {
        let token = self.token(&self.lab.machines[number - 1].name)?;
        self.join_with(number, &token)?.ok().map(drop)
    }

    /// A join token from machine 1.
    pub fn token(&self, name: &str) -> Result<String> {
        let out = self.incus(1, &["cluster", "add", name])?;
        Ok(out.lines().last().unwrap_or_default().trim().to_owned())
    }

    /// Tries to join machine `number` with a token.
    pub fn join_with(&self, number: usize, token: &str) -> Result<Output> {
        let machine = &self.lab.machines[number - 1];
        let preseed = format!(
            "cluster:\n  enabled: true\n  server_address: {address}:8443\n  cluster_token: {token}\n",
            address = machine.address(),
        );
        self.incus_in(number, &["admin", "init", "--preseed"], &preseed)
    }

    /// Runs the client on machine `number`; it has to succeed.
    pub fn incus(&self, number: usize, args: &[&str]) -> Result<String> {
        self.incus_in(number, args, "")?.ok().map_err(|e| format!("{number}: incus {}: {e}", args.join(" ")).into())
    }

    /// Runs the client on machine `number`; it has to be refused. What it said on standard error.
    pub fn refused(&self, number: usize, args: &[&str]) -> Result<String> {
        let said = self.incus_in(number, args, "")?.refused();
        said.map_err(|e| format!("{number}: incus {}: {e}", args.join(" ")).into())
    }

    /// Runs the client on machine `number`; it has to be refused in words that hold these.
    pub fn refused_with(&self, number: usize, args: &[&str], why: &str) -> Result<()> {
        match self.refused(number, args)? {
            said if said.contains(why) => Ok(()),
            said => Err(format!("{number}: incus {}: {said}, and not: {why}", args.join(" ")).into()),
        }
    }

    /// Runs the client on machine `number` with the given standard input.
    pub fn incus_in(&self, number: usize, args: &[&str], stdin: &str) -> Result<Output> {
        let program = self.programs.incus.to_string_lossy().into_owned();
        self.lab.machines[number - 1].run(&program, args, stdin)
    }

    /// Builds an image of BusyBox and imports it on machine 1 under this alias.
    pub fn import_busybox(&self, alias: &str) -> Result<()> {
        let machine = &self.lab.machines[0];
        let file = machine.dir.join("busybox.tar.gz").to_string_lossy().into_owned();
        let incusd = self.programs.incusd.to_string_lossy().into_owned();
        machine.must(&incusd, &["forkimage", "busybox", &file])?;
        self.incus(1, &["image", "import", &file, "--alias", alias]).map(drop)
    }

    /// `GET` of an API path on machine `number`: the value in the envelope.
    pub fn get(&self, number: usize, path: &str) -> Result<Value> {
        let answer: Value = serde_json::from_str(&self.incus(number, &["query", path])?)?;
        Ok(answer)
    }

    /// Waits until `ask` gives an answer.
    pub fn until<T>(&self, what: &str, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        until(PATIENCE, ask).map_err(|e| format!("{what}: {e}\n{}", self.lab.logs()).into())
    }

    /// Column `column` (as `cluster list -c`) of the member on machine `number`, seen from machine `from`.
    pub fn member(&self, from: usize, number: usize, column: char) -> Result<String> {
        let columns = format!("n{column}");
        let list = self.incus(from, &["cluster", "list", "-f", "csv", "-c", &columns])?;
        let name = format!("{},", self.lab.machines[number - 1].name);
        let row = list.lines().find_map(|l| l.strip_prefix(&name)).ok_or_else(|| format!("no {name} in {list}"))?;
        Ok(row.trim_matches('"').to_owned())
    }

    /// State and member of all instances, by name, as machine `from` tells.
    pub fn instances(&self, from: usize) -> Result<BTreeMap<String, (String, String)>> {
        let text = self.incus(from, &["list", "--all-projects", "-f", "csv", "-c", "nsL"])?;
        let row = |line: &str| {
            let mut columns = line.split(',').map(str::to_owned);
            Some((columns.next()?, (columns.next()?, columns.next()?)))
        };
        Ok(text.lines().filter_map(row).collect())
    }

    /// Waits until the members on these machines vote, as machine `from` sees it.
    pub fn vote(&self, from: usize, numbers: &[usize]) -> Result<()> {
        self.until("the votes", || {
            let roles = numbers.iter().map(|n| self.member(from, *n, 'r')).collect::<Result<Vec<_>>>()?;
            Ok(roles.iter().all(|r| r.contains("database") && !r.contains("standby")).then_some(()))
        })
    }

    /// The number of the machine that leads the database, as machine `from` sees it.
    pub fn leader(&self, from: usize) -> Result<usize> {
        (1..=self.lab.machines.len())
            .find(|n| self.member(from, *n, 'r').is_ok_and(|roles| roles.contains("database-leader")))
            .ok_or_else(|| "no leader".into())
    }

    /// Machine `number`.
    pub fn machine(&mut self, number: usize) -> &mut Machine {
        self.lab.machine(number)
    }

    /// Ends the daemon of machine `number` with SIGKILL.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.lab.machine(number).end_daemon("KILL", Duration::from_secs(10))
    }

    /// Starts the daemon of machine `number` (again) and waits until it is ready.
    pub fn start(&mut self, number: usize) -> Result<()> {
        self.start_in(number, &[])
    }

    /// The same, with these variables in the daemon's environment.
    pub fn start_in(&mut self, number: usize, env: &[(&str, &str)]) -> Result<()> {
        let incusd = self.programs.incusd.clone();
        let machine = self.lab.machine(number);
        machine.start_daemon(&incusd, env)?;
        machine.wait_ready(PATIENCE)
    }

    /// The daemon of machine `number` is to wait when it comes to that point, until it is released or killed. It needs
    /// [`HOLD`] in its environment.
    pub fn hold(&self, number: usize, point: &str) -> Result<()> {
        // Of one that was killed where it was held.
        let _ = std::fs::remove_file(self.note(number, "held"));
        Ok(std::fs::write(self.note(number, "hold"), point)?)
    }

    /// Waits until it has come to the point.
    pub fn held(&self, number: usize) -> Result<()> {
        let point = std::fs::read_to_string(self.note(number, "hold"))?;
        self.until(&format!("server{number} at {point}"), || Ok(self.came(number).then_some(())))
    }

    /// True if it has come to the point since that was asked last.
    pub fn came(&self, number: usize) -> bool {
        self.note(number, "hold").exists() && std::fs::remove_file(self.note(number, "held")).is_ok()
    }

    /// Lets it go on, and holds it no more.
    pub fn release(&self, number: usize) {
        let _ = std::fs::remove_file(self.note(number, "hold"));
    }

    /// A file by which a daemon is told where to wait, or tells that it does.
    fn note(&self, number: usize, name: &str) -> PathBuf {
        self.lab.machines[number - 1].incus_dir().join(name)
    }
}

/// Where the contract with Incus lies (`../shared` beside the work tree), if it is there.
pub fn contract(workspace: &Path) -> Option<PathBuf> {
    let dir = workspace.join("../shared/contract");
    dir.is_dir().then_some(dir)
}
