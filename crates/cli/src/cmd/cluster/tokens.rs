//! The join tokens that have been handed out and not used.

use api::{Error, Result, endpoint::encode};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    cmd::s,
    ctx::Ctx,
    output::{Column, Format, Listing, date, print_list},
    server::Server,
};

/// List the join tokens of new members that have not been used
///
/// Columns: n - name, t - token, E - when it expires.
#[derive(clap::Args)]
pub struct ListTokens {
    #[arg(value_name = "[remote:]")]
    remote: Option<String>,
    /// Columns
    #[arg(short, long, default_value = "ntE")]
    columns: String,
    /// Format (csv|json|table|yaml|compact|markdown), with ",header" or ",noheader" if wanted
    #[arg(short, long, default_value = "table")]
    format: Format,
}

const COLUMNS: &[Column<Value>] = columns! {
    'n' "NAME" |t| s(t, "server_name");
    't' "TOKEN" encoded;
    'E' "EXPIRES AT" |t| date(&t["expires_at"]);
};

impl ListTokens {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, _) = ctx.open_optional(self.remote.as_deref())?;
        crate::output::columns(COLUMNS, &self.columns)?;
        server.must_be_clustered().await?;
        let tokens = operations(&server).await?.iter().filter_map(|op| token(&op["metadata"])).collect();
        let listing = Listing { all: COLUMNS, spec: &self.columns, format: &self.format, sort: true };
        print_list(&listing, tokens)
    }
}

/// Revoke the join token of a new member
#[derive(clap::Args)]
pub struct RevokeToken {
    #[arg(value_name = "[remote:]member")]
    name: String,
}

impl RevokeToken {
    /// Revokes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "cluster member name")?;
        server.must_be_clustered().await?;
        let operations = operations(&server).await?;
        let found = operations
            .iter()
            .find(|op| token(&op["metadata"]).is_some_and(|t| t["server_name"] == name.as_str()))
            .and_then(|op| op["id"].as_str());
        let Some(id) = found else {
            return Err(Error::not_found(format!(
                "No cluster join token for member {name} on remote: {}",
                server.remote()
            )));
        };
        server.delete(&format!("/1.0/operations/{}", encode(id))).await?;
        ctx.say(format!("Cluster join token for {name} deleted"));
        Ok(())
    }
}

/// The operations that stand for tokens and are still open.
pub async fn operations(server: &Server) -> Result<Vec<Value>> {
    let all = flatten(server.get("/1.0/operations?recursion=1").await?.value);
    Ok(all.into_iter().filter(|op| op["class"] == "token" && op["status_code"] == 103).collect())
}

/// Operations come sorted by state in a map; this is all of them.
pub fn flatten(value: Value) -> Vec<Value> {
    match value {
        Value::Object(map) => map.into_iter().flat_map(|(_, v)| flatten(v)).collect(),
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}

/// The join token in the metadata of an operation.
pub fn token(metadata: &Value) -> Option<Value> {
    Some(json!({
        "server_name": metadata.get("serverName")?,
        "fingerprint": metadata.get("fingerprint")?,
        "addresses": metadata.get("addresses")?,
        "secret": metadata.get("secret")?,
        "expires_at": metadata.get("expiresAt").cloned().unwrap_or_else(|| "0001-01-01T00:00:00Z".into()),
    }))
}

/// A token as it is handed to people.
pub fn encoded(token: &Value) -> String {
    BASE64_STANDARD.encode(token.to_string())
}
