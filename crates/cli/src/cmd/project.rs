//! `incus project`.

use api::{Error, Result};
use serde_json::{Value, json};

use crate::{
    cmd::{FormatFlag, count, path, s},
    ctx::Ctx,
    edit,
    entity::{Entity, Missing, Unset as UnsetBy},
    keyval,
    output::{Column, Listing, bytes_iec, level, print_list, to_yaml},
    prompt,
};

family! {
    /// Manage projects
    Project {
        Create(Create),
        #[command(visible_alias = "rm")]
        Delete(Delete),
        Edit(Edit),
        Get(Get),
        GetCurrent(GetCurrent),
        Info(Info),
        #[command(visible_alias = "ls")]
        List(List),
        #[command(visible_alias = "mv")]
        Rename(Rename),
        Set(Set),
        Show(Show),
        Switch(Switch),
        Unset(Unset),
    }
}

const EDIT: &str = "This is a YAML representation of the project.\nLines that begin with '#' are ignored.";

fn url(name: &str) -> String {
    path("/1.0/projects/{name}", &[name])
}

async fn entity<'a>(ctx: &'a Ctx, name: &str, _target: Option<&str>) -> Result<Entity<'a>> {
    let (server, name) = ctx.open_named(name, "project name")?;
    Ok(Entity {
        ctx,
        server,
        path: url(&name),
        noun: "project",
        name,
        fields: &["config", "description"],
        brief: false,
        missing: Missing::EmptyLine,
        unset: UnsetBy::Empty,
    })
}

entity_commands!("project", "[remote:]project", entity, EDIT);

/// List projects
///
/// Columns: n - name, i - images, p - profiles, v - storage volumes, b - storage buckets, w - networks, z - network
/// zones, d - description, u - used by.
#[derive(clap::Args)]
pub struct List {
    #[arg(value_name = "[remote:]")]
    remote: Option<String>,
    /// Columns
    #[arg(short, long, default_value = "nipvbwzdu")]
    columns: String,
    #[command(flatten)]
    output: FormatFlag,
}

fn feature(p: &Value, name: &str) -> String {
    level(p["config"][format!("features.{name}")].as_str().is_some_and(|v| v == "true"))
}

const COLUMNS: &[Column<Value>] = columns! {
    'n' "NAME" |p| s(p, "name") + p["current"].as_str().unwrap_or_default();
    'i' "IMAGES" |p| feature(p, "images");
    'p' "PROFILES" |p| feature(p, "profiles");
    'v' "STORAGE VOLUMES" |p| feature(p, "storage.volumes");
    'b' "STORAGE BUCKETS" |p| feature(p, "storage.buckets");
    'w' "NETWORKS" |p| feature(p, "networks");
    'z' "NETWORK ZONES" |p| feature(p, "networks.zones");
    'd' "DESCRIPTION" |p| s(p, "description");
    'u' "USED BY" |p| count(&p["used_by"]);
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        crate::output::columns(COLUMNS, &self.columns)?;
        let (server, _) = ctx.open_optional(self.remote.as_deref())?;
        let current = server.project().unwrap_or("default").to_owned();
        let mut all = server.list("/1.0/projects?recursion=1").await?;
        for p in all.iter_mut().filter(|p| !self.output.format.is_raw() && p["name"] == current.as_str()) {
            p["current"] = " (current)".into();
        }
        print_list(&Listing { all: COLUMNS, spec: &self.columns, format: &self.output.format, sort: true }, all)
    }
}

/// Create a project, with configuration from standard input if some is given there
#[derive(clap::Args)]
pub struct Create {
    #[arg(value_name = "[remote:]project")]
    name: String,
    /// Configuration
    #[arg(short, long, value_name = "key=value")]
    config: Vec<String>,
    /// Description
    #[arg(long)]
    description: Option<String>,
}

impl Create {
    /// Creates.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "project name")?;
        let mut body = edit::piped_yaml()?.unwrap_or_else(|| json!({}));
        body["name"] = name.as_str().into();
        let mut config = body["config"].as_object().cloned().unwrap_or_default();
        config.extend(keyval::object(&self.config)?);
        body["config"] = config.into();
        if let Some(description) = self.description {
            body["description"] = description.into();
        }
        server.post("/1.0/projects", &body).await?;
        ctx.say(format!("Project {name} created"));
        Ok(())
    }
}

/// Delete projects
#[derive(clap::Args)]
pub struct Delete {
    #[arg(required = true, value_name = "[remote:]project")]
    names: Vec<String>,
    /// With everything in them
    #[arg(short, long)]
    force: bool,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        for given in &self.names {
            let (server, name) = ctx.open_named(given, "project name")?;
            if self.force {
                println!(
                    "Remove {name} and everything it contains (instances, images, volumes, networks, ...) (yes/no): "
                );
                if !prompt::yes_no("", false)? {
                    return Err(Error::bad_request("User aborted delete operation"));
                }
            }
            let force = if self.force { "?force=1" } else { "" };
            server.delete(&(url(&name) + force)).await?;
            ctx.say(format!("Project {name} deleted"));
            if server.project() == Some(name.as_str()) && ctx.global.project.is_none() {
                ctx.config.change(|config| {
                    // Another client may use another one by now.
                    if let Some(remote) = config.remotes.get_mut(server.remote()).filter(|r| r.project == name) {
                        remote.project = "default".into();
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }
}

/// Rename a project
#[derive(clap::Args)]
pub struct Rename {
    #[arg(value_name = "[remote:]project")]
    name: String,
    new_name: String,
}

impl Rename {
    /// Renames.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "project name")?;
        let reply = server.post(&url(&name), &json!({ "name": self.new_name })).await?;
        ctx.wait(&server, reply).await?;
        ctx.say(format!("Project {name} renamed to {}", self.new_name));
        Ok(())
    }
}

/// Use another project from now on
#[derive(clap::Args)]
pub struct Switch {
    #[arg(value_name = "[remote:]project")]
    name: String,
}

impl Switch {
    /// Switches.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "project name")?;
        server.get(&url(&name)).await?;
        ctx.config.change(|config| {
            let gone = || Error::not_found(format!("The remote \"{}\" doesn't exist", server.remote()));
            config.remotes.get_mut(server.remote()).ok_or_else(gone)?.project = name;
            Ok(())
        })
    }
}

/// Show which project is used
#[derive(clap::Args)]
pub struct GetCurrent {
    #[arg(value_name = "[remote:]")]
    remote: Option<String>,
}

impl GetCurrent {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, _) = ctx.open_optional(self.remote.as_deref())?;
        println!("{}", server.project().unwrap_or("default"));
        Ok(())
    }
}

/// Show what a project uses of what it may use
#[derive(clap::Args)]
pub struct Info {
    #[arg(value_name = "[remote:]project")]
    name: String,
    #[command(flatten)]
    output: FormatFlag,
    /// Who may use the project
    #[arg(long)]
    show_access: bool,
}

const RESOURCES: &[Column<Value>] = columns! {
    'r' "RESOURCE" |r| s(r, "name").to_uppercase();
    'l' "LIMIT" |r| amount(r, "limit");
    'u' "USAGE" |r| amount(r, "usage");
};

fn amount(r: &Value, field: &str) -> String {
    let n = r[field].as_i64().unwrap_or(0);
    let name = s(r, "name");
    let is_size = matches!(name.split('.').next(), Some("disk" | "memory"));
    match n {
        n if field == "limit" && n < 0 => "UNLIMITED".into(),
        n if is_size => bytes_iec(n),
        n => n.to_string(),
    }
}

impl Info {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "project name")?;
        if self.show_access {
            println!("{}", to_yaml(&server.get(&(url(&name) + "/access")).await?.value));
            return Ok(());
        }
        let state = server.get(&(url(&name) + "/state")).await?.value;
        let resources = state["resources"].as_object().cloned().unwrap_or_default();
        let rows = resources.into_iter().map(|(name, r)| {
            json!({ "name": name, "limit": r["Limit"].as_i64().or(r["limit"].as_i64()), "usage": r["Usage"].as_i64().or(r["usage"].as_i64()) })
        });
        let listing = Listing { all: RESOURCES, spec: "rlu", format: &self.output.format, sort: true };
        print_list(&listing, rows.collect())
    }
}
