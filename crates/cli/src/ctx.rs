//! What every command gets: the client's configuration, the global flags, and the way to servers.

use std::sync::Arc;

use api::{Error, Result};
use serde_json::Value;

use crate::{
    config::{Config, local_socket},
    operation::{self, Progress},
    server::{Reply, Server},
    tls,
    transport::{Endpoint, Transport},
};

/// The global flags.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Global {
    /// Show all debug messages
    #[arg(long, global = true, help_heading = "Global Flags")]
    pub debug: bool,
    /// Use the local unix socket, whatever the default remote is
    #[arg(long, global = true, help_heading = "Global Flags")]
    pub force_local: bool,
    /// Use this project instead of the remote's
    #[arg(long, global = true, help_heading = "Global Flags", value_name = "PROJECT")]
    pub project: Option<String>,
    /// Don't show progress
    #[arg(short, long, global = true, help_heading = "Global Flags")]
    pub quiet: bool,
    /// Show all information messages
    #[arg(short, long, global = true, help_heading = "Global Flags")]
    pub verbose: bool,
}

/// The context of a command.
pub struct Ctx {
    /// The client's configuration.
    pub config: Config,
    /// The global flags.
    pub global: Global,
}

impl Ctx {
    /// Reads the configuration.
    pub fn new(global: Global) -> Result<Self> {
        let mut config = Config::load()?;
        if global.force_local {
            config.default_remote = "local".into();
        }
        Ok(Self { config, global })
    }

    /// Splits `[<remote>:]<name>` and opens the remote.
    pub fn open(&self, text: &str) -> Result<(Server, String)> {
        let (remote, name) = self.config.parse_remote(text)?;
        Ok((self.server(&remote)?, name))
    }

    /// Splits `[<remote>:]<name>` and opens the remote; the name must be given.
    pub fn open_named(&self, text: &str, what: &str) -> Result<(Server, String)> {
        let (server, name) = self.open(text)?;
        if name.is_empty() {
            return Err(Error::bad_request(format!("Missing {what}")));
        }
        Ok((server, name))
    }

    /// Opens the remote of an optional `[<remote>:]`.
    pub fn open_optional(&self, text: Option<&str>) -> Result<(Server, String)> {
        self.open(text.unwrap_or_default())
    }

    /// Opens the remote of that name. Nothing is connected before the first request.
    pub fn server(&self, name: &str) -> Result<Server> {
        let remote = self.config.remote(name)?;
        if remote.is_simplestreams() {
            return Err(Error::bad_request(format!(
                "The remote \"{name}\" is an image server (simplestreams); it only serves as a source of images"
            )));
        }
        let endpoint = if remote.is_unix() {
            Endpoint::Unix(local_socket(&remote.addr))
        } else {
            let pinned = self.config.server_cert(name);
            let expect = if pinned.exists() {
                tls::Expect::Pinned(tls::read_cert(&pinned)?)
            } else {
                let kept = |_| {
                    Error::bad_request(format!(
                        "No certificate is kept for the remote \"{name}\"; remove it and add it again"
                    ))
                };
                tls::vouched(&self.config).map_err(kept)?
            };
            tls_endpoint(&remote.addr, tls::client_config(&self.config, expect)?)?
        };
        let project = self.project_of(&remote.project);
        Ok(Server::new(name, Transport::new(endpoint)).in_project(project.as_deref()))
    }

    /// The project in effect: `--project`, `$INCUS_PROJECT`, the remote's; the default one is not named.
    pub fn project_of(&self, remote: &str) -> Option<String> {
        let env = std::env::var("INCUS_PROJECT").ok().filter(|p| !p.is_empty());
        let asked = self.global.project.clone().or(env);
        asked.or_else(|| (!remote.is_empty() && remote != "default").then(|| remote.to_owned()))
    }

    /// A line of progress, as the global flags allow.
    pub fn progress(&self, format: &str) -> Progress {
        Progress::new(self.global.quiet, format)
    }

    /// Waits for the operation of a reply, if it began one.
    pub async fn wait(&self, server: &Server, reply: Reply) -> Result<Value> {
        self.wait_with(server, reply, "%s").await
    }

    /// Waits for the operation of a reply, its progress worded by `format`.
    pub async fn wait_with(&self, server: &Server, reply: Reply, format: &str) -> Result<Value> {
        operation::wait(server, reply, &self.progress(format)).await
    }

    /// Says something, unless `--quiet`.
    pub fn say(&self, text: impl std::fmt::Display) {
        if !self.global.quiet {
            println!("{text}");
        }
    }
}

/// The endpoint of an `https://` address.
pub fn tls_endpoint(addr: &str, config: Arc<rustls::ClientConfig>) -> Result<Endpoint> {
    let bad = || Error::bad_request(format!("Invalid remote address {addr:?}: https://<host>:<port> is wanted"));
    let uri: hyper::Uri = addr.parse().map_err(|_| bad())?;
    let host = uri.host().ok_or_else(bad)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Endpoint::Tls { host, port: uri.port_u16().unwrap_or(8443), config })
}
