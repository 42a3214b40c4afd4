//! The process that answers DHCP and DNS on a bridge: started, watched, and started again when it dies.
//!
//! It outlives the daemon. The next daemon finds it by its file of process ids, makes sure that it is what it takes
//! it for, and watches it on.

use std::{
    fs::{self, File},
    io::{self, Error},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// How long it may take until it serves, or until it has ended.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before it is started again; doubled each time up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);
/// One that lived longer did not die of its configuration.
const HEALTHY: Duration = Duration::from_secs(60);

/// Which process.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// The network that it serves.
    pub network: String,
    /// Its folder; absolute.
    pub dir: PathBuf,
    /// Where it leaves its process id.
    pub pid_file: PathBuf,
}

/// A process that is watched. Dropping this leaves it running, unwatched.
#[derive(Debug)]
pub(super) struct Watched {
    job: Job,
    /// The configuration that it was started with.
    config: String,
    alive: Arc<AtomicBool>,
    /// Closed to end the watching.
    until: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    /// Takes over the process that runs already if it has this configuration, otherwise starts one in its place.
    /// It serves when this returns.
    pub fn start(job: Job, config: String) -> io::Result<Self> {
        let running = find(&job)?.filter(|_| fs::read_to_string(job.config()).is_ok_and(|now| now == config));
        let process = match running {
            Some(fd) => {
                signal(&fd, Signal::HUP);
                Process { fd, child: None }
            }
            None => {
                stop(&job)?;
                fs::write(job.config(), &config)?;
                spawn(&job)?
            }
        };
        let alive = Arc::new(AtomicBool::new(true));
        let (ended, until) = io::pipe()?;
        let watcher = Watcher { job: job.clone(), alive: alive.clone(), ended };
        let name = format!("dnsmasq-{}", job.network);
        let thread = thread::Builder::new().name(name).spawn(move || watcher.run(process))?;
        Ok(Self { job, config, alive, until: Some(until), thread: Some(thread) })
    }

    /// Whether it runs with this configuration.
    pub fn serves(&self, config: &str) -> bool {
        self.config == config && self.is_running()
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.alive.load(Relaxed)
    }

    /// Makes it read the fixed addresses and names again.
    pub fn reload(&self) {
        match find(&self.job) {
            Ok(Some(fd)) => signal(&fd, Signal::HUP),
            Ok(None) => {} // it reads them when it is started
            Err(e) => tracing::warn!(network = self.job.network, "the DNS server could not be told of a change: {e}"),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.until.take());
        if let Some(thread) = self.thread.take() {
            // The watcher sees the closed pipe at once; it holds nothing that could make it panic.
            let _ = thread.join();
        }
    }
}

/// Ends the process, whoever started it; fine if there is none.
pub(super) fn stop(job: &Job) -> io::Result<()> {
    if let Some(fd) = find(job)? {
        signal(&fd, Signal::TERM);
        if !wait(&fd, PATIENCE)? {
            signal(&fd, Signal::KILL);
            if !wait(&fd, PATIENCE)? {
                return Err(Error::other(format!("the DNS server of network \"{}\" does not end", job.network)));
            }
        }
    }
    match fs::remove_file(&job.pid_file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

impl Job {
    fn config(&self) -> PathBuf {
        self.dir.join("dnsmasq.conf")
    }

    /// What no other process has among its arguments.
    fn mark(&self) -> String {
        format!("--conf-file={}", self.config().display())
    }
}

struct Process {
    fd: OwnedFd,
    /// Set if it is our own child, which must be waited for.
    child: Option<Child>,
}

/// The process of this job, if it runs. A process id alone proves nothing: it may have been given anew.
fn find(job: &Job) -> io::Result<Option<OwnedFd>> {
    let text = fs::read_to_string(&job.pid_file).unwrap_or_default();
    // Incus, whose place this daemon may have taken, writes some YAML there.
    let number = text.lines().find_map(|l| l.strip_prefix("pid: ").unwrap_or(l).trim().parse().ok());
    let Some(pid) = number.and_then(Pid::from_raw) else { return Ok(None) };
    let fd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        // The last two are what kernels say of a thread that is not the first of its process.
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    // The descriptor holds the process: what is read now is about it, or it is gone.
    let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let marks = [job.mark(), format!("--conf-file={}", job.dir.join("dnsmasq.raw").display())];
    let ours = arguments.split(|b| *b == 0).any(|a| marks.iter().any(|m| a == m.as_bytes()));
    if !ours {
        return Ok(None);
    }
    if !same_network(pid)? {
        tracing::warn!(network = job.network, "a DNS server of another network namespace is ended");
        signal(&fd, Signal::KILL);
        wait(&fd, PATIENCE)?;
        return Ok(None);
    }
    Ok(Some(fd))
}

fn same_network(pid: Pid) -> io::Result<bool> {
    let own = fs::metadata("/proc/thread-self/ns/net")?;
    let its = fs::metadata(format!("/proc/{}/ns/net", pid.as_raw_nonzero()));
    Ok(its.is_ok_and(|its| (its.dev(), its.ino()) == (own.dev(), own.ino())))
}

/// Starts it and waits until it serves.
fn spawn(job: &Job) -> io::Result<Process> {
    let _ = fs::remove_file(&job.pid_file);
    let words = job.dir.join("dnsmasq.err");
    let mut child = Command::new("dnsmasq")
        .arg("--keep-in-foreground")
        .arg(job.mark())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&words)?)
        // Signals that a terminal sends to the daemon are not for it.
        .process_group(0)
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(
                e.kind(),
                "networks with an address need the program \"dnsmasq\" (package dnsmasq-base), which is not installed",
            ),
            _ => e,
        })?;
    let pid = Pid::from_child(&child);
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if child.try_wait()?.is_some() {
            let said = fs::read_to_string(&words).unwrap_or_default();
            return Err(Error::other(format!("dnsmasq refused: {}", said.trim())));
        }
        // It writes the file when its sockets are open.
        if fs::read_to_string(&job.pid_file).is_ok_and(|t| t.trim() == pid.as_raw_nonzero().to_string()) {
            let fd = pidfd_open(pid, PidfdFlags::empty())?;
            return Ok(Process { fd, child: Some(child) });
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(Error::other("dnsmasq does not begin to serve"))
}

fn signal(fd: &OwnedFd, signal: Signal) {
    // One that has ended needs no signal.
    let _ = pidfd_send_signal(fd, signal);
}

/// Waits until the process has ended; false if it has not after `at_most`.
fn wait(fd: &OwnedFd, at_most: Duration) -> io::Result<bool> {
    let timeout = timespec(at_most);
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))? > 0)
}

fn timespec(d: Duration) -> Timespec {
    Timespec { tv_sec: d.as_secs().cast_signed(), tv_nsec: d.subsec_nanos().into() }
}

/// The thread that waits for the process to end.
struct Watcher {
    job: Job,
    alive: Arc<AtomicBool>,
    ended: io::PipeReader,
}

impl Watcher {
    fn run(self, process: Process) {
        let mut process = Some(process);
        let mut pause = SHORTEST;
        loop {
            let since = Instant::now();
            if let Some(mut p) = process.take() {
                if self.watch(&mut p) {
                    reap_later(p);
                    return;
                }
                self.alive.store(false, Relaxed);
                tracing::warn!(network = self.job.network, "the DNS and DHCP server ended, it is started again");
            }
            if since.elapsed() > HEALTHY {
                pause = SHORTEST;
            }
            if self.told_to_end(pause) {
                return;
            }
            pause = (pause * 2).min(LONGEST);
            match spawn(&self.job) {
                Ok(new) => {
                    self.alive.store(true, Relaxed);
                    process = Some(new);
                }
                Err(e) => tracing::error!(network = self.job.network, "the DNS and DHCP server does not start: {e}"),
            }
        }
    }

    /// Waits until the process has ended (false), or it need not be watched any more (true).
    fn watch(&self, process: &mut Process) -> bool {
        let mut fds = [PollFd::new(&process.fd, PollFlags::IN), PollFd::new(&self.ended, PollFlags::IN)];
        while poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
        let end = !fds[1].revents().is_empty();
        if !end && let Some(child) = &mut process.child {
            let _ = child.wait();
        }
        end
    }

    fn told_to_end(&self, within: Duration) -> bool {
        let timeout = timespec(within);
        let mut fds = [PollFd::from_borrowed_fd(self.ended.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&timeout)).is_ok_and(|n| n > 0)
    }
}

/// A child that is left running, as to be stopped on purpose, must still be waited for, or it stays a zombie as long
/// as this daemon lives.
fn reap_later(process: Process) {
    if let Some(mut child) = process.child {
        let _ = thread::Builder::new().name("dnsmasq-reaper".into()).stack_size(64 * 1024).spawn(move || child.wait());
    }
}
