//! `incus cluster role`.

use api::{Error, Result};
use serde_json::Value;

use crate::{
    cmd::{self, path},
    ctx::Ctx,
    server::Server,
};

family! {
    /// Manage the roles of cluster members
    Role {
        #[command(visible_alias = "create")]
        Add(Add),
        #[command(visible_aliases = ["delete", "rm"])]
        Remove(Remove),
    }
}

/// Give roles to a cluster member
#[derive(clap::Args)]
pub struct Add {
    #[arg(value_name = "[remote:]member")]
    name: String,
    /// Roles, parted by commas
    #[arg(value_name = "role[,role...]")]
    roles: String,
}

/// Take roles from a cluster member
#[derive(clap::Args)]
pub struct Remove {
    #[arg(value_name = "[remote:]member")]
    name: String,
    /// Roles, parted by commas
    #[arg(value_name = "role[,role...]")]
    roles: String,
}

impl Add {
    /// Adds.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        update(ctx, &self.name, &self.roles, |member, has, role| {
            if has.contains(&role) {
                return Err(Error::conflict(format!("Member {member:?} already has role {role:?}")));
            }
            Ok(has.iter().copied().chain([role]).map(str::to_owned).collect())
        })
        .await
    }
}

impl Remove {
    /// Removes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        update(ctx, &self.name, &self.roles, |member, has, role| {
            if !has.contains(&role) {
                return Err(Error::not_found(format!("Member {member:?} does not have role {role:?}")));
            }
            Ok(has.iter().copied().filter(|r| *r != role).map(str::to_owned).collect())
        })
        .await
    }
}

async fn update(
    ctx: &Ctx,
    name: &str,
    roles: &str,
    change: impl Fn(&str, &[&str], &str) -> Result<Vec<String>>,
) -> Result<()> {
    let (server, name) = ctx.open_named(name, "cluster member name")?;
    let url = path("/1.0/cluster/members/{name}", &[&name]);
    let reply = server.get(&url).await?;
    let mut has: Vec<String> = cmd::list(&reply.value["roles"]).into_iter().map(str::to_owned).collect();
    for role in roles.split(',').map(str::trim) {
        let now: Vec<&str> = has.iter().map(String::as_str).collect();
        has = change(&name, &now, role)?;
    }
    let mut value = reply.value;
    value["roles"] = has.into();
    put_member(&server, &url, value, reply.etag.as_deref()).await
}

/// Sends what can be changed of a member.
pub async fn put_member(server: &Server, url: &str, value: Value, etag: Option<&str>) -> Result<()> {
    let fields = ["roles", "failure_domain", "description", "config", "groups"];
    let body = fields.iter().map(|f| ((*f).to_owned(), value[*f].clone())).collect();
    server.put(url, &Value::Object(body), etag).await.map(drop)
}
