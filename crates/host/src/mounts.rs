//! Mounts that are moved from here into the mount namespace of a container, and taken away there.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use rustix::thread::{
    Gid, ThreadNameSpaceType, Uid, move_into_thread_name_spaces, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::net::words;
use crate::process::Process;

const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const AT_RECURSIVE: i32 = 0x8000;

/// `struct mount_attr`.
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// A copy of what is mounted at a place, not mounted anywhere yet.
#[derive(Debug)]
pub struct Tree {
    fd: OwnedFd,
    recursive: bool,
    /// True for a directory, false for a file.
    pub directory: bool,
}

impl Tree {
    /// A copy of a directory or file, with what is mounted below it if `recursive`.
    pub fn copy(source: &Path, recursive: bool) -> io::Result<Tree> {
        let what = |e| words(e, format!("Failed to copy the mount at \"{}\"", source.display()));
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
        let directory = fs::metadata(source).map_err(what)?.is_dir();
        let fd = open_tree(CWD, source, flags).map_err(|e| what(e.into()))?;
        Ok(Tree { fd, recursive, directory })
    }

    /// Makes its files those of the ids of a user namespace (`/proc/<pid>/ns/user`).
    pub fn map_ids(&self, userns: BorrowedFd<'_>) -> io::Result<()> {
        let userns = u64::try_from(userns.as_raw_fd()).map_err(io::Error::other)?;
        self.set(&Attributes { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns })
            .map_err(|e| words(e, "Its file system has no id-mapped mounts"))
    }

    /// Makes it read-only.
    pub fn make_readonly(&self) -> io::Result<()> {
        self.set(&Attributes { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, userns: 0 })
            .map_err(|e| words(e, "Failed to make the mount read-only"))
    }

    fn set(&self, attributes: &Attributes) -> io::Result<()> {
        let flags = libc::AT_EMPTY_PATH | if self.recursive { AT_RECURSIVE } else { 0 };
        // SAFETY: a descriptor that lives, an empty path, and a structure of the size that is told.
        let code = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.fd.as_raw_fd(),
                c"".as_ptr(),
                flags,
                &raw const *attributes,
                size_of::<Attributes>(),
            )
        };
        if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes this process one of a container: its mounts, its ids, root there. Only with one thread.
pub fn enter(init: &Process) -> io::Result<()> {
    let ns = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/user")).map(|m| m.ino());
    let own_users = ns(&init.pid().to_string())? != ns("self")?;
    let mut types = ThreadNameSpaceType::MOUNT;
    types.set(ThreadNameSpaceType::USER, own_users);
    move_into_thread_name_spaces(init.as_fd(), types).map_err(|e| words(e.into(), "Failed to enter the container"))?;
    if own_users {
        set_thread_groups(&[])?;
        set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    }
    Ok(())
}

/// In the process that has entered: mounts a copied tree at a path, which is made if it is not there.
pub fn attach(tree: BorrowedFd<'_>, target: &str, directory: bool) -> io::Result<()> {
    let place = make(target, directory).map_err(|e| words(e, format!("Failed to make \"{target}\"")))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", &place, "", flags).map_err(|e| words(e.into(), format!("Failed to mount \"{target}\"")))
}

/// In the process that has entered: takes away what is mounted at a path.
pub fn detach(target: &str) -> io::Result<()> {
    unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .map_err(|e| words(e.into(), format!("Failed to unmount \"{target}\"")))
}

/// Opens a path, making the directories on the way, and at its end a directory or an empty file.
fn make(target: &str, directory: bool) -> io::Result<OwnedFd> {
    let open = |at: &OwnedFd, name: &str, flags: OFlags, mode: Mode| {
        let inside = ResolveFlags::NO_MAGICLINKS | ResolveFlags::IN_ROOT;
        openat2(at, name, flags | OFlags::CLOEXEC, mode, inside)
    };
    let root: OwnedFd = fs::File::open("/")?.into();
    let names: Vec<&str> = target.split('/').filter(|n| !n.is_empty() && *n != ".").collect();
    if names.is_empty() || names.contains(&"..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a path below the root"));
    }
    // Links are followed as the container sees them: each step starts from its root again.
    let mut path = String::new();
    for (n, name) in names.iter().enumerate() {
        let parent = if path.is_empty() { root.try_clone()? } else { open(&root, &path, OFlags::PATH, Mode::empty())? };
        path = format!("{path}/{name}");
        if open(&root, &path, OFlags::PATH, Mode::empty()).is_ok() {
            continue;
        }
        if directory || n + 1 < names.len() {
            mkdirat(&parent, *name, Mode::from_raw_mode(0o755))?;
        } else {
            open(&parent, name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, Mode::from_raw_mode(0o644))?;
        }
    }
    Ok(open(&root, &path, OFlags::PATH, Mode::empty())?)
}
