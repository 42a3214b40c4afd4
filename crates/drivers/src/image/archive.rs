//! Reading tarballs, entry by entry.
//!
//! Everything that stands beside the contents (long names, extended attributes) is read into memory and therefore
//! limited; values of extended attributes may hold any byte.

use std::io::{self, Read};

use api::error::Context as _;
use api::{Error, Result};
use tar::{EntryType, Header};

use super::not_an_image;

/// The largest extension of an entry: names and extended attributes, in bytes.
const MAX_EXTENSION: u64 = 1 << 20;
const BLOCK: u64 = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file with contents.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Another name of an earlier entry.
    Hardlink,
    /// A pipe.
    Fifo,
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// An entry, without its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its name, as it stands there.
    pub path: Vec<u8>,
    /// Where a link leads, as it stands there.
    pub link: Vec<u8>,
    /// Bytes of its contents.
    pub size: u64,
    /// How it comes to lie there.
    pub attributes: Attributes,
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

/// Owner, mode, times and extended attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions, with setuid and the like.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A tarball that is being read.
pub struct Archive<R> {
    from: R,
    /// Bytes of the entry's contents that were not read yet.
    contents: u64,
    /// Bytes up to the next header, after the contents.
    padding: u64,
}

/// What stood before an entry.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> Archive<R> {
    pub fn new(from: R) -> Archive<R> {
        Archive { from, contents: 0, padding: 0 }
    }

    /// The next entry; its contents can be read from the archive itself.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let mut before = Extensions::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size().map_err(|e| damaged(&e))?;
            match header.entry_type() {
                EntryType::GNULongName => before.path = Some(name(self.extension(size)?)),
                EntryType::GNULongLink => before.link = Some(name(self.extension(size)?)),
                EntryType::XHeader => before.pax = records(&self.extension(size)?)?,
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                kind => return self.entry(&header, kind, size, before).map(Some),
            }
        }
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let skipped = self.contents + self.padding;
        let copied = io::copy(&mut (&mut self.from).take(skipped), &mut io::sink()).map_err(|e| damaged(&e))?;
        if copied < skipped {
            return Err(not_an_image("the file ends too early"));
        }
        (self.contents, self.padding) = (0, 0);
        let mut header = Header::new_old();
        let mut at = 0;
        while let Some(rest) = header.as_mut_bytes().get_mut(at..).filter(|rest| !rest.is_empty()) {
            match self.from.read(rest) {
                Ok(0) if at == 0 => return Ok(None),
                Ok(0) => return Err(not_an_image("the file ends too early")),
                Ok(n) => at += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(damaged(&e)),
            }
        }
        if header.as_bytes().iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let sum = |range: std::ops::Range<usize>| -> u32 {
            header.as_bytes().get(range).unwrap_or_default().iter().map(|b| u32::from(*b)).sum()
        };
        // The sum is made with spaces where it stands.
        if header.cksum().map_err(|e| damaged(&e))? != sum(0..148) + 8 * 32 + sum(156..512) {
            return Err(not_an_image("the tarball is damaged: a checksum doesn't fit"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(not_an_image(format!("names and attributes of an entry take more than {MAX_EXTENSION} bytes")));
        }
        let mut bytes = Vec::new();
        (&mut self.from).take(size).read_to_end(&mut bytes).map_err(|e| damaged(&e))?;
        if (bytes.len() as u64) < size {
            return Err(not_an_image("the file ends too early"));
        }
        self.padding = size.wrapping_neg() % BLOCK;
        Ok(bytes)
    }

    fn entry(&mut self, header: &Header, kind: EntryType, size: u64, before: Extensions) -> Result<Entry> {
        let mut entry = Entry {
            path: before.path.unwrap_or_else(|| header.path_bytes().into_owned()),
            link: before.link.or_else(|| header.link_name_bytes().map(|l| l.into_owned())).unwrap_or_default(),
            kind: Kind::File,
            size,
            attributes: Attributes {
                mode: header.mode().map_err(|e| damaged(&e))? & 0o7777,
                uid: id(header.uid().map_err(|e| damaged(&e))?)?,
                gid: id(header.gid().map_err(|e| damaged(&e))?)?,
                mtime: (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
                xattrs: Vec::new(),
            },
            device: (
                header.device_major().ok().flatten().unwrap_or(0),
                header.device_minor().ok().flatten().unwrap_or(0),
            ),
        };
        for (key, value) in before.pax {
            entry.extend(&key, value)?;
        }
        entry.kind = match kind {
            // In old tarballs a directory is a file whose name ends so.
            EntryType::Regular | EntryType::Continuous if entry.path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::Hardlink,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char => Kind::Character,
            EntryType::Block => Kind::Block,
            other => {
                let kind = char::from(other.as_byte()).escape_default().to_string();
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                return Err(not_an_image(format!("entries of type '{kind}' aren't supported (\"{path}\")")));
            }
        };
        // Only files have contents that mean something; what others have is skipped.
        self.contents = entry.size;
        self.padding = entry.size.wrapping_neg() % BLOCK;
        if self.contents.checked_add(BLOCK).is_none() {
            return Err(not_an_image("the size of an entry is impossible"));
        }
        Ok(entry)
    }
}

impl Entry {
    /// Takes over what an extended header says.
    fn extend(&mut self, key: &[u8], value: Vec<u8>) -> Result<()> {
        let text = || String::from_utf8_lossy(&value).into_owned();
        let number = || text().parse::<u64>().map_err(|_| not_an_image("a number in an extended header is none"));
        match key {
            b"path" => self.path = value,
            b"linkpath" => self.link = value,
            b"size" => self.size = number()?,
            b"uid" => self.attributes.uid = id(number()?)?,
            b"gid" => self.attributes.gid = id(number()?)?,
            b"mtime" => self.attributes.mtime = time(&text()).unwrap_or(self.attributes.mtime),
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(not_an_image("sparse entries aren't supported: make the tarball without --sparse"));
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attributes.xattrs.push((name.to_vec(), value));
                }
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = (&mut self.from).take(self.contents).read(buffer)?;
        if n == 0 && self.contents > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends too early"));
        }
        self.contents -= n as u64;
        Ok(n)
    }
}

fn damaged(e: &io::Error) -> Error {
    not_an_image(format!("it can't be unpacked: {e}"))
}

fn id(id: u64) -> Result<u32> {
    // The highest id means "leave as it is" to the kernel.
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| not_an_image(format!("the owner {id} is impossible")))
}

fn name(mut bytes: Vec<u8>) -> Vec<u8> {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

/// Seconds with a fraction.
fn time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    // A fraction of a time before 1970 counts backwards.
    Some(if text.starts_with('-') && nanos > 0 { (seconds - 1, 1_000_000_000 - nanos) } else { (seconds, nanos) })
}

/// The records of an extended header: `length key=value\n`, where the value may hold any byte.
fn records(mut bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let bad = || not_an_image("the tarball is damaged: an extended header can't be read");
    let mut records = Vec::new();
    while bytes.first().is_some_and(|b| *b != 0) {
        let space = bytes.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(bytes.get(..space).unwrap_or_default())
            .ok()
            .and_then(|l| l.parse().ok())
            .ok_or_else(bad)?;
        let record = bytes.get(space + 1..length).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(bad)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        let (key, value) = record.split_at(equals);
        records.push((key.to_vec(), value.get(1..).unwrap_or_default().to_vec()));
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(records)
}

/// Copies the contents of an entry, at most what `room` has left.
pub fn copy_contents<R: Read>(from: &mut Archive<R>, to: &mut impl io::Write) -> Result<u64> {
    io::copy(from, to).context("Writing a file of the image")
}
