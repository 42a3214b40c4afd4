//! The files below `templates/` of an instance. No link is followed.

use std::io::Write as _;
use std::path::Path;

use api::error::Context as _;
use api::{Error, Kind, Result};
use rustix::fs::{AtFlags, unlinkat};

use super::beneath::Root;

/// The largest template, in bytes.
pub const MAX: usize = 1 << 20;
/// The folder.
const TEMPLATES: &[u8] = b"templates";

/// Refuses what can't be the name of a template.
pub fn check(name: &str) -> Result<()> {
    match name.is_empty() || matches!(name, "." | "..") || name.contains(['/', '\0']) {
        true => Err(Error::bad_request("Invalid template filename")),
        false => Ok(()),
    }
}

fn folder(volume: &Path) -> Result<Option<Root>> {
    let root = Root::open(volume)?;
    match std::fs::symlink_metadata(volume.join("templates")) {
        Ok(_) => root.sub(TEMPLATES).map(Some),
        Err(_) => Ok(None),
    }
}

/// The names of the templates of an instance whose volume this is, sorted.
pub fn list(volume: &Path) -> Result<Vec<String>> {
    let Some(folder) = folder(volume)? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder.fd()).map_err(std::io::Error::from)? {
        let entry = entry.map_err(std::io::Error::from)?;
        if entry.file_type().is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The content of a template.
pub fn read(volume: &Path, name: &str) -> Result<Vec<u8>> {
    check(name)?;
    let folder = folder(volume)?.ok_or_else(missing)?;
    folder.read(name.as_bytes(), MAX as u64).map_err(|e| if e.kind == Kind::NotFound { missing() } else { e })
}

/// Makes or replaces a template.
pub fn write(volume: &Path, name: &str, content: &[u8]) -> Result<()> {
    check(name)?;
    let mut root = Root::open(volume)?;
    root.directory(TEMPLATES)?;
    root.sub(TEMPLATES)?.file(name.as_bytes())?.write_all(content).context(format!("Writing template {name}"))
}

/// Removes a template.
pub fn remove(volume: &Path, name: &str) -> Result<()> {
    check(name)?;
    let folder = folder(volume)?.ok_or_else(missing)?;
    match unlinkat(folder.fd(), name, AtFlags::empty()) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::NOENT) => Err(missing()),
        Err(e) => Err(std::io::Error::from(e)).context(format!("Removing template {name}")),
    }
}

fn missing() -> Error {
    Error::not_found("Not Found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_come_and_go() {
        let volume = tempfile::tempdir().unwrap();
        assert!(list(volume.path()).unwrap().is_empty());
        assert_eq!(read(volume.path(), "hosts").unwrap_err().kind, Kind::NotFound);
        write(volume.path(), "hosts", b"one").unwrap();
        write(volume.path(), "hosts", b"two").unwrap();
        assert_eq!(list(volume.path()).unwrap(), ["hosts"]);
        assert_eq!(read(volume.path(), "hosts").unwrap(), b"two");
        for bad in ["", "..", "a/b", "a\0"] {
            assert_eq!(write(volume.path(), bad, b"").unwrap_err().message, "Invalid template filename");
        }
        remove(volume.path(), "hosts").unwrap();
        assert_eq!(remove(volume.path(), "hosts").unwrap_err().kind, Kind::NotFound);
    }

    #[test]
    fn links_lead_nowhere() {
        let (volume, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(outside.path(), volume.path().join("templates")).unwrap();
        assert!(read(volume.path(), "secret").is_err());
        assert!(write(volume.path(), "new", b"").is_err());
        assert!(list(volume.path()).is_err());
        std::fs::remove_file(volume.path().join("templates")).unwrap();
        std::fs::create_dir(volume.path().join("templates")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), volume.path().join("templates/l")).unwrap();
        assert!(read(volume.path(), "l").is_err());
        write(volume.path(), "l", b"own").unwrap();
        assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"secret");
        assert_eq!(read(volume.path(), "l").unwrap(), b"own");
    }
}
