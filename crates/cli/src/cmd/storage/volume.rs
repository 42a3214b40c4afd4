//! `incus storage volume`.

use api::{Error, Result};
use serde_json::{Value, json};

use super::{volume_copy, volume_snapshot, volume_use};
use crate::{
    cmd::{self, FormatFlag, count, path, s},
    ctx::Ctx,
    edit,
    entity::{Entity, Missing, Unset as UnsetBy},
    keyval,
    output::{Column, Listing, bytes_iec, date, is_set, print_list},
    server::Server,
};

family! {
    /// Manage storage volumes
    Volume {
        Attach(volume_use::Attach),
        AttachProfile(volume_use::AttachProfile),
        #[command(visible_alias = "cp")]
        Copy(volume_copy::Copy),
        Create(Create),
        #[command(visible_alias = "rm")]
        Delete(Delete),
        Detach(volume_use::Detach),
        DetachProfile(volume_use::DetachProfile),
        Edit(Edit),
        Get(Get),
        Info(Info),
        #[command(visible_alias = "ls")]
        List(List),
        #[command(visible_alias = "mv")]
        Move(volume_copy::Move),
        Rename(volume_copy::Rename),
        Set(Set),
        Show(Show),
        #[command(subcommand)]
        Snapshot(volume_snapshot::Snapshot),
        Unset(Unset),
    }
}

/// A volume's type and name, and its snapshot: `[<type>/]<volume>[/<snapshot>]`.
pub fn parse(text: &str) -> (&str, &str, Option<&str>) {
    let (kind, rest) = match text.split_once('/') {
        Some((kind @ ("custom" | "container" | "virtual-machine" | "image"), rest)) => (kind, rest),
        _ => ("custom", text),
    };
    let (name, snapshot) = rest.split_once('/').map_or((rest, None), |(n, s)| (n, Some(s)));
    (kind, name, snapshot)
}

/// The path of a volume.
pub fn url(pool: &str, kind: &str, name: &str) -> String {
    path("/1.0/storage-pools/{pool}/volumes/{type}/{volume}", &[pool, kind, name])
}

/// The pool's server and name.
pub fn open_pool(ctx: &Ctx, text: &str, target: Option<&str>) -> Result<(Server, String)> {
    let (server, pool) = ctx.open_named(text, "pool name")?;
    Ok((server.on(target), pool))
}

async fn entity<'a>(ctx: &'a Ctx, pool: &str, volume: &str, target: Option<&str>) -> Result<Entity<'a>> {
    let (server, pool) = open_pool(ctx, pool, target)?;
    let (kind, name, snapshot) = parse(volume);
    let mut path = url(&pool, kind, name);
    if let Some(snapshot) = snapshot {
        path += &cmd::path("/snapshots/{snapshot}", &[snapshot]);
    }
    Ok(Entity {
        ctx,
        server,
        path,
        noun: "storage volume",
        name: name.to_owned(),
        fields: &["config", "description", "expires_at"],
        brief: false,
        missing: Missing::Nothing,
        unset: UnsetBy::Empty,
    })
}

fn volume_error(e: Error, volume: &str) -> Error {
    let (kind, name, snapshot) = parse(volume);
    if e.kind == api::Kind::NotFound && snapshot.is_none() && e.message.contains("volume not found") {
        let hint = if volume.contains('/') { "" } else { ". Try virtual-machine or container for type" };
        return Error::not_found(format!("Storage pool volume \"{kind}/{name}\" not found{hint}"));
    }
    e
}

/// Show a volume as YAML
#[derive(clap::Args)]
pub struct Show {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    #[arg(value_name = "[type/]volume[/snapshot]")]
    volume: String,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Show {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let entity = entity(ctx, &self.pool, &self.volume, self.target.as_deref()).await?;
        entity.show().await.map_err(|e| volume_error(e, &self.volume))
    }
}

/// Get the value of a configuration key of a volume
#[derive(clap::Args)]
pub struct Get {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    #[arg(value_name = "[type/]volume[/snapshot]")]
    volume: String,
    key: String,
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
        let entity = entity(ctx, &self.pool, &self.volume, self.target.as_deref()).await?;
        entity.get(&self.key, self.property).await.map_err(|e| volume_error(e, &self.volume))
    }
}

/// Set configuration keys of a volume
#[derive(clap::Args)]
pub struct Set {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    #[arg(value_name = "[type/]volume")]
    volume: String,
    #[arg(required = true, value_name = "key=value")]
    settings: Vec<String>,
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
        let pairs = keyval::settings(&self.settings)?;
        let entity = entity(ctx, &self.pool, &self.volume, self.target.as_deref()).await?;
        entity.set(&pairs, self.property).await.map_err(|e| volume_error(e, &self.volume))
    }
}

/// Unset configuration keys of a volume
#[derive(clap::Args)]
pub struct Unset {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    #[arg(value_name = "[type/]volume")]
    volume: String,
    #[arg(required = true, value_name = "key")]
    keys: Vec<String>,
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
        let entity = entity(ctx, &self.pool, &self.volume, self.target.as_deref()).await?;
        entity.unset(&self.keys, self.property).await.map_err(|e| volume_error(e, &self.volume))
    }
}

/// Edit a volume as YAML, in an editor or from standard input
#[derive(clap::Args)]
pub struct Edit {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    #[arg(value_name = "[type/]volume[/snapshot]")]
    volume: String,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Edit {
    /// Edits.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let help = "This is a YAML representation of the storage volume.\nLines that begin with '#' are ignored.";
        let entity = entity(ctx, &self.pool, &self.volume, self.target.as_deref()).await?;
        entity.edit(help).await.map_err(|e| volume_error(e, &self.volume))
    }
}

/// Create a custom volume, with configuration from standard input if some is given there
#[derive(clap::Args)]
pub struct Create {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    volume: String,
    #[arg(value_name = "key=value")]
    config: Vec<String>,
    /// Description
    #[arg(long)]
    description: Option<String>,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
    /// filesystem or block
    #[arg(long = "type", default_value = "filesystem")]
    kind: String,
}

impl Create {
    /// Creates.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, pool) = open_pool(ctx, &self.pool, self.target.as_deref())?;
        let (kind, name, _) = parse(&self.volume);
        if kind != "custom" {
            return Err(Error::bad_request(format!(
                "Cannot create storage volumes of type {kind:?}: only custom ones"
            )));
        }
        let mut body = edit::piped_yaml()?.unwrap_or_else(|| json!({}));
        let mut config = body["config"].as_object().cloned().unwrap_or_default();
        config.extend(keyval::object(&self.config)?);
        body["config"] = config.into();
        body["name"] = name.into();
        body["type"] = kind.into();
        body["content_type"] = self.kind.into();
        if let Some(description) = self.description {
            body["description"] = description.into();
        }
        let reply = server.post(&path("/1.0/storage-pools/{pool}/volumes/custom", &[&pool]), &body).await?;
        ctx.wait(&server, reply).await?;
        ctx.say(format!("Storage volume {name} created"));
        Ok(())
    }
}

/// Delete custom volumes
#[derive(clap::Args)]
pub struct Delete {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    #[arg(required = true, value_name = "volume[/snapshot]")]
    volumes: Vec<String>,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, pool) = open_pool(ctx, &self.pool, self.target.as_deref())?;
        for volume in &self.volumes {
            let (kind, name, snapshot) = parse(volume);
            let mut url = url(&pool, kind, name);
            if let Some(snapshot) = snapshot {
                url += &path("/snapshots/{snapshot}", &[snapshot]);
            }
            let reply = server.delete(&url).await?;
            ctx.wait(&server, reply).await?;
            ctx.say(format!("Storage volume {name} deleted"));
        }
        Ok(())
    }
}

/// List the volumes of a pool
///
/// Filters: a part of a name, or <key>=<value> with a field or configuration key.
///
/// Columns: c - content type, d - description, e - project, L - location, n - name, t - type, u - used by, U - usage.
#[derive(clap::Args)]
pub struct List {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    #[arg(value_name = "filter")]
    filters: Vec<String>,
    /// Volumes of all projects
    #[arg(long)]
    all_projects: bool,
    /// Columns
    #[arg(short, long)]
    columns: Option<String>,
    #[command(flatten)]
    output: FormatFlag,
}

const COLUMNS: &[Column<Value>] = columns! {
    'c' "CONTENT-TYPE" |v| s(v, "content_type");
    'd' "DESCRIPTION" |v| s(v, "description");
    'e' "PROJECT" |v| s(v, "project");
    'L' "LOCATION" |v| s(v, "location");
    'n' "NAME" |v| s(v, "name");
    't' "TYPE" |v| if s(v, "name").contains('/') { s(v, "type") + " (snapshot)" } else { s(v, "type") };
    'u' "USED BY" |v| count(&v["used_by"]);
    'U' "USAGE" |v| v["state"]["usage"]["used"].as_i64().map(bytes_iec).unwrap_or_default();
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, pool) = ctx.open_named(&self.pool, "pool name")?;
        let spec = match &self.columns {
            Some(spec) => spec.clone(),
            None => {
                let project = if self.all_projects { "e" } else { "" };
                let location = if server.is_clustered().await? { "L" } else { "" };
                format!("{project}tndcu{location}")
            }
        };
        crate::output::columns(COLUMNS, &spec)?;
        let projects = if self.all_projects { "&all-projects=true" } else { "" };
        let base = path("/1.0/storage-pools/{pool}/volumes", &[&pool]);
        let mut all = server.list(&format!("{base}?recursion=1{projects}")).await?;
        all.retain(|v| self.filters.iter().all(|f| cmd::matches(v, "name", f)));
        if spec.contains('U') {
            for v in all.iter_mut().filter(|v| !s(v, "name").contains('/')) {
                let url = url(&pool, &s(v, "type"), &s(v, "name")) + "/state";
                if let Ok(reply) = server.on(v["location"].as_str().filter(|l| *l != "none")).get(&url).await {
                    v["state"] = reply.value;
                }
            }
        }
        print_list(&Listing { all: COLUMNS, spec: &spec, format: &self.output.format, sort: true }, all)
    }
}

/// Show what is known about a volume
#[derive(clap::Args)]
pub struct Info {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    #[arg(value_name = "[type/]volume")]
    volume: String,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Info {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, pool) = open_pool(ctx, &self.pool, self.target.as_deref())?;
        let (kind, name, _) = parse(&self.volume);
        let url = url(&pool, kind, name);
        let v = server.get(&url).await.map_err(|e| volume_error(e, &self.volume))?.value;
        println!("Name: {}", s(&v, "name"));
        if !s(&v, "description").is_empty() {
            println!("Description: {}", s(&v, "description"));
        }
        println!("Type: {}\nContent type: {}", s(&v, "type"), s(&v, "content_type"));
        if server.is_clustered().await? {
            println!("Location: {}", s(&v, "location"));
        }
        let state = server.get(&(url.clone() + "/state")).await.map(|r| r.value).unwrap_or(Value::Null);
        if let Some(used) = state["usage"]["used"].as_i64().filter(|n| *n > 0) {
            println!("Usage: {}", bytes_iec(used));
        }
        if let Some(total) = state["usage"]["total"].as_i64().filter(|n| *n > 0) {
            println!("Total: {}", bytes_iec(total));
        }
        if is_set(&v["created_at"]) {
            println!("Created: {}", date(&v["created_at"]));
        }
        let snapshots =
            if kind == "custom" { server.list(&(url + "/snapshots?recursion=1")).await? } else { Vec::new() };
        if !snapshots.is_empty() {
            println!("\nSnapshots:");
            let columns = crate::output::columns(volume_snapshot::COLUMNS, "ndTE")?;
            let rows: Vec<Vec<String>> =
                snapshots.iter().map(|i| columns.iter().map(|c| (c.cell)(i)).collect()).collect();
            let header: Vec<String> = columns.iter().map(|c| c.header.to_owned()).collect();
            print!("{}", crate::output::render(crate::output::Style::Ascii, Some(&header), &rows));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_read() {
        for (text, want) in [
            ("v", ("custom", "v", None)),
            ("v/s", ("custom", "v", Some("s"))),
            ("container/c1", ("container", "c1", None)),
            ("custom/v/s", ("custom", "v", Some("s"))),
        ] {
            assert_eq!(parse(text), want);
        }
    }
}
