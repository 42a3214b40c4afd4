//! SQL from people: what `incus admin sql` asks of a database.
//!
//! Only what the replication carries is let through: rows may be read and changed, but the schema, the settings
//! of the connection, the transaction and the tables that the database needs for itself are left alone.

use api::internal::SqlResult;
use api::{Error, Result};
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, Statement};
use serde_json::Value;

use crate::tx::{Tx, failed};

/// Tables whose names begin so are not for people to change.
const INTERNAL: [&str; 4] = ["sqlite_", "_raft", "raft_ids", "schema"];

/// Pragmas that only tell something.
const TELLING: [&str; 9] = [
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "foreign_key_check",
    "integrity_check",
];

/// Runs the statements of `text`, separated by semicolons; what each of them gave.
pub fn run(tx: &Tx<'_>, text: &str) -> Result<Vec<SqlResult>> {
    batch(tx.0, text)
}

/// True if no statement of `text` changes anything, so that it can run on a replica by itself.
pub fn only_reads(tx: &Tx<'_>, text: &str) -> Result<bool> {
    let mut statements = Batch::new(tx.0, text);
    while let Some(statement) = statements.next().map_err(refused)? {
        if !statement.readonly() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The whole database as SQL text from which it can be made again; with `only_schema`, without its rows.
/// What the engine keeps for itself is left out: in another place it would be wrong.
pub fn dump(tx: &Tx<'_>, only_schema: bool) -> Result<String> {
    text_of(tx.0, only_schema)
}

pub(crate) fn batch(connection: &Connection, text: &str) -> Result<Vec<SqlResult>> {
    let mut results = Vec::new();
    let mut statements = Batch::new(connection, text);
    while let Some(mut statement) = statements.next().map_err(refused)? {
        check(connection, &statement)?;
        results.push(if statement.readonly() { select(&mut statement)? } else { execute(connection, &mut statement)? });
    }
    Ok(results)
}

/// A statement that SQLite refuses is a mistake of the person who wrote it.
fn refused(e: rusqlite::Error) -> Error {
    Error::bad_request(e.to_string())
}

fn check(connection: &Connection, statement: &Statement<'_>) -> Result<()> {
    let text = statement.expanded_sql().unwrap_or_default();
    let body = without_comments(&text);
    let word: String = body.chars().take_while(char::is_ascii_alphabetic).collect::<String>().to_ascii_uppercase();
    match word.as_str() {
        "SELECT" | "VALUES" | "EXPLAIN" => Ok(()),
        "WITH" if statement.readonly() => Ok(()),
        "WITH" | "INSERT" | "REPLACE" | "UPDATE" | "DELETE" => match written(connection, body)? {
            Some(table) if INTERNAL.iter().any(|i| table.starts_with(i)) => {
                Err(Error::bad_request(format!("The table \"{table}\" is internal and can't be changed")))
            }
            _ => Ok(()),
        },
        "PRAGMA" if tells(body) => Ok(()),
        other => Err(Error::bad_request(format!(
            "\"{other}\" is not allowed here: only rows can be read and changed (SELECT, INSERT, UPDATE, DELETE)"
        ))),
    }
}

fn without_comments(mut text: &str) -> &str {
    loop {
        text = text.trim_start();
        let end = if text.starts_with("--") {
            text.find('\n')
        } else if text.starts_with("/*") {
            text.find("*/").map(|at| at + 2)
        } else {
            return text;
        };
        text = end.and_then(|at| text.get(at..)).unwrap_or("");
    }
}

fn tells(pragma: &str) -> bool {
    let name: String = pragma
        .split_whitespace()
        .nth(1)
        .unwrap_or("")
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect();
    TELLING.contains(&name.to_ascii_lowercase().as_str()) && !pragma.contains('=')
}

/// The table that a statement changes, by what SQLite itself makes of it: the table whose pages are opened for
/// writing, or emptied at once, in the main program (what follows from foreign keys comes after it).
fn written(connection: &Connection, statement: &str) -> Result<Option<String>> {
    let mut explain = connection.prepare(&format!("EXPLAIN {statement}")).map_err(refused)?;
    let mut rows = explain.query([]).map_err(failed)?;
    let mut pages: Vec<i64> = Vec::new();
    let mut last = -1;
    while let Some(row) = rows.next().map_err(failed)? {
        let addr: i64 = row.get("addr").map_err(failed)?;
        if addr <= last {
            break;
        }
        last = addr;
        let opcode: String = row.get("opcode").map_err(failed)?;
        let (page, database): (&str, &str) = match opcode.as_str() {
            "OpenWrite" => ("p2", "p3"),
            "Clear" => ("p1", "p2"),
            _ => continue,
        };
        // Database 1 is that of temporary tables.
        if row.get::<_, i64>(database).map_err(failed)? == 0 {
            pages.push(row.get(page).map_err(failed)?);
        }
    }
    let sql = "SELECT tbl_name FROM sqlite_schema WHERE rootpage = ?1 AND tbl_name <> 'sqlite_sequence'";
    let mut find = connection.prepare(sql).map_err(failed)?;
    let mut named = None;
    for page in pages {
        if page == 1 {
            return Ok(Some("sqlite_schema".into()));
        }
        let mut hits = find.query([page]).map_err(failed)?;
        if let Some(hit) = hits.next().map_err(failed)? {
            let table: String = hit.get(0).map_err(failed)?;
            if INTERNAL.iter().any(|i| table.starts_with(i)) {
                return Ok(Some(table));
            }
            named = Some(table);
        }
    }
    Ok(named)
}

fn select(statement: &mut Statement<'_>) -> Result<SqlResult> {
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let width = columns.len();
    let mut found = statement.query([]).map_err(refused)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next().map_err(refused)? {
        let values = (0..width).map(|i| row.get_ref(i).map(json).map_err(failed));
        rows.push(values.collect::<Result<Vec<Value>>>()?);
    }
    Ok(SqlResult { kind: "select".into(), columns, rows, rows_affected: 0 })
}

fn json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(i) => i.into(),
        ValueRef::Real(r) => r.into(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned().into(),
    }
}

fn execute(connection: &Connection, statement: &mut Statement<'_>) -> Result<SqlResult> {
    let mut rows = statement.query([]).map_err(refused)?;
    // With `RETURNING` there are rows to be stepped over.
    while rows.next().map_err(refused)?.is_some() {}
    drop(rows);
    Ok(SqlResult { kind: "exec".into(), rows_affected: connection.changes(), ..SqlResult::default() })
}

pub(crate) fn text_of(connection: &Connection, only_schema: bool) -> Result<String> {
    let mut text = String::new();
    if !only_schema {
        text.push_str("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n");
    }
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL
               AND tbl_name NOT LIKE 'sqlite!_%' ESCAPE '!' AND tbl_name NOT LIKE '!_raft%' ESCAPE '!'
               ORDER BY type <> 'table', rowid";
    let mut things = connection.prepare(sql).map_err(failed)?;
    let mut things = things.query([]).map_err(failed)?;
    while let Some(thing) = things.next().map_err(failed)? {
        let (kind, name, sql): (String, String, String) =
            (thing.get(0).map_err(failed)?, thing.get(1).map_err(failed)?, thing.get(2).map_err(failed)?);
        text.push_str(&format!("{sql};\n"));
        if kind == "table" && !only_schema {
            rows_of(connection, &name, &mut text)?;
        }
    }
    if !only_schema {
        if exists(connection, "sqlite_sequence")? {
            text.push_str("DELETE FROM sqlite_sequence;\n");
            rows_of(connection, "sqlite_sequence", &mut text)?;
        }
        text.push_str("COMMIT;\n");
    }
    Ok(text)
}

fn exists(connection: &Connection, table: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)";
    connection.query_row(sql, [table], |r| r.get(0)).map_err(failed)
}

fn rows_of(connection: &Connection, table: &str, text: &mut String) -> Result<()> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut columns = connection.prepare("SELECT name FROM pragma_table_info(?1)").map_err(failed)?;
    let columns: Vec<String> = columns
        .query_map([table], |r| Ok(format!("quote({})", quoted(&r.get::<_, String>(0)?))))
        .and_then(Iterator::collect)
        .map_err(failed)?;
    let table = quoted(table);
    let mut rows =
        connection.prepare(&format!("SELECT {} FROM {table}", columns.join(" || ',' || "))).map_err(failed)?;
    let mut rows = rows.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let values: String = row.get(0).map_err(failed)?;
        text.push_str(&format!("INSERT INTO {table} VALUES({values});\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn rows_can_be_read_and_changed() {
        let c = database();
        let tx = Tx(&c);
        let text = "-- a comment; with a semicolon\nUPDATE projects SET description = 'a;b' WHERE id = 1;
                    SELECT id, name, description, NULL AS n, 1.5 AS r FROM projects; ;";
        assert!(!only_reads(&tx, text).unwrap());
        let got = run(&tx, text).unwrap();
        assert_eq!((got.len(), got[0].kind.as_str(), got[0].rows_affected), (2, "exec", 1));
        assert_eq!(got[1].columns, ["id", "name", "description", "n", "r"]);
        assert_eq!(got[1].rows, [vec![json!(1), json!("default"), json!("a;b"), Value::Null, json!(1.5)]]);
        for (query, reads) in [
            ("SELECT name FROM certificates WHERE type = 2", true),
            ("PRAGMA table_info(nodes)", true),
            ("WITH x AS (SELECT 1) SELECT * FROM x", true),
            ("INSERT INTO config (key, value) VALUES ('a', 'b') RETURNING id", false),
            ("WITH x AS (SELECT 1) DELETE FROM config", false),
            ("DELETE FROM operations", false),
            ("INSERT INTO nodes (name, address, schema, api_extensions) VALUES ('b', 'b', 1, 1)", false),
            ("DELETE FROM nodes WHERE name = 'b'", false),
        ] {
            assert_eq!(only_reads(&tx, query).unwrap(), reads, "{query}");
            assert_eq!(run(&tx, query).unwrap()[0].kind == "select", reads, "{query}");
        }
    }

    #[test]
    fn what_replication_does_not_carry_is_refused() {
        let c = database();
        c.execute_batch("CREATE TABLE _raft (k TEXT PRIMARY KEY NOT NULL, v BLOB NOT NULL) WITHOUT ROWID").unwrap();
        for (query, want) in [
            ("DELETE FROM _raft", "The table \"_raft\" is internal"),
            ("REPLACE INTO _raft VALUES ('applied', 0)", "The table \"_raft\" is internal"),
            ("DROP TABLE nodes", "\"DROP\" is not allowed here"),
            ("/* x */ CREATE TABLE t (a)", "\"CREATE\" is not allowed here"),
            ("ALTER TABLE nodes ADD COLUMN x", "\"ALTER\" is not allowed here"),
            ("BEGIN", "\"BEGIN\" is not allowed here"),
            ("COMMIT", "\"COMMIT\" is not allowed here"),
            ("SAVEPOINT x", "\"SAVEPOINT\" is not allowed here"),
            ("ATTACH '/tmp/x' AS x", "\"ATTACH\" is not allowed here"),
            ("VACUUM", "\"VACUUM\" is not allowed here"),
            ("PRAGMA foreign_keys = OFF", "\"PRAGMA\" is not allowed here"),
            ("PRAGMA foreign_keys(0)", "\"PRAGMA\" is not allowed here"),
            ("DELETE FROM raft_ids", "The table \"raft_ids\" is internal"),
            ("DELETE FROM main . \"raft_ids\" WHERE id = 1", "The table \"raft_ids\" is internal"),
            (
                "WITH x AS (SELECT 1) INSERT INTO schema (version, updated_at) VALUES (9, '')",
                "The table \"schema\" is internal",
            ),
            ("UPDATE OR IGNORE schema SET version = 9", "The table \"schema\" is internal"),
            ("INSERT INTO projects (name) VALUES ('default')", "UNIQUE constraint failed: projects.name"),
            ("SELECT * FROM nope", "no such table: nope"),
            ("SELEC 1", "near \"SELEC\": syntax error"),
        ] {
            let e = run(&Tx(&c), query).unwrap_err();
            assert_eq!(e.kind, api::Kind::BadRequest, "{query}");
            assert!(e.message.starts_with(want), "{query}: {e}");
        }
    }

    #[test]
    fn a_dump_makes_the_same_database() {
        let c = database();
        c.execute_batch(
            "UPDATE projects SET description = 'it''s'; INSERT INTO config (key, value) VALUES ('a', x'00ff')",
        )
        .unwrap();
        let text = dump(&Tx(&c), false).unwrap();
        let copy = Connection::open_in_memory().unwrap();
        copy.execute_batch(&text).unwrap();
        assert_eq!(dump(&Tx(&copy), false).unwrap(), text);
        c.execute_batch("CREATE TABLE _raft_x (a INTEGER PRIMARY KEY NOT NULL)").unwrap();
        assert_eq!(dump(&Tx(&c), false).unwrap(), text, "what belongs to the engine is left out");
        let schema = dump(&Tx(&c), true).unwrap();
        assert!(schema.contains("CREATE TABLE nodes") && !schema.contains("INSERT"));
    }
}
