//! `incus create` and `incus launch`.

use api::{Error, Kind, Result};
use serde_json::{Map, Value, json};

use super::{apply_devices, console, nic, profile_devices, url, wait};
use crate::{cmd::path, ctx::Ctx, edit, keyval, server::Server};

/// What `create` and `launch` have in common.
#[derive(clap::Args)]
pub struct Common {
    /// The image (not with --empty) and the new instance's name
    #[arg(required = true, num_args = 1..=2, value_name = "[remote:]image [remote:][name]")]
    args: Vec<String>,
    /// Configuration
    #[arg(short, long, value_name = "key=value")]
    config: Vec<String>,
    /// Description
    #[arg(long)]
    description: Option<String>,
    /// A device's settings; of a device that comes from a profile the others stay
    #[arg(short, long, value_name = "device,key=value")]
    device: Vec<String>,
    /// Create an empty instance
    #[arg(long)]
    empty: bool,
    /// Take environment variables from a file of NAME=value lines
    #[arg(long)]
    environment_file: Vec<String>,
    /// Delete the instance when it stops
    #[arg(short, long)]
    ephemeral: bool,
    /// Connect it to this network
    #[arg(short, long)]
    network: Option<String>,
    /// No profiles
    #[arg(long)]
    no_profiles: bool,
    /// Profile; "default" unless one is named
    #[arg(short, long)]
    profile: Vec<String>,
    /// Put it on this storage pool
    #[arg(short, long)]
    storage: Option<String>,
    /// Cluster member, or @group
    #[arg(long)]
    target: Option<String>,
    /// Instance type, as c2-m4 or aws:t2.micro
    #[arg(short = 't', long = "type")]
    kind: Option<String>,
    /// A virtual machine
    #[arg(long)]
    vm: bool,
}

/// Create instances from images
///
/// Configuration may also be given as YAML on standard input.
#[derive(clap::Args)]
pub struct Create {
    #[command(flatten)]
    common: Common,
}

/// Create instances from images and start them
///
/// Configuration may also be given as YAML on standard input.
#[derive(clap::Args)]
pub struct Launch {
    #[command(flatten)]
    common: Common,
    /// Attach to the console once it runs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "console")]
    console: Option<String>,
}

impl Create {
    /// Creates.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        self.common.create(ctx, false).await.map(drop)
    }
}

impl Launch {
    /// Creates and starts.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = self.common.create(ctx, true).await?;
        match self.console {
            Some(kind) => console::attach(ctx, &server, &name, &kind, false).await,
            None => Ok(()),
        }
    }
}

impl Common {
    async fn create(self, ctx: &Ctx, launch: bool) -> Result<(Server, String)> {
        let (image, instance) = match (self.empty, self.args.as_slice()) {
            (true, [name]) => (None, Some(name)),
            (true, _) => return Err(Error::bad_request("--empty cannot be combined with an image name")),
            (false, [image]) => (Some(image), None),
            (false, [image, name]) => (Some(image), Some(name)),
            (false, _) => return Err(Error::bad_request("Invalid number of arguments")),
        };
        let (server, name) = ctx.open_optional(instance.map(String::as_str))?;
        if self.target.is_some() && !server.is_clustered().await? {
            return Err(Error::bad_request("To use --target, the destination remote must be a cluster"));
        }
        let body = self.body(ctx, &server, image.map(String::as_str), &name).await?;
        let doing = if launch { "Launching" } else { "Creating" };
        ctx.say(if name.is_empty() { format!("{doing} the instance") } else { format!("{doing} {name}") });

        let at_once = launch && server.has("instance_create_start").await?;
        let mut body = body;
        if at_once {
            body["start"] = true.into();
        }
        let reply = server.on(self.target.as_deref()).post("/1.0/instances", &body).await?;
        let created = reply.value["resources"]["instances"].as_array().and_then(|a| a.first()).and_then(Value::as_str);
        let created = created.map(|u| u.split('?').next().unwrap_or(u)).and_then(|u| u.rsplit('/').next());
        let created = api::endpoint::decode(created.unwrap_or(&name));
        let format = if image.is_some() { "Retrieving image: %s" } else { "%s" };
        if at_once {
            let progress = ctx.progress(format);
            crate::operation::wait(&server, reply, &progress).await?;
        } else {
            ctx.wait_with(&server, reply, format).await?;
        }
        if name.is_empty() {
            ctx.say(format!("Instance name is: {created}"));
        }
        if launch && !at_once {
            let start = json!({ "action": "start", "timeout": -1 });
            let reply = server.put(&(url(&created) + "/state"), &start, None).await?;
            wait(ctx, &server, reply, &created).await?;
        }
        Ok((server, created))
    }

    async fn body(&self, ctx: &Ctx, server: &Server, image: Option<&str>, name: &str) -> Result<Value> {
        let given = edit::piped_yaml()?.unwrap_or_else(|| json!({}));
        let mut config = given["config"].as_object().cloned().unwrap_or_default();
        for file in &self.environment_file {
            config.extend(environment(file)?);
        }
        config.extend(keyval::object(&self.config)?);

        let profiles: Option<Vec<String>> = if self.no_profiles {
            Some(Vec::new())
        } else if self.profile.is_empty() {
            given["profiles"].as_array().map(|a| a.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        } else {
            Some(self.profile.clone())
        };
        let mut devices = given["devices"].as_object().cloned().unwrap_or_default();
        if !self.device.is_empty() || self.storage.is_some() {
            let named = profiles.clone().unwrap_or_else(|| vec!["default".into()]);
            let inherited = profile_devices(server, &named).await?;
            if let Some(pool) = &self.storage {
                let mut root = json!({ "path": "/", "pool": pool, "type": "disk" });
                if let (Some(old), Some(new)) = (inherited["root"].as_object(), root.as_object_mut()) {
                    for (key, value) in old {
                        new.entry(key.clone()).or_insert_with(|| value.clone());
                    }
                }
                devices.insert("root".into(), root);
            }
            apply_devices(&mut devices, &inherited, &self.device)?;
        }
        if let Some(network) = &self.network {
            devices.insert("eth0".into(), nic(server, network, "eth0").await?);
        }

        let mut body = given;
        body["name"] = name.into();
        body["type"] = if self.vm { "virtual-machine" } else { "container" }.into();
        body["source"] = match image {
            Some(image) => source(ctx, server, image, self.vm).await?,
            None => json!({ "type": "none" }),
        };
        body["config"] = config.into();
        body["devices"] = devices.into();
        if let Some(profiles) = profiles {
            body["profiles"] = profiles.into();
        }
        if self.ephemeral {
            body["ephemeral"] = true.into();
        }
        if let Some(kind) = &self.kind {
            body["instance_type"] = kind.as_str().into();
        }
        if let Some(description) = &self.description {
            body["description"] = description.as_str().into();
        }
        Ok(body)
    }
}

fn environment(file: &str) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::bad_request(format!("Unable to read {file}: {e}")))?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    Ok(lines
        .filter_map(|l| l.split_once('='))
        .map(|(k, v)| (format!("environment.{k}"), Value::String(v.trim_matches('"').to_owned())))
        .collect())
}

/// Where the server gets the image from: its own store, an image server, or another Incus server.
pub async fn source(ctx: &Ctx, server: &Server, image: &str, vm: bool) -> Result<Value> {
    let (remote_name, name) = ctx.config.parse_remote(image)?;
    let remote = ctx.config.remote(&remote_name)?;
    let name = if name.is_empty() { "default".to_owned() } else { name };
    if remote.is_simplestreams() {
        return Ok(json!({
            "type": "image", "mode": "pull", "server": remote.addr, "protocol": "simplestreams", "alias": name,
        }));
    }
    if remote_name == server.remote() {
        let fingerprint = resolve(server, &name, vm).await?;
        return Ok(json!({ "type": "image", "fingerprint": fingerprint }));
    }
    let other = ctx.server(&remote_name)?;
    let fingerprint = resolve(&other, &name, vm).await?;
    let mut source = json!({
        "type": "image", "mode": "pull", "server": address(&other, &remote.addr).await?, "protocol": "incus",
        "fingerprint": fingerprint, "certificate": other.info().await?["environment"]["certificate"],
    });
    if !remote.public {
        let reply = other.post(&path("/1.0/images/{fingerprint}/secret", &[&fingerprint]), &json!({})).await?;
        source["secret"] = reply.value["metadata"]["secret"].clone();
    }
    Ok(source)
}

/// Where other servers reach this one.
pub async fn address(server: &Server, addr: &str) -> Result<String> {
    if addr.starts_with("https://") {
        return Ok(addr.to_owned());
    }
    let addresses = &server.info().await?["environment"]["addresses"];
    addresses
        .as_array()
        .and_then(|a| a.first())
        .and_then(Value::as_str)
        .map(|a| format!("https://{a}"))
        .ok_or_else(|| Error::bad_request(format!("The server {:?} isn't available on the network", server.remote())))
}

/// The fingerprint of the image with that alias or (beginning of a) fingerprint.
pub async fn resolve(server: &Server, name: &str, vm: bool) -> Result<String> {
    let kind = if vm { "?type=virtual-machine" } else { "" };
    match server.get(&(path("/1.0/images/aliases/{name}", &[name]) + kind)).await {
        Ok(alias) => return Ok(alias.value["target"].as_str().unwrap_or_default().to_owned()),
        Err(e) if e.kind == Kind::NotFound => {}
        Err(e) => return Err(e),
    }
    match server.get(&path("/1.0/images/{fingerprint}", &[name])).await {
        Ok(image) => Ok(image.value["fingerprint"].as_str().unwrap_or_default().to_owned()),
        Err(e) if e.kind == Kind::NotFound => Err(Error::not_found(format!("Image {name:?} not found"))),
        Err(e) => Err(e),
    }
}
