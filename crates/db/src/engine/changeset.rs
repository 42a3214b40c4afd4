//! What a changeset of an SQLite session looks like, checked before SQLite reads it.
//!
//! It is what other members say. SQLite trusts most of it, and the library around it ends in panics where a name is no
//! text. The format is that of <https://sqlite.org/session/changebatch.html> and of `sqlite3session.c`: for each table
//! `T`, the number of its columns, a byte for each that says whether it is part of the key, and its name; then its rows, each
//! with what was done, whether indirectly, and the values before and after.

/// More columns no table can have.
const MAX_COLUMNS: u64 = 2000;
const INSERT: u8 = 18;
const UPDATE: u8 = 23;
const DELETE: u8 = 9;

/// The tables that a changeset touches. Refuses what is not a whole changeset, or touches tables that are not replicated:
/// those that say where this replica stands, and SQLite's own.
pub(super) fn tables(changeset: &[u8]) -> Result<Vec<&str>, String> {
    let mut rest = Rest(changeset);
    let (mut tables, mut columns) = (Vec::new(), None);
    while let Some(first) = rest.next() {
        match (first, columns) {
            (b'T', _) => {
                let (name, number) = rest.table()?;
                tables.push(name);
                columns = Some(number);
            }
            (op @ (INSERT | UPDATE | DELETE), Some(columns)) => rest.row(op, columns)?,
            (other, _) => return Err(format!("it has the byte {other} where a table or a row begins")),
        }
    }
    Ok(tables)
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.next().ok_or_else(ended)
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], String> {
        let n = usize::try_from(n).map_err(|_| ended())?;
        let (taken, rest) = self.0.split_at_checked(n).ok_or_else(ended)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number as SQLite writes it: seven bits in each byte, all eight in the ninth.
    fn number(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for _ in 0..8 {
            let byte = self.byte()?;
            number = number << 7 | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Ok(number << 8 | u64::from(self.byte()?))
    }

    /// The head of a table: its name, and how many columns it has.
    fn table(&mut self) -> Result<(&'a str, u64), String> {
        let columns = self.number()?;
        if columns == 0 || columns > MAX_COLUMNS {
            return Err(format!("a table has {columns} columns"));
        }
        let keys = self.take(columns)?;
        if keys.iter().all(|key| *key == 0) {
            return Err("a table has no key".into());
        }
        let end = self.0.iter().position(|b| *b == 0).ok_or_else(ended)?;
        let name = self.take(end as u64)?;
        self.byte()?;
        match std::str::from_utf8(name) {
            Ok(name) if name.starts_with("_raft") || name.starts_with("sqlite_") => {
                Err(format!("the table \"{name}\" is no part of what is replicated"))
            }
            Ok(name) => Ok((name, columns)),
            Err(_) => Err("the name of a table is no text".into()),
        }
    }

    fn row(&mut self, op: u8, columns: u64) -> Result<(), String> {
        self.byte()?;
        let records = if op == UPDATE { 2 } else { 1 };
        for _ in 0..records * columns {
            self.value(op == UPDATE)?;
        }
        Ok(())
    }

    /// A value; `may_lack`: it may be one that is not told.
    fn value(&mut self, may_lack: bool) -> Result<(), String> {
        match self.byte()? {
            0 if may_lack => {}
            1 | 2 => drop(self.take(8)?),
            3 => {
                let length = self.number()?;
                if std::str::from_utf8(self.take(length)?).is_err() {
                    return Err("a text is none".into());
                }
            }
            4 => {
                let length = self.number()?;
                self.take(length)?;
            }
            5 => {}
            other => return Err(format!("it has a value of the type {other}")),
        }
        Ok(())
    }
}

fn ended() -> String {
    "it ends in the middle".into()
}
