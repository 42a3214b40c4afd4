//! Starting the helper process.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use api::error::Context as _;
use api::{Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::Place;

/// A helper that serves the files of a place; it ends with this value.
pub struct Helper {
    pub(super) socket: UnixStream,
    child: Child,
}

impl Helper {
    /// Starts one. `program` is the daemon's own executable.
    pub fn start(program: &Path, place: &Place) -> Result<Helper> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(program);
        command.arg0("incusd").arg("forkfile");
        match place {
            Place::Process(pid) => command.arg("--pid").arg(pid.to_string()),
            Place::Directory(path) => command.arg("--directory").arg(path),
        };
        let child = command
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context(format!("Starting {}", program.display()))?;
        Ok(Helper { socket: UnixStream::from_std(ours)?, child })
    }

    /// Lets somebody who speaks SFTP talk to it, until either ends.
    pub async fn talk(mut self, mut with: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
        let talked = tokio::io::copy_bidirectional(&mut with, &mut self.socket).await;
        match self.child.try_wait()? {
            Some(status) if !status.success() => Err(self.failure().await),
            _ => Ok(talked.map(drop)?),
        }
    }

    /// Why it has ended by itself.
    pub async fn failure(&mut self) -> Error {
        let mut said = Vec::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = (&mut stderr).take(4096).read_to_end(&mut said).await;
        }
        let said = String::from_utf8_lossy(&said);
        let said = said.trim().trim_start_matches("Error: ");
        match said.is_empty() {
            true => Error::unavailable("The files are not there any more: the instance was stopped or started"),
            false => Error::internal(format!("The files can't be reached: {said}")),
        }
    }
}
