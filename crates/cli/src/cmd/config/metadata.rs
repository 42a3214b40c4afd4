//! `incus config metadata`: what an instance brought along from its image.

use api::Result;

use crate::{
    cmd::path,
    ctx::Ctx,
    edit,
    output::{from_yaml, to_yaml},
};

family! {
    /// Manage the metadata of instances
    Metadata {
        Edit(Edit),
        Show(Show),
    }
}

/// Show the metadata of an instance as YAML
#[derive(clap::Args)]
pub struct Show {
    #[arg(value_name = "[remote:]instance")]
    name: String,
}

impl Show {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        println!("{}", to_yaml(&server.get(&path("/1.0/instances/{name}/metadata", &[&name])).await?.value));
        Ok(())
    }
}

/// Edit the metadata of an instance as YAML, in an editor or from standard input
#[derive(clap::Args)]
pub struct Edit {
    #[arg(value_name = "[remote:]instance")]
    name: String,
}

impl Edit {
    /// Edits.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        let url = path("/1.0/instances/{name}/metadata", &[&name]);
        if let Some(text) = edit::piped()? {
            return server.put(&url, &from_yaml(&text)?, None).await.map(drop);
        }
        let reply = server.get(&url).await?;
        let etag = reply.etag.as_deref();
        let put = |value| {
            let (server, url) = (&server, &url);
            async move { server.put(url, &value, etag).await.map(drop) }
        };
        edit::yaml(&format!("{}\n", to_yaml(&reply.value)), put).await
    }
}
