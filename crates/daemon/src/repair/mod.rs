//! `incusd cluster`: repairing a cluster from one member's files, with its daemon down.

mod ask;
mod edit;
mod nodes;
mod recover;

use api::{Error, Kind, Result};
use client::Remote;
use db::local::{Local, RaftRole};
use jiff::Timestamp;

use crate::args::{Admin, Cluster, Command};
use crate::paths::Paths;
use nodes::Nodes;

/// Carries the command out, if it is one of these.
pub fn run(command: &Command) -> Option<Result<()>> {
    let (Command::Cluster(command) | Command::Admin(Admin::Cluster(command))) = command else { return None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Some(runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(carry_out(command))))
}

async fn carry_out(command: &Cluster) -> Result<()> {
    let paths = Paths::from_env();
    if !paths.local_db().exists() {
        return Err(Error::not_found(format!("There is no server in {}", paths.root().display())));
    }
    if !paths.cluster_cert().exists() {
        return Err(Error::bad_request("This server is not clustered"));
    }
    let local = Local::open(&paths.local_db(), Timestamp::now())?;
    match command {
        Cluster::ListDatabase => {
            list_database(&local)?;
            Ok(())
        }
        Cluster::Show => {
            print!("{}", Nodes::read(&paths, &local)?.text());
            Ok(())
        }
        Cluster::Edit => edit::edit(&paths, &local),
        Cluster::RecoverFromQuorumLoss { quiet } => recover::recover(&paths, &local, *quiet).await,
        Cluster::Wipe { quiet } => wipe(&paths, *quiet).await,
        Cluster::RemoveRaftNode { address, quiet } => remove_raft_node(&paths, address, *quiet).await,
    }
}

fn list_database(local: &Local) -> Result<()> {
    let voters = local.raft_nodes()?.into_iter().filter(|n| n.role == RaftRole::Voter);
    let addresses: Vec<String> = voters.map(|n| n.address).collect();
    let width = addresses.iter().map(String::len).max().unwrap_or(0).max("ADDRESS".len());
    let line = format!("+{}+", "-".repeat(width + 2));
    println!("{line}\n| {:^width$} |\n{line}", "ADDRESS");
    for address in addresses {
        println!("| {address:width$} |\n{line}");
    }
    Ok(())
}

/// Asks the running daemon: the others have to agree.
async fn remove_raft_node(paths: &Paths, address: &str, quiet: bool) -> Result<()> {
    let warning = format!(
        "This takes \"{address}\" out of the database of the cluster. It is for what a removal has left behind: a\n\
         member that \"incus cluster list\" does not show and \"incusd cluster show\" does.\n"
    );
    ask::sure(&warning, quiet, "The database was left as it was")?;
    let path = format!("/internal/cluster/raft-node/{}", api::endpoint::encode(address));
    let down = "The daemon does not run: start it, a majority of the members has to agree. If a majority is lost for good, \
                \"incusd cluster recover-from-quorum-loss\" leaves only this member in the database";
    ask_daemon(paths, "DELETE", &path, down).await
}

/// Asks the running daemon, which knows whether this server was removed, and has all that lies on it in hand.
async fn wipe(paths: &Paths, quiet: bool) -> Result<()> {
    let warning = "This removes all that is left of the cluster from this server: its database, instances, images, storage\n\
                   pools and networks. It is for a server that was removed from its cluster by force.\n";
    ask::sure(warning, quiet, "The server was left as it was")?;
    ask_daemon(paths, "POST", "/internal/cluster/reset", "The daemon does not run: start it, it does this").await
}

async fn ask_daemon(paths: &Paths, method: &str, path: &str, down: &str) -> Result<()> {
    match Remote::unix(paths.socket()).json(method, path, None).await {
        Err(e) if e.kind == Kind::Unavailable && e.message.starts_with("Unable to connect") => {
            Err(Error::unavailable(down))
        }
        other => other.map(drop),
    }
}
