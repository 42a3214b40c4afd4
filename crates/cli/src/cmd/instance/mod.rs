//! The commands about instances.

pub mod console;
pub mod copy;
pub mod create;
pub mod delete;
pub mod exec;
pub mod file;
pub mod info;
pub mod list;
pub mod publish;
pub mod rebuild;
pub mod session;
pub mod snapshot;
pub mod state;

use api::{Error, Result};
use serde_json::{Map, Value, json};

use crate::{keyval, server::Server};

/// The path of an instance.
pub fn url(name: &str) -> String {
    crate::cmd::path("/1.0/instances/{name}", &[name])
}

/// Waits for an operation on an instance and says where its log is if that fails.
pub async fn wait(ctx: &crate::ctx::Ctx, server: &Server, reply: crate::server::Reply, name: &str) -> Result<Value> {
    let shown = if server.remote() == ctx.config.default_remote() {
        name.to_owned()
    } else {
        format!("{}:{name}", server.remote())
    };
    ctx.wait(server, reply).await.map_err(|e| {
        // "The instance is already running" needs no log to be understood.
        if e.message.contains(" is already ") {
            return e;
        }
        let message = format!("{e}\nTry `incus info --show-log {shown}` for more info");
        Error::new(e.kind, message)
    })
}

/// Reads `-d name,key=value` flags: settings by device.
pub fn device_flags(flags: &[String]) -> Result<Vec<(String, Map<String, Value>)>> {
    let mut all: Vec<(String, Map<String, Value>)> = Vec::new();
    for flag in flags {
        let bad = || Error::bad_request(format!("Bad syntax, expecting <device>,<key>=<value>: {flag}"));
        let (device, rest) = flag.split_once(',').ok_or_else(bad)?;
        let settings: Vec<String> = rest.split(',').map(str::to_owned).collect();
        let settings = keyval::object(&settings).map_err(|_| bad())?;
        match all.iter_mut().find(|(name, _)| name == device) {
            Some((_, map)) => map.extend(settings),
            None => all.push((device.to_owned(), settings)),
        }
    }
    Ok(all)
}

/// Lays the device flags over `devices`; a device that only a profile has is copied from `inherited` first.
pub fn apply_devices(devices: &mut Map<String, Value>, inherited: &Value, flags: &[String]) -> Result<()> {
    for (name, settings) in device_flags(flags)? {
        let device = devices.entry(name.clone()).or_insert_with(|| match inherited.get(&name) {
            Some(device) => device.clone(),
            None => json!({}),
        });
        if let Some(map) = device.as_object_mut() {
            map.extend(settings);
        }
    }
    Ok(())
}

/// The devices of these profiles, later ones over earlier ones.
pub async fn profile_devices(server: &Server, profiles: &[String]) -> Result<Value> {
    let mut all = Map::new();
    for profile in profiles {
        let found = server.get(&crate::cmd::path("/1.0/profiles/{name}", &[profile])).await?;
        all.extend(found.value["devices"].as_object().cloned().unwrap_or_default());
    }
    Ok(Value::Object(all))
}

/// The device that connects an instance to the network called `name`.
pub async fn nic(server: &Server, name: &str, device: &str) -> Result<Value> {
    let network = server.get(&crate::cmd::path("/1.0/networks/{name}", &[name])).await?.value;
    if network["managed"] == true {
        return Ok(json!({ "name": device, "network": name, "type": "nic" }));
    }
    let kind = if network["type"] == "bridge" { "bridged" } else { "macvlan" };
    Ok(json!({ "name": device, "nictype": kind, "parent": name, "type": "nic" }))
}

/// True for configuration that a copy of an instance takes along.
pub fn is_copied(key: &str) -> bool {
    key == "volatile.base_image" || !key.starts_with("volatile.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn device_flags_lie_over_profiles() {
        let mut devices = Map::new();
        let inherited = json!({"root": {"type": "disk", "path": "/", "pool": "default"}});
        let flags = ["root,size=1GiB", "root,io.bus=nvme", "e1,type=none"].map(str::to_owned);
        apply_devices(&mut devices, &inherited, &flags).unwrap();
        let want = json!({
            "root": {"type": "disk", "path": "/", "pool": "default", "size": "1GiB", "io.bus": "nvme"},
            "e1": {"type": "none"},
        });
        assert_eq!(Value::Object(devices), want);
        assert!(device_flags(&["root".to_owned()]).is_err());
        assert!(device_flags(&["root,size".to_owned()]).is_err());
    }
}
