//! `incus warning`.

use api::{Error, Result};
use serde_json::{Value, json};

use crate::{
    cmd::{FormatFlag, path, s},
    ctx::Ctx,
    output::{Column, Listing, date, print_list, to_yaml},
};

family! {
    /// Manage warnings
    Warning {
        #[command(visible_alias = "ack")]
        Acknowledge(Acknowledge),
        #[command(visible_aliases = ["rm", "remove"])]
        Delete(Delete),
        #[command(visible_alias = "ls")]
        List(List),
        Show(Show),
    }
}

fn url(id: &str) -> String {
    path("/1.0/warnings/{uuid}", &[id])
}

/// Say that a warning has been seen
#[derive(clap::Args)]
pub struct Acknowledge {
    #[arg(value_name = "[remote:]warning")]
    id: String,
}

impl Acknowledge {
    /// Acknowledges.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, id) = ctx.open_named(&self.id, "warning UUID")?;
        server.put(&url(&id), &json!({ "status": "acknowledged" }), None).await.map(drop)
    }
}

/// Delete warnings
#[derive(clap::Args)]
pub struct Delete {
    #[arg(required_unless_present = "all", value_name = "[remote:]warning")]
    ids: Vec<String>,
    /// All warnings
    #[arg(short, long)]
    all: bool,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        if !self.all {
            for id in &self.ids {
                let (server, id) = ctx.open_named(id, "warning UUID")?;
                server.delete(&url(&id)).await?;
            }
            return Ok(());
        }
        let (server, id) = ctx.open_optional(self.ids.first().map(String::as_str))?;
        if !id.is_empty() || self.ids.len() > 1 {
            return Err(Error::bad_request("Both --all and a warning are given"));
        }
        for warning in server.list("/1.0/warnings?recursion=1").await? {
            server.delete(&url(&s(&warning, "uuid"))).await?;
        }
        Ok(())
    }
}

/// List warnings
///
/// Columns: c - count, l - last seen, L - location, f - first seen, p - project, s - severity, S - status, u - UUID,
/// t - type.
#[derive(clap::Args)]
pub struct List {
    #[arg(value_name = "[remote:]")]
    remote: Option<String>,
    /// Those that are resolved or acknowledged too
    #[arg(short, long)]
    all: bool,
    /// Columns
    #[arg(short, long)]
    columns: Option<String>,
    #[command(flatten)]
    output: FormatFlag,
}

const COLUMNS: &[Column<Value>] = columns! {
    'c' "COUNT" |w| w["count"].to_string();
    'f' "FIRST SEEN" |w| date(&w["first_seen_at"]);
    'l' "LAST SEEN" |w| date(&w["last_seen_at"]);
    'L' "LOCATION" |w| s(w, "location");
    'p' "PROJECT" |w| s(w, "project");
    's' "SEVERITY" |w| s(w, "severity").to_uppercase();
    'S' "STATE" |w| s(w, "status").to_uppercase();
    't' "TYPE" |w| s(w, "type");
    'u' "UUID" |w| s(w, "uuid");
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, _) = ctx.open_optional(self.remote.as_deref())?;
        let spec = match self.columns {
            Some(spec) => spec,
            None if server.is_clustered().await? => "utSscpLl".into(),
            None => "utSscpl".into(),
        };
        crate::output::columns(COLUMNS, &spec)?;
        let mut all = server.list("/1.0/warnings?recursion=1").await?;
        all.retain(|w| self.all || w["status"] == "new");
        print_list(&Listing { all: COLUMNS, spec: &spec, format: &self.output.format, sort: true }, all)
    }
}

/// Show a warning as YAML
#[derive(clap::Args)]
pub struct Show {
    #[arg(value_name = "[remote:]warning")]
    id: String,
}

impl Show {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, id) = ctx.open_named(&self.id, "warning UUID")?;
        println!("{}", to_yaml(&server.get(&url(&id)).await?.value));
        Ok(())
    }
}
