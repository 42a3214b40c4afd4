//! Formats of image files, told by their first bytes, and the streams that undo or do the compression.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use api::error::Context as _;
use api::{Error, Result};
use liblzma::stream::Stream;

use super::not_an_image;

/// Memory that unpacking xz may take, in bytes: what `xz -9` needs, and a reserve.
const XZ_MEMORY: u64 = 256 << 20;

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A tarball, compressed like that.
    Tar(Compression),
    /// A squashfs.
    Squashfs,
}

/// How a tarball is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// What came before xz.
    Lzma,
    /// zstd.
    Zstd,
    /// lz4, in frames.
    Lz4,
}

impl Compression {
    /// The one that clients and the configuration call so; what follows a space (a level) is for other programs.
    pub fn parse(name: &str) -> Result<Compression> {
        Ok(match name.split(' ').next().unwrap_or_default() {
            "" | "gzip" => Compression::Gzip,
            "none" => Compression::None,
            "bzip2" => Compression::Bzip2,
            "xz" => Compression::Xz,
            "lzma" => Compression::Lzma,
            "zstd" => Compression::Zstd,
            "lz4" => Compression::Lz4,
            other => {
                return Err(Error::bad_request(format!(
                    "The compression algorithm \"{other}\" isn't supported: use none, gzip, bzip2, xz, lzma, zstd or lz4"
                )));
            }
        })
    }

    /// A reader of what was compressed.
    pub(super) fn reader<'a>(self, from: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Compression::None => Box::new(from),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(from)),
            Compression::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(from)),
            Compression::Xz | Compression::Lzma => {
                let stream = Stream::new_auto_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED);
                let stream = stream.map_err(|e| Error::internal(format!("Starting to unpack xz: {e}")))?;
                Box::new(liblzma::read::XzDecoder::new_stream(from, stream))
            }
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(from).context("Starting to unpack zstd")?),
            Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(from)),
        })
    }

    /// Compresses what `write` writes.
    pub(super) fn write<W: Write>(self, to: W, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<W> {
        let ended = |r: io::Result<W>| r.context("Compressing");
        match self {
            Compression::None => {
                let mut to = to;
                write(&mut to)?;
                Ok(to)
            }
            Compression::Gzip => {
                let mut to = flate2::write::GzEncoder::new(to, flate2::Compression::default());
                write(&mut to)?;
                ended(to.finish())
            }
            Compression::Bzip2 => {
                let mut to = bzip2::write::BzEncoder::new(to, bzip2::Compression::default());
                write(&mut to)?;
                ended(to.finish())
            }
            Compression::Xz => {
                let mut to = liblzma::write::XzEncoder::new(to, 6);
                write(&mut to)?;
                ended(to.finish())
            }
            Compression::Lzma => {
                let options = liblzma::stream::LzmaOptions::new_preset(6);
                let stream = options.and_then(|o| Stream::new_lzma_encoder(&o));
                let stream = stream.map_err(|e| Error::internal(format!("Starting to compress: {e}")))?;
                let mut to = liblzma::write::XzEncoder::new_stream(to, stream);
                write(&mut to)?;
                ended(to.finish())
            }
            Compression::Zstd => {
                let mut to = zstd::stream::write::Encoder::new(to, 0).context("Starting to compress")?;
                write(&mut to)?;
                ended(to.finish())
            }
            Compression::Lz4 => {
                let mut to = lz4_flex::frame::FrameEncoder::new(to);
                write(&mut to)?;
                ended(to.finish().map_err(io::Error::other))
            }
        }
    }
}

impl Format {
    /// The format of what begins with these (at least 512, if there are so many) bytes.
    pub fn of(start: &[u8]) -> Result<Format> {
        let tar = |compression| Ok(Format::Tar(compression));
        match start {
            [0x1f, 0x8b, ..] => tar(Compression::Gzip),
            [b'B', b'Z', b'h', ..] => tar(Compression::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => tar(Compression::Xz),
            [0x5d, 0, 0, ..] => tar(Compression::Lzma),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => tar(Compression::Zstd),
            [b'h', b's', b'q', b's', ..] => Ok(Format::Squashfs),
            _ if start.get(257..262) == Some(b"ustar") => tar(Compression::None),
            [b'Q', b'F', b'I', 0xfb, ..] => Err(not_an_image("it is the disk of a virtual machine")),
            [0x04, 0x22, 0x4d, 0x18, ..] => tar(Compression::Lz4),
            [] => Err(not_an_image("the file is empty")),
            _ => Err(not_an_image("it is neither a tarball (plain, gzip, bzip2, xz, lzma, zstd, lz4) nor a squashfs")),
        }
    }

    /// The format of a file.
    pub fn detect(path: &Path) -> Result<Format> {
        let mut start = Vec::with_capacity(512);
        let file = File::open(path).context(format!("Opening {}", path.display()))?;
        file.take(512).read_to_end(&mut start).context(format!("Reading {}", path.display()))?;
        Format::of(&start)
    }

    /// How names of such files end.
    pub const fn extension(self) -> &'static str {
        match self {
            Format::Tar(Compression::None) => ".tar",
            Format::Tar(Compression::Gzip) => ".tar.gz",
            Format::Tar(Compression::Bzip2) => ".tar.bz2",
            Format::Tar(Compression::Xz) => ".tar.xz",
            Format::Tar(Compression::Lzma) => ".tar.lzma",
            Format::Tar(Compression::Zstd) => ".tar.zst",
            Format::Tar(Compression::Lz4) => ".tar.lz4",
            Format::Squashfs => ".squashfs",
        }
    }
}

/// A reader of a file that tells how many bytes of it were read.
pub(super) struct Counted<'a> {
    file: BufReader<File>,
    read: u64,
    tell: &'a dyn Fn(u64),
}

impl<'a> Counted<'a> {
    pub(super) fn open(path: &Path, tell: &'a dyn Fn(u64)) -> Result<Counted<'a>> {
        let file = File::open(path).context(format!("Opening {}", path.display()))?;
        Ok(Counted { file: BufReader::with_capacity(1 << 17, file), read: 0, tell })
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        let before = self.read >> 20;
        self.read += n as u64;
        if self.read >> 20 != before || n == 0 {
            (self.tell)(self.read);
        }
        Ok(n)
    }
}
