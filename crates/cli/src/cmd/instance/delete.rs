//! `incus delete` and `incus rename`.

use api::{Error, Result};
use serde_json::json;

use super::url;
use crate::{cmd::path, ctx::Ctx, prompt, server::Server};

/// Delete instances and snapshots
#[derive(clap::Args)]
pub struct Delete {
    #[arg(required = true, value_name = "[remote:]instance[/snapshot]")]
    names: Vec<String>,
    /// Stop instances that run
    #[arg(short, long)]
    force: bool,
    /// Ask for confirmation
    #[arg(short, long)]
    interactive: bool,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let mut targets = Vec::new();
        for given in &self.names {
            let (server, name) = ctx.open_named(given, "instance name")?;
            if !name.contains('/') {
                let missing =
                    |e: Error| e.context(format!("Failed checking instance exists \"{}:{name}\"", server.remote()));
                let instance = server.get(&url(&name)).await.map_err(missing)?.value;
                targets.push((server, name, Some(instance)));
            } else {
                targets.push((server, name, None));
            }
        }
        for (server, name, instance) in targets {
            if self.interactive && !prompt::yes_no(&format!("Remove {name} (yes/no): "), false)? {
                return Err(Error::bad_request("User aborted delete operation"));
            }
            let url = match name.split_once('/') {
                Some((instance, snapshot)) => path("/1.0/instances/{name}/snapshots/{snapshot}", &[instance, snapshot]),
                None => url(&name),
            };
            if let Some(instance) = instance {
                let running = !matches!(instance["status"].as_str(), Some("Stopped" | "Error") | None);
                if running && !self.force {
                    return Err(Error::bad_request("The instance is currently running, stop it first or pass --force"));
                }
                if running {
                    stop(ctx, &server, &url).await?;
                    if instance["ephemeral"] == true {
                        continue;
                    }
                }
            }
            let reply = server.delete(&url).await?;
            ctx.wait(&server, reply).await.map_err(|e| {
                e.context(format!(
                    "Failed deleting instance {name:?} in project {:?}",
                    server.project().unwrap_or("default")
                ))
            })?;
        }
        Ok(())
    }
}

/// Stops an instance by force.
pub async fn stop(ctx: &Ctx, server: &Server, url: &str) -> Result<()> {
    let body = json!({ "action": "stop", "timeout": -1, "force": true });
    let reply = server.put(&format!("{url}/state"), &body, None).await?;
    ctx.wait(server, reply).await.map(drop).map_err(|e| e.context("Stopping the instance failed"))
}

/// Rename an instance or a snapshot
#[derive(clap::Args)]
pub struct Rename {
    #[arg(value_name = "[remote:]instance[/snapshot]")]
    name: String,
    new_name: String,
}

impl Rename {
    /// Renames.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        let (url, new_name) = match name.split_once('/') {
            Some((instance, snapshot)) => (
                path("/1.0/instances/{name}/snapshots/{snapshot}", &[instance, snapshot]),
                self.new_name.rsplit('/').next().unwrap_or_default(),
            ),
            None => (url(&name), self.new_name.as_str()),
        };
        let reply = server.post(&url, &json!({ "name": new_name })).await?;
        ctx.wait(&server, reply).await.map(drop)
    }
}
