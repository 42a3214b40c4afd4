//! `incus config trust`: who may use the server.

use api::{Error, Result, endpoint::encode};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    cmd::{self, FormatFlag, cluster::flatten, path, s},
    ctx::Ctx,
    entity::{Entity, Missing, Unset},
    output::{Column, Listing, date, level, print_list},
    server::Server,
    tls,
};

family! {
    /// Manage trusted clients
    Trust {
        Add(Add),
        AddCertificate(AddCertificate),
        Edit(Edit),
        #[command(visible_alias = "ls")]
        List(List),
        ListTokens(ListTokens),
        #[command(visible_aliases = ["delete", "rm"])]
        Remove(Remove),
        RevokeToken(RevokeToken),
        Show(Show),
    }
}

/// Make a token with which a new client can have itself trusted
#[derive(clap::Args)]
pub struct Add {
    #[arg(value_name = "[remote:]name")]
    name: String,
    /// The projects, parted by commas, that the client may use
    #[arg(long)]
    projects: Option<String>,
    /// Restrict the client to projects
    #[arg(long)]
    restricted: bool,
}

fn projects(given: Option<&String>) -> Vec<String> {
    given.map(|p| p.split(',').filter(|p| !p.is_empty()).map(str::to_owned).collect()).unwrap_or_default()
}

impl Add {
    /// Adds.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "client name")?;
        let body = json!({
            "name": name, "type": "client", "token": true, "restricted": self.restricted,
            "projects": projects(self.projects.as_ref()),
        });
        let reply = server.post("/1.0/certificates", &body).await?;
        let token =
            token(&reply.value["metadata"]).ok_or_else(|| Error::internal("The server's answer holds no token"))?;
        ctx.say(format!("Client {name} certificate add token:"));
        println!("{}", encoded(&token));
        Ok(())
    }
}

fn token(metadata: &Value) -> Option<Value> {
    Some(json!({
        "client_name": metadata.get("request")?.get("name")?,
        "fingerprint": metadata.get("fingerprint")?,
        "addresses": metadata.get("addresses")?,
        "secret": metadata.get("secret")?,
        "expires_at": metadata.get("expiresAt").cloned().unwrap_or_else(|| "0001-01-01T00:00:00Z".into()),
    }))
}

fn encoded(token: &Value) -> String {
    BASE64_STANDARD.encode(token.to_string())
}

/// Trust the client that has this certificate
#[derive(clap::Args)]
pub struct AddCertificate {
    /// The remote, and the certificate's file
    #[arg(required = true, num_args = 1..=2, value_name = "[remote:] cert.crt")]
    args: Vec<String>,
    /// Description
    #[arg(long)]
    description: Option<String>,
    /// Name, if not the file's
    #[arg(long)]
    name: Option<String>,
    /// The projects, parted by commas, that the client may use
    #[arg(long)]
    projects: Option<String>,
    /// Restrict the client to projects
    #[arg(long)]
    restricted: bool,
    /// client or metrics
    #[arg(short, long = "type", default_value = "client")]
    kind: String,
}

impl AddCertificate {
    /// Adds.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (remote, file) = match self.args.as_slice() {
            [file] => ("", file),
            [remote, file] => (remote.as_str(), file),
            _ => return Err(Error::bad_request("Invalid number of arguments")),
        };
        let (server, _) = ctx.open(remote)?;
        let file = std::path::Path::new(file);
        let der = tls::read_cert(file)?;
        let name = self.name.unwrap_or_else(|| file.file_name().unwrap_or_default().to_string_lossy().into_owned());
        let body = json!({
            "name": name, "type": self.kind, "certificate": BASE64_STANDARD.encode(der),
            "restricted": self.restricted, "projects": projects(self.projects.as_ref()),
            "description": self.description.unwrap_or_default(),
        });
        server.post("/1.0/certificates", &body).await.map(drop)
    }
}

/// List the trusted clients
///
/// Columns: n - name, t - type, c - common name, f - fingerprint (short), F - fingerprint, d - description, i - issue
/// date, e - expiry date, r - whether it is restricted, p - projects.
#[derive(clap::Args)]
pub struct List {
    /// The remote and filters
    #[arg(value_name = "[remote:] filter")]
    args: Vec<String>,
    /// Columns
    #[arg(short, long, default_value = "ntdfe")]
    columns: String,
    #[command(flatten)]
    output: FormatFlag,
}

const COLUMNS: &[Column<Value>] = columns! {
    'n' "NAME" |c| s(c, "name");
    't' "TYPE" |c| s(c, "type");
    'c' "COMMON NAME" |c| x509(c).0;
    'f' "FINGERPRINT" |c| s(c, "fingerprint").chars().take(12).collect();
    'F' "FINGERPRINT" |c| s(c, "fingerprint");
    'd' "DESCRIPTION" |c| s(c, "description");
    'i' "ISSUE DATE" |c| x509(c).1;
    'e' "EXPIRY DATE" |c| x509(c).2;
    'r' "RESTRICTED" |c| level(c["restricted"] == true);
    'p' "PROJECTS" |c| cmd::list(&c["projects"]).join("\n");
};

/// Common name, begin and end of a certificate.
fn x509(certificate: &Value) -> (String, String, String) {
    let text = certificate["certificate"].as_str().unwrap_or_default();
    let packed: String =
        text.lines().filter(|l| !l.starts_with("-----")).flat_map(str::chars).filter(|c| !c.is_whitespace()).collect();
    let Ok(der) = BASE64_STANDARD.decode(packed) else { return Default::default() };
    let Ok((_, cert)) = x509_parser::parse_x509_certificate(&der) else { return Default::default() };
    let name = cert.subject().iter_common_name().next().and_then(|n| n.as_str().ok()).unwrap_or_default().to_owned();
    let when = |t: i64| jiff::Timestamp::from_second(t).map(|t| date(&t.to_string().into())).unwrap_or_default();
    (name, when(cert.validity().not_before.timestamp()), when(cert.validity().not_after.timestamp()))
}

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, filters) = cmd::remote_and_filters(ctx, &self.args)?;
        let mut all = server.list("/1.0/certificates?recursion=1").await?;
        all.retain(|c| filters.iter().all(|f| cmd::matches(c, "name", f)));
        print_list(&Listing { all: COLUMNS, spec: &self.columns, format: &self.output.format, sort: true }, all)
    }
}

/// List the tokens of new clients that have not been used
///
/// Columns: n - name, t - token, E - when it expires.
#[derive(clap::Args)]
pub struct ListTokens {
    #[arg(value_name = "[remote:]")]
    remote: Option<String>,
    /// Columns
    #[arg(short, long, default_value = "ntE")]
    columns: String,
    #[command(flatten)]
    output: FormatFlag,
}

const TOKEN_COLUMNS: &[Column<Value>] = columns! {
    'n' "NAME" |t| s(t, "client_name");
    't' "TOKEN" encoded;
    'E' "EXPIRES AT" |t| date(&t["expires_at"]);
};

async fn operations(server: &Server) -> Result<Vec<Value>> {
    let all = flatten(server.get("/1.0/operations?recursion=1").await?.value);
    Ok(all.into_iter().filter(|op| op["class"] == "token" && op["status_code"] == 103).collect())
}

impl ListTokens {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, _) = ctx.open_optional(self.remote.as_deref())?;
        let tokens = operations(&server).await?.iter().filter_map(|op| token(&op["metadata"])).collect();
        let listing = Listing { all: TOKEN_COLUMNS, spec: &self.columns, format: &self.output.format, sort: true };
        print_list(&listing, tokens)
    }
}

/// Revoke the token of a new client
#[derive(clap::Args)]
pub struct RevokeToken {
    #[arg(value_name = "[remote:]name")]
    name: String,
}

impl RevokeToken {
    /// Revokes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "token name")?;
        let operations = operations(&server).await?;
        let found = operations
            .iter()
            .find(|op| token(&op["metadata"]).is_some_and(|t| t["client_name"] == name.as_str()))
            .and_then(|op| op["id"].as_str());
        let Some(id) = found else {
            return Err(Error::not_found(format!(
                "No certificate add token for member {name} on remote: {}",
                server.remote()
            )));
        };
        server.delete(&format!("/1.0/operations/{}", encode(id))).await?;
        ctx.say(format!("Certificate add token for {name} deleted"));
        Ok(())
    }
}

async fn entity<'a>(ctx: &'a Ctx, name: &str) -> Result<Entity<'a>> {
    let (server, name) = ctx.open_named(name, "certificate fingerprint")?;
    Ok(Entity {
        ctx,
        server,
        path: path("/1.0/certificates/{fingerprint}", &[&name]),
        noun: "certificate",
        name,
        fields: &["name", "type", "restricted", "projects", "certificate", "description"],
        brief: false,
        missing: Missing::Nothing,
        unset: Unset::Empty,
    })
}

/// Show a trusted client as YAML
#[derive(clap::Args)]
pub struct Show {
    #[arg(value_name = "[remote:]fingerprint")]
    name: String,
}

impl Show {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        entity(ctx, &self.name).await?.show().await
    }
}

/// Edit a trusted client as YAML, in an editor or from standard input
#[derive(clap::Args)]
pub struct Edit {
    #[arg(value_name = "[remote:]fingerprint")]
    name: String,
}

impl Edit {
    /// Edits.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let help = "This is a YAML representation of the certificate.\nLines that begin with '#' are ignored.";
        entity(ctx, &self.name).await?.edit(help).await
    }
}

/// Trust a client no longer
#[derive(clap::Args)]
pub struct Remove {
    #[arg(value_name = "[remote:]fingerprint")]
    name: String,
}

impl Remove {
    /// Removes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "certificate fingerprint")?;
        server.delete(&path("/1.0/certificates/{fingerprint}", &[&name])).await.map(drop)
    }
}
