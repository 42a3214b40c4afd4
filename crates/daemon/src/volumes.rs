//! The files of volumes between members: whoever gets a volume pulls it from the member that has it.
//!
//! Only files are touched here, never rows. A volume comes as a stream that is checked to its end (see
//! [`drivers::storage::tree`]): it is there as a whole, with its snapshots, or not at all. The rows are switched by
//! the callers once the files are in place; files that no row speaks of are swept when the member starts.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::endpoint::{encode, fill};
use api::{Error, Kind, Result};
use bytes::{Buf as _, Bytes};
use db::Tx;
use db::volumes::{Filter, Volume as Row, VolumeType};
use drivers::storage::lease::{self, Held, Renewed, Seen, Watch};
use drivers::storage::shared::Sharing;
use drivers::storage::{Driver, Part, Volume};
use host::clock::since_boot;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_util::sync::CancellationToken;

use crate::edge::{Body, Cx, Router};
use crate::services::pools;
use crate::state::Daemon;
use crate::{blocking, edge};

/// What travels at once, in bytes.
const PIECE: usize = 256 << 10;
/// Pieces that wait to be sent, or to be written.
const QUEUE: usize = 8;
/// How long is waited before a volume is looked at again that another member changes.
const LOCKED: Duration = Duration::from_millis(50);
/// How long the other member may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

pub fn routes(r: &mut Router) {
    r.sync(&api::internal::VOLUME_FILES_DELETE, delete_files);
    r.raw(&api::internal::VOLUME_FILES_STREAM, serve);
}

/// While this is kept nobody else changes the files of a volume: nobody on this member, and in a pool that all members
/// reach nobody at all.
pub struct Lock {
    held: Option<Arc<Mutex<Held>>>,
    local: Option<OwnedMutexGuard<()>>,
    renewing: Option<tokio::task::AbortHandle>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(renewing) = self.renewing.take() {
            renewing.abort();
        }
        let (Some(held), local) = (self.held.take(), self.local.take()) else { return };
        let give_back = move || {
            if let Err(e) = exclusive(&held).forget() {
                tracing::warn!("giving the lock of a volume back: {e}");
            }
            drop(local);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(give_back)),
            Err(_) => give_back(),
        }
    }
}

/// Waits until nobody else changes the files of a volume.
pub async fn lock(daemon: &Arc<Daemon>, pool: &str, volume: &Volume) -> Result<Lock> {
    let place = daemon.paths.root().join("storage-pools").join(pool);
    let local = Some(crate::locks::hold(place.join(volume.kind.folder()).join(&volume.name)).await);
    let Some(sharing) = sharing(daemon, pool).await? else { return Ok(Lock { held: None, local, renewing: None }) };
    let mut watch = Watch::default();
    loop {
        let (volume, sharing) = (volume.clone(), sharing.clone());
        let tried = blocking::run(move || Ok((take_lock(&sharing, &volume, &mut watch), watch))).await?;
        watch = tried.1;
        if let Some(held) = tried.0? {
            let held = Arc::new(Mutex::new(held));
            let renewing = Some(tokio::spawn(keep(held.clone())).abort_handle());
            return Ok(Lock { held: Some(held), local, renewing });
        }
        tokio::time::sleep(LOCKED).await;
    }
}

/// The lock of a volume, unless another member has it.
pub async fn lock_now(daemon: &Arc<Daemon>, pool: &str, volume: &Volume) -> Result<Option<Lock>> {
    if let Some(sharing) = sharing(daemon, pool).await? {
        let (of, own) = (volume.clone(), sharing.owner.id);
        let now = blocking::run(move || sharing.locks.read(&of)).await?;
        if now.is_some_and(|r| r.owner != own && r.state == lease::State::Held) {
            return Ok(None);
        }
    }
    lock(daemon, pool, volume).await.map(Some)
}

/// What keeps the volumes of a pool from being used by two members, if all members reach them.
pub async fn sharing(daemon: &Arc<Daemon>, pool: &str) -> Result<Option<Sharing>> {
    Ok(pools::open(daemon, pool).await?.sharing().cloned())
}

/// Takes the lock of a volume if it is free, or its owner is gone.
fn take_lock(sharing: &Sharing, volume: &Volume, watch: &mut Watch) -> Result<Option<Held>> {
    let (locks, owner) = (&sharing.locks, &sharing.owner);
    let taken = match watch.look(locks, volume, since_boot)? {
        Seen::Lapsed(seen) => locks.take_over(volume, owner, lease::TTL, since_boot, &seen),
        Seen::Held(seen) if seen.owner != owner.id => return Ok(None),
        _ => locks.take(volume, owner, lease::TTL, since_boot),
    };
    match taken {
        Err(e) if e.kind == Kind::Conflict => Ok(None),
        other => other.map(Some),
    }
}

/// Renews a lock for as long as it is needed.
async fn keep(held: Arc<Mutex<Held>>) {
    loop {
        tokio::time::sleep(lease::TTL / 4).await;
        let of = held.clone();
        match blocking::run(move || exclusive(&of).renew(since_boot)).await {
            Ok(Renewed::Kept) => {}
            Ok(Renewed::Lost(why)) => return tracing::error!("the lock of a volume is lost: {why}"),
            Err(e) => tracing::warn!("renewing the lock of a volume: {e}"),
        }
    }
}

/// Renewing and giving back never meet.
fn exclusive(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A volume of another member.
pub struct Source<'a> {
    /// The member's address.
    pub address: &'a str,
    /// Name of the pool there.
    pub pool: &'a str,
    /// The volume there.
    pub volume: &'a Volume,
    /// What of it.
    pub part: Part,
    /// Ends it before it is done.
    pub stop: CancellationToken,
}

/// Gets a volume from another member into a pool of this one; replaces nothing: a conflict if it is there. Nothing is
/// left if it fails. `progress` gets the bytes that have come in so far. The caller holds the lock of the new volume.
pub async fn fetch_locked(
    daemon: &Arc<Daemon>,
    source: &Source<'_>,
    to_pool: &str,
    to: &Volume,
    progress: impl Fn(u64) + Send + Sync + 'static,
) -> Result<()> {
    let driver = pools::open(daemon, to_pool).await?;
    if driver.exists(to) {
        return Err(Error::conflict(format!("{} exists already", driver.path(to).display())));
    }
    let mut body = open(daemon, source).await?;
    let (pieces, queue) = mpsc::channel(QUEUE);
    let to = to.clone();
    let writing = tokio::spawn(blocking::run(move || {
        let mut input = Input { queue, rest: Bytes::new() };
        driver.receive(&to, &mut input, &mut |_| {})
    }));
    let (so_far, mut broken) = (AtomicU64::new(0), None);
    loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(SILENCE, body.frame()) => frame,
            () = source.stop.cancelled() => {
                broken = Some(Error::conflict("It was cancelled"));
                break;
            }
        };
        let piece = match frame {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(Some(Err(e))) => {
                broken = Some(Error::unavailable(format!("The connection broke: {e}")));
                break;
            }
            Err(_) => {
                broken = Some(Error::unavailable(format!("{} fell silent", source.address)));
                break;
            }
        };
        let len = piece.len() as u64;
        if pieces.send(piece).await.is_err() {
            break;
        }
        progress(so_far.fetch_add(len, Ordering::Relaxed) + len);
    }
    drop(pieces);
    let written = writing.await.map_err(|e| Error::internal(e.to_string()))?;
    // A stream that ends in the middle does so because the connection broke.
    match (written, broken) {
        (Err(e), Some(cause)) if e.message.contains("in the middle") => Err(cause),
        (written, _) => written,
    }
}

/// Asks the other member for the stream.
async fn open(daemon: &Arc<Daemon>, source: &Source<'_>) -> Result<Incoming> {
    let volume = source.volume;
    let mut path =
        fill(api::internal::VOLUME_FILES_STREAM.info.path, &[source.pool, volume.kind.folder(), &volume.name]);
    match &source.part {
        Part::Whole => {}
        Part::Alone => path += "?snapshots=false",
        Part::Snapshot(name) => path += &format!("?snapshot={}", encode(name)),
    }
    let request = Request::get(path).body(client::http::empty()).map_err(|e| Error::internal(e.to_string()))?;
    let remote = daemon.remote(source.address)?;
    let answer = tokio::time::timeout(SILENCE, remote.send(request))
        .await
        .map_err(|_| Error::unavailable(format!("{} does not answer", source.address)))??;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer.into_body());
    }
    let bytes = answer.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let envelope: Option<api::envelope::Envelope> = serde_json::from_slice(&bytes).ok();
    Err(envelope
        .and_then(|e| e.as_error())
        .unwrap_or_else(|| Error::new(Kind::from_status(status.as_u16()), format!("The answer is {status}"))))
}

/// Removes the files of a volume and its snapshots from another member; those that are not there are fine.
pub async fn remove_on(daemon: &Arc<Daemon>, address: &str, pool: &str, volume: &Volume) -> Result<()> {
    let args = [pool, volume.kind.folder(), &volume.name];
    daemon.remote(address)?.call(&api::internal::VOLUME_FILES_DELETE, &args, "", &()).await
}

/// The pool and the volume that another member asks for.
async fn asked(cx: &Cx) -> Result<(Arc<dyn Driver>, Volume)> {
    let kind = drivers::storage::Kind::of_folder(cx.arg(1));
    let kind = kind.ok_or_else(|| Error::bad_request(format!("There are no volumes in \"{}\"", cx.arg(1))))?;
    for name in [cx.arg(0), cx.arg(2), cx.param("snapshot")] {
        if name.contains(['/', '\0']) || matches!(name, "." | "..") {
            return Err(Error::bad_request(format!("Invalid name \"{name}\"")));
        }
    }
    if cx.arg(2).is_empty() {
        return Err(Error::bad_request("The volume has no name"));
    }
    Ok((pools::open(&cx.daemon, cx.arg(0)).await?, Volume { kind, name: cx.arg(2).to_owned() }))
}

/// True if a row says that the volume of that name lies on this member, or that all reach it.
pub async fn owned(daemon: &Arc<Daemon>, pool: &str, volume: &Volume) -> Result<bool> {
    let (pool, own, volume) = (pool.to_owned(), daemon.member_id(), volume.clone());
    daemon.db().read(move |tx| Ok(rows(tx, &pool, own)?.iter().any(|r| files(r).as_ref() == Some(&volume)))).await
}

/// The volumes of a pool that lie on a member, or that all reach, as their rows say.
pub fn rows(tx: &Tx<'_>, pool: &str, member: i64) -> Result<Vec<Row>> {
    let pool = db::pools::id(tx, pool)?;
    db::volumes::list(tx, Filter { pool: Some(pool), member: Some(member), ..Filter::default() })
}

/// The files of a volume, if it is of a type that has some.
pub fn files(row: &Row) -> Option<Volume> {
    let kind = match row.kind {
        VolumeType::Container => drivers::storage::Kind::Container,
        VolumeType::Custom => drivers::storage::Kind::Custom,
        VolumeType::Image | VolumeType::VirtualMachine => return None,
    };
    Some(Volume::new(kind, &row.project, &row.name))
}

async fn delete_files(cx: Cx, (): ()) -> Result<()> {
    let (driver, volume) = asked(&cx).await?;
    let _lock = lock(&cx.daemon, cx.arg(0), &volume).await?;
    // Whoever asks may be late: the volume may have come back, or another one of that name been made.
    if owned(&cx.daemon, cx.arg(0), &volume).await? {
        return Err(Error::conflict("The volume belongs to this member: it is deleted, not removed"));
    }
    blocking::run(move || driver.delete_volume(&volume)).await
}

/// Another member gets a volume.
async fn serve(cx: Cx, _: Request<edge::Incoming>) -> Result<Response<Body>> {
    let (driver, volume) = asked(&cx).await?;
    let part = match (cx.param("snapshot"), cx.param("snapshots")) {
        ("", "false") => Part::Alone,
        ("", _) => Part::Whole,
        (name, _) => Part::Snapshot(name.to_owned()),
    };
    let there = match &part {
        Part::Snapshot(name) => driver.snapshot_path(&volume, name).is_dir(),
        _ => driver.exists(&volume),
    };
    if !there {
        return Err(Error::not_found("This member doesn't have that volume"));
    }
    let lock = lock(&cx.daemon, cx.arg(0), &volume).await?;
    let (pieces, mut queue) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let _lock = lock;
        let mut out = io::BufWriter::with_capacity(PIECE, Output(&pieces));
        let sent = driver
            .send(&volume, &part, &mut out, &mut |_| {})
            .and_then(|()| out.flush().map_err(|e| Error::internal(e.to_string())));
        if let Err(e) = sent {
            tracing::warn!("sending the volume {}: {e}", volume.name);
            // What is buffered must not go out after this.
            drop(out.into_parts());
            // The connection is cut, so that nobody takes what was sent for the whole.
            let _ = pieces.blocking_send(Err(io::Error::other(e.message)));
        }
    });
    let body = StreamBody::new(futures::stream::poll_fn(move |cx| queue.poll_recv(cx))).boxed();
    Response::builder()
        .header("content-type", "application/octet-stream")
        .body(body)
        .map_err(|e| Error::internal(e.to_string()))
}

/// Writes into a body; waits while the other side does not read, but not for ever.
struct Output<'a>(&'a mpsc::Sender<io::Result<Frame<Bytes>>>);

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let send = self.0.send_timeout(Ok(Frame::data(Bytes::copy_from_slice(bytes))), SILENCE);
        tokio::runtime::Handle::current().block_on(send).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what comes in; ends where the sender went away.
struct Input {
    queue: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Input {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.queue.blocking_recv() {
                Some(piece) => self.rest = piece,
                None => return Ok(0),
            }
        }
        let n = to.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut to[..n]);
        Ok(n)
    }
}
