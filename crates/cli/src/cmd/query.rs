//! `incus query`.

use api::{Error, Result};
use serde_json::Value;

use crate::{
    ctx::Ctx,
    server::Reply,
    transport::{empty, full},
};

/// Send a request to the API and print the answer
#[derive(clap::Args)]
pub struct Query {
    #[arg(value_name = "[remote:]path")]
    path: String,
    /// Body
    #[arg(short, long)]
    data: Option<String>,
    /// File with the body; "-" is standard input
    #[arg(long, conflicts_with = "data")]
    data_file: Option<String>,
    /// Header
    #[arg(short = 'H', long, value_name = "Name: value")]
    header: Vec<String>,
    /// Print the whole answer, not only what it is about
    #[arg(long)]
    raw: bool,
    /// Method
    #[arg(short = 'X', long, default_value = "GET")]
    request: String,
    /// Wait for the operation
    #[arg(long)]
    wait: bool,
}

impl Query {
    /// Sends it.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        if self.raw && self.wait {
            return Err(Error::bad_request("--raw and --wait can't be used together"));
        }
        let (server, path) = match self.path.strip_prefix('/') {
            Some(_) => (ctx.open("")?.0, self.path.clone()),
            None => ctx.open(&self.path)?,
        };
        if !path.starts_with('/') {
            return Err(Error::bad_request("Query path must start with /"));
        }
        let server = server.in_project(ctx.global.project.as_deref());
        let body = match (&self.data, self.data_file.as_deref()) {
            (Some(data), _) => Some(data.clone().into_bytes()),
            (None, Some("-")) => {
                let mut all = Vec::new();
                std::io::Read::read_to_end(&mut std::io::stdin(), &mut all)?;
                Some(all)
            }
            (None, Some(file)) => {
                Some(std::fs::read(file).map_err(|e| Error::bad_request(format!("Unable to read {file}: {e}")))?)
            }
            (None, None) => None,
        };
        let mut headers: Vec<(String, String)> = Vec::new();
        if body.is_some() {
            headers.push(("content-type".into(), "application/json".into()));
        }
        for header in &self.header {
            let (name, value) =
                header.split_once(':').ok_or_else(|| Error::bad_request(format!("Invalid header {header:?}")))?;
            headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name.trim()));
            if !value.trim().is_empty() {
                headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let body = body.map_or_else(empty, full);
        let reply = server.raw(&self.request.to_uppercase(), &path, &headers, body).await?;
        let bytes = reply.bytes().await?;
        let Ok(value) = serde_json::from_slice::<Value>(&bytes) else {
            return Ok(std::io::Write::write_all(&mut std::io::stdout(), &bytes)?);
        };
        if self.raw {
            return print(&value);
        }
        if self.wait && value["type"] == "async" {
            let operation = value["operation"].as_str().map(str::to_owned);
            let reply = Reply { value: value["metadata"].clone(), etag: None, operation };
            return print(&ctx.wait(&server, reply).await?);
        }
        print(&value["metadata"])
    }
}

/// JSON with tabs, as the client of Incus prints it.
fn print(value: &Value) -> Result<()> {
    let empty = match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    if empty {
        return Ok(());
    }
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    serde::Serialize::serialize(value, &mut serializer).map_err(|e| Error::internal(e.to_string()))?;
    println!("{}\n", String::from_utf8_lossy(&out));
    Ok(())
}
