//! `incus exec`.

use api::{Error, Result};
use futures::StreamExt;
use serde_json::{Map, Value, json};

use super::{
    session::{Session, control, receive, send},
    url,
};
use crate::{
    ctx::Ctx,
    operation::{self, Progress},
    tty,
};

/// Run a command in an instance
///
/// With a terminal on both ends it runs in one there too; otherwise its input, output and errors are kept apart. The
/// exit code is that of the command.
#[derive(clap::Args)]
pub struct Exec {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    /// The command and its arguments; put -- before them
    #[arg(required = true, value_name = "command")]
    command: Vec<String>,
    /// Directory to run it in (default /root)
    #[arg(long)]
    cwd: Option<String>,
    /// Give it nothing to read
    #[arg(short = 'n', long)]
    disable_stdin: bool,
    /// Environment variable
    #[arg(long, value_name = "NAME=value")]
    env: Vec<String>,
    /// Run it in a terminal
    #[arg(short = 't', long)]
    force_interactive: bool,
    /// Don't run it in a terminal
    #[arg(short = 'T', long, conflicts_with = "force_interactive")]
    force_noninteractive: bool,
    /// Group to run it as (default 0)
    #[arg(long)]
    group: Option<u32>,
    /// auto, interactive or non-interactive
    #[arg(long, default_value = "auto")]
    mode: String,
    /// User to run it as (default 0)
    #[arg(long)]
    user: Option<u32>,
}

impl Exec {
    /// Runs; returns the exit code.
    pub async fn run(self, ctx: &Ctx) -> Result<u8> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        let interactive = self.interactive()?;
        let mut environment: Map<String, Value> = Map::new();
        if let (true, Ok(term)) = (interactive, std::env::var("TERM")) {
            environment.insert("TERM".into(), term.into());
        }
        for pair in &self.env {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            environment.insert(key.to_owned(), value.into());
        }
        let (width, height) = tty::size().filter(|_| interactive).unwrap_or((0, 0));
        let body = json!({
            "command": self.command, "wait-for-websocket": true, "interactive": interactive,
            "environment": environment, "width": width, "height": height, "user": self.user.unwrap_or(0),
            "group": self.group.unwrap_or(0), "cwd": self.cwd.unwrap_or_default(),
        });
        let reply = server.post(&(url(&name) + "/exec"), &body).await?;
        let session = Session::new(&server, reply.operation.as_deref(), &reply.value["metadata"])?;

        let raw = if interactive && !self.disable_stdin { tty::Raw::enter() } else { None };
        let controls = session.open("control").await?;
        let quiet = Progress::new(true, "");
        let finished = operation::wait_uninterrupted(&server, &reply, &quiet);
        let flows = flows(&session, interactive, self.disable_stdin);
        let result = tokio::select! {
            both = async { tokio::join!(flows, finished) } => both.0.and(both.1),
            e = control(controls, interactive) => e.and(Err(Error::internal("The session ended"))),
        };
        drop(raw);
        let state = match result {
            Ok(state) => state,
            Err(e) => return failure(&e),
        };
        let code = state["metadata"]["return"].as_i64().unwrap_or(0);
        Ok(u8::try_from(code & 0xff).unwrap_or(1))
    }

    fn interactive(&self) -> Result<bool> {
        let mode = match (self.force_interactive, self.force_noninteractive) {
            (true, _) => "interactive",
            (_, true) => "non-interactive",
            _ => self.mode.as_str(),
        };
        match mode {
            "interactive" => Ok(true),
            "non-interactive" => Ok(false),
            "auto" => Ok(tty::interactive()),
            other => Err(Error::bad_request(format!("Unknown mode {other:?}: auto, interactive or non-interactive"))),
        }
    }
}

/// The exit code of a command that could not be run, as shells have it.
fn failure(e: &Error) -> Result<u8> {
    let code = match e.message.as_str() {
        "Command not found" => 127,
        "Command not executable" => 126,
        _ => return Err(e.clone()),
    };
    eprintln!("Error: {e}");
    Ok(code)
}

/// Lets everything flow until the command's output has ended.
async fn flows(session: &Session<'_>, interactive: bool, disable_stdin: bool) -> Result<()> {
    let (sink, stream) = session.open("0").await?.split();
    let input = async { if disable_stdin { send(tokio::io::empty(), sink).await } else { send(stdin(), sink).await } };
    if interactive {
        return tokio::select! { r = receive(stream, std::io::stdout()) => r, r = input => r };
    }
    let (out, err) = (session.open("1").await?, session.open("2").await?);
    let outputs = async {
        let (a, b) = tokio::join!(receive(out, std::io::stdout()), receive(err, std::io::stderr()));
        a.and(b)
    };
    tokio::select! { r = outputs => r, r = input => r, never = drain(stream) => match never {} }
}

/// Reads what comes back on the channel of the input, so that its connection lives.
async fn drain(mut stream: impl StreamExt + Unpin) -> std::convert::Infallible {
    while stream.next().await.is_some() {}
    std::future::pending().await
}

/// Standard input, read by a thread of its own that dies with us.
pub fn stdin() -> impl tokio::io::AsyncRead + Unpin {
    let (reader, mut writer) = tokio::io::duplex(64 * 1024);
    let (tx, mut rx) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(n) = std::io::Read::read(&mut std::io::stdin().lock(), &mut buffer) {
            if n == 0 || tx.blocking_send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(data) = rx.recv().await {
            if tokio::io::AsyncWriteExt::write_all(&mut writer, &data).await.is_err() {
                break;
            }
        }
    });
    reader
}
