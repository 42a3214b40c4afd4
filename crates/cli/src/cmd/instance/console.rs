//! `incus console`.

use api::{Error, Result};
use futures::StreamExt;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::{
    exec::stdin,
    session::{Session, control, receive, send},
    url,
};
use crate::{ctx::Ctx, server::Server, transport::empty, tty};

/// Attach to the console of an instance
///
/// Ctrl-a q detaches.
#[derive(clap::Args)]
pub struct Console {
    #[arg(value_name = "[remote:]instance")]
    name: String,
    /// Attach even if somebody else is attached
    #[arg(short, long)]
    force: bool,
    /// Print what the console has shown
    #[arg(long)]
    show_log: bool,
    /// console or vga
    #[arg(short = 't', long = "type", default_value = "console")]
    kind: String,
}

impl Console {
    /// Attaches.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "instance name")?;
        if self.show_log {
            let reply = server.raw("GET", &(url(&name) + "/console"), &[], empty()).await?;
            println!();
            return reply.each(|data| std::io::Write::write_all(&mut std::io::stdout(), data)).await;
        }
        attach(ctx, &server, &name, &self.kind, self.force).await
    }
}

/// Attaches to the console of an instance until it ends or the person detaches.
pub async fn attach(ctx: &Ctx, server: &Server, name: &str, kind: &str, force: bool) -> Result<()> {
    if kind != "console" {
        return Err(Error::bad_request(format!("Unknown console type {kind:?}: only \"console\" is supported")));
    }
    let Some(raw) = tty::Raw::enter() else {
        return Err(Error::bad_request("The console needs a terminal (standard input is none)"));
    };
    let (width, height) = tty::size().unwrap_or((80, 24));
    let body = json!({ "width": width, "height": height, "type": kind, "force": force });
    let reply = server.post(&(url(name) + "/console"), &body).await?;
    let session = Session::new(server, reply.operation.as_deref(), &reply.value["metadata"])?;
    ctx.say("To detach from the console, press: <ctrl>+a q\r");
    let controls = session.open("control").await?;
    let (sink, stream) = session.open("0").await?.split();
    let (detached, detach) = tokio::sync::oneshot::channel();
    let result = tokio::select! {
        r = receive(stream, std::io::stdout()) => r,
        r = send(keys(stdin(), detached), sink) => r,
        r = control(controls, true) => r,
        _ = detach => Ok(()),
    };
    drop(raw);
    println!();
    result
}

/// What is typed, until Ctrl-a q, which fires `detached`; Ctrl-a twice is one.
fn keys(
    mut from: impl AsyncRead + Unpin + Send + 'static,
    detached: tokio::sync::oneshot::Sender<()>,
) -> impl AsyncRead + Unpin {
    const CTRL_A: u8 = 1;
    let (reader, mut writer) = tokio::io::duplex(4096);
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        let mut escaped = false;
        while let Ok(n) = from.read(&mut buffer).await {
            if n == 0 {
                break;
            }
            let mut out = Vec::with_capacity(n);
            for key in &buffer[..n] {
                match (escaped, *key) {
                    (true, b'q') => {
                        let _ = detached.send(());
                        return;
                    }
                    (false, CTRL_A) => escaped = true,
                    (true, CTRL_A) => {
                        escaped = false;
                        out.push(CTRL_A);
                    }
                    (was, key) => {
                        if was {
                            out.push(CTRL_A);
                        }
                        escaped = false;
                        out.push(key);
                    }
                }
            }
            if writer.write_all(&out).await.is_err() {
                break;
            }
        }
        // Without input the console is still watched.
        std::future::pending::<()>().await;
    });
    reader
}
