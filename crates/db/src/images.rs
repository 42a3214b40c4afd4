//! Images: what instances are made from. Their aliases are in [`crate::aliases`].

use std::collections::HashMap;

use api::key::Config;
use api::{Error, Result};
use jiff::Timestamp;
use rusqlite::{Params, named_params};

use crate::aliases::Alias;
use crate::keys::Keys;
use crate::members::gather;
use crate::tx::{Tx, Words, found, touched};
use crate::value::{Architecture, InstanceType, Time, codes, maybe, maybe_time, time};
use crate::{profiles, projects};

const PROPERTIES: Keys = Keys { table: "images_properties", owner: "image_id" };
const NOT_FOUND: &str = "Image";

codes! {
    /// How an image server is talked to.
    Protocol, "image protocol" {
        /// As to another server of this sort.
        Incus = 0, "incus";
        /// A file is fetched.
        Direct = 1, "direct";
        /// By indexes in JSON.
        Simplestreams = 2, "simplestreams";
        /// As to a registry of application containers.
        Oci = 3, "oci";
    }
}

/// Where an image came from, and is looked for again when it is kept up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// URL of the server.
    pub server: String,
    /// How it is talked to.
    pub protocol: Protocol,
    /// PEM of the certificate that the server must have; empty if any authority will do.
    pub certificate: String,
    /// Name of the image there.
    pub alias: String,
}

/// What can be changed of an image at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// True if anybody may have it.
    pub public: bool,
    /// True if it is kept up to date.
    pub auto_update: bool,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// What its makers say about it.
    pub properties: Config,
    /// Names of the profiles that instances made from it get, unless told otherwise.
    pub profiles: Vec<String>,
}

/// An image to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewImage {
    /// SHA-256 of its files, in hexadecimal.
    pub fingerprint: String,
    /// The project that it lies in.
    pub project: String,
    /// Name of the file that it came in.
    pub filename: String,
    /// Bytes.
    pub size: i64,
    /// For what architecture it is.
    pub architecture: Architecture,
    /// For what sort of instances it is.
    pub kind: InstanceType,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When it came here.
    pub uploaded: Timestamp,
    /// True if it came because an instance needed it, and may go again.
    pub cached: bool,
    /// Where it came from, if it did.
    pub source: Option<Source>,
    /// What can be changed later.
    pub changeable: Changes,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Row id.
    pub id: i64,
    /// As it was recorded, and changed since.
    pub image: NewImage,
    /// When it was last used.
    pub last_used: Option<Timestamp>,
    /// Its aliases, by name.
    pub aliases: Vec<Alias>,
    /// Names of the members that have its files, in the order in which they got them.
    pub locations: Vec<String>,
}

/// The images that lie in a project, or all; by project and fingerprint.
pub fn list(tx: &Tx<'_>, project: Option<&str>) -> Result<Vec<Image>> {
    let among = "SELECT id FROM images WHERE ?1 IS NULL OR project_id = (SELECT id FROM projects WHERE name = ?1)";
    select(tx, among, [project])
}

/// The image in that project whose fingerprint begins so. Refuses if several do.
pub fn get(tx: &Tx<'_>, project: &str, prefix: &str) -> Result<Image> {
    if prefix.is_empty() {
        return found(None, NOT_FOUND);
    }
    let among = "SELECT i.id FROM images i JOIN projects p ON p.id = i.project_id
                 WHERE p.name = :project AND substr(i.fingerprint, 1, length(:prefix)) = :prefix";
    let mut all = select(tx, among, named_params! {":project": project, ":prefix": prefix})?;
    match all.len() {
        0 | 1 => found(all.pop(), NOT_FOUND),
        _ => Err(Error::bad_request(format!("More than one image has a fingerprint that begins with \"{prefix}\""))),
    }
}

/// All images of that very fingerprint, whichever project they lie in: they share their files.
pub fn same(tx: &Tx<'_>, fingerprint: &str) -> Result<Vec<Image>> {
    select(tx, "SELECT id FROM images WHERE fingerprint = ?1", [fingerprint])
}

fn select(tx: &Tx<'_>, among: &str, params: impl Params + Copy) -> Result<Vec<Image>> {
    let mut properties = PROPERTIES.of_all(tx, among, params)?;
    let names = |sql: &str| -> Result<HashMap<i64, Vec<String>>> {
        let sql = sql.replace("AMONG", among);
        Ok(gather(tx.all(&sql, params, |r| Ok((r.get(0)?, r.get(1)?)))?))
    };
    let mut profiles = names(
        "SELECT ip.image_id, f.name FROM images_profiles ip JOIN profiles f ON f.id = ip.profile_id
         WHERE ip.image_id IN (AMONG) ORDER BY f.id",
    )?;
    let mut locations = names(
        "SELECT l.image_id, n.name FROM images_nodes l JOIN nodes n ON n.id = l.node_id
         WHERE l.image_id IN (AMONG) ORDER BY l.id",
    )?;
    let mut aliases = gather(crate::aliases::of_images(tx, among, params)?);
    let sql = format!("SELECT * FROM images_source WHERE image_id IN ({among})");
    let mut sources: HashMap<i64, Source> = tx
        .all(&sql, params, |r| {
            let source = Source {
                server: r.get("server")?,
                protocol: r.get("protocol")?,
                certificate: r.get("certificate")?,
                alias: r.get("alias")?,
            };
            Ok((r.get("image_id")?, source))
        })?
        .into_iter()
        .collect();
    let sql = format!(
        "SELECT i.*, p.name AS project FROM images i JOIN projects p ON p.id = i.project_id WHERE i.id IN ({among})
         ORDER BY p.name, i.fingerprint"
    );
    tx.all(&sql, params, |r| {
        let id = r.get("id")?;
        Ok(Image {
            id,
            image: NewImage {
                fingerprint: r.get("fingerprint")?,
                project: r.get("project")?,
                filename: r.get("filename")?,
                size: r.get("size")?,
                architecture: r.get("architecture")?,
                kind: r.get("type")?,
                created: maybe_time(r, "creation_date")?,
                uploaded: time(r, "upload_date")?,
                cached: r.get("cached")?,
                source: sources.remove(&id),
                changeable: Changes {
                    public: r.get("public")?,
                    auto_update: r.get("auto_update")?,
                    expires: maybe_time(r, "expiry_date")?,
                    properties: properties.remove(&id).unwrap_or_default(),
                    profiles: profiles.remove(&id).unwrap_or_default(),
                },
            },
            last_used: maybe_time(r, "last_use_date")?,
            aliases: aliases.remove(&id).unwrap_or_default(),
            locations: locations.remove(&id).unwrap_or_default(),
        })
    })
}

/// Records an image whose files no member has yet; its row id.
pub fn create(tx: &Tx<'_>, new: &NewImage) -> Result<i64> {
    let sql = "INSERT INTO images (fingerprint, filename, size, architecture, creation_date, upload_date, cached,
                                   project_id, type)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let project = projects::id(tx, &new.project)?;
    let (created, uploaded) = (maybe(new.created), Time(new.uploaded));
    let values =
        (&new.fingerprint, &new.filename, new.size, new.architecture, created, uploaded, new.cached, project, new.kind);
    let taken = || format!("Image with same fingerprint already exists: {}", new.fingerprint);
    let id = tx.insert(sql, values).or_taken(taken)?;
    update(tx, id, &new.changeable)?;
    set_source(tx, id, new.source.as_ref())?;
    Ok(id)
}

/// Changes what can be changed of an image.
pub fn update(tx: &Tx<'_>, id: i64, changes: &Changes) -> Result<()> {
    let sql = "UPDATE images SET public = ?2, auto_update = ?3, expiry_date = ?4 WHERE id = ?1";
    touched(tx.run(sql, (id, changes.public, changes.auto_update, maybe(changes.expires)))?, NOT_FOUND)?;
    PROPERTIES.replace(tx, id, &changes.properties)?;
    let sql = "SELECT p.name FROM images i JOIN projects p ON p.id = i.project_id WHERE i.id = ?1";
    let project: String = found(tx.one(sql, [id], |r| r.get(0))?, NOT_FOUND)?;
    let want: Vec<i64> = profiles::named(tx, &project, &changes.profiles)?.into_iter().map(|p| p.id).collect();
    let have: Vec<i64> = tx.all("SELECT profile_id FROM images_profiles WHERE image_id = ?1", [id], |r| r.get(0))?;
    for gone in have.iter().filter(|p| !want.contains(p)) {
        tx.run("DELETE FROM images_profiles WHERE image_id = ?1 AND profile_id = ?2", (id, gone))?;
    }
    for new in want.iter().filter(|p| !have.contains(p)) {
        let sql = "INSERT INTO images_profiles (image_id, profile_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        tx.run(sql, (id, new))?;
    }
    Ok(())
}

/// Records where an image is looked for again.
pub fn set_source(tx: &Tx<'_>, id: i64, source: Option<&Source>) -> Result<()> {
    let Some(s) = source else {
        return tx.run("DELETE FROM images_source WHERE image_id = ?1", [id]).map(drop);
    };
    let sql = "INSERT INTO images_source (image_id, server, protocol, certificate, alias) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT (image_id) DO UPDATE SET server = excluded.server, protocol = excluded.protocol,
               certificate = excluded.certificate, alias = excluded.alias";
    tx.run(sql, (id, &s.server, s.protocol, &s.certificate, &s.alias)).map(drop)
}

/// Records that an image was used.
pub fn set_last_used(tx: &Tx<'_>, id: i64, at: Timestamp) -> Result<()> {
    touched(tx.run("UPDATE images SET last_use_date = ?2 WHERE id = ?1", (id, Time(at)))?, NOT_FOUND)
}

/// Records whether an image may go again when nobody uses it.
pub fn set_cached(tx: &Tx<'_>, id: i64, cached: bool) -> Result<()> {
    touched(tx.run("UPDATE images SET cached = ?2 WHERE id = ?1", (id, cached))?, NOT_FOUND)
}

/// Records that a member has the files of an image.
pub fn add_location(tx: &Tx<'_>, id: i64, member: i64) -> Result<()> {
    let sql = "INSERT INTO images_nodes (image_id, node_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    tx.run(sql, (id, member)).map(drop)
}

/// Records that a member has the files of an image no more.
pub fn remove_location(tx: &Tx<'_>, id: i64, member: i64) -> Result<()> {
    tx.run("DELETE FROM images_nodes WHERE image_id = ?1 AND node_id = ?2", (id, member)).map(drop)
}

/// Names and addresses of the members that have the files of that fingerprint, in whichever project.
pub fn holders(tx: &Tx<'_>, fingerprint: &str) -> Result<Vec<(String, String)>> {
    let sql = "SELECT DISTINCT n.name, n.address FROM nodes n JOIN images_nodes l ON l.node_id = n.id
               JOIN images i ON i.id = l.image_id WHERE i.fingerprint = ?1 ORDER BY n.id";
    tx.all(sql, [fingerprint], |r| Ok((r.get(0)?, r.get(1)?)))
}

/// Forgets an image, in its project, with its aliases.
pub fn delete(tx: &Tx<'_>, id: i64) -> Result<()> {
    touched(tx.run("DELETE FROM images WHERE id = ?1", [id])?, NOT_FOUND)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    pub(crate) fn new(fingerprint: &str) -> NewImage {
        NewImage {
            fingerprint: fingerprint.into(),
            project: "default".into(),
            filename: "x.tar.xz".into(),
            size: 881_004,
            architecture: Architecture::X86_64,
            kind: InstanceType::Container,
            created: Some(Timestamp::UNIX_EPOCH),
            uploaded: Timestamp::UNIX_EPOCH,
            cached: true,
            source: Some(Source {
                server: "https://images.example.org".into(),
                protocol: Protocol::Simplestreams,
                certificate: String::new(),
                alias: "debian/13".into(),
            }),
            changeable: Changes {
                public: true,
                auto_update: true,
                expires: None,
                properties: [("os".into(), "BusyBox".into())].into(),
                profiles: vec!["default".into()],
            },
        }
    }

    #[test]
    fn an_image_comes_back_as_it_was_recorded() {
        let c = database();
        let tx = Tx(&c);
        let id = create(&tx, &new("a261d6")).unwrap();
        add_location(&tx, id, 1).unwrap();
        add_location(&tx, id, 1).unwrap();
        crate::aliases::create(&tx, "default", "busybox", "a261d6", "small").unwrap();
        set_last_used(&tx, id, Timestamp::UNIX_EPOCH).unwrap();
        let got = get(&tx, "default", "a26").unwrap();
        assert_eq!(got.image, new("a261d6"));
        assert_eq!(
            (got.aliases[0].name.as_str(), got.locations.as_slice()),
            ("busybox", ["none".to_owned()].as_slice())
        );
        assert_eq!(holders(&tx, "a261d6").unwrap(), [("none".into(), "0.0.0.0".into())]);
        let changes = Changes::default();
        update(&tx, id, &changes).unwrap();
        set_source(&tx, id, None).unwrap();
        set_cached(&tx, id, false).unwrap();
        let got = same(&tx, "a261d6").unwrap().remove(0);
        assert_eq!((&got.image.changeable, &got.image.source, got.image.cached), (&changes, &None, false));
        remove_location(&tx, id, 1).unwrap();
        assert!(holders(&tx, "a261d6").unwrap().is_empty());
    }

    #[test]
    fn images_are_found_by_the_start_of_their_fingerprint() {
        let c = database();
        let tx = Tx(&c);
        let id = create(&tx, &new("a261d6")).unwrap();
        create(&tx, &new("a27000")).unwrap();
        let several = "More than one image has a fingerprint that begins with \"a2\"";
        for (project, prefix, want) in [
            ("default", "a261d6", Ok("a261d6")),
            ("default", "a27", Ok("a27000")),
            ("default", "a2", Err(several)),
            ("default", "b", Err("Image not found")),
            ("default", "", Err("Image not found")),
            ("nope", "a27", Err("Image not found")),
        ] {
            let got = get(&tx, project, prefix);
            assert_eq!(
                got.as_ref().map(|i| i.image.fingerprint.as_str()).map_err(|e| e.message.as_str()),
                want,
                "{prefix}"
            );
        }
        let again = create(&tx, &new("a261d6")).unwrap_err();
        assert_eq!(again, Error::conflict("Image with same fingerprint already exists: a261d6"));
        delete(&tx, id).unwrap();
        assert_eq!(list(&tx, Some("default")).unwrap().len(), 1);
        assert_eq!(delete(&tx, id).unwrap_err().message, "Image not found");
    }
}
