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
