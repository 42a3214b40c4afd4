//! Removing trees that others have made.
//!
//! Who is root in a container can make directories that lie in each other a hundred thousand deep, where there is no
//! path, no stack and no number of open files to reach the last one. What lies too deep is moved up and removed there.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, CWD, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// How deep directories are entered; so many files are open meanwhile.
const DEPTH: usize = 64;

/// Removes a directory with all that is in it. Links are not followed.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] if it is not there.
pub fn remove(path: &Path) -> io::Result<()> {
    loop {
        let top = enter(CWD, path.as_os_str().as_bytes())?;
        let moved = empty(&top, &top, 0)?;
        match fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
            // What was moved up is removed in another round.
            Err(Errno::NOTEMPTY) if moved => {}
            done => return Ok(done?),
        }
    }
}

fn enter(parent: impl std::os::fd::AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

/// Removes what is in a directory; true if something was moved to the top instead.
fn empty(dir: &OwnedFd, top: &OwnedFd, depth: usize) -> io::Result<bool> {
    let mut moved = false;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        match fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) if depth < DEPTH => {
                moved |= empty(&enter(dir, name)?, top, depth + 1)?;
                fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
            }
            Err(Errno::ISDIR) => {
                let to = format!(".removed-{:016x}", rand::random::<u64>());
                fs::renameat_with(dir, name, top, to, RenameFlags::NOREPLACE)?;
                moved = true;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(moved)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Directories in each other, each with a file.
    pub(in crate::storage) fn deep(root: &Path, levels: usize) {
        std::fs::create_dir(root).unwrap();
        let mut at = enter(CWD, root.as_os_str().as_bytes()).unwrap();
        for _ in 0..levels {
            fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            fs::openat(&at, "f", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o600)).unwrap();
            at = enter(&at, b"d").unwrap();
        }
    }

    #[test]
    fn what_lies_deeper_than_any_path_is_removed_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("f"), "untouched").unwrap();
        deep(&root, 20_000);
        std::os::unix::fs::symlink(&outside, root.join("d/link")).unwrap();
        remove(&root).unwrap();
        assert!(!root.exists());
        assert_eq!(std::fs::read_to_string(outside.join("f")).unwrap(), "untouched");
        assert_eq!(remove(&root).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::os::unix::fs::symlink(&outside, &root).unwrap();
        assert!(remove(&root).is_err() && outside.join("f").exists(), "a link is no tree");
    }
}
