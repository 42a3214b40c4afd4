//! The websockets of `exec` and `console`: what flows between them and our terminal.

use api::{Error, Result};
use futures::{SinkExt, StreamExt, stream::SplitSink};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    signal::unix::{SignalKind, signal},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{server::Server, transport::WebSocket, tty};

/// The websockets of an operation.
pub struct Session<'a> {
    server: &'a Server,
    path: String,
    fds: Value,
}

impl<'a> Session<'a> {
    /// The session of the operation that a reply began.
    pub fn new(server: &'a Server, operation: Option<&str>, metadata: &Value) -> Result<Self> {
        let path = operation.ok_or_else(|| Error::internal("The server began no operation"))?.to_owned();
        Ok(Self { server, path, fds: metadata["fds"].clone() })
    }

    /// Opens the websocket called `fd`: `0`, `1`, `2` or `control`.
    pub async fn open(&self, fd: &str) -> Result<WebSocket> {
        let secret =
            self.fds[fd].as_str().ok_or_else(|| Error::internal(format!("The server offers no channel {fd}")))?;
        let (base, query) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let more = if query.is_empty() { String::new() } else { format!("&{query}") };
        self.server.websocket(&format!("{base}/websocket?secret={secret}{more}")).await
    }
}

/// Sends what is read, then the mark of its end.
pub async fn send(mut from: impl AsyncRead + Unpin, mut to: SplitSink<WebSocket, Message>) -> Result<()> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                if to.send(Message::binary(buffer[..n].to_vec())).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    // An empty text message says that nothing more comes; what flows the other way goes on.
    let _ = to.send(Message::text("")).await;
    std::future::pending().await
}

/// Writes what is received until its end. Writing blocks: whoever reads us sets the pace of all.
pub async fn receive(
    mut from: impl StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
    mut to: impl std::io::Write,
) -> Result<()> {
    while let Some(Ok(message)) = from.next().await {
        match message {
            Message::Binary(data) => {
                to.write_all(&data)?;
                to.flush()?;
            }
            Message::Text(_) | Message::Close(_) => break,
            _ => {}
        }
    }
    to.flush()?;
    Ok(())
}

/// Tells the server of the terminal's size and of signals, for as long as it is polled.
pub async fn control(mut socket: WebSocket, interactive: bool) -> Result<()> {
    let on = |kind| signal(kind).map_err(Error::from);
    let mut resized = on(SignalKind::window_change())?;
    let mut term = on(SignalKind::terminate())?;
    let mut hup = on(SignalKind::hangup())?;
    let mut int = on(SignalKind::interrupt())?;
    let mut quit = on(SignalKind::quit())?;
    let mut usr1 = on(SignalKind::user_defined1())?;
    let mut usr2 = on(SignalKind::user_defined2())?;
    loop {
        let number = tokio::select! {
            _ = resized.recv() => 0,
            _ = term.recv() => 15,
            _ = hup.recv() => 1,
            _ = int.recv() => 2,
            _ = quit.recv() => 3,
            _ = usr1.recv() => 10,
            _ = usr2.recv() => 12,
            // The server says nothing here, but it must be read for the connection to live.
            message = socket.next() => match message {
                Some(Ok(_)) => continue,
                _ => return std::future::pending().await,
            },
        };
        let command = if number == 0 {
            let Some((width, height)) = tty::size().filter(|_| interactive) else { continue };
            json!({ "command": "window-resize", "args": { "width": width.to_string(), "height": height.to_string() } })
        } else {
            json!({ "command": "signal", "signal": number })
        };
        if socket.send(Message::text(command.to_string())).await.is_err() {
            return std::future::pending().await;
        }
    }
}
