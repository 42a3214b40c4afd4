//! `incus profile`.

use api::{Error, Kind, Result};
use serde_json::{Value, json};

use crate::{
    cmd::{self, FormatFlag, config::INSTANCE_FIELDS, config::device::ProfileDevice, count, path, s},
    ctx::Ctx,
    edit,
    entity::{Entity, Missing, Unset as UnsetBy},
    output::{Column, Listing, print_list},
};

family! {
    /// Manage profiles
    Profile {
        Add(Add),
        #[command(visible_alias = "apply")]
        Assign(Assign),
        #[command(visible_alias = "cp")]
        Copy(Copy),
        Create(Create),
        #[command(visible_alias = "rm")]
        Delete(Delete),
        #[command(subcommand)]
        Device(ProfileDevice),
        Edit(Edit),
        Get(Get),
        #[command(visible_alias = "ls")]
        List(List),
        Remove(Remove),
        #[command(visible_alias = "mv")]
        Rename(Rename),
        Set(Set),
        Show(Show),
        Unset(Unset),
    }
}

const EDIT: &str = "This is a YAML representation of the profile.\nLines that begin with '#' are ignored.";

fn url(name: &str) -> String {
    path("/1.0/profiles/{name}", &[name])
}

async fn entity<'a>(ctx: &'a Ctx, name: &str, _target: Option<&str>) -> Result<Entity<'a>> {
    let (server, name) = ctx.open_named(name, "profile name")?;
    Ok(Entity {
        ctx,
        server,
        path: url(&name),
        noun: "profile",
        name,
        fields: &["config", "description", "devices"],
        brief: false,
        missing: Missing::EmptyLine,
        unset: UnsetBy::Empty,
    })
}

entity_commands!("profile", "[remote:]profile", entity, EDIT);

/// List profiles
///
/// Columns: n - name, d - description, u - used by, e - project.
#[derive(clap::Args)]
pub struct List {
    /// The remote and filters
    #[arg(value_name = "[remote:] filter")]
    args: Vec<String>,
    /// Profiles of all projects
    #[arg(long)]
    all_projects: bool,
    /// Columns
    #[arg(short, long, default_value = "ndu")]
    columns: String,
    #[command(flatten)]
    output: FormatFlag,
}

const COLUMNS: &[Column<Value>] = columns! {
    'n' "NAME" |p| s(p, "name");
    'd' "DESCRIPTION" |p| s(p, "description");
    'u' "USED BY" |p| count(&p["used_by"]);
    'e' "PROJECT" |p| s(p, "project");
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        crate::output::columns(COLUMNS, &self.columns)?;
        let (server, filters) = cmd::remote_and_filters(ctx, &self.args)?;
        let spec = if self.all_projects && self.columns == "ndu" { "endu" } else { &self.columns };
        let projects = if self.all_projects { "&all-projects=true" } else { "" };
        let mut all = server.list(&format!("/1.0/profiles?recursion=1{projects}")).await?;
        all.retain(|p| filters.iter().all(|f| cmd::matches(p, "name", f)));
        print_list(&Listing { all: COLUMNS, spec, format: &self.output.format, sort: true }, all)
    }
}

/// Create a profile, with configuration from standard input if some is given there
#[derive(clap::Args)]
pub struct Create {
    #[arg(value_name = "[remote:]profile")]
    name: String,
    /// Description
    #[arg(long)]
    description: Option<String>,
}

impl Create {
    /// Creates.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "profile name")?;
        let mut body = edit::piped_yaml()?.unwrap_or_else(|| json!({}));
        body["name"] = name.as_str().into();
        if let Some(description) = self.description {
            body["description"] = description.into();
        }
        server.post("/1.0/profiles", &body).await?;
        ctx.say(format!("Profile {name} created"));
        Ok(())
    }
}

/// Copy a profile
#[derive(clap::Args)]
pub struct Copy {
    #[arg(value_name = "[remote:]profile")]
    name: String,
    #[arg(value_name = "[remote:]profile")]
    new_name: String,
    /// Bring a profile that is there to what the source has
    #[arg(long)]
    refresh: bool,
    /// Project of the copy
    #[arg(long)]
    target_project: Option<String>,
}

impl Copy {
    /// Copies.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (source, name) = ctx.open_named(&self.name, "source profile name")?;
        let (destination, new_name) = ctx.open(&self.new_name)?;
        let destination = destination.in_project(self.target_project.as_deref().or(destination.project()));
        let new_name = if new_name.is_empty() { name.clone() } else { new_name };
        let found = source.get(&url(&name)).await?.value;
        let mut body = json!({
            "config": found["config"], "description": found["description"], "devices": found["devices"],
        });
        if self.refresh {
            match destination.get(&url(&new_name)).await {
                Ok(old) => return destination.put(&url(&new_name), &body, old.etag.as_deref()).await.map(drop),
                Err(e) if e.kind == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        body["name"] = new_name.into();
        destination.post("/1.0/profiles", &body).await.map(drop)
    }
}

/// Delete profiles
#[derive(clap::Args)]
pub struct Delete {
    #[arg(required = true, value_name = "[remote:]profile")]
    names: Vec<String>,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        for name in &self.names {
            let (server, name) = ctx.open_named(name, "profile name")?;
            server.delete(&url(&name)).await?;
            ctx.say(format!("Profile {name} deleted"));
        }
        Ok(())
    }
}

/// Rename a profile
#[derive(clap::Args)]
pub struct Rename {
    #[arg(value_name = "[remote:]profile")]
    name: String,
    new_name: String,
}

impl Rename {
    /// Renames.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "profile name")?;
        server.post(&url(&name), &json!({ "name": self.new_name })).await?;
        ctx.say(format!("Profile {name} renamed to {}", self.new_name));
        Ok(())
    }
}

/// Add a profile to those of an instance
#[derive(clap::Args)]
pub struct Add {
    #[arg(value_name = "[remote:]instance")]
    instance: String,
    profile: String,
}

/// Take a profile from those of an instance
#[derive(clap::Args)]
pub struct Remove {
    #[arg(value_name = "[remote:]instance")]
    instance: String,
    profile: String,
}

/// Set the profiles of an instance, instead of those that it has
#[derive(clap::Args)]
pub struct Assign {
    #[arg(value_name = "[remote:]instance")]
    instance: String,
    /// Profiles, also parted by commas
    #[arg(required = true, value_name = "profile")]
    profiles: Vec<String>,
}

impl Add {
    /// Adds.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let profile = self.profile;
        let name = change(ctx, &self.instance, |mut all| {
            all.push(profile.clone());
            Ok(all)
        })
        .await?;
        ctx.say(format!("Profile {profile} added to {name}"));
        Ok(())
    }
}

impl Remove {
    /// Removes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (instance, profile) = (self.instance, self.profile);
        let name = change(ctx, &instance, |mut all| {
            let before = all.len();
            all.retain(|p| *p != profile);
            if all.len() == before {
                return Err(Error::not_found(format!("Profile {profile} isn't currently applied to {instance}")));
            }
            Ok(all)
        })
        .await?;
        ctx.say(format!("Profile {profile} removed from {name}"));
        Ok(())
    }
}

impl Assign {
    /// Assigns.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let all: Vec<String> =
            self.profiles.iter().flat_map(|p| p.split(',')).filter(|p| !p.is_empty()).map(str::to_owned).collect();
        let name = change(ctx, &self.instance, |_| Ok(all.clone())).await?;
        let named = if all.is_empty() { "(none)".into() } else { all.join(",") };
        ctx.say(format!("Profiles {named} applied to {name}"));
        Ok(())
    }
}

/// Changes the profiles of an instance; returns its name.
async fn change(ctx: &Ctx, instance: &str, change: impl Fn(Vec<String>) -> Result<Vec<String>>) -> Result<String> {
    let (server, name) = ctx.open_named(instance, "instance name")?;
    let url = cmd::instance::url(&name);
    let reply = server.get(&url).await?;
    let now = cmd::list(&reply.value["profiles"]).into_iter().map(str::to_owned).collect();
    let mut body: serde_json::Map<String, Value> =
        INSTANCE_FIELDS.iter().filter_map(|f| Some(((*f).to_owned(), reply.value.get(*f)?.clone()))).collect();
    body.insert("profiles".into(), change(now)?.into());
    let reply = server.put(&url, &Value::Object(body), reply.etag.as_deref()).await?;
    ctx.wait(&server, reply).await?;
    Ok(name)
}
