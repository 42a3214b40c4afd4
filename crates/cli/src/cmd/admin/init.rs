//! `incus admin init`.

use api::{Error, Result};
use serde_json::{Map, Value, json};

use super::{join, preseed, questions};
use crate::{
    ctx::Ctx,
    output::{from_yaml, to_yaml},
    server::Server,
};

/// Configure the daemon
///
/// Asks what it needs to know, or takes sensible values (--auto, --minimal), or does what a YAML document on standard
/// input or in a file says (--preseed). --dump prints the present configuration as such a document.
#[derive(clap::Args)]
pub struct Init {
    /// The file with the preseed; without one it is read from standard input
    #[arg(requires = "preseed")]
    file: Option<String>,
    /// Don't ask
    #[arg(long)]
    auto: bool,
    /// Print the present configuration
    #[arg(long)]
    dump: bool,
    /// Don't ask; set up what instances need and nothing else
    #[arg(long)]
    minimal: bool,
    /// Address to listen on
    #[arg(long)]
    network_address: Option<String>,
    /// Port to listen on
    #[arg(long)]
    network_port: Option<u16>,
    /// Take a preseed
    #[arg(long)]
    preseed: bool,
    /// Storage driver
    #[arg(long)]
    storage_backend: Option<String>,
    /// Make the storage pool on this device
    #[arg(long)]
    storage_create_device: Option<String>,
    /// Make the storage pool in a file of so many GiB
    #[arg(long)]
    storage_create_loop: Option<u64>,
    /// The storage pool to use or create
    #[arg(long)]
    storage_pool: Option<String>,
}

impl Init {
    /// Initializes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        self.check()?;
        let (server, _) = ctx.open("local:")?;
        let server = server.in_project(None);
        if self.dump {
            println!("{}", to_yaml(&dump(&server).await?));
            return Ok(());
        }
        let document = if self.preseed {
            let text = match &self.file {
                Some(file) => std::fs::read_to_string(file)?,
                None => std::io::read_to_string(std::io::stdin())?,
            };
            from_yaml(&text).map_err(|e| e.context("Failed to parse the preseed"))?
        } else if self.auto || self.minimal {
            self.automatic(&server).await?
        } else {
            questions::ask(ctx, &server).await?
        };
        preseed::apply(ctx, &server, &document).await
    }

    fn check(&self) -> Result<()> {
        let refused = |text: &str| Err(Error::bad_request(text));
        if self.auto && self.preseed {
            return refused("Can't use --auto and --preseed together");
        }
        if self.minimal && (self.preseed || self.auto) {
            return refused("Can't use --minimal and --preseed or --auto together");
        }
        let flags = self.network_address.is_some()
            || self.network_port.is_some()
            || self.storage_backend.is_some()
            || self.storage_create_device.is_some()
            || self.storage_create_loop.is_some()
            || self.storage_pool.is_some();
        if !self.auto && flags {
            return refused("Configuration flags require --auto");
        }
        if self.dump && (self.auto || self.minimal || self.preseed || flags) {
            return refused("Can't use --dump with other flags");
        }
        if self.storage_create_device.is_some() && self.storage_create_loop.is_some() {
            return refused("Only one of --storage-create-device or --storage-create-loop can be specified");
        }
        let backend = self.storage_backend.as_deref().unwrap_or("dir");
        if !["dir", "btrfs", "lvm", "zfs"].contains(&backend) {
            return Err(Error::bad_request(format!("The requested backend '{backend}' isn't supported by init")));
        }
        if backend == "dir" && (self.storage_create_device.is_some() || self.storage_create_loop.is_some()) {
            return refused(
                "None of --storage-create-device, --storage-create-loop or --storage-pool may be used with the 'dir' backend",
            );
        }
        if self.network_address.is_none() && self.network_port.is_some() {
            return refused("--network-port can't be used without --network-address");
        }
        Ok(())
    }

    /// The document that says what --auto and --minimal do: what is missing, and no more.
    async fn automatic(&self, server: &Server) -> Result<Value> {
        let mut config = Map::new();
        if let Some(address) = &self.network_address {
            let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
            let address = format!("{host}:{}", self.network_port.unwrap_or(8443));
            config.insert("core.https_address".into(), join::with_port(&address).into());
        }
        let mut devices = Map::new();
        let mut pools = Vec::new();
        if server.list("/1.0/storage-pools").await?.is_empty() {
            let name = self.storage_pool.as_deref().unwrap_or("default");
            let mut pool_config = Map::new();
            if let Some(device) = &self.storage_create_device {
                pool_config.insert("source".into(), device.as_str().into());
            }
            if let Some(size) = self.storage_create_loop {
                pool_config.insert("size".into(), format!("{size}GiB").into());
            }
            let driver = self.storage_backend.as_deref().unwrap_or("dir");
            pools.push(json!({ "name": name, "driver": driver, "config": pool_config }));
            devices.insert("root".into(), json!({ "path": "/", "pool": name, "type": "disk" }));
        }
        let mut networks = Vec::new();
        let existing = server.list("/1.0/networks?recursion=1").await?;
        if !existing.iter().any(|n| n["managed"] == true) {
            let name = free_bridge(&existing);
            networks.push(json!({ "name": name, "type": "bridge", "config": {} }));
            devices.insert("eth0".into(), json!({ "name": "eth0", "network": name, "type": "nic" }));
        }
        let profiles = if devices.is_empty() {
            json!([])
        } else {
            json!([{ "name": "default", "config": {}, "devices": devices }])
        };
        Ok(json!({ "config": config, "storage_pools": pools, "networks": networks, "profiles": profiles }))
    }
}

/// The first `incusbrN` that no network has.
pub fn free_bridge(networks: &[Value]) -> String {
    let taken = |name: &str| networks.iter().any(|n| n["name"] == name);
    (0..).map(|i| format!("incusbr{i}")).find(|n| !taken(n)).unwrap_or_default()
}

/// The present configuration as a preseed.
async fn dump(server: &Server) -> Result<Value> {
    let pick = |thing: &Value, fields: &[&str]| -> Value {
        fields.iter().map(|f| ((*f).to_owned(), thing[*f].clone())).collect::<Map<_, _>>().into()
    };
    let mut networks = Vec::new();
    for n in server.list("/1.0/networks?recursion=1&all-projects=true").await? {
        if n["managed"] == true {
            networks.push(pick(&n, &["config", "description", "name", "type", "project"]));
        }
    }
    let mut pools = Vec::new();
    let mut volumes = Vec::new();
    for p in server.list("/1.0/storage-pools?recursion=1").await? {
        let name = p["name"].as_str().unwrap_or_default();
        let url = crate::cmd::path("/1.0/storage-pools/{pool}/volumes?recursion=1", &[name]);
        for v in server.list(&url).await? {
            if v["type"] == "custom" && !v["name"].as_str().unwrap_or_default().contains('/') {
                let mut volume = pick(&v, &["config", "description", "name", "type", "content_type"]);
                volume["pool"] = name.into();
                volumes.push(volume);
            }
        }
        pools.push(pick(&p, &["config", "description", "name", "driver"]));
    }
    let profiles = server.list("/1.0/profiles?recursion=1").await?;
    let profiles = profiles.iter().map(|p| {
        let mut profile = pick(p, &["config", "description", "devices", "name"]);
        profile["project"] = "".into();
        profile
    });
    let projects = server.list("/1.0/projects?recursion=1").await?;
    let projects = projects.iter().map(|p| pick(p, &["config", "description", "name"]));
    Ok(json!({
        "config": server.info().await?["config"],
        "networks": networks,
        "storage_pools": pools,
        "storage_volumes": volumes,
        "profiles": profiles.collect::<Vec<_>>(),
        "projects": projects.collect::<Vec<_>>(),
        "certificates": [],
        "cluster_groups": [],
    }))
}
