//! New members: `incus cluster add` and `join`.

use api::{Error, Result};
use serde_json::{Value, json};

use super::tokens;
use crate::{cmd, ctx::Ctx, prompt, server::Server};

/// Ask for a join token for a new member
#[derive(clap::Args)]
pub struct Add {
    #[arg(value_name = "[remote:]member")]
    name: Option<String>,
}

impl Add {
    /// Prints the token.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, mut name) = ctx.open_optional(self.name.as_deref())?;
        if name.is_empty() {
            name = prompt::required("Please provide cluster member name: ", "")?;
        }
        println!("Member {name} join token:\n{}", join_token(&server, &name).await?);
        Ok(())
    }
}

/// Has the cluster make a join token for a member of that name.
async fn join_token(server: &Server, name: &str) -> Result<String> {
    let reply = server.post("/1.0/cluster/members", &json!({ "server_name": name })).await?;
    let token = tokens::token(&reply.value["metadata"]);
    token.map(|t| tokens::encoded(&t)).ok_or_else(|| Error::internal("The server's answer holds no join token"))
}

/// Join a server to a cluster
///
/// Both are remotes that this client may use. The second one is the server that joins; all that it holds is lost.
#[derive(clap::Args)]
pub struct Join {
    #[arg(value_name = "cluster:")]
    cluster: String,
    #[arg(value_name = "server:[member]")]
    member: Option<String>,
}

impl Join {
    /// Joins.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (cluster, _) = ctx.open(&self.cluster)?;
        let (server, mut name) = ctx.open_optional(self.member.as_deref())?;
        if !cluster.is_clustered().await? {
            return Err(Error::bad_request("Target isn't a cluster"));
        }
        if server.is_clustered().await? {
            return Err(Error::bad_request("Target server is already clustered"));
        }
        let default = server.info().await?["environment"]["server_name"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            let question = format!(
                "What member name should be used to identify this server in the cluster? [default={default}]: "
            );
            name = prompt::required(&question, &default)?;
        }
        let address = listen_address(&server).await?;
        if !prompt::yes_no(
            "All existing data is lost when joining a cluster, continue? (yes/no) [default=no]: ",
            false,
        )? {
            return Err(Error::bad_request("User aborted configuration"));
        }
        let token = join_token(&cluster, &name).await?;
        let member_config = member_config(&cluster).await?;
        let body = cmd::admin::join::body(&token, &name, &address, member_config)?;
        let body = cmd::admin::join::with_certificate(body, cluster.info().await?);
        let reply = server.put("/1.0/cluster", &body, None).await?;
        ctx.wait(&server, reply).await?;
        ctx.say(format!("Server {name} joined the cluster"));
        Ok(())
    }
}

async fn listen_address(server: &Server) -> Result<String> {
    let info = server.info().await?;
    let set = info["config"]["core.https_address"].as_str().filter(|a| !a.is_empty());
    let first = info["environment"]["addresses"].as_array().and_then(|a| a.first()).and_then(Value::as_str);
    let default = set.or(first).unwrap_or_default().to_owned();
    let question = format!("What IP address or DNS name should be used to reach this server? [default={default}]: ");
    let answer = prompt::required(&question, &default)?;
    Ok(cmd::admin::join::with_port(&answer))
}

/// Asks for the keys that each member has its own value of.
pub async fn member_config(cluster: &Server) -> Result<Vec<Value>> {
    let mut all = match cluster.get("/1.0/cluster").await?.value["member_config"].take() {
        Value::Array(all) => all,
        _ => Vec::new(),
    };
    for key in &mut all {
        let question = format!("Choose {}: ", key["description"].as_str().unwrap_or_default());
        key["value"] = prompt::line(&question)?.into();
    }
    Ok(all)
}
