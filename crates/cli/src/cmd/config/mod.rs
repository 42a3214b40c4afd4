//! `incus config`: the configuration of servers and instances.

pub mod device;
mod metadata;
mod template;
mod trust;

use api::{Error, Result};

use crate::{
    cmd::path,
    ctx::Ctx,
    entity::{Entity, Missing, Unset as UnsetBy, as_text},
    keyval,
    output::to_yaml,
};

family! {
    /// Manage the configuration of servers and instances
    Config {
        #[command(subcommand)]
        Device(device::InstanceDevice),
        Edit(Edit),
        Get(Get),
        #[command(subcommand)]
        Metadata(metadata::Metadata),
        Set(Set),
        Show(Show),
        #[command(subcommand)]
        Template(template::Template),
        #[command(subcommand)]
        Trust(trust::Trust),
        Unset(Unset),
    }
}

/// What of an instance can be changed, in the order in which it is shown.
pub const INSTANCE_FIELDS: &[&str] =
    &["expires_at", "architecture", "config", "devices", "ephemeral", "profiles", "stateful", "description"];

/// The instance, snapshot or (without a name) server.
async fn entity<'a>(ctx: &'a Ctx, text: &str, target: Option<&str>) -> Result<Entity<'a>> {
    let (server, name) = ctx.open(text)?;
    if !name.is_empty() && target.is_some() {
        return Err(Error::bad_request("--target cannot be used with instances"));
    }
    let server = if name.is_empty() { server.in_project(None).on(target) } else { server };
    if target.is_some() {
        server
            .on(None)
            .must_be_clustered()
            .await
            .map_err(|_| Error::bad_request("To use --target, the destination remote must be a cluster"))?;
    }
    let (noun, url, fields, unset) = match name.split_once('/') {
        _ if name.is_empty() => ("server", "/1.0".to_owned(), &["config"][..], UnsetBy::Empty),
        Some((instance, snapshot)) => {
            let url = path("/1.0/instances/{name}/snapshots/{snapshot}", &[instance, snapshot]);
            ("snapshot", url, INSTANCE_FIELDS, UnsetBy::Remove)
        }
        None => ("instance", path("/1.0/instances/{name}", &[&name]), INSTANCE_FIELDS, UnsetBy::Remove),
    };
    Ok(Entity { ctx, server, path: url, noun, name, fields, brief: true, missing: Missing::EmptyLine, unset })
}

/// Show the configuration of a server or an instance
#[derive(clap::Args)]
pub struct Show {
    #[arg(value_name = "[remote:][instance[/snapshot]]")]
    name: Option<String>,
    /// With what comes from profiles
    #[arg(short, long)]
    expanded: bool,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Show {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let entity = entity(ctx, self.name.as_deref().unwrap_or_default(), self.target.as_deref()).await?;
        if !self.expanded {
            return entity.show().await;
        }
        let mut value = entity.server.get(&entity.path).await?.value;
        value["config"] = value["expanded_config"].take();
        value["devices"] = value["expanded_devices"].take();
        let shown = entity.fields.iter().filter_map(|f| Some(((*f).to_owned(), value.get(*f)?.clone())));
        println!("{}", to_yaml(&shown.collect::<serde_json::Map<_, _>>().into()));
        Ok(())
    }
}

/// Get the value of a configuration key
#[derive(clap::Args)]
pub struct Get {
    /// The instance, if it is not the server's, and the key
    #[arg(required = true, num_args = 1..=2, value_name = "[remote:][instance] key")]
    args: Vec<String>,
    /// With what comes from profiles
    #[arg(short, long)]
    expanded: bool,
    /// The key is a property, not a configuration key
    #[arg(short, long)]
    property: bool,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Get {
    /// Gets.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (name, key) = match self.args.as_slice() {
            [key] => ("", key),
            [name, key] => (name.as_str(), key),
            _ => return Err(Error::bad_request("Invalid number of arguments")),
        };
        let entity = entity(ctx, name, self.target.as_deref()).await?;
        if self.expanded && !self.property {
            let value = entity.server.get(&entity.path).await?.value;
            println!("{}", value["expanded_config"].get(key).map(as_text).unwrap_or_default());
            return Ok(());
        }
        entity.get(key, self.property).await
    }
}

/// Set configuration keys
///
/// Without an instance they are the server's; with --target those of one cluster member.
#[derive(clap::Args)]
pub struct Set {
    /// The instance, if it is not the server's, and the settings
    #[arg(required = true, value_name = "[remote:][instance] key=value")]
    args: Vec<String>,
    /// The keys are properties, not configuration keys
    #[arg(short, long)]
    property: bool,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Set {
    /// Sets.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (name, settings) = split(&self.args);
        let pairs = keyval::settings(settings)?;
        entity(ctx, name, self.target.as_deref()).await?.set(&pairs, self.property).await
    }
}

/// What `set` is about, and its settings: `key=value…`, `key value`, `name key=value…` or `name key value`.
fn split(args: &[String]) -> (&str, &[String]) {
    match args {
        [first, ..] if first.contains('=') => ("", args),
        [first, second] if !second.contains('=') && !first.ends_with(':') => ("", args),
        [first, rest @ ..] => (first, rest),
        [] => ("", args),
    }
}

/// Unset configuration keys
#[derive(clap::Args)]
pub struct Unset {
    /// The instance, if it is not the server's, and the key
    #[arg(required = true, num_args = 1..=2, value_name = "[remote:][instance] key")]
    args: Vec<String>,
    /// The keys are properties, not configuration keys
    #[arg(short, long)]
    property: bool,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Unset {
    /// Unsets.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (name, keys) = match self.args.as_slice() {
            [name, keys @ ..] if !keys.is_empty() => (name.as_str(), keys),
            keys => ("", keys),
        };
        entity(ctx, name, self.target.as_deref()).await?.unset(keys, self.property).await
    }
}

/// Edit the configuration of a server or an instance as YAML, in an editor or from standard input
#[derive(clap::Args)]
pub struct Edit {
    #[arg(value_name = "[remote:][instance[/snapshot]]")]
    name: Option<String>,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Edit {
    /// Edits.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let help = "This is a YAML representation of the configuration.\nLines that begin with '#' are ignored.";
        entity(ctx, self.name.as_deref().unwrap_or_default(), self.target.as_deref()).await?.edit(help).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_set_is_about() {
        for (args, name, settings) in [
            (&["a=b"][..], "", 1),
            (&["a", "b"], "", 2),
            (&["c1", "a=b"], "c1", 1),
            (&["c1", "a", "b"], "c1", 2),
            (&["r:", "a=b", "c=d"], "r:", 2),
            (&["a=b", "c=d"], "", 2),
        ] {
            let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
            let got = split(&args);
            assert_eq!((got.0, got.1.len()), (name, settings), "{args:?}");
        }
    }
}
