//! What a server needs to know to join a cluster, from the token that it was given.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use api::{Error, Result, error::Context};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    config::local_socket,
    ctx::{Ctx, tls_endpoint},
    server::Server,
    tls,
    transport::Transport,
};

/// A join token, read.
pub struct Token {
    /// The name that the member will have.
    pub name: String,
    /// The fingerprint of the cluster's certificate.
    pub fingerprint: String,
    /// Where the cluster can be reached.
    pub addresses: Vec<String>,
}

/// Reads a join token.
pub fn decode(token: &str) -> Result<Token> {
    let bad = || Error::bad_request("Invalid join token");
    let json = BASE64_STANDARD.decode(token.trim()).map_err(|_| bad())?;
    let value: Value = serde_json::from_slice(&json).map_err(|_| bad())?;
    let text = |f: &str| value[f].as_str().filter(|t| !t.is_empty()).map(str::to_owned).ok_or_else(bad);
    let addresses = crate::cmd::list(&value["addresses"]).into_iter().map(str::to_owned).collect::<Vec<_>>();
    if addresses.is_empty() {
        return Err(bad());
    }
    Ok(Token { name: text("server_name")?, fingerprint: text("fingerprint")?, addresses })
}

/// The request of a server to join.
pub fn body(token: &str, name: &str, address: &str, member_config: Vec<Value>) -> Result<Value> {
    let decoded = decode(token)?;
    Ok(json!({
        "server_name": name,
        "enabled": true,
        "member_config": member_config,
        "cluster_address": decoded.addresses.first(),
        "cluster_certificate": "",
        "server_address": address,
        "cluster_token": token.trim(),
    }))
}

/// The request with the certificate of the cluster whose `GET /1.0` this is.
pub fn with_certificate(mut body: Value, info: &Value) -> Value {
    body["cluster_certificate"] = info["environment"]["certificate"].clone();
    body
}

/// An address with the standard port, unless it has one.
pub fn with_port(address: &str) -> String {
    let has_port = match address.rsplit_once(':') {
        Some((host, port)) => {
            port.parse::<u16>().is_ok() && (!host.contains(':') || (host.starts_with('[') && host.ends_with(']')))
        }
        None => false,
    };
    match address {
        a if has_port => a.to_owned(),
        a if a.contains(':') && !a.starts_with('[') => format!("[{a}]:8443"),
        a => format!("{a}:8443"),
    }
}

/// The cluster that a token leads to.
pub struct Cluster {
    /// The cluster, reached with the certificate of the local server.
    pub server: Server,
    /// The address that answered.
    pub address: String,
    /// The cluster's certificate as PEM.
    pub certificate: String,
}

/// Finds a member of the cluster that the token is of.
pub async fn find(ctx: &Ctx, token: &str) -> Result<Cluster> {
    let decoded = decode(token)?;
    let mut last = Error::unavailable("no address in the join token");
    for address in &decoded.addresses {
        match reach_at(ctx, &decoded, address).await {
            Ok((server, certificate)) => {
                return Ok(Cluster { server, address: address.clone(), certificate });
            }
            Err(e) => last = e.context(format!("Error connecting to existing cluster member {address:?}")),
        }
    }
    Err(last)
}

async fn reach_at(ctx: &Ctx, token: &Token, address: &str) -> Result<(Server, String)> {
    let url = format!("https://{address}");
    let seen = Arc::new(Mutex::new(None));
    let any = tls::client_config(&ctx.config, tls::Expect::Any(Arc::clone(&seen)))?;
    Server::new("cluster", Transport::new(tls_endpoint(&url, any)?)).get("/1.0").await?;
    let der = seen.lock().ok().and_then(|s| s.clone()).ok_or_else(|| Error::internal("No certificate was shown"))?;
    if tls::fingerprint(&der) != token.fingerprint {
        return Err(Error::forbidden(format!(
            "Certificate fingerprint mismatch between join token and cluster member {address:?}"
        )));
    }
    let dir = local_socket("unix://").parent().map(std::path::Path::to_path_buf).unwrap_or_default();
    let ours =
        tls::client_config_with(&dir.join("server.crt"), &dir.join("server.key"), tls::Expect::Pinned(der.clone()))?;
    Ok((Server::new("cluster", Transport::new(tls_endpoint(&url, ours)?)), tls::to_pem(&der)))
}

/// Has the cluster trust the local server. That uses the token up.
pub async fn trust(server: &Server, token: &str) -> Result<()> {
    let body = json!({ "name": decode(token)?.name, "type": "server", "trust_token": token.trim() });
    match server.post("/1.0/certificates", &body).await {
        Err(e) if e.kind != api::Kind::Conflict => Err(e.context("Failed to setup trust relationship with cluster")),
        _ => Ok(()),
    }
}

/// Reads the certificate file that a preseed names.
pub fn read_certificate(path: &str) -> Result<String> {
    fs::read_to_string(path).context(format!("Could not read the cluster certificate {path:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_added_where_there_is_none() {
        for (address, want) in [
            ("10.0.0.1", "10.0.0.1:8443"),
            ("10.0.0.1:9000", "10.0.0.1:9000"),
            ("fd42::1", "[fd42::1]:8443"),
            ("[fd42::1]:9000", "[fd42::1]:9000"),
            ("[fd42::1]", "[fd42::1]:8443"),
            ("host.example", "host.example:8443"),
        ] {
            assert_eq!(with_port(address), want);
        }
    }

    #[test]
    fn bad_tokens_are_refused() {
        for token in ["", "nonsense", "e30=", "eyJzZXJ2ZXJfbmFtZSI6ImEifQ=="] {
            assert_eq!(decode(token).err().map(|e| e.message), Some("Invalid join token".into()), "{token}");
        }
    }
}
