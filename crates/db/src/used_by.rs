//! What uses a thing: the URLs in `used_by`, and the reasons why it can't be deleted.

use api::Result;
use api::endpoint::{encode, in_project};
use rusqlite::{Params, named_params};

use crate::projects::{self, DEFAULT, Feature};
use crate::tx::Tx;
use crate::warnings::Entity;

/// The URL of a thing in a project.
fn url(path: &str, name: &str, project: &str) -> String {
    in_project(format!("/1.0/{path}/{}", encode(name)), project)
}

/// The URLs of the things whose project and name `sql` gives, by project and name.
fn urls(tx: &Tx<'_>, path: &str, sql: &str, params: impl Params) -> Result<Vec<String>> {
    tx.all(sql, params, |r| Ok(url(path, &r.get::<_, String>(1)?, &r.get::<_, String>(0)?)))
}

/// What uses a profile: instances.
pub fn profile(tx: &Tx<'_>, id: i64) -> Result<Vec<String>> {
    let sql = "SELECT p.name, i.name FROM instances_profiles ip JOIN instances i ON i.id = ip.instance_id
               JOIN projects p ON p.id = i.project_id WHERE ip.profile_id = ?1 ORDER BY p.name, i.name";
    urls(tx, "instances", sql, [id])
}

/// What uses a pool: instances, images and custom volumes that lie in it (on `member`, if given), and profiles
/// with a disk of it.
pub fn pool(tx: &Tx<'_>, id: i64, member: Option<i64>) -> Result<Vec<String>> {
    let volumes = |kinds: &str| {
        format!(
            "SELECT DISTINCT p.name, v.name, n.name FROM storage_volumes v JOIN projects p ON p.id = v.project_id
             LEFT JOIN nodes n ON n.id = v.node_id WHERE v.storage_pool_id = ?1 AND v.type IN ({kinds})
             AND (?2 IS NULL OR v.node_id IS NULL OR v.node_id = ?2) ORDER BY p.name, v.name, n.name"
        )
    };
    let mut all = urls(tx, "instances", &volumes("0, 3"), (id, member))?;
    let mut images = urls(tx, "images", &volumes("1"), (id, member))?;
    images.dedup();
    all.extend(images);
    let name: Option<String> = tx.one("SELECT name FROM storage_pools WHERE id = ?1", [id], |r| r.get(0))?;
    let name = name.unwrap_or_default();
    let path = format!("storage-pools/{}/volumes/custom", encode(&name));
    all.extend(tx.all(&volumes("2"), (id, member), |r| {
        let at: Option<String> = r.get(2)?;
        let plain = url(&path, &r.get::<_, String>(1)?, &r.get::<_, String>(0)?);
        let mark = if plain.contains('?') { '&' } else { '?' };
        // A server that is not clustered has no targets.
        let at = at.filter(|a| a != crate::members::NOT_CLUSTERED);
        Ok(at.map_or(plain.clone(), |at| format!("{plain}{mark}target={}", encode(&at))))
    })?);
    let sql = "SELECT DISTINCT p.name, f.name FROM profiles f JOIN projects p ON p.id = f.project_id
               JOIN profiles_devices d ON d.profile_id = f.id AND d.type = 2
               JOIN profiles_devices_config k ON k.profile_device_id = d.id AND k.key = 'pool' AND k.value = ?1
               ORDER BY p.name, f.name";
    all.extend(urls(tx, "profiles", sql, [name])?);
    Ok(all)
}

/// What uses a network: instances with an interface on it, of their own or by a profile, profiles, and networks.
pub fn network(tx: &Tx<'_>, project: &str, name: &str) -> Result<Vec<String>> {
    let users = serde_json::Value::from(projects::users_of(tx, project, Feature::Networks)?).to_string();
    // A device of a profile counts unless the instance, or a later profile, has one of that name.
    let instances = "SELECT p.name, i.name FROM instances i JOIN projects p ON p.id = i.project_id
        WHERE p.name IN (SELECT value FROM json_each(:users)) AND (
            EXISTS (
                SELECT 1 FROM instances_devices d JOIN instances_devices_config k ON k.instance_device_id = d.id
                WHERE d.instance_id = i.id AND d.type = 1 AND k.key IN ('network', 'parent') AND k.value = :name
            ) OR EXISTS (
                SELECT 1 FROM instances_profiles ip JOIN profiles_devices d ON d.profile_id = ip.profile_id
                JOIN profiles_devices_config k ON k.profile_device_id = d.id
                WHERE ip.instance_id = i.id AND d.type = 1 AND k.key IN ('network', 'parent') AND k.value = :name
                AND NOT EXISTS (SELECT 1 FROM instances_devices o WHERE o.instance_id = i.id AND o.name = d.name)
                AND NOT EXISTS (
                    SELECT 1 FROM instances_profiles lp JOIN profiles_devices ld ON ld.profile_id = lp.profile_id
                    WHERE lp.instance_id = i.id AND lp.apply_order > ip.apply_order AND ld.name = d.name
                )
            )
        ) ORDER BY p.name, i.name";
    let params = named_params! {":users": users, ":name": name};
    let mut all = urls(tx, "instances", instances, params)?;
    let networks = "SELECT DISTINCT p.name, n.name FROM networks n JOIN projects p ON p.id = n.project_id
        JOIN networks_config k ON k.network_id = n.id AND k.key IN ('network', 'parent') AND k.value = :name
        WHERE p.name IN (SELECT value FROM json_each(:users)) AND n.name <> :name ORDER BY p.name, n.name";
    all.extend(urls(tx, "networks", networks, params)?);
    let profiles = "SELECT DISTINCT p.name, f.name FROM profiles f JOIN projects p ON p.id = f.project_id
        JOIN profiles_devices d ON d.profile_id = f.id AND d.type = 1
        JOIN profiles_devices_config k ON k.profile_device_id = d.id AND k.key IN ('network', 'parent') AND k.value = :name
        WHERE p.name IN (SELECT value FROM json_each(:users)) ORDER BY p.name, f.name";
    all.extend(urls(tx, "profiles", profiles, params)?);
    Ok(all)
}

/// What uses a custom volume of a project: instances (on the member that has it, if it is not everybody's) with a disk
/// of it, of their own or by a profile, and profiles.
pub fn volume(tx: &Tx<'_>, pool: &str, project: &str, name: &str, member: Option<i64>) -> Result<Vec<String>> {
    let users = serde_json::Value::from(projects::users_of(tx, project, Feature::Volumes)?).to_string();
    // A source may name a directory in the volume (`volume/directory`).
    let disk = |keys: &str, owner: &str| {
        format!(
            "d.type = 2 AND EXISTS (SELECT 1 FROM {keys} k WHERE k.{owner} = d.id AND k.key = 'pool' AND k.value = :pool)
             AND EXISTS (SELECT 1 FROM {keys} k WHERE k.{owner} = d.id AND k.key = 'source'
                         AND (k.value = :name OR substr(k.value, 1, length(:name) + 1) = :name || '/'))"
        )
    };
    let (own, by_profile) =
        (disk("instances_devices_config", "instance_device_id"), disk("profiles_devices_config", "profile_device_id"));
    // A device of a profile counts unless the instance, or a later profile, has one of that name.
    let instances = format!(
        "SELECT p.name, i.name FROM instances i JOIN projects p ON p.id = i.project_id
         WHERE p.name IN (SELECT value FROM json_each(:users)) AND (:member IS NULL OR i.node_id = :member) AND (
            EXISTS (SELECT 1 FROM instances_devices d WHERE d.instance_id = i.id AND {own}) OR EXISTS (
                SELECT 1 FROM instances_profiles ip JOIN profiles_devices d ON d.profile_id = ip.profile_id
                WHERE ip.instance_id = i.id AND {by_profile}
                AND NOT EXISTS (SELECT 1 FROM instances_devices o WHERE o.instance_id = i.id AND o.name = d.name)
                AND NOT EXISTS (
                    SELECT 1 FROM instances_profiles lp JOIN profiles_devices ld ON ld.profile_id = lp.profile_id
                    WHERE lp.instance_id = i.id AND lp.apply_order > ip.apply_order AND ld.name = d.name
                )
            )
         ) ORDER BY p.name, i.name"
    );
    let params = named_params! {":users": users, ":pool": pool, ":name": name, ":member": member};
    let mut all = urls(tx, "instances", &instances, params)?;
    let profiles = format!(
        "SELECT DISTINCT p.name, f.name FROM profiles f JOIN projects p ON p.id = f.project_id
         JOIN profiles_devices d ON d.profile_id = f.id AND {by_profile}
         WHERE p.name IN (SELECT value FROM json_each(:users)) ORDER BY p.name, f.name"
    );
    let params = named_params! {":users": users, ":pool": pool, ":name": name};
    all.extend(urls(tx, "profiles", &profiles, params)?);
    Ok(all)
}

/// What lies in a project.
pub fn project(tx: &Tx<'_>, name: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (path, table, column) in [
        ("instances", "instances", "name"),
        ("images", "images", "fingerprint"),
        ("networks", "networks", "name"),
        ("network-acls", "networks_acls", "name"),
        ("network-address-sets", "networks_address_sets", "name"),
        ("network-zones", "networks_zones", "name"),
        ("profiles", "profiles", "name"),
    ] {
        let sql = format!(
            "SELECT p.name, t.{column} FROM {table} t JOIN projects p ON p.id = t.project_id WHERE p.name = ?1 ORDER BY 2"
        );
        all.extend(urls(tx, path, &sql, [name])?);
    }
    for (path, table, condition) in
        [("volumes/custom", "storage_volumes", "t.type = 2"), ("buckets", "storage_buckets", "TRUE")]
    {
        let sql = format!(
            "SELECT DISTINCT p.name, t.name, s.name FROM {table} t JOIN projects p ON p.id = t.project_id
             JOIN storage_pools s ON s.id = t.storage_pool_id WHERE p.name = ?1 AND {condition} ORDER BY 3, 2"
        );
        all.extend(tx.all(&sql, [name], |r| {
            let path = format!("storage-pools/{}/{path}", encode(&r.get::<_, String>(2)?));
            Ok(url(&path, &r.get::<_, String>(1)?, &r.get::<_, String>(0)?))
        })?);
    }
    Ok(all)
}

/// What was made from an image: instances of the projects that see it.
pub fn image(tx: &Tx<'_>, project: &str, fingerprint: &str) -> Result<Vec<String>> {
    let users = serde_json::Value::from(projects::users_of(tx, project, Feature::Images)?).to_string();
    let sql = "SELECT p.name, i.name FROM instances i JOIN projects p ON p.id = i.project_id
               JOIN instances_config k ON k.instance_id = i.id AND k.key = 'volatile.base_image' AND k.value = ?1
               WHERE p.name IN (SELECT value FROM json_each(?2)) ORDER BY p.name, i.name";
    urls(tx, "instances", sql, (fingerprint, users))
}

/// What uses a cluster group: projects that are limited to it.
pub fn group(tx: &Tx<'_>, name: &str) -> Result<Vec<String>> {
    let limited = |p: &projects::Project| {
        let groups = p.config.get("restricted.cluster.groups");
        groups.is_some_and(|all| all.split(',').any(|g| g.trim() == name))
    };
    Ok(projects::list(tx)?.into_iter().filter(limited).map(|p| format!("/1.0/projects/{}", encode(&p.name))).collect())
}

/// The URL of what a warning is about; empty if that is gone, or has none.
pub fn entity_url(tx: &Tx<'_>, entity: Entity, id: i64) -> Result<String> {
    let of_project = |path: &str, table: &str, column: &str| -> Result<Option<String>> {
        let sql =
            format!("SELECT p.name, t.{column} FROM {table} t JOIN projects p ON p.id = t.project_id WHERE t.id = ?1");
        Ok(urls(tx, path, &sql, [id])?.pop())
    };
    let on_server = |path: &str, table: &str, column: &str| -> Result<Option<String>> {
        let name = tx.one(&format!("SELECT {column} FROM {table} WHERE id = ?1"), [id], |r| r.get::<_, String>(0))?;
        Ok(name.map(|n| url(path, &n, DEFAULT)))
    };
    let found = match entity {
        Entity::Instance => of_project("instances", "instances", "name"),
        Entity::Image => of_project("images", "images", "fingerprint"),
        Entity::Profile => of_project("profiles", "profiles", "name"),
        Entity::Network => of_project("networks", "networks", "name"),
        Entity::NetworkAcl => of_project("network-acls", "networks_acls", "name"),
        Entity::Project => on_server("projects", "projects", "name"),
        Entity::Certificate => on_server("certificates", "certificates", "fingerprint"),
        Entity::Member => on_server("cluster/members", "nodes", "name"),
        Entity::Operation => on_server("operations", "operations", "uuid"),
        Entity::Pool => on_server("storage-pools", "storage_pools", "name"),
        Entity::InstanceBackup | Entity::InstanceSnapshot | Entity::Volume => Ok(None),
    };
    Ok(found?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use api::key::Config;

    use super::*;
    use crate::instances::tests::{device, new};
    use crate::instances::{self, NewInstance};
    use crate::keys::Devices;
    use crate::networks::{self, NetworkType};
    use crate::tx::tests::database;
    use crate::volumes::{self, VolumeType};
    use crate::{images, pools, profiles};

    fn nic(network: &str) -> Devices {
        [("eth0".into(), device(&[("type", "nic"), ("network", network)]))].into()
    }

    #[test]
    fn networks_are_used_by_devices_that_take_effect() {
        let c = database();
        let tx = Tx(&c);
        for (project, own) in [("own", "true"), ("shared", "false")] {
            projects::create(&tx, project, "", &device(&[("features.networks", own)])).unwrap();
        }
        for project in ["default", "own"] {
            networks::create(&tx, project, "br0", NetworkType::Bridge, "", &Config::new()).unwrap();
        }
        networks::create(&tx, "default", "ovn", NetworkType::Ovn, "", &device(&[("network", "br0")])).unwrap();
        profiles::create(&tx, "default", "net", "", &Config::new(), &nic("br0")).unwrap();
        profiles::create(&tx, "default", "other", "", &Config::new(), &nic("br9")).unwrap();
        let none: Devices = [("eth0".into(), device(&[("type", "none")]))].into();
        for (project, name, devices, profiles, uses) in [
            ("default", "own-nic", nic("br0"), vec![], true),
            ("default", "by-profile", Devices::new(), vec!["net"], true),
            ("default", "hidden", none, vec!["net"], false),
            ("default", "replaced", nic("br9"), vec!["net"], false),
            ("default", "later", Devices::new(), vec!["net", "other"], false),
            ("default", "earlier", Devices::new(), vec!["other", "net"], true),
            ("shared", "in-shared", nic("br0"), vec![], true),
            ("own", "in-own", nic("br0"), vec![], false),
        ] {
            let profiles = profiles.into_iter().map(str::to_owned).collect();
            instances::create(&tx, &NewInstance { devices, profiles, ..new(project, name) }).unwrap();
            let used = network(&tx, "default", "br0").unwrap();
            assert_eq!(used.iter().any(|u| u.contains(&format!("/instances/{name}"))), uses, "{name}: {used:?}");
        }
        assert_eq!(
            network(&tx, "default", "br0").unwrap(),
            [
                "/1.0/instances/by-profile",
                "/1.0/instances/earlier",
                "/1.0/instances/own-nic",
                "/1.0/instances/in-shared?project=shared",
                "/1.0/networks/ovn",
                "/1.0/profiles/net",
            ]
        );
        assert_eq!(network(&tx, "own", "br0").unwrap(), ["/1.0/instances/in-own?project=own"]);
    }

    #[test]
    fn volumes_are_used_by_disks_that_take_effect() {
        let c = database();
        let tx = Tx(&c);
        for (project, own) in [("own", "true"), ("shared", "false")] {
            projects::create(&tx, project, "", &device(&[("features.storage.volumes", own)])).unwrap();
        }
        let disk = |pool: &str, source: &str| -> Devices {
            [("d".into(), device(&[("type", "disk"), ("pool", pool), ("source", source), ("path", "/d")]))].into()
        };
        profiles::create(&tx, "default", "data", "", &Config::new(), &disk("data", "v")).unwrap();
        for (project, name, devices, profiles, uses) in [
            ("default", "direct", disk("data", "v"), vec![], true),
            ("default", "inside", disk("data", "v/sub"), vec![], true),
            ("default", "longer", disk("data", "v2"), vec![], false),
            ("default", "elsewhere", disk("other", "v"), vec![], false),
            ("default", "by-profile", Devices::new(), vec!["data"], true),
            ("default", "replaced", disk("data", "w"), vec!["data"], false),
            ("shared", "in-shared", disk("data", "v"), vec![], true),
            ("own", "in-own", disk("data", "v"), vec![], false),
        ] {
            let profiles = profiles.into_iter().map(str::to_owned).collect();
            instances::create(&tx, &NewInstance { devices, profiles, ..new(project, name) }).unwrap();
            let used = volume(&tx, "data", "default", "v", None).unwrap();
            assert_eq!(used.iter().any(|u| u.contains(&format!("/instances/{name}"))), uses, "{name}: {used:?}");
        }
        assert_eq!(volume(&tx, "data", "own", "v", Some(1)).unwrap(), ["/1.0/instances/in-own?project=own"]);
        assert_eq!(volume(&tx, "data", "default", "v", Some(2)).unwrap(), ["/1.0/profiles/data"]);
    }

    #[test]
    fn everything_says_what_uses_it() {
        let c = database();
        let tx = Tx(&c);
        let pool_id = pools::create(&tx, "data", "dir", "", &Config::new()).unwrap();
        let root: Devices = [("root".into(), device(&[("type", "disk"), ("path", "/"), ("pool", "data")]))].into();
        profiles::update(&tx, 1, "", &Config::new(), &root).unwrap();
        images::create(&tx, &images::tests::new("fp")).unwrap();
        let config = device(&[("volatile.base_image", "fp")]);
        let instance = instances::create(&tx, &NewInstance { config, ..new("default", "c1") }).unwrap();
        for (name, kind) in [("c1", VolumeType::Container), ("fp", VolumeType::Image), ("v", VolumeType::Custom)] {
            volumes::create(&tx, &volumes::tests::new(pool_id, name, kind, Some(1))).unwrap();
        }
        let custom = "/1.0/storage-pools/data/volumes/custom/v";
        let both = ["/1.0/instances/c1", "/1.0/images/fp"];
        assert_eq!(pool(&tx, pool_id, None).unwrap(), [both[0], both[1], custom, "/1.0/profiles/default"]);
        assert_eq!(pool(&tx, pool_id, Some(7)).unwrap(), ["/1.0/profiles/default"]);
        assert_eq!(profile(&tx, 1).unwrap(), ["/1.0/instances/c1"]);
        assert_eq!(project(&tx, "default").unwrap(), [both[0], both[1], "/1.0/profiles/default", custom]);
        assert_eq!(image(&tx, "default", "fp").unwrap(), ["/1.0/instances/c1"]);
        crate::members::rename(&tx, 1, "node1").unwrap();
        assert_eq!(pool(&tx, pool_id, None).unwrap()[2], format!("{custom}?target=node1"));
        projects::create(&tx, "p1", "", &device(&[("restricted.cluster.groups", "a, g1")])).unwrap();
        assert_eq!(group(&tx, "g1").unwrap(), ["/1.0/projects/p1"]);
        for (entity, id, want) in [
            (Entity::Instance, instance, "/1.0/instances/c1"),
            (Entity::Member, 1, "/1.0/cluster/members/node1"),
            (Entity::Pool, pool_id, "/1.0/storage-pools/data"),
            (Entity::Instance, 99, ""),
        ] {
            assert_eq!(entity_url(&tx, entity, id).unwrap(), want, "{entity:?} {id}");
        }
        let refused = crate::members::check_empty(&tx, 1).unwrap_err();
        assert_eq!(refused, api::Error::internal("Node still has the following instances: c1"));
    }
}
