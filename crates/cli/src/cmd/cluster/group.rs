//! `incus cluster group`.

use api::{Error, Result};
use serde_json::{Value, json};

use super::role::put_member;
use crate::{
    cmd::{self, count, path, s},
    ctx::Ctx,
    edit,
    entity::{Entity, Missing, Unset as UnsetBy},
    output::{Column, Format, Listing, print_list},
};

family! {
    /// Manage cluster groups
    Group {
        Add(Add),
        #[command(visible_alias = "apply")]
        Assign(Assign),
        Create(Create),
        #[command(visible_alias = "rm")]
        Delete(Delete),
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

const EDIT: &str = "This is a YAML representation of the cluster group.\nLines that begin with '#' are ignored.";

async fn entity<'a>(ctx: &'a Ctx, name: &str, _target: Option<&str>) -> Result<Entity<'a>> {
    let (server, name) = ctx.open_named(name, "cluster group name")?;
    Ok(Entity {
        ctx,
        server,
        path: path("/1.0/cluster/groups/{name}", &[&name]),
        noun: "cluster group",
        name,
        fields: &["description", "members", "config"],
        brief: false,
        missing: Missing::EmptyLine,
        unset: UnsetBy::Empty,
    })
}

entity_commands!("cluster group", "[remote:]group", entity, EDIT);

/// List the cluster groups
///
/// Columns: n - name, d - description, m - members.
#[derive(clap::Args)]
pub struct List {
    #[arg(value_name = "[remote:]")]
    remote: Option<String>,
    /// Columns
    #[arg(short, long, default_value = "ndm")]
    columns: String,
    /// Format (csv|json|table|yaml|compact|markdown), with ",header" or ",noheader" if wanted
    #[arg(short, long, default_value = "table")]
    format: Format,
}

/// The columns.
pub const COLUMNS: &[Column<Value>] = columns! {
    'n' "NAME" |g| s(g, "name");
    'd' "DESCRIPTION" |g| s(g, "description");
    'm' "MEMBERS" |g| count(&g["members"]);
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, _) = ctx.open_optional(self.remote.as_deref())?;
        crate::output::columns(COLUMNS, &self.columns)?;
        server.must_be_clustered().await?;
        let groups = server.list("/1.0/cluster/groups?recursion=1").await?;
        print_list(&Listing { all: COLUMNS, spec: &self.columns, format: &self.format, sort: true }, groups)
    }
}

/// Create a cluster group, with configuration from standard input if some is given there
#[derive(clap::Args)]
pub struct Create {
    #[arg(value_name = "[remote:]group")]
    name: String,
    /// Description
    #[arg(long)]
    description: Option<String>,
}

impl Create {
    /// Creates.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "cluster group name")?;
        let mut body = edit::piped_yaml()?.unwrap_or_else(|| json!({}));
        body["name"] = name.as_str().into();
        if let Some(description) = self.description {
            body["description"] = description.into();
        }
        server.post("/1.0/cluster/groups", &body).await?;
        ctx.say(format!("Cluster group {name} created"));
        Ok(())
    }
}

/// Delete cluster groups
#[derive(clap::Args)]
pub struct Delete {
    #[arg(required = true, value_name = "[remote:]group")]
    names: Vec<String>,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        for name in &self.names {
            let (server, name) = ctx.open_named(name, "cluster group name")?;
            server.delete(&path("/1.0/cluster/groups/{name}", &[&name])).await?;
            ctx.say(format!("Cluster group {name} deleted"));
        }
        Ok(())
    }
}

/// Rename a cluster group
#[derive(clap::Args)]
pub struct Rename {
    #[arg(value_name = "[remote:]group")]
    name: String,
    new_name: String,
}

impl Rename {
    /// Renames.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "cluster group name")?;
        server.post(&path("/1.0/cluster/groups/{name}", &[&name]), &json!({ "name": self.new_name })).await?;
        ctx.say(format!("Cluster group {name} renamed to {}", self.new_name));
        Ok(())
    }
}

/// Add a member to a cluster group
#[derive(clap::Args)]
pub struct Add {
    #[arg(value_name = "[remote:]member")]
    member: String,
    group: String,
}

/// Remove a member from a cluster group
#[derive(clap::Args)]
pub struct Remove {
    #[arg(value_name = "[remote:]member")]
    member: String,
    group: String,
}

/// Set the groups of a cluster member, instead of those that it is in
#[derive(clap::Args)]
pub struct Assign {
    #[arg(value_name = "[remote:]member")]
    member: String,
    /// Groups, also parted by commas
    #[arg(required = true, value_name = "group")]
    groups: Vec<String>,
}

impl Add {
    /// Adds.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let group = self.group;
        let member = regroup(ctx, &self.member, |member, mut groups| {
            if groups.contains(&group) {
                return Err(Error::conflict(format!("Cluster member {member} is already in group {group}")));
            }
            groups.push(group.clone());
            Ok(groups)
        })
        .await?;
        ctx.say(format!("Cluster member {member} added to group {group}"));
        Ok(())
    }
}

impl Remove {
    /// Removes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let group = self.group;
        let member = regroup(ctx, &self.member, |member, mut groups| {
            let before = groups.len();
            groups.retain(|g| *g != group);
            if groups.len() == before {
                return Err(Error::not_found(format!("Cluster group {group} isn't currently applied to {member}")));
            }
            Ok(groups)
        })
        .await?;
        ctx.say(format!("Cluster member {member} removed from group {group}"));
        Ok(())
    }
}

impl Assign {
    /// Assigns.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let groups: Vec<String> =
            self.groups.iter().flat_map(|g| g.split(',')).filter(|g| !g.is_empty()).map(str::to_owned).collect();
        let member = regroup(ctx, &self.member, |_, _| Ok(groups.clone())).await?;
        let named = if groups.is_empty() { "(none)".into() } else { groups.join(",") };
        ctx.say(format!("Cluster member {member} added to cluster groups {named}"));
        Ok(())
    }
}

async fn regroup(ctx: &Ctx, member: &str, change: impl Fn(&str, Vec<String>) -> Result<Vec<String>>) -> Result<String> {
    let (server, name) = ctx.open_named(member, "cluster member name")?;
    let url = path("/1.0/cluster/members/{name}", &[&name]);
    let reply = server.get(&url).await?;
    let groups = cmd::list(&reply.value["groups"]).into_iter().map(str::to_owned).collect();
    let mut value = reply.value;
    value["groups"] = change(&name, groups)?.into();
    put_member(&server, &url, value, reply.etag.as_deref()).await?;
    Ok(name)
}
