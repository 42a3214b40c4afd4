//! `incus admin sql`.

use api::{Error, Result};
use serde_json::{Value, json};

use crate::{ctx::Ctx, entity::as_text, output::Format};

/// Run SQL on the database of the member (local) or of the cluster (global)
///
/// The query "-" is read from standard input; ".dump", ".schema" and ".tables" print the database, its schema and the
/// names of its tables as text.
#[derive(clap::Args)]
pub struct Sql {
    #[arg(value_name = "[remote:]local|global")]
    database: String,
    query: String,
    /// Format (csv|json|table|yaml|compact|markdown), with ",header" or ",noheader" if wanted
    #[arg(short, long, default_value = "table")]
    format: Format,
}

impl Sql {
    /// Runs the query.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, database) = ctx.open(&self.database)?;
        let server = server.in_project(None);
        if !matches!(database.as_str(), "local" | "global") {
            return Err(Error::bad_request("Invalid database type"));
        }
        let query = match self.query.as_str() {
            "-" => std::io::read_to_string(std::io::stdin())?,
            ".tables" => "SELECT name FROM sqlite_master WHERE type='table' ORDER BY name".into(),
            ".dump" | ".schema" => {
                let schema = i32::from(self.query == ".schema");
                let dump = server.get(&format!("/internal/sql?database={database}&schema={schema}")).await?.value;
                print!("{}", dump["text"].as_str().unwrap_or_default());
                return Ok(());
            }
            query => query.to_owned(),
        };
        let answer = server.post("/internal/sql", &json!({ "database": database, "query": query })).await?.value;
        let results = ["Results", "results"].iter().find_map(|f| answer[*f].as_array()).cloned().unwrap_or_default();
        for (i, result) in results.iter().enumerate() {
            if results.len() > 1 {
                println!("=> Query {i}:\n");
            }
            self.print(result);
            if results.len() > 1 {
                println!();
            }
        }
        Ok(())
    }

    fn print(&self, result: &Value) {
        if result["type"] != "select" {
            println!("Rows affected: {}", result["rows_affected"]);
            return;
        }
        let texts = |v: &Value| v.as_array().map(|a| a.iter().map(as_text).collect::<Vec<_>>()).unwrap_or_default();
        let rows: Vec<Vec<String>> =
            result["rows"].as_array().map(|rows| rows.iter().map(texts).collect()).unwrap_or_default();
        let header: Vec<String> =
            texts(&result["columns"]).iter().map(|c| c.replace('_', " ").to_uppercase()).collect();
        print!("{}", self.format.render(&header, &rows, &result["rows"]));
    }
}
