//! The helper's side: what forks or changes namespaces, in a process with one thread (`incusd fork…`).

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use api::error::{Context as _, Kind};
use api::{Error, Result};
use host::channel::Channel;
use host::confine::{self, Capabilities};
use host::lxc::{Attach, Container, Refused};
use host::mounts;
use host::process::Process;

use super::helper::{Ask, Done, Executed, Handle, Started};

/// Does what is asked over standard input. To be called before the process has a second thread.
pub fn main() -> Result<()> {
    let mut channel = Channel::of_stdin().context("Only the daemon runs this")?;
    let (ask, fds) = channel.receive().context("Only the daemon runs this")?;
    match ask {
        Ask::Start(container) => channel.send(&start(&container), &[])?,
        Ask::Exec { container, argv, env, cwd, uid, gid, terminal } => {
            let stdio = <[OwnedFd; 3]>::try_from(fds).map_err(|_| Error::internal("Three streams are needed"))?;
            let run = Attach {
                argv: &argv,
                env: &env,
                cwd: &cwd,
                uid,
                gid,
                stdio: [stdio[0].as_raw_fd(), stdio[1].as_raw_fd(), stdio[2].as_raw_fd()],
                controlling_terminal: terminal,
            };
            let attached = container.open().map_err(Refused::Attach).and_then(|c| c.attach(&run));
            // The streams are the program's alone: their end has to be noticed.
            drop(stdio);
            match attached {
                Err(e) => channel.send(&Executed::Err(refusal(e)), &[])?,
                Ok(program) => {
                    // It has all that it gets; from now on there is nothing to do but to wait for it.
                    confine::keep(Capabilities::empty())?;
                    channel.send(&Executed::Ok(program.pid), &[])?;
                    // Until the daemon has a hold of the program it must not be gone. If it is the daemon that
                    // is gone, the program is still waited for.
                    let _ = channel.receive::<()>();
                    let code = program.wait()?;
                    let _ = channel.send(&code, &[]);
                }
            }
        }
        Ask::Mount { init, target, directory } => {
            let tree = fds.first().ok_or_else(|| Error::internal("A tree is needed"))?;
            let done = enter(init).and_then(|()| mounts::attach(tree.as_fd(), &target, directory));
            channel.send(&Done::from(done.map_err(|e| e.to_string())), &[])?;
        }
        Ask::Unmount { init, target } => {
            let done = enter(init).and_then(|()| mounts::detach(&target));
            channel.send(&Done::from(done.map_err(|e| e.to_string())), &[])?;
        }
    }
    Ok(())
}

impl Handle {
    fn open(&self) -> io::Result<Container> {
        Container::open(&self.id, &self.lxcpath, Some(&self.config))
    }
}

fn start(handle: &Handle) -> Started {
    let container = handle.open().map_err(|e| e.to_string())?;
    container.start().map_err(|e| e.to_string())?;
    match container.init_pid() {
        Ok(Some(pid)) => Ok(pid),
        Ok(None) => Err("it ended at once".into()),
        Err(e) => Err(e.to_string()),
    }
}

fn refusal(refused: Refused) -> (u16, String) {
    let error = match refused {
        Refused::Exec(e) if e.kind() == io::ErrorKind::NotFound => Error::bad_request("Command not found"),
        Refused::Exec(e) if e.raw_os_error() == Some(rustix::io::Errno::TOOBIG.raw_os_error()) => {
            Error::bad_request(format!("The command can't be run: {e}"))
        }
        Refused::Exec(_) => Error::bad_request("Command not executable"),
        Refused::Attach(e) => Error::new(Kind::Internal, format!("The command can't be run: {e}")),
    };
    (error.kind.status(), error.message)
}

fn enter(init: u32) -> io::Result<()> {
    let init = Process::open(init)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    mounts::enter(&init)?;
    confine::keep(confine::FILES.union(Capabilities::SYS_ADMIN))
}
