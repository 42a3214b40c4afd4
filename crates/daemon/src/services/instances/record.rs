//! Programs that nobody talks to: their output is dropped, or kept in files beside the logs.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use api::Result;
use api::endpoint::{fill, in_project};
use api::error::Context as _;
use serde_json::json;

use super::process::{KILL, Process, Program};
use crate::operations::Operation;
use crate::state::Daemon;

/// The folder of recorded output of an instance.
pub fn folder(daemon: &Daemon, id: &str) -> PathBuf {
    daemon.containers.logs(id).join("exec-output")
}

/// Runs it without a client.
pub async fn alone(
    daemon: &Arc<Daemon>,
    program: &Program,
    operation: &Operation,
    project: &str,
    instance: &str,
) -> Result<i32> {
    let nothing = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    let (stdout, stderr) = match program.wanted.record_output {
        false => (nothing()?, nothing()?),
        true => {
            let folder = folder(daemon, &program.id);
            std::fs::create_dir_all(&folder).context(format!("Making {}", folder.display()))?;
            let name = |kind: &str| format!("exec_{}.{kind}", operation.id());
            let file = |kind: &str| {
                let path = folder.join(name(kind));
                let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
                made.map(OwnedFd::from).context(format!("Making {}", path.display()))
            };
            let url = |kind: &str| {
                let path = api::instance_files::RECORDED_GET.info.path;
                in_project(fill(path, &[instance, &name(kind)]), project)
            };
            operation.report([("output".to_owned(), json!({"1": url("stdout"), "2": url("stderr")}))]);
            (file("stdout")?, file("stderr")?)
        }
    };
    let process = Process::start(daemon, program, [nothing()?, stdout, stderr], false).await?;
    tokio::select! {
        code = process.ended() => code,
        () = operation.cancelled().cancelled_owned() => {
            process.signal(KILL);
            process.ended().await?;
            Err(super::exec::cancelled())
        }
    }
}
