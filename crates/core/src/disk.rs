//! Disks of instances: what their devices mean, and which are refused.

use api::key::{Config, Value};
use api::profile::Devices;
use api::{Error, Result};

/// A disk of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Name of the device.
    pub device: String,
    /// What is mounted.
    pub source: Source,
    /// Where, without a leading slash.
    pub target: String,
    /// Whether nothing can be written to it.
    pub readonly: bool,
    /// With what is mounted below it.
    pub recursive: bool,
    /// Whether the instance cannot start without it.
    pub required: bool,
    /// Whether its owners are mapped as those of the root file system.
    pub shift: bool,
}

/// What a disk shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path of the host.
    Host(String),
    /// A custom volume.
    Volume {
        /// Its pool.
        pool: String,
        /// Its name.
        name: String,
    },
}

const OPTIONS: &[&str] = &[
    "type",
    "path",
    "source",
    "pool",
    "size",
    "readonly",
    "recursive",
    "required",
    "shift",
    "boot.priority",
    "attached",
];

/// True for the root disk.
pub fn is_root(config: &Config) -> bool {
    config.get("type").is_some_and(|t| t == "disk")
        && config.get("path").is_some_and(|p| p == "/")
        && config.get("source").is_none_or(String::is_empty)
}

/// The device that is the root disk, and the name of its pool.
pub fn root(devices: &Devices) -> Result<(&str, &str)> {
    let mut roots = devices.iter().filter(|(_, config)| is_root(config));
    let (name, config) = roots.next().ok_or_else(|| Error::bad_request("No root device could be found"))?;
    if let Some((other, _)) = roots.next() {
        return Err(Error::bad_request(format!("There is more than one root device: \"{name}\" and \"{other}\"")));
    }
    let pool = config.get("pool").filter(|p| !p.is_empty());
    pool.map(|pool| (name.as_str(), pool.as_str()))
        .ok_or_else(|| Error::bad_request(format!("Root disk entry \"{name}\" must have a \"pool\" property set")))
}

/// How large the root disk may become, in bytes; `None` if nothing is said about it.
pub fn root_size(devices: &Devices) -> Result<Option<u64>> {
    let (device, _) = root(devices)?;
    let size = devices.get(device).and_then(|config| config.get("size")).filter(|size| !size.is_empty());
    size.map(|size| api::size::bytes(size).map_err(Error::bad_request)).transpose()
}

/// The disks beside the root disk.
pub fn disks(devices: &Devices) -> Result<Vec<Disk>> {
    let disk = |(_, config): &(&String, &Config)| config.get("type").is_some_and(|t| t == "disk") && !is_root(config);
    let attached = |(_, config): &(&String, &Config)| flag(config, "attached", true);
    devices.iter().filter(disk).filter(attached).map(|(name, config)| one(name, config)).collect()
}

fn flag(config: &Config, key: &str, default: bool) -> bool {
    config.get(key).filter(|v| !v.is_empty()).and_then(|v| bool::parse(v).ok()).unwrap_or(default)
}

/// One disk that is not the root.
pub fn one(device: &str, config: &Config) -> Result<Disk> {
    let text = |key: &str| config.get(key).map_or("", String::as_str);
    let (source, pool) = (text("source"), text("pool"));
    let source = if pool.is_empty() {
        Source::Host(source.to_owned())
    } else {
        Source::Volume { pool: pool.to_owned(), name: source.to_owned() }
    };
    let shift = flag(config, "shift", matches!(source, Source::Volume { .. }));
    Ok(Disk {
        device: device.to_owned(),
        source,
        target: text("path").trim_start_matches('/').to_owned(),
        readonly: flag(config, "readonly", false),
        recursive: flag(config, "recursive", false),
        required: flag(config, "required", true),
        shift,
    })
}

/// Checks a disk, without looking at the host.
pub fn validate(config: &Config) -> Result<()> {
    let refused = |why: String| Err(Error::bad_request(why));
    let unknown = |key: &&String| !OPTIONS.contains(&key.as_str()) && !key.starts_with("initial.");
    if let Some(key) = config.keys().find(unknown) {
        return refused(format!("Invalid device option \"{key}\""));
    }
    for key in ["readonly", "recursive", "required", "shift", "attached"] {
        if let Some(value) = config.get(key).filter(|v| !v.is_empty()) {
            bool::parse(value)
                .map_err(|e| Error::bad_request(format!("Invalid value for device option \"{key}\": {e}")))?;
        }
    }
    if let Some(size) = config.get("size").filter(|v| !v.is_empty()) {
        api::size::bytes(size)
            .map_err(|e| Error::bad_request(format!("Invalid value for device option \"size\": {e}")))?;
    }
    let text = |key: &str| config.get(key).map_or("", String::as_str);
    if !text("path").starts_with('/') {
        return refused(
            "Disk entry is missing the required \"path\" property, an absolute path in the instance".into(),
        );
    }
    if text("path").split('/').any(|part| part == "..") {
        return refused(format!("The path \"{}\" of a disk must not contain \"..\"", text("path")));
    }
    match (text("path"), text("source"), text("pool")) {
        ("/", "", _) => Ok(()),
        ("/", ..) => refused("Root disk entry may not have a \"source\" property set".into()),
        (_, "", _) => refused("Disk entry is missing the required \"source\" property".into()),
        (_, source, "") if !source.starts_with('/') => refused(format!(
            "The source \"{source}\" of a disk must be an absolute path, or a volume with its \"pool\""
        )),
        (_, source, pool) if !pool.is_empty() && source.contains('/') => {
            refused(format!("\"{source}\" is not the name of a volume"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        text.split_whitespace().filter_map(|kv| kv.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    #[test]
    fn good_disks_pass_and_bad_ones_are_explained() {
        for (text, want) in [
            ("type=disk path=/ pool=local", ""),
            ("type=disk path=/mnt source=/srv readonly=true", ""),
            ("type=disk path=/mnt source=vol pool=local", ""),
            ("type=disk path=/mnt", "missing the required \"source\""),
            ("type=disk source=/srv", "missing the required \"path\""),
            ("type=disk path=/mnt source=srv", "must be an absolute path"),
            ("type=disk path=/../x source=/srv", "must not contain"),
            ("type=disk path=/mnt source=/srv bogus=1", "Invalid device option \"bogus\""),
            ("type=disk path=/mnt source=/srv readonly=maybe", "Invalid value for device option \"readonly\""),
            ("type=disk path=/ pool=local size=big", "Invalid value for device option \"size\""),
        ] {
            match validate(&config(text)) {
                Ok(()) => assert_eq!(want, "", "{text}"),
                Err(e) => assert!(!want.is_empty() && e.message.contains(want), "{text}: {e}"),
            }
        }
    }

    #[test]
    fn the_root_is_found_and_the_others_are_listed() {
        let devices = Devices::from([
            ("root".to_owned(), config("type=disk path=/ pool=local")),
            ("eth0".to_owned(), config("type=nic nictype=p2p")),
            ("data".to_owned(), config("type=disk path=/data source=vol pool=local required=false")),
            ("srv".to_owned(), config("type=disk path=/srv source=/srv readonly=1")),
            ("away".to_owned(), config("type=disk path=/away source=/away attached=false")),
        ]);
        assert_eq!(root(&devices).unwrap(), ("root", "local"));
        let all = disks(&devices).unwrap();
        let seen: Vec<_> = all.iter().map(|d| (d.device.as_str(), d.target.as_str(), d.shift, d.required)).collect();
        assert_eq!(seen, [("data", "data", true, false), ("srv", "srv", false, true)]);
        assert_eq!(root(&Devices::new()).unwrap_err().message, "No root device could be found");
    }
}
