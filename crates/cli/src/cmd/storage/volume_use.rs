//! Attaching volumes to instances and profiles, and detaching them.

use api::{Error, Result};
use serde_json::{Map, Value, json};

use super::volume::parse;
use crate::{
    cmd::{config::INSTANCE_FIELDS, path},
    ctx::Ctx,
    server::Server,
};

macro_rules! commands {
    ($attach:ident $attach_doc:literal, $detach:ident $detach_doc:literal, $what:literal, $template:literal, $fields:expr) => {
        #[doc = $attach_doc]
        ///
        /// With one more argument it is the path, with two they are the device's name and the path.
        #[derive(clap::Args)]
        pub struct $attach {
            #[arg(value_name = "[remote:]pool")]
            pool: String,
            volume: String,
            #[arg(value_name = $what)]
            user: String,
            #[arg(num_args = 0..=2, value_name = "[device] path")]
            args: Vec<String>,
        }

        impl $attach {
            /// Attaches.
            pub async fn run(self, ctx: &Ctx) -> Result<()> {
                let (server, pool) = ctx.open_named(&self.pool, "pool name")?;
                attach(ctx, &server, &pool, &self.volume, &path($template, &[&self.user]), &self.args, $fields).await
            }
        }

        #[doc = $detach_doc]
        #[derive(clap::Args)]
        pub struct $detach {
            #[arg(value_name = "[remote:]pool")]
            pool: String,
            volume: String,
            #[arg(value_name = $what)]
            user: String,
            device: Option<String>,
        }

        impl $detach {
            /// Detaches.
            pub async fn run(self, ctx: &Ctx) -> Result<()> {
                let (server, pool) = ctx.open_named(&self.pool, "pool name")?;
                let url = path($template, &[&self.user]);
                detach(ctx, &server, &pool, &self.volume, &url, self.device.as_deref(), $fields).await
            }
        }
    };
}

const PROFILE_FIELDS: &[&str] = &["config", "description", "devices"];

commands!(
    Attach "Attach a volume to an instance", Detach "Detach a volume from an instance",
    "instance", "/1.0/instances/{name}", INSTANCE_FIELDS
);
commands!(
    AttachProfile "Attach a volume to a profile", DetachProfile "Detach a volume from a profile",
    "profile", "/1.0/profiles/{name}", PROFILE_FIELDS
);

/// Changes the devices of an instance or profile.
pub async fn change_devices(
    ctx: &Ctx,
    server: &Server,
    url: &str,
    fields: &[&str],
    change: impl FnOnce(&mut Map<String, Value>) -> Result<()>,
) -> Result<()> {
    let reply = server.get(url).await?;
    let mut devices = reply.value["devices"].as_object().cloned().unwrap_or_default();
    change(&mut devices)?;
    let mut body: Map<String, Value> =
        fields.iter().filter_map(|f| Some(((*f).to_owned(), reply.value.get(*f)?.clone()))).collect();
    body.insert("devices".into(), devices.into());
    let reply = server.put(url, &Value::Object(body), reply.etag.as_deref()).await?;
    ctx.wait(server, reply).await.map(drop)
}

async fn attach(
    ctx: &Ctx,
    server: &Server,
    pool: &str,
    volume: &str,
    url: &str,
    args: &[String],
    fields: &[&str],
) -> Result<()> {
    let (kind, name, _) = parse(volume);
    if kind != "custom" {
        return Err(Error::bad_request("Only \"custom\" volumes can be attached to instances"));
    }
    let found = server.get(&super::volume::url(pool, kind, name)).await?.value;
    let block = found["content_type"] == "block" || found["content_type"] == "iso";
    let (device, at) = match args {
        [device, at] => (device.clone(), Some(at.clone())),
        [one] if block => (one.clone(), None),
        [at] => (name.to_owned(), Some(at.clone())),
        _ => (name.to_owned(), None),
    };
    if at.is_none() && !block {
        return Err(Error::bad_request("A path is needed for filesystem volumes"));
    }
    let mut settings = json!({ "type": "disk", "pool": pool, "source": name });
    if let Some(at) = at {
        settings["path"] = at.into();
    }
    change_devices(ctx, server, url, fields, |devices| {
        if devices.contains_key(&device) {
            return Err(Error::conflict(format!("Device already exists: {device}")));
        }
        devices.insert(device, settings);
        Ok(())
    })
    .await
}

async fn detach(
    ctx: &Ctx,
    server: &Server,
    pool: &str,
    volume: &str,
    url: &str,
    device: Option<&str>,
    fields: &[&str],
) -> Result<()> {
    let (_, name, _) = parse(volume);
    change_devices(ctx, server, url, fields, |devices| {
        let ours = |d: &Value| d["type"] == "disk" && d["pool"] == pool && d["source"] == name;
        let found: Vec<String> = devices.iter().filter(|(_, d)| ours(d)).map(|(n, _)| n.clone()).collect();
        let device = match (device, found.as_slice()) {
            (Some(device), found) if found.iter().any(|f| f == device) => device.to_owned(),
            (Some(_), _) => return Err(Error::not_found("The specified device doesn't exist or is not this volume")),
            (None, [one]) => one.clone(),
            (None, []) => return Err(Error::not_found("No device found for this storage volume")),
            (None, _) => {
                return Err(Error::bad_request("More than one device matches, specify the device name"));
            }
        };
        devices.shift_remove(&device);
        Ok(())
    })
    .await
}
