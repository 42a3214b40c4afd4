//! The guard of this member, as the daemon sees it: started when the first lease is held, told what to renew and what is
//! known of the cluster, and replaced when it has died.

pub mod process;
mod quorum;
pub(crate) mod wire;

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::error::Context as _;
use api::{Error, Result};
use drivers::storage::lease::Held;
use host::channel::Channel;
use host::clock::since_boot;
use host::process::Process;

pub use quorum::{leave_alone, watch};
use wire::Ask;
pub use wire::{Report, User};

/// How long a guard may take to begin, or to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What was so this long ago is taken for what is.
const LATELY: Duration = Duration::from_secs(3);
const KILL: i32 = 9;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection that is kept open.
type Link = Mutex<Option<Channel>>;

/// What the guard has to know of the cluster.
#[derive(Default)]
struct Known {
    confirmed: Duration,
    fence_after: Option<Duration>,
    /// The daemon is being stopped by a person: it stays at that.
    left: bool,
}

/// The way to the guard. All of it blocks.
pub struct Guard {
    socket: PathBuf,
    program: PathBuf,
    /// One way for what takes its time, as giving back a lease on storage that hangs.
    link: Link,
    /// And one for what must not wait for that.
    urgent: Link,
    /// What is known of the cluster: a guard that begins has to know it before it holds anything.
    known: Mutex<Known>,
    /// When a majority last counted this member, if it did since the daemon was started.
    counted: Mutex<Option<Duration>>,
}

impl Guard {
    /// The guard that listens at `socket`; `program` is run as one.
    pub fn new(socket: PathBuf, program: PathBuf) -> Guard {
        Guard {
            socket,
            program,
            link: Link::default(),
            urgent: Link::default(),
            known: Mutex::default(),
            counted: Mutex::default(),
        }
    }

    /// Has a lease renewed from now on, and `users` ended before others may take it. A guard is started if there is none.
    pub fn hold(&self, name: &str, lease: Held, users: Vec<User>) -> Result<()> {
        let ask = Ask::Hold { name: name.to_owned(), lease: Box::new(lease), users };
        if self.ask(&ask)?.is_none() {
            self.start()?;
            let mut link = lock(&self.link);
            self.exchange(&mut link, &self.quorum())?;
            self.exchange(&mut link, &ask)?;
        }
        Ok(())
    }

    /// Tells who uses the volume of a lease that is held.
    pub fn tell_users(&self, name: &str, users: Vec<User>) -> Result<()> {
        self.ask(&Ask::Use { name: name.to_owned(), users }).map(drop)
    }

    /// Gives a lease back that nobody uses any more; false if there is no guard that could.
    pub fn give_back(&self, name: &str) -> Result<bool> {
        Ok(self.ask(&Ask::GiveBack { name: name.to_owned() })?.is_some())
    }

    /// What the guard holds; none if there is no guard.
    pub fn look(&self) -> Result<Option<Report>> {
        self.ask(&Ask::Look)
    }

    /// False if there is no guard: nothing here has a lease.
    pub fn is_there(&self) -> bool {
        self.socket.exists()
    }

    /// A majority has counted this member at that moment.
    fn note_counted(&self, at: Duration) {
        *lock(&self.counted) = Some(at);
    }

    /// True if a majority has counted this member a moment ago: what its replica says is no older than that.
    pub fn counted_lately(&self) -> bool {
        let counted = *lock(&self.counted);
        counted.is_some_and(|at| since_boot().saturating_sub(at) < LATELY)
    }

    /// Notes when a majority last counted this member, and after how long without that the guard has to act.
    fn note_quorum(&self, confirmed: Duration, fence_after: Option<Duration>) {
        let mut known = lock(&self.known);
        if !known.left {
            *known = Known { confirmed, fence_after, left: false };
        }
    }

    /// From now on the guard is without this daemon, and acts on no silence.
    fn note_left(&self) {
        *lock(&self.known) = Known { confirmed: since_boot(), fence_after: None, left: true };
    }

    /// Tells what is known of the cluster.
    fn tell_quorum(&self) -> Result<Option<Report>> {
        self.ask_over(&self.urgent, &self.quorum())
    }

    fn quorum(&self) -> Ask {
        let known = lock(&self.known);
        Ask::Quorum { confirmed: known.confirmed, fence_after: known.fence_after }
    }

    fn ask(&self, ask: &Ask) -> Result<Option<Report>> {
        self.ask_over(&self.link, ask)
    }

    fn ask_over(&self, link: &Link, ask: &Ask) -> Result<Option<Report>> {
        let mut link = lock(link);
        if link.is_none() && UnixStream::connect(&self.socket).is_err() {
            return Ok(None);
        }
        match self.exchange(&mut link, ask) {
            Ok(report) => Ok(Some(report)),
            // It may have ended since.
            Err(_) if UnixStream::connect(&self.socket).is_err() => Ok(None),
            Err(_) => self.exchange(&mut link, ask).map(Some),
        }
    }

    /// One question and its answer. A guard that does not answer is ended: another one can do better.
    fn exchange(&self, link: &mut Option<Channel>, ask: &Ask) -> Result<Report> {
        let mut channel = match link.take() {
            Some(channel) => channel,
            None => {
                let channel = Channel::from(UnixStream::connect(&self.socket).context("Connecting to the guard")?);
                channel.patience(PATIENCE)?;
                channel
            }
        };
        let answered = channel.send(ask, &[]).and_then(|()| channel.receive::<Report>());
        match answered {
            Ok((report, _)) => {
                *link = Some(channel);
                Ok(report)
            }
            Err(e) => {
                if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
                    && let Some(guard) = Process::open(channel.peer()?)?
                {
                    tracing::error!("the guard (process {}) hangs and is replaced", guard.pid());
                    guard.signal(KILL)?;
                    guard.wait(Some(PATIENCE))?;
                }
                Err(Error::from(e).context("Asking the guard"))
            }
        }
    }

    /// Starts a guard and waits until it listens.
    fn start(&self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("forkguard").arg(&self.socket).current_dir("/");
        // Its own group: what ends the daemon must not end it.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        let mut guard = command.spawn().context(format!("Running {} forkguard", self.program.display()))?;
        let end = Instant::now() + PATIENCE;
        while UnixStream::connect(&self.socket).is_err() {
            if let Some(status) = guard.try_wait().context("Waiting for the guard")? {
                return Err(Error::internal(format!("The guard ended at once ({status})")));
            }
            if Instant::now() > end {
                return Err(Error::internal("The guard does not listen"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::spawn(move || guard.wait());
        Ok(())
    }
}
