//! The helper's side: requests are answered one after the other, by blocking system calls.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, ReadDir};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use api::Result;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::wire::{Attributes, MAX_DATA, MAX_PACKET, Reader, Torn, VERSION, Writer, extension, kind, open, status};

/// Files and directories that a client may have open at once.
const MAX_HANDLES: usize = 256;
/// How much of a directory is told at once, in bytes.
const LISTING: usize = 48 << 10;

/// Answers until the other end closes the socket, or `alive` becomes readable.
pub fn run(socket: UnixStream, alive: Option<OwnedFd>) -> Result<()> {
    let mut session = Session::default();
    let mut socket = socket;
    let mut body = Vec::new();
    loop {
        if !wait(&socket, alive.as_ref())? {
            return Ok(());
        }
        let mut head = [0; 4];
        match socket.read_exact(&mut head) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let length = u32::from_be_bytes(head) as usize;
        if length == 0 || length > MAX_PACKET {
            return Err(api::Error::bad_request(format!("A packet of {length} bytes is none")));
        }
        body.resize(length, 0);
        socket.read_exact(&mut body)?;
        socket.write_all(&session.answer(&body).finish())?;
    }
}

/// Waits for a request; false if the process that was entered has ended.
fn wait(socket: &UnixStream, alive: Option<&OwnedFd>) -> io::Result<bool> {
    let Some(alive) = alive else { return Ok(true) };
    let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::new(alive, PollFlags::IN)];
    loop {
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
            Ok(_) => return Ok(fds[1].revents().is_empty()),
        }
    }
}

/// Why a request was not carried out.
enum Refused {
    Io(io::Error),
    Torn,
    End,
    Unsupported,
    NoHandle,
    TooMany,
    Special,
}

impl From<io::Error> for Refused {
    fn from(e: io::Error) -> Refused {
        Refused::Io(e)
    }
}

impl From<Errno> for Refused {
    fn from(e: Errno) -> Refused {
        Refused::Io(e.into())
    }
}

impl From<Torn> for Refused {
    fn from(_: Torn) -> Refused {
        Refused::Torn
    }
}

impl Refused {
    fn told(&self) -> (u32, String) {
        match self {
            Refused::Torn => (status::BAD_MESSAGE, "The request is too short".into()),
            Refused::End => (status::EOF, "End of file".into()),
            Refused::Unsupported => (status::OP_UNSUPPORTED, "This is not supported".into()),
            Refused::NoHandle => (status::FAILURE, "Nothing is open under that handle".into()),
            Refused::TooMany => (status::FAILURE, format!("More than {MAX_HANDLES} files are open")),
            Refused::Special => (status::FAILURE, "Not a regular file".into()),
            Refused::Io(e) => {
                let code = match e.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => status::NO_SUCH_FILE,
                    Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => status::PERMISSION_DENIED,
                    Some(Errno::OPNOTSUPP | Errno::NOSYS) => status::OP_UNSUPPORTED,
                    _ => status::FAILURE,
                };
                let text = e.to_string();
                (code, text.split(" (os error").next().unwrap_or_default().to_owned())
            }
        }
    }
}

enum Open {
    File(File),
    Directory(PathBuf, ReadDir, Option<Writer>),
}

/// What one client has open.
#[derive(Default)]
struct Session {
    open: HashMap<u32, Open>,
    next: u32,
}

/// An answer without its head: its type, and what follows the id.
type Answer = std::result::Result<(u8, Writer), Refused>;

fn ok() -> Answer {
    Ok((kind::STATUS, Writer::new(0).u32(status::OK).bytes("").bytes("")))
}

fn attributes(metadata: &std::fs::Metadata) -> Answer {
    Ok((kind::ATTRS, Writer::new(0).attributes(&Attributes::of(metadata))))
}

fn one_name(name: &[u8]) -> Answer {
    Ok((kind::NAME, Writer::new(0).u32(1).bytes(name).bytes(name).attributes(&Attributes::default())))
}

/// A name as a path; all are below `/`.
fn path(name: &[u8]) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(name))
}

impl Session {
    fn answer(&mut self, body: &[u8]) -> Writer {
        let mut request = Reader::new(body);
        let what = request.u8().unwrap_or_default();
        if what == kind::INIT {
            let version = Writer::new(kind::VERSION).u32(VERSION);
            return extension::ALL.iter().fold(version, |w, (name, version)| w.bytes(name).bytes(version));
        }
        let Ok(id) = request.u32() else {
            return Writer::new(kind::STATUS).u32(0).u32(status::BAD_MESSAGE).bytes("").bytes("");
        };
        match self.carry_out(what, request) {
            Ok((kind, rest)) => Writer::new(kind).u32(id).append(rest),
            Err(refused) => {
                let (code, text) = refused.told();
                Writer::new(kind::STATUS).u32(id).u32(code).bytes(text).bytes("en")
            }
        }
    }

    fn carry_out(&mut self, what: u8, mut r: Reader<'_>) -> Answer {
        match what {
            kind::OPEN => self.open(&path(r.bytes()?), r.u32()?, &r.attributes()?),
            kind::OPENDIR => {
                let path = path(r.bytes()?);
                let entries = std::fs::read_dir(&path)?;
                self.handle(Open::Directory(path, entries, None))
            }
            kind::CLOSE => {
                let id = handle_id(r.bytes()?)?;
                self.open.remove(&id).ok_or(Refused::NoHandle)?;
                ok()
            }
            kind::READ => read(self.file(r.bytes()?)?, r.u64()?, r.u32()?),
            kind::WRITE => {
                let file = self.file(r.bytes()?)?;
                let offset = r.u64()?;
                file.write_all_at(r.bytes()?, offset)?;
                ok()
            }
            kind::READDIR => self.list(r.bytes()?),
            kind::FSTAT => match self.at(r.bytes()?)? {
                Open::File(file) => attributes(&file.metadata()?),
                Open::Directory(path, ..) => attributes(&std::fs::metadata(path)?),
            },
            kind::FSETSTAT => {
                let id = r.bytes()?;
                let a = r.attributes()?;
                match self.at(id)? {
                    Open::File(file) => set_on(file, &a)?,
                    Open::Directory(path, ..) => set(path, &a, AtFlags::empty())?,
                }
                ok()
            }
            kind::EXTENDED => self.extended(r),
            _ => by_name(what, r),
        }
    }

    fn at(&mut self, handle: &[u8]) -> std::result::Result<&mut Open, Refused> {
        self.open.get_mut(&handle_id(handle)?).ok_or(Refused::NoHandle)
    }

    fn file(&mut self, handle: &[u8]) -> std::result::Result<&File, Refused> {
        match self.at(handle)? {
            Open::File(file) => Ok(file),
            Open::Directory(..) => Err(Refused::Special),
        }
    }

    fn handle(&mut self, open: Open) -> Answer {
        if self.open.len() >= MAX_HANDLES {
            return Err(Refused::TooMany);
        }
        self.next = self.next.wrapping_add(1);
        self.open.insert(self.next, open);
        Ok((kind::HANDLE, Writer::new(0).bytes(self.next.to_be_bytes())))
    }

    fn open(&mut self, path: &Path, wanted: u32, a: &Attributes) -> Answer {
        let has = |flag: u32| wanted & flag != 0;
        let mut flags = match (has(open::READ), has(open::WRITE | open::APPEND)) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        for (flag, set) in
            [(open::APPEND, OFlags::APPEND), (open::CREATE, OFlags::CREATE), (open::EXCLUSIVE, OFlags::EXCL)]
        {
            flags.set(set, has(flag));
        }
        // A device is not even opened: some do something when they are. Directories are, as the kernel does it:
        // clients find out in this way what they have before them.
        let writes = has(open::WRITE | open::APPEND);
        let fits = |m: &std::fs::Metadata| m.is_file() || m.is_dir() && !writes;
        match std::fs::metadata(path) {
            Ok(there) if !fits(&there) => return Err(not_a_file(&there)),
            Ok(_) | Err(_) => {}
        }
        // Should it have become a pipe or a device right now, nobody waits for it, and it is looked at again.
        flags |= OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(a.mode.unwrap_or(0o644) & 0o7777);
        let file = File::from(rustix::fs::open(path, flags, mode)?);
        let there = file.metadata()?;
        if !fits(&there) {
            return Err(not_a_file(&there));
        }
        if has(open::TRUNCATE) && writes {
            file.set_len(0)?;
        }
        self.handle(Open::File(file))
    }

    fn list(&mut self, handle: &[u8]) -> Answer {
        let Open::Directory(_, entries, left) = self.at(handle)? else { return Err(Refused::Special) };
        let (mut count, mut names) = (0, Writer::new(0));
        if let Some(last) = left.take() {
            (count, names) = (1, last);
        }
        for entry in entries.by_ref() {
            let entry = entry?;
            // It may be gone by now.
            let Ok(metadata) = entry.metadata() else { continue };
            let name = entry.file_name();
            let long = long_name(name.as_bytes(), &metadata);
            let told = Writer::new(0).bytes(name.as_bytes()).bytes(long).attributes(&Attributes::of(&metadata));
            if count > 0 && names.len() + told.len() > LISTING {
                *left = Some(told);
                break;
            }
            count += 1;
            names = names.append(told);
        }
        if count == 0 { Err(Refused::End) } else { Ok((kind::NAME, Writer::new(0).u32(count).append(names))) }
    }

    fn extended(&mut self, mut r: Reader<'_>) -> Answer {
        match std::str::from_utf8(r.bytes()?).unwrap_or_default() {
            extension::POSIX_RENAME => std::fs::rename(path(r.bytes()?), path(r.bytes()?))?,
            extension::HARDLINK => std::fs::hard_link(path(r.bytes()?), path(r.bytes()?))?,
            extension::FSYNC => self.file(r.bytes()?)?.sync_all()?,
            extension::LSETSTAT => set(&path(r.bytes()?), &r.attributes()?, AtFlags::SYMLINK_NOFOLLOW)?,
            extension::STATVFS => {
                let s = rustix::fs::statvfs(path(r.bytes()?))?;
                let flags = s.f_flag.bits() & 3;
                let numbers = [
                    s.f_bsize,
                    s.f_frsize,
                    s.f_blocks,
                    s.f_bfree,
                    s.f_bavail,
                    s.f_files,
                    s.f_ffree,
                    s.f_favail,
                    s.f_fsid,
                    flags,
                    s.f_namemax,
                ];
                return Ok((kind::EXTENDED_REPLY, numbers.into_iter().fold(Writer::new(0), Writer::u64)));
            }
            _ => return Err(Refused::Unsupported),
        }
        ok()
    }
}

fn not_a_file(metadata: &std::fs::Metadata) -> Refused {
    if metadata.is_dir() { Refused::Io(Errno::ISDIR.into()) } else { Refused::Special }
}

fn handle_id(handle: &[u8]) -> std::result::Result<u32, Refused> {
    handle.try_into().map(u32::from_be_bytes).map_err(|_| Refused::NoHandle)
}

fn read(file: &File, offset: u64, length: u32) -> Answer {
    let mut data = vec![0; MAX_DATA.min(length as usize)];
    let n = file.read_at(&mut data, offset)?;
    if n == 0 && length > 0 {
        return Err(Refused::End);
    }
    Ok((kind::DATA, Writer::new(0).bytes(data.get(..n).unwrap_or_default())))
}

/// The requests that name what they are about.
fn by_name(what: u8, mut r: Reader<'_>) -> Answer {
    let name = r.bytes()?;
    let this = path(name);
    match what {
        kind::STAT => return attributes(&std::fs::metadata(this)?),
        kind::LSTAT => return attributes(&std::fs::symlink_metadata(this)?),
        kind::READLINK => return one_name(std::fs::read_link(this)?.as_os_str().as_bytes()),
        kind::REALPATH => return one_name(&plain(name)),
        kind::SETSTAT => set(&this, &r.attributes()?, AtFlags::empty())?,
        kind::REMOVE => rustix::fs::unlink(this)?,
        kind::RMDIR => rustix::fs::rmdir(this)?,
        kind::MKDIR => {
            let a = r.attributes()?;
            rustix::fs::mkdir(&this, Mode::from_raw_mode(a.mode.unwrap_or(0o755) & 0o7777))?;
        }
        // As version 3 has it: nothing is replaced. The one that replaces is an extension.
        kind::RENAME => {
            rustix::fs::renameat_with(CWD, this, CWD, path(r.bytes()?), rustix::fs::RenameFlags::NOREPLACE)?;
        }
        // First where it leads, then what it is called: OpenSSH did it the other way round, and all do it its way.
        kind::SYMLINK => std::os::unix::fs::symlink(OsStr::from_bytes(name), path(r.bytes()?))?,
        _ => return Err(Refused::Unsupported),
    }
    ok()
}

/// A path without `.`, `..` and empty parts.
fn plain(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    [b"/", parts.join(&b'/').as_slice()].concat()
}

fn set(path: &Path, a: &Attributes, follow: AtFlags) -> io::Result<()> {
    if let Some(size) = a.size {
        // This neither waits for the other end of a pipe, nor does anything to a device.
        if !std::fs::metadata(path)?.is_file() {
            return Err(Errno::INVAL.into());
        }
        truncate(path, size)?;
    }
    // In this order: a change of the owner takes setuid away.
    if let Some((uid, gid)) = a.owner {
        rustix::fs::chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), follow)?;
    }
    if let Some(mode) = a.mode
        && follow.is_empty()
    {
        rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o7777))?;
    }
    match times(a) {
        Some(times) => Ok(rustix::fs::utimensat(CWD, path, &times, follow)?),
        None => Ok(()),
    }
}

fn truncate(path: &Path, size: u64) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    File::from(rustix::fs::open(path, flags, Mode::empty())?).set_len(size)
}

fn set_on(file: &File, a: &Attributes) -> io::Result<()> {
    if let Some(size) = a.size {
        file.set_len(size)?;
    }
    if let Some((uid, gid)) = a.owner {
        rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    if let Some(mode) = a.mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))?;
    }
    match times(a) {
        Some(times) => Ok(rustix::fs::futimens(file, &times)?),
        None => Ok(()),
    }
}

fn times(a: &Attributes) -> Option<Timestamps> {
    let time = |seconds: u32| Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
    let (read, changed) = a.times?;
    Some(Timestamps { last_access: time(read), last_modification: time(changed) })
}

/// A line for people, as `ls -l` prints it, with numbers for names: those of the host mean nothing here.
fn long_name(name: &[u8], m: &std::fs::Metadata) -> Vec<u8> {
    let kind = match m.mode() & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let bits = (0..9).rev().map(|i| if m.mode() & (1 << i) == 0 { '-' } else { ['x', 'w', 'r'][i % 3] });
    let mode: String = std::iter::once(kind).chain(bits).collect();
    let line = format!("{mode} {:>3} {:<8} {:<8} {:>8} {} ", m.nlink(), m.uid(), m.gid(), m.len(), m.mtime());
    [line.as_bytes(), name].concat()
}
