//! Image files that come into being here: received, or made. They are written under another name, with their
//! fingerprint computed on the way, and put into place when they are whole.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use api::error::Context as _;
use api::{Error, Result};
use bytes::Bytes;
use drivers::image::Files;
use futures::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::multipart::Multipart;
use super::store;
use crate::state::Daemon;

/// What names begin with while their files are not whole.
pub(super) const UPLOAD: &str = ".upload-";
/// Pieces that wait to be written.
const QUEUE: usize = 16;
/// Bytes that stay free for everything else that is written there, the database above all.
const RESERVE: u64 = 64 << 20;
/// Bytes between two looks at how much is free.
const STEP: u64 = 16 << 20;

/// Refuses so many bytes if they would fill the file system that images lie on.
pub fn must_fit(dir: &Path, bytes: u64) -> Result<()> {
    let fs = rustix::fs::statvfs(dir).map_err(io::Error::from).context(format!("Looking at {}", dir.display()))?;
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    if bytes.saturating_add(RESERVE) > free {
        return Err(Error::bad_request(format!(
            "The image doesn't fit: {} has {} MiB left, and {} MiB must stay free",
            dir.display(),
            free >> 20,
            RESERVE >> 20
        )));
    }
    Ok(())
}

/// A file that goes when nobody has it any more.
pub struct Temporary(PathBuf);

impl Temporary {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The whole of an image that came in.
pub struct Received {
    /// Its files, one or two.
    pub files: Vec<Temporary>,
    /// Their fingerprint.
    pub fingerprint: String,
    /// Bytes.
    pub size: u64,
}

impl Received {
    /// Where its files lie for now.
    pub fn files(&self) -> Files {
        let mut paths = self.files.iter().map(|f| f.path().to_owned());
        Files { image: paths.next().unwrap_or_default(), rootfs: paths.next() }
    }

    /// Puts the files into place, unless they are there already. The caller holds the lock.
    pub fn place(self, daemon: &Daemon) -> Result<Files> {
        if let Some(files) = store::local(daemon, &self.fingerprint) {
            return Ok(files);
        }
        let (image, rootfs) = store::paths(daemon, &self.fingerprint);
        let _ = std::fs::remove_file(&rootfs);
        for (file, to) in self.files.iter().zip([&image, &rootfs]).rev() {
            std::fs::rename(file.path(), to).context(format!("Writing {}", to.display()))?;
        }
        File::open(daemon.paths.images()).and_then(|dir| dir.sync_all()).context("Writing the image")?;
        store::local(daemon, &self.fingerprint).ok_or_else(|| Error::internal("The files of the image went away"))
    }
}

enum Piece {
    File,
    Data(Bytes),
    End,
}

/// Writes what comes in to files, and computes the fingerprint.
pub struct Sink {
    to: mpsc::Sender<Piece>,
    task: JoinHandle<Result<Received>>,
}

impl Sink {
    /// Nothing has come in yet.
    pub fn new(daemon: &Daemon) -> Sink {
        let dir = daemon.paths.images();
        let (to, from) = mpsc::channel(QUEUE);
        Sink { to, task: tokio::task::spawn_blocking(move || write(&dir, from)) }
    }

    /// Begins the next file.
    pub async fn file(&mut self) -> Result<()> {
        self.send(Piece::File).await
    }

    /// Adds to the file.
    pub async fn data(&mut self, data: Bytes) -> Result<()> {
        self.send(Piece::Data(data)).await
    }

    async fn send(&mut self, piece: Piece) -> Result<()> {
        if self.to.send(piece).await.is_ok() {
            return Ok(());
        }
        match (&mut self.task).await {
            Ok(Err(e)) => Err(e),
            _ => Err(Error::internal("Writing the image ended early")),
        }
    }

    /// All has come in.
    pub async fn end(mut self) -> Result<Received> {
        self.send(Piece::End).await?;
        self.task.await.map_err(|e| Error::internal(format!("Writing the image crashed: {e}")))?
    }
}

/// Writes pieces to files below `dir`. What is not ended leaves nothing.
fn write(dir: &Path, mut from: mpsc::Receiver<Piece>) -> Result<Received> {
    let mut writer = Writer::new(dir);
    while let Some(piece) = from.blocking_recv() {
        match piece {
            Piece::File => writer.file()?,
            Piece::Data(data) => writer.write_all(&data).map_err(written)?,
            Piece::End => return writer.end(),
        }
    }
    Err(Error::bad_request("The image did not come in whole"))
}

/// Tells apart what [`Writer`] itself refuses and what the kernel does.
fn written(e: io::Error) -> Error {
    let refused = e.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).cloned();
    refused.unwrap_or_else(|| Error::from(e).context("Writing the image"))
}

/// Writes the files of an image one after the other. It blocks.
pub struct Writer {
    dir: PathBuf,
    received: Received,
    hash: Sha256,
    open: Option<File>,
    /// Up to how many bytes it is known to fit.
    fits: u64,
}

impl Writer {
    /// Nothing is written yet; the files come to lie in `dir`.
    pub fn new(dir: &Path) -> Writer {
        let received = Received { files: Vec::new(), fingerprint: String::new(), size: 0 };
        Writer { dir: dir.to_owned(), received, hash: Sha256::new(), open: None, fits: 0 }
    }

    /// Begins the next file.
    pub fn file(&mut self) -> Result<()> {
        self.close()?;
        let temporary = Temporary(self.dir.join(format!("{UPLOAD}{}", Uuid::new_v4())));
        let file = File::create_new(temporary.path());
        self.open = Some(file.context(format!("Creating {}", temporary.path().display()))?);
        self.received.files.push(temporary);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.open.take().map_or(Ok(()), |f| f.sync_all()).context("Writing the image")
    }

    /// All is written.
    pub fn end(mut self) -> Result<Received> {
        self.close()?;
        self.received.fingerprint = hex::encode(self.hash.finalize());
        Ok(self.received)
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.received.size >= self.fits {
            must_fit(&self.dir, STEP).map_err(io::Error::other)?;
            self.fits = self.received.size + STEP;
        }
        let file = self.open.as_mut().ok_or_else(|| io::Error::other("there is no file to write to"))?;
        let n = file.write(bytes)?;
        self.hash.update(bytes.get(..n).unwrap_or_default());
        self.received.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Receives an image as it is sent: one file, or two as `multipart/form-data`. `tell` is told how many bytes came.
pub async fn receive(
    daemon: &Daemon,
    content_type: &str,
    data: impl Stream<Item = Result<Bytes>> + Unpin,
    tell: impl Fn(u64),
) -> Result<Received> {
    let mut came = 0;
    let data = data.inspect(move |bytes| {
        came += bytes.as_ref().map_or(0, |b| b.len() as u64);
        tell(came);
    });
    if content_type.starts_with("multipart/form-data") {
        receive_parts(daemon, Multipart::new(content_type, data)?).await
    } else {
        receive_whole(daemon, data).await
    }
}

async fn receive_whole(daemon: &Daemon, mut data: impl Stream<Item = Result<Bytes>> + Unpin) -> Result<Received> {
    let mut sink = Sink::new(daemon);
    sink.file().await?;
    while let Some(bytes) = data.next().await {
        sink.data(bytes?).await?;
    }
    sink.end().await
}

async fn receive_parts(
    daemon: &Daemon,
    mut parts: Multipart<impl Stream<Item = Result<Bytes>> + Unpin>,
) -> Result<Received> {
    let mut sink = Sink::new(daemon);
    // The fingerprint is that of both, in this order.
    for want in ["metadata", "rootfs"] {
        match parts.next().await?.map(|part| part.name) {
            Some(name) if name == want => {}
            Some(name) if name == "rootfs.img" => {
                return Err(Error::bad_request("Images of virtual machines aren't supported by this server"));
            }
            Some(name) => {
                return Err(Error::bad_request(format!("The part \"{want}\" was expected, not \"{name}\"")));
            }
            None => return Err(Error::bad_request(format!("The part \"{want}\" is missing"))),
        }
        sink.file().await?;
        while let Some(bytes) = parts.chunk().await? {
            sink.data(bytes).await?;
        }
    }
    sink.end().await
}
