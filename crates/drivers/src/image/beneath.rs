//! A directory that is never left: what is made or read in it is named relative to it, and the kernel refuses names
//! that would lead out of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use api::error::Context as _;
use api::{Error, Result};
use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::archive::Attributes;
use super::not_an_image;

/// No link is followed, nothing above is reached.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// Links are followed as if the directory were `/`.
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// Extended attributes that an image may bring.
const XATTRS: &[&[u8]] = &[b"user.", b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];

/// A directory that is never left.
pub(super) struct Root {
    fd: OwnedFd,
    /// The directory in which the last thing was made: the next one mostly lies there too.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// True if owners can be set.
    root: bool,
}

/// A name in a clean form: without `.` and empty parts. Refuses absolute names and `..`.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    if path.starts_with(b"/") {
        return Err(not_an_image(format!("the name \"{}\" is absolute", shown())));
    }
    let mut clean = Vec::with_capacity(path.len());
    for part in path.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")) {
        if part == b".." {
            return Err(not_an_image(format!("the name \"{}\" leads out of it", shown())));
        }
        if part.contains(&0) {
            return Err(not_an_image("a name holds a zero byte"));
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(part);
    }
    Ok(clean)
}

fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => {
            let (parent, name) = path.split_at(at);
            (parent, OsStr::from_bytes(name.get(1..).unwrap_or_default()))
        }
        None => (b"", OsStr::from_bytes(path)),
    }
}

/// Words for what the kernel refuses.
fn refused(path: &[u8], e: Errno) -> Error {
    let path = String::from_utf8_lossy(path);
    match e {
        Errno::LOOP => not_an_image(format!("the name \"{path}\" leads through a symbolic link")),
        Errno::XDEV => not_an_image(format!("the name \"{path}\" leads out of it")),
        Errno::NOTDIR => not_an_image(format!("the name \"{path}\" leads through something that isn't a directory")),
        Errno::NAMETOOLONG | Errno::INVAL => not_an_image(format!("the name \"{path}\" is impossible")),
        e => Error::from(std::io::Error::from(e)).context(format!("Unpacking \"{path}\"")),
    }
}

impl Root {
    /// Opens a directory.
    pub(super) fn open(path: &Path) -> Result<Root> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let fd = fs::openat(CWD, path, flags, Mode::empty())
            .map_err(std::io::Error::from)
            .context(format!("Opening {}", path.display()))?;
        Ok(Root { fd, last: None, root: rustix::process::geteuid().is_root() })
    }

    fn open_beneath(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH)
    }

    /// The directory in which `path` lies, made if it isn't there, and the name in it.
    fn parent<'a>(&mut self, path: &'a [u8]) -> Result<(BorrowedFd<'_>, &'a OsStr)> {
        let (parent, name) = split(path);
        if self.last.as_ref().is_none_or(|(last, _)| last != parent) {
            let fd = match self.open_beneath(parent, OFlags::DIRECTORY | OFlags::RDONLY) {
                Err(Errno::NOENT) => self.make_directories(parent),
                other => other,
            };
            self.last = Some((parent.to_vec(), fd.map_err(|e| refused(path, e))?));
        }
        let fd = self.last.as_ref().map_or(self.fd.as_fd(), |(_, fd)| fd.as_fd());
        Ok((fd, name))
    }

    /// Makes the directories of a path that are not there, one after the other, and opens the last.
    fn make_directories(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let enter = |at: &OwnedFd, part: &[u8]| {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            fs::openat2(at, part, flags, Mode::empty(), BENEATH)
        };
        let mut at = enter(&self.fd, b".")?;
        for part in path.split(|b| *b == b'/') {
            at = match enter(&at, part) {
                Err(Errno::NOENT) => {
                    fs::mkdirat(&at, part, Mode::from_raw_mode(0o755))?;
                    enter(&at, part)?
                }
                there => there?,
            };
        }
        Ok(at)
    }

    /// Makes something under a name; what had it before (but for a directory) is removed.
    fn make<T>(&mut self, path: &[u8], make: impl Fn(BorrowedFd<'_>, &OsStr) -> rustix::io::Result<T>) -> Result<T> {
        let (parent, name) = self.parent(path)?;
        let made = match make(parent, name) {
            Err(Errno::EXIST) => {
                fs::unlinkat(parent, name, AtFlags::empty()).map_err(|e| refused(path, e))?;
                make(parent, name)
            }
            other => other,
        };
        made.map_err(|e| refused(path, e))
    }

    /// Makes a directory, and those above it. It may be there already.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<()> {
        if path.is_empty() {
            return Ok(());
        }
        let (parent, name) = self.parent(path)?;
        match fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                self.open_beneath(path, OFlags::DIRECTORY | OFlags::PATH).map(drop).map_err(|e| refused(path, e))
            }
            Err(e) => Err(refused(path, e)),
        }
    }

    /// Makes an empty file.
    pub(super) fn file(&mut self, path: &[u8]) -> Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.make(path, |parent, name| fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))).map(File::from)
    }

    /// Makes a symbolic link; where it leads is not looked at.
    pub(super) fn symlink(&mut self, path: &[u8], to: &[u8], attributes: &Attributes) -> Result<()> {
        self.make(path, |parent, name| fs::symlinkat(OsStr::from_bytes(to), parent, name))?;
        self.settle_name(path, attributes, false)
    }

    /// Gives something that was made before another name.
    pub(super) fn hardlink(&mut self, path: &[u8], to: &[u8]) -> Result<()> {
        let (directory, name) = split(to);
        let from = self.open_beneath(directory, OFlags::DIRECTORY | OFlags::PATH).map_err(|e| refused(to, e))?;
        if path == to {
            return Ok(());
        }
        self.make(path, |parent, new| fs::linkat(&from, name, parent, new, AtFlags::empty()))
    }

    /// Makes a pipe or a device.
    pub(super) fn node(&mut self, path: &[u8], kind: FileType, dev: (u32, u32), attributes: &Attributes) -> Result<()> {
        let dev = fs::makedev(dev.0, dev.1);
        self.make(path, |parent, name| fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), dev))?;
        self.settle_name(path, attributes, true)
    }

    /// Sets owner, mode and time of something that can't be opened.
    fn settle_name(&mut self, path: &[u8], a: &Attributes, mode: bool) -> Result<()> {
        let own = self.root;
        let (parent, name) = self.parent(path)?;
        let set = || {
            if own {
                let (uid, gid) = (Uid::from_raw(a.uid), Gid::from_raw(a.gid));
                fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if mode {
                // Nobody but this program changes the tree, and it was just made: it is no link.
                fs::chmodat(parent, name, Mode::from_raw_mode(a.mode), AtFlags::empty())?;
            }
            fs::utimensat(parent, name, &times(a), AtFlags::SYMLINK_NOFOLLOW)
        };
        set().map_err(|e| refused(path, e))
    }

    /// Sets owner, mode, extended attributes and times of a file.
    pub(super) fn settle(&self, path: &[u8], fd: impl AsFd, a: &Attributes) -> Result<()> {
        let set = || {
            // In this order: a change of the owner takes setuid and capabilities away.
            if self.root {
                fs::fchown(&fd, Some(Uid::from_raw(a.uid)), Some(Gid::from_raw(a.gid)))?;
            }
            fs::fchmod(&fd, Mode::from_raw_mode(a.mode))?;
            for (name, value) in &a.xattrs {
                self.xattr(&fd, name, value)?;
            }
            fs::futimens(&fd, &times(a))
        };
        set().map_err(|e| refused(path, e))
    }

    fn xattr(&self, fd: impl AsFd, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        if !XATTRS.iter().any(|x| if x.ends_with(b".") { name.starts_with(x) } else { name == *x }) {
            return Ok(());
        }
        match fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
            // A file system without them, or a user who may not.
            Err(Errno::NOTSUP) => Ok(()),
            Err(Errno::PERM) if !self.root => Ok(()),
            other => other,
        }
    }

    /// Sets owner, mode, extended attributes and times of a directory, once nothing in it changes any more.
    pub(super) fn settle_directory(&self, path: &[u8], attributes: &Attributes) -> Result<()> {
        let fd = self.open_beneath(path, OFlags::DIRECTORY | OFlags::RDONLY).map_err(|e| refused(path, e))?;
        self.settle(path, fd, attributes)
    }

    /// Reads a small file.
    pub(super) fn read(&self, path: &[u8], max: u64) -> Result<Vec<u8>> {
        let shown = String::from_utf8_lossy(path);
        let file = self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|e| match e {
            Errno::NOENT => Error::not_found(format!("There is no {shown}")),
            e => refused(path, e),
        })?;
        let mut bytes = Vec::new();
        File::from(file).take(max + 1).read_to_end(&mut bytes).context(format!("Reading {shown}"))?;
        if bytes.len() as u64 > max {
            return Err(Error::bad_request(format!("{shown} is larger than {max} bytes")));
        }
        Ok(bytes)
    }

    /// Opens a directory beneath as a directory of its own.
    pub(super) fn sub(&self, path: &[u8]) -> Result<Root> {
        let fd = self.open_beneath(path, OFlags::DIRECTORY | OFlags::RDONLY).map_err(|e| refused(path, e))?;
        Ok(Root { fd, last: None, root: self.root })
    }

    /// Opens a path as those see it for whom the directory is `/`: links lead where they lead for them.
    pub(super) fn open_inside(&self, path: &[u8], flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
        fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode), IN_ROOT)
    }

    /// The directory itself.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn times(a: &Attributes) -> Timestamps {
    let time = Timespec { tv_sec: a.mtime.0, tv_nsec: a.mtime.1.into() };
    Timestamps { last_access: time, last_modification: time }
}
