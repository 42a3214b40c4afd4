//! Which member runs which operation, so that a request about one finds it. What it does is known there only.

use api::Result;

use crate::tx::{Tx, Words, found};

/// An operation that runs on some member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// UUID.
    pub uuid: String,
    /// Row id of the member that runs it.
    pub member_id: i64,
    /// Name of that member.
    pub member: String,
    /// Address of that member.
    pub address: String,
    /// The number of its sort.
    pub kind: i64,
    /// Its project, if it is about one.
    pub project: Option<String>,
}

const COLUMNS: &str = "SELECT o.uuid, n.id, n.name, n.address, o.type, p.name FROM operations o
    JOIN nodes n ON n.id = o.node_id LEFT JOIN projects p ON p.id = o.project_id";

fn read(r: &rusqlite::Row<'_>) -> rusqlite::Result<Operation> {
    Ok(Operation {
        uuid: r.get(0)?,
        member_id: r.get(1)?,
        member: r.get(2)?,
        address: r.get(3)?,
        kind: r.get(4)?,
        project: r.get(5)?,
    })
}

/// All operations, in the order in which they began.
pub fn list(tx: &Tx<'_>) -> Result<Vec<Operation>> {
    tx.all(&format!("{COLUMNS} ORDER BY o.id"), [], read)
}

/// The operation with that UUID.
pub fn get(tx: &Tx<'_>, uuid: &str) -> Result<Operation> {
    found(tx.one(&format!("{COLUMNS} WHERE o.uuid = ?1"), [uuid], read)?, "Operation")
}

/// Records that a member runs an operation.
pub fn create(tx: &Tx<'_>, uuid: &str, member: i64, kind: i64, project: Option<&str>) -> Result<()> {
    let project = project.map(|p| crate::projects::id(tx, p)).transpose()?;
    let sql = "INSERT INTO operations (uuid, node_id, type, project_id) VALUES (?1, ?2, ?3, ?4)";
    tx.run(sql, (uuid, member, kind, project)).or_taken(|| format!("Operation \"{uuid}\" already exists")).map(drop)
}

/// Forgets an operation that ended; one that is not there is none the worse.
pub fn delete(tx: &Tx<'_>, uuid: &str) -> Result<()> {
    tx.run("DELETE FROM operations WHERE uuid = ?1", [uuid]).map(drop)
}

/// Forgets all operations of a member: when it starts, it runs none.
pub fn delete_of_member(tx: &Tx<'_>, member: i64) -> Result<()> {
    tx.run("DELETE FROM operations WHERE node_id = ?1", [member]).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn operations_come_and_go() {
        let c = database();
        let tx = Tx(&c);
        create(&tx, "u1", 1, 5, Some("default")).unwrap();
        create(&tx, "u2", 1, 6, None).unwrap();
        create(&tx, "u3", 1, 6, None).unwrap();
        assert_eq!(create(&tx, "u1", 1, 5, None).unwrap_err().message, "Operation \"u1\" already exists");
        let got = get(&tx, "u1").unwrap();
        assert_eq!((got.member.as_str(), got.kind, got.project.as_deref()), ("none", 5, Some("default")));
        delete(&tx, "u1").unwrap();
        delete(&tx, "u1").unwrap();
        assert_eq!(list(&tx).unwrap().len(), 2);
        delete_of_member(&tx, 1).unwrap();
        assert_eq!(get(&tx, "u2").unwrap_err().message, "Operation not found");
    }
}
