//! `incus operation`.

use api::{Error, Result};
use serde_json::Value;

use crate::{
    cmd::{FormatFlag, cluster::flatten, path, s},
    ctx::Ctx,
    output::{Column, Listing, date, level, print_list, to_yaml},
};

family! {
    /// List, show and cancel background operations
    Operation {
        #[command(visible_aliases = ["cancel", "rm", "remove"])]
        Delete(Delete),
        #[command(visible_alias = "ls")]
        List(List),
        Show(Show),
    }
}

fn url(id: &str) -> String {
    path("/1.0/operations/{id}", &[id])
}

/// Cancel background operations
#[derive(clap::Args)]
pub struct Delete {
    #[arg(required = true, value_name = "[remote:]operation")]
    ids: Vec<String>,
}

impl Delete {
    /// Cancels.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        for id in &self.ids {
            let (server, id) = ctx.open_named(id, "operation name")?;
            server.delete(&url(&id)).await?;
            ctx.say(format!("Operation {id} deleted"));
        }
        Ok(())
    }
}

/// List background operations
///
/// Columns: i - ID, t - type, d - description, s - state, c - whether it can be cancelled, C - when it began,
/// L - location.
#[derive(clap::Args)]
pub struct List {
    #[arg(value_name = "[remote:]")]
    remote: Option<String>,
    /// Operations of all projects
    #[arg(long)]
    all_projects: bool,
    /// Columns
    #[arg(short, long)]
    columns: Option<String>,
    #[command(flatten)]
    output: FormatFlag,
}

const COLUMNS: &[Column<Value>] = columns! {
    'i' "ID" |o| s(o, "id");
    't' "TYPE" |o| s(o, "class").to_uppercase();
    'd' "DESCRIPTION" |o| s(o, "description");
    's' "STATE" |o| s(o, "status").to_uppercase();
    'c' "CANCELABLE" |o| level(o["may_cancel"] == true);
    'C' "CREATED" |o| date(&o["created_at"]);
    'L' "LOCATION" |o| s(o, "location");
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        if self.all_projects && ctx.global.project.is_some() {
            return Err(Error::bad_request("Can't specify --project with --all-projects"));
        }
        let (server, _) = ctx.open_optional(self.remote.as_deref())?;
        let spec = match self.columns {
            Some(spec) => spec,
            None if server.is_clustered().await? => "itdscCL".into(),
            None => "itdscC".into(),
        };
        crate::output::columns(COLUMNS, &spec)?;
        let projects = if self.all_projects { "&all-projects=true" } else { "" };
        let all = flatten(server.get(&format!("/1.0/operations?recursion=1{projects}")).await?.value);
        print_list(&Listing { all: COLUMNS, spec: &spec, format: &self.output.format, sort: true }, all)
    }
}

/// Show a background operation as YAML
#[derive(clap::Args)]
pub struct Show {
    #[arg(value_name = "[remote:]operation")]
    id: String,
}

impl Show {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, id) = ctx.open_named(&self.id, "operation name")?;
        println!("{}", to_yaml(&server.get(&url(&id)).await?.value));
        Ok(())
    }
}
