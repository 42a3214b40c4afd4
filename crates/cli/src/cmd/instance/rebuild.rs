//! `incus rebuild`.

use api::{Error, Result};
use serde_json::json;

use super::{create, delete, url, wait};
use crate::ctx::Ctx;

/// Give instances the root file system of an image, or an empty one
#[derive(clap::Args)]
pub struct Rebuild {
    /// An image, unless it is to be empty, and an instance
    #[arg(required = true, num_args = 1..=2, value_name = "[remote:]image|[remote:]instance")]
    names: Vec<String>,
    /// Rebuild as an empty instance
    #[arg(long)]
    empty: bool,
    /// Stop it first if it runs, and start it again
    #[arg(short, long)]
    force: bool,
}

impl Rebuild {
    /// Rebuilds.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (image, instance) = match (self.names.as_slice(), self.empty) {
            ([instance], true) => (None, instance),
            ([image, instance], false) => (Some(image), instance),
            ([_], false) => return Err(Error::bad_request("Missing instance name")),
            _ => return Err(Error::bad_request("--empty cannot be combined with an image name")),
        };
        let (server, name) = ctx.open_named(instance, "instance name")?;
        let now = server.get(&url(&name)).await?.value;
        let running = now["status"].as_str().is_some_and(|s| s != "Stopped");
        let source = match image {
            Some(image) => create::source(ctx, &server, image, now["type"] == "virtual-machine").await?,
            None => json!({ "type": "none" }),
        };
        if running && !self.force {
            return Err(Error::bad_request("The instance is currently running, stop it first or pass --force"));
        }
        if running && now["ephemeral"] == true {
            return Err(Error::bad_request("The instance is ephemeral: stopped, it would be deleted"));
        }
        if running {
            delete::stop(ctx, &server, &url(&name)).await?;
        }
        let rebuilt = async {
            let reply = server.post(&(url(&name) + "/rebuild"), &json!({ "source": source })).await?;
            wait(ctx, &server, reply, &name).await
        };
        let rebuilt = rebuilt.await;
        if running {
            let body = json!({ "action": "start", "timeout": -1 });
            let reply = server.put(&(url(&name) + "/state"), &body, None).await?;
            wait(ctx, &server, reply, &name).await?;
        }
        rebuilt.map(drop)
    }
}
