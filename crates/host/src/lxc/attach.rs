//! Running a program in a container. All of this forks: only in a process with one thread.

use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::ptr::null;

use super::{AttachRun, Container, method, text};

/// `lxc_attach_options_t`.
#[repr(C)]
pub(super) struct Options {
    attach_flags: c_int,
    namespaces: c_int,
    personality: c_long,
    initial_cwd: *const c_char,
    uid: libc::uid_t,
    gid: libc::gid_t,
    env_policy: c_int,
    extra_env_vars: *const *const c_char,
    extra_keep_env: *const *const c_char,
    stdin_fd: c_int,
    stdout_fd: c_int,
    stderr_fd: c_int,
    log_fd: c_int,
    lsm_label: *mut c_char,
    groups_size: usize,
    groups_list: *mut libc::gid_t,
}

/// LXC_ATTACH_DEFAULT: its cgroups, capabilities, personality and security label.
const DEFAULT: c_int = 0xffff;
/// LXC_ATTACH_CLEAR_ENV.
const CLEAR_ENVIRONMENT: c_int = 1;

/// A program to run in a container.
pub struct Attach<'a> {
    /// The program and its arguments; at least one.
    pub argv: &'a [String],
    /// Its environment, as `KEY=value`.
    pub env: &'a [String],
    /// Where it starts.
    pub cwd: &'a str,
    /// As seen inside.
    pub uid: u32,
    /// As seen inside.
    pub gid: u32,
    /// Its standard streams: none of them 0, 1 or 2 here.
    pub stdio: [RawFd; 3],
    /// Makes its standard input the terminal that controls it.
    pub controlling_terminal: bool,
}

/// A program that runs, a child of this process.
pub struct Attached {
    /// Its process id outside.
    pub pid: u32,
}

/// Why a program doesn't run.
#[derive(Debug)]
pub enum Refused {
    /// The kernel refuses to execute it, with this error.
    Exec(io::Error),
    /// It didn't come that far.
    Attach(io::Error),
}

impl From<io::Error> for Refused {
    fn from(e: io::Error) -> Refused {
        Refused::Attach(e)
    }
}

/// What the child needs; only pointers, as it may not allocate.
struct Program {
    argv: *const *const c_char,
    controlling_terminal: bool,
    report: RawFd,
}

/// Runs in the child, inside the container, with its ids and standard streams.
unsafe extern "C" fn become_program(program: *mut c_void) -> c_int {
    // SAFETY: `attach` passes a Program that lives in the child's copy of memory; only system calls follow.
    unsafe {
        let program = &*program.cast::<Program>();
        libc::setsid();
        if program.controlling_terminal {
            libc::ioctl(0, libc::TIOCSCTTY, 0);
        }
        libc::execvp(*program.argv, program.argv);
        let error = *libc::__errno_location();
        libc::write(program.report, (&raw const error).cast(), size_of::<c_int>());
        if error == libc::ENOENT { 127 } else { 126 }
    }
}

impl Container {
    /// Starts a program in it. Forks: only in a process with one thread.
    pub fn attach(&self, run: &Attach<'_>) -> Result<Attached, Refused> {
        let attach = method!(self, attach);
        let strings = |all: &[String]| all.iter().map(|s| text(s)).collect::<io::Result<Vec<_>>>();
        let pointers = |all: &[CString]| all.iter().map(|s| s.as_ptr()).chain([null()]).collect::<Vec<_>>();
        let (argv, env) = (strings(run.argv)?, strings(run.env)?);
        if argv.is_empty() {
            return Err(Refused::Attach(io::Error::new(io::ErrorKind::InvalidInput, "no program is named")));
        }
        let (argv_p, env_p) = (pointers(&argv), pointers(&env));
        let cwd = text(run.cwd)?;
        let (mut read, write) = pipe()?;
        let mut options = Options {
            attach_flags: DEFAULT,
            namespaces: -1,
            personality: -1,
            initial_cwd: cwd.as_ptr(),
            uid: run.uid,
            gid: run.gid,
            env_policy: CLEAR_ENVIRONMENT,
            extra_env_vars: env_p.as_ptr(),
            extra_keep_env: null(),
            stdin_fd: run.stdio[0],
            stdout_fd: run.stdio[1],
            stderr_fd: run.stdio[2],
            log_fd: -libc::EBADF,
            lsm_label: std::ptr::null_mut(),
            groups_size: 0,
            groups_list: std::ptr::null_mut(),
        };
        let mut program = Program {
            argv: argv_p.as_ptr(),
            controlling_terminal: run.controlling_terminal,
            report: write.as_raw_fd(),
        };
        let mut pid: libc::pid_t = 0;
        let payload = (&raw mut program).cast();
        let function: AttachRun = become_program;
        // SAFETY: all pointers live until the call returns; the child has its own copy of them.
        let code = unsafe { attach(self.raw, function, payload, &raw mut options, &raw mut pid) };
        drop(write);
        let Some(pid) = u32::try_from(pid).ok().filter(|pid| code == 0 && *pid > 0) else {
            return Err(self.error("a process can't be started in it").into());
        };
        // The pipe closes when the program is executed.
        let mut error = [0; size_of::<c_int>()];
        if read.read_exact(&mut error).is_ok() {
            let _ = wait_for(pid);
            return Err(Refused::Exec(io::Error::from_raw_os_error(c_int::from_ne_bytes(error))));
        }
        Ok(Attached { pid })
    }
}

impl Attached {
    /// Waits for its end; its exit code, or 128 + the number of the signal that ended it.
    pub fn wait(&self) -> io::Result<i32> {
        wait_for(self.pid)
    }
}

fn pipe() -> io::Result<(File, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: an array of two; the descriptors are owned at once.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

fn wait_for(pid: u32) -> io::Result<i32> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status = 0;
    loop {
        // SAFETY: a plain system call with a pointer to a live integer.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            break;
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
    Ok(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) })
}
