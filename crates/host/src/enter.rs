//! Entering the file system of others, for good: what a re-executed helper does before it touches their files.
//!
//! Both ways end with the place as `/` and with nothing else in sight. The calling process must have one thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Gid, Pid, PidfdFlags, Uid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Enters the user and mount namespaces of a process, as root of that user namespace. Gives a descriptor that becomes
/// readable when the process ends.
pub fn process(pid: i32) -> io::Result<OwnedFd> {
    let id = Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let alive = rustix::process::pidfd_open(id, PidfdFlags::empty())?;
    let open = |name: &str| File::open(format!("/proc/{pid}/ns/{name}"));
    let (user, mount) = (open("user")?, open("mnt")?);
    let own = std::fs::metadata("/proc/self/ns/user")?;
    let foreign = user.metadata()?.ino() != own.ino();
    if foreign {
        move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))?;
    }
    move_into_link_name_space(mount.as_fd(), Some(LinkNameSpaceType::Mount))?;
    if foreign {
        // A user namespace may forbid to change groups; what is left then means nothing in it.
        let _ = rustix::thread::set_thread_groups(&[]);
        rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    }
    std::env::set_current_dir("/")?;
    Ok(alive)
}

/// Makes a directory the root of a mount namespace of this process, in which devices mean nothing.
pub fn directory(path: &Path) -> io::Result<()> {
    // What the name leads to is looked at once, and no link in its last part is followed.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::process::fchdir(rustix::fs::open(path, flags, Mode::empty())?)?;
    // SAFETY: the table of file descriptors is not unshared, only the mount namespace, and the caller has one thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // A mount point of its own, as a new root must be.
    rustix::mount::mount_bind(".", path)?;
    std::env::set_current_dir(path)?;
    rustix::mount::mount_remount(".", MountFlags::BIND | MountFlags::NODEV | MountFlags::NOSUID, "")?;
    rustix::process::pivot_root(".", ".")?;
    // The old root lies over the new one now.
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}
