//! `incus storage`: pools, and below them volumes.

mod volume;
mod volume_copy;
mod volume_snapshot;
mod volume_use;

pub use volume_use::change_devices;

use api::{Error, Result};
use serde_json::{Map, Value, json};

use crate::{
    cmd::{FormatFlag, count, path, s},
    ctx::Ctx,
    edit,
    entity::{Entity, Missing, Unset as UnsetBy},
    keyval,
    output::{Column, Listing, bytes_iec, print_list, to_yaml},
};

family! {
    /// Manage storage pools and volumes
    Storage {
        Create(Create),
        #[command(visible_alias = "rm")]
        Delete(Delete),
        Edit(Edit),
        Get(Get),
        Info(Info),
        #[command(visible_alias = "ls")]
        List(List),
        Set(Set),
        Show(ShowPool),
        Unset(Unset),
        #[command(subcommand)]
        Volume(volume::Volume),
    }
}

const EDIT: &str = "This is a YAML representation of the storage pool.\nLines that begin with '#' are ignored.";

/// The path of a pool.
pub fn url(name: &str) -> String {
    path("/1.0/storage-pools/{name}", &[name])
}

async fn entity<'a>(ctx: &'a Ctx, name: &str, target: Option<&str>) -> Result<Entity<'a>> {
    let (server, name) = ctx.open_named(name, "pool name")?;
    Ok(Entity {
        ctx,
        server: server.on(target),
        path: url(&name),
        noun: "storage pool",
        name,
        fields: &["config", "description"],
        brief: false,
        missing: Missing::Nothing,
        unset: UnsetBy::Empty,
    })
}

entity_commands!("storage pool", "[remote:]pool", entity, EDIT);

/// Show a storage pool as YAML
#[derive(clap::Args)]
pub struct ShowPool {
    #[command(flatten)]
    show: Show,
    /// What it has and uses, instead
    #[arg(long)]
    resources: bool,
}

impl ShowPool {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        if !self.resources {
            return self.show.run(ctx).await;
        }
        let (server, name) = ctx.open_named(&self.show.name, "pool name")?;
        let found = server.on(self.show.target.as_deref()).get(&(url(&name) + "/resources")).await?.value;
        println!("{}", to_yaml(&found));
        Ok(())
    }
}

/// List storage pools
///
/// Columns: n - name, D - driver, d - description, S - source, u - used by, s - state.
#[derive(clap::Args)]
pub struct List {
    /// The remote and filters
    #[arg(value_name = "[remote:] filter")]
    args: Vec<String>,
    /// Columns
    #[arg(short, long, default_value = "nDdus")]
    columns: String,
    #[command(flatten)]
    output: FormatFlag,
}

const COLUMNS: &[Column<Value>] = columns! {
    'n' "NAME" |p| s(p, "name");
    'D' "DRIVER" |p| s(p, "driver");
    'd' "DESCRIPTION" |p| s(p, "description");
    'S' "SOURCE" |p| s(&p["config"], "source");
    'u' "USED BY" |p| count(&p["used_by"]);
    's' "STATE" |p| s(p, "status").to_uppercase();
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        crate::output::columns(COLUMNS, &self.columns)?;
        let (server, filters) = crate::cmd::remote_and_filters(ctx, &self.args)?;
        let mut all = server.list("/1.0/storage-pools?recursion=1").await?;
        all.retain(|p| filters.iter().all(|f| crate::cmd::matches(p, "name", f)));
        print_list(&Listing { all: COLUMNS, spec: &self.columns, format: &self.output.format, sort: true }, all)
    }
}

/// Create a storage pool
///
/// On a cluster first with --target on each member, then without it for all.
#[derive(clap::Args)]
pub struct Create {
    #[arg(value_name = "[remote:]pool")]
    name: String,
    /// dir, ...
    driver: String,
    #[arg(value_name = "key=value")]
    config: Vec<String>,
    /// Description
    #[arg(long)]
    description: Option<String>,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Create {
    /// Creates.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "pool name")?;
        let mut body = edit::piped_yaml()?.unwrap_or_else(|| json!({}));
        let mut config = body["config"].as_object().cloned().unwrap_or_default();
        config.extend(keyval::object(&self.config)?);
        body["config"] = config.into();
        body["name"] = name.as_str().into();
        body["driver"] = self.driver.into();
        if let Some(description) = self.description {
            body["description"] = description.into();
        }
        let reply = server.on(self.target.as_deref()).post("/1.0/storage-pools", &body).await?;
        ctx.wait(&server, reply).await?;
        ctx.say(match self.target {
            Some(target) => format!("Storage pool {name} pending on member {target}"),
            None => format!("Storage pool {name} created"),
        });
        Ok(())
    }
}

/// Delete storage pools
#[derive(clap::Args)]
pub struct Delete {
    #[arg(required = true, value_name = "[remote:]pool")]
    names: Vec<String>,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        for name in &self.names {
            let (server, name) = ctx.open_named(name, "pool name")?;
            let reply = server.delete(&url(&name)).await?;
            ctx.wait(&server, reply).await?;
            ctx.say(format!("Storage pool {name} deleted"));
        }
        Ok(())
    }
}

/// Show what a storage pool has, uses, and who uses it
#[derive(clap::Args)]
pub struct Info {
    #[arg(value_name = "[remote:]pool")]
    name: String,
    /// Sizes in bytes
    #[arg(long)]
    bytes: bool,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Info {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "pool name")?;
        let server = server.on(self.target.as_deref());
        let pool = server.get(&url(&name)).await?.value;
        let space = server.get(&(url(&name) + "/resources")).await?.value["space"].clone();
        let size = |v: &Value| {
            let n = v.as_i64().unwrap_or(0);
            if self.bytes { n.to_string() } else { bytes_iec(n) }
        };
        let mut users: Map<String, Value> = Map::new();
        for used in crate::cmd::list(&pool["used_by"]) {
            let (kind, who) = user(used)?;
            let entry = users.entry(kind).or_insert_with(|| json!([]));
            if let Some(all) = entry.as_array_mut() {
                all.push(who.into());
            }
        }
        users.sort_keys();
        let info = json!({
            "info": {
                "description": pool["description"], "driver": pool["driver"], "name": pool["name"],
                "space used": size(&space["used"]), "total space": size(&space["total"]),
            },
            "used by": users,
        });
        println!("{}", to_yaml(&info));
        Ok(())
    }
}

/// The kind and the name of what stands behind `/1.0/instances/c1?project=p`.
fn user(url: &str) -> Result<(String, String)> {
    let bad = || Error::internal(format!("The server names an unknown user {url:?}"));
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let (kind, name) = path.strip_prefix("/1.0/").and_then(|p| p.split_once('/')).ok_or_else(bad)?;
    let (kind, name) = match name.split_once("/volumes/") {
        Some((_, volume)) if kind == "storage-pools" => ("volumes", volume.split('/').nth(1).unwrap_or(volume)),
        _ => (kind, name),
    };
    let name = api::endpoint::decode(name).replace("/snapshots/", "/");
    let part = |key: &str| query.split('&').find_map(|p| p.strip_prefix(key)?.strip_prefix('='));
    let mut shown = name;
    if let Some(project) = part("project") {
        shown = format!("{shown} (project {project:?})");
    }
    if let Some(target) = part("target") {
        shown = format!("{shown} (location {target:?})");
    }
    Ok((kind.to_owned(), shown))
}
