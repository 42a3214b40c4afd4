//! Terminals in the `devpts` of a container.

use std::ffi::{c_int, c_uint, c_ulong};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// A terminal in the `devpts` of a container: its two ends.
pub fn terminal(devpts: &OwnedFd) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: plain system calls on descriptors that live; results are checked and owned at once.
    unsafe {
        let ours = libc::openat(devpts.as_raw_fd(), c"ptmx".as_ptr(), flags);
        if ours < 0 {
            return Err(io::Error::last_os_error());
        }
        let ours = OwnedFd::from_raw_fd(ours);
        let unlock: c_int = 0;
        if libc::ioctl(ours.as_raw_fd(), libc::TIOCSPTLCK, &unlock) < 0 {
            return Err(io::Error::last_os_error());
        }
        let theirs = libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER as c_ulong, flags as c_uint);
        if theirs < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((ours, OwnedFd::from_raw_fd(theirs)))
    }
}
