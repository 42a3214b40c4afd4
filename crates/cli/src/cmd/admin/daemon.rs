//! `incus admin waitready` and `shutdown`.

use std::time::Duration;

use api::{Error, Kind, Result};

use crate::ctx::Ctx;

/// Wait until the daemon is ready
///
/// It is when it answers and has taken up the instances that it should start.
#[derive(clap::Args)]
pub struct WaitReady {
    /// Seconds to wait before giving up
    #[arg(short, long)]
    timeout: Option<u64>,
}

impl WaitReady {
    /// Waits.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, _) = ctx.open("local:")?;
        let server = server.in_project(None);
        let ready = async {
            // Quick looks at first: a daemon is usually up within a fraction of a second.
            let mut pause = Duration::from_millis(5);
            while server.get("/internal/ready").await.is_err() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(250));
            }
        };
        match self.timeout.filter(|t| *t > 0) {
            None => ready.await,
            Some(seconds) => tokio::time::timeout(Duration::from_secs(seconds), ready)
                .await
                .map_err(|_| Error::unavailable(format!("Daemon still not running after {seconds}s timeout")))?,
        }
        Ok(())
    }
}

/// Stop all instances and then the daemon
///
/// Instances are asked to shut down and get the time that they are configured to have.
#[derive(clap::Args)]
pub struct Shutdown {
    /// Don't wait for operations that are running
    #[arg(short, long)]
    force: bool,
    /// Seconds to wait before giving up
    #[arg(short, long)]
    timeout: Option<u64>,
}

impl Shutdown {
    /// Shuts down.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, _) = ctx.open("local:")?;
        let server = server.in_project(None);
        let path = if self.force { "/internal/shutdown?force=true" } else { "/internal/shutdown" };
        let gone = async {
            match server.call("PUT", path, None, None).await {
                // The daemon may be gone before it has said so.
                Err(e) if e.kind == Kind::Unavailable && e.message.contains("broke") => {}
                other => drop(other?),
            }
            while server.get("/internal/ready").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        match self.timeout.filter(|t| *t > 0) {
            None => gone.await,
            Some(seconds) => tokio::time::timeout(Duration::from_secs(seconds), gone)
                .await
                .map_err(|_| Error::unavailable(format!("Daemon still running after {seconds}s timeout")))?,
        }
    }
}
