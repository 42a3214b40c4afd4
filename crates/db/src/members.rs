//! The members of the cluster. A server that is not clustered is one member named `none`.

use std::collections::{BTreeMap, HashMap};

use api::key::Config;
use api::{Error, Result};
pub use incus_core::member::{Event, State};
use jiff::Timestamp;

use crate::keys::Keys;
use crate::local::Moved;
use crate::tx::{Tx, Words, found, touched};
use crate::value::{Architecture, Time, codes, maybe_time};

/// The name of the only member of a server that is not clustered.
pub const NOT_CLUSTERED: &str = "none";

const CONFIG: Keys = Keys { table: "nodes_config", owner: "node_id" };
const NOT_FOUND: &str = "Cluster member";

codes! {
    /// A role that a person assigns. The roles of the database follow from Raft and are not stored.
    Role, "cluster role" {
        /// Passes events on between members.
        EventHub = 1, "event-hub";
        /// Can be a gateway of OVN networks.
        OvnChassis = 2, "ovn-chassis";
        /// Never votes in the database.
        DatabaseClient = 3, "database-client";
    }
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Row id; never used again.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Host and port of its API within the cluster; `0.0.0.0` while not clustered.
    pub address: String,
    /// The newest schema version that its program knows.
    pub schema: i64,
    /// How many API extensions its program has.
    pub api_extensions: i64,
    /// When it was last heard of.
    pub heartbeat: Option<Timestamp>,
    /// What it is doing.
    pub state: State,
    /// Its processor.
    pub architecture: Architecture,
    /// Name of its failure domain.
    pub failure_domain: String,
    /// The roles that were assigned to it.
    pub roles: Vec<Role>,
    /// The groups that it is in, in the order in which it entered them.
    pub groups: Vec<String>,
    /// Its own configuration.
    pub config: Config,
    /// Its id in Raft, if it has one.
    pub raft_id: Option<u64>,
}

/// What is known of a member that joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Name.
    pub name: String,
    /// Host and port of its API.
    pub address: String,
    /// The newest schema version that its program knows.
    pub schema: i64,
    /// How many API extensions its program has.
    pub api_extensions: i64,
    /// Its processor.
    pub architecture: Architecture,
    /// [`State::Pending`] while it joins.
    pub state: State,
}

/// All members, by id, including those that are still joining.
pub fn list(tx: &Tx<'_>) -> Result<Vec<Member>> {
    select(tx, "SELECT id FROM nodes WHERE ?1 IS NULL", None::<i64>)
}

/// The member with the row id.
pub fn get(tx: &Tx<'_>, id: i64) -> Result<Member> {
    found(select(tx, "SELECT id FROM nodes WHERE id = ?1", id)?.pop(), NOT_FOUND)
}

/// The member of that name.
pub fn by_name(tx: &Tx<'_>, name: &str) -> Result<Member> {
    found(find(tx, name)?, NOT_FOUND)
}

/// The member of that name, if there is one.
pub fn find(tx: &Tx<'_>, name: &str) -> Result<Option<Member>> {
    Ok(select(tx, "SELECT id FROM nodes WHERE name = ?1", name)?.pop())
}

/// The member at that address.
pub fn by_address(tx: &Tx<'_>, address: &str) -> Result<Member> {
    found(select(tx, "SELECT id FROM nodes WHERE address = ?1", address)?.pop(), NOT_FOUND)
}

/// The member with that Raft id.
pub fn by_raft_id(tx: &Tx<'_>, raft_id: u64) -> Result<Member> {
    let id = i64::try_from(raft_id).unwrap_or(-1);
    found(select(tx, "SELECT node_id FROM raft_ids WHERE id = ?1", id)?.pop(), NOT_FOUND)
}

/// Names by row id.
pub fn names(tx: &Tx<'_>) -> Result<BTreeMap<i64, String>> {
    Ok(tx.all("SELECT id, name FROM nodes", [], |r| Ok((r.get(0)?, r.get(1)?)))?.into_iter().collect())
}

/// Row id of the member of that name.
pub fn id(tx: &Tx<'_>, name: &str) -> Result<i64> {
    found(tx.one("SELECT id FROM nodes WHERE name = ?1", [name], |r| r.get(0))?, NOT_FOUND)
}

fn select(tx: &Tx<'_>, among: &str, param: impl rusqlite::ToSql + Copy) -> Result<Vec<Member>> {
    let mut config = CONFIG.of_all(tx, among, [param])?;
    let sql = format!("SELECT node_id, role FROM nodes_roles WHERE node_id IN ({among}) ORDER BY role");
    let mut roles = gather(tx.all(&sql, [param], |r| Ok((r.get(0)?, r.get(1)?)))?);
    let sql = format!(
        "SELECT ng.node_id, g.name FROM nodes_cluster_groups ng JOIN cluster_groups g ON g.id = ng.group_id
         WHERE ng.node_id IN ({among}) ORDER BY ng.id"
    );
    let mut groups = gather(tx.all(&sql, [param], |r| Ok((r.get(0)?, r.get(1)?)))?);
    let sql = format!(
        "SELECT n.*, IFNULL(d.name, 'default') AS failure_domain, r.id AS raft_id FROM nodes n
         LEFT JOIN nodes_failure_domains d ON d.id = n.failure_domain_id
         LEFT JOIN raft_ids r ON r.node_id = n.id WHERE n.id IN ({among}) ORDER BY n.id"
    );
    tx.all(&sql, [param], |r| {
        let id = r.get("id")?;
        Ok(Member {
            id,
            name: r.get("name")?,
            description: r.get("description")?,
            address: r.get("address")?,
            schema: r.get("schema")?,
            api_extensions: r.get("api_extensions")?,
            heartbeat: maybe_time(r, "heartbeat")?,
            state: state(r.get("state")?)?,
            architecture: r.get("arch")?,
            failure_domain: r.get("failure_domain")?,
            roles: roles.remove(&id).unwrap_or_default(),
            groups: groups.remove(&id).unwrap_or_default(),
            config: config.remove(&id).unwrap_or_default(),
            raft_id: r.get::<_, Option<i64>>("raft_id")?.and_then(|id| u64::try_from(id).ok()),
        })
    })
}

fn state(code: i64) -> rusqlite::Result<State> {
    State::from_code(code).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, code))
}

/// Values by owner, in the order in which they come.
pub(crate) fn gather<T>(pairs: Vec<(i64, T)>) -> HashMap<i64, Vec<T>> {
    pairs.into_iter().fold(HashMap::new(), |mut all, (id, value)| {
        all.entry(id).or_default().push(value);
        all
    })
}

/// Adds a member, in the group and the failure domain `default`; its row id.
pub fn create(tx: &Tx<'_>, new: &NewMember) -> Result<i64> {
    if tx.one("SELECT 1 FROM nodes WHERE name = ?1", [&new.name], |_| Ok(()))?.is_some() {
        return Err(Error::conflict(format!("The cluster already has a member with name: {}", new.name)));
    }
    let sql = "INSERT INTO nodes (name, address, schema, api_extensions, state, arch, failure_domain_id)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1)";
    let values = (&new.name, &new.address, new.schema, new.api_extensions, new.state.code(), new.architecture);
    let id = tx
        .insert(sql, values)
        .or_taken(|| format!("The cluster already has a member with address: {}", new.address))?;
    tx.run("INSERT INTO nodes_cluster_groups (node_id, group_id) VALUES (?1, 1)", [id])?;
    Ok(id)
}

/// The Raft id of a member; a new one, never given out before, if it has none.
pub fn allocate_raft_id(tx: &Tx<'_>, id: i64) -> Result<u64> {
    let have = tx.one("SELECT id FROM raft_ids WHERE node_id = ?1", [id], |r| r.get(0))?;
    let raft_id = match have {
        Some(raft_id) => raft_id,
        None => tx.insert("INSERT INTO raft_ids (node_id) VALUES (?1)", [id])?,
    };
    u64::try_from(raft_id).map_err(|_| Error::internal(format!("Raft id {raft_id} is negative")))
}

/// Takes the Raft id away from a member, for good: should it get one again, it is another.
pub fn retire_raft_id(tx: &Tx<'_>, id: i64) -> Result<()> {
    tx.run("UPDATE raft_ids SET node_id = NULL WHERE node_id = ?1", [id]).map(drop)
}

/// Renames a member.
pub fn rename(tx: &Tx<'_>, id: i64, name: &str) -> Result<()> {
    let rows = tx.run("UPDATE nodes SET name = ?2 WHERE id = ?1", (id, name)).or_taken(|| "Conflict".into())?;
    touched(rows, NOT_FOUND)
}

/// Changes the address of a member.
pub fn set_address(tx: &Tx<'_>, id: i64, address: &str) -> Result<()> {
    let taken = || format!("The cluster already has a member with address: {address}");
    touched(tx.run("UPDATE nodes SET address = ?2 WHERE id = ?1", (id, address)).or_taken(taken)?, NOT_FOUND)
}

/// Changes the addresses of members where the old ones still stand. False if two or more exchange theirs: then half
/// of it is done, and the same call in another transaction does the rest.
pub fn move_addresses(tx: &Tx<'_>, moved: &[Moved]) -> Result<bool> {
    let members = list(tx)?;
    let pending: Vec<(&Member, &Moved)> = members
        .iter()
        .filter_map(|m| Some((m, moved.iter().find(|x| Some(x.id) == m.raft_id && x.applies_to(&m.address))?)))
        .collect();
    let taken = |x: &Moved| pending.iter().any(|(m, _)| m.address == x.new && m.raft_id != Some(x.id));
    let whole = !pending.iter().any(|(_, x)| taken(x));
    for (m, x) in pending {
        set_address(tx, m.id, &if whole { x.new.clone() } else { x.parked() })?;
    }
    Ok(whole)
}

/// Changes the description of a member.
pub fn set_description(tx: &Tx<'_>, id: i64, description: &str) -> Result<()> {
    touched(tx.run("UPDATE nodes SET description = ?2 WHERE id = ?1", (id, description))?, NOT_FOUND)
}

/// Changes the state of a member as the event asks; the new state, or why the event is refused.
pub fn advance(tx: &Tx<'_>, id: i64, event: Event) -> Result<State> {
    let code = tx.one("SELECT state FROM nodes WHERE id = ?1", [id], |r| r.get(0))?;
    let next = State::from_code(found(code, NOT_FOUND)?)?.after(event)?;
    set_state(tx, id, next)?;
    Ok(next)
}

/// Sets the state of a member, whatever it was: for recovery; [`advance`] is the rule.
pub fn set_state(tx: &Tx<'_>, id: i64, state: State) -> Result<()> {
    touched(tx.run("UPDATE nodes SET state = ?2 WHERE id = ?1", (id, state.code()))?, NOT_FOUND)
}

/// Records what a member runs on.
pub fn set_architecture(tx: &Tx<'_>, id: i64, architecture: Architecture) -> Result<()> {
    touched(tx.run("UPDATE nodes SET arch = ?2 WHERE id = ?1", (id, architecture))?, NOT_FOUND)
}

/// Records when members were last heard of; members that are gone are passed over.
pub fn set_heartbeats(tx: &Tx<'_>, heard: &[(i64, Timestamp)]) -> Result<()> {
    heard
        .iter()
        .try_for_each(|(id, at)| tx.run("UPDATE nodes SET heartbeat = ?2 WHERE id = ?1", (id, Time(*at))).map(drop))
}

/// Puts a member into a failure domain; one that nobody is in any more is forgotten.
pub fn set_failure_domain(tx: &Tx<'_>, id: i64, domain: &str) -> Result<()> {
    let domain = if domain.is_empty() { "default" } else { domain };
    tx.run("INSERT INTO nodes_failure_domains (name) VALUES (?1) ON CONFLICT DO NOTHING", [domain])?;
    let sql = "UPDATE nodes SET failure_domain_id = (SELECT id FROM nodes_failure_domains WHERE name = ?2)
               WHERE id = ?1";
    touched(tx.run(sql, (id, domain))?, NOT_FOUND)?;
    forget_empty_domains(tx)
}

fn forget_empty_domains(tx: &Tx<'_>) -> Result<()> {
    let sql = "DELETE FROM nodes_failure_domains
               WHERE id > 1 AND id NOT IN (SELECT failure_domain_id FROM nodes WHERE failure_domain_id IS NOT NULL)";
    tx.run(sql, []).map(drop)
}

/// Makes the assigned roles of a member equal to `roles`.
pub fn set_roles(tx: &Tx<'_>, id: i64, roles: &[Role]) -> Result<()> {
    for role in Role::ALL {
        let sql = if roles.contains(role) {
            "INSERT INTO nodes_roles (node_id, role) VALUES (?1, ?2) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM nodes_roles WHERE node_id = ?1 AND role = ?2"
        };
        tx.run(sql, (id, role))?;
    }
    Ok(())
}

/// Makes the configuration of a member equal to `config`.
pub fn set_config(tx: &Tx<'_>, id: i64, config: &Config) -> Result<()> {
    CONFIG.replace(tx, id, config)
}

/// Makes the groups of a member equal to `groups`.
pub fn set_groups(tx: &Tx<'_>, id: i64, groups: &[String]) -> Result<()> {
    let member = get(tx, id)?;
    for group in member.groups.iter().filter(|g| !groups.contains(g)) {
        tx.run(
            "DELETE FROM nodes_cluster_groups WHERE node_id = ?1 AND group_id = ?2",
            (id, crate::groups::id(tx, group)?),
        )?;
    }
    for group in groups.iter().filter(|g| !member.groups.contains(g)) {
        let sql = "INSERT INTO nodes_cluster_groups (node_id, group_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        tx.run(sql, (id, crate::groups::id(tx, group)?))?;
    }
    Ok(())
}

/// Refuses if a member still has instances, custom volumes, or images that no other member has.
pub fn check_empty(tx: &Tx<'_>, id: i64) -> Result<()> {
    for (what, sql) in [
        ("instances", "SELECT name FROM instances WHERE node_id = ?1 ORDER BY name"),
        ("images", &format!("SELECT DISTINCT i.fingerprint {ONLY_THERE} ORDER BY i.fingerprint")),
        ("custom volumes", "SELECT name FROM storage_volumes WHERE node_id = ?1 AND type = 2 ORDER BY name"),
    ] {
        let names: Vec<String> = tx.all(sql, [id], |r| r.get(0))?;
        if !names.is_empty() {
            return Err(Error::internal(format!("Node still has the following {what}: {}", names.join(", "))));
        }
    }
    Ok(())
}

/// Removes a member, everything that is recorded to lie on it, and what points at that; [`check_empty`] says whether
/// it is much.
pub fn delete(tx: &Tx<'_>, id: i64, now: Timestamp) -> Result<()> {
    // Plans about it are over: those who carry them out find that out before their next step.
    let plans = "UPDATE plans SET state = 'failed', error = 'The member was removed', ended = ?2
                 WHERE member = ?1 AND state IN ('running', 'undoing')";
    tx.run(plans, (id, Time(now)))?;
    let home = "DELETE FROM instances_config WHERE key = 'volatile.evacuate.origin'
                AND value = (SELECT name FROM nodes WHERE id = ?1)";
    tx.run(home, [id])?;
    let images = format!("DELETE FROM images WHERE fingerprint IN (SELECT i.fingerprint {ONLY_THERE})");
    tx.run(&images, [id])?;
    // Custom volumes that all members reach stay; the roots of instances go with them wherever they lie.
    let roots = "DELETE FROM storage_volumes WHERE node_id IS NULL AND type IN (0, 3) AND EXISTS (
                     SELECT 1 FROM instances i WHERE i.node_id = ?1 AND i.name = storage_volumes.name
                     AND i.project_id = storage_volumes.project_id)";
    tx.run(roots, [id])?;
    touched(tx.run("DELETE FROM nodes WHERE id = ?1", [id])?, NOT_FOUND)?;
    forget_empty_domains(tx)?;
    for (entity, table) in
        [(1, "images"), (5, "instances"), (7, "instances_snapshots"), (10, "nodes"), (13, "storage_volumes")]
    {
        let sql =
            format!("DELETE FROM warnings WHERE entity_type_code = ?1 AND entity_id NOT IN (SELECT id FROM {table})");
        tx.run(&sql, [entity])?;
    }
    Ok(())
}

/// Images whose files only one member has: continues `SELECT … `.
const ONLY_THERE: &str = "FROM images i JOIN images_nodes n ON n.image_id = i.id WHERE n.node_id = ?1
    AND NOT EXISTS (SELECT 1 FROM images_nodes o JOIN images oi ON oi.id = o.image_id
                    WHERE oi.fingerprint = i.fingerprint AND o.node_id <> ?1)";

/// The images whose files no other member has, as project and fingerprint.
pub fn only_images(tx: &Tx<'_>, id: i64) -> Result<Vec<(String, String)>> {
    let sql = format!(
        "SELECT p.name, i.fingerprint FROM projects p JOIN images i2 ON i2.project_id = p.id
         JOIN (SELECT MIN(i.id) AS id, i.fingerprint {ONLY_THERE} GROUP BY i.fingerprint) i ON i.id = i2.id"
    );
    tx.all(&sql, [id], |r| Ok((r.get(0)?, r.get(1)?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    fn new(name: &str, address: &str) -> NewMember {
        NewMember {
            name: name.into(),
            address: address.into(),
            schema: 1,
            api_extensions: 9,
            architecture: Architecture::X86_64,
            state: State::Pending,
        }
    }

    #[test]
    fn a_fresh_server_is_one_member_that_is_not_clustered() {
        let c = database();
        let all = list(&Tx(&c)).unwrap();
        assert_eq!(all.len(), 1);
        let m = &all[0];
        assert_eq!((m.id, m.name.as_str(), m.address.as_str(), m.raft_id), (1, NOT_CLUSTERED, "0.0.0.0", Some(1)));
        assert_eq!((m.failure_domain.as_str(), m.groups.as_slice()), ("default", ["default".to_owned()].as_slice()));
    }

    #[test]
    fn nothing_points_at_a_member_that_is_gone() {
        use crate::instances::tests::new as instance;
        use crate::volumes::VolumeType;
        use crate::volumes::tests::new as volume;
        use crate::warnings::{self, Entity, Kind, Subject};
        let c = database();
        let tx = Tx(&c);
        let id = create(&tx, &new("node2", "10.0.0.2:8443")).unwrap();
        set_failure_domain(&tx, id, "rack2").unwrap();
        let lost = crate::instances::NewInstance { member_id: id, ..instance("default", "lost") };
        crate::instances::create(&tx, &lost).unwrap();
        crate::instances::create(&tx, &instance("default", "kept")).unwrap();
        let by_name = |name: &str| -> i64 {
            c.query_row("SELECT id FROM instances WHERE name = ?1", [name], |r| r.get(0)).unwrap()
        };
        let kept = by_name("kept");
        // In a pool that all members reach the root of an instance goes with it, and what is everybody's stays.
        let pool = crate::pools::create(&tx, "nfs", "shared", "", &Config::new()).unwrap();
        for (name, kind) in
            [("lost", VolumeType::Container), ("kept", VolumeType::Container), ("lost", VolumeType::Custom)]
        {
            crate::volumes::create(&tx, &volume(pool, name, kind, None)).unwrap();
        }
        crate::instances::patch_config(&tx, kept, [("volatile.evacuate.origin", Some("node2"))]).unwrap();
        for (n, entity) in
            [(Entity::Instance, by_name("lost")), (Entity::Instance, kept), (Entity::Member, id)].iter().enumerate()
        {
            let about = Subject { entity: Some(*entity), ..Subject::member(Kind::InstanceAutostart, 1) };
            warnings::raise(&tx, about, "x", &format!("u{n}"), Timestamp::UNIX_EPOCH).unwrap();
        }
        c.execute_batch(
            "INSERT INTO images (id, fingerprint, size, architecture, upload_date, project_id) VALUES
                 (1, 'there', 1, 1, '', 1), (2, 'both', 1, 1, '', 1);
             INSERT INTO images_nodes (image_id, node_id) VALUES (1, 2), (2, 2), (2, 1);
             INSERT INTO plans (uuid, kind, member, runner, state, created, body) VALUES
                 ('p', 'evacuate', 2, 1, 'running', '2026-01-01T00:00:00Z', '{}');",
        )
        .unwrap();
        assert_eq!(only_images(&tx, id).unwrap(), [("default".to_owned(), "there".to_owned())]);
        delete(&tx, id, Timestamp::UNIX_EPOCH).unwrap();
        for (what, left) in [
            ("instances", 1),
            ("images", 1),
            ("images_nodes", 1),
            ("warnings", 1),
            ("nodes_failure_domains", 1),
            ("instances_config WHERE key = 'volatile.evacuate.origin'", 0),
            ("plans WHERE state = 'running'", 0),
            ("storage_volumes WHERE name = 'lost' AND type = 0", 0),
            ("storage_volumes", 2),
        ] {
            let have: i64 = c.query_row(&format!("SELECT COUNT(*) FROM {what}"), [], |r| r.get(0)).unwrap();
            assert_eq!(have, left, "{what}");
        }
    }

    #[test]
    fn addresses_that_changed_while_nobody_served_are_written_where_the_old_ones_stand() {
        let c = database();
        let tx = Tx(&c);
        for (name, address) in [("node2", "10.0.0.2:8443"), ("node3", "10.0.0.3:8443")] {
            let id = create(&tx, &new(name, address)).unwrap();
            allocate_raft_id(&tx, id).unwrap();
        }
        let moved = |id, old: &str, new: &str| Moved { id, old: old.into(), new: new.into() };
        let addresses = || list(&tx).unwrap().into_iter().skip(1).map(|m| m.address).collect::<Vec<_>>();
        let (second, third) = (moved(2, "10.0.0.2:8443", "10.0.0.3:8443"), moved(3, "10.0.0.3:8443", "10.0.0.2:8443"));
        let both = [second, third];
        assert!(!move_addresses(&tx, &both).unwrap(), "they exchange their addresses");
        assert!(move_addresses(&tx, &both).unwrap());
        assert_eq!(addresses(), ["10.0.0.3:8443", "10.0.0.2:8443"]);
        assert!(
            move_addresses(&tx, &[moved(2, "10.9.9.9:8443", "10.0.0.9:8443")]).unwrap(),
            "another change was first"
        );
        assert!(move_addresses(&tx, &[moved(2, "10.0.0.3:8443", "10.0.0.9:8443")]).unwrap());
        assert_eq!(addresses(), ["10.0.0.9:8443", "10.0.0.2:8443"]);
    }

    #[test]
    fn a_member_joins_changes_and_goes() {
        let c = database();
        let tx = Tx(&c);
        let id = create(&tx, &new("node2", "10.0.0.2:8443")).unwrap();
        assert_eq!(allocate_raft_id(&tx, id).unwrap(), 2);
        assert_eq!(allocate_raft_id(&tx, id).unwrap(), 2, "asked again, the same");
        assert_eq!(advance(&tx, id, Event::Joined).unwrap(), State::Created);
        set_failure_domain(&tx, id, "rack2").unwrap();
        set_roles(&tx, id, &[Role::EventHub, Role::DatabaseClient]).unwrap();
        set_config(&tx, id, &[("user.foo".into(), "bar".into())].into()).unwrap();
        set_heartbeats(&tx, &[(id, Timestamp::UNIX_EPOCH), (99, Timestamp::UNIX_EPOCH)]).unwrap();
        crate::groups::create(&tx, "g1", "", &Config::new()).unwrap();
        set_groups(&tx, id, &["g1".into(), "default".into()]).unwrap();
        let m = by_name(&tx, "node2").unwrap();
        assert_eq!(m, by_address(&tx, "10.0.0.2:8443").unwrap());
        assert_eq!(m, by_raft_id(&tx, 2).unwrap());
        assert_eq!(m.roles, [Role::EventHub, Role::DatabaseClient]);
        assert_eq!((m.failure_domain.as_str(), m.heartbeat), ("rack2", Some(Timestamp::UNIX_EPOCH)));
        assert_eq!(m.groups, ["default", "g1"]);
        assert_eq!(list(&tx).unwrap().len(), 2);

        set_failure_domain(&tx, id, "").unwrap();
        set_roles(&tx, id, &[]).unwrap();
        set_groups(&tx, id, &["g1".into()]).unwrap();
        let m = get(&tx, id).unwrap();
        assert_eq!((m.failure_domain.as_str(), m.roles.len(), m.groups.len()), ("default", 0, 1));
        let domains: i64 = c.query_row("SELECT COUNT(*) FROM nodes_failure_domains", [], |r| r.get(0)).unwrap();
        assert_eq!(domains, 1, "the empty failure domain is gone");

        delete(&tx, id, Timestamp::UNIX_EPOCH).unwrap();
        let id = create(&tx, &new("node2", "10.0.0.2:8443")).unwrap();
        assert_eq!((id, allocate_raft_id(&tx, id).unwrap()), (3, 3), "no id comes back");
    }

    #[test]
    fn refusals_are_in_the_words_that_clients_know() {
        let c = database();
        let tx = Tx(&c);
        let id = create(&tx, &new("node2", "10.0.0.2:8443")).unwrap();
        for (got, want) in [
            (create(&tx, &new("node2", "x")).map(drop), "The cluster already has a member with name: node2"),
            (
                create(&tx, &new("x", "10.0.0.2:8443")).map(drop),
                "The cluster already has a member with address: 10.0.0.2:8443",
            ),
            (rename(&tx, id, NOT_CLUSTERED), "Conflict"),
            (get(&tx, 77).map(drop), "Cluster member not found"),
            (by_name(&tx, "x").map(drop), "Cluster member not found"),
            (delete(&tx, 77, Timestamp::UNIX_EPOCH), "Cluster member not found"),
            (set_groups(&tx, id, &["nope".into()]), "Cluster_group not found"),
            (advance(&tx, id, Event::Evacuate).map(drop), "Cluster member is still joining"),
        ] {
            assert_eq!(got.unwrap_err().message, want);
        }
    }
}
