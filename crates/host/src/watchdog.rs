//! The machine's watchdog: it resets the machine unless it hears from its holder in time.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

/// Sets after how many seconds it acts: `_IOWR('W', 6, int)` of `linux/watchdog.h`.
const SET_TIMEOUT: libc::Ioctl = 0xc004_5706_u32 as libc::Ioctl;

/// A watchdog that counts down. A holder that ends without [`Watchdog::close`] leaves it counting.
#[derive(Debug)]
pub struct Watchdog {
    file: File,
    path: PathBuf,
}

impl Watchdog {
    /// Opens it, whereupon it begins to count; `seconds` is when it is to act, as far as it can be told.
    ///
    /// # Errors
    /// When there is none, or somebody else (systemd) holds it.
    pub fn open(path: &Path, seconds: i32) -> io::Result<Watchdog> {
        let file = File::options().write(true).open(path)?;
        let mut wanted = seconds;
        // SAFETY: the kernel reads and writes the one integer behind the pointer, which outlives the call.
        let told = unsafe { libc::ioctl(file.as_raw_fd(), SET_TIMEOUT, &raw mut wanted) };
        if told != 0 {
            tracing::debug!("{} keeps its own time: {}", path.display(), io::Error::last_os_error());
        }
        Ok(Watchdog { file, path: path.to_owned() })
    }

    /// Tells it that all is well.
    pub fn pet(&mut self) -> io::Result<()> {
        self.file.write_all(b"\0")
    }

    /// Tells it to stop counting.
    pub fn close(mut self) -> io::Result<()> {
        self.file.write_all(b"V")
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_petted_and_closed_with_the_word_that_stops_it() {
        // A file is no watchdog, but takes the same writes.
        let path = std::env::temp_dir().join(format!("watchdog-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let mut watchdog = Watchdog::open(&path, 10).unwrap();
        watchdog.pet().unwrap();
        assert_eq!(watchdog.path(), path);
        watchdog.close().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"\0V");
        std::fs::remove_file(&path).unwrap();
        assert!(Watchdog::open(&path, 10).is_err());
    }
}
