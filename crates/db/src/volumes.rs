//! Storage volumes. Their snapshots are in [`crate::volume_snapshots`].

use api::key::Config;
use api::{Error, Result};
use jiff::Timestamp;
use rusqlite::{Params, named_params};

use crate::keys::Keys;
use crate::projects;
use crate::tx::{Tx, Words, found, touched};
use crate::value::{codes, maybe, maybe_time};

const CONFIG: Keys = Keys { table: "storage_volumes_config", owner: "storage_volume_id" };
const NOT_FOUND: &str = "Storage volume";

codes! {
    /// What a volume is for.
    VolumeType, "storage volume type" {
        /// The root of a container.
        Container = 0, "container";
        /// An unpacked image.
        Image = 1, "image";
        /// A person's own.
        Custom = 2, "custom";
        /// The root of a virtual machine.
        VirtualMachine = 3, "virtual-machine";
    }
}

codes! {
    /// What is in a volume.
    ContentType, "content type" {
        /// Files.
        Filesystem = 0, "filesystem";
        /// A disk.
        Block = 1, "block";
        /// An image of a CD.
        Iso = 2, "iso";
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Row id.
    pub id: i64,
    /// Row id of its pool.
    pub pool_id: i64,
    /// Name of its pool.
    pub pool: String,
    /// The project that it lies in.
    pub project: String,
    /// Name; of an instance's volume, that of the instance.
    pub name: String,
    /// What it is for.
    pub kind: VolumeType,
    /// What is in it.
    pub content: ContentType,
    /// Row id of the member that holds it; `None` in pools that all members share.
    pub member_id: Option<i64>,
    /// Name of the member that holds it.
    pub member: Option<String>,
    /// Free text.
    pub description: String,
    /// Its configuration.
    pub config: Config,
    /// When it was created.
    pub created: Option<Timestamp>,
}

/// A volume to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVolume {
    /// Row id of its pool.
    pub pool_id: i64,
    /// The project that it lies in.
    pub project: String,
    /// Name.
    pub name: String,
    /// What it is for.
    pub kind: VolumeType,
    /// What is in it.
    pub content: ContentType,
    /// Row id of the member that holds it; `None` in pools that all members share.
    pub member_id: Option<i64>,
    /// Free text.
    pub description: String,
    /// Its configuration.
    pub config: Config,
    /// When it was created.
    pub created: Option<Timestamp>,
}

/// Which volumes; `None` is any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter<'a> {
    /// In the pool with this row id.
    pub pool: Option<i64>,
    /// Of this project.
    pub project: Option<&'a str>,
    /// Of this sort.
    pub kind: Option<VolumeType>,
    /// Of this name.
    pub name: Option<&'a str>,
    /// Held by the member with this row id, or shared by all.
    pub member: Option<i64>,
}

/// The volumes that match, by pool, project, sort and name.
pub fn list(tx: &Tx<'_>, which: Filter<'_>) -> Result<Vec<Volume>> {
    let among = "SELECT id FROM storage_volumes WHERE (:pool IS NULL OR storage_pool_id = :pool)
        AND (:project IS NULL OR project_id = (SELECT id FROM projects WHERE name = :project))
        AND (:kind IS NULL OR type = :kind) AND (:name IS NULL OR name = :name)
        AND (:member IS NULL OR node_id IS NULL OR node_id = :member)";
    let params = named_params! {
        ":pool": which.pool, ":project": which.project, ":kind": which.kind, ":name": which.name,
        ":member": which.member,
    };
    select(tx, among, params)
}

/// The volume of that name. Refuses if several members have one of their own and `member` does not say which.
pub fn get(tx: &Tx<'_>, pool: i64, project: &str, kind: VolumeType, name: &str, member: Option<i64>) -> Result<Volume> {
    let among = "SELECT id FROM storage_volumes WHERE storage_pool_id = ?1 AND type = ?2
        AND project_id = (SELECT id FROM projects WHERE name = ?3) AND name = ?4
        AND (?5 IS NULL OR node_id IS NULL OR node_id = ?5)";
    let mut all = select(tx, among, (pool, kind, project, name, member))?;
    if all.len() > 1 {
        let words =
            format!("More than one cluster member has a volume named \"{name}\". Please target a specific member");
        return Err(Error::bad_request(words));
    }
    found(all.pop(), NOT_FOUND)
}

/// The volume with the row id.
pub fn by_id(tx: &Tx<'_>, id: i64) -> Result<Volume> {
    found(select(tx, "SELECT ?1", [id])?.pop(), NOT_FOUND)
}

/// The volume that is the root of an instance, in whichever pool it lies.
pub fn of_instance(tx: &Tx<'_>, instance: i64) -> Result<Volume> {
    let among = "SELECT v.id FROM storage_volumes v JOIN instances i ON i.project_id = v.project_id AND i.name = v.name
        AND v.type = CASE i.type WHEN 0 THEN 0 ELSE 3 END AND (v.node_id IS NULL OR v.node_id = i.node_id)
        WHERE i.id = ?1";
    found(select(tx, among, [instance])?.pop(), NOT_FOUND)
}

fn select(tx: &Tx<'_>, among: &str, params: impl Params + Copy) -> Result<Vec<Volume>> {
    let mut config = CONFIG.of_all(tx, among, params)?;
    let sql = format!(
        "SELECT v.*, s.name AS pool, p.name AS project, n.name AS member FROM storage_volumes v
         JOIN storage_pools s ON s.id = v.storage_pool_id JOIN projects p ON p.id = v.project_id
         LEFT JOIN nodes n ON n.id = v.node_id
         WHERE v.id IN ({among}) ORDER BY s.name, p.name, v.type, v.name, v.node_id"
    );
    tx.all(&sql, params, |r| {
        let id = r.get("id")?;
        Ok(Volume {
            id,
            pool_id: r.get("storage_pool_id")?,
            pool: r.get("pool")?,
            project: r.get("project")?,
            name: r.get("name")?,
            kind: r.get("type")?,
            content: r.get("content_type")?,
            member_id: r.get("node_id")?,
            member: r.get("member")?,
            description: r.get("description")?,
            config: config.remove(&id).unwrap_or_default(),
            created: maybe_time(r, "creation_date")?,
        })
    })
}

/// Records a volume; its row id.
pub fn create(tx: &Tx<'_>, new: &NewVolume) -> Result<i64> {
    let sql = "INSERT INTO storage_volumes (name, storage_pool_id, node_id, type, description, project_id,
                                            content_type, creation_date)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let project = projects::id(tx, &new.project)?;
    let (kind, content, created) = (new.kind, new.content, maybe(new.created));
    let values = (&new.name, new.pool_id, new.member_id, kind, &new.description, project, content, created);
    let id = tx.insert(sql, values).or_taken(|| taken(&new.name))?;
    CONFIG.replace(tx, id, &new.config)?;
    Ok(id)
}

fn taken(name: &str) -> String {
    format!("Storage volume \"{name}\" already exists")
}

/// Changes the description and the configuration of a volume.
pub fn update(tx: &Tx<'_>, id: i64, description: &str, config: &Config) -> Result<()> {
    touched(tx.run("UPDATE storage_volumes SET description = ?2 WHERE id = ?1", (id, description))?, NOT_FOUND)?;
    CONFIG.replace(tx, id, config)
}

/// Sets one key of the configuration; `None` removes it.
pub fn set_config_value(tx: &Tx<'_>, id: i64, key: &str, value: Option<&str>) -> Result<()> {
    CONFIG.set(tx, id, key, value)
}

/// Renames a volume.
pub fn rename(tx: &Tx<'_>, id: i64, name: &str) -> Result<()> {
    let rows = tx.run("UPDATE storage_volumes SET name = ?2 WHERE id = ?1", (id, name)).or_taken(|| taken(name))?;
    touched(rows, NOT_FOUND)
}

/// Records that a volume lies on another member, or in another pool or project.
pub fn set_place(tx: &Tx<'_>, id: i64, pool: i64, member: Option<i64>, project: &str) -> Result<()> {
    let sql = "UPDATE storage_volumes SET storage_pool_id = ?2, node_id = ?3, project_id = ?4 WHERE id = ?1";
    let refused = || "A storage volume of that name already exists there".to_owned();
    touched(tx.run(sql, (id, pool, member, projects::id(tx, project)?)).or_taken(refused)?, NOT_FOUND)
}

/// Forgets a volume and its snapshots.
pub fn delete(tx: &Tx<'_>, id: i64) -> Result<()> {
    touched(tx.run("DELETE FROM storage_volumes WHERE id = ?1", [id])?, NOT_FOUND)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pools;
    use crate::tx::tests::database;

    pub(crate) fn new(pool_id: i64, name: &str, kind: VolumeType, member_id: Option<i64>) -> NewVolume {
        NewVolume {
            pool_id,
            project: "default".into(),
            name: name.into(),
            kind,
            content: ContentType::Filesystem,
            member_id,
            description: String::new(),
            config: [("size".into(), "1GiB".into())].into(),
            created: Some(Timestamp::UNIX_EPOCH),
        }
    }

    #[test]
    fn volumes_are_found_by_member() {
        let c = database();
        let tx = Tx(&c);
        c.execute_batch("INSERT INTO nodes (id, name, address, schema, api_extensions) VALUES (2, 'node2', 'x', 1, 1)")
            .unwrap();
        let pool = pools::create(&tx, "data", "dir", "", &Config::new()).unwrap();
        let custom = VolumeType::Custom;
        let (one, two) = (new(pool, "v", custom, Some(1)), new(pool, "v", custom, Some(2)));
        let id = create(&tx, &one).unwrap();
        create(&tx, &two).unwrap();
        let several = "More than one cluster member has a volume named \"v\". Please target a specific member";
        for (name, member, want) in [
            ("v", None, Err(several)),
            ("v", Some(1), Ok(Some("none"))),
            ("v", Some(2), Ok(Some("node2"))),
            ("v", Some(3), Err("Storage volume not found")),
            ("w", None, Err("Storage volume not found")),
        ] {
            let got = get(&tx, pool, "default", custom, name, member);
            let got = got.as_ref().map(|v| v.member.as_deref()).map_err(|e| e.message.as_str());
            assert_eq!(got, want, "{name} {member:?}");
        }
        assert_eq!(list(&tx, Filter { pool: Some(pool), member: Some(2), ..Filter::default() }).unwrap().len(), 1);
        assert_eq!(create(&tx, &one).unwrap_err().message, "Storage volume \"v\" already exists");
        create(&tx, &new(pool, "shared", custom, None)).unwrap();
        assert_eq!(
            create(&tx, &new(pool, "shared", custom, None)).unwrap_err().message,
            "Storage volume \"shared\" already exists",
            "no member is one place too"
        );
        assert_eq!(
            set_place(&tx, id, pool, Some(2), "default").unwrap_err().message,
            "A storage volume of that name already exists there"
        );
        rename(&tx, id, "w").unwrap();
        set_place(&tx, id, pool, Some(2), "default").unwrap();
        update(&tx, id, "moved", &Config::new()).unwrap();
        set_config_value(&tx, id, "volatile.x", Some("1")).unwrap();
        let got = by_id(&tx, id).unwrap();
        assert_eq!(
            (got.name.as_str(), got.member_id, got.config.len(), got.description.as_str()),
            ("w", Some(2), 1, "moved")
        );
        delete(&tx, id).unwrap();
        assert_eq!(by_id(&tx, id).unwrap_err().message, "Storage volume not found");
    }

    #[test]
    fn the_volume_of_an_instance_is_where_the_instance_is() {
        let c = database();
        let tx = Tx(&c);
        let pool = pools::create(&tx, "data", "dir", "", &Config::new()).unwrap();
        let instance = crate::instances::create(&tx, &crate::instances::tests::new("default", "c1")).unwrap();
        assert_eq!(of_instance(&tx, instance).unwrap_err().message, "Storage volume not found");
        create(&tx, &new(pool, "c1", VolumeType::Custom, Some(1))).unwrap();
        let id = create(&tx, &new(pool, "c1", VolumeType::Container, Some(1))).unwrap();
        assert_eq!(of_instance(&tx, instance).unwrap().id, id);
    }
}
