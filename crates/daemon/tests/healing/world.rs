//! A cluster whose members share a directory, and a witness in it: each start of the instance writes its own name into
//! the volume, ten times a second.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab::cluster::{HOLD, Programs};
use lab::{Cluster, Lab, Result};

/// Seconds of silence after which members are healed: the least there is.
pub const THRESHOLD: u64 = 11;

/// Each start has a name of its own; the time is the same for all, that of the kernel below.
const WITNESS: &str = r#"id=$(cat /proc/sys/kernel/random/uuid)
while :; do
    read up rest < /proc/uptime
    echo "$id $up" >> /witness
    usleep 100000
done
"#;

/// Four members, of which three vote.
pub struct World {
    pub cluster: Cluster,
}

/// One life of the instance, by what it has written.
#[derive(Clone, Debug)]
struct Life {
    id: String,
    first: f64,
    last: f64,
}

impl World {
    pub fn new(name: &str) -> Result<World> {
        let cluster = Cluster::form_in(Lab::temporary(name, 4)?, Programs::built()?, HOLD)?;
        let world = World { cluster };
        std::fs::create_dir(world.common())?;
        let source = format!("source={}", world.common().display());
        world.cluster.incus(1, &["storage", "create", "common", "shared", &source])?;
        world.cluster.import_busybox("bb")?;
        world.cluster.incus(1, &["config", "set", &format!("cluster.offline_threshold={THRESHOLD}")])?;
        world.healing(1, true)?;
        world.cluster.until("three votes", || Ok((world.voters()?.len() == 3).then_some(())))?;
        Ok(world)
    }

    /// Switches healing on or off.
    pub fn healing(&self, from: usize, on: bool) -> Result<()> {
        let seconds = if on { THRESHOLD } else { 0 };
        self.cluster.incus(from, &["config", "set", &format!("cluster.healing_threshold={seconds}")]).map(drop)
    }

    fn common(&self) -> PathBuf {
        self.cluster.lab.dir.join("common")
    }

    fn rootfs(&self, name: &str) -> PathBuf {
        self.common().join("containers").join(name).join("rootfs")
    }

    /// Makes a container in the shared pool with the witness in it, and starts it.
    pub fn witness(&self, name: &str, machine: usize) -> Result<()> {
        let target = format!("server{machine}");
        self.cluster.incus(1, &["init", "bb", name, "--storage", "common", "--target", &target])?;
        std::fs::write(self.rootfs(name).join("witness.sh"), WITNESS)?;
        let inittab = self.rootfs(name).join("etc/inittab");
        let text = std::fs::read_to_string(&inittab)?;
        std::fs::write(inittab, format!("{text}::respawn:/bin/sh /witness.sh\n"))?;
        self.cluster.incus(1, &["start", name])?;
        self.writes(name, "").map(drop)
    }

    /// The lives of the instance in the order in which they began to write.
    fn lives(&self, name: &str) -> Result<Vec<Life>> {
        let text = std::fs::read_to_string(self.rootfs(name).join("witness")).unwrap_or_default();
        let mut lives: Vec<Life> = Vec::new();
        for line in text.lines() {
            let Some((id, at)) = line.split_once(' ') else { continue };
            // The last line may be being written.
            let Ok(at) = at.parse::<f64>() else { continue };
            match lives.iter_mut().find(|l| l.id == id) {
                Some(life) => life.last = at,
                None => lives.push(Life { id: id.to_owned(), first: at, last: at }),
            }
        }
        Ok(lives)
    }

    /// Waits until a life that is not `than` writes; its name.
    pub fn writes(&self, name: &str, than: &str) -> Result<String> {
        self.cluster.until("the instance at work", || {
            Ok(self.lives(name)?.last().filter(|l| l.id != than && l.last > l.first).map(|l| l.id.clone()))
        })
    }

    /// Waits until that life writes on.
    pub fn writes_on(&self, name: &str, id: &str) -> Result<()> {
        let last = |lives: &[Life]| lives.last().filter(|l| l.id == id).map(|l| l.last);
        let before = last(&self.lives(name)?).ok_or_else(|| format!("{id} is not the one that writes"))?;
        self.cluster.until("the instance at work", || Ok(last(&self.lives(name)?).filter(|at| *at > before).map(drop)))
    }

    /// Waits until the lease of an instance's volume is renewed.
    pub fn renewed(&self, name: &str) -> Result<()> {
        let lease = || -> Result<Option<(PathBuf, String)>> {
            let mut files: Vec<PathBuf> =
                std::fs::read_dir(self.common().join("leases"))?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
            files.retain(|f| f.file_stem().is_some_and(|stem| *stem == *format!("containers_{name}")));
            files.sort_by_key(|f| f.extension().and_then(|n| n.to_str()?.parse::<u64>().ok()));
            let newest = files.pop();
            Ok(newest.and_then(|f| Some((f.clone(), std::fs::read_to_string(f).ok()?))))
        };
        let mut seen = None;
        self.cluster.until("a renewal of the lease", || {
            let now = lease()?;
            let renewed = matches!((&seen, &now), (Some((old, was)), Some((new, is))) if old == new && was != is);
            seen = now;
            Ok(renewed.then_some(()))
        })
    }

    /// No two lives overlap; how long the last change took, in seconds.
    pub fn one_after_another(&self, name: &str) -> Result<f64> {
        let lives = self.lives(name)?;
        for pair in lives.windows(2) {
            if pair[1].first <= pair[0].last {
                return Err(format!("two owners at the same time: {pair:?}\n{}", self.cluster.lab.logs()).into());
            }
        }
        let change = lives.windows(2).last().ok_or("it was started only once")?;
        Ok(change[1].first - change[0].last)
    }

    /// The machine on which an instance is.
    pub fn at(&self, from: usize, name: &str) -> Result<usize> {
        let list = self.cluster.instances(from)?;
        let (_, member) = list.get(name).ok_or_else(|| format!("no {name} in {list:?}"))?;
        Ok(member.trim_start_matches("server").parse()?)
    }

    /// Machines whose members vote.
    pub fn voters(&self) -> Result<Vec<usize>> {
        let mut all = Vec::new();
        for n in 1..=4 {
            let roles = self.cluster.member(1, n, 'r')?;
            if roles.contains("database") && !roles.contains("standby") {
                all.push(n);
            }
        }
        Ok(all)
    }

    /// The machine whose member leads.
    pub fn leader(&self, from: usize) -> Result<usize> {
        self.cluster.until("a leader", || Ok(self.cluster.leader(from).ok()))
    }

    /// Brings an instance to a machine.
    pub fn bring(&self, from: usize, name: &str, to: usize) -> Result<()> {
        if self.at(from, name)? != to {
            self.cluster.incus(from, &["move", name, "--target", &format!("server{to}")])?;
        }
        let runs = || Ok((self.cluster.instances(from)?[name].0 == "RUNNING").then_some(()));
        self.cluster.until("it runs", runs)
    }

    /// Waits until the member of a machine has that status, as machine `from` sees it.
    pub fn status(&self, from: usize, number: usize, wanted: &str) -> Result<()> {
        let what = format!("server{number} {wanted}");
        self.cluster.until(&what, || Ok((self.cluster.member(from, number, 's')? == wanted).then_some(())))
    }

    /// Restores a member as soon as machine `from` has heard that it is back.
    pub fn restore(&self, from: usize, member: usize) -> Result<()> {
        let name = format!("server{member}");
        self.cluster.until("the member back", || {
            let done = self.cluster.incus_in(from, &["cluster", "restore", &name, "--force"], "")?;
            match done.code {
                0 => Ok(Some(())),
                _ if done.err.contains("is offline") => Ok(None),
                _ => Err(format!("restoring {name}: {}\n{}", done.err, self.cluster.lab.logs()).into()),
            }
        })
    }

    /// Starts the daemon of a machine again.
    pub fn start(&mut self, number: usize) -> Result<()> {
        self.cluster.start_in(number, HOLD)
    }

    /// Waits until the member has been silent for so many seconds, as machine `from` sees it.
    pub fn silent(&self, from: usize, number: usize, seconds: u64) -> Result<()> {
        let began = Instant::now();
        self.cluster.until("the silence", || {
            let message = self.cluster.member(from, number, 'm')?;
            let told =
                message.strip_prefix("No heartbeat for ").and_then(|m| m.split_once("s (")?.0.parse::<u64>().ok());
            if began.elapsed() > Duration::from_secs(seconds) && told.is_none() {
                return Err(format!("server{number} is not silent: {message}").into());
            }
            Ok(told.filter(|s| *s >= seconds).map(drop))
        })
    }
}
