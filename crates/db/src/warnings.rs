//! Warnings: what is not as it should be, said once however often it is seen.

use api::Result;
use jiff::Timestamp;

use crate::tx::{Tx, found, touched};
use crate::value::{Time, codes, time};

const NOT_FOUND: &str = "Warning";

codes! {
    /// How much a warning matters.
    Severity, "warning severity" {
        /// A feature is missing.
        Low = 1, "low";
        /// Something does not work as it should.
        Moderate = 2, "moderate";
        /// Something does not work.
        High = 3, "high";
    }
}

codes! {
    /// What became of a warning.
    Status, "warning status" {
        /// Nobody looked at it.
        New = 1, "new";
        /// Somebody looked at it.
        Acknowledged = 2, "acknowledged";
        /// It is as it should be again.
        Resolved = 3, "resolved";
    }
}

codes! {
    /// What a warning says.
    Kind, "warning type" {
        /// No limits of disk input and output.
        CgroupBlkio = 1, "Couldn't find the CGroup blkio";
        /// No weights of disk input and output.
        CgroupBlkioWeight = 2, "Couldn't find the CGroup blkio.weight";
        /// No limits of processor time.
        CgroupCpu = 3, "Couldn't find the CGroup CPU controller";
        /// No pinning to processors.
        CgroupCpuset = 4, "Couldn't find the CGroup CPUset controller";
        /// No accounting of processor time.
        CgroupCpuacct = 5, "Couldn't find the CGroup CPUacct controller";
        /// No control of devices.
        CgroupDevices = 6, "Couldn't find the CGroup devices controller";
        /// No freezing.
        CgroupFreezer = 7, "Couldn't find the CGroup freezer controller";
        /// No limits of huge pages.
        CgroupHugetlb = 8, "Couldn't find the CGroup hugetlb controller";
        /// No limits of memory.
        CgroupMemory = 9, "Couldn't find the CGroup memory controller";
        /// No network priorities.
        CgroupNetPrio = 10, "Couldn't find the CGroup network priority controller";
        /// No limits of processes.
        CgroupPids = 11, "Couldn't find the CGroup pids controller";
        /// No limits of swap.
        CgroupMemorySwap = 12, "Couldn't find the CGroup memory swap accounting";
        /// The clocks of two members differ.
        ClusterTimeSkew = 13, "Time skew detected between leader and local";
        /// No AppArmor.
        AppArmorNotAvailable = 14, "AppArmor support has been disabled";
        /// No virtiofsd.
        MissingVirtiofsd = 15, "Missing virtiofsd";
        /// dnsmasq runs without AppArmor.
        AppArmorRawDnsmasq = 17, "Skipping AppArmor for dnsmasq due to raw.dnsmasq being set";
        /// A prefix that dnsmasq can't serve.
        LargeIpv6Prefix = 18, "IPv6 networks with a prefix larger than 64 aren't properly supported by dnsmasq";
        /// br_netfilter is off.
        ProxyBridgeNetfilter = 19, "Proxy bridge netfilter not enabled";
        /// A network could not be started.
        NetworkUnavailable = 20, "Network unavailable";
        /// A member is silent.
        OfflineMember = 21, "Offline cluster member";
        /// An instance could not be started with the server.
        InstanceAutostart = 22, "Failed to autostart instance";
        /// A sort of instance can't run here.
        InstanceTypeNotOperational = 23, "Instance type not operational";
        /// A pool could not be mounted.
        StoragePoolUnavailable = 24, "Storage pool unavailable";
        /// A member did not get the new certificate.
        ClusterCertificate = 25, "Unable to update cluster certificate";
        /// A replica of the database was not like the others and was fetched anew.
        DatabaseDiverged = 1001, "Database replica diverged";
        /// A plan could not be carried out to its end.
        PlanFailed = 1002, "Plan not carried out";
        /// The log of the database takes too long to write.
        SlowDisk = 1003, "Slow disk under the database";
        /// The next voter that is lost stops the cluster.
        NoVoterToSpare = 1004, "No database voter to spare";
        /// The certificate of the cluster will not be good for much longer.
        CertificateEnds = 1005, "Cluster certificate near its end";
        /// Instances of a member that was gone were started elsewhere.
        MemberHealed = 1006, "Cluster member healed";
    }
}

impl Kind {
    /// How much it matters.
    pub const fn severity(self) -> Severity {
        match self {
            Kind::NetworkUnavailable | Kind::StoragePoolUnavailable | Kind::DatabaseDiverged => Severity::High,
            Kind::PlanFailed | Kind::SlowDisk | Kind::NoVoterToSpare | Kind::CertificateEnds | Kind::MemberHealed => {
                Severity::Moderate
            }
            _ => Severity::Low,
        }
    }
}

codes! {
    /// What sort of thing a warning is about.
    Entity, "entity type" {
        /// An image.
        Image = 1, "image";
        /// A profile.
        Profile = 2, "profile";
        /// A project.
        Project = 3, "project";
        /// A certificate.
        Certificate = 4, "certificate";
        /// An instance.
        Instance = 5, "instance";
        /// A backup of an instance.
        InstanceBackup = 6, "instance backup";
        /// A snapshot of an instance.
        InstanceSnapshot = 7, "instance snapshot";
        /// A network.
        Network = 8, "network";
        /// A network ACL.
        NetworkAcl = 9, "network acl";
        /// A member.
        Member = 10, "node";
        /// An operation.
        Operation = 11, "operation";
        /// A storage pool.
        Pool = 12, "storage pool";
        /// A storage volume.
        Volume = 13, "storage volume";
    }
}

/// What a warning is about; two warnings about the same are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What it says.
    pub kind: Kind,
    /// Row id of the member that says it, or is concerned.
    pub member: Option<i64>,
    /// Row id of the project.
    pub project: Option<i64>,
    /// The thing, by sort and row id.
    pub entity: Option<(Entity, i64)>,
}

impl Subject {
    /// About a member and nothing in particular.
    pub const fn member(kind: Kind, member: i64) -> Self {
        Self { kind, member: Some(member), project: None, entity: None }
    }
}

/// A warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Row id.
    pub id: i64,
    /// UUID.
    pub uuid: String,
    /// What it says.
    pub kind: Kind,
    /// What became of it.
    pub status: Status,
    /// Name of the member.
    pub member: Option<String>,
    /// Name of the project.
    pub project: Option<String>,
    /// The thing, by sort and row id.
    pub entity: Option<(Entity, i64)>,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// What was said last.
    pub message: String,
    /// How often it was seen.
    pub count: i64,
}

/// Warns: adds one to the warning about the same, which is new again if it was resolved, or makes one.
///
/// `uuid` is that of the warning if it has to be made.
pub fn raise(tx: &Tx<'_>, about: Subject, message: &str, uuid: &str, now: Timestamp) -> Result<()> {
    let (entity, entity_id) = about.entity.unzip();
    let subject = (about.kind, about.member, about.project, entity, entity_id);
    let sql = "SELECT id FROM warnings WHERE type_code = ?1 AND node_id IS ?2 AND project_id IS ?3
               AND entity_type_code IS ?4 AND entity_id IS ?5";
    let have: Option<i64> = tx.one(sql, subject, |r| r.get(0))?;
    let now = Time(now);
    match have {
        Some(id) => {
            let sql = "UPDATE warnings SET last_message = ?2, last_seen_date = ?3, updated_date = ?3,
                       count = count + 1, status = CASE status WHEN 3 THEN 1 ELSE status END WHERE id = ?1";
            tx.run(sql, (id, message, now)).map(drop)
        }
        None => {
            let sql = "INSERT INTO warnings (type_code, node_id, project_id, entity_type_code, entity_id, uuid, status,
                                             first_seen_date, last_seen_date, updated_date, last_message, count)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?7, ?7, ?8, 1)";
            let (kind, member, project, entity, entity_id) = subject;
            tx.run(sql, (kind, member, project, entity, entity_id, uuid, now, message)).map(drop)
        }
    }
}

/// Says that all is well again: warnings of that kind, of that member and about that entity, are resolved.
pub fn resolve(tx: &Tx<'_>, about: Subject, now: Timestamp) -> Result<()> {
    let (entity, entity_id) = about.entity.unzip();
    let sql = "UPDATE warnings SET status = 3, updated_date = ?6 WHERE type_code = ?1 AND node_id IS ?2
               AND project_id IS ?3 AND entity_type_code IS ?4 AND entity_id IS ?5 AND status <> 3";
    tx.run(sql, (about.kind, about.member, about.project, entity, entity_id, Time(now))).map(drop)
}

/// Resolves what a member said before it started and has not said again since.
pub fn resolve_older(tx: &Tx<'_>, member: i64, start: Timestamp) -> Result<()> {
    let sql = "UPDATE warnings SET status = 3, updated_date = ?2 WHERE node_id = ?1 AND last_seen_date < ?2
               AND status <> 3 AND type_code <> 21";
    tx.run(sql, (member, Time(start))).map(drop)
}

/// Forgets what was resolved before `before`.
pub fn prune(tx: &Tx<'_>, before: Timestamp) -> Result<()> {
    tx.run("DELETE FROM warnings WHERE status = 3 AND IFNULL(updated_date, last_seen_date) < ?1", [Time(before)])
        .map(drop)
}

const COLUMNS: &str = "SELECT w.*, n.name AS member, p.name AS project FROM warnings w
    LEFT JOIN nodes n ON n.id = w.node_id LEFT JOIN projects p ON p.id = w.project_id";

fn read(r: &rusqlite::Row<'_>) -> rusqlite::Result<Warning> {
    Ok(Warning {
        id: r.get("id")?,
        uuid: r.get("uuid")?,
        kind: r.get("type_code")?,
        status: r.get("status")?,
        member: r.get("member")?,
        project: r.get("project")?,
        entity: r.get::<_, Option<Entity>>("entity_type_code")?.zip(r.get("entity_id")?),
        first_seen: time(r, "first_seen_date")?,
        last_seen: time(r, "last_seen_date")?,
        message: r.get("last_message")?,
        count: r.get("count")?,
    })
}

/// All warnings, or those of a project.
pub fn list(tx: &Tx<'_>, project: Option<&str>) -> Result<Vec<Warning>> {
    tx.all(&format!("{COLUMNS} WHERE ?1 IS NULL OR p.name = ?1 ORDER BY w.uuid"), [project], read)
}

/// The warning with that UUID.
pub fn get(tx: &Tx<'_>, uuid: &str) -> Result<Warning> {
    found(tx.one(&format!("{COLUMNS} WHERE w.uuid = ?1"), [uuid], read)?, NOT_FOUND)
}

/// Records what became of a warning.
pub fn set_status(tx: &Tx<'_>, uuid: &str, status: Status, now: Timestamp) -> Result<()> {
    let sql = "UPDATE warnings SET status = ?2, updated_date = ?3 WHERE uuid = ?1";
    touched(tx.run(sql, (uuid, status, Time(now)))?, NOT_FOUND)
}

/// Forgets a warning.
pub fn delete(tx: &Tx<'_>, uuid: &str) -> Result<()> {
    touched(tx.run("DELETE FROM warnings WHERE uuid = ?1", [uuid])?, NOT_FOUND)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn the_same_warning_is_one_and_comes_back_after_it_was_resolved() {
        let c = database();
        let tx = Tx(&c);
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let offline = Subject::member(Kind::OfflineMember, 1);
        let autostart = Subject {
            entity: Some((Entity::Instance, 7)),
            project: Some(1),
            ..Subject::member(Kind::InstanceAutostart, 1)
        };
        raise(&tx, offline, "silent", "u1", at(10)).unwrap();
        raise(&tx, offline, "still silent", "u2", at(20)).unwrap();
        raise(&tx, autostart, "no disk", "u3", at(20)).unwrap();
        let got = get(&tx, "u1").unwrap();
        assert_eq!(
            (got.count, got.message.as_str(), got.first_seen, got.last_seen),
            (2, "still silent", at(10), at(20))
        );
        assert_eq!(get(&tx, "u2").unwrap_err().message, "Warning not found");
        assert_eq!(get(&tx, "u3").unwrap().entity, Some((Entity::Instance, 7)));
        assert_eq!(list(&tx, Some("default")).unwrap().len(), 1);

        set_status(&tx, "u1", Status::Acknowledged, at(30)).unwrap();
        raise(&tx, offline, "silent", "u4", at(40)).unwrap();
        assert_eq!(get(&tx, "u1").unwrap().status, Status::Acknowledged);
        resolve(&tx, offline, at(50)).unwrap();
        assert_eq!(get(&tx, "u1").unwrap().status, Status::Resolved);
        raise(&tx, offline, "silent again", "u5", at(60)).unwrap();
        assert_eq!(get(&tx, "u1").unwrap().status, Status::New);

        resolve_older(&tx, 1, at(100)).unwrap();
        assert_eq!((get(&tx, "u1").unwrap().status, get(&tx, "u3").unwrap().status), (Status::New, Status::Resolved));
        prune(&tx, at(100)).unwrap();
        assert_eq!(list(&tx, None).unwrap().len(), 2, "resolved just now");
        prune(&tx, at(101)).unwrap();
        assert_eq!(list(&tx, None).unwrap().len(), 1);
        delete(&tx, "u1").unwrap();
        assert_eq!(delete(&tx, "u1").unwrap_err().message, "Warning not found");
    }
}
