//! `incus admin cluster`: repairs that are made on the server's own files, by the daemon's program.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use api::{Error, Result};

use crate::ctx::Ctx;

/// Back up, restore or repair a cluster (runs "incusd cluster" on this machine)
///
/// backup, restore, list-database, show, edit, recover-from-quorum-loss, rejoin, remove-raft-node, wipe: each explains
/// itself with --help.
#[derive(clap::Args)]
pub struct Cluster {
    #[arg(value_name = "command", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Cluster {
    /// Becomes the daemon's program.
    pub async fn run(self, _: &Ctx) -> Result<()> {
        let incusd = daemon().ok_or_else(|| {
            Error::not_found("The program incusd is neither beside this one nor in PATH: run this on a server")
        })?;
        let failed = Command::new(&incusd).arg("cluster").args(self.args).exec();
        Err(Error::internal(format!("{} can't be run: {failed}", incusd.display())))
    }
}

/// Where distributions put the daemon.
const USUAL: [&str; 3] = ["/usr/libexec/incus", "/usr/lib/incus", "/opt/incus/bin"];

fn daemon() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = USUAL.iter().map(PathBuf::from);
    beside.into_iter().chain(std::env::split_paths(&path)).chain(usual).map(|d| d.join("incusd")).find(|p| p.is_file())
}
