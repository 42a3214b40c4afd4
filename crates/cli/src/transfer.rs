//! Bodies that are files, with a line of progress for people who watch.

use std::{path::Path, sync::Arc, time::Instant};

use api::{Error, Result};
use bytes::Bytes;
use futures::TryStreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio_util::io::ReaderStream;

use crate::{operation::Progress, output::bytes_decimal, server::RawReply, transport::Body};

/// Counts bytes and says how far it is: `Exporting the image: 42% (120.00MB/s)`.
#[derive(Clone)]
pub struct Meter {
    progress: Progress,
    total: u64,
    begun: Instant,
    done: Arc<std::sync::atomic::AtomicU64>,
}

impl Meter {
    /// A meter for so many bytes (0 if nobody knows).
    pub fn new(progress: Progress, total: u64) -> Self {
        Self { progress, total, begun: Instant::now(), done: Arc::default() }
    }

    /// So many more bytes went through.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    pub fn add(&self, n: usize) {
        let done = self.done.fetch_add(n as u64, std::sync::atomic::Ordering::Relaxed) + n as u64;
        if !self.progress.shown() {
            return;
        }
        let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
        let speed = bytes_decimal((done as f64 / seconds) as i64);
        let far = match (done * 100).checked_div(self.total) {
            Some(percent) => format!("{}%", percent.min(100)),
            None => bytes_decimal(done as i64),
        };
        self.progress.set(&format!("{far} ({speed}/s)"));
    }

    /// It is over.
    pub fn finish(&self) {
        self.progress.done();
    }
}

/// A body that is a local file, and its length.
pub async fn file_body(path: &Path, progress: Progress) -> Result<(Body, u64)> {
    let unreadable = |e: std::io::Error| Error::bad_request(format!("Unable to read {}: {e}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let length = file.metadata().await.map_err(unreadable)?.len();
    let meter = Meter::new(progress, length);
    Ok((stream_body(file, meter), length))
}

/// A body that is read from somewhere.
pub fn stream_body(from: impl tokio::io::AsyncRead + Send + Sync + 'static, meter: Meter) -> Body {
    let stream = ReaderStream::with_capacity(from, 256 * 1024).map_ok(move |data: Bytes| {
        meter.add(data.len());
        Frame::data(data)
    });
    BodyExt::boxed(StreamBody::new(stream))
}

/// Writes an answer into a file.
pub async fn save(reply: RawReply, path: &Path, progress: Progress) -> Result<()> {
    let failed = |e: std::io::Error| Error::internal(format!("Unable to write {}: {e}", path.display()));
    let mut file = std::fs::File::create(path).map_err(failed)?;
    let total = reply.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let meter = Meter::new(progress, total);
    let result = reply
        .each(|data| {
            meter.add(data.len());
            std::io::Write::write_all(&mut file, data)
        })
        .await;
    meter.finish();
    if result.is_err() {
        let _ = std::fs::remove_file(path);
    }
    result
}
