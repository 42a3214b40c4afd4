//! The file of a backup: a tar archive of `backup.json` (what it is), `keys.json`, `database.db` (a whole copy of the
//! replicated database) and `complete` (the sum of the first). Sums tell whether it is whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use api::error::Context as _;
use api::internal::MemberOwn;
use api::{Error, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The format that this program writes and reads.
const FORMAT: u32 = 1;
/// Bytes that a part that is read into memory may have.
const SMALL: u64 = 64 << 20;

const MANIFEST: &str = "backup.json";
const KEYS: &str = "keys.json";
const DATABASE: &str = "database.db";
const COMPLETE: &str = "complete";

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format of the file.
    pub format: u32,
    /// When it was made.
    pub created: Timestamp,
    /// The member on which it was made.
    pub made_on: String,
    /// False if no majority could be asked: something newer may have been acknowledged elsewhere.
    pub confirmed: bool,
    /// Version of the database's schema.
    pub schema: i64,
    /// The members.
    pub members: Vec<Member>,
    /// The SHA-256 of the other parts, by name.
    #[serde(default)]
    pub sums: BTreeMap<String, String>,
}

/// A member in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its Raft id.
    pub raft_id: u64,
    /// Its address then.
    pub address: String,
    /// True if its own keys are in the backup: it could be asked for them.
    pub has_keys: bool,
}

/// All that is secret in a backup.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Keys {
    /// The certificate of the cluster (PEM).
    pub certificate: String,
    /// Its key (PEM).
    pub key: String,
    /// What each member has of its own, by name.
    pub members: BTreeMap<String, MemberOwn>,
}

/// Writes a backup of the parts. The manifest's sums and format are filled in.
pub fn write(to: impl Write, manifest: Manifest, keys: &Keys, database: &Path) -> Result<()> {
    let keys = json(keys)?;
    let mut file = File::open(database)?;
    let mut sum = Summed { inner: io::sink(), sum: Sha256::new() };
    let size = io::copy(&mut file, &mut sum)?;
    let sums = [(KEYS.to_owned(), sum_of(&keys)), (DATABASE.to_owned(), hex::encode(sum.sum.finalize()))].into();
    let manifest = json(&Manifest { format: FORMAT, sums, ..manifest })?;
    let mut tar = tar::Builder::new(to);
    add(&mut tar, MANIFEST, manifest.len() as u64, &*manifest)?;
    add(&mut tar, KEYS, keys.len() as u64, &*keys)?;
    add(&mut tar, DATABASE, size, File::open(database)?)?;
    let complete = sum_of(&manifest);
    add(&mut tar, COMPLETE, complete.len() as u64, complete.as_bytes())?;
    tar.into_inner()?.flush().map_err(Error::from)
}

fn add(tar: &mut tar::Builder<impl Write>, name: &str, size: u64, data: impl Read) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o600);
    tar.append_data(&mut header, name, data).map_err(Error::from)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| Error::internal(e.to_string()))
}

/// Reads a whole backup, and writes its database to `database`. Refuses one that is damaged or of a format that this
/// program does not know.
pub fn read(path: &Path, database: &mut impl Write) -> Result<(Manifest, Keys)> {
    let file = File::open(path).context(format!("Opening the backup {}", path.display()))?;
    let damaged = |why: &dyn std::fmt::Display| {
        Error::bad_request(format!("{} is no whole backup of a cluster: {why}", path.display()))
    };
    let mut parts = Parts::default();
    let mut tar = tar::Archive::new(file);
    for entry in tar.entries().map_err(|e| damaged(&e))? {
        let mut entry = entry.map_err(|e| damaged(&e))?;
        let name = entry.path().map_err(|e| damaged(&e))?.to_string_lossy().into_owned();
        let expected = parts.next();
        if expected != Some(name.as_str()) {
            return Err(damaged(&format!("it has \"{name}\" in the place of \"{}\"", expected.unwrap_or_default())));
        }
        if name == DATABASE {
            parts.add_database(&mut entry, database)?;
        } else {
            let mut bytes = Vec::new();
            entry.take(SMALL).read_to_end(&mut bytes).map_err(|e| damaged(&e))?;
            if name == MANIFEST {
                known(path, &bytes)?;
            }
            parts.small.push(bytes);
        }
    }
    parts.finish().map_err(|why| damaged(&why))
}

/// Refuses another format before anything else is looked at.
fn known(path: &Path, manifest: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    match serde_json::from_slice::<Format>(manifest) {
        Ok(Format { format }) if format != FORMAT => Err(Error::bad_request(format!(
            "{} is a backup of format {format}, and this program reads format {FORMAT}: use the version of incusd that \
             made it, or a newer one",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// What has been read.
#[derive(Default)]
struct Parts {
    /// All but the database, in their order.
    small: Vec<Vec<u8>>,
    /// The sum of the database, and what went wrong while it was read.
    database: Option<std::result::Result<String, String>>,
}

impl Parts {
    fn next(&self) -> Option<&'static str> {
        match (self.small.len(), &self.database) {
            (0, _) => Some(MANIFEST),
            (1, _) => Some(KEYS),
            (2, None) => Some(DATABASE),
            (2, Some(_)) => Some(COMPLETE),
            _ => None,
        }
    }

    /// An error of reading is damage, one of writing is not.
    fn add_database(&mut self, from: &mut impl Read, to: &mut impl Write) -> Result<()> {
        let mut sum = Summed { inner: to, sum: Sha256::new() };
        let mut buffer = vec![0; 256 << 10];
        let read = loop {
            match from.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(n) => sum.write_all(&buffer[..n]).context("Unpacking the backup")?,
                Err(e) => break Err(e.to_string()),
            }
        };
        self.database = Some(read.map(|()| hex::encode(sum.sum.finalize())));
        Ok(())
    }

    fn finish(self) -> std::result::Result<(Manifest, Keys), String> {
        let [manifest, keys, complete] = <[_; 3]>::try_from(self.small).map_err(|_| "its end is missing")?;
        let database = self.database.ok_or("its end is missing")??;
        if complete != sum_of(&manifest).as_bytes() {
            return Err(format!("{MANIFEST} is not what was written"));
        }
        let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|e| e.to_string())?;
        for (name, sum) in [(KEYS, sum_of(&keys)), (DATABASE, database)] {
            if manifest.sums.get(name) != Some(&sum) {
                return Err(format!("{name} is not what was written"));
            }
        }
        let keys = serde_json::from_slice(&keys).map_err(|_| format!("{KEYS} is unreadable"))?;
        Ok((manifest, keys))
    }
}

fn sum_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Sums what is written through it.
struct Summed<W> {
    inner: W,
    sum: Sha256,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn made(dir: &Path) -> Vec<u8> {
        let database = dir.join("db");
        std::fs::write(&database, vec![7; 100_000]).unwrap();
        let member = Member { name: "one".into(), raft_id: 1, address: "192.0.2.1:8443".into(), has_keys: true };
        let manifest = Manifest {
            format: 0,
            created: Timestamp::UNIX_EPOCH,
            made_on: "one".into(),
            confirmed: true,
            schema: 1,
            members: vec![member],
            sums: BTreeMap::new(),
        };
        let own = MemberOwn { key: "KEY".into(), ..MemberOwn::default() };
        let keys = Keys { key: "SECRET".into(), members: [("one".into(), own)].into(), ..Keys::default() };
        let mut bytes = Vec::new();
        write(&mut bytes, manifest, &keys, &database).unwrap();
        bytes
    }

    #[test]
    fn it_is_read_as_it_was_written_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = made(dir.path());
        let path = dir.path().join("backup");
        let read_back = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let mut database = Vec::new();
            read(&path, &mut database).map(|(manifest, keys)| (manifest, keys, database))
        };
        let (manifest, keys, database) = read_back(&bytes).unwrap();
        assert_eq!((manifest.format, manifest.members[0].raft_id, keys.members["one"].key.as_str()), (1, 1, "KEY"));
        assert_eq!(database, vec![7; 100_000]);

        // Cut anywhere, and changed anywhere but in what fills tar's blocks.
        let end = bytes.len() - 1024;
        for cut in (0..end).step_by(997).chain([end - 512]) {
            assert!(read_back(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for what in ["192.0.2.1", "SECRET", "\u{7}\u{7}\u{7}", "backup.json", "keys.json", "complete", "\"one\""] {
            let mut changed = bytes.clone();
            changed[text.find(what).unwrap()] ^= 1;
            let said = read_back(&changed).err().unwrap_or_else(|| panic!("{what} was changed")).message;
            assert!(said.contains("no whole backup"), "{what}: {said}");
        }
        let newer = text.replacen("\"format\": 1", "\"format\": 2", 1);
        let said = read_back(newer.as_bytes()).err().unwrap().message;
        assert!(said.contains("a backup of format 2, and this program reads format 1"), "{said}");
        assert!(read_back(b"hello").err().unwrap().message.contains("no whole backup"));
    }
}
