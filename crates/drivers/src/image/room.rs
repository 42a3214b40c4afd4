//! How much an image may take where it is unpacked: what it is allowed, and what the file system can spare.
//!
//! A few kilobytes can hold an image of terabytes. It is refused before the file system is full: others write there,
//! the database perhaps among them.

use std::os::fd::OwnedFd;
use std::path::Path;

use api::error::Context as _;
use api::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags, fstatvfs, openat};

use super::archive::Entry;

/// Bytes of the file system that stay free, unless that is more than [`PART`] of it.
const RESERVE: u64 = 64 << 20;
/// Files that may still be made on the file system when the image is there; the same goes for them.
const RESERVED_FILES: u64 = 1024;
/// A small file system keeps no more than one in so many bytes and files.
const PART: u64 = 16;
/// Bytes between two looks at the file system.
const STEP: u64 = 16 << 20;
/// What an entry takes beside its contents, in bytes, so that ten million empty files are not for nothing.
pub(super) const ENTRY: u64 = 512;

/// What is left of it.
pub(super) struct Room {
    limit: u64,
    left: u64,
    dir: OwnedFd,
    since_look: u64,
}

impl Room {
    /// So many bytes (any number if `None`) in the file system of `dest`.
    pub(super) fn new(dest: &Path, limit: Option<u64>) -> Result<Room> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = openat(CWD, dest, flags, Mode::empty())
            .map_err(std::io::Error::from)
            .context(format!("Opening {}", dest.display()))?;
        let limit = limit.unwrap_or(u64::MAX);
        let room = Room { limit, left: limit, dir, since_look: 0 };
        room.look(0)?;
        Ok(room)
    }

    /// Takes what an entry needs.
    pub(super) fn take_entry(&mut self, entry: &Entry) -> Result<()> {
        let beside: usize = entry.attributes.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.take(entry.size.saturating_add(ENTRY + beside as u64 + entry.link.len() as u64))
    }

    /// Takes so many bytes.
    pub(super) fn take(&mut self, bytes: u64) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            Error::bad_request(format!(
                "The image doesn't fit: unpacked it is larger than {} bytes, the size of the root disk",
                self.limit
            ))
        })?;
        if bytes >= STEP {
            self.look(bytes)?;
        }
        self.pass(bytes)
    }

    /// Notes that so many bytes were written, and looks from time to time how much others have left.
    pub(super) fn pass(&mut self, bytes: u64) -> Result<()> {
        self.since_look = self.since_look.saturating_add(bytes);
        if self.since_look < STEP {
            return Ok(());
        }
        self.since_look = 0;
        self.look(0)
    }

    /// Refuses if so many bytes more would fill the file system.
    pub(super) fn look(&self, bytes: u64) -> Result<()> {
        let fs = fstatvfs(&self.dir).map_err(std::io::Error::from).context("Looking how much is free")?;
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        let refused = |what: &str, free: u64, reserve: u64| {
            Err(Error::bad_request(format!(
                "The image doesn't fit: the file system of the storage pool has {free} {what} left, and {reserve} must \
                 stay free"
            )))
        };
        let reserve = RESERVE.min(fs.f_blocks.saturating_mul(fs.f_frsize) / PART);
        if bytes.saturating_add(reserve) > free {
            return refused("KiB", free >> 10, reserve >> 10);
        }
        // Some file systems don't count files.
        let reserve = RESERVED_FILES.min(fs.f_files / PART);
        if fs.f_files > 0 && fs.f_favail < reserve {
            return refused("files", fs.f_favail, reserve);
        }
        Ok(())
    }
}
