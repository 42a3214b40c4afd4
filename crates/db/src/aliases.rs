//! Aliases: names for images.

use api::Result;
use rusqlite::Params;

use crate::tx::{Tx, Words, found, touched};
use crate::value::InstanceType;
use crate::{images, projects};

const NOT_FOUND: &str = "Image alias";

/// An alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Row id.
    pub id: i64,
    /// The project that it lies in.
    pub project: String,
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Fingerprint of the image.
    pub target: String,
    /// For what sort of instances the image is.
    pub kind: InstanceType,
    /// True if anybody may have the image.
    pub public: bool,
}

const COLUMNS: &str = "SELECT a.id, p.name, a.name, a.description, i.fingerprint, i.type, i.public, a.image_id
    FROM images_aliases a JOIN projects p ON p.id = a.project_id JOIN images i ON i.id = a.image_id";

fn read(r: &rusqlite::Row<'_>) -> rusqlite::Result<Alias> {
    Ok(Alias {
        id: r.get(0)?,
        project: r.get(1)?,
        name: r.get(2)?,
        description: r.get(3)?,
        target: r.get(4)?,
        kind: r.get(5)?,
        public: r.get(6)?,
    })
}

/// The aliases that lie in a project, by name.
pub fn list(tx: &Tx<'_>, project: &str) -> Result<Vec<Alias>> {
    tx.all(&format!("{COLUMNS} WHERE p.name = ?1 ORDER BY a.name"), [project], read)
}

/// The alias of that name.
pub fn get(tx: &Tx<'_>, project: &str, name: &str) -> Result<Alias> {
    found(tx.one(&format!("{COLUMNS} WHERE p.name = ?1 AND a.name = ?2"), (project, name), read)?, NOT_FOUND)
}

/// The aliases of the images whose row ids the query `among` gives, with those ids.
pub(crate) fn of_images(tx: &Tx<'_>, among: &str, params: impl Params) -> Result<Vec<(i64, Alias)>> {
    let sql = format!("{COLUMNS} WHERE a.image_id IN ({among}) ORDER BY a.name");
    tx.all(&sql, params, |r| Ok((r.get(7)?, read(r)?)))
}

/// Gives an image of the project another name; the row id. `target` may be the start of a fingerprint.
pub fn create(tx: &Tx<'_>, project: &str, name: &str, target: &str, description: &str) -> Result<i64> {
    let image = images::get(tx, project, target)?.id;
    let sql = "INSERT INTO images_aliases (name, image_id, description, project_id) VALUES (?1, ?2, ?3, ?4)";
    tx.insert(sql, (name, image, description, projects::id(tx, project)?)).or_taken(|| taken(name))
}

fn taken(name: &str) -> String {
    format!("Alias \"{name}\" already exists")
}

/// Changes the image and the description of an alias.
pub fn update(tx: &Tx<'_>, project: &str, id: i64, target: &str, description: &str) -> Result<()> {
    let image = images::get(tx, project, target)?.id;
    let sql = "UPDATE images_aliases SET image_id = ?2, description = ?3 WHERE id = ?1";
    touched(tx.run(sql, (id, image, description))?, NOT_FOUND)
}

/// Lets all aliases of one image name another: when an image is brought up to date.
pub fn move_all(tx: &Tx<'_>, from: i64, to: i64) -> Result<()> {
    tx.run("UPDATE images_aliases SET image_id = ?2 WHERE image_id = ?1", (from, to)).map(drop)
}

/// Renames an alias.
pub fn rename(tx: &Tx<'_>, id: i64, name: &str) -> Result<()> {
    let rows = tx.run("UPDATE images_aliases SET name = ?2 WHERE id = ?1", (id, name)).or_taken(|| taken(name))?;
    touched(rows, NOT_FOUND)
}

/// Forgets an alias.
pub fn delete(tx: &Tx<'_>, id: i64) -> Result<()> {
    touched(tx.run("DELETE FROM images_aliases WHERE id = ?1", [id])?, NOT_FOUND)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn an_alias_lives_and_dies() {
        let c = database();
        let tx = Tx(&c);
        let one = images::create(&tx, &images::tests::new("a1")).unwrap();
        let two = images::create(&tx, &images::tests::new("b2")).unwrap();
        let id = create(&tx, "default", "x", "a1", "first").unwrap();
        assert_eq!(get(&tx, "default", "x").unwrap().target, "a1");
        update(&tx, "default", id, "b2", "second").unwrap();
        move_all(&tx, two, one).unwrap();
        let got = get(&tx, "default", "x").unwrap();
        assert_eq!((got.target.as_str(), got.description.as_str(), got.public), ("a1", "second", true));
        create(&tx, "default", "y", "b2", "").unwrap();
        for (got, want) in [
            (create(&tx, "default", "x", "a1", "").map(drop), "Alias \"x\" already exists"),
            (create(&tx, "default", "z", "ff", "").map(drop), "Image not found"),
            (rename(&tx, id, "y"), "Alias \"y\" already exists"),
            (get(&tx, "default", "z").map(drop), "Image alias not found"),
        ] {
            assert_eq!(got.unwrap_err().message, want);
        }
        rename(&tx, id, "z").unwrap();
        assert_eq!(list(&tx, "default").unwrap().iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["y", "z"]);
        delete(&tx, id).unwrap();
        assert_eq!(delete(&tx, id).unwrap_err().message, "Image alias not found");
    }
}
