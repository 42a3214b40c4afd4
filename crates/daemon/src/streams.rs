//! What flows between websockets and file descriptors: pipes and terminals of programs in instances.
//!
//! Data travels as binary messages, an empty text message says that nothing more comes in that direction.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use api::Result;
use api::instance_exec::InstanceExecControl;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use crate::edge::websocket::WebSocket;

/// How much is taken from a descriptor at once, in bytes.
const CHUNK: usize = 32 << 10;
/// The most that a program that has ended can have left in a pipe or terminal, in bytes.
const LEFT: usize = 1 << 20;
/// How often a silent client is asked whether it is still there.
const PING: Duration = Duration::from_secs(10);
/// How long a client may take to close its side.
const GOODBYE: Duration = Duration::from_secs(5);

/// Why the flow from a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client said that nothing more comes.
    Said,
    /// The client is gone.
    Gone,
    /// Nobody reads what it sends any more.
    Closed,
}

/// The reading end of a descriptor.
pub fn reader(fd: OwnedFd) -> Result<pipe::Receiver> {
    rustix::io::ioctl_fionbio(&fd, true).map_err(std::io::Error::from)?;
    Ok(pipe::Receiver::from_owned_fd_unchecked(fd)?)
}

/// The writing end of a descriptor.
pub fn writer(fd: OwnedFd) -> Result<pipe::Sender> {
    rustix::io::ioctl_fionbio(&fd, true).map_err(std::io::Error::from)?;
    Ok(pipe::Sender::from_owned_fd_unchecked(fd)?)
}

/// Writes what a client sends, until it says that it ends.
pub async fn inward(from: &mut SplitStream<WebSocket>, to: &mut pipe::Sender) -> End {
    while let Some(Ok(message)) = from.next().await {
        let data = match message {
            Message::Binary(data) => data,
            // Some send text; an empty one is the end.
            Message::Text(text) if text.is_empty() => return End::Said,
            Message::Text(text) => text.into(),
            Message::Close(_) => return End::Gone,
            _ => continue,
        };
        if to.write_all(&data).await.is_err() {
            return End::Closed;
        }
    }
    End::Gone
}

/// Reads what a client sends, and drops it, until it is gone.
pub async fn drain(from: &mut SplitStream<WebSocket>) {
    while let Some(Ok(message)) = from.next().await {
        if message.is_close() {
            return;
        }
    }
}

/// Sends what is read from a descriptor until its end, or until the program has `exited` and nothing is left. True if
/// the client got all of it.
pub async fn outward(
    from: &pipe::Receiver,
    to: &mut SplitSink<WebSocket, Message>,
    exited: &CancellationToken,
) -> bool {
    let mut buffer = vec![0; CHUNK];
    let mut left = LEFT;
    let mut pings = tokio::time::interval(PING);
    loop {
        let n = tokio::select! {
            biased;
            n = read(from, &mut buffer) => n,
            _ = pings.tick() => {
                if to.send(Message::Ping(Vec::new().into())).await.is_err() { return false }
                continue;
            }
            () = exited.cancelled() => {
                // Others may still hold the other end; what they write is none of this program's.
                let n = rustix::io::read(from.as_fd(), &mut buffer).unwrap_or(0);
                if n > left { 0 } else { left -= n; n }
            }
        };
        if n == 0 {
            return true;
        }
        if to.send(Message::binary(buffer.get(..n).unwrap_or_default().to_vec())).await.is_err() {
            return false;
        }
    }
}

/// Reads; nothing at the end. A terminal ends with an error.
async fn read(from: &pipe::Receiver, buffer: &mut [u8]) -> usize {
    loop {
        if from.readable().await.is_err() {
            return 0;
        }
        match from.try_read(buffer) {
            Ok(n) => return n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            // The kernel looks for what was written first, then whether anybody is left who could write: what comes
            // in between, together with the end, is found only by looking again.
            Err(_) => return rustix::io::read(from.as_fd(), buffer).unwrap_or(0),
        }
    }
}

/// Ends a websocket and waits, beside everything else, until the client has ended it too: what it has not read yet
/// would be lost otherwise.
pub fn goodbye(mut sink: SplitSink<WebSocket, Message>, mut stream: SplitStream<WebSocket>) {
    tokio::spawn(async move {
        let closed = async {
            let _ = sink.send(Message::text("")).await;
            let _ = sink.close().await;
            drain(&mut stream).await;
        };
        let _ = tokio::time::timeout(GOODBYE, closed).await;
    });
}

/// What a client asks for over its control channel.
pub enum Control {
    /// Columns and rows of its terminal.
    Resize(u16, u16),
    /// A signal for the program.
    Signal(i32),
}

/// The next thing asked for over a control channel; `Err` once the client is gone, with whether it said goodbye.
pub async fn control(from: &mut WebSocket) -> Result<Control, bool> {
    while let Some(Ok(message)) = from.next().await {
        let text = match message {
            Message::Text(text) => text.as_bytes().to_vec(),
            Message::Binary(data) => data.to_vec(),
            Message::Close(_) => return Err(true),
            _ => continue,
        };
        if let Some(wanted) = asked(&text) {
            return Ok(wanted);
        }
    }
    Err(false)
}

/// What a message of a control channel asks for; `None` if that is nothing that is known.
pub fn asked(message: &[u8]) -> Option<Control> {
    let wanted = serde_json::from_slice::<InstanceExecControl>(message).ok()?;
    match wanted.command.as_str() {
        "window-resize" => {
            let args = wanted.args.unwrap_or_default();
            let number = |name: &str| args.get(name).and_then(|n| n.parse().ok());
            Some(Control::Resize(number("width")?, number("height")?))
        }
        "signal" => Some(Control::Signal(wanted.signal)),
        _ => None,
    }
}
