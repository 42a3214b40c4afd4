//! `incus copy` and `incus move`.

use api::{Error, Result};
use serde_json::{Map, Value, json};

use super::{apply_devices, create::address, is_copied, profile_devices, url};
use crate::{
    cmd::path,
    ctx::Ctx,
    keyval,
    server::{Reply, Server},
};

/// What `copy` and `move` have in common.
#[derive(clap::Args)]
pub struct Common {
    /// Don't mind files that change while they are copied
    #[arg(long)]
    allow_inconsistent: bool,
    /// Configuration of the target
    #[arg(short, long, value_name = "key=value")]
    config: Vec<String>,
    /// A device's settings on the target
    #[arg(short, long, value_name = "device,key=value")]
    device: Vec<String>,
    /// Without snapshots
    #[arg(long)]
    instance_only: bool,
    /// pull, push or relay: who sends between servers
    #[arg(long, default_value = "pull")]
    mode: String,
    /// The target has no profiles
    #[arg(long)]
    no_profiles: bool,
    /// Profile of the target
    #[arg(short, long)]
    profile: Vec<String>,
    /// Only what has changed
    #[arg(long)]
    refresh: bool,
    /// Without the running state
    #[arg(long)]
    stateless: bool,
    /// Storage pool of the target
    #[arg(short, long)]
    storage: Option<String>,
    /// Cluster member, or @group
    #[arg(long)]
    target: Option<String>,
    /// Project of the target
    #[arg(long)]
    target_project: Option<String>,
}

/// Copy instances within a server or between servers
#[derive(clap::Args)]
pub struct Copy {
    #[arg(value_name = "[remote:]source[/snapshot]")]
    source: String,
    #[arg(value_name = "[remote:]destination")]
    destination: Option<String>,
    #[command(flatten)]
    common: Common,
    /// The copy is deleted when it stops
    #[arg(short, long)]
    ephemeral: bool,
    /// With --refresh, leave out snapshots older than the newest of the target
    #[arg(long)]
    refresh_exclude_older: bool,
}

/// Move instances within a server, between cluster members or between servers
#[derive(clap::Args)]
pub struct Move {
    #[arg(value_name = "[remote:]instance")]
    source: String,
    #[arg(value_name = "[remote:]destination")]
    destination: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl Copy {
    /// Copies.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (source, name) = ctx.open_named(&self.source, "source instance name")?;
        let (destination, mut new_name) = match &self.destination {
            Some(d) => ctx.open(d)?,
            None => (source.clone(), String::new()),
        };
        if new_name.is_empty() && destination.remote() != source.remote() {
            name.split('/').next().unwrap_or(&name).clone_into(&mut new_name);
        }
        let extra = Extra {
            ephemeral: self.ephemeral.then_some(true),
            refresh_exclude_older: self.refresh_exclude_older,
            keep_volatile: false,
        };
        let created = self.common.copy(ctx, &source, &name, &destination, &new_name, &extra).await?;
        if new_name.is_empty() {
            ctx.say(format!("Instance name is: {created}"));
        }
        Ok(())
    }
}

/// What only one of the two commands asks for.
struct Extra {
    ephemeral: Option<bool>,
    refresh_exclude_older: bool,
    keep_volatile: bool,
}

impl Move {
    /// Moves.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (source, name) = ctx.open_named(&self.source, "source instance name")?;
        let (destination, new_name) = match &self.destination {
            Some(d) => ctx.open(d)?,
            None => (source.clone(), String::new()),
        };
        let new_name = if new_name.is_empty() { name.clone() } else { new_name };
        if source.remote() != destination.remote() {
            let extra = Extra { ephemeral: None, refresh_exclude_older: false, keep_volatile: true };
            self.common.copy(ctx, &source, &name, &destination, &new_name, &extra).await?;
            let reply = source.delete(&url(&name)).await?;
            ctx.wait(&source, reply)
                .await
                .map_err(|e| e.context("Failed to delete original instance after copying it"))?;
            return Ok(());
        }
        let c = &self.common;
        let plain = c.target.is_none()
            && c.storage.is_none()
            && c.target_project.is_none()
            && c.config.is_empty()
            && c.device.is_empty()
            && c.profile.is_empty()
            && !c.no_profiles;
        if plain {
            if new_name == name {
                return Err(Error::bad_request("Nothing to do: neither a new name nor a target is given"));
            }
            let reply = source.post(&url(&name), &json!({ "name": new_name })).await?;
            return ctx.wait(&source, reply).await.map(drop);
        }
        if c.target.is_some() && !source.is_clustered().await? {
            return Err(Error::bad_request("To use --target, the destination remote must be a cluster"));
        }
        let body = c.move_body(&source, &name, &new_name).await?;
        let reply = source.on(c.target.as_deref()).post(&url(&name), &body).await?;
        ctx.wait_with(&source, reply, "Transferring instance: %s")
            .await
            .map_err(|e| e.context("Migration operation failure"))
            .map(drop)
    }
}

impl Common {
    async fn move_body(&self, server: &Server, name: &str, new_name: &str) -> Result<Value> {
        let mut body = json!({
            "name": new_name, "migration": true, "live": !self.stateless, "instance_only": self.instance_only,
            "allow_inconsistent": self.allow_inconsistent,
        });
        if let Some(pool) = &self.storage {
            body["pool"] = pool.as_str().into();
        }
        if let Some(project) = &self.target_project {
            body["project"] = project.as_str().into();
        }
        if !self.config.is_empty() || !self.device.is_empty() {
            let instance = server.get(&url(name)).await?.value;
            let mut config = instance["config"].as_object().cloned().unwrap_or_default();
            config.extend(keyval::object(&self.config)?);
            let mut devices = instance["devices"].as_object().cloned().unwrap_or_default();
            apply_devices(&mut devices, &instance["expanded_devices"], &self.device)?;
            body["config"] = config.into();
            body["devices"] = devices.into();
        }
        if self.no_profiles {
            body["profiles"] = json!([]);
        } else if !self.profile.is_empty() {
            body["profiles"] = self.profile.clone().into();
        }
        Ok(body)
    }

    /// Copies; returns the name of the new instance.
    async fn copy(
        &self,
        ctx: &Ctx,
        source: &Server,
        name: &str,
        destination: &Server,
        new_name: &str,
        extra: &Extra,
    ) -> Result<String> {
        let (instance, snapshot) = name.split_once('/').map_or((name, None), |(i, s)| (i, Some(s)));
        if self.refresh && snapshot.is_some() {
            return Err(Error::bad_request("--refresh can only be used with instances"));
        }
        let from = match snapshot {
            Some(s) => path("/1.0/instances/{name}/snapshots/{snapshot}", &[instance, s]),
            None => url(instance),
        };
        let found = source.get(&from).await?.value;
        let project = self.target_project.as_deref().or(destination.project());
        let destination = destination.in_project(project);
        let mut body = self.copy_body(&destination, &found, new_name, extra).await?;
        let same = source.remote() == destination.remote();
        body["source"] = if same {
            json!({
                "type": "copy", "source": name, "instance_only": self.instance_only, "refresh": self.refresh,
                "refresh_exclude_older": extra.refresh_exclude_older, "allow_inconsistent": self.allow_inconsistent,
                "project": source.project().unwrap_or_default(),
            })
        } else {
            self.migration_source(source, &from, &found, extra).await?
        };
        let reply = destination.on(self.target.as_deref()).post("/1.0/instances", &body).await?;
        let created = created_name(&reply).unwrap_or_else(|| new_name.to_owned());
        ctx.wait_with(&destination, reply, "Transferring instance: %s").await?;
        if self.refresh && same {
            tracing::debug!("refreshed {created}");
        }
        Ok(created)
    }

    async fn copy_body(&self, server: &Server, found: &Value, new_name: &str, extra: &Extra) -> Result<Value> {
        let mut config: Map<String, Value> = found["config"].as_object().cloned().unwrap_or_default();
        if !extra.keep_volatile {
            config.retain(|key, _| is_copied(key));
        }
        config.extend(keyval::object(&self.config)?);
        let mut devices = found["devices"].as_object().cloned().unwrap_or_default();
        let mut inherited = found["expanded_devices"].clone();
        let mut profiles = found["profiles"].clone();
        if self.no_profiles {
            profiles = json!([]);
        } else if !self.profile.is_empty() {
            profiles = self.profile.clone().into();
            inherited = profile_devices(server, &self.profile).await?;
        }
        if let Some(pool) = &self.storage {
            let mut root = inherited.get("root").cloned().unwrap_or_else(|| json!({ "path": "/", "type": "disk" }));
            root["pool"] = pool.as_str().into();
            devices.insert("root".into(), root);
        }
        apply_devices(&mut devices, &inherited, &self.device)?;
        let kind = found["type"].as_str().unwrap_or("container");
        Ok(json!({
            "name": new_name, "type": kind, "architecture": found["architecture"], "config": config,
            "devices": devices, "profiles": profiles, "stateful": found["stateful"] == true && !self.stateless,
            "ephemeral": extra.ephemeral.map_or(found["ephemeral"].clone(), Value::Bool),
            "description": found["description"].as_str().unwrap_or_default(),
        }))
    }

    /// Has the source server offer the instance and returns how the target gets it.
    async fn migration_source(&self, source: &Server, from: &str, found: &Value, extra: &Extra) -> Result<Value> {
        if self.mode != "pull" {
            return Err(Error::bad_request(format!(
                "The transfer mode {:?} is not supported; use --mode=pull",
                self.mode
            )));
        }
        let base = address(source, "").await?;
        let body = json!({
            "migration": true, "live": false, "instance_only": self.instance_only,
            "allow_inconsistent": self.allow_inconsistent,
        });
        let offer = source.post(from, &body).await?;
        let operation = offer.operation.ok_or_else(|| Error::internal("The source server began no operation"))?;
        Ok(json!({
            "type": "migration", "mode": "pull", "operation": format!("{base}{operation}"),
            "secrets": offer.value["metadata"], "certificate": source.info().await?["environment"]["certificate"],
            "base-image": found["config"]["volatile.base_image"].as_str().unwrap_or_default(), "live": false,
            "instance_only": self.instance_only, "refresh": self.refresh,
            "refresh_exclude_older": extra.refresh_exclude_older, "allow_inconsistent": self.allow_inconsistent,
        }))
    }
}

fn created_name(reply: &Reply) -> Option<String> {
    let url = reply.value["resources"]["instances"].as_array()?.iter().rev().find_map(Value::as_str)?;
    let url = url.split('?').next()?;
    Some(api::endpoint::decode(url.rsplit('/').next()?))
}
