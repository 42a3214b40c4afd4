//! Instances. Their snapshots are in [`crate::snapshots`].

use std::collections::BTreeMap;

use api::key::Config;
use api::{Error, Result};
use jiff::Timestamp;
use rusqlite::{Params, named_params};

use crate::keys::{DeviceTables, Devices, Keys};
use crate::members::gather;
use crate::tx::{Tx, Words, found, touched};
use crate::value::{Architecture, InstanceType, Time, maybe, maybe_time, time};
use crate::{profiles, projects};

const CONFIG: Keys = Keys { table: "instances_config", owner: "instance_id" };
const DEVICES: DeviceTables = DeviceTables {
    devices: "instances_devices",
    owner: "instance_id",
    keys: Keys { table: "instances_devices_config", owner: "instance_device_id" },
};
const NOT_FOUND: &str = "Instance";

/// An instance, as it is configured; what its profiles add is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Row id; never used again.
    pub id: i64,
    /// Its project.
    pub project: String,
    /// Name, unique within its project.
    pub name: String,
    /// Row id of the member that holds it.
    pub member_id: i64,
    /// Name of the member that holds it.
    pub member: String,
    /// What runs it.
    pub kind: InstanceType,
    /// Architecture.
    pub architecture: Architecture,
    /// True if it is deleted when it stops.
    pub ephemeral: bool,
    /// True if its memory is stored while it is stopped.
    pub stateful: bool,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last started.
    pub last_used: Option<Timestamp>,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// Free text.
    pub description: String,
    /// Its own configuration, volatile keys included.
    pub config: Config,
    /// Its own devices.
    pub devices: Devices,
    /// Names of its profiles, in the order in which they apply.
    pub profiles: Vec<String>,
}

/// An instance to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInstance {
    /// Its project.
    pub project: String,
    /// Name.
    pub name: String,
    /// Row id of the member that holds it.
    pub member_id: i64,
    /// What runs it.
    pub kind: InstanceType,
    /// Architecture.
    pub architecture: Architecture,
    /// True if it is deleted when it stops.
    pub ephemeral: bool,
    /// True if its memory is stored while it is stopped.
    pub stateful: bool,
    /// When it was created.
    pub created: Timestamp,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// Free text.
    pub description: String,
    /// Its own configuration, volatile keys included.
    pub config: Config,
    /// Its own devices.
    pub devices: Devices,
    /// Names of its profiles, in the order in which they apply.
    pub profiles: Vec<String>,
}

impl NewInstance {
    /// The instance that it will be, on the member of that name; it has no row id yet.
    pub fn as_instance(&self, member: String) -> Instance {
        let new = self.clone();
        Instance {
            id: 0,
            project: new.project,
            name: new.name,
            member_id: new.member_id,
            member,
            kind: new.kind,
            architecture: new.architecture,
            ephemeral: new.ephemeral,
            stateful: new.stateful,
            created: new.created,
            last_used: None,
            expires: new.expires,
            description: new.description,
            config: new.config,
            devices: new.devices,
            profiles: new.profiles,
        }
    }
}

/// What can be changed of an instance at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Architecture.
    pub architecture: Architecture,
    /// True if it is deleted when it stops.
    pub ephemeral: bool,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// Free text.
    pub description: String,
    /// Its own configuration, volatile keys included.
    pub config: Config,
    /// Its own devices.
    pub devices: Devices,
    /// Names of its profiles, in the order in which they apply.
    pub profiles: Vec<String>,
}

/// Which instances; `None` is any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter<'a> {
    /// Of this project.
    pub project: Option<&'a str>,
    /// On the member with this row id.
    pub member: Option<i64>,
    /// Of this sort.
    pub kind: Option<InstanceType>,
}

const AMONG: &str = "SELECT id FROM instances
    WHERE (:project IS NULL OR project_id = (SELECT id FROM projects WHERE name = :project))
    AND (:member IS NULL OR node_id = :member) AND (:kind IS NULL OR type = :kind)";

/// The instances that match, by project and name: four queries, however many there are.
pub fn list(tx: &Tx<'_>, which: Filter<'_>) -> Result<Vec<Instance>> {
    select(tx, AMONG, named_params! {":project": which.project, ":member": which.member, ":kind": which.kind})
}

/// The instance of that name.
pub fn get(tx: &Tx<'_>, project: &str, name: &str) -> Result<Instance> {
    found(find(tx, project, name)?, NOT_FOUND)
}

/// The instance of that name, if there is one.
pub fn find(tx: &Tx<'_>, project: &str, name: &str) -> Result<Option<Instance>> {
    let among = "SELECT i.id FROM instances i JOIN projects p ON p.id = i.project_id WHERE p.name = ?1 AND i.name = ?2";
    Ok(select(tx, among, (project, name))?.pop())
}

/// The instance with the row id.
pub fn by_id(tx: &Tx<'_>, id: i64) -> Result<Instance> {
    found(select(tx, "SELECT ?1", [id])?.pop(), NOT_FOUND)
}

fn select(tx: &Tx<'_>, among: &str, params: impl Params + Copy) -> Result<Vec<Instance>> {
    let mut config = CONFIG.of_all(tx, among, params)?;
    let mut devices = DEVICES.of_all(tx, among, params)?;
    let sql = format!(
        "SELECT ip.instance_id, f.name FROM instances_profiles ip JOIN profiles f ON f.id = ip.profile_id
         WHERE ip.instance_id IN ({among}) ORDER BY ip.apply_order"
    );
    let mut profiles = gather(tx.all(&sql, params, |r| Ok((r.get(0)?, r.get(1)?)))?);
    let sql = format!(
        "SELECT i.*, p.name AS project, n.name AS member FROM instances i JOIN projects p ON p.id = i.project_id
         JOIN nodes n ON n.id = i.node_id WHERE i.id IN ({among}) ORDER BY p.name, i.name"
    );
    tx.all(&sql, params, |r| {
        let id = r.get("id")?;
        Ok(Instance {
            id,
            project: r.get("project")?,
            name: r.get("name")?,
            member_id: r.get("node_id")?,
            member: r.get("member")?,
            kind: r.get("type")?,
            architecture: r.get("architecture")?,
            ephemeral: r.get("ephemeral")?,
            stateful: r.get("stateful")?,
            created: time(r, "creation_date")?,
            last_used: maybe_time(r, "last_use_date")?,
            expires: maybe_time(r, "expiry_date")?,
            description: r.get("description")?,
            config: config.remove(&id).unwrap_or_default(),
            devices: devices.remove(&id).unwrap_or_default(),
            profiles: profiles.remove(&id).unwrap_or_default(),
        })
    })
}

/// Where an instance is: enough to send a request there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Row id of the instance.
    pub id: i64,
    /// Row id of the member that holds it.
    pub member_id: i64,
    /// Name of that member.
    pub member: String,
    /// Address of that member.
    pub address: String,
}

/// Where the instance of that name is.
pub fn place(tx: &Tx<'_>, project: &str, name: &str) -> Result<Place> {
    let sql = "SELECT i.id, n.id, n.name, n.address FROM instances i JOIN projects p ON p.id = i.project_id
               JOIN nodes n ON n.id = i.node_id WHERE p.name = ?1 AND i.name = ?2";
    let read = |r: &rusqlite::Row<'_>| {
        Ok(Place { id: r.get(0)?, member_id: r.get(1)?, member: r.get(2)?, address: r.get(3)? })
    };
    found(tx.one(sql, (project, name), read)?, NOT_FOUND)
}

/// Project and name of the instances that match, by project and name.
pub fn names(tx: &Tx<'_>, which: Filter<'_>) -> Result<Vec<(String, String)>> {
    let sql = format!(
        "SELECT p.name, i.name FROM instances i JOIN projects p ON p.id = i.project_id WHERE i.id IN ({AMONG})
         ORDER BY p.name, i.name"
    );
    let params = named_params! {":project": which.project, ":member": which.member, ":kind": which.kind};
    tx.all(&sql, params, |r| Ok((r.get(0)?, r.get(1)?)))
}

/// How many instances each member holds, by its row id; members without any are not in it.
pub fn counts(tx: &Tx<'_>) -> Result<BTreeMap<i64, usize>> {
    let sql = "SELECT node_id, COUNT(*) FROM instances GROUP BY node_id";
    let rows = tx.all(sql, [], |r| Ok((r.get(0)?, r.get::<_, i64>(1)?)))?;
    Ok(rows.into_iter().map(|(member, n)| (member, usize::try_from(n).unwrap_or(0))).collect())
}

/// Records an instance; its row id.
pub fn create(tx: &Tx<'_>, new: &NewInstance) -> Result<i64> {
    let project = projects::id(tx, &new.project)?;
    let sql = "INSERT INTO instances (node_id, name, architecture, type, ephemeral, creation_date, stateful,
                                      description, project_id, expiry_date)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let values = (
        new.member_id,
        &new.name,
        new.architecture,
        new.kind,
        new.ephemeral,
        Time(new.created),
        new.stateful,
        &new.description,
        project,
        maybe(new.expires),
    );
    let id = tx.insert(sql, values).or_taken(|| taken(&new.name))?;
    CONFIG.replace(tx, id, &new.config)?;
    DEVICES.replace(tx, id, &new.devices)?;
    set_profiles(tx, id, &new.project, &new.profiles)?;
    Ok(id)
}

fn taken(name: &str) -> String {
    format!("Instance \"{name}\" already exists")
}

/// Changes what can be changed of an instance.
pub fn update(tx: &Tx<'_>, id: i64, changes: &Changes) -> Result<()> {
    let sql = "UPDATE instances SET architecture = ?2, ephemeral = ?3, expiry_date = ?4, description = ?5
               WHERE id = ?1";
    let values = (id, changes.architecture, changes.ephemeral, maybe(changes.expires), &changes.description);
    touched(tx.run(sql, values)?, NOT_FOUND)?;
    CONFIG.replace(tx, id, &changes.config)?;
    DEVICES.replace(tx, id, &changes.devices)?;
    let sql = "SELECT p.name FROM instances i JOIN projects p ON p.id = i.project_id WHERE i.id = ?1";
    let project: String = found(tx.one(sql, [id], |r| r.get(0))?, NOT_FOUND)?;
    set_profiles(tx, id, &project, &changes.profiles)
}

fn set_profiles(tx: &Tx<'_>, id: i64, project: &str, names: &[String]) -> Result<()> {
    let sql = "SELECT profile_id FROM instances_profiles WHERE instance_id = ?1 ORDER BY apply_order";
    let have: Vec<i64> = tx.all(sql, [id], |r| r.get(0))?;
    let want: Vec<i64> = profiles::named(tx, project, names)?.into_iter().map(|p| p.id).collect();
    if have == want {
        return Ok(());
    }
    tx.run("DELETE FROM instances_profiles WHERE instance_id = ?1", [id])?;
    for (order, profile) in (1_i64..).zip(want) {
        let sql = "INSERT INTO instances_profiles (instance_id, profile_id, apply_order) VALUES (?1, ?2, ?3)";
        tx.run(sql, (id, profile, order)).or_taken(|| "Duplicate profile found in request".into())?;
    }
    Ok(())
}

/// One value of the instance's own configuration.
pub fn config_value(tx: &Tx<'_>, id: i64, key: &str) -> Result<Option<String>> {
    CONFIG.value(tx, id, key)
}

/// Sets keys of the instance's own configuration and leaves the others: for volatile keys. `None` removes.
pub fn patch_config<'k>(
    tx: &Tx<'_>,
    id: i64,
    changes: impl IntoIterator<Item = (&'k str, Option<&'k str>)>,
) -> Result<()> {
    touched(usize::from(exists(tx, id)?), NOT_FOUND)?;
    changes.into_iter().try_for_each(|(key, value)| CONFIG.set(tx, id, key, value))
}

fn exists(tx: &Tx<'_>, id: i64) -> Result<bool> {
    Ok(tx.one("SELECT 1 FROM instances WHERE id = ?1", [id], |_| Ok(()))?.is_some())
}

/// Renames an instance. Its volume has a row of its own.
pub fn rename(tx: &Tx<'_>, id: i64, name: &str) -> Result<()> {
    let rows = tx.run("UPDATE instances SET name = ?2 WHERE id = ?1", (id, name)).or_taken(|| taken(name))?;
    touched(rows, NOT_FOUND)
}

/// Moves an instance to another project, where it has the profiles of these names.
pub fn set_project(tx: &Tx<'_>, id: i64, project: &str, profiles: &[String]) -> Result<()> {
    let sql = "UPDATE instances SET project_id = ?2 WHERE id = ?1";
    let refused = || format!("The project \"{project}\" already has an instance of that name");
    touched(tx.run(sql, (id, projects::id(tx, project)?)).or_taken(refused)?, NOT_FOUND)?;
    set_profiles(tx, id, project, profiles)
}

/// Hands an instance to another member: the moment at which a move takes place.
///
/// Refuses if it is not on the member `from` any more, so that of two moves only one happens.
pub fn set_member(tx: &Tx<'_>, id: i64, from: i64, to: i64) -> Result<()> {
    if tx.run("UPDATE instances SET node_id = ?3 WHERE id = ?1 AND node_id = ?2", (id, from, to))? > 0 {
        return Ok(());
    }
    touched(usize::from(exists(tx, id)?), NOT_FOUND)?;
    Err(Error::conflict("The instance is not on the member that it was to leave: it has been moved meanwhile"))
}

/// Records that an instance was started.
pub fn set_last_used(tx: &Tx<'_>, id: i64, at: Timestamp) -> Result<()> {
    touched(tx.run("UPDATE instances SET last_use_date = ?2 WHERE id = ?1", (id, Time(at)))?, NOT_FOUND)
}

/// Records whether the memory of an instance is stored while it is stopped.
pub fn set_stateful(tx: &Tx<'_>, id: i64, stateful: bool) -> Result<()> {
    touched(tx.run("UPDATE instances SET stateful = ?2 WHERE id = ?1", (id, stateful))?, NOT_FOUND)
}

/// Forgets an instance and its snapshots. Its volume has a row of its own.
pub fn delete(tx: &Tx<'_>, id: i64) -> Result<()> {
    touched(tx.run("DELETE FROM instances WHERE id = ?1", [id])?, NOT_FOUND)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    /// A container for tests, on member 1.
    pub(crate) fn new(project: &str, name: &str) -> NewInstance {
        NewInstance {
            project: project.into(),
            name: name.into(),
            member_id: 1,
            kind: InstanceType::Container,
            architecture: Architecture::X86_64,
            ephemeral: false,
            stateful: false,
            created: "2026-11-24T02:07:42.487544645Z".parse().unwrap(),
            expires: None,
            description: "one".into(),
            config: [("volatile.uuid".into(), "u".into())].into(),
            devices: [("eth0".into(), device(&[("type", "nic"), ("network", "br0")]))].into(),
            profiles: vec!["default".into()],
        }
    }

    pub(crate) fn device(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn an_instance_comes_back_as_it_was_recorded() {
        let c = database();
        let tx = Tx(&c);
        profiles::create(&tx, "default", "web", "", &Config::new(), &Devices::new()).unwrap();
        let n = NewInstance { profiles: vec!["web".into(), "default".into()], ..new("default", "c1") };
        let id = create(&tx, &n).unwrap();
        let got = get(&tx, "default", "c1").unwrap();
        assert_eq!(got, by_id(&tx, id).unwrap());
        assert_eq!((&got.config, &got.devices, &got.profiles), (&n.config, &n.devices, &n.profiles));
        assert_eq!((got.created, got.last_used, got.member.as_str()), (n.created, None, "none"));

        let changes = Changes {
            architecture: Architecture::Aarch64,
            ephemeral: true,
            expires: Some(Timestamp::UNIX_EPOCH),
            description: "two".into(),
            config: device(&[("limits.cpu", "2")]),
            devices: Devices::new(),
            profiles: vec!["default".into(), "web".into()],
        };
        update(&tx, id, &changes).unwrap();
        patch_config(&tx, id, [("volatile.x", Some("1")), ("limits.cpu", None)]).unwrap();
        set_last_used(&tx, id, Timestamp::UNIX_EPOCH).unwrap();
        rename(&tx, id, "c2").unwrap();
        let got = get(&tx, "default", "c2").unwrap();
        assert_eq!(got.config, device(&[("volatile.x", "1")]));
        assert_eq!((got.ephemeral, got.expires, &got.profiles), (true, Some(Timestamp::UNIX_EPOCH), &changes.profiles));
        assert_eq!(config_value(&tx, id, "volatile.x").unwrap().as_deref(), Some("1"));
        delete(&tx, id).unwrap();
        for table in ["instances_config", "instances_devices_config", "instances_profiles"] {
            let rows: i64 = c.query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |r| r.get(0)).unwrap();
            assert_eq!(rows, 0, "{table} still has rows of the deleted instance");
        }
    }

    #[test]
    fn instances_are_listed_by_project_member_and_sort() {
        let c = database();
        let tx = Tx(&c);
        projects::create(&tx, "p1", "", &Config::new()).unwrap();
        let other = crate::members::NewMember {
            name: "node2".into(),
            address: "10.0.0.2:8443".into(),
            schema: 1,
            api_extensions: 1,
            architecture: Architecture::X86_64,
            state: crate::members::State::Created,
        };
        let node2 = crate::members::create(&tx, &other).unwrap();
        create(&tx, &new("default", "c1")).unwrap();
        create(&tx, &NewInstance { member_id: node2, ..new("default", "c2") }).unwrap();
        create(&tx, &NewInstance { kind: InstanceType::VirtualMachine, ..new("p1", "c1") }).unwrap();
        let all = Filter::default();
        for (which, want) in [
            (all, vec!["default/c1", "default/c2", "p1/c1"]),
            (Filter { project: Some("default"), ..all }, vec!["default/c1", "default/c2"]),
            (Filter { member: Some(node2), ..all }, vec!["default/c2"]),
            (Filter { kind: Some(InstanceType::VirtualMachine), ..all }, vec!["p1/c1"]),
            (Filter { project: Some("nope"), ..all }, vec![]),
        ] {
            let got = list(&tx, which).unwrap();
            let names: Vec<String> = got.iter().map(|i| format!("{}/{}", i.project, i.name)).collect();
            assert_eq!(names, want, "{which:?}");
            assert_eq!(super::names(&tx, which).unwrap().len(), want.len());
            assert!(
                got.iter().all(|i| i.profiles == ["default"] && i.devices.len() == 1),
                "a project without profiles uses those of default"
            );
        }
        assert_eq!(counts(&tx).unwrap(), [(1, 2), (node2, 1)].into());
        let at = place(&tx, "default", "c2").unwrap();
        assert_eq!((at.member.as_str(), at.address.as_str()), ("node2", "10.0.0.2:8443"));

        set_member(&tx, at.id, node2, 1).unwrap();
        let again = set_member(&tx, at.id, node2, 1).unwrap_err();
        assert_eq!(again.kind, api::Kind::Conflict, "of two moves one happens: {again}");
    }

    #[test]
    fn refusals_are_in_the_words_that_clients_know() {
        let c = database();
        let tx = Tx(&c);
        let id = create(&tx, &new("default", "c1")).unwrap();
        let other = create(&tx, &new("default", "c2")).unwrap();
        let twice = NewInstance { profiles: vec!["default".into(), "default".into()], ..new("default", "c3") };
        let unknown = NewInstance { profiles: vec!["x".into()], ..new("default", "c4") };
        for (got, want) in [
            (create(&tx, &new("default", "c1")).map(drop), "Instance \"c1\" already exists"),
            (create(&tx, &new("nope", "c1")).map(drop), "Project not found"),
            (create(&tx, &twice).map(drop), "Duplicate profile found in request"),
            (create(&tx, &unknown).map(drop), "Profile \"x\" not found"),
            (rename(&tx, other, "c1"), "Instance \"c1\" already exists"),
            (get(&tx, "default", "nope").map(drop), "Instance not found"),
            (place(&tx, "default", "nope").map(drop), "Instance not found"),
            (patch_config(&tx, 99, []), "Instance not found"),
            (set_member(&tx, 99, 1, 2), "Instance not found"),
            (delete(&tx, 99), "Instance not found"),
        ] {
            assert_eq!(got.unwrap_err().message, want);
        }
        assert_eq!(by_id(&tx, id).unwrap().name, "c1");
    }

    #[test]
    fn thousands_are_listed_in_a_moment() {
        let c = database();
        let tx = Tx(&c);
        c.execute_batch("BEGIN").unwrap();
        for n in 0..3000 {
            create(&tx, &new("default", &format!("c{n}"))).unwrap();
        }
        let start = std::time::Instant::now();
        assert_eq!(list(&tx, Filter::default()).unwrap().len(), 3000);
        // Generous: with a query for each it takes many times as long, in a build without optimisation too.
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    }
}
