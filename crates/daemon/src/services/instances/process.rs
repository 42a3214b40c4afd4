//! A program that runs in an instance.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use api::instance_exec::InstanceExecPost;
use api::{Error, Result};
use drivers::instance::Exec;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::state::Daemon;

/// The signal of a terminal that is closed.
pub const HANGUP: i32 = 1;
/// The signal that nothing survives.
pub const KILL: i32 = 9;

/// What is to be run.
pub struct Program {
    /// The instance.
    pub id: String,
    /// All of its environment.
    pub environment: Vec<String>,
    /// What the client asked for.
    pub wanted: InstanceExecPost,
}

/// A program that runs.
pub struct Process {
    pidfd: Option<OwnedFd>,
    /// Fires when it has ended.
    pub exited: CancellationToken,
    code: watch::Receiver<Option<Result<i32>>>,
}

impl Process {
    /// Starts it.
    pub async fn start(
        daemon: &Arc<Daemon>,
        program: &Program,
        stdio: [OwnedFd; 3],
        controlling_terminal: bool,
    ) -> Result<Process> {
        let containers = daemon.containers.clone();
        let (id, env, wanted) = (program.id.clone(), program.environment.clone(), program.wanted.clone());
        let running = crate::blocking::run(move || {
            let cwd = match wanted.cwd.as_str() {
                "" => "/root",
                cwd => cwd,
            };
            containers.exec(
                &id,
                &Exec {
                    argv: &wanted.command,
                    env: &env,
                    cwd,
                    uid: wanted.user,
                    gid: wanted.group,
                    stdio: [stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()],
                    controlling_terminal,
                },
            )
        })
        .await?;
        let pid = i32::try_from(running.pid).ok().and_then(Pid::from_raw);
        // One that has ended already needs no signals.
        let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let exited = CancellationToken::new();
        let (send, code) = watch::channel(None);
        let ended = exited.clone().drop_guard();
        tokio::spawn(async move {
            let code = crate::blocking::run(move || running.wait()).await;
            send.send_replace(Some(code));
            drop(ended);
        });
        Ok(Process { pidfd, exited, code })
    }

    /// Sends it a signal; numbers that are none are ignored.
    pub fn signal(&self, number: i32) {
        if let (Some(pidfd), Some(signal)) = (&self.pidfd, Signal::from_named_raw(number)) {
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }

    /// Waits for its end: its exit code.
    pub async fn ended(&self) -> Result<i32> {
        let mut code = self.code.clone();
        match code.wait_for(Option::is_some).await {
            Ok(code) => code.clone().unwrap_or_else(|| Err(lost())),
            Err(_) => Err(lost()),
        }
    }
}

fn lost() -> Error {
    Error::internal("It can't be known how the command ended")
}
