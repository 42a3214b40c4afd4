//! Terminals of a container, its console, and what that has shown.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use api::Result;
use api::error::Context as _;
use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, major, open, openat2};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use super::Containers;

/// Major numbers of terminals in a `devpts`.
const TERMINALS: std::ops::RangeInclusive<u32> = 136..=143;

/// The console of a running container.
#[derive(Debug)]
pub struct Console {
    /// Our end of its terminal.
    pub terminal: OwnedFd,
    /// As long as this is open, the console is shown there and nowhere else.
    _hold: OwnedFd,
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }
}

impl Containers {
    /// A terminal in the container's `devpts`, of that size in columns and rows: our end and that of a program.
    pub fn terminal(&self, id: &str, size: (u16, u16)) -> Result<(OwnedFd, OwnedFd)> {
        self.init(id)?;
        let devpts = self.open(id)?.devpts().context("Opening the terminals of the container")?;
        let (ours, theirs) = host::lxc::terminal(&devpts).context("Making a terminal in the container")?;
        let size = Winsize { ws_col: size.0, ws_row: size.1, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).map_err(std::io::Error::from).context("Setting the size of a terminal")?;
        self.give(id, theirs.as_fd(), 0, 0)?;
        Ok((ours, theirs))
    }

    /// Its console. Only one at a time can have it.
    pub fn console(&self, id: &str) -> Result<Console> {
        self.init(id)?;
        let opened = self.open(id)?.console();
        let (terminal, hold) = opened.context("The console is in use, or the container ends just now")?;
        // The console itself is a terminal already: what it says and hears must not be worked on twice.
        let mut modes = tcgetattr(&terminal).map_err(std::io::Error::from)?;
        modes.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &modes).map_err(std::io::Error::from)?;
        Ok(Console { terminal, _hold: hold })
    }

    /// Tells the programs on its console how large, in columns and rows, the terminal is that shows it.
    pub fn resize_console(&self, id: &str, size: (u16, u16)) -> Result<()> {
        let failed = "Setting the size of the console";
        let root = open(format!("/proc/{}/root", self.init(id)?.pid()), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let root = root.map_err(std::io::Error::from).context(failed)?;
        // Whatever the container has put there: a link leads nowhere, and nothing but a terminal is opened.
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let set = || {
            let place = openat2(&root, "dev/console", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)?;
            if !TERMINALS.contains(&major(fstat(&place)?.st_rdev)) {
                return Err(Errno::NOTTY);
            }
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let console = open(format!("/proc/self/fd/{}", place.as_raw_fd()), flags, Mode::empty())?;
            tcsetwinsize(&console, Winsize { ws_col: size.0, ws_row: size.1, ws_xpixel: 0, ws_ypixel: 0 })
        };
        set().map_err(std::io::Error::from).context(failed)
    }

    /// What its console has shown since its start, also when it has ended; `clear` forgets it.
    pub fn console_log(&self, id: &str, clear: bool) -> Result<Vec<u8>> {
        let path = self.logs(id).join("console.log");
        let shown = match std::fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.context(format!("Reading {}", path.display()))?,
        };
        if clear {
            // While it runs liblxc appends to it, and when it ends writes there what it has kept in memory.
            if self.init_pid(id)?.is_some() {
                self.open(id)?.console_log(true).context("Clearing the console's memory")?;
            }
            File::options().write(true).truncate(true).open(&path).context(format!("Clearing {}", path.display()))?;
        }
        Ok(shown)
    }
}
