//! `incus cluster evacuate` and `restore`.

use api::{Error, Kind, Result};
use serde_json::{Value, json};

use crate::{
    cmd::{path, s},
    ctx::Ctx,
    output::{Column, Format, Listing, print_list},
    prompt,
};

/// What both commands take.
#[derive(clap::Args)]
struct Common {
    #[arg(value_name = "[remote:]member")]
    name: String,
    /// Don't ask for confirmation
    #[arg(short, long)]
    force: bool,
    /// Show what would be done and why; nothing is changed
    #[arg(long)]
    dry_run: bool,
    /// Columns of the dry run
    #[arg(short, long, default_value = "pnatr", requires = "dry_run")]
    columns: String,
    /// Format of the dry run (csv|json|table|yaml|compact|markdown), with ",header" or ",noheader" if wanted
    #[arg(long, default_value = "table", requires = "dry_run")]
    format: Format,
}

const COLUMNS: &[Column<Value>] = columns! {
    'p' "PROJECT" |i| s(i, "project");
    'n' "INSTANCE" |i| s(i, "instance");
    'a' "ACTION" |i| s(i, "action");
    't' "TARGET" |i| s(i, "target");
    'r' "REASON" |i| s(i, "reason");
};

/// Evacuate a cluster member
///
/// Its instances move to other members or stop, as their key cluster.evacuate says, or as --action says for all of
/// them. The member takes no new instances until it is restored. Of a member that is offline the instances are started
/// elsewhere that others can reach, once it is known that it does not run them any more; the others are named.
#[derive(clap::Args)]
pub struct Evacuate {
    #[command(flatten)]
    common: Common,
    /// Do this with all instances: auto, migrate, live-migrate, stop, stateful-stop or force-stop
    #[arg(long)]
    action: Option<String>,
}

/// Restore a cluster member
///
/// The instances that were moved away come back and those that ran are started.
#[derive(clap::Args)]
pub struct Restore {
    #[command(flatten)]
    common: Common,
    /// "skip" leaves the instances where they are
    #[arg(long)]
    action: Option<String>,
}

impl Evacuate {
    /// Evacuates.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        change(ctx, "evacuate", "Evacuating", self.action, &self.common).await
    }
}

impl Restore {
    /// Restores.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        change(ctx, "restore", "Restoring", self.action, &self.common).await
    }
}

async fn change(ctx: &Ctx, action: &str, doing: &str, mode: Option<String>, common: &Common) -> Result<()> {
    let (server, name) = ctx.open_named(&common.name, "cluster member name")?;
    let body = json!({ "action": action, "mode": mode.unwrap_or_default() });
    let failed = |e: Error| e.context("Failed to update cluster member state");
    if common.dry_run {
        let answer = server.post(&path("/1.0/cluster/members/{name}/state/plan", &[&name]), &body).await;
        let plan = answer.map_err(|e| match e.kind {
            Kind::NotFound if e.message == "not found" => Error::bad_request("The server can't tell what it would do"),
            _ => failed(e),
        })?;
        return show(&plan.value, common);
    }
    let question = format!("Are you sure you want to {action} cluster member {name:?}? (yes/no) [default=no]: ");
    if !common.force && !prompt::yes_no(&question, false)? {
        return Ok(());
    }
    let reply = server.post(&path("/1.0/cluster/members/{name}/state", &[&name]), &body).await.map_err(failed)?;
    let done = ctx.wait_with(&server, reply, &format!("{doing} cluster member: %s")).await.map_err(failed)?;
    for stays in done["metadata"]["stays"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("{stays}");
    }
    Ok(())
}

/// What would be done, as a list; what a person should know of it on standard error.
fn show(plan: &Value, common: &Common) -> Result<()> {
    for warning in plan["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("Warning: {warning}");
    }
    let steps = plan["steps"].as_array().cloned().unwrap_or_default();
    print_list(&Listing { all: COLUMNS, spec: &common.columns, format: &common.format, sort: true }, steps)
}
