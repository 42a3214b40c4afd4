//! Keys of a project: what it has of its own, how much it may use, and what it may not do.

use super::{compression, one_of};
use crate::Result;
use crate::key::{Config, check_all};

fn count(n: i64) -> Result<(), String> {
    if n >= 0 { Ok(()) } else { Err(format!("Invalid value for an integer \"{n}\": it must not be negative")) }
}

fn allow(value: &str) -> Result<(), String> {
    one_of(value, &["allow", "block"])
}

fn managed(value: &str) -> Result<(), String> {
    one_of(value, &["allow", "block", "managed"])
}

crate::keys! { PROJECT {
    /// Whether it has images and aliases of its own.
    IMAGES: bool = "features.images", "false", Global;
    /// Whether it has networks of its own.
    NETWORKS: bool = "features.networks", "false", Global;
    /// Whether it has network zones of its own.
    ZONES: bool = "features.networks.zones", "false", Global;
    /// Whether it has profiles of its own.
    PROFILES: bool = "features.profiles", "false", Global;
    /// Whether it has storage buckets of its own.
    BUCKETS: bool = "features.storage.buckets", "false", Global;
    /// Whether it has custom volumes of its own.
    VOLUMES: bool = "features.storage.volumes", "false", Global;
    /// How images that are made in it are compressed; if it is not set, as the server says.
    COMPRESSION: String = "images.compression_algorithm", "", Global, |v| compression(v);
    /// How many containers it may have.
    LIMIT_CONTAINERS: i64 = "limits.containers", "", Global, |n| count(*n);
    /// How many processors `limits.cpu` of all its instances together may be.
    LIMIT_CPU: i64 = "limits.cpu", "", Global, |n| count(*n);
    /// How many instances it may have.
    LIMIT_INSTANCES: i64 = "limits.instances", "", Global, |n| count(*n);
    /// How much `limits.memory` of all its instances together may be.
    LIMIT_MEMORY: String = "limits.memory", "", Global, |v| crate::size::bytes(v).map(drop);
    /// How many processes `limits.processes` of all its instances together may be.
    LIMIT_PROCESSES: i64 = "limits.processes", "", Global, |n| count(*n);
    /// How many virtual machines it may have.
    LIMIT_MACHINES: i64 = "limits.virtual-machines", "", Global, |n| count(*n);
    /// Whether the keys below hold.
    RESTRICTED: bool = "restricted", "false", Global;
    /// The cluster groups whose members instances may be sent to, separated by commas; all if it is not set.
    RESTRICTED_GROUPS: String = "restricted.cluster.groups", "", Global;
    /// Whether instances may be sent to members and groups that are named.
    RESTRICTED_TARGET: String = "restricted.cluster.target", "block", Global, |v| allow(v);
    /// Whether containers may have `raw.lxc` and `volatile.*`.
    RESTRICTED_LOWLEVEL: String = "restricted.containers.lowlevel", "block", Global, |v| allow(v);
    /// Whether containers may hold containers themselves.
    RESTRICTED_NESTING: String = "restricted.containers.nesting", "block", Global, |v| allow(v);
    /// `unprivileged` refuses privileged containers, `isolated` moreover those that share their ids with others.
    RESTRICTED_PRIVILEGE: String = "restricted.containers.privilege", "unprivileged", Global,
        |v| one_of(v, &["allow", "isolated", "unprivileged"]);
    /// Which disks there may be beside the root disk: none (`block`), those of storage pools (`managed`), or any.
    RESTRICTED_DISK: String = "restricted.devices.disk", "managed", Global, |v| managed(v);
    /// Whether there may be devices of the type `gpu`.
    RESTRICTED_GPU: String = "restricted.devices.gpu", "block", Global, |v| allow(v);
    /// Whether there may be devices of the type `infiniband`.
    RESTRICTED_INFINIBAND: String = "restricted.devices.infiniband", "block", Global, |v| allow(v);
    /// Which network devices there may be: none (`block`), those in a managed network (`managed`), or any.
    RESTRICTED_NIC: String = "restricted.devices.nic", "managed", Global, |v| managed(v);
    /// Whether there may be devices of the type `pci`.
    RESTRICTED_PCI: String = "restricted.devices.pci", "block", Global, |v| allow(v);
    /// Whether there may be devices of the type `proxy`.
    RESTRICTED_PROXY: String = "restricted.devices.proxy", "block", Global, |v| allow(v);
    /// Whether there may be devices of the type `unix-block`.
    RESTRICTED_UNIX_BLOCK: String = "restricted.devices.unix-block", "block", Global, |v| allow(v);
    /// Whether there may be devices of the type `unix-char`.
    RESTRICTED_UNIX_CHAR: String = "restricted.devices.unix-char", "block", Global, |v| allow(v);
    /// Whether there may be devices of the type `unix-hotplug`.
    RESTRICTED_UNIX_HOTPLUG: String = "restricted.devices.unix-hotplug", "block", Global, |v| allow(v);
    /// Whether there may be devices of the type `usb`.
    RESTRICTED_USB: String = "restricted.devices.usb", "block", Global, |v| allow(v);
    /// The servers that images may come from, separated by commas; all if it is not set.
    RESTRICTED_IMAGE_SERVERS: String = "restricted.images.servers", "", Global;
    /// Whether there may be snapshots.
    RESTRICTED_SNAPSHOTS: String = "restricted.snapshots", "block", Global, |v| allow(v);
    /// Anything.
    USER: String = "user.*", "", Global;
}}

/// Checks the configuration of a project in the words that clients know.
pub fn check(config: &Config) -> Result<()> {
    let unknown = |key: &str| format!("Invalid project configuration key \"{key}\"");
    check_all(PROJECT, config, unknown, |key, why| format!("{} value: {why}", unknown(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        for (key, value, good) in [
            ("features.images", "true", true),
            ("features.images", "maybe", false),
            ("limits.instances", "0", true),
            ("limits.instances", "-1", false),
            ("limits.memory", "2GiB", true),
            ("limits.memory", "50%", false),
            ("limits.cpu", "0-3", false),
            ("restricted.devices.nic", "managed", true),
            ("restricted.devices.nic", "some", false),
            ("restricted.containers.privilege", "isolated", true),
            ("restricted.containers.nesting", "managed", false),
            ("restricted.bogus", "allow", false),
            ("user.a", "b", true),
        ] {
            let config = Config::from([(key.to_owned(), value.to_owned())]);
            assert_eq!(check(&config).is_ok(), good, "{key}={value}");
        }
        let unknown = check(&Config::from([("bogus".to_owned(), "1".to_owned())])).unwrap_err();
        assert_eq!(unknown.message, "Invalid project configuration key \"bogus\"");
    }
}
