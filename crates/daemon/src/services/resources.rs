//! The hardware of this member: processors and memory.

use std::collections::BTreeMap;
use std::path::Path;

use api::Result;
use serde_json::{Value, json};

use crate::blocking;

/// The processors and the memory, in the form of Incus's `GET /1.0/resources`.
pub async fn own() -> Result<Value> {
    blocking::run(|| Ok(json!({ "cpu": processors(Path::new("/sys/devices/system/cpu")), "memory": memory() }))).await
}

fn number(path: &Path) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The processors by socket and core.
fn processors(root: &Path) -> Value {
    let mut sockets: BTreeMap<u64, BTreeMap<u64, Vec<u64>>> = BTreeMap::new();
    let mut total = 0;
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|n| n.strip_prefix("cpu")?.parse::<u64>().ok()) else { continue };
        let topology = entry.path().join("topology");
        let socket = sockets.entry(number(&topology.join("physical_package_id"))).or_default();
        socket.entry(number(&topology.join("core_id"))).or_default().push(id);
        total += 1;
    }
    let thread = |(n, id): (usize, &u64)| {
        let offline = root.join(format!("cpu{id}/online"));
        json!({ "id": id, "thread": n, "online": !offline.exists() || number(&offline) == 1 })
    };
    let core = |(id, threads): (&u64, &Vec<u64>)| {
        let mut threads = threads.clone();
        threads.sort_unstable();
        json!({ "core": id, "threads": threads.iter().enumerate().map(thread).collect::<Vec<_>>() })
    };
    let socket = |(id, cores): (&u64, &BTreeMap<u64, Vec<u64>>)| json!({ "socket": id, "cores": cores.iter().map(core).collect::<Vec<_>>() });
    json!({
        "architecture": std::env::consts::ARCH,
        "sockets": sockets.iter().map(socket).collect::<Vec<_>>(),
        "total": total,
    })
}

fn memory() -> Value {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default();
        let mut words = line.split_whitespace();
        let number: u64 = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        if words.next() == Some("kB") { number * 1024 } else { number }
    };
    let huge = field("Hugepagesize");
    json!({
        "total": field("MemTotal"),
        "used": field("MemTotal").saturating_sub(field("MemAvailable")),
        "hugepages_size": huge,
        "hugepages_total": field("HugePages_Total") * huge,
        "hugepages_used": field("HugePages_Total").saturating_sub(field("HugePages_Free")) * huge,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_has_processors_and_memory() {
        let own = own().await.unwrap();
        let threads: usize = own["cpu"]["sockets"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|s| s["cores"].as_array().unwrap())
            .map(|c| c["threads"].as_array().unwrap().len())
            .sum();
        assert!(threads > 0 && own["cpu"]["total"] == threads, "{own}");
        assert!(own["memory"]["total"].as_u64() > own["memory"]["used"].as_u64(), "{own}");
    }
}
