//! SFTP version 3 as bytes (draft-ietf-secsh-filexfer-02, and the extensions of OpenSSH). Names are bytes, as they are
//! to the kernel.

use std::os::unix::fs::MetadataExt as _;

/// The largest packet: 256 KiB and room for its head, as OpenSSH has it.
pub const MAX_PACKET: usize = (256 << 10) + 1024;
/// The most bytes of a file in one packet.
pub const MAX_DATA: usize = 256 << 10;
/// The version of the protocol.
pub const VERSION: u32 = 3;

/// Types of packets.
pub mod kind {
    pub const INIT: u8 = 1;
    pub const VERSION: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const READ: u8 = 5;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const FSTAT: u8 = 8;
    pub const SETSTAT: u8 = 9;
    pub const FSETSTAT: u8 = 10;
    pub const OPENDIR: u8 = 11;
    pub const READDIR: u8 = 12;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const RMDIR: u8 = 15;
    pub const REALPATH: u8 = 16;
    pub const STAT: u8 = 17;
    pub const RENAME: u8 = 18;
    pub const READLINK: u8 = 19;
    pub const SYMLINK: u8 = 20;
    pub const STATUS: u8 = 101;
    pub const HANDLE: u8 = 102;
    pub const DATA: u8 = 103;
    pub const NAME: u8 = 104;
    pub const ATTRS: u8 = 105;
    pub const EXTENDED: u8 = 200;
    pub const EXTENDED_REPLY: u8 = 201;
}

/// Codes of a status packet.
pub mod status {
    pub const OK: u32 = 0;
    pub const EOF: u32 = 1;
    pub const NO_SUCH_FILE: u32 = 2;
    pub const PERMISSION_DENIED: u32 = 3;
    pub const FAILURE: u32 = 4;
    pub const BAD_MESSAGE: u32 = 5;
    pub const OP_UNSUPPORTED: u32 = 8;
}

/// Extensions, by the names that OpenSSH gave them.
pub mod extension {
    pub const POSIX_RENAME: &str = "posix-rename@openssh.com";
    pub const HARDLINK: &str = "hardlink@openssh.com";
    pub const FSYNC: &str = "fsync@openssh.com";
    pub const STATVFS: &str = "statvfs@openssh.com";
    pub const LSETSTAT: &str = "lsetstat@openssh.com";
    /// All, with their versions.
    pub const ALL: [(&str, &str); 5] =
        [(POSIX_RENAME, "1"), (HARDLINK, "1"), (FSYNC, "1"), (STATVFS, "2"), (LSETSTAT, "1")];
}

/// Flags of an open.
pub mod open {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const APPEND: u32 = 4;
    pub const CREATE: u32 = 8;
    pub const TRUNCATE: u32 = 16;
    pub const EXCLUSIVE: u32 = 32;
}

/// What a thing in a file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, a socket or a device.
    Other,
}

/// What is known of a file, or what is to be set; what is `None` is not known, or stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Its length in bytes.
    pub size: Option<u64>,
    /// Its user and group.
    pub owner: Option<(u32, u32)>,
    /// Its mode, with the bits that tell its kind.
    pub mode: Option<u32>,
    /// When it was last read and changed, in seconds since 1970.
    pub times: Option<(u32, u32)>,
}

impl Attributes {
    /// Those of a file.
    pub fn of(metadata: &std::fs::Metadata) -> Attributes {
        let seconds = |t: i64| u32::try_from(t.max(0)).unwrap_or(u32::MAX);
        Attributes {
            size: Some(metadata.len()),
            owner: Some((metadata.uid(), metadata.gid())),
            mode: Some(metadata.mode()),
            times: Some((seconds(metadata.atime()), seconds(metadata.mtime()))),
        }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        match self.mode.unwrap_or(0) & 0o170_000 {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Directory,
            0o120_000 => Kind::Symlink,
            _ => Kind::Other,
        }
    }
}

/// A packet that is being written.
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty packet of a type.
    pub fn new(kind: u8) -> Writer {
        Writer(vec![0, 0, 0, 0, kind])
    }

    /// With a number.
    pub fn u32(mut self, n: u32) -> Writer {
        self.0.extend(n.to_be_bytes());
        self
    }

    /// With a long number.
    pub fn u64(mut self, n: u64) -> Writer {
        self.0.extend(n.to_be_bytes());
        self
    }

    /// With a string.
    pub fn bytes(self, bytes: impl AsRef<[u8]>) -> Writer {
        let bytes = bytes.as_ref();
        let mut with = self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        with.0.extend_from_slice(bytes);
        with
    }

    /// With attributes.
    pub fn attributes(self, a: &Attributes) -> Writer {
        let flags = u32::from(a.size.is_some())
            | u32::from(a.owner.is_some()) << 1
            | u32::from(a.mode.is_some()) << 2
            | u32::from(a.times.is_some()) << 3;
        let mut with = self.u32(flags);
        if let Some(size) = a.size {
            with = with.u64(size);
        }
        if let Some((uid, gid)) = a.owner {
            with = with.u32(uid).u32(gid);
        }
        if let Some(mode) = a.mode {
            with = with.u32(mode);
        }
        if let Some((read, changed)) = a.times {
            with = with.u32(read).u32(changed);
        }
        with
    }

    /// With what another packet was filled with, without its head.
    pub fn append(mut self, other: Writer) -> Writer {
        self.0.extend_from_slice(other.0.get(5..).unwrap_or_default());
        self
    }

    /// How long it is so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The bytes to send.
    pub fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len().saturating_sub(4)).unwrap_or(u32::MAX);
        if let Some(head) = self.0.get_mut(..4) {
            head.copy_from_slice(&length.to_be_bytes());
        }
        self.0
    }
}

/// A packet that is shorter than it says.
#[derive(Debug, PartialEq, Eq)]
pub struct Torn;

/// A packet that is being read.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The body of a packet.
    pub fn new(body: &'a [u8]) -> Reader<'a> {
        Reader(body)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Torn> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Torn)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8, Torn> {
        self.take(1)?.first().copied().ok_or(Torn)
    }

    /// A number.
    pub fn u32(&mut self) -> Result<u32, Torn> {
        self.take(4)?.try_into().map(u32::from_be_bytes).map_err(|_| Torn)
    }

    /// A long number.
    pub fn u64(&mut self) -> Result<u64, Torn> {
        self.take(8)?.try_into().map(u64::from_be_bytes).map_err(|_| Torn)
    }

    /// A string.
    pub fn bytes(&mut self) -> Result<&'a [u8], Torn> {
        let n = self.u32()?;
        self.take(usize::try_from(n).map_err(|_| Torn)?)
    }

    /// Attributes.
    pub fn attributes(&mut self) -> Result<Attributes, Torn> {
        let flags = self.u32()?;
        let has = |bit: u32| flags & (1 << bit) != 0;
        let mut a = Attributes::default();
        if has(0) {
            a.size = Some(self.u64()?);
        }
        if has(1) {
            a.owner = Some((self.u32()?, self.u32()?));
        }
        if has(2) {
            a.mode = Some(self.u32()?);
        }
        if has(3) {
            a.times = Some((self.u32()?, self.u32()?));
        }
        if has(31) {
            for _ in 0..self.u32()? {
                self.bytes()?;
                self.bytes()?;
            }
        }
        Ok(a)
    }
}
