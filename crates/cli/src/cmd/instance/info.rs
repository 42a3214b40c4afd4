//! `incus info`.

use api::{Error, Result};
use serde_json::{Map, Value};

use super::{snapshot, url};
use crate::{
    cmd::{path, s},
    ctx::Ctx,
    output::{Style, bytes_decimal, bytes_iec, date, is_set, render, sort_rows, to_yaml},
    server::Server,
    transport::empty,
};

/// Show information about an instance or a server
#[derive(clap::Args)]
pub struct Info {
    #[arg(value_name = "[remote:][instance]")]
    name: Option<String>,
    /// The resources that the server has
    #[arg(long)]
    resources: bool,
    /// Who may use the instance
    #[arg(long)]
    show_access: bool,
    /// The last lines of the instance's log
    #[arg(long)]
    show_log: bool,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Info {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_optional(self.name.as_deref())?;
        if self.show_access {
            let access = server.get(&(url(&name) + "/access")).await?.value;
            println!("{}", to_yaml(&access));
            return Ok(());
        }
        if name.is_empty() {
            let server = server.on(self.target.as_deref());
            return if self.resources { resources(&server).await } else { server_info(&server).await };
        }
        if self.target.is_some() {
            return Err(Error::bad_request("--target cannot be used with instances"));
        }
        instance(&server, &name).await?;
        if self.show_log { log(&server, &name).await } else { Ok(()) }
    }
}

async fn server_info(server: &Server) -> Result<()> {
    let Value::Object(map) = server.get("/1.0").await?.value else {
        return Err(Error::internal("The server's answer is not a map"));
    };
    // The list of extensions is long and says little to people: their number stands for it.
    let shown: Map<String, Value> = map
        .into_iter()
        .map(|(key, value)| match key.as_str() {
            "api_extensions" => ("api_extensions_count".into(), value.as_array().map_or(0, Vec::len).into()),
            _ => (key, value),
        })
        .collect();
    println!("{}", to_yaml(&Value::Object(shown)));
    Ok(())
}

async fn resources(server: &Server) -> Result<()> {
    let all = server.get("/1.0/resources").await?.value;
    let n = |v: &Value| v.as_i64().unwrap_or(0);
    println!("System:\n  Type: {}", s(&all["system"], "type"));
    let load = &all["load"];
    if load.is_object() {
        println!("\nLoad:\n  Processes: {}", load["Processes"]);
        println!("  Average: {} {} {}", load["Average1Min"], load["Average5Min"], load["Average10Min"]);
    }
    println!("\nCPU:\n  Architecture: {}", s(&all["cpu"], "architecture"));
    for socket in all["cpu"]["sockets"].as_array().into_iter().flatten() {
        println!("  Vendor: {}\n  Name: {}", s(socket, "vendor"), s(socket, "name"));
        if let Some(caches) = socket["cache"].as_array().filter(|c| !c.is_empty()) {
            println!("  Caches:");
            for c in caches {
                println!("    - Level {} (type: {}): {}", c["level"], s(c, "type"), round_iec(n(&c["size"])));
            }
        }
        println!("  Cores:");
        for core in socket["cores"].as_array().into_iter().flatten() {
            println!("    - Core {}\n      Frequency: {}Mhz\n      Threads:", core["core"], n(&core["frequency"]));
            for t in core["threads"].as_array().into_iter().flatten() {
                let (thread, id, online, node) = (&t["thread"], &t["id"], &t["online"], &t["numa_node"]);
                println!("        - {thread} (id: {id}, online: {online}, NUMA node: {node})");
            }
        }
    }
    let (used, total) = (n(&all["memory"]["used"]), n(&all["memory"]["total"]));
    println!(
        "\nMemory:\n  Free: {}\n  Used: {}\n  Total: {}",
        bytes_iec(total - used),
        bytes_iec(used),
        bytes_iec(total)
    );
    for card in all["network"]["cards"].as_array().into_iter().flatten() {
        println!("\nNIC:\n  NUMA node: {}\n  PCI address: {}", n(&card["numa_node"]), s(card, "pci_address"));
        println!("  Driver: {} ({})", s(card, "driver"), s(card, "driver_version"));
    }
    for disk in all["storage"]["disks"].as_array().into_iter().flatten() {
        println!(
            "\nDisk:\n  NUMA node: {}\n  ID: {}\n  Device: {}",
            n(&disk["numa_node"]),
            s(disk, "id"),
            s(disk, "device")
        );
        println!("  Type: {}\n  Size: {}", s(disk, "type"), bytes_iec(n(&disk["size"])));
        println!("  Read-Only: {}\n  Removable: {}", disk["read_only"], disk["removable"]);
    }
    Ok(())
}

/// A size without decimals, as caches have it.
fn round_iec(n: i64) -> String {
    let text = bytes_iec(n);
    text.replace(".00", "")
}

async fn instance(server: &Server, name: &str) -> Result<()> {
    let i = server.get(&(url(name) + "?recursion=1")).await?.value;
    let state = match i.get("state").filter(|s| s.is_object()) {
        Some(state) => state.clone(),
        None => server.get(&(url(name) + "/state")).await.map(|r| r.value).unwrap_or(Value::Null),
    };
    println!("Name: {}", s(&i, "name"));
    println!("Description: {}", s(&i, "description"));
    println!("Status: {}", s(&i, "status").to_uppercase());
    let ephemeral = if i["ephemeral"] == true { " (ephemeral)" } else { "" };
    println!("Type: {}{ephemeral}", s(&i, "type"));
    println!("Architecture: {}", s(&i, "architecture"));
    if server.is_clustered().await? {
        println!("Location: {}", s(&i, "location"));
    }
    let pid = state["pid"].as_i64().unwrap_or(0);
    if pid > 0 {
        println!("PID: {pid}");
    }
    if is_set(&i["created_at"]) {
        println!("Created: {}", date(&i["created_at"]));
    }
    if is_set(&i["last_used_at"]) {
        println!("Last Used: {}", date(&i["last_used_at"]));
    }
    if is_set(&state["started_at"]) {
        println!("Started: {}", date(&state["started_at"]));
    }
    if pid > 0 {
        usage(&state);
    }
    let snapshots = match i["snapshots"].as_array() {
        Some(all) => all.clone(),
        None => server.list(&(url(name) + "/snapshots?recursion=1")).await?,
    };
    if !snapshots.is_empty() {
        println!("\nSnapshots:");
        print!("{}", table(snapshot::COLUMNS, "nTEs", &snapshots)?);
    }
    let backups = i["backups"].as_array().cloned().unwrap_or_default();
    if !backups.is_empty() {
        println!("\nBackups:");
        print!("{}", table(BACKUPS, "nTEio", &backups)?);
    }
    Ok(())
}

const BACKUPS: &[crate::output::Column<Value>] = columns! {
    'n' "NAME" |b| s(b, "name").rsplit('/').next().unwrap_or_default().to_owned();
    'T' "TAKEN AT" |b| date(&b["created_at"]);
    'E' "EXPIRES AT" |b| date(&b["expires_at"]);
    'i' "INSTANCE ONLY" |b| crate::output::level(b["instance_only"] == true);
    'o' "OPTIMIZED STORAGE" |b| crate::output::level(b["optimized_storage"] == true);
};

fn table(all: &[crate::output::Column<Value>], spec: &str, items: &[Value]) -> Result<String> {
    let picked = crate::output::columns(all, spec)?;
    let mut rows: Vec<Vec<String>> = items.iter().map(|i| picked.iter().map(|c| (c.cell)(i)).collect()).collect();
    sort_rows(&mut rows);
    let header: Vec<String> = picked.iter().map(|c| c.header.to_owned()).collect();
    Ok(render(Style::Ascii, Some(&header), &rows))
}

fn usage(state: &Value) {
    let n = |v: &Value| v.as_i64().unwrap_or(0);
    println!("\nResources:\n  Processes: {}", n(&state["processes"]));
    let disks: Vec<(&String, i64)> =
        state["disk"].as_object().into_iter().flatten().map(|(k, d)| (k, n(&d["usage"]))).filter(|d| d.1 > 0).collect();
    if !disks.is_empty() {
        println!("  Disk usage:");
        for (name, used) in disks {
            println!("    {name}: {}", bytes_iec(used));
        }
    }
    println!("  CPU usage:\n    CPU usage (in seconds): {}", n(&state["cpu"]["usage"]) / 1_000_000_000);
    let memory = &state["memory"];
    let lines: Vec<String> = [
        ("Memory (current)", "usage"),
        ("Memory (peak)", "usage_peak"),
        ("Swap (current)", "swap_usage"),
        ("Swap (peak)", "swap_usage_peak"),
    ]
    .iter()
    .filter(|(_, field)| n(&memory[*field]) > 0)
    .map(|(name, field)| format!("    {name}: {}", bytes_iec(n(&memory[*field]))))
    .collect();
    if !lines.is_empty() {
        println!("  Memory usage:\n{}", lines.join("\n"));
    }
    let Some(network) = state["network"].as_object().filter(|n| !n.is_empty()) else { return };
    println!("  Network usage:");
    for (name, nic) in network {
        println!("    {name}:\n      Type: {}\n      State: {}", s(nic, "type"), s(nic, "state").to_uppercase());
        if !s(nic, "host_name").is_empty() {
            println!("      Host interface: {}", s(nic, "host_name"));
        }
        if !s(nic, "hwaddr").is_empty() {
            println!("      MAC address: {}", s(nic, "hwaddr"));
        }
        println!("      MTU: {}", n(&nic["mtu"]));
        let counters = &nic["counters"];
        println!("      Bytes received: {}", bytes_decimal(n(&counters["bytes_received"])));
        println!("      Bytes sent: {}", bytes_decimal(n(&counters["bytes_sent"])));
        println!("      Packets received: {}", n(&counters["packets_received"]));
        println!("      Packets sent: {}", n(&counters["packets_sent"]));
        println!("      IP addresses:");
        for a in nic["addresses"].as_array().into_iter().flatten() {
            let family = if a["family"] == "inet" { "inet: " } else { "inet6:" };
            println!("        {family} {}/{} ({})", s(a, "address"), s(a, "netmask"), s(a, "scope"));
        }
    }
}

async fn log(server: &Server, name: &str) -> Result<()> {
    let reply = server.raw("GET", &path("/1.0/instances/{name}/logs/lxc.log", &[name]), &[], empty()).await?;
    println!("\nLog:\n\n{}", String::from_utf8_lossy(&reply.bytes().await?));
    Ok(())
}
