//! Small commands: `version`, `alias`, `completion`, `wait`.

use std::time::Duration;

use api::{Error, Result};
use clap::CommandFactory;
use serde_json::Value;

use super::{Cli, FormatFlag, instance, s};
use crate::{
    ctx::Ctx,
    output::{Column, Listing, print_list},
};

/// Show the versions of this client and of a server
#[derive(clap::Args)]
pub struct Version {
    #[arg(value_name = "[remote:]")]
    remote: Option<String>,
}

impl Version {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let asked = async {
            let (server, _) = ctx.open_optional(self.remote.as_deref())?;
            Ok::<_, Error>(s(&server.info().await?["environment"], "server_version"))
        };
        let server = asked.await.unwrap_or_else(|_| "unreachable".into());
        println!("Client version: {}\nServer version: {server}", env!("CARGO_PKG_VERSION"));
        Ok(())
    }
}

family! {
    /// Manage aliases of commands
    Alias {
        Add(AliasAdd),
        #[command(visible_alias = "ls")]
        List(AliasList),
        #[command(visible_aliases = ["delete", "rm"])]
        Remove(AliasRemove),
        #[command(visible_alias = "mv")]
        Rename(AliasRename),
    }
}

/// Add an alias
///
/// @ARGS@ in the target stands for all arguments, @ARG1@ for the first.
#[derive(clap::Args)]
pub struct AliasAdd {
    alias: String,
    target: String,
}

impl AliasAdd {
    /// Adds.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        ctx.config.change(|config| {
            if config.aliases.contains_key(&self.alias) {
                return Err(Error::conflict(format!("Alias {} already exists", self.alias)));
            }
            config.aliases.insert(self.alias, self.target);
            Ok(())
        })
    }
}

/// List the aliases
#[derive(clap::Args)]
pub struct AliasList {
    #[command(flatten)]
    output: FormatFlag,
}

const ALIASES: &[Column<Value>] = columns! {
    'a' "ALIAS" |a| s(a, "alias");
    't' "TARGET" |a| s(a, "target");
};

impl AliasList {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let mut all = ctx.config.aliases.clone();
        all.entry("shell".into()).or_insert_with(|| "exec @ARGS@ -- su -l".into());
        let rows = all.into_iter().map(|(alias, target)| serde_json::json!({ "alias": alias, "target": target }));
        let rows = rows.collect();
        print_list(&Listing { all: ALIASES, spec: "at", format: &self.output.format, sort: true }, rows)
    }
}

/// Remove an alias
#[derive(clap::Args)]
pub struct AliasRemove {
    alias: String,
}

impl AliasRemove {
    /// Removes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let missing = || Error::not_found(format!("Alias {} doesn't exist", self.alias));
        ctx.config.change(|config| config.aliases.remove(&self.alias).map(drop).ok_or_else(missing))
    }
}

/// Rename an alias
#[derive(clap::Args)]
pub struct AliasRename {
    alias: String,
    new_name: String,
}

impl AliasRename {
    /// Renames.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let missing = || Error::not_found(format!("Alias {} doesn't exist", self.alias));
        ctx.config.change(|config| {
            if config.aliases.contains_key(&self.new_name) {
                return Err(Error::conflict(format!("Alias {} already exists", self.new_name)));
            }
            let target = config.aliases.remove(&self.alias).ok_or_else(missing)?;
            config.aliases.insert(self.new_name, target);
            Ok(())
        })
    }
}

/// Print the script that completes commands in a shell
#[derive(clap::Args)]
pub struct Completion {
    shell: clap_complete::Shell,
}

impl Completion {
    /// Prints.
    pub async fn run(self, _ctx: &Ctx) -> Result<()> {
        clap_complete::generate(self.shell, &mut Cli::command(), "incus", &mut std::io::stdout());
        Ok(())
    }
}

/// Wait until an instance is as wanted
///
/// Conditions: status=<status>, ip (has an address), ipv4, ipv6, agent (a virtual machine's agent answers).
#[derive(clap::Args)]
pub struct Wait {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    condition: String,
    /// Seconds between looks
    #[arg(long, default_value = "1")]
    interval: f64,
    /// Seconds to wait before giving up
    #[arg(long)]
    timeout: Option<u64>,
}

impl Wait {
    /// Waits.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        let known = matches!(self.condition.as_str(), "ip" | "ipv4" | "ipv6" | "agent")
            || self.condition.starts_with("status=");
        if !known {
            return Err(Error::bad_request(format!("Unknown condition {:?}", self.condition)));
        }
        let looked = async {
            loop {
                let state = server.get(&(instance::url(&name) + "/state")).await?.value;
                if holds(&state, &self.condition) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_secs_f64(self.interval.clamp(0.05, 3600.0))).await;
            }
        };
        match self.timeout {
            None => looked.await,
            Some(seconds) => tokio::time::timeout(Duration::from_secs(seconds), looked)
                .await
                .map_err(|_| Error::unavailable("Timed out waiting for the condition"))?,
        }
    }
}

fn holds(state: &Value, condition: &str) -> bool {
    if let Some(status) = condition.strip_prefix("status=") {
        return s(state, "status").eq_ignore_ascii_case(status);
    }
    if condition == "agent" {
        return state["processes"].as_i64().unwrap_or(-1) >= 0 && state["status"] == "Running";
    }
    let nics = state["network"].as_object().into_iter().flatten();
    nics.flat_map(|(_, nic)| nic["addresses"].as_array().into_iter().flatten())
        .filter(|a| !matches!(a["scope"].as_str(), Some("link" | "local")))
        .any(|a| match condition {
            "ipv4" => a["family"] == "inet",
            "ipv6" => a["family"] == "inet6",
            _ => true,
        })
}
