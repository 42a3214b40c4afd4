//! `incus cluster enable` and `update-certificate`.

use std::fs;

use api::{Error, Result, error::Context};
use serde_json::json;

use crate::ctx::Ctx;

/// Make a server the first member of a new cluster
///
/// The server must be available on the network: core.https_address must be set.
#[derive(clap::Args)]
pub struct Enable {
    /// The remote, and the name of the member
    #[arg(required = true, num_args = 1..=2, value_name = "[remote:] name")]
    args: Vec<String>,
}

impl Enable {
    /// Enables.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (remote, name) = match self.args.as_slice() {
            [name] => ("", name),
            [remote, name] => (remote.as_str(), name),
            _ => return Err(Error::bad_request("Invalid number of arguments")),
        };
        let (server, _) = ctx.open(remote)?;
        if server.is_clustered().await? {
            return Err(Error::bad_request("This server is already clustered"));
        }
        if server.info().await?["config"]["core.https_address"].as_str().unwrap_or_default().is_empty() {
            return Err(Error::bad_request("This server is not available on the network"));
        }
        let etag = server.get("/1.0/cluster").await?.etag;
        let body = json!({ "server_name": name, "enabled": true });
        let reply = server.put("/1.0/cluster", &body, etag.as_deref()).await?;
        ctx.wait(&server, reply).await?;
        ctx.say("Clustering enabled");
        Ok(())
    }
}

/// Replace the certificate of the cluster
///
/// The certificate kept for the remote is replaced as well.
#[derive(clap::Args)]
pub struct UpdateCertificate {
    /// The remote, the certificate's file and the key's file
    #[arg(required = true, num_args = 2..=3, value_name = "[remote:] cert.crt cert.key")]
    args: Vec<String>,
}

impl UpdateCertificate {
    /// Replaces.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (remote, cert, key) = match self.args.as_slice() {
            [cert, key] => ("", cert, key),
            [remote, cert, key] => (remote.as_str(), cert, key),
            _ => return Err(Error::bad_request("Invalid number of arguments")),
        };
        let (server, _) = ctx.open(remote)?;
        server.must_be_clustered().await?;
        let cert = fs::read_to_string(cert).context(format!("Could not read certificate file {cert:?}"))?;
        let key = fs::read_to_string(key).context(format!("Could not read key file {key:?}"))?;
        let body = json!({ "cluster_certificate": cert, "cluster_certificate_key": key });
        server.put("/1.0/cluster/certificate", &body, None).await?;
        if ctx.config.server_cert(server.remote()).exists() {
            ctx.config.write(&format!("servercerts/{}.crt", server.remote()), cert.as_bytes(), 0o644)?;
        }
        ctx.say(format!("Successfully updated cluster certificates for remote {}", server.remote()));
        Ok(())
    }
}
