//! The devices of an instance on this member: network links and mounts, made from their configuration.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use api::key::{Config, Read as _};
use api::keys::server as keys;
use api::{Error, Result};
use db::projects::{Feature, holder};
use drivers::device::nic::{self, Nic, Plug};
use drivers::instance::Hotplug;
use drivers::storage::{Kind, Volume};
use incus_core::disk::{self, Disk, Source};
use incus_core::lxc_conf::{Link, Mount};

use super::Loaded;
use crate::services::pools;
use crate::state::Daemon;
use crate::{blocking, leases};

/// A managed network, as devices need it.
#[derive(Clone)]
struct Network {
    name: String,
    kind: &'static str,
    config: Config,
}

/// The names of the network devices of an instance.
pub fn nics(l: &Loaded) -> impl Iterator<Item = (&String, &Config)> {
    l.devices.iter().filter(|(_, config)| config.get("type").is_some_and(|t| t == "nic"))
}

async fn network(daemon: &Arc<Daemon>, project: &str, config: &Config) -> Result<Option<Network>> {
    let Some(name) = config.get("network").filter(|n| !n.is_empty()).cloned() else { return Ok(None) };
    let (project, member) = (project.to_owned(), daemon.member_id());
    let read = move |tx: &db::Tx<'_>| {
        let found = db::networks::get(tx, &holder(tx, &project, Feature::Networks)?, &name)?;
        Ok(Network { name: found.name.clone(), kind: found.kind.as_str(), config: found.config_on(member) })
    };
    daemon.db().peek(read).await.map(Some)
}

/// Decides all about one network device. `None` if it is not plugged in.
async fn resolve(
    daemon: &Arc<Daemon>,
    l: &Loaded,
    device: &str,
    config: &Config,
    names: &BTreeSet<String>,
) -> Result<Option<Nic>> {
    let network = network(daemon, &l.row.project, config).await?;
    let network = network.as_ref().map(|n| nic::Network { name: &n.name, kind: n.kind, config: &n.config });
    let server = &daemon.snapshot().config;
    nic::resolve(&nic::Request {
        hwaddr_pattern: &server.read(&keys::HWADDR_PATTERN),
        named_by_hwaddr: server.read(&keys::NIC_HOST_NAME) == "mac",
        project: &l.row.project,
        instance: &l.row.name,
        device,
        config,
        volatile: &l.config,
        network: network.as_ref(),
        names_taken: names,
    })
    .map_err(|e| e.context(format!("Device \"{device}\"")))
}

/// All network devices that are plugged in, resolved; names inside do not collide.
pub async fn resolve_all(daemon: &Arc<Daemon>, l: &Loaded) -> Result<Vec<Nic>> {
    let mut names: BTreeSet<String> = nics(l).filter_map(|(_, c)| c.get("name").cloned()).collect();
    let mut all = Vec::new();
    for (device, config) in nics(l) {
        let others = names.iter().filter(|n| config.get("name") != Some(*n)).cloned().collect();
        if let Some(nic) = resolve(daemon, l, device, config, &others).await? {
            names.insert(nic.name.clone());
            all.push(nic);
        }
    }
    Ok(all)
}

/// One network device of a running instance, resolved.
pub async fn resolve_one(daemon: &Arc<Daemon>, l: &Loaded, device: &str) -> Result<Option<Nic>> {
    let Some(config) = l.devices.get(device) else { return Ok(None) };
    let mut names = BTreeSet::new();
    for (other, config) in nics(l).filter(|(other, _)| *other != device) {
        let noted = l.config.get(&format!("volatile.{other}.name")).cloned();
        names.extend(config.get("name").cloned().or(noted));
    }
    resolve(daemon, l, device, config, &names).await
}

/// Makes the links of all devices; if one can't be made none is left.
pub async fn prepare(daemon: &Arc<Daemon>, nics: &[Nic]) -> Result<Vec<Plug>> {
    let (networks, wanted) = (daemon.networks.clone(), nics.to_vec());
    let made = blocking::run(move || wanted.iter().map(|n| nic::prepare(&networks, n)).collect()).await;
    if made.is_err() {
        clean(daemon, nics).await;
    }
    made
}

/// Takes everything of the devices away that is left on the host.
pub async fn clean(daemon: &Arc<Daemon>, nics: &[Nic]) {
    let (networks, nics) = (daemon.networks.clone(), nics.to_vec());
    let cleaned = blocking::run(move || {
        for nic in &nics {
            if let Err(e) = nic::clean(&networks, nic) {
                tracing::warn!("device {}: {e}", nic.label);
            }
        }
        Ok(())
    });
    if let Err(e) = cleaned.await {
        tracing::warn!("cleaning up network devices: {e}");
    }
}

/// The links as liblxc is told about them.
pub fn links(plugs: &[Plug]) -> Vec<Link> {
    plugs.iter().map(|p| Link { host: p.link.clone(), inside: p.name.clone() }).collect()
}

/// Where the source of a disk lies on this member; `None` if it is not there and not required.
async fn source(daemon: &Arc<Daemon>, l: &Loaded, disk: &Disk) -> Result<Option<PathBuf>> {
    let found = match &disk.source {
        Source::Host(path) => {
            let path = PathBuf::from(path);
            if path.exists() {
                Ok(path)
            } else {
                Err(Error::bad_request(format!(
                    "Missing source path \"{}\" for disk \"{}\"",
                    path.display(),
                    disk.device
                )))
            }
        }
        Source::Volume { pool, name } => volume(daemon, l, pool, name).await,
    };
    match found {
        Ok(path) => Ok(Some(path)),
        Err(e) if disk.required => Err(e.context(format!("Failed to start device \"{}\"", disk.device))),
        Err(_) => Ok(None),
    }
}

/// The files of a custom volume that an instance uses.
async fn custom(daemon: &Arc<Daemon>, l: &Loaded, name: &str) -> Result<Volume> {
    let project = l.row.project.clone();
    let project = daemon.db().peek(move |tx| holder(tx, &project, Feature::Volumes)).await?;
    Ok(Volume::new(Kind::Custom, &project, name))
}

/// Where a custom volume lies on this member, which uses it for the instance from now on.
async fn volume(daemon: &Arc<Daemon>, l: &Loaded, pool: &str, name: &str) -> Result<PathBuf> {
    let driver = pools::open(daemon, pool).await?;
    let volume = custom(daemon, l, name).await?;
    if driver.exists(&volume) {
        leases::take(daemon, l.row.id, pool, &volume).await?;
        Ok(driver.path(&volume))
    } else {
        Err(Error::not_found(format!("Storage volume \"{name}\" not found in the pool \"{pool}\" of this member")))
    }
}

/// The disks beside the root disk as liblxc is told about them.
pub async fn mounts(daemon: &Arc<Daemon>, l: &Loaded) -> Result<Vec<Mount>> {
    let mut all = Vec::new();
    for disk in disk::disks(&l.devices)? {
        let Some(source) = source(daemon, l, &disk).await? else { continue };
        let mut options = vec![if disk.recursive { "rbind" } else { "bind" }];
        options.push(if source.is_dir() { "create=dir" } else { "create=file" });
        if disk.readonly {
            options.push("ro");
        }
        if disk.shift && !l.privileged() {
            options.push("idmap=container");
        }
        all.push(Mount {
            source: source.display().to_string(),
            target: disk.target.clone(),
            options: options.join(","),
        });
    }
    Ok(all)
}

/// Mounts a disk into the running instance.
pub async fn add_disk(daemon: &Arc<Daemon>, l: &Loaded, disk: &Disk) -> Result<()> {
    let Some(source) = source(daemon, l, disk).await? else { return Ok(()) };
    let (containers, id) = (daemon.containers.clone(), l.id());
    let mount = Hotplug {
        source,
        target: format!("/{}", disk.target),
        readonly: disk.readonly,
        recursive: disk.recursive,
        shift: disk.shift && !l.privileged(),
    };
    let mounted = blocking::run(move || containers.mount(&id, &mount)).await;
    if mounted.is_err()
        && let Source::Volume { pool, name } = &disk.source
    {
        leases::give_back_one(daemon, l.row.id, pool, &custom(daemon, l, name).await?).await;
    }
    mounted
}

/// Takes a disk out of the running instance.
pub async fn remove_disk(daemon: &Arc<Daemon>, l: &Loaded, disk: &Disk) -> Result<()> {
    let (containers, id, target) = (daemon.containers.clone(), l.id(), format!("/{}", disk.target));
    blocking::run(move || containers.unmount(&id, &target)).await?;
    let others = disk::disks(&l.devices)?;
    if let Source::Volume { pool, name } = &disk.source
        && !others.iter().any(|o| o.device != disk.device && o.source == disk.source)
    {
        leases::give_back_one(daemon, l.row.id, pool, &custom(daemon, l, name).await?).await;
    }
    Ok(())
}

/// Plugs a network device into the running instance; what is to be noted about it.
pub async fn add_nic(daemon: &Arc<Daemon>, l: &Loaded, device: &str) -> Result<Config> {
    let Some(nic) = resolve_one(daemon, l, device).await? else { return Ok(Config::new()) };
    let (containers, id, networks, wanted) = (daemon.containers.clone(), l.id(), daemon.networks.clone(), nic.clone());
    let plugged = blocking::run(move || {
        let pid = containers.init_pid(&id)?.ok_or_else(|| Error::bad_request("The instance has stopped"))?;
        let made = nic::prepare(&networks, &wanted)?;
        let pid = i32::try_from(pid).map_err(|e| Error::internal(e.to_string()))?;
        nic::plug(&made, pid).map(|()| made)
    })
    .await;
    match plugged {
        Ok(made) => Ok(nic.volatile.into_iter().chain(made.volatile).collect()),
        Err(e) => {
            clean(daemon, &[nic]).await;
            Err(e)
        }
    }
}

/// Takes a network device out of the running instance.
pub async fn remove_nic(daemon: &Arc<Daemon>, l: &Loaded, device: &str) -> Result<()> {
    let Some(nic) = resolve_one(daemon, l, device).await? else { return Ok(()) };
    let (containers, id, wanted) = (daemon.containers.clone(), l.id(), nic.clone());
    blocking::run(move || {
        let pid = containers.init_pid(&id)?.and_then(|p| i32::try_from(p).ok());
        pid.map_or(Ok(()), |pid| nic::unplug(&wanted, pid))
    })
    .await?;
    clean(daemon, &[nic]).await;
    Ok(())
}

/// Changes a network device of the running instance as far as that goes while it runs.
pub async fn update_nic(daemon: &Arc<Daemon>, old: &Loaded, new: &Loaded, device: &str) -> Result<()> {
    let (Some(before), Some(after)) =
        (resolve_one(daemon, old, device).await?, resolve_one(daemon, new, device).await?)
    else {
        return Ok(());
    };
    let networks = daemon.networks.clone();
    blocking::run(move || nic::update(&networks, &before, &after)).await
}

/// Checks the devices of an instance or a profile, without looking at the host.
pub fn validate(devices: &api::profile::Devices) -> Result<()> {
    for (name, config) in devices {
        let checked = match config.get("type").map_or("", String::as_str) {
            "disk" => disk::validate(config),
            // What a network adds is checked when it is known.
            "nic" => {
                if config.contains_key("network") {
                    Ok(())
                } else {
                    nic::validate(config, None)
                }
            }
            "none" => drivers::device::validate_none(config),
            "" => Err(Error::bad_request("Missing device type")),
            other => Err(Error::bad_request(format!(
                "Devices of type \"{other}\" are not available on this server: it has disk, nic and none"
            ))),
        };
        checked.map_err(|e| e.context(format!("Device validation failed for \"{name}\"")))?;
    }
    Ok(())
}

/// Checks the network devices of an instance against the networks that they name.
pub async fn validate_networks(daemon: &Arc<Daemon>, l: &Loaded) -> Result<()> {
    for (name, config) in nics(l) {
        let context = || format!("Device validation failed for \"{name}\"");
        let network = network(daemon, &l.row.project, config).await.map_err(|e| e.context(context()))?;
        let network = network.as_ref().map(|n| nic::Network { name: &n.name, kind: n.kind, config: &n.config });
        nic::validate(config, network.as_ref()).map_err(|e| e.context(context()))?;
    }
    Ok(())
}
