//! `/1.0/storage-pools/{pool}/volumes`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::{Allow::*, At, Background, List, Listed, Raw, Sync, fill, in_project};
use crate::key::Config;

/// A storage volume, or in lists also a snapshot of one (`volume/snapshot`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StorageVolume {
    /// Its configuration.
    pub config: Config,
    /// For people.
    pub description: String,
    /// Its name.
    pub name: String,
    /// `container`, `virtual-machine`, `image` or `custom`.
    #[serde(rename = "type")]
    pub kind: String,
    /// URLs of what uses it.
    pub used_by: Vec<String>,
    /// Name of the member that has it.
    pub location: String,
    /// `filesystem` or `block`.
    pub content_type: String,
    /// Its project.
    pub project: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its pool; not on the wire, but in its URL.
    #[serde(skip)]
    pub pool: String,
}

impl Listed for StorageVolume {
    fn url(&self) -> String {
        let (name, snapshot) = self.name.split_once('/').map_or((&*self.name, None), |(n, s)| (n, Some(s)));
        let mut path = fill(GET.info.path, &[&self.pool, &self.kind, name]);
        if let Some(snapshot) = snapshot {
            path += &fill("/snapshots/{snapshot}", &[snapshot]);
        }
        in_project(path, &self.project)
    }
}

/// Body of `PUT` of a volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumePut {
    /// Its configuration.
    pub config: Config,
    /// For people.
    pub description: String,
    /// Name of a snapshot to go back to; nothing else is changed then.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub restore: String,
}

/// Body of `POST` of the volumes of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumesPost {
    /// Its configuration.
    pub config: Config,
    /// For people.
    pub description: String,
    /// Its name.
    pub name: String,
    /// `custom`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is made from.
    pub source: StorageVolumeSource,
    /// `filesystem` or `block`.
    pub content_type: String,
}

/// What a volume is made from, or where one that moves is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumeSource {
    /// Name of the volume, or `volume/snapshot`.
    pub name: String,
    /// Empty for a new volume, `copy` for a copy.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its pool; the same one if empty.
    pub pool: String,
    /// True if its snapshots are left out.
    pub volume_only: bool,
    /// True if a copy that is there is brought up to date.
    pub refresh: bool,
    /// With `refresh`: snapshots older than the newest of the copy are left out.
    pub refresh_exclude_older: bool,
    /// Its project; the same one if empty.
    pub project: String,
    /// Name of the member that has it; empty for the only one.
    pub location: String,
}

/// Body of `POST` of a volume: a new name, pool, project or member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumePost {
    /// Its new name.
    pub name: String,
    /// Its new pool.
    pub pool: String,
    /// True if it goes to another server.
    pub migration: bool,
    /// Its new project.
    pub project: String,
    /// True if its snapshots are left out.
    pub volume_only: bool,
    /// Where it is now.
    pub source: StorageVolumeSource,
}

/// A snapshot of a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StorageVolumeSnapshot {
    /// For people.
    pub description: String,
    /// When it expires; the year 1 for never.
    pub expires_at: Timestamp,
    /// Its name; in lists with that of its volume before it.
    pub name: String,
    /// The configuration that its volume had.
    pub config: Config,
    /// `filesystem` or `block`.
    pub content_type: String,
    /// When it was taken.
    pub created_at: Timestamp,
    /// URL of its volume without the query; not on the wire, but in its URL.
    #[serde(skip)]
    pub volume: String,
    /// Its project; not on the wire, but in its URL.
    #[serde(skip)]
    pub project: String,
}

impl Listed for StorageVolumeSnapshot {
    fn url(&self) -> String {
        let name = self.name.rsplit('/').next().unwrap_or_default();
        in_project(self.volume.clone() + &fill("/snapshots/{snapshot}", &[name]), &self.project)
    }
}

/// Body of `POST` of the snapshots of a volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumeSnapshotsPost {
    /// Its name; one is made by `snapshots.pattern` if empty.
    pub name: String,
    /// For people.
    pub description: String,
    /// When it expires, the year 1 for never; by `snapshots.expiry` if not said.
    pub expires_at: Option<Timestamp>,
}

/// Body of `PUT` of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumeSnapshotPut {
    /// For people.
    pub description: String,
    /// When it expires, the year 1 for never.
    pub expires_at: Option<Timestamp>,
}

/// Body of `POST` of a snapshot: its new name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StorageVolumeSnapshotPost {
    pub name: String,
    pub migration: bool,
}

/// The state of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumeState {
    /// How much of the disk it takes.
    pub usage: StorageVolumeStateUsage,
}

/// How much of the disk a volume takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumeStateUsage {
    /// Bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub used: u64,
    /// Bytes that it may take; 0 where nothing limits it.
    pub total: i64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

// What reads or writes only the database is done by the member that was asked: it works while the member that has
// the volume is away.
crate::endpoints! {
    /// List the volumes of a pool, and their snapshots.
    LIST = GET "/1.0/storage-pools/{pool}/volumes" -> List<StorageVolume>, Project, At::Any, "storage";
    /// Create a custom volume, or copy one. A background operation if it is a copy.
    CREATE = POST "/1.0/storage-pools/{pool}/volumes" -> Raw, Project, At::Target, "storage";
    /// List the volumes of one type.
    LIST_TYPE = GET "/1.0/storage-pools/{pool}/volumes/{type}" -> List<StorageVolume>, Project, At::Any, "storage";
    /// Create a volume of that type, which must be `custom`.
    CREATE_TYPE = POST "/1.0/storage-pools/{pool}/volumes/{type}" -> Raw, Project, At::Target, "storage";
    /// One volume.
    GET = GET "/1.0/storage-pools/{pool}/volumes/{type}/{volume}" -> Sync<StorageVolume>, Project, At::Any, "storage";
    /// Replace the configuration of a volume, or restore a snapshot.
    PUT = PUT "/1.0/storage-pools/{pool}/volumes/{type}/{volume}" (StorageVolumePut) -> Sync<()>,
        Project, At::Volume, "storage";
    /// Change some of the configuration of a volume.
    PATCH = PATCH "/1.0/storage-pools/{pool}/volumes/{type}/{volume}" (serde_json::Value) -> Sync<()>,
        Project, At::Volume, "storage";
    /// Rename a volume, or move it to another pool, project or member (`?target=`): then a background operation.
    MOVE = POST "/1.0/storage-pools/{pool}/volumes/{type}/{volume}" -> Raw,
        Project, At::Volume, "storage_api_volume_rename";
    /// Delete a custom volume that nothing uses.
    DELETE = DELETE "/1.0/storage-pools/{pool}/volumes/{type}/{volume}" -> Sync<()>, Project, At::Volume, "storage";
    /// How much of the disk a volume takes.
    STATE = GET "/1.0/storage-pools/{pool}/volumes/{type}/{volume}/state" -> Sync<StorageVolumeState>,
        Project, At::Volume, "storage_volume_state";
    /// List the snapshots of a volume.
    SNAPSHOTS = GET "/1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots" -> List<StorageVolumeSnapshot>,
        Project, At::Any, "storage_api_volume_snapshots";
    /// Take a snapshot of a volume.
    SNAPSHOT_CREATE = POST "/1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots"
        (StorageVolumeSnapshotsPost) -> Background, Project, At::Volume, "storage_api_volume_snapshots";
    /// One snapshot.
    SNAPSHOT_GET = GET "/1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots/{snapshot}"
        -> Sync<StorageVolumeSnapshot>, Project, At::Any, "storage_api_volume_snapshots";
    /// Replace what can be changed of a snapshot.
    SNAPSHOT_PUT = PUT "/1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots/{snapshot}"
        (StorageVolumeSnapshotPut) -> Sync<()>, Project, At::Volume, "storage_api_volume_snapshots";
    /// Change some of a snapshot.
    SNAPSHOT_PATCH = PATCH "/1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots/{snapshot}"
        (serde_json::Value) -> Sync<()>, Project, At::Volume, "storage_api_volume_snapshots";
    /// Rename a snapshot.
    SNAPSHOT_RENAME = POST "/1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots/{snapshot}"
        (StorageVolumeSnapshotPost) -> Background, Project, At::Volume, "storage_api_volume_snapshots";
    /// Delete a snapshot.
    SNAPSHOT_DELETE = DELETE "/1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots/{snapshot}"
        -> Background, Project, At::Volume, "storage_api_volume_snapshots";
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn volumes_look_as_a_server_showed_them() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/contract/golden/raw/storage_volumes_r1.json");
        let Ok(text) = std::fs::read_to_string(path) else {
            return eprintln!("SKIPPED: the contract is not here, volumes are not compared");
        };
        let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
        let volumes: Vec<StorageVolume> = serde_json::from_value(golden["metadata"].clone()).unwrap();
        assert_eq!(serde_json::to_string(&volumes).unwrap(), serde_json::to_string(&golden["metadata"]).unwrap());
    }

    #[test]
    fn volumes_and_snapshots_know_their_urls() {
        let volume = |name: &str, project: &str| StorageVolume {
            config: Config::new(),
            description: String::new(),
            name: name.into(),
            kind: "custom".into(),
            used_by: Vec::new(),
            location: String::new(),
            content_type: String::new(),
            project: project.into(),
            created_at: Timestamp::UNIX_EPOCH,
            pool: "data".into(),
        };
        for (name, project, want) in [
            ("v", "default", "/1.0/storage-pools/data/volumes/custom/v"),
            ("v", "p1", "/1.0/storage-pools/data/volumes/custom/v?project=p1"),
            ("v/s 1", "default", "/1.0/storage-pools/data/volumes/custom/v/snapshots/s%201"),
        ] {
            assert_eq!(volume(name, project).url(), want);
        }
    }
}
