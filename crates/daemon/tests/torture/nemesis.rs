//! What is done to the machines: processes, network and disks, several things at a time, all of it from one seed.
//!
//! Clocks: a time namespace does not move the clock that daemons read. A daemon that starts again is told that its own
//! is ahead or behind, which is what it tells others of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lab::Result;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::rack::Rack;

/// What can be done to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// SIGKILL for its daemon.
    Kill,
    /// SIGTERM for its daemon.
    Restart,
    /// SIGSTOP for its daemon.
    Pause,
    /// The plug is pulled: all that runs on the machine is gone.
    PowerOff,
    /// It hears nobody and nobody hears it.
    Isolated,
    /// It hears nobody.
    Deaf,
    /// Nobody hears it.
    Mute,
    /// It and one of the others don't hear each other.
    Apart,
    /// Its disk is full.
    FullDisk,
    /// Its disk hangs.
    HungDisk,
    /// Its disk hangs half of the time.
    SlowDisk,
}

use Fault::*;

/// All, those that hit harder more often than once.
const ALL: [Fault; 13] =
    [Kill, Kill, Kill, Restart, Pause, PowerOff, Isolated, Deaf, Mute, Apart, FullDisk, HungDisk, SlowDisk];

fn chosen() -> Vec<Fault> {
    let named = std::env::var("TORTURE_FAULTS").unwrap_or_default();
    let wanted = |f: &Fault| named.is_empty() || named.split(',').any(|name| name == format!("{f:?}"));
    ALL.into_iter().filter(wanted).collect()
}

/// What of a machine a fault touches: two that touch the same thing don't overlap.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Process,
    Network,
    Disk,
}

impl Fault {
    const fn touches(self) -> &'static [Part] {
        match self {
            Kill | Restart | Pause => &[Part::Process],
            Isolated | Deaf | Mute | Apart => &[Part::Network],
            FullDisk => &[Part::Disk],
            // What waits for a disk that hangs can't be ended.
            HungDisk | SlowDisk => &[Part::Disk, Part::Process],
            PowerOff => &[Part::Process, Part::Network, Part::Disk],
        }
    }

    /// The longest that it lasts, in milliseconds: some longer than it takes to count as offline.
    const fn longest(self) -> u64 {
        match self {
            HungDisk => 6_000,
            FullDisk | SlowDisk => 10_000,
            _ => 18_000,
        }
    }
}

/// Most last no longer than so many milliseconds.
const SHORT: u64 = 4_000;

/// A fault that lasts.
struct Active {
    fault: Fault,
    member: usize,
    /// The one that it does not hear, or the same.
    other: usize,
    /// Names what was done, to be taken back.
    id: usize,
    end: Instant,
}

/// Does it.
pub struct Nemesis {
    rng: StdRng,
    /// What it does: all, or what `TORTURE_FAULTS` names (`Kill,Pause`).
    kinds: Vec<Fault>,
    active: Vec<Active>,
    next: Instant,
    peaceful: bool,
    /// How many may last at the same time, for now.
    at_once: usize,
    ids: usize,
    /// How often each fault was done.
    pub done: BTreeMap<String, usize>,
    /// When enough members for a majority were left in peace, in microseconds of the diary.
    pub peace: Vec<(u64, u64)>,
}

impl Nemesis {
    /// One that does nothing yet.
    pub fn new(seed: u64) -> Nemesis {
        Nemesis {
            rng: StdRng::seed_from_u64(seed),
            kinds: chosen(),
            active: Vec::new(),
            next: Instant::now(),
            peaceful: false,
            at_once: 1,
            ids: 0,
            done: BTreeMap::new(),
            peace: Vec::new(),
        }
    }

    /// Goes on for a moment; `leader` is the member that leads, if that is known.
    pub fn turn(&mut self, rack: &mut Rack, began: Instant, leader: impl FnOnce() -> Option<usize>) -> Result<()> {
        rack.keep_up()?;
        let now = Instant::now();
        let over: Vec<usize> = (0..self.active.len()).filter(|i| self.active[*i].end <= now).collect();
        for i in over.into_iter().rev() {
            let ended = self.active.swap_remove(i);
            self.end(rack, &ended)?;
        }
        self.shake(rack)?;
        if self.next > now || self.active.len() >= self.at_once {
            return Ok(());
        }
        self.next = now + Duration::from_millis(self.rng.random_range(500..4_000));
        // With one at a time a majority is left, with several at times not.
        self.at_once = self.rng.random_range(1..rack.roots.size());
        let fault = *self.kinds.choose(&mut self.rng).unwrap_or(&Kill);
        let member = match self.rng.random_bool(0.4).then(leader).flatten() {
            Some(leader) => leader,
            None => self.rng.random_range(1..=rack.roots.size()),
        };
        let busy = |a: &Active| a.member == member && a.fault.touches().iter().any(|p| fault.touches().contains(p));
        if self.active.iter().any(busy) {
            return Ok(());
        }
        let longest = if self.rng.random_bool(0.3) { fault.longest() } else { SHORT };
        let lasts = self.rng.random_range(300..longest);
        println!("{:>6.1} s  {fault:?} server{member} for {:.1} s", began.elapsed().as_secs_f64(), lasts as f64 / 1e3);
        *self.done.entry(format!("{fault:?}")).or_default() += 1;
        self.ids += 1;
        let others: Vec<usize> = (1..=rack.roots.size()).filter(|n| *n != member).collect();
        let other = others.choose(&mut self.rng).filter(|_| fault == Apart).copied().unwrap_or(member);
        let active = Active { fault, member, other, id: self.ids, end: now + Duration::from_millis(lasts) };
        // Begun in part is begun: it is taken back all the same.
        let begun = self.begin(rack, &active);
        self.active.push(active);
        begun
    }

    /// Notes whether a majority is left in peace now.
    pub fn note(&mut self, members: usize, now: u64) {
        let touched: BTreeSet<usize> = self.active.iter().flat_map(|a| [a.member, a.other]).collect();
        if touched.len() > (members - 1) / 2 {
            self.peaceful = false;
        } else if self.peaceful {
            self.peace.last_mut().iter_mut().for_each(|last| last.1 = now);
        } else {
            self.peaceful = true;
            self.peace.push((now, now));
        }
    }

    /// Takes everything back.
    pub fn heal(&mut self, rack: &mut Rack) -> Result<()> {
        let all = std::mem::take(&mut self.active);
        let ended: Vec<Result<()>> = all.iter().map(|active| self.end(rack, active)).collect();
        ended.into_iter().collect()
    }

    fn begin(&mut self, rack: &mut Rack, active: &Active) -> Result<()> {
        let member = active.member;
        match active.fault {
            Kill => rack.end(member, "KILL"),
            Restart => rack.end(member, "TERM"),
            Pause => rack.cluster.machine(member).signal_daemon("STOP"),
            PowerOff => {
                rack.power_off(member);
                Ok(())
            }
            Isolated => filter(rack, active, &["iifname \"eth0\" drop"], &["oifname \"eth0\" drop"]),
            Deaf => filter(rack, active, &["iifname \"eth0\" drop"], &[]),
            Mute => filter(rack, active, &[], &["oifname \"eth0\" drop"]),
            Apart => {
                let address = rack.cluster.lab.machines[active.other - 1].address();
                let (from, to) = (format!("ip saddr {address} drop"), format!("ip daddr {address} drop"));
                filter(rack, active, &[&from], &[&to])
            }
            FullDisk => {
                // Most of it at once; then all that is left.
                let script = "cd $0; fallocate -l $(df --output=avail -B1 . | tail -n 1) ballast; \
                              dd if=/dev/zero of=ballast2 bs=4k 2>/dev/null; true";
                let dir = dir_of(rack, member);
                rack.must(member, "sh", &["-c", script, &dir]).map(drop)
            }
            HungDisk | SlowDisk => freeze(rack, member, true),
        }
    }

    fn end(&mut self, rack: &mut Rack, active: &Active) -> Result<()> {
        let member = active.member;
        match active.fault {
            Kill | Restart => {
                let ahead = [0, 0, 0, 60_000, -60_000];
                let ahead = *ahead.choose(&mut self.rng).unwrap_or(&0);
                rack.start(member, ahead)
            }
            Pause => rack.cluster.machine(member).signal_daemon("CONT"),
            PowerOff => rack.power_on(member),
            Isolated | Deaf | Mute | Apart => {
                rack.must(member, "nft", &["delete", "table", "inet", &table(active)]).map(drop)
            }
            FullDisk => {
                let script = "rm -f $0/ballast $0/ballast2";
                let dir = dir_of(rack, member);
                rack.must(member, "sh", &["-c", script, &dir]).map(drop)
            }
            HungDisk => freeze(rack, member, false),
            SlowDisk => {
                // It may have just been let go.
                let _ = freeze(rack, member, false);
                Ok(())
            }
        }
    }

    /// Slow disks hang and are let go in turn.
    fn shake(&mut self, rack: &Rack) -> Result<()> {
        for active in self.active.iter().filter(|a| a.fault == SlowDisk) {
            let hangs = self.rng.random_bool(0.5);
            // It does already, or does not.
            let _ = freeze(rack, active.member, hangs);
        }
        Ok(())
    }
}

fn dir_of(rack: &Rack, member: usize) -> String {
    rack.cluster.lab.machines[member - 1].incus_dir().to_string_lossy().into_owned()
}

fn freeze(rack: &Rack, member: usize, on: bool) -> Result<()> {
    let flag = if on { "--freeze" } else { "--unfreeze" };
    rack.must(member, "fsfreeze", &[flag, &dir_of(rack, member)]).map(drop)
}

fn table(active: &Active) -> String {
    format!("nemesis{}", active.id)
}

/// Drops what comes in or goes out by these rules.
fn filter(rack: &Rack, active: &Active, incoming: &[&str], outgoing: &[&str]) -> Result<()> {
    let chain = |hook: &str, rules: &[&str]| {
        format!("chain {hook} {{\ntype filter hook {hook} priority 0; policy accept;\n{}\n}}\n", rules.join("\n"))
    };
    let (name, incoming, outgoing) = (table(active), chain("input", incoming), chain("output", outgoing));
    let rules = format!("table inet {name} {{\n{incoming}{outgoing}}}\n");
    rack.cluster.lab.machines[active.member - 1].run("nft", &["-f", "-"], &rules)?.ok().map(drop)
}
