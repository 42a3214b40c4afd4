//! The daemon's command line.

use clap::{Parser, Subcommand};

/// The Incus daemon of incus-rs: manages the instances, storage and networks of this machine, alone or as a
/// member of a cluster.
#[derive(Debug, Parser)]
#[command(name = "incusd", version = concat!(env!("CARGO_PKG_VERSION"), ""))]
pub struct Args {
    /// Show all debug messages
    #[arg(short, long)]
    pub debug: bool,
    /// Show all information messages
    #[arg(short, long)]
    pub verbose: bool,
    /// The group of users that may use the daemon's socket
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Write the log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub logfile: Option<std::path::PathBuf>,
    /// Send the log to syslog
    #[arg(long)]
    pub syslog: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the server version
    Version,
    /// Repair a cluster whose database has no majority, or whose addresses have changed
    #[command(subcommand)]
    Cluster(Cluster),
    /// The same as `cluster`, under the name that people know
    #[command(subcommand, hide = true)]
    Admin(Admin),
    /// Build an image
    #[command(hide = true)]
    Forkimage {
        /// Which one: `busybox`
        kind: String,
        /// The file to write
        file: std::path::PathBuf,
    },
    /// Start a container (asked by the daemon over standard input)
    #[command(hide = true)]
    Forkstart {
        /// Which one
        id: String,
    },
    /// Run a program in a container (asked by the daemon over standard input)
    #[command(hide = true)]
    Forkexec {
        /// Which one
        id: String,
    },
    /// Mount into a container (asked by the daemon over standard input)
    #[command(hide = true)]
    Forkmount {
        /// Which one
        id: String,
    },
    /// Renew the leases of what runs here, and end what may not run on (started by the daemon, outlives it)
    #[command(hide = true)]
    Forkguard {
        /// The socket at which it is told what
        socket: std::path::PathBuf,
    },
    /// Serve the files of an instance by SFTP on standard input, which is a socket
    #[command(hide = true)]
    Forkfile {
        /// Those that this process sees
        #[arg(long, required_unless_present = "directory", conflicts_with = "directory")]
        pid: Option<i32>,
        /// Those below this directory
        #[arg(long)]
        directory: Option<std::path::PathBuf>,
    },
}

/// `incusd admin`.
#[derive(Debug, Subcommand)]
pub enum Admin {
    /// Repair a cluster whose database has no majority, or whose addresses have changed
    #[command(subcommand)]
    Cluster(Cluster),
}

/// `incusd cluster`: works on the files of this member while its daemon is down, unless it says otherwise.
#[derive(Clone, Debug, Subcommand)]
pub enum Cluster {
    /// Print the addresses of the members that vote in the database, as this member knows them
    #[command(visible_alias = "ls")]
    ListDatabase {
        /// Format (csv|json|table|yaml)
        #[arg(short, long, default_value = "table")]
        format: String,
    },
    /// Print the members of the database as this member's files tell
    Show,
    /// Write a backup of the cluster into a new file: its whole database and the keys of its members; the daemon has to run
    ///
    /// Can be done on any member at any time. The file holds all secrets of the cluster, and only its owner can read it.
    /// The files of instances, volumes and images are not in it.
    Backup {
        /// The file
        file: std::path::PathBuf,
    },
    /// Make this server a member of the cluster in a backup
    Restore(Restore),
    /// Change the addresses of the members, in an editor or from standard input
    ///
    /// To be done on every member with the same changes, while all daemons are down.
    Edit,
    /// Go on with this member alone after a majority of the voters was lost for good
    ///
    /// To be done on one member only: the one whose last entry ("incusd cluster show") has the highest term, and among
    /// those the highest segment ID.
    RecoverFromQuorumLoss {
        /// Don't ask
        #[arg(short, long)]
        quiet: bool,
    },
    /// Give up this member's database for that of a member that was recovered; what is on this member stays
    ///
    /// To be done on the members that are left after "recover-from-quorum-loss" on one of them.
    Rejoin {
        /// Don't ask
        #[arg(short, long)]
        quiet: bool,
    },
    /// Make a server that was removed from its cluster by force a fresh one; the daemon has to run
    Wipe {
        /// Also where the others can't be asked whether it was removed, while it hears no leader
        #[arg(short, long)]
        force: bool,
        /// Don't ask
        #[arg(short, long)]
        quiet: bool,
    },
    /// Take a member that is no member of the cluster any more out of the database; the daemon has to run
    RemoveRaftNode {
        /// Its address, or its Raft id
        address: String,
        /// Don't ask
        #[arg(short, long)]
        quiet: bool,
    },
}

/// `incusd cluster restore`.
///
/// The same command is run on every server that becomes a member again. One of them, the first, takes the database from
/// the backup and is started; the others get it from that one.
#[derive(Clone, Debug, clap::Args)]
pub struct Restore {
    /// The backup
    pub file: std::path::PathBuf,
    /// The member that this server becomes; if none is named, that of this machine's name
    #[arg(long, value_name = "NAME")]
    pub member: Option<String>,
    /// The member that takes the database from the backup; if none is named, that on which the backup was made
    #[arg(long, value_name = "NAME")]
    pub first: Option<String>,
    /// The new address of a member, of this one or another; the same on every server
    #[arg(long, value_name = "NAME=ADDRESS")]
    pub address: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    pub quiet: bool,
}
