//! Running the helper process, and the messages between the two.

use std::os::fd::BorrowedFd;
use std::process::{Child, Command, Stdio};

use api::error::{Context as _, Kind};
use api::{Error, Result};
use host::channel::Channel;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Containers;

/// What a helper is asked to do; it comes over its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Start a container; answered by [`Started`].
    Start(Handle),
    /// Run a program; answered by [`Executed`], and after a message of ours by its exit code.
    Exec { container: Handle, argv: Vec<String>, env: Vec<String>, cwd: String, uid: u32, gid: u32, terminal: bool },
    /// Mount the tree that comes along; answered by [`Done`].
    Mount { init: u32, target: String, directory: bool },
    /// Unmount; answered by [`Done`].
    Unmount { init: u32, target: String },
}

/// How liblxc finds a container.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handle {
    pub id: String,
    pub lxcpath: std::path::PathBuf,
    pub config: std::path::PathBuf,
}

/// The process id of its init, or why not.
pub(super) type Started = Result<u32, String>;
/// The process id of the program, or the status and message of an error.
pub(super) type Executed = Result<u32, (u16, String)>;
/// Or why not.
pub(super) type Done = Result<(), String>;

/// A helper that runs.
#[derive(Debug)]
pub(super) struct Helper {
    /// None when it was waited for.
    child: Option<Child>,
    channel: Channel,
    kind: &'static str,
}

impl Containers {
    pub(super) fn handle(&self, id: &str) -> Handle {
        Handle { id: id.to_owned(), lxcpath: self.lxcpath(), config: self.config(id) }
    }

    /// Starts a helper and asks it.
    pub(super) fn help(&self, kind: &'static str, id: &str, ask: &Ask, fds: &[BorrowedFd<'_>]) -> Result<Helper> {
        use std::os::unix::process::CommandExt as _;
        let (channel, theirs) = Channel::pair().context("Making a socket pair")?;
        let mut command = Command::new(&self.program);
        // Without a PATH liblxc finds no newuidmap, which would refuse root the ids that /etc/subuid doesn't name.
        command.args([kind, id]).env_clear();
        // Its own group: a Ctrl-C at the daemon's terminal is none of its business.
        command.process_group(0).current_dir("/");
        let spawned = command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = spawned.context(format!("Running {} {kind}", self.program.display()))?;
        // The command keeps its copy of their end.
        drop(command);
        let mut helper = Helper { child: Some(child), channel, kind };
        helper.channel.send(ask, fds).context(format!("Asking {kind}"))?;
        Ok(helper)
    }
}

impl Helper {
    /// Its next message; an error if it ended instead.
    pub fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        self.channel.receive().map(|(message, _)| message).map_err(|e| {
            let status = self.child.take().map_or_else(String::new, |mut child| {
                child.wait().map_or_else(|e| e.to_string(), |status| status.to_string())
            });
            Error::new(Kind::Internal, format!("The helper {} ended without an answer ({status}): {e}", self.kind))
        })
    }

    /// Lets it go on.
    pub fn go_on(&mut self) -> Result<()> {
        self.channel.send(&(), &[]).context(format!("Answering {}", self.kind))
    }

    /// Waits for its end.
    pub fn end(mut self) -> Result<()> {
        match self.child.take() {
            Some(mut child) => child.wait().context(format!("Waiting for {}", self.kind)).map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for Helper {
    /// Whoever does not wait leaves no zombie.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            std::thread::spawn(move || child.wait());
        }
    }
}
