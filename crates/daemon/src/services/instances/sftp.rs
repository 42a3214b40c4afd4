//! `/1.0/instances/{name}/sftp`: the files of an instance for clients that speak SFTP themselves.

use std::path::Path;
use std::sync::Arc;

use api::{Error, Result};
use drivers::files::{Helper, Place};
use hyper::header::UPGRADE;
use hyper::{Request, Response};

use super::find_here;
use crate::edge::websocket::upgrade_to;
use crate::edge::{Body, Cx, Incoming, Router};
use crate::instances::{self, Loaded};
use crate::state::Daemon;

/// The daemon's own program, even if its file has been replaced since.
const PROGRAM: &str = "/proc/self/exe";

pub fn routes(r: &mut Router) {
    r.raw(&api::instance_files::SFTP, sftp);
}

/// A helper that serves the files of an instance: as it sees them if it runs, those of its volume if not.
pub async fn helper(daemon: &Arc<Daemon>, l: &Loaded) -> Result<Helper> {
    // What is written while it moves would be lost.
    let l = &instances::here(daemon, l.row.id).await?;
    let (containers, id) = (daemon.containers.clone(), l.id());
    let init = match daemon.instances.runs(l.row.id) {
        true => crate::blocking::run(move || containers.init_pid(&id)).await?,
        false => None,
    };
    let place = match init.and_then(|pid| i32::try_from(pid).ok()) {
        Some(pid) => Place::Process(pid),
        None => Place::Directory(instances::rootfs(daemon, l).await?),
    };
    Helper::start(Path::new(PROGRAM), &place)
}

async fn sftp(cx: Cx, request: Request<Incoming>) -> Result<Response<Body>> {
    if !request.headers().get(UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"sftp")) {
        return Err(Error::bad_request("Missing or invalid upgrade header"));
    }
    let l = find_here(&cx).await?;
    let helper = helper(&cx.daemon, &l).await?;
    let (answer, stream) = upgrade_to("sftp", request);
    tokio::spawn(async move {
        let Ok(stream) = stream.await else { return };
        if let Err(e) = helper.talk(stream).await {
            tracing::debug!("sftp of {}: {e}", l.id());
        }
    });
    Ok(answer)
}
