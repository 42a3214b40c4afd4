//! `/` and `/1.0`: the server and its configuration.

use std::sync::{Arc, LazyLock};

use api::endpoint::Allow;
use api::key::{Config, Scope};
use api::keys::server::{PLACEMENT_SCRIPTLET, PROXY_HTTP, PROXY_HTTPS, SERVER};
use api::server::{Environment, Server, ServerPut, StorageDriver};
use api::{Error, Result};
use tokio::sync::OwnedMutexGuard;

use crate::edge::auth::may;
use crate::edge::{Cx, Router};
use crate::instances::scripted;
use crate::state::Daemon;
use crate::{start, versions};

/// The version of Incus that clients find here.
pub const VERSION: &str = "7.0";

pub fn routes(r: &mut Router) {
    r.sync(&api::server::ROOT, async |_, ()| Ok(vec!["/1.0".to_owned()]));
    r.sync(&api::server::GET, get);
    r.sync(&api::server::PUT, put);
    r.sync(&api::server::PATCH, patch);
}

async fn get(cx: Cx, (): ()) -> Result<Server> {
    let public = Server {
        api_status: "stable".into(),
        api_version: "1.0".into(),
        auth: "untrusted".into(),
        auth_methods: vec!["tls".into()],
        ..Server::default()
    };
    if !cx.caller.trusted() {
        return Ok(public);
    }
    // It may hold secrets, as the password of a proxy: only those see it who may change it.
    let whole = may(&cx.caller.trust, Allow::Admin, cx.project());
    let config = if whole { shown_config(&cx.daemon).await? } else { Config::new() };
    cx.show_etag(&config);
    Ok(Server {
        config,
        api_extensions: Some(versions::extensions(&cx.daemon)),
        auth: "trusted".into(),
        auth_user_name: cx.caller.name.clone(),
        auth_user_method: cx.caller.protocol.into(),
        environment: Some(environment(&cx)?),
        ..public
    })
}

/// What holds everywhere, and this member's own.
async fn shown_config(daemon: &Daemon) -> Result<Config> {
    let mut config = daemon.newest().await?.config.clone();
    config.extend(daemon.local.config()?);
    Ok(config)
}

/// Nobody else changes this member's own configuration until this is dropped.
async fn alone(daemon: &Daemon) -> OwnedMutexGuard<()> {
    crate::locks::hold(daemon.paths.local_db()).await
}

async fn put(cx: Cx, new: ServerPut) -> Result<()> {
    let _alone = alone(&cx.daemon).await;
    let old = shown_config(&cx.daemon).await?;
    cx.check_etag(&old)?;
    let mut changes = super::config_of(&new.config)?;
    for key in old.keys().filter(|k| !new.config.contains_key(*k)) {
        changes.insert(key.clone(), String::new());
    }
    change(&cx, &old, changes).await
}

async fn patch(cx: Cx, new: ServerPut) -> Result<()> {
    let _alone = alone(&cx.daemon).await;
    let old = shown_config(&cx.daemon).await?;
    cx.check_etag(&old)?;
    change(&cx, &old, super::config_of(&new.config)?).await
}

/// Sets what differs: local keys on this member, global ones everywhere, and puts them into effect: all, or none.
async fn change(cx: &Cx, old: &Config, changes: Config) -> Result<()> {
    let daemon = &cx.daemon;
    let differs = |(key, value): &(String, String)| old.get(key).map_or("", String::as_str) != value;
    let changes: Vec<(String, String)> = changes.into_iter().filter(differs).collect();
    let before = daemon.local.config()?;
    let (mut local, mut global) = (Config::new(), Config::new());
    for (key, value) in changes {
        api::key::check(SERVER, &key, &value)?;
        let scope = api::key::find(SERVER, &key).map_or(Scope::Global, |k| k.scope());
        let refused = |e: Error| Error::bad_request(format!("cannot set '{key}' to '{value}': {}", e.message));
        if key == PLACEMENT_SCRIPTLET.name && !value.trim().is_empty() {
            scripted::check(value.clone()).await.map_err(refused)?;
        } else if [PROXY_HTTP.name, PROXY_HTTPS.name].contains(&key.as_str()) {
            client::proxy::proxy(&value)
                .map_err(|e| Error::bad_request(format!("cannot set '{key}': {}", e.message)))?;
        }
        let of = if scope == Scope::Local { &mut local } else { &mut global };
        of.insert(key, value);
    }
    if local.contains_key("cluster.https_address") && daemon.clustered() {
        return Err(Error::bad_request("Changing cluster.https_address is currently not supported"));
    }
    if !local.is_empty() {
        change_local(daemon, &local).await?;
    }
    if !global.is_empty() {
        let (request, own) = (cx.clone(), before.clone());
        let written = daemon.write(move |tx| {
            let mut now = db::config::get(tx)?;
            now.extend(own.clone());
            request.check_etag(&now)?;
            db::config::patch(tx, &global)
        });
        let written = written.await;
        if written.is_err() && !local.is_empty() {
            let back = local.keys().map(|k| (k.clone(), before.get(k).cloned().unwrap_or_default()));
            change_local(daemon, &back.collect()).await?;
        }
        written?;
    }
    cx.daemon.tell("config-updated", "/1.0".into(), &cx.caller);
    Ok(())
}

/// Sets local keys; those that cannot take effect are taken back.
async fn change_local(daemon: &Arc<Daemon>, changes: &Config) -> Result<()> {
    let old = daemon.local.config()?;
    daemon.local.patch_config(changes)?;
    if let Err(e) = start::listen_again(daemon).await {
        daemon.local.replace_config(&old)?;
        return Err(e);
    }
    Ok(())
}

fn environment(cx: &Cx) -> Result<Environment> {
    let daemon = &cx.daemon;
    let identity = daemon.api_identity();
    let uname = rustix::system::uname();
    let (os_name, os_version) = os_release();
    let lxc = host::lxc::version().ok();
    Ok(Environment {
        addresses: addresses(daemon)?,
        architectures: architectures(),
        certificate_fingerprint: identity.fingerprint()?,
        certificate: identity.certificate,
        driver: if lxc.is_some() { "lxc".into() } else { String::new() },
        // Without the library there are no containers, but everything else.
        driver_version: lxc.unwrap_or_default(),
        firewall: "nftables".into(),
        kernel: uname.sysname().to_string_lossy().into_owned(),
        kernel_architecture: uname.machine().to_string_lossy().into_owned(),
        kernel_version: uname.release().to_string_lossy().into_owned(),
        os_name,
        os_version,
        project: cx.project().to_owned(),
        server: "incus".into(),
        server_clustered: daemon.clustered(),
        server_event_mode: super::events::members::event_mode(daemon).into(),
        server_name: if daemon.clustered() { daemon.name() } else { crate::certs::hostname() },
        server_pid: std::process::id().into(),
        server_version: VERSION.into(),
        storage: "dir".into(),
        storage_version: "1".into(),
        storage_supported_drivers: drivers::storage::BACKENDS
            .iter()
            .map(|b| StorageDriver { name: b.name.into(), version: "1".into(), remote: b.remote })
            .collect(),
        ..Environment::default()
    })
}

fn addresses(daemon: &Daemon) -> Result<Vec<String>> {
    let config = daemon.local.config()?;
    let mut all: Vec<String> = ["core.https_address", "cluster.https_address"]
        .iter()
        .filter_map(|key| config.get(*key).filter(|a| !a.is_empty()))
        .map(|a| start::with_port(a))
        .collect();
    all.dedup();
    Ok(all)
}

/// The architectures that instances can have here, best first.
pub fn architectures() -> Vec<String> {
    let all: &[&str] = match std::env::consts::ARCH {
        "x86_64" => &["x86_64", "i686"],
        "aarch64" => &["aarch64", "armv8l"],
        other => return vec![other.to_owned()],
    };
    all.iter().map(|a| (*a).to_owned()).collect()
}

/// Name and version of the operating system, as it was when they were first asked for.
fn os_release() -> (String, String) {
    static FOUND: LazyLock<(String, String)> = LazyLock::new(|| {
        let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |name: &str| {
            let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().trim_matches('"').to_owned()
        };
        (field("NAME"), field("VERSION_ID"))
    });
    FOUND.clone()
}
