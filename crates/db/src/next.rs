//! What a later version could have more than this one, for tests of upgrades: each member has a motto.

use api::{Error, Result};

use crate::schema;
use crate::tx::{Tx, touched};

/// The version of the schema that has the column.
pub const SCHEMA: i64 = 2;

/// The motto of a member; empty as long as there are none.
pub fn motto(tx: &Tx<'_>, member: i64) -> Result<String> {
    if !schema::has(tx, SCHEMA)? {
        return Ok(String::new());
    }
    Ok(tx.one("SELECT motto FROM nodes WHERE id = ?1", [member], |r| r.get(0))?.unwrap_or_default())
}

/// Sets the motto of a member.
pub fn set_motto(tx: &Tx<'_>, member: i64, motto: &str) -> Result<()> {
    if !schema::has(tx, SCHEMA)? {
        return Err(Error::unavailable("Mottos come when all cluster members have been updated"));
    }
    touched(tx.run("UPDATE nodes SET motto = ?2 WHERE id = ?1", (member, motto))?, "Cluster member")
}
