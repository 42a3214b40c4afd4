//! `incus start`, `stop`, `restart`, `pause` and `resume`.

use api::{Error, Result};
use futures::future::join_all;
use serde_json::{Value, json};

use super::{console, url, wait};
use crate::{ctx::Ctx, server::Server};

/// Start instances
#[derive(clap::Args)]
pub struct Start {
    #[arg(required_unless_present = "all", value_name = "[remote:]instance")]
    names: Vec<String>,
    /// All instances
    #[arg(long)]
    all: bool,
    /// Attach to the console
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "console")]
    console: Option<String>,
    /// Ignore the state that was stored
    #[arg(long)]
    stateless: bool,
}

/// Stop instances
#[derive(clap::Args)]
pub struct Stop {
    #[arg(required_unless_present = "all", value_name = "[remote:]instance")]
    names: Vec<String>,
    /// All instances
    #[arg(long)]
    all: bool,
    /// Attach to the console
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "console")]
    console: Option<String>,
    /// Don't wait for a clean shutdown
    #[arg(short, long)]
    force: bool,
    /// Store the state
    #[arg(long)]
    stateful: bool,
    /// Seconds to wait for a clean shutdown
    #[arg(long, default_value = "-1", allow_hyphen_values = true)]
    timeout: i64,
}

/// Restart instances
#[derive(clap::Args)]
pub struct Restart {
    #[arg(required_unless_present = "all", value_name = "[remote:]instance")]
    names: Vec<String>,
    /// All instances
    #[arg(long)]
    all: bool,
    /// Attach to the console
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "console")]
    console: Option<String>,
    /// Don't wait for a clean shutdown
    #[arg(short, long)]
    force: bool,
    /// Seconds to wait for a clean shutdown
    #[arg(long, default_value = "-1", allow_hyphen_values = true)]
    timeout: i64,
}

/// Pause instances
#[derive(clap::Args)]
pub struct Pause {
    #[arg(required_unless_present = "all", value_name = "[remote:]instance")]
    names: Vec<String>,
    /// All instances
    #[arg(long)]
    all: bool,
}

/// Resume instances
#[derive(clap::Args)]
pub struct Resume {
    #[arg(required_unless_present = "all", value_name = "[remote:]instance")]
    names: Vec<String>,
    /// All instances
    #[arg(long)]
    all: bool,
}

struct Change<'a> {
    ctx: &'a Ctx,
    action: &'static str,
    /// The word for several that failed.
    done: &'static str,
    force: bool,
    stateful: bool,
    timeout: i64,
    console: Option<String>,
}

impl Start {
    /// Starts.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (stateful, console) = (!self.stateless, self.console);
        let change = Change { ctx, action: "start", done: "start", force: false, stateful, timeout: -1, console };
        change.all(self.names, self.all).await
    }
}

impl Stop {
    /// Stops.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (force, stateful, timeout, console) = (self.force, self.stateful, self.timeout, self.console);
        Change { ctx, action: "stop", done: "stop", force, stateful, timeout, console }.all(self.names, self.all).await
    }
}

impl Restart {
    /// Restarts.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (force, timeout, console) = (self.force, self.timeout, self.console);
        let change = Change { ctx, action: "restart", done: "restart", force, stateful: false, timeout, console };
        change.all(self.names, self.all).await
    }
}

impl Pause {
    /// Pauses.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        Change { ctx, action: "freeze", done: "pause", force: false, stateful: false, timeout: -1, console: None }
            .all(self.names, self.all)
            .await
    }
}

impl Resume {
    /// Resumes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        Change { ctx, action: "unfreeze", done: "resume", force: false, stateful: false, timeout: -1, console: None }
            .all(self.names, self.all)
            .await
    }
}

impl Change<'_> {
    async fn all(self, names: Vec<String>, all: bool) -> Result<()> {
        let targets = self.targets(names, all).await?;
        if self.console.is_some() && targets.len() != 1 {
            return Err(Error::bad_request("--console only works with a single instance"));
        }
        if let [(server, name)] = targets.as_slice() {
            return self.one(server, name).await;
        }
        let results = join_all(targets.iter().map(|(server, name)| self.one(server, name))).await;
        let mut failed = false;
        for ((_, name), result) in targets.iter().zip(results) {
            if let Err(e) = result {
                failed = true;
                println!("{name}: error: {e}");
            }
        }
        if failed {
            println!();
            return Err(Error::internal(format!("Some instances failed to {}", self.done)));
        }
        Ok(())
    }

    async fn targets(&self, names: Vec<String>, all: bool) -> Result<Vec<(Server, String)>> {
        if !all {
            return names.iter().map(|n| self.ctx.open_named(n, "instance name")).collect();
        }
        if names.iter().any(|n| !n.ends_with(':')) {
            return Err(Error::bad_request("Both --all and instance name given"));
        }
        let remotes = if names.is_empty() { vec![String::new()] } else { names };
        let mut targets = Vec::new();
        for remote in remotes {
            let (server, _) = self.ctx.open(&remote)?;
            for instance in server.list("/1.0/instances?recursion=1").await? {
                if self.concerns(&instance) {
                    targets.push((server.clone(), instance["name"].as_str().unwrap_or_default().to_owned()));
                }
            }
        }
        Ok(targets)
    }

    /// Whether `--all` means an instance in this state.
    fn concerns(&self, instance: &Value) -> bool {
        let status = instance["status"].as_str().unwrap_or_default();
        match self.action {
            "start" => matches!(status, "Stopped" | "Frozen"),
            "unfreeze" => status == "Frozen",
            "stop" => matches!(status, "Running" | "Frozen" | "Error"),
            _ => status == "Running",
        }
    }

    async fn one(&self, server: &Server, name: &str) -> Result<()> {
        let (mut action, mut stateful) = (self.action, self.stateful);
        if action == "start" {
            let current = server.get(&url(name)).await?.value;
            if current["status"] == "Frozen" {
                action = "unfreeze";
            }
            stateful = stateful && current["stateful"] == true;
        }
        let body = json!({ "action": action, "timeout": self.timeout, "force": self.force, "stateful": stateful });
        let reply = server.put(&(url(name) + "/state"), &body, None).await?;
        wait(self.ctx, server, reply, name).await?;
        match &self.console {
            Some(kind) => console::attach(self.ctx, server, name, kind, false).await,
            None => Ok(()),
        }
    }
}
