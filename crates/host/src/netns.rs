//! Network namespaces: opening them, making them, and doing something inside.
//!
//! A namespace is entered by a short-lived thread of its own, so that no thread of the caller ever changes its
//! network. A netlink socket or child process made inside stays there, whoever uses it later.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    panic::resume_unwind,
    path::Path,
    process::Command,
    thread,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// An open network namespace; it lives at least as long as this.
#[derive(Debug)]
pub struct Netns(OwnedFd);

impl Netns {
    /// The namespace of the calling thread.
    pub fn own() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is no such process.
    pub fn of_pid(pid: i32) -> io::Result<Self> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// The namespace behind a file, as `/run/netns/x`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        match File::open(path) {
            Ok(file) => Ok(Self(file.into())),
            Err(e) => {
                let what = format!("Failed to open network namespace \"{}\": {e}", path.display());
                Err(io::Error::new(e.kind(), what))
            }
        }
    }

    /// A fresh, empty namespace; gone when nothing refers to it any more.
    pub fn fresh() -> io::Result<Self> {
        on_own_thread(|| {
            // SAFETY: the file descriptor table is not unshared, only the network namespace of this
            // thread, which ends right after.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            Self::own()
        })
    }

    /// Runs `f` on a thread inside this namespace and waits for it.
    ///
    /// # Errors
    /// When the namespace cannot be entered (it needs `CAP_SYS_ADMIN`); what `f` gives is handed on.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_own_thread(|| {
            move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(f())
        })
    }

    /// Makes the command's process run inside this namespace, which must stay open until it is spawned.
    pub fn command<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let fd = self.0.as_raw_fd();
        // SAFETY: between fork and exec only the async-signal-safe system call setns is made; the
        // descriptor is open then, as the caller keeps `self`, and a bad one merely fails.
        unsafe {
            command.pre_exec(move || {
                let fd = BorrowedFd::borrow_raw(fd);
                Ok(move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))?)
            })
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A namespace belongs to a thread: whatever changes it runs on one that ends afterwards.
fn on_own_thread<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|s| s.spawn(f).join().unwrap_or_else(|panic| resume_unwind(panic)))
}
