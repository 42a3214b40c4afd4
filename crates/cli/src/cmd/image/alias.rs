//! `incus image alias`.

use api::Result;
use serde_json::{Value, json};

use crate::{
    cmd::{self, FormatFlag, path, s},
    ctx::Ctx,
    output::{Column, Listing, print_list},
};

family! {
    /// Manage the aliases of images
    Alias {
        Create(Create),
        #[command(visible_alias = "rm")]
        Delete(Delete),
        #[command(visible_alias = "ls")]
        List(List),
        #[command(visible_alias = "mv")]
        Rename(Rename),
    }
}

/// Give an image an alias
#[derive(clap::Args)]
pub struct Create {
    #[arg(value_name = "[remote:]alias")]
    name: String,
    fingerprint: String,
    /// Description
    #[arg(long)]
    description: Option<String>,
}

impl Create {
    /// Creates.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "alias name")?;
        let image = server.get(&path("/1.0/images/{fingerprint}", &[&self.fingerprint])).await?.value;
        let body = json!({
            "name": name, "target": image["fingerprint"], "description": self.description.unwrap_or_default(),
        });
        server.post("/1.0/images/aliases", &body).await.map(drop)
    }
}

/// Delete an alias
#[derive(clap::Args)]
pub struct Delete {
    #[arg(required = true, value_name = "[remote:]alias")]
    names: Vec<String>,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        for name in &self.names {
            let (server, name) = ctx.open_named(name, "alias name")?;
            server.delete(&path("/1.0/images/aliases/{name}", &[&name])).await?;
        }
        Ok(())
    }
}

/// Rename an alias
#[derive(clap::Args)]
pub struct Rename {
    #[arg(value_name = "[remote:]alias")]
    name: String,
    new_name: String,
}

impl Rename {
    /// Renames.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "alias name")?;
        server.post(&path("/1.0/images/aliases/{name}", &[&name]), &json!({ "name": self.new_name })).await.map(drop)
    }
}

/// List the aliases of images
///
/// Filters are parts of a fingerprint or alias. Columns: a - alias, f - fingerprint, t - type, d - description.
#[derive(clap::Args)]
pub struct List {
    /// The remote and filters
    #[arg(value_name = "[remote:] filter")]
    args: Vec<String>,
    /// Columns
    #[arg(short, long, default_value = "aftd")]
    columns: String,
    #[command(flatten)]
    output: FormatFlag,
}

const COLUMNS: &[Column<Value>] = columns! {
    'a' "ALIAS" |a| s(a, "name");
    'f' "FINGERPRINT" |a| s(a, "target").chars().take(12).collect();
    't' "TYPE" |a| if s(a, "type").is_empty() { "CONTAINER".into() } else { s(a, "type").to_uppercase() };
    'd' "DESCRIPTION" |a| s(a, "description");
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        crate::output::columns(COLUMNS, &self.columns)?;
        let (server, filters) = cmd::remote_and_filters(ctx, &self.args)?;
        let mut all = server.list("/1.0/images/aliases?recursion=1").await?;
        all.retain(|a| filters.iter().all(|f| s(a, "name").contains(f) || s(a, "target").contains(f)));
        print_list(&Listing { all: COLUMNS, spec: &self.columns, format: &self.output.format, sort: true }, all)
    }
}
