//! What programs of all versions have to be able to read and write, whatever the version of the schema: what the
//! members can serve.
//!
//! The columns and tables named here, and the keys in `config`, never change their meaning: a member that can't serve
//! the schema finds here what it waits for, and a leader that can't serve it brings it to the next version.

use api::Result;
use jiff::Timestamp;

use crate::tx::Tx;
use crate::value::maybe_time;

/// What is written down of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its Raft id.
    pub raft_id: u64,
    /// Its name.
    pub name: String,
    /// The newest version of the schema that its program can serve.
    pub schema: i64,
    /// How many API extensions its program has.
    pub extensions: i64,
    /// When it was last heard of.
    pub heartbeat: Option<Timestamp>,
}

/// All members that have a Raft id, by that.
pub fn list(tx: &Tx<'_>) -> Result<Vec<Recorded>> {
    let sql = "SELECT r.id AS raft_id, n.name AS name, n.schema AS schema, n.api_extensions AS extensions,
                      n.heartbeat AS heartbeat
               FROM nodes n JOIN raft_ids r ON r.node_id = n.id ORDER BY r.id";
    tx.all(sql, [], |r| {
        Ok(Recorded {
            raft_id: u64::try_from(r.get::<_, i64>("raft_id")?).unwrap_or(0),
            name: r.get("name")?,
            schema: r.get("schema")?,
            extensions: r.get("extensions")?,
            heartbeat: maybe_time(r, "heartbeat")?,
        })
    })
}

/// Writes down what the program of a member can serve; nothing happens if the member is gone.
pub fn record(tx: &Tx<'_>, raft_id: u64, schema: i64, extensions: i64) -> Result<()> {
    let sql =
        "UPDATE nodes SET schema = ?2, api_extensions = ?3 WHERE id = (SELECT node_id FROM raft_ids WHERE id = ?1)";
    tx.run(sql, (i64::try_from(raft_id).unwrap_or(-1), schema, extensions)).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn what_a_member_can_serve_is_written_down() {
        let c = database();
        let tx = Tx(&c);
        record(&tx, 1, 7, 300).unwrap();
        record(&tx, 99, 8, 1).unwrap();
        let all = list(&tx).unwrap();
        let want = Recorded { raft_id: 1, name: "none".into(), schema: 7, extensions: 300, heartbeat: None };
        assert_eq!(all, [want]);
    }
}
