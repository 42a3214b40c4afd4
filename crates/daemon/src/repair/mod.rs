//! `incusd cluster`: repairing a cluster from one member's files, with its daemon down; and its backups.

mod ask;
mod backup;
mod edit;
pub(crate) mod nodes;
mod recover;

use api::{Error, Kind, Result};
use client::Remote;
use db::local::{Local, RaftRole};
use jiff::Timestamp;

use crate::args::{Admin, Cluster, Command};
use crate::paths::Paths;
use nodes::Nodes;

pub use edit::own_config;
pub use nodes::{in_words, usable};

/// Carries the command out, if it is one of these.
pub fn run(command: &Command) -> Option<Result<()>> {
    let (Command::Cluster(command) | Command::Admin(Admin::Cluster(command))) = command else { return None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Some(runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(carry_out(command))))
}

async fn carry_out(command: &Cluster) -> Result<()> {
    let paths = Paths::from_env();
    if let Cluster::Restore(wanted) = command {
        return backup::restore(&paths, wanted).await;
    }
    if !paths.local_db().exists() {
        return Err(Error::not_found(format!("There is no server in {}", paths.root().display())));
    }
    if !paths.cluster_cert().exists() {
        return Err(Error::bad_request("This server is not clustered"));
    }
    let local = Local::open(&paths.local_db(), Timestamp::now())?;
    match command {
        Cluster::ListDatabase { format } => list_database(&local, format),
        Cluster::Show => {
            print!("{}", Nodes::read(&paths, &local)?.text());
            Ok(())
        }
        Cluster::Backup { file } => backup::backup(&paths, file).await,
        Cluster::Restore(_) => Ok(()),
        Cluster::Edit => edit::edit(&paths, &local),
        Cluster::RecoverFromQuorumLoss { quiet } => recover::recover(&paths, &local, *quiet).await,
        Cluster::Rejoin { quiet } => recover::rejoin(&paths, &local, *quiet),
        Cluster::Wipe { force, quiet } => wipe(&paths, *force, *quiet).await,
        Cluster::RemoveRaftNode { address, quiet } => remove_raft_node(&paths, address, *quiet).await,
    }
}

fn list_database(local: &Local, format: &str) -> Result<()> {
    let voters = local.raft_nodes()?.into_iter().filter(|n| n.role == RaftRole::Voter);
    let addresses: Vec<String> = voters.map(|n| n.address).collect();
    match format {
        "csv" => addresses.iter().for_each(|a| println!("{a}")),
        "yaml" => addresses.iter().for_each(|a| println!("- {a}")),
        "json" => println!("{}", serde_json::Value::from(addresses)),
        "table" => print!("{}", table(&addresses)),
        other => return Err(Error::bad_request(format!("Invalid format \"{other}\": csv, json, table or yaml"))),
    }
    Ok(())
}

fn table(addresses: &[String]) -> String {
    let width = addresses.iter().map(String::len).max().unwrap_or(0).max("Address".len()) + 2;
    let line = "─".repeat(width);
    let rows: String = addresses.iter().map(|a| format!("├{line}┤\n│ {a:<0$}│\n", width - 1)).collect();
    format!("┌{line}┐\n│{:^width$}│\n{rows}└{line}┘\n", "Address")
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
async fn wipe(paths: &Paths, force: bool, quiet: bool) -> Result<()> {
    let warning = "This removes all that is left of the cluster from this server: its database, instances, images, storage\n\
                   pools and networks. It is for a server that was removed from its cluster by force.\n";
    ask::sure(warning, quiet, "The server was left as it was")?;
    let path = if force { "/internal/cluster/reset?force=1" } else { "/internal/cluster/reset" };
    ask_daemon(paths, "POST", path, "The daemon does not run: start it, it does this").await
}

async fn ask_daemon(paths: &Paths, method: &str, path: &str, down: &str) -> Result<()> {
    match Remote::unix(paths.socket()).json(method, path, None).await {
        Err(e) if e.kind == Kind::Unavailable && e.message.starts_with("Unable to connect") => {
            Err(Error::unavailable(down))
        }
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_looks_as_people_know_it() {
        let addresses = ["10.77.0.1:8443".to_owned(), "10.77.0.2:8443".to_owned()];
        let want = "┌────────────────┐\n│    Address     │\n├────────────────┤\n│ 10.77.0.1:8443 │\n\
                    ├────────────────┤\n│ 10.77.0.2:8443 │\n└────────────────┘\n";
        assert_eq!(table(&addresses), want);
    }
}
