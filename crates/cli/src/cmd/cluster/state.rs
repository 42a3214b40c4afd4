//! `incus cluster evacuate` and `restore`.

use api::Result;
use serde_json::json;

use crate::{cmd::path, ctx::Ctx, prompt};

/// Evacuate a cluster member
///
/// Its instances move to other members or stop, as their key cluster.evacuate says, or as --action says for all of
/// them. The member takes no new instances until it is restored.
#[derive(clap::Args)]
pub struct Evacuate {
    #[arg(value_name = "[remote:]member")]
    name: String,
    /// Do this with all instances: auto, migrate, live-migrate, stop, stateful-stop or force-stop
    #[arg(long)]
    action: Option<String>,
    /// Don't ask for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Restore a cluster member
///
/// The instances that were moved away come back and those that ran are started.
#[derive(clap::Args)]
pub struct Restore {
    #[arg(value_name = "[remote:]member")]
    name: String,
    /// "skip" leaves the instances where they are
    #[arg(long)]
    action: Option<String>,
    /// Don't ask for confirmation
    #[arg(short, long)]
    force: bool,
}

impl Evacuate {
    /// Evacuates.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        change(ctx, "evacuate", "Evacuating", &self.name, self.action, self.force).await
    }
}

impl Restore {
    /// Restores.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        change(ctx, "restore", "Restoring", &self.name, self.action, self.force).await
    }
}

async fn change(ctx: &Ctx, action: &str, doing: &str, name: &str, mode: Option<String>, force: bool) -> Result<()> {
    let (server, name) = ctx.open_named(name, "cluster member name")?;
    let question = format!("Are you sure you want to {action} cluster member {name:?}? (yes/no) [default=no]: ");
    if !force && !prompt::yes_no(&question, false)? {
        return Ok(());
    }
    let body = json!({ "action": action, "mode": mode.unwrap_or_default() });
    let failed = |e: api::Error| e.context("Failed to update cluster member state");
    let reply = server.post(&path("/1.0/cluster/members/{name}/state", &[&name]), &body).await.map_err(failed)?;
    ctx.wait_with(&server, reply, &format!("{doing} cluster member: %s")).await.map_err(failed)?;
    Ok(())
}
