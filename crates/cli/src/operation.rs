//! Following background operations: their progress, their end, their cancellation.

use api::{Error, Kind, Result};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::server::{Reply, Server};

/// A line that says how far something is; shows only on terminals.
#[derive(Clone)]
pub struct Progress {
    bar: Option<ProgressBar>,
    /// How a state is worded, `%s` being what the server says.
    format: String,
}

impl Progress {
    /// A line, or nothing at all if `quiet` or without a terminal.
    pub fn new(quiet: bool, format: &str) -> Self {
        let shown = !quiet && rustix::termios::isatty(std::io::stderr());
        let bar = shown.then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        Self { bar, format: format.to_owned() }
    }

    /// True if anybody sees it.
    pub fn shown(&self) -> bool {
        self.bar.is_some()
    }

    /// Says how far it is.
    pub fn set(&self, state: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(if self.format.is_empty() {
                state.to_owned()
            } else {
                self.format.replacen("%s", state, 1)
            });
            bar.tick();
        }
    }

    /// Takes the line away.
    pub fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Waits for the operation of a reply; returns its last state. A reply without one is done already.
///
/// Ctrl-C asks the server to cancel the operation; a second one gives up waiting.
pub async fn wait(server: &Server, reply: Reply, progress: &Progress) -> Result<Value> {
    let Some(path) = reply.operation else {
        return Ok(reply.value);
    };
    let result = tokio::select! {
        result = finished(server, &path) => result,
        never = show(server, &path, progress) => match never {},
        e = cancelled(server, &path) => Err(e),
    };
    progress.done();
    result
}

/// Waits like [`wait`], but Ctrl-C is none of its business: it belongs to what runs in the instance.
pub async fn wait_uninterrupted(server: &Server, reply: &Reply, progress: &Progress) -> Result<Value> {
    let Some(path) = &reply.operation else {
        return Ok(reply.value.clone());
    };
    tokio::select! {
        result = finished(server, path) => result,
        never = show(server, path, progress) => match never {},
    }
}

async fn finished(server: &Server, path: &str) -> Result<Value> {
    let (base, query) = path.split_once('?').unwrap_or((path, ""));
    let state = server.get(&format!("{base}/wait{}{query}", if query.is_empty() { "" } else { "?" })).await?.value;
    let error = state["err"].as_str().unwrap_or_default();
    if error.is_empty() && state["status_code"].as_u64().unwrap_or(200) < 400 {
        return Ok(state);
    }
    let code = state["status_code"].as_u64().and_then(|c| u16::try_from(c).ok()).unwrap_or(500);
    let text = if error.is_empty() { state["status"].as_str().unwrap_or("Failure") } else { error };
    Err(Error::new(Kind::from_status(code), text))
}

/// Shows the progress that events tell of, for as long as it is polled.
async fn show(server: &Server, path: &str, progress: &Progress) -> std::convert::Infallible {
    if progress.shown() {
        let id = path.split('?').next().unwrap_or(path).rsplit('/').next().unwrap_or_default();
        if let Ok(mut events) = server.websocket("/1.0/events?type=operation&all-projects=true").await {
            while let Some(Ok(message)) = events.next().await {
                let event = message.to_text().ok().and_then(|t| serde_json::from_str::<Value>(t).ok());
                if let Some(text) = event.and_then(|e| progress_of(&e["metadata"], id)) {
                    progress.set(&text);
                }
            }
        }
    }
    std::future::pending().await
}

fn progress_of(operation: &Value, id: &str) -> Option<String> {
    if operation["id"].as_str()? != id {
        return None;
    }
    let metadata = operation["metadata"].as_object()?;
    metadata.iter().find(|(k, v)| k.ends_with("_progress") && v.is_string())?.1.as_str().map(str::to_owned)
}

async fn cancelled(server: &Server, path: &str) -> Error {
    if tokio::signal::ctrl_c().await.is_err() {
        return std::future::pending().await;
    }
    if let Err(e) = server.delete(path).await {
        eprintln!("The operation cannot be cancelled: {e} (interrupt again to leave it running)");
        let _ = tokio::signal::ctrl_c().await;
        return Error::unavailable("User signaled us to stop waiting; the operation continues to run on the server");
    }
    Error::unavailable("Remote operation canceled by user")
}
