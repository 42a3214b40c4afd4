//! `/1.0/instances/{name}/console`: the terminal of an instance's init.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use api::instance_exec::InstanceConsolePost;
use api::{Error, Kind, Result};
use futures::StreamExt as _;
use hyper::{Request, Response};
use serde_json::json;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::exec::{cancelled, running};
use super::{files, find_here, operation, tell};
use crate::edge::{Body, Cx, Incoming, Router};
use crate::operations::Operation;
use crate::sockets::Sockets;
use crate::state::Daemon;
use crate::streams::{self, Control, End};

pub fn routes(r: &mut Router) {
    r.operation(&api::instance_exec::CONSOLE, attach);
    r.raw(&api::instance_exec::CONSOLE_LOG, log);
    r.sync(&api::instance_exec::CONSOLE_CLEAR, clear);
}

/// Who is connected to consoles, by instance.
#[derive(Default)]
pub struct Consoles(Mutex<HashMap<String, Connection>>);

/// One that is connected.
struct Connection {
    /// Ends it.
    end: CancellationToken,
    /// Fires when it has ended.
    ended: CancellationToken,
}

impl Consoles {
    /// Takes the console of an instance; from whoever has it, with `force`. What ends the new connection, and what
    /// says that it has ended.
    async fn take(&self, id: &str, force: bool) -> Result<(CancellationToken, DropGuard)> {
        loop {
            let before = {
                let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                match all.get(id).filter(|c| !c.ended.is_cancelled()) {
                    None => {
                        let (end, ended) = (CancellationToken::new(), CancellationToken::new());
                        all.retain(|_, c| !c.ended.is_cancelled());
                        all.insert(id.to_owned(), Connection { end: end.clone(), ended: ended.clone() });
                        return Ok((end, ended.drop_guard()));
                    }
                    Some(_) if !force => {
                        let taken = "This console is already connected. Force is required to take it over.";
                        return Err(Error::new(Kind::BadRequest, taken));
                    }
                    Some(c) => {
                        c.end.cancel();
                        c.ended.clone()
                    }
                }
            };
            before.cancelled().await;
        }
    }
}

async fn attach(cx: Cx, wanted: InstanceConsolePost) -> Result<Arc<Operation>> {
    match wanted.kind.as_str() {
        "" | "console" => {}
        "vga" => return Err(Error::bad_request("VGA console is only supported by virtual machines")),
        other => return Err(Error::bad_request(format!("Unknown console type \"{other}\": it is \"console\""))),
    }
    let l = running(&cx).await?;
    if cx.daemon.instances.status(l.row.id) == api::operation::StatusCode::Frozen {
        return Err(Error::bad_request("Instance is frozen"));
    }
    let (id, daemon) = (l.id(), cx.daemon.clone());
    let (end, ended) = daemon.consoles.take(&id, wanted.force).await?;
    let mut new = operation(&daemon, "Showing console", &l);
    new.may_cancel = true;
    tell(&cx, &l, "instance-console", [("type", json!("console"))]);
    Ok(daemon.clone().converse(&cx, new, &["0", "control"], |operation, sockets| async move {
        let result = tokio::select! {
            result = flow(&daemon, &id, &wanted, sockets) => result,
            () = end.cancelled() => Ok(()),
            () = operation.cancelled().cancelled_owned() => Err(cancelled()),
        };
        drop(ended);
        result
    }))
}

/// Lets everything flow until the client is gone or the instance has stopped.
async fn flow(daemon: &Arc<Daemon>, id: &str, wanted: &InstanceConsolePost, mut sockets: Sockets) -> Result<()> {
    let [data] = sockets.all(["0"]).await?;
    let (mut sink, mut stream) = data.split();
    let (containers, name) = (daemon.containers.clone(), id.to_owned());
    let console = match crate::blocking::run(move || containers.console(&name)).await {
        Ok(console) => console,
        Err(e) => {
            streams::goodbye(sink, stream);
            return Err(e);
        }
    };
    let resize = async |size: (u16, u16)| {
        let (containers, name) = (daemon.containers.clone(), id.to_owned());
        let resized = crate::blocking::run(move || containers.resize_console(&name, size)).await;
        if let Err(e) = resized {
            tracing::debug!("console of {id}: {e}");
        }
    };
    if wanted.width > 0 && wanted.height > 0 {
        resize((wanted.width, wanted.height)).await;
    }
    let from = streams::reader(console.terminal.try_clone()?)?;
    let mut to = streams::writer(console.terminal.try_clone()?)?;
    let never = CancellationToken::new();
    let controls = async {
        let mut socket = sockets.later("control").await;
        loop {
            match streams::control(&mut socket).await {
                Ok(Control::Resize(columns, rows)) => resize((columns, rows)).await,
                Ok(Control::Signal(_)) => {}
                // Clients detach by closing it.
                Err(_) => return,
            }
        }
    };
    let whole = tokio::select! {
        whole = streams::outward(&from, &mut sink, &never) => whole,
        end = streams::inward(&mut stream, &mut to) => end == End::Closed,
        () = controls => true,
    };
    if whole {
        streams::goodbye(sink, stream);
    }
    Ok(())
}

async fn log(cx: Cx, _: Request<Incoming>) -> Result<Response<Body>> {
    match cx.param("type") {
        "" | "log" => {}
        "vga" => return Err(Error::bad_request("VGA console is only supported by virtual machines")),
        other => return Err(Error::bad_request(format!("Unknown console type \"{other}\": it is \"log\""))),
    }
    let l = find_here(&cx).await?;
    let shown = shown(&cx.daemon, l.id(), false).await?;
    tell(&cx, &l, "instance-console-retrieved", []);
    files::bytes("console.log", shown)
}

async fn clear(cx: Cx, (): ()) -> Result<()> {
    let l = find_here(&cx).await?;
    if !cx.daemon.instances.runs(l.row.id) {
        return Err(Error::bad_request("Instance is not running"));
    }
    shown(&cx.daemon, l.id(), true).await?;
    tell(&cx, &l, "instance-console-reset", []);
    Ok(())
}

async fn shown(daemon: &Arc<Daemon>, id: String, clear: bool) -> Result<Vec<u8>> {
    let containers = daemon.containers.clone();
    crate::blocking::run(move || containers.console_log(&id, clear)).await
}
