//! One cluster member: its configuration, its state, its name, and its end.

use api::{Error, Result};

use crate::{
    cmd::path,
    ctx::Ctx,
    entity::{Entity, Missing, Unset as UnsetBy},
    output::to_yaml,
    prompt,
};

const EDIT: &str = "This is a YAML representation of the cluster member.\nLines that begin with '#' are ignored.";

async fn entity<'a>(ctx: &'a Ctx, name: &str, _target: Option<&str>) -> Result<Entity<'a>> {
    let (server, name) = ctx.open_named(name, "cluster member name")?;
    Ok(Entity {
        ctx,
        server,
        path: path("/1.0/cluster/members/{name}", &[&name]),
        noun: "cluster member",
        name,
        fields: &["roles", "failure_domain", "description", "config", "groups"],
        brief: false,
        missing: Missing::Error,
        unset: UnsetBy::Empty,
    })
}

entity_commands!("cluster member", "[remote:]member", entity, EDIT);

/// Show the load, the memory and the storage of a cluster member
#[derive(clap::Args)]
pub struct Info {
    #[arg(value_name = "[remote:]member")]
    name: String,
}

impl Info {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "cluster member name")?;
        let state = server.get(&path("/1.0/cluster/members/{name}/state", &[&name])).await?.value;
        println!("{}", to_yaml(&state));
        Ok(())
    }
}

/// Rename a cluster member
#[derive(clap::Args)]
pub struct Rename {
    #[arg(value_name = "[remote:]member")]
    name: String,
    new_name: String,
}

impl Rename {
    /// Renames.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "cluster member name")?;
        let body = serde_json::json!({ "server_name": self.new_name });
        server.post(&path("/1.0/cluster/members/{name}", &[&name]), &body).await?;
        ctx.say(format!("Member {name} renamed to {}", self.new_name));
        Ok(())
    }
}

/// Remove a member from the cluster
#[derive(clap::Args)]
pub struct Remove {
    #[arg(value_name = "[remote:]member")]
    name: String,
    /// Remove it even though it cannot be reached or still holds something
    #[arg(short, long)]
    force: bool,
    /// Don't ask for confirmation of --force
    #[arg(long)]
    yes: bool,
}

impl Remove {
    /// Removes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "cluster member name")?;
        if self.force && !self.yes {
            println!(
                "Removing a member by force is a last resort, for a server that has died, was reinstalled or will\n\
                 never come back. The server will not work afterwards until it is reset completely, and the\n\
                 instances, images and storage volumes that only it holds are lost.\n\n\
                 While it still runs, move what it holds elsewhere and remove it without --force.\n"
            );
            let answer = prompt::line(&format!("Are you really sure you want to force removing {name}? (yes/no): "));
            if !answer.is_ok_and(|a| a.eq_ignore_ascii_case("yes")) {
                return Err(Error::bad_request("User aborted delete operation"));
            }
        }
        let force = if self.force { "?force=1" } else { "" };
        let reply = server.delete(&(path("/1.0/cluster/members/{name}", &[&name]) + force)).await?;
        ctx.wait(&server, reply).await?;
        ctx.say(format!("Member {name} removed"));
        Ok(())
    }
}
