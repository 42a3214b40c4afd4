//! Copying, moving and renaming volumes.

use api::{Error, Result};
use serde_json::{Value, json};

use super::volume::{open_pool, parse, url};
use crate::{cmd::path, ctx::Ctx, server::Server};

/// Copy a custom volume
#[derive(clap::Args)]
pub struct Copy {
    #[arg(value_name = "[remote:]pool/volume[/snapshot]")]
    source: String,
    #[arg(value_name = "[remote:]pool/volume")]
    destination: String,
    /// Cluster member of the copy
    #[arg(long)]
    destination_target: Option<String>,
    /// pull, push or relay: who sends between servers
    #[arg(long, default_value = "pull")]
    mode: String,
    /// Bring a copy that is there up to date
    #[arg(long)]
    refresh: bool,
    /// With --refresh, leave out snapshots older than the newest of the copy
    #[arg(long)]
    refresh_exclude_older: bool,
    /// Cluster member of the source
    #[arg(long)]
    target: Option<String>,
    /// Project of the copy
    #[arg(long)]
    target_project: Option<String>,
    /// Without snapshots
    #[arg(long)]
    volume_only: bool,
}

/// Move a custom volume to another pool, member or name
#[derive(clap::Args)]
pub struct Move {
    #[arg(value_name = "[remote:]pool/volume")]
    source: String,
    #[arg(value_name = "[remote:]pool/volume")]
    destination: String,
    /// Cluster member that gets it
    #[arg(long)]
    destination_target: Option<String>,
    /// pull, push or relay: who sends between servers
    #[arg(long, default_value = "pull")]
    mode: String,
    /// Cluster member that has it
    #[arg(long)]
    target: Option<String>,
    /// Project that gets it
    #[arg(long)]
    target_project: Option<String>,
}

struct Place {
    server: Server,
    pool: String,
    volume: String,
}

fn place(ctx: &Ctx, text: &str, what: &str) -> Result<Place> {
    let (server, name) = ctx.open(text)?;
    let (pool, volume) = name
        .split_once('/')
        .ok_or_else(|| Error::bad_request(format!("No storage pool for {what} volume specified")))?;
    Ok(Place { server, pool: pool.to_owned(), volume: volume.to_owned() })
}

/// The cluster member that has a volume.
async fn location(place: &Place, target: Option<&str>) -> Result<Option<String>> {
    if let Some(target) = target {
        return Ok(Some(target.to_owned()));
    }
    if !place.server.is_clustered().await? {
        return Ok(None);
    }
    let name = place.volume.split('/').next().unwrap_or_default();
    let found = place.server.get(&url(&place.pool, "custom", name)).await?.value;
    Ok(found["location"].as_str().filter(|l| !l.is_empty() && *l != "none").map(str::to_owned))
}

impl Copy {
    /// Copies.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let source = place(ctx, &self.source, "source")?;
        let destination = place(ctx, &self.destination, "target")?;
        if source.server.remote() != destination.server.remote() {
            return Err(Error::bad_request("Copying volumes between servers is not supported"));
        }
        tracing::debug!("transfer mode {}", self.mode);
        let from = location(&source, self.target.as_deref()).await?;
        let name = source.volume.split('/').next().unwrap_or_default();
        let found = source.server.on(from.as_deref()).get(&url(&source.pool, "custom", name)).await?.value;
        let mut body = json!({
            "name": destination.volume, "type": "custom", "config": found["config"],
            "content_type": found["content_type"], "description": found["description"],
            "source": {
                "name": source.volume, "type": "copy", "pool": source.pool, "volume_only": self.volume_only,
                "refresh": self.refresh, "refresh_exclude_older": self.refresh_exclude_older,
                "location": from, "project": source.server.project().unwrap_or_default(),
            },
        });
        if let Some(config) = body["config"].as_object_mut() {
            config.retain(|k, _| !k.starts_with("volatile."));
        }
        let to = destination.server.in_project(self.target_project.as_deref().or(destination.server.project()));
        let to = to.on(self.destination_target.as_deref());
        let url = path("/1.0/storage-pools/{pool}/volumes/custom", &[&destination.pool]);
        let reply = to.post(&url, &body).await?;
        ctx.wait_with(&destination.server, reply, "Copying the storage volume: %s").await?;
        ctx.say("Storage volume copied successfully!");
        Ok(())
    }
}

impl Move {
    /// Moves.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let source = place(ctx, &self.source, "source")?;
        let destination = place(ctx, &self.destination, "target")?;
        if source.server.remote() != destination.server.remote() {
            return Err(Error::bad_request("Moving volumes between servers is not supported"));
        }
        tracing::debug!("transfer mode {}", self.mode);
        let rename =
            source.pool == destination.pool && self.destination_target.is_none() && self.target_project.is_none();
        let from = location(&source, self.target.as_deref()).await?;
        let mut body = json!({ "name": destination.volume });
        if !rename {
            body["pool"] = destination.pool.as_str().into();
            body["source"] = json!({ "location": from });
            body["project"] = self.target_project.clone().map_or(Value::Null, Value::String);
            if body["project"].is_null() {
                body["project"] = source.server.project().unwrap_or_default().into();
            }
        }
        let asked = if rename { from.as_deref() } else { self.destination_target.as_deref().or(from.as_deref()) };
        let reply = source.server.on(asked).post(&url(&source.pool, "custom", &source.volume), &body).await?;
        ctx.wait_with(&source.server, reply, "Moving the storage volume: %s").await?;
        ctx.say(if rename {
            format!("Renamed storage volume from {:?} to {:?}", source.volume, destination.volume)
        } else {
            "Storage volume moved successfully!".into()
        });
        Ok(())
    }
}

/// Rename a volume
#[derive(clap::Args)]
pub struct Rename {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    name: String,
    new_name: String,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Rename {
    /// Renames.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, pool) = open_pool(ctx, &self.pool, self.target.as_deref())?;
        let (kind, name, _) = parse(&self.name);
        let (_, new_name, _) = parse(&self.new_name);
        let reply = server.post(&url(&pool, kind, name), &json!({ "name": new_name })).await?;
        ctx.wait(&server, reply).await?;
        ctx.say(format!("Renamed storage volume from {name:?} to {new_name:?}"));
        Ok(())
    }
}
