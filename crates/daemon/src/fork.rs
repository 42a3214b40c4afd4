//! The helper processes of the daemon: what forks or changes namespaces, before there is a second thread.

use api::Result;
use drivers::files::Place;

use crate::args::Command;

/// Does what a helper is for; none if the command is no helper's.
pub fn helper(command: &Command) -> Option<Result<()>> {
    match command {
        Command::Forkstart { .. } | Command::Forkexec { .. } | Command::Forkmount { .. } => {
            Some(drivers::instance::fork::main())
        }
        Command::Forkfile { pid, directory } => {
            let place = match (pid, directory) {
                (Some(pid), _) => Place::Process(*pid),
                (None, directory) => Place::Directory(directory.clone().unwrap_or_default()),
            };
            Some(drivers::files::serve(&place))
        }
        Command::Forkguard { socket } => Some(crate::guard::process::main(socket)),
        Command::Version | Command::Cluster(_) | Command::Admin(_) | Command::Forkimage { .. } => None,
    }
}
