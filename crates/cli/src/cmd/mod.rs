//! The commands.

#[macro_use]
mod macros;

pub mod admin;
pub mod cluster;
pub mod config;
mod image;
pub mod instance;
mod misc;
mod monitor;
mod network;
mod operation;
mod profile;
mod project;
mod query;
mod remote;
mod storage;
mod warning;

use api::Result;
use serde_json::Value;

use crate::{
    ctx::{Ctx, Global},
    server::Server,
};

/// Command line client for Incus
///
/// Everything that Incus can do is reached by the commands below; each of them explains itself with --help.
#[derive(clap::Parser)]
#[command(name = "incus", version, disable_help_subcommand = false, arg_required_else_help = true)]
pub struct Cli {
    /// Flags that all commands know.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// All commands.
#[derive(clap::Subcommand)]
pub enum Command {
    #[command(subcommand)]
    Admin(admin::Admin),
    #[command(subcommand)]
    Alias(misc::Alias),
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    Completion(misc::Completion),
    #[command(subcommand)]
    Config(config::Config),
    Console(instance::console::Console),
    #[command(visible_alias = "cp")]
    Copy(instance::copy::Copy),
    #[command(visible_alias = "init")]
    Create(instance::create::Create),
    #[command(visible_alias = "rm")]
    Delete(instance::delete::Delete),
    Exec(instance::exec::Exec),
    #[command(subcommand)]
    File(instance::file::File),
    #[command(subcommand)]
    Image(image::Image),
    Info(instance::info::Info),
    Launch(instance::create::Launch),
    #[command(visible_alias = "ls")]
    List(instance::list::List),
    Monitor(monitor::Monitor),
    #[command(visible_alias = "mv")]
    Move(instance::copy::Move),
    #[command(subcommand)]
    Network(network::Network),
    #[command(subcommand)]
    Operation(operation::Operation),
    #[command(visible_alias = "freeze")]
    Pause(instance::state::Pause),
    #[command(subcommand)]
    Profile(profile::Profile),
    #[command(subcommand)]
    Project(project::Project),
    Publish(instance::publish::Publish),
    Query(query::Query),
    Rebuild(instance::rebuild::Rebuild),
    #[command(subcommand)]
    Remote(remote::Remote),
    Rename(instance::delete::Rename),
    Restart(instance::state::Restart),
    #[command(visible_alias = "unfreeze")]
    Resume(instance::state::Resume),
    #[command(subcommand)]
    Snapshot(instance::snapshot::Snapshot),
    Start(instance::state::Start),
    Stop(instance::state::Stop),
    #[command(subcommand)]
    Storage(storage::Storage),
    Version(misc::Version),
    Wait(misc::Wait),
    #[command(subcommand)]
    Warning(warning::Warning),
}

impl Command {
    /// Runs the command; returns the exit code.
    pub async fn run(self, ctx: &Ctx) -> Result<u8> {
        macro_rules! all {
            ($($variant:ident)*) => {
                match self {
                    Self::Exec(c) => return Box::pin(c.run(ctx)).await,
                    $(Self::$variant(c) => Box::pin(c.run(ctx)).await?,)*
                }
            };
        }
        all! {
            Admin Alias Cluster Completion Config Console Copy Create Delete File Image Info Launch List Monitor Move
            Network Operation Pause Profile Project Publish Query Rebuild Remote Rename Restart Resume Snapshot Start Stop
            Storage Version Wait Warning
        }
        Ok(0)
    }
}

/// `--format` of lists.
#[derive(clap::Args)]
pub struct FormatFlag {
    /// Format (csv|json|table|yaml|compact|markdown), with ",header" or ",noheader" if wanted
    #[arg(short, long, default_value = "table")]
    pub format: crate::output::Format,
}

/// The text of a field.
pub fn s(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// The texts of a field that is a list.
pub fn list(value: &Value) -> Vec<&str> {
    value.as_array().map(|a| a.iter().filter_map(|v| v.as_str()).collect()).unwrap_or_default()
}

/// How many things a field that is a list holds.
pub fn count(value: &Value) -> String {
    value.as_array().map_or(0, Vec::len).to_string()
}

/// The remote and the filters of `[<remote>:] [<filter>...]`: the first is the remote if it ends with a colon.
pub fn remote_and_filters(ctx: &Ctx, args: &[String]) -> Result<(Server, Vec<String>)> {
    match args.split_first() {
        Some((first, rest)) if first.contains(':') && !first.contains('=') => {
            let (server, name) = ctx.open(first)?;
            let own = (!name.is_empty()).then_some(name);
            Ok((server, own.into_iter().chain(rest.iter().cloned()).collect()))
        }
        _ => Ok((ctx.open("")?.0, args.to_vec())),
    }
}

/// True if a thing passes a filter: a part of its name (the field `name`), or `<key>=<value>` with a field or
/// configuration key; several values are parted by commas.
pub fn matches(thing: &Value, name: &str, filter: &str) -> bool {
    let Some((key, values)) = filter.split_once('=') else {
        return thing[name].as_str().is_some_and(|n| n.contains(filter));
    };
    let found = thing.get(key).or_else(|| thing["config"].get(key)).map(crate::entity::as_text).unwrap_or_default();
    values.split(',').any(|v| v.eq_ignore_ascii_case(&found))
}

/// The path of the API with its `{…}` filled in.
pub fn path(template: &str, args: &[&str]) -> String {
    api::endpoint::fill(template, args)
}
