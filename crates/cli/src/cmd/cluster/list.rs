//! `incus cluster list`.

use api::{Error, Result};
use serde_json::Value;

use crate::{
    cmd::{self, s},
    ctx::Ctx,
    output::{Column, EACH, Format, Listing, print_list},
};

/// List the members of the cluster
///
/// Columns: n - name, u - URL, r - roles, a - architecture, f - failure domain, d - description, s - status,
/// m - message.
///
/// Filters are words that the name must contain, or <key>=<value>, the key being a field of the member or a
/// configuration key.
#[derive(clap::Args)]
pub struct List {
    /// The remote and filters
    #[arg(value_name = "[remote:] filter")]
    args: Vec<String>,
    /// Members of all projects
    #[arg(long)]
    all_projects: bool,
    /// Columns
    #[arg(short, long, default_value = "nurafdsm")]
    columns: String,
    /// Format (csv|json|table|yaml|compact|markdown), with ",header" or ",noheader" if wanted
    #[arg(short, long, default_value = "table")]
    format: Format,
}

/// The columns.
pub const COLUMNS: &[Column<Value>] = columns! {
    'n' "NAME" |m| s(m, "server_name");
    'u' "URL" |m| s(m, "url");
    'r' "ROLES" |m| cmd::list(&m["roles"]).join(EACH);
    'a' "ARCHITECTURE" |m| s(m, "architecture");
    'f' "FAILURE DOMAIN" |m| s(m, "failure_domain");
    'd' "DESCRIPTION" |m| s(m, "description");
    's' "STATUS" |m| s(m, "status").to_uppercase();
    'm' "MESSAGE" |m| s(m, "message");
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        if self.all_projects && ctx.global.project.is_some() {
            return Err(Error::bad_request("Can't specify --project with --all-projects"));
        }
        let (server, filters) = cmd::remote_and_filters(ctx, &self.args)?;
        crate::output::columns(COLUMNS, &self.columns)?;
        server.must_be_clustered().await?;
        let mut members = server.list("/1.0/cluster/members?recursion=1").await?;
        members.retain(|m| filters.iter().all(|f| cmd::matches(m, "server_name", f)));
        let listing = Listing { all: COLUMNS, spec: &self.columns, format: &self.format, sort: true };
        print_list(&listing, members)
    }
}
