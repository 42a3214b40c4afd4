//! Processes of others: their end, signals, and what `/proc` tells of them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A hold on a process: whatever happens to its id later, this is still the same process.
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
    pid: u32,
}

impl Process {
    /// The process of that id; none if there is none.
    pub fn open(pid: u32) -> io::Result<Option<Process>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(fd) => Ok(Some(Process { fd, pid })),
            // The last two are what kernels say of a thread that is not the first of its process.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Its id.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it has ended, or this long; true if it has ended.
    pub fn wait(&self, patience: Option<Duration>) -> io::Result<bool> {
        let end = patience.and_then(|p| Instant::now().checked_add(p));
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let timeout = left.map(|left| Timespec::try_from(left).map_err(io::Error::other)).transpose()?;
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
            }
        }
    }

    /// Sends it a signal by number; false if it has ended.
    pub fn signal(&self, number: i32) -> io::Result<bool> {
        // SAFETY: a plain system call on a descriptor that lives; no structure is passed.
        let code = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), number, std::ptr::null::<u8>(), 0)
        };
        if code == 0 {
            return Ok(true);
        }
        match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            e => Err(e),
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The title of a process: its arguments with spaces between them; none if it is gone or dead.
pub fn title(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    Some(text.trim_end().to_owned()).filter(|t| !t.is_empty())
}

/// A line of `/proc/<pid>/status`, as `PPid`.
pub fn status(pid: u32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':').map(|v| v.trim().to_owned()))
}

/// The process that has started it.
pub fn parent(pid: u32) -> Option<u32> {
    status(pid, "PPid")?.parse().ok().filter(|pid| *pid > 0)
}

/// True if it does something about a signal, or waits for it.
pub fn expects(pid: u32, signal: i32) -> bool {
    let mask = |key| status(pid, key).and_then(|m| u64::from_str_radix(&m, 16).ok()).unwrap_or(0);
    let bit = u32::try_from(signal - 1).ok().and_then(|n| 1u64.checked_shl(n)).unwrap_or(0);
    (mask("SigCgt") | mask("SigBlk") | waits_for(pid).unwrap_or(0)) & bit != 0
}

/// The signals that it waits for just now, in `rt_sigtimedwait(2)`: so long they don't count as blocked.
fn waits_for(pid: u32) -> Option<u64> {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    let mut fields = call.split_whitespace();
    fields.next().filter(|number| number.parse() == Ok(libc::SYS_rt_sigtimedwait))?;
    let set = u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok()?;
    let mut signals = [0; 8];
    fs::File::open(format!("/proc/{pid}/mem")).ok()?.read_exact_at(&mut signals, set).ok()?;
    Some(u64::from_ne_bytes(signals))
}

/// When it was started.
pub fn started(pid: u32) -> Option<SystemTime> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything; the start is the 22nd field, the 20th after it.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = system.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
    // SAFETY: a plain question to the C library.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|n| *n > 0)?;
    let since_boot = Duration::from_millis(ticks * 1000 / per_second);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(boot) + since_boot)
}

/// The id here of a user (`uid_map`) or group (`gid_map`) in the user namespace of a process.
pub fn outside(pid: u32, map: &str, id: u32) -> io::Result<Option<u32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/{map}"))?;
    Ok(text.lines().find_map(|line| {
        let mut fields = line.split_whitespace().map(|f| f.parse::<u64>().ok());
        let (inside, outside, size) = (fields.next()??, fields.next()??, fields.next()??);
        let at = u64::from(id).checked_sub(inside).filter(|at| *at < size)?;
        u32::try_from(outside + at).ok()
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_is_held_signalled_and_its_end_noticed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap().unwrap();
        assert_eq!(parent(child.id()), Some(std::process::id()));
        assert!(started(child.id()).unwrap() <= SystemTime::now());
        assert!(!process.wait(Some(Duration::from_millis(10))).unwrap());
        assert!(process.signal(libc::SIGKILL).unwrap());
        assert!(process.wait(None).unwrap());
        child.wait().unwrap();
        assert!(!process.signal(libc::SIGKILL).unwrap());
        assert!(title(process.pid()).is_none());
    }

    #[test]
    fn what_proc_tells_of_this_process() {
        let me = std::process::id();
        assert!(title(me).unwrap().contains("host"));
        assert_eq!(outside(me, "uid_map", 0).unwrap(), Some(0));
        assert!(!expects(me, libc::SIGUSR2));
    }

    #[test]
    fn a_process_that_waits_for_a_signal_expects_that_one() {
        // SAFETY: the child makes nothing but system calls, with pointers into its own stack.
        let child = unsafe {
            let child = libc::fork();
            if child == 0 {
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&raw mut set);
                libc::sigaddset(&raw mut set, libc::SIGUSR2);
                libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
                libc::sigwaitinfo(&raw const set, std::ptr::null_mut());
                libc::_exit(0);
            }
            child
        };
        let process = Process::open(u32::try_from(child).unwrap()).unwrap().unwrap();
        // Before it waits the signal is blocked, while it waits it is not.
        while waits_for(process.pid()).is_none() {
            assert!(!process.wait(Some(Duration::from_millis(1))).unwrap());
        }
        assert!(expects(process.pid(), libc::SIGUSR2) && !expects(process.pid(), libc::SIGUSR1));
        assert!(process.signal(libc::SIGUSR2).unwrap());
        assert!(process.wait(None).unwrap());
        // SAFETY: a plain system call; the child is ours.
        assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
    }
}
