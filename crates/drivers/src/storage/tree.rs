//! A tree of files as a stream: for copies on this machine and for moves to another one.
//!
//! Owners, modes, times, extended attributes, links (hard and soft), devices and holes survive. The stream ends
//! with a checksum over all of it: one that was torn is refused, whatever has been written by then.
//!
//! Each record is a length (u32, big endian), a JSON [`Entry`] of that length, and the file's bytes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use api::error::Context as _;
use api::{Error, Result};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The largest record, in bytes: a path, a link and extended attributes.
const MAX_RECORD: usize = 1 << 20;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum What {
    Dir,
    File { size: u64 },
    Symlink { to: Vec<u8> },
    Hardlink { to: Vec<u8> },
    Fifo,
    Socket,
    Device { block: bool, number: u64 },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    /// Relative to the root; empty for the root itself.
    path: Vec<u8>,
    what: What,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: (i64, i64),
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Serialize, Deserialize)]
enum Record {
    Entry(Entry),
    End { sha256: String },
}

/// Tells how many bytes have passed.
pub type Progress<'a> = &'a mut dyn FnMut(u64);

struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }
}

/// The root of a tree, which is never left: who is root in a container that runs may put a link where a directory was
/// a moment ago.
struct Place(OwnedFd);

/// Something in a tree. The directory that it lies in can't be exchanged under it any more.
struct Pinned {
    _directory: OwnedFd,
    path: PathBuf,
}

impl Place {
    fn open(root: &Path) -> io::Result<Place> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Place(rustix::fs::openat(CWD, root, flags, Mode::empty())?))
    }

    /// Opens something; no link is followed.
    fn enter(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    /// A path below which nothing changes. Only its last part may be a link, which the caller does not follow.
    fn pin(&self, path: &Path) -> io::Result<Pinned> {
        let name = path.file_name().unwrap_or(std::ffi::OsStr::new("."));
        let directory = self.enter(path.parent().unwrap_or(Path::new("")), OFlags::DIRECTORY | OFlags::PATH)?;
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        Ok(Pinned { _directory: directory, path })
    }

    /// The names in a directory, sorted.
    fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let directory = self.enter(path, OFlags::DIRECTORY | OFlags::RDONLY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&directory)? {
            let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Calls `visit` for everything, directories before what is in them. What vanishes meanwhile, or becomes something
    /// else, was not there. However deep it goes, there is no recursion.
    fn walk(&self, mut visit: impl FnMut(&Path, &Pinned, &fs::Metadata) -> io::Result<()>) -> io::Result<()> {
        let mut left = vec![PathBuf::new()];
        while let Some(path) = left.pop() {
            let visited = (|| {
                let pinned = self.pin(&path)?;
                let meta = fs::symlink_metadata(&pinned.path)?;
                let names = if meta.is_dir() { self.names(&path)? } else { Vec::new() };
                visit(&path, &pinned, &meta)?;
                left.extend(names.into_iter().rev().map(|name| path.join(name)));
                Ok(())
            })();
            match visited {
                Err(e) if vanished(&e) && !path.as_os_str().is_empty() => {}
                done => done?,
            }
        }
        Ok(())
    }
}

/// True if something is not there, or not what it was a moment ago.
fn vanished(e: &io::Error) -> bool {
    let replaced = e.raw_os_error().map(Errno::from_raw_os_error);
    e.kind() == io::ErrorKind::NotFound || matches!(replaced, Some(Errno::LOOP | Errno::NOTDIR | Errno::XDEV))
}

/// Writes the tree below `root` as a stream.
pub fn send(root: &Path, out: &mut dyn Write, progress: Progress<'_>) -> Result<()> {
    let mut out = Hashing { inner: out, hash: Sha256::new() };
    let mut links = HashMap::new();
    Place::open(root)
        .and_then(|place| place.walk(|path, pinned, meta| send_one(path, pinned, meta, &mut out, &mut links, progress)))
        .map_err(|e| Error::internal(format!("Reading {}: {e}", root.display())))?;
    let sha256 = hex::encode(out.hash.clone().finalize());
    record(&mut out, &Record::End { sha256 }).and_then(|()| out.flush()).context("Ending the stream")
}

fn record(out: &mut impl Write, record: &Record) -> io::Result<()> {
    let bytes = serde_json::to_vec(record)?;
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&len.to_be_bytes())?;
    out.write_all(&bytes)
}

fn send_one(
    path: &Path,
    pinned: &Pinned,
    meta: &fs::Metadata,
    out: &mut impl Write,
    links: &mut HashMap<(u64, u64), PathBuf>,
    progress: Progress<'_>,
) -> io::Result<()> {
    let kind = meta.file_type();
    let inode = (meta.dev(), meta.ino());
    let first = (meta.nlink() > 1 && !kind.is_dir()).then(|| links.get(&inode)).flatten();
    let bytes = |p: &Path| p.as_os_str().as_bytes().to_vec();
    let mut content = None;
    let what = if let Some(first) = first {
        What::Hardlink { to: bytes(first) }
    } else if kind.is_dir() {
        What::Dir
    } else if kind.is_file() {
        let file = open_file(&pinned.path)?;
        let size = file.metadata()?.len();
        content = Some((file, size));
        What::File { size }
    } else if kind.is_symlink() {
        What::Symlink { to: bytes(&fs::read_link(&pinned.path)?) }
    } else if kind.is_fifo() {
        What::Fifo
    } else if kind.is_socket() {
        What::Socket
    } else {
        What::Device { block: kind.is_block_device(), number: meta.rdev() }
    };
    let attributes = if first.is_some() { Vec::new() } else { attributes(&pinned.path)? };
    if first.is_none() && meta.nlink() > 1 && !kind.is_dir() {
        links.insert(inode, path.to_owned());
    }
    let entry = Entry {
        path: bytes(path),
        what,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        attributes,
    };
    record(out, &Record::Entry(entry))?;
    if let Some((mut file, size)) = content {
        // A file that shrinks while it is read is filled up, one that grows is cut: the stream stays whole.
        let sent = io::copy(&mut (&mut file).take(size), out)?;
        io::copy(&mut io::repeat(0).take(size - sent), out)?;
        progress(size);
    }
    Ok(())
}

/// Opens a file to be read, if it is one.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(CWD, path, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn attributes(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0u8; 64 << 10];
    let len = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut all = Vec::new();
    for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0u8; 64 << 10];
        if let Ok(len) = rustix::fs::lgetxattr(path, name, &mut value[..]) {
            value.truncate(len);
            all.push((name.to_vec(), value));
        }
    }
    Ok(all)
}

/// Makes the tree that a stream holds below `root`, which must not exist yet. After an error what was made by
/// then lies there; the caller removes it.
pub fn receive(root: &Path, from: &mut dyn Read, progress: Progress<'_>) -> Result<()> {
    let mut from = Hashing { inner: from, hash: Sha256::new() };
    let torn = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::bad_request("The stream ends in the middle"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::new(api::Kind::Internal, format!("Writing {}: No space left on the disk", root.display()))
        }
        _ => Error::internal(format!("Writing {}: {e}", root.display())),
    };
    let mut dirs = Vec::new();
    let mut place = None;
    loop {
        let so_far = from.hash.clone();
        let mut len = [0; 4];
        from.read_exact(&mut len).map_err(torn)?;
        let len = u32::from_be_bytes(len) as usize;
        if len > MAX_RECORD {
            return Err(Error::bad_request("This is not a stream of files"));
        }
        let mut bytes = vec![0; len];
        from.read_exact(&mut bytes).map_err(torn)?;
        match serde_json::from_slice(&bytes).map_err(|_| Error::bad_request("This is not a stream of files"))? {
            Record::Entry(entry) => {
                let path = inside(&entry.path)?;
                let place = match &place {
                    Some(place) => place,
                    None if entry.what == What::Dir && path.as_os_str().is_empty() => {
                        fs::create_dir(root).map_err(torn)?;
                        place.insert(Place::open(root).map_err(torn)?)
                    }
                    None => return Err(Error::bad_request("This is not a stream of files: it has no root")),
                };
                put(place, &path, &entry, &mut from, progress).map_err(|e| left(&path, e)).map_err(torn)?;
                if entry.what == What::Dir {
                    dirs.push((path, entry.modified));
                }
            }
            Record::End { sha256 } if hex::encode(so_far.finalize()) == sha256 => break,
            Record::End { .. } => return Err(Error::bad_request("The stream was damaged on its way")),
        }
    }
    let Some(place) = place else { return Err(Error::bad_request("This is not a stream of files: it is empty")) };
    // Making something in a directory changes its time: they come last, the innermost first.
    dirs.iter().rev().try_for_each(|(path, modified)| set_time(&place.pin(path)?.path, *modified)).map_err(torn)
}

/// A path that does not lead out of the tree by its words.
fn inside(path: &[u8]) -> Result<PathBuf> {
    let path = PathBuf::from(OsString::from_vec(path.to_vec()));
    if path.components().all(|c| matches!(c, Component::Normal(_))) {
        return Ok(path);
    }
    Err(Error::bad_request(format!("The stream holds the path \"{}\", which leads out of it", path.display())))
}

/// Words for a path that would have led out of the tree through a link.
fn left(path: &Path, e: io::Error) -> io::Error {
    match e.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP | Errno::XDEV) => io::Error::other(format!("\"{}\" leads through a link", path.display())),
        _ => e,
    }
}

fn put(place: &Place, path: &Path, entry: &Entry, from: &mut impl Read, progress: Progress<'_>) -> io::Result<()> {
    let pinned = place.pin(path)?;
    let (root, path) = (path.as_os_str().is_empty(), pinned.path.as_path());
    let target = |to: &[u8]| PathBuf::from(OsString::from_vec(to.to_vec()));
    match &entry.what {
        // It was just made.
        What::Dir if root && fs::read_dir(path)?.next().is_none() => {}
        What::Dir => fs::create_dir(path)?,
        What::File { size } => {
            let mut file = File::options().write(true).create_new(true).open(path)?;
            let got = io::copy(&mut from.take(*size), &mut Sparse { file: &mut file })?;
            if got < *size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.set_len(*size)?;
            progress(*size);
        }
        What::Symlink { to } => std::os::unix::fs::symlink(target(to), path)?,
        What::Hardlink { to } => {
            let to = inside(to).map_err(|e| io::Error::other(e.message))?;
            return fs::hard_link(place.pin(&to)?.path, path);
        }
        What::Fifo => node(path, rustix::fs::FileType::Fifo, 0)?,
        What::Socket => node(path, rustix::fs::FileType::Socket, 0)?,
        What::Device { block, number } => {
            let kind = if *block { rustix::fs::FileType::BlockDevice } else { rustix::fs::FileType::CharacterDevice };
            node(path, kind, *number)?;
        }
    }
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    for (name, value) in &entry.attributes {
        rustix::fs::lsetxattr(path, name.as_slice(), value, XattrFlags::empty())?;
    }
    if !matches!(entry.what, What::Symlink { .. }) {
        rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
    }
    set_time(path, entry.modified)
}

fn node(path: &Path, kind: rustix::fs::FileType, number: u64) -> io::Result<()> {
    Ok(rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), number)?)
}

fn set_time(path: &Path, (tv_sec, tv_nsec): (i64, i64)) -> io::Result<()> {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Leaves holes where whole blocks of zeros are written.
struct Sparse<'a> {
    file: &'a mut File,
}

impl Write for Sparse<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use std::io::Seek as _;
        if bytes.len() >= 4096 && bytes.iter().all(|b| *b == 0) {
            self.file.seek_relative(i64::try_from(bytes.len()).map_err(io::Error::other)?)?;
            return Ok(bytes.len());
        }
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// How many bytes of the disk a tree takes.
pub fn usage(root: &Path) -> Result<u64> {
    let (mut seen, mut sum) = (std::collections::HashSet::new(), 0);
    let counted = Place::open(root).and_then(|place| {
        place.walk(|_, _, meta| {
            // A file of many names counts once.
            if meta.nlink() == 1 || meta.is_dir() || seen.insert((meta.dev(), meta.ino())) {
                sum += meta.blocks() * 512;
            }
            Ok(())
        })
    });
    counted.map(|()| sum).context(format!("Looking how large {} is", root.display()))
}

/// Copies a tree on this machine; `to` must not exist yet.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    piped(|out| send(from, out, &mut |_| {}), |input| receive(to, input, &mut |_| {}))
}

/// Runs a sender and a receiver side by side, with a pipe between them.
pub fn piped(
    send: impl FnOnce(&mut dyn Write) -> Result<()> + Send,
    receive: impl FnOnce(&mut dyn Read) -> Result<()>,
) -> Result<()> {
    let (mut reader, mut writer) = io::pipe().context("Making a pipe")?;
    std::thread::scope(|scope| {
        let sent = scope.spawn(move || {
            let mut buffered = io::BufWriter::with_capacity(256 << 10, &mut writer);
            send(&mut buffered).and_then(|()| buffered.flush().context("Writing to a pipe"))
        });
        let received = receive(&mut io::BufReader::with_capacity(256 << 10, &mut reader));
        // A sender that waits for a reader that has given up must not wait for ever.
        drop(reader);
        let sent = sent.join().unwrap_or_else(|_| Err(Error::internal("The copy crashed")));
        // The sender's complaint is the cause where it is not about the closed pipe.
        match (received, sent) {
            (Ok(()), sent) => sent,
            (Err(e), Err(cause)) if e.message.contains("in the middle") => Err(cause),
            (Err(e), _) => Err(e),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("from").join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/file"), "hello").unwrap();
        fs::hard_link(at("a/file"), at("a/b/same")).unwrap();
        std::os::unix::fs::symlink("../../etc/passwd", at("a/link")).unwrap();
        let mut sparse = vec![0u8; 1 << 20];
        sparse[600_000] = 1;
        fs::write(at("sparse"), sparse).unwrap();
        std::os::unix::fs::chown(at("a/file"), Some(1000), Some(1001)).unwrap();
        rustix::fs::chmodat(CWD, at("a/file"), Mode::from_raw_mode(0o4755), AtFlags::empty()).unwrap();
        rustix::fs::lsetxattr(at("a/file"), "user.x", b"y", XattrFlags::empty()).unwrap();
        set_time(&at("a"), (1_000_000, 5)).unwrap();
        dir
    }

    fn stream(from: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        send(from, &mut bytes, &mut |_| {}).unwrap();
        bytes
    }

    #[test]
    fn a_copy_is_the_same_to_the_last_bit() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: owners can only be set by root");
        }
        let dir = tree();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        copy(&from, &to).unwrap();
        assert_eq!(stream(&from), stream(&to));
        let (file, same) = (fs::metadata(to.join("a/file")).unwrap(), fs::metadata(to.join("a/b/same")).unwrap());
        assert_eq!((file.ino(), file.mode() & 0o7777, file.uid()), (same.ino(), 0o4755, 1000));
        assert!(fs::metadata(to.join("sparse")).unwrap().blocks() < 1 << 10, "holes stay holes");
        assert!(copy(&from, &to).is_err(), "nothing is written over");
        assert!(copy(&dir.path().join("missing"), &dir.path().join("x")).unwrap_err().message.contains("missing"));
    }

    fn entry(path: &str, what: What) -> Entry {
        let attributes = Vec::new();
        Entry { path: path.into(), what, mode: 0o755, uid: 0, gid: 0, modified: (0, 0), attributes }
    }

    #[test]
    fn a_stream_does_not_write_through_the_links_that_it_brings() {
        let link = |to: &str| What::Symlink { to: to.into() };
        for (what, entries) in [
            ("a directory", vec![entry("d", link("../..")), entry("d/x", What::Dir)]),
            ("a file", vec![entry("d", link("../..")), entry("d/x", What::File { size: 0 })]),
            ("another name", vec![entry("d", link("../..")), entry("x", What::Hardlink { to: b"d/outside".to_vec() })]),
            ("the root", vec![entry("", link(".."))]),
            ("no root", vec![entry("d", What::Dir)]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("outside"), "untouched").unwrap();
            let mut bytes = Vec::new();
            let root = (!what.contains("root")).then(|| entry("", What::Dir));
            for entry in root.into_iter().chain(entries) {
                record(&mut bytes, &Record::Entry(entry)).unwrap();
            }
            let got = receive(&dir.path().join("in/to"), &mut &bytes[..], &mut |_| {});
            assert!(got.is_err(), "{what}");
            fs::create_dir(dir.path().join("in")).unwrap();
            let got = receive(&dir.path().join("in/to"), &mut &bytes[..], &mut |_| {}).unwrap_err();
            assert!(got.message.contains("leads through a link") || got.message.contains("no root"), "{what}: {got}");
            let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["in", "outside"], "{what}");
        }
    }

    #[test]
    fn a_directory_that_becomes_a_link_while_it_is_read_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (root, secret) = (dir.path().join("root"), dir.path().join("secret"));
        fs::create_dir_all(root.join("a/d")).unwrap();
        fs::create_dir(&secret).unwrap();
        fs::write(secret.join("key"), "SECRET").unwrap();
        let place = Place::open(&root).unwrap();
        let mut seen = Vec::new();
        place
            .walk(|path, pinned, meta| {
                // Between the look at it and the reading of it.
                if path == Path::new("a") {
                    fs::rename(root.join("a/d"), root.join("a/before")).unwrap();
                    std::os::unix::fs::symlink(&secret, root.join("a/d")).unwrap();
                }
                assert!(!(meta.is_file() && fs::read(&pinned.path).unwrap() == b"SECRET"), "{}", path.display());
                seen.push(path.to_owned());
                Ok(())
            })
            .unwrap();
        assert!(seen.contains(&PathBuf::from("a/d")) && !seen.contains(&PathBuf::from("a/d/key")), "{seen:?}");
        // What was a file is not read when it is a link or a pipe by then.
        assert!(open_file(&root.join("a/d")).is_err_and(|e| vanished(&e)));
    }

    #[test]
    fn however_deep_a_tree_is_there_is_an_end_to_it() {
        let work = || {
            let dir = tempfile::tempdir().unwrap();
            let (from, to) = (dir.path().join("from"), dir.path().join("to"));
            super::super::remove::tests::deep(&from, 900);
            copy(&from, &to).unwrap();
            assert_eq!(stream(&from), stream(&to));
            assert_eq!(usage(&from).unwrap(), usage(&to).unwrap());
            super::super::remove::remove(&from).unwrap();
            // Where no path leads any more there is an error.
            super::super::remove::tests::deep(&from, 2500);
            assert!(copy(&from, &dir.path().join("x")).is_err());
            assert!(usage(&from).is_err());
            super::super::remove::remove(&from).unwrap();
        };
        std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
    }

    #[test]
    fn a_torn_damaged_or_hostile_stream_is_refused() {
        let dir = tree();
        let whole = stream(&dir.path().join("from"));
        let mut damaged = whole.clone();
        let at = damaged.windows(5).position(|w| w == b"hello").unwrap();
        damaged[at] = b'j';
        let mut hostile = Vec::new();
        let entry = Entry {
            path: b"../out".to_vec(),
            what: What::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            modified: (0, 0),
            attributes: Vec::new(),
        };
        record(&mut hostile, &Record::Entry(entry)).unwrap();
        for (bytes, why) in [
            (&whole[..whole.len() / 2], "ends in the middle"),
            (&whole[..whole.len() - 1], "ends in the middle"),
            (&damaged, "damaged on its way"),
            (&hostile, "leads out of it"),
            (b"\xff\xff\xff\xffxx".as_slice(), "not a stream"),
            (b"\0\0\0\x02xx".as_slice(), "not a stream"),
        ] {
            let to = tempfile::tempdir().unwrap();
            let got = receive(&to.path().join("to"), &mut &bytes[..], &mut |_| {}).unwrap_err();
            assert!(got.message.contains(why), "{got}");
        }
    }
}
