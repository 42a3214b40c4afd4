//! `incus publish`.

use api::{Error, Kind, Result};
use serde_json::{Value, json};

use super::url;
use crate::{cmd::path, ctx::Ctx, keyval, server::Server};

/// Make an image of an instance or a snapshot
#[derive(clap::Args)]
pub struct Publish {
    #[arg(value_name = "[remote:]instance[/snapshot]")]
    name: String,
    /// The remote that gets it, and properties of the image
    #[arg(value_name = "[remote:] key=value")]
    args: Vec<String>,
    /// Alias
    #[arg(long)]
    alias: Vec<String>,
    /// Compression; "none" for none
    #[arg(long)]
    compression: Option<String>,
    /// When it expires (RFC 3339)
    #[arg(long)]
    expire: Option<String>,
    /// Stop the instance for it if it runs
    #[arg(short, long)]
    force: bool,
    /// unified or split: one file, or two
    #[arg(long, default_value = "unified")]
    format: String,
    /// Everybody may have it
    #[arg(long)]
    public: bool,
    /// Take the aliases away from images that have them
    #[arg(long)]
    reuse: bool,
}

impl Publish {
    /// Publishes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        let properties = match self.args.split_first() {
            Some((first, rest)) if !first.contains('=') => {
                let (remote, _) = ctx.config.parse_remote(first)?;
                if remote != server.remote() {
                    return Err(Error::bad_request(
                        "Publishing to another remote is not supported: publish here and use `incus image copy`",
                    ));
                }
                rest
            }
            _ => &self.args[..],
        };
        let properties = keyval::object(properties)?;
        let kind = if name.contains('/') { "snapshot" } else { "instance" };
        let restart = if kind == "instance" { self.stop(ctx, &server, &name).await? } else { false };
        let mut body = json!({
            "source": { "type": kind, "name": name },
            "public": self.public,
            "compression_algorithm": self.compression.clone().unwrap_or_default(),
            "aliases": aliases(&server, &self.alias, self.reuse).await?,
            "format": self.format,
        });
        if !properties.is_empty() {
            body["properties"] = properties.into();
        }
        if let Some(expire) = &self.expire {
            expire
                .parse::<jiff::Timestamp>()
                .map_err(|e| Error::bad_request(format!("Invalid expiration date: {e}")))?;
            body["expires_at"] = expire.as_str().into();
        }
        let result = async {
            let reply = server.post("/1.0/images", &body).await?;
            ctx.wait_with(&server, reply, "Publishing instance: %s").await
        }
        .await;
        if restart {
            change(ctx, &server, &name, "start").await?;
        }
        let fingerprint = result?["metadata"]["fingerprint"].as_str().unwrap_or_default().to_owned();
        ctx.say(format!("Instance published with fingerprint: {fingerprint}"));
        Ok(())
    }

    /// Stops the instance if it runs and that is allowed; true if it must be started again.
    async fn stop(&self, ctx: &Ctx, server: &Server, name: &str) -> Result<bool> {
        let instance = server.get(&url(name)).await?.value;
        if matches!(instance["status"].as_str(), Some("Stopped") | None) {
            return Ok(false);
        }
        if !self.force {
            return Err(Error::bad_request(
                "The instance is currently running. Use --force to have it stopped and restarted",
            ));
        }
        change(ctx, server, name, "stop").await?;
        Ok(true)
    }
}

async fn change(ctx: &Ctx, server: &Server, name: &str, action: &str) -> Result<()> {
    let body = json!({ "action": action, "timeout": -1, "force": true });
    let reply = server.put(&(url(name) + "/state"), &body, None).await?;
    ctx.wait(server, reply).await.map(drop)
}

/// The aliases of a new image. With `reuse`, what has one of them loses it.
pub async fn aliases(server: &Server, names: &[String], reuse: bool) -> Result<Value> {
    for name in names.iter().filter(|_| reuse) {
        match server.delete(&path("/1.0/images/aliases/{name}", &[name])).await {
            Err(e) if e.kind != Kind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(names.iter().map(|n| json!({ "name": n, "description": "" })).collect())
}
