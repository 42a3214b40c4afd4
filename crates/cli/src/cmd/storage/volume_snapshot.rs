//! `incus storage volume snapshot`.

use api::{Kind, Result};
use serde_json::{Value, json};

use super::volume::{open_pool, parse, url};
use crate::{
    cmd::{FormatFlag, path, s},
    ctx::Ctx,
    edit,
    output::{Column, Listing, date, print_list, to_yaml},
};

family! {
    /// Manage the snapshots of volumes
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

fn snapshot_url(pool: &str, volume: &str, snapshot: &str) -> String {
    let (kind, name, _) = parse(volume);
    url(pool, kind, name) + &path("/snapshots/{snapshot}", &[snapshot])
}

/// Take a snapshot of a volume
#[derive(clap::Args)]
pub struct Create {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    volume: String,
    snapshot: Option<String>,
    /// Description
    #[arg(long)]
    description: Option<String>,
    /// It never expires, whatever the volume says
    #[arg(long)]
    no_expiry: bool,
    /// Take the place of a snapshot of that name
    #[arg(long)]
    reuse: bool,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Create {
    /// Takes it.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, pool) = open_pool(ctx, &self.pool, self.target.as_deref())?;
        let (kind, name, _) = parse(&self.volume);
        let mut body = edit::piped_yaml()?.unwrap_or_else(|| json!({}));
        body["name"] = self.snapshot.clone().unwrap_or_default().into();
        if let Some(description) = self.description {
            body["description"] = description.into();
        }
        if self.no_expiry {
            body["expires_at"] = "0001-01-01T00:00:00Z".into();
        }
        if let (true, Some(snapshot)) = (self.reuse, &self.snapshot) {
            match server.delete(&snapshot_url(&pool, &self.volume, snapshot)).await {
                Ok(reply) => drop(ctx.wait(&server, reply).await?),
                Err(e) if e.kind == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let reply = server.post(&(url(&pool, kind, name) + "/snapshots"), &body).await?;
        ctx.wait(&server, reply).await.map(drop)
    }
}

/// Delete snapshots of a volume
#[derive(clap::Args)]
pub struct Delete {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    volume: String,
    #[arg(required = true, value_name = "snapshot")]
    snapshots: Vec<String>,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, pool) = open_pool(ctx, &self.pool, self.target.as_deref())?;
        for snapshot in &self.snapshots {
            let reply = server.delete(&snapshot_url(&pool, &self.volume, snapshot)).await?;
            ctx.wait(&server, reply).await?;
        }
        Ok(())
    }
}

/// List the snapshots of a volume
///
/// Columns: n - name, d - description, T - when it was taken, E - when it expires.
#[derive(clap::Args)]
pub struct List {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    volume: String,
    /// All projects
    #[arg(long)]
    all_projects: bool,
    /// Columns
    #[arg(short, long, default_value = "nTE")]
    columns: String,
    #[command(flatten)]
    output: FormatFlag,
}

/// The columns.
pub const COLUMNS: &[Column<Value>] = columns! {
    'n' "NAME" |v| s(v, "name").rsplit('/').next().unwrap_or_default().to_owned();
    'd' "DESCRIPTION" |v| s(v, "description");
    'T' "TAKEN AT" |v| date(&v["created_at"]);
    'E' "EXPIRES AT" |v| date(&v["expires_at"]);
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        crate::output::columns(COLUMNS, &self.columns)?;
        let (server, pool) = open_pool(ctx, &self.pool, None)?;
        let (kind, name, _) = parse(&self.volume);
        let projects = if self.all_projects { "&all-projects=true" } else { "" };
        let all = server.list(&format!("{}/snapshots?recursion=1{projects}", url(&pool, kind, name))).await?;
        print_list(&Listing { all: COLUMNS, spec: &self.columns, format: &self.output.format, sort: false }, all)
    }
}

/// Rename a snapshot of a volume
#[derive(clap::Args)]
pub struct Rename {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    volume: String,
    snapshot: String,
    new_name: String,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Rename {
    /// Renames.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, pool) = open_pool(ctx, &self.pool, self.target.as_deref())?;
        let body = json!({ "name": self.new_name });
        let reply = server.post(&snapshot_url(&pool, &self.volume, &self.snapshot), &body).await?;
        ctx.wait(&server, reply).await?;
        ctx.say(format!("Renamed storage volume snapshot from {:?} to {:?}", self.snapshot, self.new_name));
        Ok(())
    }
}

/// Put a volume back to a snapshot
#[derive(clap::Args)]
pub struct Restore {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    volume: String,
    snapshot: String,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Restore {
    /// Restores.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, pool) = open_pool(ctx, &self.pool, self.target.as_deref())?;
        let (kind, name, _) = parse(&self.volume);
        let reply = server.put(&url(&pool, kind, name), &json!({ "restore": self.snapshot }), None).await?;
        ctx.wait(&server, reply).await.map(drop)
    }
}

/// Show a snapshot of a volume as YAML
#[derive(clap::Args)]
pub struct Show {
    #[arg(value_name = "[remote:]pool")]
    pool: String,
    #[arg(value_name = "volume[/snapshot]")]
    volume: String,
    snapshot: Option<String>,
    /// Cluster member name
    #[arg(long)]
    target: Option<String>,
}

impl Show {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, pool) = open_pool(ctx, &self.pool, self.target.as_deref())?;
        let snapshot = self.snapshot.as_deref().or(parse(&self.volume).2);
        let snapshot = snapshot.ok_or_else(|| api::Error::bad_request("Invalid snapshot name"))?;
        println!("{}", to_yaml(&server.get(&snapshot_url(&pool, &self.volume, snapshot)).await?.value));
        Ok(())
    }
}
