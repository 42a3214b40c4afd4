//! What a running container uses.

use std::collections::HashMap;
use std::fs;
use std::time::SystemTime;

use api::Result;
use api::error::Context as _;
use host::cgroup;
use host::net::{Link, Net};
use host::netns::Netns;
use host::process;
use incus_core::lxc_conf::Cgroups;

use super::Containers;

/// What a running container uses.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Process id of its init as the host sees it.
    pub pid: u32,
    /// When it was started.
    pub started: Option<SystemTime>,
    /// Nanoseconds of processor time.
    pub cpu: Option<u64>,
    /// Bytes of memory now.
    pub memory: Option<u64>,
    /// The most bytes of memory so far.
    pub memory_peak: Option<u64>,
    /// Bytes of memory that it may have; none without a limit.
    pub memory_limit: Option<u64>,
    /// Bytes of swap now.
    pub swap: Option<u64>,
    /// The most bytes of swap so far.
    pub swap_peak: Option<u64>,
    /// How many processes it has.
    pub processes: u64,
    /// Its network, by the names inside.
    pub network: Vec<Card>,
}

/// A network link in a container.
#[derive(Clone, Debug)]
pub struct Card {
    /// As seen inside.
    pub link: Link,
    /// The name of the other end on the host; empty if it has none.
    pub host_name: String,
}

impl Containers {
    /// What it uses; refuses if it does not run.
    pub fn usage(&self, id: &str) -> Result<Usage> {
        let pid = self.init(id)?.pid();
        let v1 = self.cgroups() == Cgroups::V1;
        let number = |v1_key, v2_key| self.number(id, if v1 { v1_key } else { v2_key });
        let memory = number("memory.usage_in_bytes", "memory.current");
        let memory_peak = number("memory.max_usage_in_bytes", "memory.peak");
        let (swap, swap_peak) = if v1 {
            // There it counts memory and swap together.
            let beyond = |key, memory: Option<u64>| Some(self.number(id, key)?.saturating_sub(memory?));
            let peak = beyond("memory.memsw.max_usage_in_bytes", memory_peak);
            (beyond("memory.memsw.usage_in_bytes", memory), peak)
        } else {
            (self.number(id, "memory.swap.current"), self.number(id, "memory.swap.peak"))
        };
        Ok(Usage {
            pid,
            started: process::started(pid),
            cpu: if v1 { self.number(id, "cpuacct.usage") } else { self.cpu_unified(id) },
            memory,
            memory_peak,
            memory_limit: number("memory.limit_in_bytes", "memory.max").filter(|n| *n < UNLIMITED),
            swap,
            swap_peak,
            processes: self.number(id, "pids.current").unwrap_or_else(|| self.count(id)),
            network: network(pid)?,
        })
    }

    fn value(&self, id: &str, key: &str) -> Option<String> {
        fs::read_to_string(self.cgroup_file(id, key)?).ok()
    }

    fn number(&self, id: &str, key: &str) -> Option<u64> {
        self.value(id, key)?.trim().parse().ok()
    }

    fn cpu_unified(&self, id: &str) -> Option<u64> {
        let text = self.value(id, "cpu.stat")?;
        let micros: u64 = text.lines().find_map(|l| l.strip_prefix("usage_usec "))?.trim().parse().ok()?;
        Some(micros * 1000)
    }

    fn count(&self, id: &str) -> u64 {
        let places = self.hierarchies.places(&self.cgroup(id));
        places.iter().map(|p| cgroup::processes(p).len() as u64).max().unwrap_or(0)
    }
}

/// What the kernel says where there is no limit is the largest number of pages.
const UNLIMITED: u64 = 1 << 62;

/// The network of the namespace of a process.
fn network(pid: u32) -> Result<Vec<Card>> {
    let pid = i32::try_from(pid).map_err(|e| api::Error::internal(e.to_string()))?;
    let inside = Netns::of_pid(pid).context("Opening its network")?;
    let links = Net::open_in(&inside).and_then(|net| net.links()).context("Reading its network")?;
    let here = Net::open().and_then(|net| net.links()).context("Reading the network")?;
    let here: HashMap<u32, &Link> = here.iter().map(|l| (l.index, l)).collect();
    let card = |link: Link| {
        // The two ends of a veth name each other by index.
        let peer = here.get(&link.parent).filter(|p| link.kind == "veth" && p.kind == "veth");
        let host_name = peer.filter(|p| p.parent == link.index).map(|p| p.name.clone()).unwrap_or_default();
        Card { link, host_name }
    };
    Ok(links.into_iter().map(card).collect())
}
