//! `incus snapshot`.

use api::{Error, Kind, Result};
use serde_json::{Value, json};

use super::url;
use crate::{
    cmd::{FormatFlag, path, s},
    ctx::Ctx,
    edit,
    output::{Column, Listing, date, level, print_list, to_yaml},
    prompt,
};

family! {
    /// Manage the snapshots of instances
    Snapshot {
        Create(Create),
        #[command(visible_alias = "rm")]
        Delete(Delete),
        #[command(visible_alias = "ls")]
        List(List),
        #[command(visible_alias = "mv")]
        Rename(Rename),
        Restore(Restore),
        Show(Show),
    }
}

fn snapshot_url(instance: &str, snapshot: &str) -> String {
    path("/1.0/instances/{name}/snapshots/{snapshot}", &[instance, snapshot])
}

/// Take a snapshot of an instance
#[derive(clap::Args)]
pub struct Create {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    snapshot: Option<String>,
    /// It never expires, whatever the instance says
    #[arg(long)]
    no_expiry: bool,
    /// Take the place of a snapshot of that name
    #[arg(long)]
    reuse: bool,
    /// With the running state
    #[arg(long)]
    stateful: bool,
}

impl Create {
    /// Takes it.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        if name.contains('/') {
            return Err(Error::bad_request("Invalid instance name"));
        }
        let mut body = edit::piped_yaml()?.unwrap_or_else(|| json!({}));
        body["name"] = self.snapshot.clone().unwrap_or_default().into();
        body["stateful"] = self.stateful.into();
        if self.no_expiry {
            body["expires_at"] = "0001-01-01T00:00:00Z".into();
        }
        if let (true, Some(snapshot)) = (self.reuse, &self.snapshot) {
            match server.delete(&snapshot_url(&name, snapshot)).await {
                Ok(reply) => drop(ctx.wait(&server, reply).await?),
                Err(e) if e.kind == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let reply = server.post(&(url(&name) + "/snapshots"), &body).await?;
        ctx.wait(&server, reply).await.map(drop)
    }
}

/// Delete a snapshot
#[derive(clap::Args)]
pub struct Delete {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    #[arg(required = true, value_name = "snapshot")]
    snapshots: Vec<String>,
    /// Ask for confirmation
    #[arg(short, long)]
    interactive: bool,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        for snapshot in &self.snapshots {
            if self.interactive && !prompt::yes_no(&format!("Remove {name}/{snapshot} (yes/no): "), false)? {
                return Err(Error::bad_request("User aborted delete operation"));
            }
            let reply = server.delete(&snapshot_url(&name, snapshot)).await?;
            ctx.wait(&server, reply).await?;
        }
        Ok(())
    }
}

/// List the snapshots of an instance
///
/// Columns: n - name, T - when it was taken, E - when it expires, s - whether it has the running state.
#[derive(clap::Args)]
pub struct List {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    /// Columns
    #[arg(short, long, default_value = "nTEs")]
    columns: String,
    #[command(flatten)]
    output: FormatFlag,
}

/// The columns.
pub const COLUMNS: &[Column<Value>] = columns! {
    'n' "NAME" |v| s(v, "name").rsplit('/').next().unwrap_or_default().to_owned();
    'T' "TAKEN AT" |v| date(&v["created_at"]);
    'E' "EXPIRES AT" |v| date(&v["expires_at"]);
    's' "STATEFUL" |v| level(v["stateful"] == true);
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        crate::output::columns(COLUMNS, &self.columns)?;
        let snapshots = server.list(&(url(&name) + "/snapshots?recursion=1")).await?;
        print_list(&Listing { all: COLUMNS, spec: &self.columns, format: &self.output.format, sort: false }, snapshots)
    }
}

/// Rename a snapshot
#[derive(clap::Args)]
pub struct Rename {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    snapshot: String,
    new_name: String,
}

impl Rename {
    /// Renames.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        let reply = server.post(&snapshot_url(&name, &self.snapshot), &json!({ "name": self.new_name })).await?;
        ctx.wait(&server, reply).await.map(drop)
    }
}

/// Put an instance back to a snapshot
#[derive(clap::Args)]
pub struct Restore {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    snapshot: String,
    /// With the running state, if the snapshot has it
    #[arg(long)]
    stateful: bool,
}

impl Restore {
    /// Restores.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        let snapshot = format!("{name}/{}", self.snapshot);
        let body = json!({ "restore": snapshot, "stateful": self.stateful });
        let reply = server.put(&url(&name), &body, None).await?;
        ctx.wait(&server, reply).await.map(drop)
    }
}

/// Show a snapshot as YAML
#[derive(clap::Args)]
pub struct Show {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    snapshot: Option<String>,
}

impl Show {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        let (name, snapshot) = match (&self.snapshot, name.split_once('/')) {
            (Some(snapshot), _) => (name.clone(), snapshot.clone()),
            (None, Some((name, snapshot))) => (name.to_owned(), snapshot.to_owned()),
            (None, None) => return Err(Error::bad_request("Invalid snapshot name")),
        };
        println!("{}", to_yaml(&server.get(&snapshot_url(&name, &snapshot)).await?.value));
        Ok(())
    }
}
