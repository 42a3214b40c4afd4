//! `incus config template`: the files that an instance writes at its start.

use api::{Result, endpoint::encode};
use serde_json::Value;

use crate::{
    cmd::{FormatFlag, path},
    ctx::Ctx,
    edit,
    output::{Column, Listing, print_list},
    server::Server,
    transport::{empty, full},
};

family! {
    /// Manage the file templates of instances
    Template {
        Create(Create),
        #[command(visible_alias = "rm")]
        Delete(Delete),
        Edit(Edit),
        #[command(visible_alias = "ls")]
        List(List),
        Show(Show),
    }
}

fn url(instance: &str, template: &str) -> String {
    path("/1.0/instances/{name}/metadata/templates", &[instance]) + "?path=" + &encode(template)
}

async fn put(server: &Server, url: &str, content: Vec<u8>) -> Result<()> {
    let headers = [("content-type".to_owned(), "application/octet-stream".to_owned())];
    server.upload("POST", url, &headers, full(content)).await.map(drop)
}

/// Create a template, with content from standard input if some is given there
#[derive(clap::Args)]
pub struct Create {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    template: String,
}

impl Create {
    /// Creates.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        let content = edit::piped()?.unwrap_or_default();
        put(&server, &url(&name, &self.template), content.into_bytes()).await
    }
}

/// Delete a template
#[derive(clap::Args)]
pub struct Delete {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    template: String,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        server.delete(&url(&name, &self.template)).await.map(drop)
    }
}

/// Edit a template, in an editor or from standard input
#[derive(clap::Args)]
pub struct Edit {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    template: String,
}

impl Edit {
    /// Edits.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        let url = url(&name, &self.template);
        let content = match edit::piped()? {
            Some(text) => text.into_bytes(),
            None => edit::text(&server.raw("GET", &url, &[], empty()).await?.bytes().await?, "")?,
        };
        put(&server, &url, content).await
    }
}

/// List the templates of an instance
#[derive(clap::Args)]
pub struct List {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    #[command(flatten)]
    output: FormatFlag,
}

const COLUMNS: &[Column<Value>] = columns! {
    'f' "FILENAME" |t| t.as_str().unwrap_or_default().to_owned();
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        let templates = server.list(&path("/1.0/instances/{name}/metadata/templates", &[&name])).await?;
        print_list(&Listing { all: COLUMNS, spec: "f", format: &self.output.format, sort: true }, templates)
    }
}

/// Show the content of a template
#[derive(clap::Args)]
pub struct Show {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    template: String,
}

impl Show {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        let reply = server.raw("GET", &url(&name, &self.template), &[], empty()).await?;
        reply.each(|data| std::io::Write::write_all(&mut std::io::stdout(), data)).await
    }
}
