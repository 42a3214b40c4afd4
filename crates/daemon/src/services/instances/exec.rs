//! `/1.0/instances/{name}/exec`: running programs in an instance.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use api::instance_exec::InstanceExecPost;
use api::{Error, Kind, Result};
use futures::StreamExt as _;
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::process::{HANGUP, KILL, Process, Program};
use super::{operation, record, tell};
use crate::edge::websocket::WebSocket;
use crate::edge::{Cx, Router};
use crate::instances::Loaded;
use crate::operations::Operation;
use crate::sockets::Sockets;
use crate::state::Daemon;
use crate::streams::{self, Control, End};

/// How long a program may take to end once its client is gone, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

pub fn routes(r: &mut Router) {
    r.operation(&api::instance_exec::EXEC, exec);
}

async fn exec(cx: Cx, wanted: InstanceExecPost) -> Result<Arc<Operation>> {
    check(&wanted)?;
    let l = running(&cx).await?;
    let daemon = cx.daemon.clone();
    let mut new = operation(&daemon, "Executing command", &l);
    new.may_cancel = true;
    new.metadata.extend(
        [
            ("command", json!(wanted.command)),
            ("environment", json!(wanted.environment)),
            ("interactive", json!(wanted.interactive)),
        ]
        .map(|(k, v): (&str, Value)| (k.to_owned(), v)),
    );
    let environment = environment(&daemon, &l, &wanted).await?;
    tell(&cx, &l, "instance-exec", [("command", json!(wanted.command))]);
    let program = Program { id: l.id(), environment, wanted };
    Ok(match (program.wanted.wait_for_websocket, program.wanted.interactive) {
        (true, true) => daemon.clone().converse(&cx, new, &["0", "control"], |operation, sockets| async move {
            let result = in_terminal(&daemon, &program, &operation, sockets).await;
            told(&operation, result)
        }),
        (true, false) => {
            daemon.clone().converse(&cx, new, &["0", "1", "2", "control"], |operation, sockets| async move {
                let result = with_pipes(&daemon, &program, &operation, sockets).await;
                told(&operation, result)
            })
        }
        (false, _) => daemon.clone().run(new, |operation| async move {
            let result = record::alone(&daemon, &program, &operation, &l.row.project, &l.row.name).await;
            told(&operation, result)
        }),
    })
}

/// The instance of the request, which must run on this member.
pub async fn running(cx: &Cx) -> Result<Loaded> {
    let l = super::find_here(cx).await?;
    match cx.daemon.instances.runs(l.row.id) {
        true => Ok(l),
        false => Err(Error::bad_request("Instance is not running")),
    }
}

fn check(wanted: &InstanceExecPost) -> Result<()> {
    if wanted.command.first().is_none_or(String::is_empty) {
        return Err(Error::bad_request("A command is needed: \"command\" lists the program and its arguments"));
    }
    if wanted.record_output && wanted.interactive {
        return Err(Error::bad_request("The output of a program in a terminal can't be recorded"));
    }
    if wanted.record_output && wanted.wait_for_websocket {
        return Err(Error::bad_request("Output is recorded or sent to websockets, not both"));
    }
    let texts = wanted.command.iter().chain(wanted.environment.keys()).chain(wanted.environment.values());
    if texts.chain([&wanted.cwd]).any(|text| text.contains('\0')) {
        return Err(Error::bad_request("A command, its environment and its directory can't hold a zero byte"));
    }
    match wanted.environment.keys().find(|k| k.is_empty() || k.contains('=')) {
        Some(key) => Err(Error::bad_request(format!("\"{key}\" can't be the name of a variable"))),
        None => Ok(()),
    }
}

/// What a program finds in its environment: what is always there, what the instance's configuration sets, and what
/// the client sets.
async fn environment(daemon: &Arc<Daemon>, l: &Loaded, wanted: &InstanceExecPost) -> Result<Vec<String>> {
    let mut path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    let (containers, id) = (daemon.containers.clone(), l.id());
    if crate::blocking::run(move || containers.init_pid(&id)).await?.is_some_and(has_snaps) {
        path.push_str(":/snap/bin");
    }
    let mut all: BTreeMap<&str, &str> = [("PATH", path.as_str()), ("LANG", "C.UTF-8")].into();
    if wanted.user == 0 {
        all.extend([("HOME", "/root"), ("USER", "root")]);
    }
    if wanted.interactive {
        all.insert("TERM", "xterm");
    }
    all.extend(l.config.iter().filter_map(|(k, v)| Some((k.strip_prefix("environment.")?, v.as_str()))));
    all.extend(wanted.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    Ok(all.into_iter().map(|(k, v)| format!("{k}={v}")).collect())
}

/// True if the root of that process has a directory for snaps. A link there would be one of the host's.
fn has_snaps(pid: u32) -> bool {
    std::fs::symlink_metadata(format!("/proc/{pid}/root/snap")).is_ok_and(|m| m.is_dir())
}

/// Notes how a program ended. That it failed is no failure of the operation; that it could not be started is.
fn told(operation: &Operation, result: Result<i32>) -> Result<()> {
    let code = match &result {
        Ok(code) => *code,
        Err(e) if e.message == "Command not found" => 127,
        Err(e) if e.message == "Command not executable" => 126,
        Err(_) => -1,
    };
    operation.report([("return".to_owned(), json!(code))]);
    result.map(drop)
}

/// Runs it in a terminal of its own, which the client sees through one websocket.
async fn in_terminal(
    daemon: &Arc<Daemon>,
    program: &Program,
    operation: &Operation,
    mut sockets: Sockets,
) -> Result<i32> {
    let [data] = connected(operation, &mut sockets, ["0"]).await?;
    let (mut sink, mut stream) = data.split();
    let size = match (program.wanted.width, program.wanted.height) {
        (0, _) | (_, 0) => (80, 24),
        size => size,
    };
    let (containers, id) = (daemon.containers.clone(), program.id.clone());
    let started = async {
        let (ours, theirs) = crate::blocking::run(move || containers.terminal(&id, size)).await?;
        let stdio = [theirs.try_clone()?, theirs.try_clone()?, theirs];
        Ok::<_, Error>((ours, Process::start(daemon, program, stdio, true).await?))
    };
    let (terminal, mut process) = match started.await {
        Ok(started) => started,
        Err(e) => {
            streams::goodbye(sink, stream);
            return Err(e);
        }
    };
    let exited = process.exited.clone();
    let (from, mut to) = (streams::reader(terminal.try_clone()?)?, streams::writer(terminal.try_clone()?)?);
    let shown = streams::outward(&from, &mut sink, &exited);
    let typed = async {
        // What is typed has no end: a client that ends it may still want to see what comes.
        match streams::inward(&mut stream, &mut to).await {
            End::Gone => {}
            End::Said => streams::drain(&mut stream).await,
            End::Closed => std::future::pending().await,
        }
    };
    let code = {
        let lost = async {
            tokio::select! {
                () = typed => {},
                () = controls(&mut sockets, &process, Some(&terminal)) => {},
                () = operation.cancelled().cancelled_owned() => {},
            }
        };
        let ended = async {
            let (code, shown) = tokio::join!(process.ended(), shown);
            shown.then_some(code).ok_or(())
        };
        tokio::select! {
            code = ended => code,
            () = lost => Err(()),
        }
    };
    match code {
        Ok(code) => {
            streams::goodbye(sink, stream);
            code
        }
        Err(()) => {
            // As when a terminal is closed. Programs that do not care are ended.
            process.signal(HANGUP);
            drop((terminal, from, to, sink, stream));
            end(operation, &mut process).await
        }
    }
}

/// Runs it with a pipe and a websocket each for input, output and errors.
async fn with_pipes(
    daemon: &Arc<Daemon>,
    program: &Program,
    operation: &Operation,
    mut sockets: Sockets,
) -> Result<i32> {
    let [input, output, errors] = connected(operation, &mut sockets, ["0", "1", "2"]).await?;
    let pipe = || std::io::pipe().map(|(from, to)| (OwnedFd::from(from), OwnedFd::from(to)));
    let ((stdin, to), (from, stdout), (from_errors, stderr)) = (pipe()?, pipe()?, pipe()?);
    let process = Process::start(daemon, program, [stdin, stdout, stderr], false).await;
    let mut process = match process {
        Ok(process) => process,
        Err(e) => {
            for socket in [input, output, errors] {
                let (sink, stream) = socket.split();
                streams::goodbye(sink, stream);
            }
            return Err(e);
        }
    };
    let exited = process.exited.clone();
    let input = tokio::spawn(feed(input, to, exited.clone()));
    let outputs = async {
        let (a, b) = tokio::join!(show(from, output, &exited), show(from_errors, errors, &exited));
        Ok::<_, Error>(a? || b?)
    };
    let code = {
        let outcome = async {
            let ended = process.ended();
            tokio::pin!(ended, outputs);
            tokio::select! {
                code = &mut ended => { let _ = outputs.await; Some(code) }
                // The program may go on without output, but not without anybody who would get it.
                heard = &mut outputs => if heard.unwrap_or(false) { Some(ended.await) } else { None },
            }
        };
        tokio::select! {
            code = outcome => code,
            () = controls(&mut sockets, &process, None) => None,
            () = operation.cancelled().cancelled_owned() => None,
        }
    };
    input.abort();
    match code {
        Some(code) => code,
        None => {
            process.signal(KILL);
            end(operation, &mut process).await
        }
    }
}

/// The websockets, unless somebody cancels first.
async fn connected<const N: usize>(
    operation: &Operation,
    sockets: &mut Sockets,
    names: [&'static str; N],
) -> Result<[WebSocket; N]> {
    tokio::select! {
        connected = sockets.all(names) => connected,
        () = operation.cancelled().cancelled_owned() => Err(cancelled()),
    }
}

pub fn cancelled() -> Error {
    Error::new(Kind::Internal, "The command was cancelled")
}

/// Carries out what comes over the control channel. Ends when the client is lost; one that says goodbye is not.
async fn controls(sockets: &mut Sockets, process: &Process, terminal: Option<&OwnedFd>) {
    let mut socket = sockets.later("control").await;
    loop {
        match streams::control(&mut socket).await {
            Ok(Control::Resize(columns, rows)) => {
                if let Some(terminal) = terminal {
                    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
                    let _ = tcsetwinsize(terminal, size);
                }
            }
            Ok(Control::Signal(number)) => process.signal(number),
            Err(false) => return,
            Err(true) => return std::future::pending().await,
        }
    }
}

/// Ends a program whose client is gone.
async fn end(operation: &Operation, process: &mut Process) -> Result<i32> {
    let code = match tokio::time::timeout(GRACE, process.ended()).await {
        Ok(code) => code,
        Err(_) => {
            process.signal(KILL);
            process.ended().await
        }
    };
    if operation.cancelled().is_cancelled() { Err(cancelled()) } else { code }
}

/// Input: from the client into the pipe, which is closed at its end.
async fn feed(socket: WebSocket, to: OwnedFd, exited: CancellationToken) {
    let (sink, mut stream) = socket.split();
    if let Ok(mut to) = streams::writer(to) {
        tokio::select! {
            _ = streams::inward(&mut stream, &mut to) => {}
            () = exited.cancelled() => {}
        }
    }
    // The pipe is closed here; the websocket lives as long as the program, as clients expect.
    tokio::select! {
        () = streams::drain(&mut stream) => {}
        () = exited.cancelled() => streams::goodbye(sink, stream),
    }
}

/// Output: from the pipe to the client. False if the client is gone; then the pipe is closed.
async fn show(from: OwnedFd, socket: WebSocket, exited: &CancellationToken) -> Result<bool> {
    let from = streams::reader(from)?;
    let (mut sink, mut stream) = socket.split();
    let whole = tokio::select! {
        whole = streams::outward(&from, &mut sink, exited) => whole,
        () = streams::drain(&mut stream) => false,
    };
    if whole {
        streams::goodbye(sink, stream);
    }
    Ok(whole)
}
