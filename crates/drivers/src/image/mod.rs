//! Images as files: which formats there are, how they are unpacked without trusting them, and how they are made.
//!
//! An image is one tarball (or squashfs) with `metadata.yaml`, `templates/` and `rootfs/`, or two: one with all but
//! the root file system, and the root file system. Unpacked, both are a directory with those three in it.

mod archive;
mod beneath;
pub mod build;
mod format;
mod metadata;
mod pack;
mod room;
mod squashfs;
pub mod template;
pub mod templates;
#[cfg(test)]
mod tests;
mod unpack;

use std::io::Read;
use std::path::PathBuf;

use api::error::Context as _;
use api::{Error, Result};
use sha2::{Digest as _, Sha256};

pub use api::image::ImageMetadata as Metadata;
pub use format::{Compression, Format};
pub use metadata::{METADATA, read_metadata, write_metadata};
pub use pack::{Content, Pack, pack};
pub use unpack::{Unpack, inspect, unpack};

/// The files of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The only one, or the one with all but the root file system.
    pub image: PathBuf,
    /// The root file system, if it comes in a file of its own.
    pub rootfs: Option<PathBuf>,
}

impl Files {
    /// Both, in the order in which the fingerprint takes them.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.image).chain(&self.rootfs)
    }
}

/// The fingerprint of an image: SHA-256 of its files, one after the other, in hexadecimal.
pub fn fingerprint(files: &Files) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    for path in files.paths() {
        let mut file = std::fs::File::open(path).context(format!("Opening {}", path.display()))?;
        loop {
            let n = file.read(&mut buffer).context(format!("Reading {}", path.display()))?;
            if n == 0 {
                break;
            }
            hash.update(buffer.get(..n).unwrap_or_default());
        }
    }
    Ok(hex::encode(hash.finalize()))
}

/// What is not an image, and why.
fn not_an_image(why: impl std::fmt::Display) -> Error {
    Error::bad_request(format!("Not an image: {why}"))
}
