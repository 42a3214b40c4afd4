//! The guard of this member, as the daemon sees it: started when the first lease is held, told what to renew and what is
//! known of the cluster, and replaced when it has died.

pub mod process;
mod quorum;
mod wire;

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::error::Context as _;
use api::{Error, Result};
use drivers::storage::lease::Held;
use host::channel::Channel;
use host::process::Process;

pub use quorum::{leave_alone, watch};
use wire::Ask;
pub use wire::{Report, User};

/// How long a guard may take to begin, or to answer.
const PATIENCE: Duration = Duration::from_secs(10);
const KILL: i32 = 9;

/// The way to the guard. All of it blocks.
pub struct Guard {
    socket: PathBuf,
    program: PathBuf,
    link: Mutex<Option<Channel>>,
    /// What was last told of the cluster: a guard that begins has to know it before it holds anything.
    told: Mutex<(Duration, Option<Duration>)>,
}

impl Guard {
    /// The guard that listens at `socket`; `program` is run as one.
    pub fn new(socket: PathBuf, program: PathBuf) -> Guard {
        Guard { socket, program, link: Mutex::default(), told: Mutex::default() }
    }

    /// Has a lease renewed from now on, and `users` ended before others may take it. A guard is started if there is none.
    pub fn hold(&self, name: &str, lease: Held, users: Vec<User>) -> Result<()> {
        let ask = Ask::Hold { name: name.to_owned(), lease: Box::new(lease), users };
        if self.ask(&ask)?.is_none() {
            self.start()?;
            let (confirmed, fence_after) = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let mut link = self.link();
            self.exchange(&mut link, &Ask::Quorum { confirmed, fence_after })?;
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

    /// Tells what is known of the cluster.
    pub fn tell_quorum(&self, confirmed: Duration, fence_after: Option<Duration>) -> Result<Option<Report>> {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = (confirmed, fence_after);
        self.ask(&Ask::Quorum { confirmed, fence_after })
    }

    fn link(&self) -> std::sync::MutexGuard<'_, Option<Channel>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, ask: &Ask) -> Result<Option<Report>> {
        let mut link = self.link();
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
