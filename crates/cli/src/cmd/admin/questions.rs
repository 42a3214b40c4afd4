//! What `incus admin init` asks. The questions are those of Incus: scripts answer them by their words.

use std::net::{IpAddr, Ipv4Addr, TcpListener, ToSocketAddrs, UdpSocket};

use api::{Error, Result};
use serde_json::{Map, Value, json};

use super::{init::free_bridge, join};
use crate::{cmd::cluster::member_config as cluster_member_config, ctx::Ctx, output::to_yaml, prompt, server::Server};

const CIDR: &str = "(CIDR subnet notation, “auto” or “none”) [default=auto]: ";

/// Asks everything and returns the preseed that says it.
pub async fn ask(ctx: &Ctx, server: &Server) -> Result<Value> {
    let mut plan = Plan::default();
    if !server.is_clustered().await? {
        plan.cluster(ctx, server).await?;
    }
    if plan.joins {
        plan.offer_print()?;
        return Ok(plan.document());
    }
    plan.storage(server).await?;
    plan.network(server).await?;
    if !plan.clustered {
        plan.listen()?;
    }
    if !prompt::yes_no(
        "Would you like stale cached images to be updated automatically? (yes/no) [default=yes]: ",
        true,
    )? {
        plan.config.insert("images.auto_update_interval".into(), "0".into());
    }
    plan.offer_print()?;
    Ok(plan.document())
}

#[derive(Default)]
struct Plan {
    config: Map<String, Value>,
    pools: Vec<Value>,
    networks: Vec<Value>,
    devices: Map<String, Value>,
    cluster: Option<Value>,
    clustered: bool,
    joins: bool,
}

impl Plan {
    fn document(&self) -> Value {
        let mut all = json!({
            "config": self.config, "networks": self.networks, "storage_pools": self.pools, "storage_volumes": [],
            "profiles": [], "projects": [],
        });
        if !self.devices.is_empty() {
            all["profiles"] = json!([{
                "config": {}, "description": "", "devices": self.devices, "name": "default", "project": "default",
            }]);
        }
        if let Some(cluster) = &self.cluster {
            all["cluster"] = cluster.clone();
        }
        all
    }

    fn offer_print(&self) -> Result<()> {
        let question = "Would you like a YAML \"init\" preseed to be printed? (yes/no) [default=no]: ";
        if prompt::yes_no(question, false)? {
            println!("{}\n", to_yaml(&self.document()));
        }
        Ok(())
    }

    async fn cluster(&mut self, ctx: &Ctx, server: &Server) -> Result<()> {
        if !prompt::yes_no("Would you like to use clustering? (yes/no) [default=no]: ", false)? {
            return Ok(());
        }
        self.clustered = true;
        let default = own_address();
        let question =
            format!("What IP address or DNS name should be used to reach this server? [default={default}]: ");
        let address = prompt::text(&question, &default, |a| bindable(&join::with_port(a)))?;
        let address = join::with_port(&address);
        self.config.insert("core.https_address".into(), address.as_str().into());
        if prompt::yes_no("Are you joining an existing cluster? (yes/no) [default=no]: ", false)? {
            return self.join(ctx, &address).await;
        }
        let default = server.info().await?["environment"]["server_name"].as_str().unwrap_or_default().to_owned();
        let question =
            format!("What member name should be used to identify this server in the cluster? [default={default}]: ");
        let name = prompt::required(&question, &default)?;
        self.cluster = Some(json!({ "server_name": name, "enabled": true, "member_config": [], "server_address": "" }));
        Ok(())
    }

    async fn join(&mut self, ctx: &Ctx, address: &str) -> Result<()> {
        let token =
            prompt::text("Please provide join token: ", "", |t| join::decode(t).map(drop).map_err(|e| e.message))?;
        let name = join::decode(&token)?.name;
        if !prompt::yes_no("All existing data is lost when joining a cluster, continue? (yes/no) [default=no] ", false)?
        {
            return Err(Error::bad_request("User aborted configuration"));
        }
        let cluster = join::find(ctx, &token).await?;
        join::trust(&cluster.server, &token).await?;
        let member_config = cluster_member_config(&cluster.server).await?;
        let mut body = join::body(&token, &name, address, member_config)?;
        body["cluster_address"] = cluster.address.into();
        body["cluster_certificate"] = cluster.certificate.into();
        // The token is used up: the server must not try it again.
        body["cluster_token"] = "".into();
        self.joins = true;
        self.cluster = Some(body);
        self.config.clear();
        Ok(())
    }

    async fn storage(&mut self, server: &Server) -> Result<()> {
        let existing = server.list("/1.0/storage-pools").await?;
        if self.clustered {
            if prompt::yes_no("Do you want to configure a new local storage pool? (yes/no) [default=yes]: ", true)? {
                self.pool("local".into(), server).await?;
            }
            if prompt::yes_no("Do you want to configure a new remote storage pool? (yes/no) [default=no]: ", false)? {
                return Err(Error::bad_request("No remote storage backend is available on this server"));
            }
            return Ok(());
        }
        if prompt::yes_no("Do you want to configure a new storage pool? (yes/no) [default=yes]: ", true)? {
            let taken = |name: &str| existing.iter().any(|p| p == &format!("/1.0/storage-pools/{name}"));
            let name = prompt::text("Name of the new storage pool [default=default]: ", "default", |n| {
                if taken(n) {
                    Err(format!("The requested storage pool \"{n}\" already exists, please choose another name"))
                } else {
                    Ok(())
                }
            })?;
            self.pool(name, server).await?;
        }
        Ok(())
    }

    async fn pool(&mut self, name: String, server: &Server) -> Result<()> {
        let environment = &server.info().await?["environment"];
        let drivers: Vec<&str> = environment["storage_supported_drivers"]
            .as_array()
            .map(|all| all.iter().filter(|d| d["remote"] != true).filter_map(|d| d["name"].as_str()).collect())
            .unwrap_or_default();
        let driver = match drivers.as_slice() {
            [] => "dir".to_owned(),
            [one] => (*one).to_owned(),
            many => {
                let question = format!("Name of the storage backend to use ({}) [default=dir]: ", many.join(", "));
                prompt::choice(&question, many, "dir")?
            }
        };
        let mut config = Map::new();
        if driver == "dir" {
            let socket = crate::config::local_socket("unix://");
            let dir = socket.parent().map(|d| d.join("storage-pools").join(&name)).unwrap_or_default();
            let default = dir.display().to_string();
            let question = format!("Where should this storage pool store its data? [default={default}]: ");
            let source = prompt::required(&question, &default)?;
            if source != default {
                config.insert("source".into(), source.into());
            }
        } else {
            let question = "Would you like to use an existing empty block device (e.g. a disk or partition)? (yes/no) [default=no]: ";
            if prompt::yes_no(question, false)? {
                config.insert("source".into(), prompt::required("Path to the existing block device: ", "")?.into());
            } else {
                let question = "Size in GiB of the new loop device (1GiB minimum) [default=5GiB]: ";
                let size = prompt::required(question, "5GiB")?;
                let size = if size.bytes().all(|b| b.is_ascii_digit()) { format!("{size}GiB") } else { size };
                config.insert("size".into(), size.into());
            }
        }
        self.pools.push(json!({ "config": config, "description": "", "name": name, "driver": driver }));
        self.devices.insert("root".into(), json!({ "path": "/", "pool": name, "type": "disk" }));
        Ok(())
    }

    async fn network(&mut self, server: &Server) -> Result<()> {
        let existing = server.list("/1.0/networks?recursion=1").await?;
        let taken = |name: &str| existing.iter().any(|n| n["name"] == name);
        let new = !self.clustered
            && prompt::yes_no("Would you like to create a new local network bridge? (yes/no) [default=yes]: ", true)?;
        if !new {
            let question = "Would you like to use an existing bridge or host interface? (yes/no) [default=no]: ";
            if prompt::yes_no(question, false)? {
                let name = prompt::text("Name of the existing bridge or host interface: ", "", |n| {
                    if taken(n) {
                        Ok(())
                    } else {
                        Err("The requested interface doesn't exist. Please choose another one.".into())
                    }
                })?;
                let bridge = existing.iter().any(|n| n["name"] == name.as_str() && n["type"] == "bridge");
                let kind = if bridge { "bridged" } else { "macvlan" };
                let device = json!({ "name": "eth0", "nictype": kind, "parent": name, "type": "nic" });
                self.devices.insert("eth0".into(), device);
            }
            return Ok(());
        }
        let default = free_bridge(&existing);
        let question = format!("What should the new bridge be called? [default={default}]: ");
        let name = prompt::text(&question, &default, |n| {
            if taken(n) {
                Err(format!("The requested network bridge \"{n}\" already exists. Please choose another name."))
            } else {
                Ok(())
            }
        })?;
        let mut config = Map::new();
        for family in ["4", "6"] {
            let question = format!("What IPv{family} address should be used? {CIDR}");
            let address = prompt::text(&question, "auto", |a| cidr(a, family == "6"))?;
            if !matches!(address.as_str(), "auto" | "none") {
                let question = format!("Would you like to NAT IPv{family} traffic on your bridge? [default=yes]: ");
                config.insert(format!("ipv{family}.nat"), prompt::yes_no(&question, true)?.to_string().into());
            }
            config.insert(format!("ipv{family}.address"), address.into());
        }
        self.networks.push(json!({
            "config": config, "description": "", "name": name, "type": "bridge", "project": "default",
        }));
        self.devices.insert("eth0".into(), json!({ "name": "eth0", "network": name, "type": "nic" }));
        Ok(())
    }

    fn listen(&mut self) -> Result<()> {
        let question = "Would you like the server to be available over the network? (yes/no) [default=no]: ";
        if !prompt::yes_no(question, false)? {
            return Ok(());
        }
        let address = prompt::text("Address to bind to (not including port) [default=all]: ", "all", |a| {
            if a == "all" || a.parse::<IpAddr>().is_ok() { Ok(()) } else { Err(format!("{a:?} is not an address")) }
        })?;
        let host = match address.as_str() {
            "all" => "[::]".to_owned(),
            a if a.contains(':') => format!("[{a}]"),
            a => a.to_owned(),
        };
        let port = prompt::text("Port to bind to [default=8443]: ", "8443", |p| {
            p.parse::<u16>().map_err(|_| format!("{p:?} is not a port"))?;
            bindable(&format!("{host}:{p}"))
        })?;
        self.config.insert("core.https_address".into(), format!("{host}:{port}").into());
        Ok(())
    }
}

/// The address that this machine has towards others: on the way to the default route, or else to any network.
fn own_address() -> String {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let networks = routes.lines().skip(1).filter_map(|line| {
        let network = u32::from_str_radix(line.split_whitespace().nth(1)?, 16).ok()?;
        Some(Ipv4Addr::from(u32::from_be(network) | 1))
    });
    let source = |to: Ipv4Addr| -> Option<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        // Nothing is sent: connecting a datagram socket only chooses the route.
        socket.connect((to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let elsewhere = Ipv4Addr::new(198, 51, 100, 1);
    let mut found = std::iter::once(elsewhere).chain(networks).filter_map(source);
    found.find(|a| !a.is_loopback()).map_or_else(|| "127.0.0.1".into(), |a| a.to_string())
}

/// Refuses addresses that this machine cannot listen on.
fn bindable(address: &str) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("Can't bind address {address:?}: {e}");
    let all = address.to_socket_addrs().map_err(failed)?.collect::<Vec<_>>();
    TcpListener::bind(all.as_slice()).map(drop).map_err(failed)
}

fn cidr(text: &str, v6: bool) -> Result<(), String> {
    if matches!(text, "auto" | "none") {
        return Ok(());
    }
    let valid = text.split_once('/').is_some_and(|(address, prefix)| {
        let most = if v6 { 128 } else { 32 };
        address.parse::<IpAddr>().is_ok_and(|a| a.is_ipv6() == v6) && prefix.parse::<u8>().is_ok_and(|p| p <= most)
    });
    if valid { Ok(()) } else { Err(format!("Invalid input: invalid CIDR address: {text}")) }
}
