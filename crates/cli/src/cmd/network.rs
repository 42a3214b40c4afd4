//! `incus network`.

use api::{Error, Result};
use serde_json::{Value, json};

use crate::{
    cmd::{FormatFlag, config::INSTANCE_FIELDS, count, instance::nic, path, s, storage::change_devices},
    ctx::Ctx,
    edit,
    entity::{Entity, Missing, Unset as UnsetBy},
    keyval,
    output::{Column, Listing, bytes_decimal, level, print_list},
};

family! {
    /// Manage networks and connect instances to them
    Network {
        Attach(Attach),
        AttachProfile(AttachProfile),
        Create(Create),
        #[command(visible_alias = "rm")]
        Delete(Delete),
        Detach(Detach),
        DetachProfile(DetachProfile),
        Edit(Edit),
        Get(Get),
        Info(Info),
        #[command(visible_alias = "ls")]
        List(List),
        ListLeases(ListLeases),
        #[command(visible_alias = "mv")]
        Rename(Rename),
        Set(Set),
        Show(Show),
        Unset(Unset),
    }
}

const EDIT: &str = "This is a YAML representation of the network.\nLines that begin with '#' are ignored.";

fn url(name: &str) -> String {
    path("/1.0/networks/{name}", &[name])
}

async fn entity<'a>(ctx: &'a Ctx, name: &str, target: Option<&str>) -> Result<Entity<'a>> {
    let (server, name) = ctx.open_named(name, "network name")?;
    Ok(Entity {
        ctx,
        server: server.on(target),
        path: url(&name),
        noun: "network",
        name,
        fields: &["config", "description"],
        brief: false,
        missing: Missing::Nothing,
        unset: UnsetBy::Empty,
    })
}

entity_commands!("network", "[remote:]network", entity, EDIT);

/// List networks
///
/// Columns: 4 - IPv4 address, 6 - IPv6 address, d - description, e - project, m - whether it is managed, n - name,
/// s - state, t - type, u - used by.
#[derive(clap::Args)]
pub struct List {
    /// The remote and filters
    #[arg(value_name = "[remote:] filter")]
    args: Vec<String>,
    /// Networks of all projects
    #[arg(long)]
    all_projects: bool,
    /// Columns
    #[arg(short, long, default_value = "ntm46dus")]
    columns: String,
    #[command(flatten)]
    output: FormatFlag,
}

const COLUMNS: &[Column<Value>] = columns! {
    '4' "IPV4" |n| s(&n["config"], "ipv4.address");
    '6' "IPV6" |n| s(&n["config"], "ipv6.address");
    'd' "DESCRIPTION" |n| s(n, "description");
    'e' "PROJECT" |n| s(n, "project");
    'm' "MANAGED" |n| level(n["managed"] == true);
    'n' "NAME" |n| s(n, "name");
    's' "STATE" |n| s(n, "status").to_uppercase();
    't' "TYPE" |n| s(n, "type");
    'u' "USED BY" |n| count(&n["used_by"]);
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        crate::output::columns(COLUMNS, &self.columns)?;
        let (server, filters) = crate::cmd::remote_and_filters(ctx, &self.args)?;
        let spec = if self.all_projects && self.columns == "ntm46dus" { "entm46dus" } else { &self.columns };
        let projects = if self.all_projects { "&all-projects=true" } else { "" };
        let mut all = server.list(&format!("/1.0/networks?recursion=1{projects}")).await?;
        all.retain(|n| filters.iter().all(|f| crate::cmd::matches(n, "name", f)));
        print_list(&Listing { all: COLUMNS, spec, format: &self.output.format, sort: true }, all)
    }
}

/// List the addresses that a network has given out
///
/// Columns: h - host name, m - MAC address, i - IP address, t - type, L - location.
#[derive(clap::Args)]
pub struct ListLeases {
    #[arg(value_name = "[remote:]network")]
    name: String,
    /// Columns
    #[arg(short, long)]
    columns: Option<String>,
    #[command(flatten)]
    output: FormatFlag,
}

const LEASES: &[Column<Value>] = columns! {
    'h' "HOSTNAME" |l| s(l, "hostname");
    'm' "MAC ADDRESS" |l| s(l, "hwaddr");
    'i' "IP ADDRESS" |l| s(l, "address");
    't' "TYPE" |l| s(l, "type").to_uppercase();
    'L' "LOCATION" |l| s(l, "location");
};

impl ListLeases {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "network name")?;
        let spec = match self.columns {
            Some(spec) => spec,
            None if server.is_clustered().await? => "hmitL".into(),
            None => "hmit".into(),
        };
        crate::output::columns(LEASES, &spec)?;
        let all = server.list(&(url(&name) + "/leases")).await?;
        print_list(&Listing { all: LEASES, spec: &spec, format: &self.output.format, sort: true }, all)
    }
}

/// Create a network
///
/// On a cluster first with --target on each member, then without it for all.
#[derive(clap::Args)]
pub struct Create {
    #[arg(value_name = "[remote:]network")]
    name: String,
    #[arg(value_name = "key=value")]
    config: Vec<String>,
    /// Description
    #[arg(long)]
    description: Option<String>,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
    /// bridge, macvlan, physical, ...
    #[arg(short = 't', long = "type")]
    kind: Option<String>,
}

impl Create {
    /// Creates.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "network name")?;
        let mut body = edit::piped_yaml()?.unwrap_or_else(|| json!({}));
        let mut config = body["config"].as_object().cloned().unwrap_or_default();
        config.extend(keyval::object(&self.config)?);
        body["config"] = config.into();
        body["name"] = name.as_str().into();
        if let Some(kind) = self.kind {
            body["type"] = kind.into();
        }
        if let Some(description) = self.description {
            body["description"] = description.into();
        }
        let reply = server.on(self.target.as_deref()).post("/1.0/networks", &body).await?;
        ctx.wait(&server, reply).await?;
        ctx.say(match self.target {
            Some(target) => format!("Network {name} pending on member {target}"),
            None => format!("Network {name} created"),
        });
        Ok(())
    }
}

/// Delete networks
#[derive(clap::Args)]
pub struct Delete {
    #[arg(required = true, value_name = "[remote:]network")]
    names: Vec<String>,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        for name in &self.names {
            let (server, name) = ctx.open_named(name, "network name")?;
            let reply = server.delete(&url(&name)).await?;
            ctx.wait(&server, reply).await?;
            ctx.say(format!("Network {name} deleted"));
        }
        Ok(())
    }
}

/// Rename a network
#[derive(clap::Args)]
pub struct Rename {
    #[arg(value_name = "[remote:]network")]
    name: String,
    new_name: String,
}

impl Rename {
    /// Renames.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "network name")?;
        let reply = server.post(&url(&name), &json!({ "name": self.new_name })).await?;
        ctx.wait(&server, reply).await?;
        ctx.say(format!("Network {name} renamed to {}", self.new_name));
        Ok(())
    }
}

/// Show the state of a network: addresses, traffic, and what kind of interface it is
#[derive(clap::Args)]
pub struct Info {
    #[arg(value_name = "[remote:]network")]
    name: String,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Info {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "network name")?;
        let state = server.on(self.target.as_deref()).get(&(url(&name) + "/state")).await?.value;
        let n = |v: &Value| v.as_i64().unwrap_or(0);
        println!("Name: {name}");
        if !s(&state, "hwaddr").is_empty() {
            println!("MAC address: {}", s(&state, "hwaddr"));
        }
        println!("MTU: {}\nState: {}\nType: {}", n(&state["mtu"]), s(&state, "state"), s(&state, "type"));
        if let Some(all) = state["addresses"].as_array().filter(|a| !a.is_empty()) {
            println!("\nIP addresses:");
            for a in all {
                println!("  {}\t{}/{} ({})", s(a, "family"), s(a, "address"), s(a, "netmask"), s(a, "scope"));
            }
        }
        let counters = &state["counters"];
        if counters.is_object() {
            println!("\nNetwork usage:");
            println!("  Bytes received: {}", bytes_decimal(n(&counters["bytes_received"])));
            println!("  Bytes sent: {}", bytes_decimal(n(&counters["bytes_sent"])));
            println!("  Packets received: {}", n(&counters["packets_received"]));
            println!("  Packets sent: {}", n(&counters["packets_sent"]));
        }
        let bridge = &state["bridge"];
        if bridge.is_object() {
            println!("\nBridge:\n  ID: {}\n  STP: {}", s(bridge, "id"), bridge["stp"]);
            println!("  Forward delay: {}", n(&bridge["forward_delay"]));
            println!("  Default VLAN ID: {}", n(&bridge["vlan_default"]));
            println!("  VLAN filtering: {}", bridge["vlan_filtering"]);
            println!("  Upper devices: {}", crate::cmd::list(&bridge["upper_devices"]).join(", "));
        }
        let vlan = &state["vlan"];
        if vlan.is_object() {
            println!("\nVLAN:\n  Lower device: {}\n  VLAN ID: {}", s(vlan, "lower_device"), n(&vlan["vid"]));
        }
        Ok(())
    }
}

const PROFILE_FIELDS: &[&str] = &["config", "description", "devices"];

/// Connect an instance to a network
#[derive(clap::Args)]
pub struct Attach {
    #[arg(value_name = "[remote:]network")]
    network: String,
    instance: String,
    device: Option<String>,
    interface: Option<String>,
}

/// Connect the instances of a profile to a network
#[derive(clap::Args)]
pub struct AttachProfile {
    #[arg(value_name = "[remote:]network")]
    network: String,
    profile: String,
    device: Option<String>,
    interface: Option<String>,
}

/// Disconnect an instance from a network
#[derive(clap::Args)]
pub struct Detach {
    #[arg(value_name = "[remote:]network")]
    network: String,
    instance: String,
    device: Option<String>,
}

/// Disconnect the instances of a profile from a network
#[derive(clap::Args)]
pub struct DetachProfile {
    #[arg(value_name = "[remote:]network")]
    network: String,
    profile: String,
    device: Option<String>,
}

impl Attach {
    /// Connects.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let url = path("/1.0/instances/{name}", &[&self.instance]);
        attach(ctx, &self.network, &url, INSTANCE_FIELDS, self.device, self.interface).await
    }
}

impl AttachProfile {
    /// Connects.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let url = path("/1.0/profiles/{name}", &[&self.profile]);
        attach(ctx, &self.network, &url, PROFILE_FIELDS, self.device, self.interface).await
    }
}

impl Detach {
    /// Disconnects.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let url = path("/1.0/instances/{name}", &[&self.instance]);
        detach(ctx, &self.network, &url, INSTANCE_FIELDS, self.device).await
    }
}

impl DetachProfile {
    /// Disconnects.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let url = path("/1.0/profiles/{name}", &[&self.profile]);
        detach(ctx, &self.network, &url, PROFILE_FIELDS, self.device).await
    }
}

async fn attach(
    ctx: &Ctx,
    network: &str,
    url: &str,
    fields: &[&str],
    device: Option<String>,
    interface: Option<String>,
) -> Result<()> {
    let (server, network) = ctx.open_named(network, "network name")?;
    let device = device.unwrap_or_else(|| network.clone());
    let mut settings = nic(&server, &network, "").await?;
    if let Some(map) = settings.as_object_mut() {
        map.shift_remove("name");
    }
    if let Some(interface) = interface {
        settings["name"] = interface.into();
    }
    change_devices(ctx, &server, url, fields, |devices| {
        if devices.contains_key(&device) {
            return Err(Error::conflict(format!("Device already exists: {device}")));
        }
        devices.insert(device, settings);
        Ok(())
    })
    .await
}

async fn detach(ctx: &Ctx, network: &str, url: &str, fields: &[&str], device: Option<String>) -> Result<()> {
    let (server, network) = ctx.open_named(network, "network name")?;
    change_devices(ctx, &server, url, fields, |devices| {
        let ours =
            |d: &Value| d["type"] == "nic" && (d["network"] == network.as_str() || d["parent"] == network.as_str());
        let found: Vec<String> = devices.iter().filter(|(_, d)| ours(d)).map(|(n, _)| n.clone()).collect();
        let device = match (device, found.as_slice()) {
            (Some(device), found) if found.contains(&device) => device,
            (Some(_), _) => {
                return Err(Error::not_found("The specified device doesn't exist or is on another network"));
            }
            (None, [one]) => one.clone(),
            (None, []) => return Err(Error::not_found("No device found for this network")),
            (None, _) => return Err(Error::bad_request("More than one device matches, specify the device name")),
        };
        devices.shift_remove(&device);
        Ok(())
    })
    .await
}
