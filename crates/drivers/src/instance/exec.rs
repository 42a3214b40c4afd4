//! Programs that are run in a container.

use std::os::fd::BorrowedFd;

use api::error::{Context as _, Kind};
use api::{Error, Result};
use host::process::{self, Process};
use rustix::fs::{FileType, Gid, Uid, fchown, fstat};
use rustix::termios::isatty;

use super::helper::{Ask, Executed, Helper};
use super::{Containers, Status, not_running};

/// A program to run.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The program and its arguments.
    pub argv: &'a [String],
    /// Its environment, as `KEY=value`.
    pub env: &'a [String],
    /// Where it starts.
    pub cwd: &'a str,
    /// As seen inside.
    pub uid: u32,
    /// As seen inside.
    pub gid: u32,
    /// Its standard streams.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Makes its standard input, a terminal, the one that controls it.
    pub controlling_terminal: bool,
}

/// A program that was started.
#[derive(Debug)]
pub struct Running {
    /// Its process id as the host sees it.
    pub pid: u32,
    process: Option<Process>,
    helper: Helper,
}

impl Containers {
    /// Starts a program in it.
    ///
    /// # Errors
    /// "Command not found" and "Command not executable", exactly so; when it does not run or is frozen.
    pub fn exec(&self, id: &str, run: &Exec<'_>) -> Result<Running> {
        match self.status(id)? {
            Status::Running | Status::Thawed => {}
            Status::Frozen | Status::Freezing => return Err(Error::bad_request("Instance is frozen")),
            _ => return Err(not_running()),
        }
        if run.argv.first().is_none_or(|program| program.is_empty()) {
            return Err(Error::bad_request("Missing command"));
        }
        for stream in &run.stdio {
            self.give(id, *stream, run.uid, run.gid)?;
        }
        let ask = Ask::Exec {
            container: self.handle(id),
            argv: run.argv.to_vec(),
            env: run.env.to_vec(),
            cwd: run.cwd.to_owned(),
            uid: run.uid,
            gid: run.gid,
            terminal: run.controlling_terminal,
        };
        let mut helper = self.help("forkexec", id, &ask, &run.stdio)?;
        match helper.answer::<Executed>()? {
            Ok(pid) => {
                let process = Process::open(pid).context("Holding the program")?;
                helper.go_on()?;
                Ok(Running { pid, process, helper })
            }
            Err((status, message)) => {
                helper.end()?;
                Err(Error::new(Kind::from_status(status), message))
            }
        }
    }

    /// Makes a terminal or pipe that of a user inside, who may want to open it again by its name: liblxc can't where
    /// root of the container has no right to it.
    pub(super) fn give(&self, id: &str, stream: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
        let pipe = fstat(stream).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Fifo);
        let terminal = !pipe && isatty(stream);
        if !pipe && !terminal {
            return Ok(());
        }
        let init = self.init(id)?.pid();
        let user = process::outside(init, "uid_map", uid).context("Reading the ids of the container")?;
        let group = process::outside(init, "gid_map", if terminal { TTY } else { gid })?;
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        fchown(stream, user, group).map_err(std::io::Error::from).context("Handing a stream over")
    }
}

/// The group of terminals.
const TTY: u32 = 5;

impl Running {
    /// Waits for its end: its exit code, or 128 + the number of the signal that ended it.
    pub fn wait(mut self) -> Result<i32> {
        let code = self.helper.answer()?;
        self.helper.end()?;
        Ok(code)
    }

    /// Sends it a signal by number; nothing happens if it has ended.
    pub fn signal(&self, number: i32) -> Result<()> {
        match &self.process {
            Some(process) => process.signal(number).map(drop).context(format!("Sending signal {number}")),
            None => Ok(()),
        }
    }
}
