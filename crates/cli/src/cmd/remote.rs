//! `incus remote`.

use std::sync::{Arc, Mutex};

use api::{Error, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    cmd::{FormatFlag, s},
    config::{Config, Remote as Entry, local_socket},
    ctx::{Ctx, tls_endpoint},
    output::{Column, Listing, level, print_list},
    prompt,
    server::Server,
    tls,
    transport::{Endpoint, Transport},
};

family! {
    /// Manage the servers that this client knows
    Remote {
        Add(Add),
        GenerateCertificate(GenerateCertificate),
        GetDefault(GetDefault),
        #[command(visible_alias = "ls")]
        List(List),
        #[command(visible_alias = "rm")]
        Remove(Remove),
        #[command(visible_alias = "mv")]
        Rename(Rename),
        SetUrl(SetUrl),
        #[command(visible_alias = "set-default")]
        Switch(Switch),
    }
}

/// Add a server
///
/// By its address, or by a token that `incus config trust add` made there. With an address alone the server's
/// certificate is shown and must be accepted, and this client must be trusted by it already or have a token.
#[derive(clap::Args)]
pub struct Add {
    /// The name, and an address, URL or token
    #[arg(required = true, num_args = 1..=2, value_name = "[remote] address|URL|token")]
    args: Vec<String>,
    /// Accept the server's certificate without asking
    #[arg(long)]
    accept_certificate: bool,
    /// tls
    #[arg(long)]
    auth_type: Option<String>,
    /// incus or simplestreams
    #[arg(long)]
    protocol: Option<String>,
    /// It only serves images, to everybody
    #[arg(long)]
    public: bool,
    /// Token
    #[arg(long)]
    token: Option<String>,
}

struct Token {
    text: String,
    name: String,
    fingerprint: String,
    addresses: Vec<String>,
}

fn decode(text: &str) -> Option<Token> {
    let value: Value = serde_json::from_slice(&BASE64_STANDARD.decode(text.trim()).ok()?).ok()?;
    let addresses: Vec<String> = crate::cmd::list(&value["addresses"]).into_iter().map(str::to_owned).collect();
    Some(Token {
        text: text.trim().to_owned(),
        name: value["client_name"].as_str()?.to_owned(),
        fingerprint: value["fingerprint"].as_str()?.to_owned(),
        addresses,
    })
}

/// Refuses the name of a remote that is there.
fn is_free(config: &Config, name: &str) -> Result<()> {
    match config.remotes.get(name) {
        Some(there) => Err(Error::conflict(format!("Remote {name} exists as <{}>", there.addr))),
        None => Ok(()),
    }
}

/// True if an authority vouches for the server.
async fn vouched_for(ctx: &Ctx, name: &str, url: &str) -> bool {
    let config = tls::vouched(&ctx.config).and_then(|expect| tls::client_config(&ctx.config, expect));
    let Ok(endpoint) = config.and_then(|config| tls_endpoint(url, config)) else { return false };
    Server::new(name, Transport::new(endpoint)).get("/1.0").await.is_ok()
}

impl Add {
    /// Adds.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (name, address) = match self.args.as_slice() {
            [one] => (None, one.clone()),
            [name, address] => (Some(name.clone()), address.clone()),
            _ => return Err(Error::bad_request("Invalid number of arguments")),
        };
        let token = decode(&address);
        let name = name.unwrap_or_else(|| match &token {
            Some(t) => t.addresses.first().cloned().unwrap_or_default(),
            None => address.trim_start_matches("https://").to_owned(),
        });
        let name = name.split(':').next().filter(|n| !n.is_empty()).unwrap_or("remote").to_owned();
        is_free(&ctx.config, &name)?;
        if name.contains(['/', ' ']) {
            return Err(Error::bad_request(format!("Invalid remote name {name:?}")));
        }
        if let Some(kind) = self.auth_type.as_deref().filter(|k| *k != "tls") {
            return Err(Error::bad_request(format!("The authentication type {kind:?} is not supported; only tls is")));
        }
        let project = ctx.global.project.clone().unwrap_or_default();
        let protocol = self.protocol.clone().unwrap_or_else(|| "incus".into());
        let (entry, certificate) = match (protocol.as_str(), address.as_str()) {
            ("simplestreams", url) => {
                if !url.starts_with("https://") {
                    return Err(Error::bad_request("Only https URLs are supported for simplestreams"));
                }
                (Entry { addr: url.to_owned(), protocol, public: true, ..Entry::default() }, None)
            }
            ("incus", url) if url.starts_with("unix:") => {
                let server = Server::new(&name, Transport::new(Endpoint::Unix(local_socket(url))));
                server.get("/1.0").await?;
                (Entry { addr: url.to_owned(), protocol, project, ..Entry::default() }, None)
            }
            ("incus", _) => self.tls(ctx, &name, &address, token, project).await?,
            (other, _) => return Err(Error::bad_request(format!("Invalid protocol: {other}"))),
        };
        ctx.config.change(|config| {
            is_free(config, &name)?;
            if let Some(der) = certificate {
                config.write(&format!("servercerts/{name}.crt"), tls::to_pem(&der).as_bytes(), 0o644)?;
            }
            config.remotes.insert(name, entry);
            Ok(())
        })
    }

    /// A server that shows a certificate, and that certificate if it is to be kept.
    async fn tls(
        &self,
        ctx: &Ctx,
        name: &str,
        address: &str,
        token: Option<Token>,
        project: String,
    ) -> Result<(Entry, Option<Vec<u8>>)> {
        if !ctx.config.path("client.crt").exists() && !self.public {
            eprintln!("Generating a client certificate. This may take a minute...");
            tls::ensure_client_cert(&ctx.config)?;
        }
        let token = match &self.token {
            Some(text) => Some(decode(text).ok_or_else(|| Error::bad_request("Invalid trust token"))?),
            None => token,
        };
        let addresses = match &token {
            Some(t) if decode(address).is_some() => t.addresses.clone(),
            _ => vec![address.to_owned()],
        };
        let mut last = Error::bad_request("The token names no address");
        for address in &addresses {
            let url = url_of(address)?;
            match self.shown_cert(ctx, name, &url).await {
                Ok(der) => return self.accept(ctx, name, &url, &der, token.as_ref(), project).await,
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// The certificate that the server shows.
    async fn shown_cert(&self, ctx: &Ctx, name: &str, url: &str) -> Result<Vec<u8>> {
        let seen = Arc::new(Mutex::new(None));
        let any = tls::client_config(&ctx.config, tls::Expect::Any(Arc::clone(&seen)))?;
        Server::new(name, Transport::new(tls_endpoint(url, any)?)).get("/1.0").await?;
        seen.lock().ok().and_then(|s| s.clone()).ok_or_else(|| Error::internal("The server showed no certificate"))
    }

    async fn accept(
        &self,
        ctx: &Ctx,
        name: &str,
        url: &str,
        der: &[u8],
        token: Option<&Token>,
        project: String,
    ) -> Result<(Entry, Option<Vec<u8>>)> {
        let fingerprint = tls::fingerprint(der);
        let vouched = vouched_for(ctx, name, url).await;
        match token {
            Some(t) if t.fingerprint != fingerprint => {
                return Err(Error::forbidden(format!(
                    "Certificate fingerprint mismatch between token and server {url:?}"
                )));
            }
            Some(_) => {}
            None if vouched || self.accept_certificate => {}
            None => {
                println!("Certificate fingerprint: {fingerprint}");
                let answer = prompt::line("ok (y/n/[fingerprint])? ")?;
                let ok = answer == fingerprint || matches!(answer.to_lowercase().as_str(), "y" | "yes");
                if !ok {
                    return Err(Error::bad_request("Server certificate NACKed by user"));
                }
            }
        }
        let (expect, kept) = if vouched {
            // It may be another one tomorrow, as authorities sign for weeks.
            (tls::vouched(&ctx.config)?, None)
        } else {
            (tls::Expect::Pinned(der.to_vec()), Some(der.to_vec()))
        };
        let server = Server::new(name, Transport::new(tls_endpoint(url, tls::client_config(&ctx.config, expect)?)?));
        self.authenticate(&server, name, token).await?;
        let auth_type = if self.public { String::new() } else { "tls".into() };
        let entry = Entry {
            addr: url.to_owned(),
            auth_type,
            project,
            protocol: "incus".into(),
            public: self.public,
            ..Entry::default()
        };
        Ok((entry, kept))
    }

    /// Makes sure that the server trusts this client.
    async fn authenticate(&self, server: &Server, name: &str, token: Option<&Token>) -> Result<()> {
        if self.public || server.get("/1.0").await?.value["auth"] == "trusted" {
            return Ok(());
        }
        let body = match token {
            Some(t) => json!({ "type": "client", "name": t.name, "trust_token": t.text }),
            None => {
                let text = prompt::secret(&format!("Trust token for {name}: "))?;
                if text.is_empty() {
                    return Err(Error::forbidden(
                        "A trust token is needed: `incus config trust add` on the server makes one",
                    ));
                }
                json!({ "type": "client", "trust_token": text.trim() })
            }
        };
        server.post("/1.0/certificates", &body).await?;
        if server.get("/1.0").await?.value["auth"] == "trusted" {
            println!("Client certificate now trusted by server: {name}");
            return Ok(());
        }
        Err(Error::forbidden("Server doesn't trust us after authentication"))
    }
}

/// The URL of an address: `https://`, and the standard port if it names none.
fn url_of(address: &str) -> Result<String> {
    let host = match address.split_once("://") {
        Some(("https", host)) => host.trim_end_matches('/'),
        Some((scheme, _)) => {
            return Err(Error::bad_request(format!("Invalid URL scheme \"{scheme}\" in \"{address}\"")));
        }
        None => address,
    };
    Ok(format!("https://{}", crate::cmd::admin::join::with_port(host)))
}

/// Make the certificate of this client, unless it has one
#[derive(clap::Args)]
pub struct GenerateCertificate {}

impl GenerateCertificate {
    /// Makes it.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        if !tls::ensure_client_cert(&ctx.config)? {
            return Err(Error::conflict("A client certificate is already present"));
        }
        Ok(())
    }
}

/// Show the default remote
#[derive(clap::Args)]
pub struct GetDefault {}

impl GetDefault {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        println!("{}", ctx.config.default_remote);
        Ok(())
    }
}

/// List the remotes
///
/// Columns: n - name, u - URL, p - protocol, a - kind of authentication, P - public, s - static, g - global.
#[derive(clap::Args)]
pub struct List {
    /// Columns
    #[arg(short, long, default_value = "nupaPsg")]
    columns: String,
    #[command(flatten)]
    output: FormatFlag,
}

const COLUMNS: &[Column<Value>] = columns! {
    'n' "NAME" |r| s(r, "Name") + r["Current"].as_str().unwrap_or_default();
    'u' "URL" |r| s(r, "Addr");
    'p' "PROTOCOL" |r| s(r, "Protocol");
    'a' "AUTH TYPE" |r| s(r, "AuthType");
    'P' "PUBLIC" |r| level(r["Public"] == true);
    's' "STATIC" |r| level(r["Static"] == true);
    'g' "GLOBAL" |r| level(r["Global"] == true);
};

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let rows: Vec<Value> = ctx.config.remotes.iter().map(|(name, r)| self.row(ctx, name, r)).collect();
        let listing = Listing { all: COLUMNS, spec: &self.columns, format: &self.output.format, sort: true };
        print_list(&listing, rows)
    }

    fn row(&self, ctx: &Ctx, name: &str, r: &Entry) -> Value {
        let protocol = if r.protocol.is_empty() { "incus" } else { &r.protocol };
        let auth = match () {
            () if r.is_unix() => "file access",
            () if r.is_simplestreams() || (r.public && r.auth_type.is_empty()) => "none",
            () if r.auth_type.is_empty() => "tls",
            () => &r.auth_type,
        };
        let mut row = json!({
            "Name": name, "Addr": r.addr, "AuthType": auth, "Project": r.project, "Protocol": protocol,
            "Public": r.public, "Global": false, "Static": r.is_static(name),
        });
        if !self.output.format.is_raw() && name == ctx.config.default_remote {
            row["Current"] = " (current)".into();
        }
        row
    }
}

/// The remote of that name, if it may be changed.
fn changeable<'a>(config: &'a mut Config, name: &str) -> Result<&'a mut Entry> {
    let missing = || Error::not_found(format!("Remote {name} doesn't exist"));
    let found = config.remotes.get_mut(name).ok_or_else(missing)?;
    if found.is_static(name) {
        return Err(Error::bad_request(format!("Remote {name} is static and cannot be modified")));
    }
    Ok(found)
}

/// Remove remotes
#[derive(clap::Args)]
pub struct Remove {
    #[arg(required = true, value_name = "remote")]
    names: Vec<String>,
}

impl Remove {
    /// Removes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let names: Vec<&str> = self.names.iter().map(|name| name.trim_end_matches(':')).collect();
        ctx.config.change(|config| {
            for name in &names {
                changeable(config, name)?;
                if config.default_remote == *name {
                    return Err(Error::bad_request("Can't remove the default remote"));
                }
            }
            for name in names {
                config.remotes.remove(name);
                let _ = std::fs::remove_file(config.server_cert(name));
            }
            Ok(())
        })
    }
}

/// Rename a remote
#[derive(clap::Args)]
pub struct Rename {
    name: String,
    new_name: String,
}

impl Rename {
    /// Renames.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (name, new_name) = (self.name.trim_end_matches(':'), self.new_name.trim_end_matches(':'));
        ctx.config.change(|config| {
            let entry = changeable(config, name)?.clone();
            if config.remotes.contains_key(new_name) {
                return Err(Error::conflict(format!("Remote {new_name} already exists")));
            }
            config.remotes.remove(name);
            config.remotes.insert(new_name.to_owned(), entry);
            if config.default_remote == name {
                new_name.clone_into(&mut config.default_remote);
            }
            if config.server_cert(name).exists() {
                std::fs::rename(config.server_cert(name), config.server_cert(new_name))?;
            }
            Ok(())
        })
    }
}

/// Change the URL of a remote
#[derive(clap::Args)]
pub struct SetUrl {
    name: String,
    url: String,
}

impl SetUrl {
    /// Changes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let name = self.name.trim_end_matches(':');
        ctx.config.change(|config| {
            changeable(config, name)?.addr = self.url;
            Ok(())
        })
    }
}

/// Make a remote the default
#[derive(clap::Args)]
pub struct Switch {
    name: String,
}

impl Switch {
    /// Switches.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let name = self.name.trim_end_matches(':');
        ctx.config.change(|config| {
            if !config.remotes.contains_key(name) {
                return Err(Error::not_found(format!("Remote {name} doesn't exist")));
            }
            name.clone_into(&mut config.default_remote);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;
    use crate::ctx::Global;

    fn add(name: &str) -> Remote {
        Remote::Add(Add {
            args: vec![name.to_owned(), format!("https://{name}.example.net")],
            accept_certificate: false,
            auth_type: None,
            protocol: Some("simplestreams".into()),
            public: false,
            token: None,
        })
    }

    /// Clients that run at the same time, and have all read the configuration before one of them changes it.
    fn together(dir: &Path, commands: Vec<Remote>) -> Vec<Result<()>> {
        let ctx = &Ctx { config: Config::load_from(dir.to_owned()).unwrap(), global: Global::default() };
        let run = |command: Remote| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(command.run(ctx))
        };
        std::thread::scope(|scope| {
            let clients: Vec<_> = commands.into_iter().map(|command| scope.spawn(move || run(command))).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        })
    }

    #[test]
    fn clients_do_not_undo_what_others_change_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let first: Vec<Remote> = (1..=8).map(|n| add(&format!("r{n}"))).collect();
        let second = vec![
            Remote::Remove(Remove { names: vec!["r1".into()] }),
            Remote::Rename(Rename { name: "r2".into(), new_name: "renamed".into() }),
            Remote::SetUrl(SetUrl { name: "r3".into(), url: "https://moved.example.net".into() }),
            Remote::Switch(Switch { name: "r4".into() }),
            add("r9"),
        ];
        for commands in [first, second] {
            for said in together(dir.path(), commands) {
                said.unwrap();
            }
        }
        let config = Config::load_from(dir.path().to_owned()).unwrap();
        let names: Vec<&str> = config.remotes.keys().map(String::as_str).collect();
        assert_eq!(names, ["images", "local", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "renamed"]);
        assert_eq!(config.remotes["r3"].addr, "https://moved.example.net");
        assert_eq!(config.default_remote, "r4");
    }

    #[test]
    fn of_two_clients_that_add_the_same_remote_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let said = together(dir.path(), vec![add("r"), add("r")]);
        let refused: Vec<&str> = said.iter().filter_map(|s| Some(s.as_ref().err()?.message.as_str())).collect();
        assert_eq!(refused, ["Remote r exists as <https://r.example.net>"]);
    }
}
