//! Making a tarball of a directory with `metadata.yaml`, `templates/` and `rootfs/`: publishing an instance.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use api::error::Context as _;
use api::{Error, Result};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use tar::{Builder, EntryType, Header};

use super::beneath::Root;
use super::{Compression, METADATA, Metadata, metadata};

/// What goes into a tarball.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Everything: an image in one file.
    All,
    /// All but the root file system: the first file of an image in two.
    Metadata,
    /// The root file system alone: the second one.
    Rootfs,
}

/// How deep directories may lie in each other; each is open while what is in it is packed.
const DEPTH: usize = 256;

/// How a tarball is made.
pub struct Pack<'a> {
    /// What goes into it.
    pub content: Content,
    /// What it says about itself, instead of what lies there.
    pub metadata: Option<&'a Metadata>,
    /// How it is compressed.
    pub compression: Compression,
    /// Is told the owner or group that a file has on disk, and says the one that goes into the tarball.
    pub id: &'a dyn Fn(u32) -> u32,
    /// Is told from time to time how many bytes went in.
    pub progress: &'a dyn Fn(u64),
    /// Set by those who don't want it any more.
    pub cancel: &'a AtomicBool,
}

/// Writes a tarball of what lies in `dir` under `metadata.yaml`, `templates` and `rootfs`.
///
/// Links are packed as links; what changes meanwhile is packed as it is found. Sockets are left out.
pub fn pack<W: Write>(dir: &Path, to: W, options: &Pack<'_>) -> Result<W> {
    let root = Root::open(dir)?;
    options.compression.write(to, |to| {
        let mut packer = Packer { to: Builder::new(to), options, links: HashMap::new(), packed: 0 };
        let names: &[(&str, &str)] = match options.content {
            Content::All => &[(METADATA, METADATA), ("templates", "templates"), ("rootfs", "rootfs")],
            Content::Metadata => &[(METADATA, METADATA), ("templates", "templates")],
            Content::Rootfs => &[("rootfs", ".")],
        };
        for (name, path) in names {
            if let (METADATA, Some(metadata)) = (*name, options.metadata) {
                packer.text(METADATA, &metadata::text(metadata)?)?;
                continue;
            }
            match fs::statat(root.fd(), *name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => packer.add(&root, name.as_bytes(), path.as_bytes(), &stat)?,
                Err(rustix::io::Errno::NOENT) if *name == "templates" => {}
                Err(e) => return Err(Error::from(std::io::Error::from(e)).context(format!("Packing {name}"))),
            }
        }
        packer.to.finish().context("Packing")
    })
}

struct Packer<'a, W: Write> {
    to: Builder<W>,
    options: &'a Pack<'a>,
    /// Where files with several names were packed first, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    packed: u64,
}

impl<W: Write> Packer<'_, W> {
    /// Adds a small file that lies nowhere.
    fn text(&mut self, name: &str, text: &str) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.options.metadata.and_then(|m| u64::try_from(m.creation_date).ok()).unwrap_or(0));
        header.set_size(text.len() as u64);
        self.to.append_data(&mut header, name, text.as_bytes()).context(format!("Packing {name}"))
    }

    /// Adds what is called `name` in the directory `parent` as `path`.
    fn add(&mut self, parent: &Root, name: &[u8], path: &[u8], stat: &Stat) -> Result<()> {
        if path.iter().filter(|b| **b == b'/').count() > DEPTH {
            return Err(Error::bad_request(format!(
                "Directories that lie in each other more than {DEPTH} deep can't be packed"
            )));
        }
        if self.options.cancel.load(Ordering::Relaxed) {
            return Err(Error::bad_request("Cancelled"));
        }
        let shown = || format!("Packing \"{}\"", String::from_utf8_lossy(path));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let directory = parent.sub(name).context(shown())?;
                let pax = self.attributes(&directory)?;
                self.entry(EntryType::Directory, &[path, b"/"].concat(), stat, pax, 0).context(shown())?;
                self.directory(&directory, path)
            }
            FileType::RegularFile => self.file(parent, name, path, stat).context(shown()),
            FileType::Symlink => {
                let to = fs::readlinkat(parent.fd(), name, Vec::new()).map_err(std::io::Error::from).context(shown())?;
                let pax = vec![("linkpath".to_owned(), to.into_bytes())];
                self.entry(EntryType::Symlink, path, stat, pax, 0).context(shown())
            }
            FileType::Fifo => self.entry(EntryType::Fifo, path, stat, Vec::new(), 0).context(shown()),
            FileType::CharacterDevice => self.entry(EntryType::Char, path, stat, Vec::new(), 0).context(shown()),
            FileType::BlockDevice => self.entry(EntryType::Block, path, stat, Vec::new(), 0).context(shown()),
            _ => Ok(()),
        }
    }

    fn directory(&mut self, directory: &Root, path: &[u8]) -> Result<()> {
        let list = Dir::read_from(directory.fd()).map_err(std::io::Error::from)?;
        let mut names = Vec::new();
        for entry in list {
            let name = entry.map_err(std::io::Error::from)?.file_name().to_bytes().to_vec();
            if !matches!(name.as_slice(), b"." | b"..") {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            match fs::statat(directory.fd(), name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => self.add(directory, &name, &[path, b"/", &name].concat(), &stat)?,
                // It went away meanwhile.
                Err(rustix::io::Errno::NOENT) => {}
                Err(e) => return Err(std::io::Error::from(e).into()),
            }
        }
        Ok(())
    }

    fn file(&mut self, parent: &Root, name: &[u8], path: &[u8], stat: &Stat) -> Result<()> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let pax = vec![("linkpath".to_owned(), first.clone())];
                return self.entry(EntryType::Link, path, stat, pax, 0);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(parent.fd(), name, flags, Mode::empty()).map_err(std::io::Error::from)?;
        let stat = fs::fstat(&file).map_err(std::io::Error::from)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let pax = xattrs(&file)?;
        self.entry(EntryType::Regular, path, &stat, pax, size)?;
        // A file that shrinks is filled up, one that grows is cut off: its size has been written.
        let mut contents = File::from(file).chain(std::io::repeat(0)).take(size);
        std::io::copy(&mut contents, self.to.get_mut())?;
        let padding = usize::try_from(size.wrapping_neg() % 512).unwrap_or(0);
        self.to.get_mut().write_all([0; 512].get(..padding).unwrap_or_default())?;
        self.packed += size;
        (self.options.progress)(self.packed);
        Ok(())
    }

    fn attributes(&self, directory: &Root) -> Result<Pax> {
        xattrs(directory.fd())
    }

    /// Writes headers; what does not fit into the old fields stands in an extended header.
    fn entry(&mut self, kind: EntryType, path: &[u8], stat: &Stat, mut pax: Pax, size: u64) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        let (uid, gid) = ((self.options.id)(stat.st_uid), (self.options.id)(stat.st_gid));
        for (id, key) in [(uid, "uid"), (gid, "gid")] {
            if id > 0o7_777_777 {
                pax.push((key.into(), id.to_string().into_bytes()));
            }
        }
        header.set_uid(u64::from(uid).min(0o7_777_777));
        header.set_gid(u64::from(gid).min(0o7_777_777));
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        if size > 0o77_777_777_777 {
            pax.push(("size".into(), size.to_string().into_bytes()));
        } else {
            header.set_size(size);
        }
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(fs::major(stat.st_rdev))?;
            header.set_device_minor(fs::minor(stat.st_rdev))?;
        }
        let short = |field: &mut [u8], value: &[u8]| {
            let fits = value.len() < field.len();
            if let (true, Some(to)) = (fits, field.get_mut(..value.len())) {
                to.copy_from_slice(value);
            }
            fits
        };
        if let Some(ustar) = header.as_ustar_mut() {
            if let Some(at) = pax.iter().position(|(key, _)| key == "linkpath")
                && pax.get(at).is_some_and(|(_, to)| short(&mut ustar.linkname, to))
            {
                pax.remove(at);
            }
            if !short(&mut ustar.name, path) {
                pax.push(("path".into(), path.to_vec()));
            }
        }
        header.set_cksum();
        self.to.append_pax_extensions(pax.iter().map(|(k, v)| (k.as_str(), v.as_slice())))?;
        self.to.get_mut().write_all(header.as_bytes())?;
        Ok(())
    }
}

type Pax = Vec<(String, Vec<u8>)>;

/// The extended attributes of something, as they stand in a tarball.
fn xattrs(fd: impl std::os::fd::AsFd) -> Result<Pax> {
    use rustix::io::Errno;
    let mut names = vec![0; 64 << 10];
    let read = match fs::flistxattr(&fd, &mut *names) {
        Ok(read) => read,
        Err(Errno::NOTSUP) => 0,
        Err(e) => return Err(std::io::Error::from(e).into()),
    };
    let mut found = Vec::new();
    let mut value = vec![0; 64 << 10];
    for name in names.get(..read).unwrap_or_default().split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let kept =
            name.starts_with(b"user.") || name.starts_with(b"system.posix_acl") || name == b"security.capability";
        if !kept {
            continue;
        }
        let key = std::ffi::OsStr::from_bytes(name);
        match fs::fgetxattr(&fd, key, &mut *value) {
            Ok(n) => found
                .push((format!("SCHILY.xattr.{}", key.to_string_lossy()), value.get(..n).unwrap_or_default().to_vec())),
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(e) => return Err(std::io::Error::from(e).into()),
        }
    }
    Ok(found)
}
