//! Unpacking images that nobody vouches for.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use api::error::Context as _;
use api::{Error, Result};
use rustix::fs::FileType;

use super::archive::{Archive, Attributes, Entry, Kind, copy_contents};
use super::beneath::{Root, clean};
use super::format::{Compression, Counted};
use super::metadata::{self, METADATA};
use super::room::Room;
use super::{Files, Format, Metadata, not_an_image, squashfs};

/// The most entries that an image may have.
const MAX_ENTRIES: u64 = 10_000_000;
/// What stands at the top of an image.
const TOP: [&[u8]; 3] = [METADATA.as_bytes(), b"templates", b"rootfs"];

/// How an image is unpacked.
pub struct Unpack<'a> {
    /// Leaves out device nodes: the instance can't have them.
    pub unprivileged: bool,
    /// The most bytes that all files together may have, beside what the file system can spare.
    pub limit: Option<u64>,
    /// Is told from time to time how many bytes of the image's files were read.
    pub progress: &'a dyn Fn(u64),
    /// Set by those who don't want it any more.
    pub cancel: &'a AtomicBool,
}

impl Unpack<'_> {
    /// Refuses if it was cancelled.
    pub(super) fn check(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(Error::bad_request("Cancelled")) } else { Ok(()) }
    }
}

/// What an image says about itself; refuses what isn't one.
pub fn inspect(files: &Files) -> Result<Metadata> {
    if let Some(rootfs) = &files.rootfs {
        Format::detect(rootfs).map_err(|e| e.context("The root file system"))?;
    }
    let bytes = match Format::detect(&files.image)? {
        Format::Squashfs => squashfs::cat(&files.image, METADATA)?,
        Format::Tar(compression) => look_into(&files.image, compression, files.rootfs.is_none())?,
    };
    metadata::parse(&bytes)
}

/// Finds `metadata.yaml`, and makes sure that there is a `rootfs` if there has to be.
fn look_into(path: &Path, compression: Compression, unified: bool) -> Result<Vec<u8>> {
    let mut archive = Archive::new(compression.reader(Counted::open(path, &|_| ())?)?);
    let (mut found, mut rootfs) = (None, !unified);
    while let Some(entry) = archive.next()? {
        let name = clean(&entry.path)?;
        if name == METADATA.as_bytes() && entry.kind == Kind::File {
            if entry.size > metadata::MAX {
                return Err(not_an_image(format!("{METADATA} is larger than {} bytes", metadata::MAX)));
            }
            let mut bytes = Vec::new();
            archive.read_to_end(&mut bytes).context(format!("Reading {METADATA}"))?;
            found = Some(bytes);
        }
        rootfs |= name == b"rootfs" || name.starts_with(b"rootfs/");
        if rootfs && found.is_some() {
            break;
        }
    }
    match found {
        None => Err(not_an_image(format!("{METADATA} is missing"))),
        Some(_) if !rootfs => Err(not_an_image("it has no rootfs, and no second file was given")),
        Some(bytes) => Ok(bytes),
    }
}

/// Unpacks an image into a directory that is there and empty: `metadata.yaml`, `templates/`, `rootfs/`.
///
/// Whatever the image says, nothing outside of `dest` is touched. Owners and modes are those that stand in the image.
/// If it fails, what was made remains; the caller removes `dest`.
pub fn unpack(files: &Files, dest: &Path, options: &Unpack<'_>) -> Result<Metadata> {
    let mut room = Room::new(dest, options.limit)?;
    match Format::detect(&files.image)? {
        Format::Squashfs => squashfs::unpack(&files.image, dest, &TOP, &mut room, options)?,
        Format::Tar(compression) => {
            let top = if files.rootfs.is_none() { &TOP[..] } else { &TOP[..2] };
            unpack_tar(&files.image, compression, dest, Some(top), &mut room, options)?;
        }
    }
    if let Some(rootfs) = &files.rootfs {
        let format = Format::detect(rootfs).map_err(|e| e.context("The root file system"))?;
        let dest = dest.join("rootfs");
        std::fs::create_dir(&dest).context(format!("Making {}", dest.display()))?;
        match format {
            Format::Squashfs => squashfs::unpack(rootfs, &dest, &[], &mut room, options)?,
            Format::Tar(compression) => unpack_tar(rootfs, compression, &dest, None, &mut room, options)?,
        }
    }
    if Root::open(dest)?.sub(b"rootfs").is_err() {
        return Err(not_an_image("it has no rootfs, and no second file was given"));
    }
    super::read_metadata(dest)
}

/// Unpacks a tarball. With `top`, only what lies under these names.
fn unpack_tar(
    path: &Path,
    compression: Compression,
    dest: &Path,
    top: Option<&[&[u8]]>,
    room: &mut Room,
    options: &Unpack<'_>,
) -> Result<()> {
    let mut archive = Archive::new(compression.reader(Counted::open(path, options.progress)?)?);
    let mut root = Root::open(dest)?;
    let mut directories: Vec<(Vec<u8>, Attributes)> = Vec::new();
    let mut entries = 0;
    while let Some(mut entry) = archive.next()? {
        options.check()?;
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(not_an_image(format!("it has more than {MAX_ENTRIES} entries")));
        }
        let name = clean(&entry.path)?;
        let wanted = |name: &[u8]| top.is_none_or(|t| t.contains(&name.split(|b| *b == b'/').next().unwrap_or(name)));
        if !wanted(&name) || (name.is_empty() && top.is_some()) {
            continue;
        }
        room.take_entry(&entry)?;
        if entry.kind == Kind::Directory {
            root.directory(&name)?;
            directories.push((name, std::mem::take(&mut entry.attributes)));
            continue;
        }
        if name.is_empty() {
            return Err(not_an_image("an entry has no name"));
        }
        if entry.kind == Kind::Hardlink && !wanted(&clean(&entry.link)?) {
            return Err(not_an_image(format!("the link \"{}\" leads out of it", String::from_utf8_lossy(&name))));
        }
        place(&mut archive, &mut root, &name, &entry, room, options)?;
    }
    // From the inside to the outside: what is made in a directory changes its time.
    for (name, attributes) in directories.iter().rev() {
        root.settle_directory(name, attributes)?;
    }
    Ok(())
}

fn place<R: Read>(
    archive: &mut Archive<R>,
    root: &mut Root,
    name: &[u8],
    entry: &Entry,
    room: &mut Room,
    options: &Unpack<'_>,
) -> Result<()> {
    let attributes = &entry.attributes;
    match entry.kind {
        Kind::File => {
            let mut file = root.file(name)?;
            copy_contents(archive, &mut Watched { file: &file, room, options })?;
            std::io::Write::flush(&mut file).context("Writing a file of the image")?;
            root.settle(name, &file, attributes)
        }
        Kind::Symlink => root.symlink(name, &entry.link, attributes),
        Kind::Hardlink => root.hardlink(name, &clean(&entry.link)?),
        Kind::Fifo => root.node(name, FileType::Fifo, (0, 0), attributes),
        Kind::Character | Kind::Block if options.unprivileged => Ok(()),
        Kind::Character => root.node(name, FileType::CharacterDevice, entry.device, attributes),
        Kind::Block => root.node(name, FileType::BlockDevice, entry.device, attributes),
        // Done by the caller.
        Kind::Directory => Ok(()),
    }
}

/// A file that is not written on once nobody wants it any more, or there is no room for it.
struct Watched<'a> {
    file: &'a std::fs::File,
    room: &'a mut Room,
    options: &'a Unpack<'a>,
}

impl std::io::Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.options.check().map_err(std::io::Error::other)?;
        self.room.pass(bytes.len() as u64).map_err(std::io::Error::other)?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
