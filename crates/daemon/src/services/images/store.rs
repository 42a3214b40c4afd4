//! The files of images on this member: `images/<fingerprint>` and, for images in two files, `<fingerprint>.rootfs`.
//!
//! An image is here when its first file is: the second one is put into place before it and removed after it. What
//! comes in is written under another name and renamed when it is whole and its fingerprint is right.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::endpoint::fill;
use api::key::Read as _;
use api::{Error, Kind, Result};
use db::projects::{Feature, holder};
use drivers::image::Files;
use http_body_util::BodyExt as _;
use hyper::{Request, Response};

use super::export::file_body;
use super::incoming::{Received, Sink, UPLOAD};
use crate::edge::{Body, Cx, Incoming};
use crate::state::Daemon;

/// Where the files of an image lie.
pub(super) fn paths(daemon: &Daemon, fingerprint: &str) -> (PathBuf, PathBuf) {
    let images = daemon.paths.images();
    (images.join(fingerprint), images.join(format!("{fingerprint}.rootfs")))
}

/// The files of an image, if this member has it.
pub(super) fn local(daemon: &Daemon, fingerprint: &str) -> Option<Files> {
    let (image, rootfs) = paths(daemon, fingerprint);
    image.exists().then(|| Files { image, rootfs: rootfs.exists().then_some(rootfs) })
}

/// Makes sure that nobody else changes the files of the image meanwhile.
pub(super) async fn lock(daemon: &Daemon, fingerprint: &str) -> tokio::sync::OwnedMutexGuard<()> {
    crate::locks::hold(paths(daemon, fingerprint).0).await
}

/// The files of an image on this member, fetched from another one if they are not here.
pub async fn ensure_local(daemon: &Arc<Daemon>, project: &str, fingerprint: &str) -> Result<Files> {
    let (project, asked) = (project.to_owned(), fingerprint.to_owned());
    let (fingerprint, holders) = daemon
        .view(move |tx| {
            let image = db::images::get(tx, &holder(tx, &project, Feature::Images)?, &asked)?;
            Ok((image.image.fingerprint.clone(), db::images::holders(tx, &image.image.fingerprint)?))
        })
        .await?;
    let _lock = lock(daemon, &fingerprint).await;
    if let Some(files) = local(daemon, &fingerprint) {
        return Ok(files);
    }
    let mut last = None;
    for (name, address) in others(daemon, holders) {
        match receive(daemon, &address, &fingerprint).await {
            Ok(received) => {
                let files = received.place(daemon)?;
                note(daemon, &fingerprint).await?;
                return Ok(files);
            }
            Err(e) => {
                tracing::warn!("getting the image {fingerprint} from {name}: {e}");
                last = Some(e.context(format!("Getting the image {fingerprint} from the member \"{name}\"")));
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::unavailable(format!("No member has the files of the image {fingerprint}"))))
}

/// The other ones among members, as name and address; those that look healthy first. One that does not may still
/// answer: it may have started a moment ago.
fn others(daemon: &Daemon, mut members: Vec<(String, String)>) -> Vec<(String, String)> {
    let own = daemon.name();
    members.retain(|(name, _)| *name != own);
    members.sort_by_key(|(name, _)| !looks_online(daemon, name));
    members
}

fn looks_online(daemon: &Daemon, name: &str) -> bool {
    let snapshot = daemon.snapshot();
    let member = snapshot.members.iter().find(|m| m.name == name);
    member.is_some_and(|m| daemon.must_be_online(m, &snapshot).is_ok())
}

/// Records that this member has the files, for all images of that fingerprint.
pub(super) async fn note(daemon: &Arc<Daemon>, fingerprint: &str) -> Result<()> {
    let (fingerprint, member) = (fingerprint.to_owned(), daemon.member_id());
    let note = move |tx: &db::Tx<'_>| {
        db::images::same(tx, &fingerprint)?.iter().try_for_each(|i| db::images::add_location(tx, i.id, member))
    };
    daemon.write(note).await
}

/// Gets the files of an image from another member.
async fn receive(daemon: &Arc<Daemon>, address: &str, fingerprint: &str) -> Result<Received> {
    let remote = daemon.remote(address)?;
    let mut sink = Sink::new(daemon);
    for part in ["image", "rootfs"] {
        let path = fill(api::image::INTERNAL_GET.info.path, &[fingerprint]) + "?part=" + part;
        let request = Request::get(path).body(client::http::empty()).map_err(|e| Error::internal(e.to_string()))?;
        let answer = remote.send(request).await?;
        match Kind::from_status(answer.status().as_u16()) {
            _ if answer.status().is_success() => {}
            Kind::NotFound if part == "rootfs" => break,
            kind => return Err(Error::new(kind, format!("the answer is {}", answer.status()))),
        }
        sink.file().await?;
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Error::unavailable(format!("the connection broke: {e}")))?;
            if let Ok(data) = frame.into_data() {
                sink.data(data).await?;
            }
        }
    }
    let received = sink.end().await?;
    if received.fingerprint != fingerprint {
        return Err(Error::internal(format!(
            "the files are damaged there: their fingerprint is {}",
            received.fingerprint
        )));
    }
    Ok(received)
}

/// Gives copies of a new image to as many members as the configuration wants; what does not work now is fetched
/// when it is needed.
pub fn replicate(daemon: &Arc<Daemon>, project: &str, fingerprint: &str) {
    let wanted = daemon.snapshot().config.read(&api::keys::server::IMAGES_MINIMAL_REPLICA);
    let (daemon, project, fingerprint) = (daemon.clone(), project.to_owned(), fingerprint.to_owned());
    let work = async move {
        let print = fingerprint.clone();
        let holders = daemon.view(move |tx| db::images::holders(tx, &print)).await?;
        let members = daemon.snapshot().members.iter().map(|m| (m.name.clone(), m.address.clone())).collect();
        let mut missing = usize::try_from(wanted).unwrap_or(usize::MAX).saturating_sub(holders.len());
        for (name, address) in others(&daemon, members) {
            if missing == 0 || holders.iter().any(|(holder, _)| *holder == name) {
                continue;
            }
            let query = format!("project={}", api::endpoint::encode(&project));
            let asked = daemon.remote(&address)?;
            match asked.call(&api::image::INTERNAL_FETCH, &[&fingerprint], &query, &()).await {
                Ok(()) => missing -= 1,
                Err(e) => tracing::warn!("giving the image {fingerprint} to {name}: {e}"),
            }
        }
        Ok::<(), Error>(())
    };
    tokio::spawn(async move {
        if let Err(e) = work.await {
            tracing::warn!("copying an image to other members: {e}");
        }
    });
}

/// Removes the files of an image that nobody has any more from all members that had them. Those that can't be
/// reached do so themselves when they start again.
pub async fn remove_everywhere(daemon: &Arc<Daemon>, fingerprint: &str, holders: Vec<(String, String)>) {
    if let Err(e) = remove_unused(daemon, fingerprint).await {
        tracing::warn!("removing the files of the image {fingerprint}: {e}");
    }
    let mut waited_for = Vec::new();
    for (name, address) in others(daemon, holders) {
        let (remote, fingerprint) = (daemon.remote(&address), fingerprint.to_owned());
        let online = looks_online(daemon, &name);
        let task = tokio::spawn(async move {
            let removed = match remote {
                Ok(remote) => remote.call(&api::image::INTERNAL_DELETE, &[&fingerprint], "", &()).await,
                Err(e) => Err(e),
            };
            if let Err(e) = removed {
                tracing::warn!("removing the files of the image {fingerprint} from {name}: {e}");
            }
        });
        if online {
            waited_for.push(task);
        }
    }
    futures::future::join_all(waited_for).await;
}

/// Removes the files of an image from this member, if no project has it any more.
pub async fn remove_unused(daemon: &Arc<Daemon>, fingerprint: &str) -> Result<()> {
    let _lock = lock(daemon, fingerprint).await;
    remove_locked(daemon, fingerprint).await
}

/// The same for a caller who holds the lock.
pub(super) async fn remove_locked(daemon: &Arc<Daemon>, fingerprint: &str) -> Result<()> {
    let asked = fingerprint.to_owned();
    if !daemon.db().read(move |tx| db::images::same(tx, &asked)).await?.is_empty() {
        return Ok(());
    }
    let (image, rootfs) = paths(daemon, fingerprint);
    for path in [image, rootfs] {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::from(e).context(format!("Removing {}", path.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes what a crash left in the middle of coming in. Nothing may come in yet.
pub fn remove_torn(images: &Path) {
    for entry in std::fs::read_dir(images).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(UPLOAD) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Removes the files of images that were deleted while this member was away.
pub async fn sweep(daemon: Arc<Daemon>) {
    if daemon.paths.restored().exists() {
        return;
    }
    let files = std::fs::read_dir(daemon.paths.images()).into_iter().flatten().flatten();
    let names: Vec<String> = files.map(|f| f.file_name().to_string_lossy().into_owned()).collect();
    for name in names {
        let fingerprint = name.strip_suffix(".rootfs").unwrap_or(&name);
        if is_fingerprint(fingerprint)
            && let Err(e) = remove_unused(&daemon, fingerprint).await
        {
            tracing::debug!("looking whether the image {fingerprint} is still there: {e}");
        }
    }
}

pub(super) fn is_fingerprint(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn fingerprint_of(cx: &Cx) -> Result<String> {
    if is_fingerprint(cx.arg(0)) { Ok(cx.arg(0).to_owned()) } else { Err(Error::bad_request("That is no fingerprint")) }
}

/// Another member gets a file.
pub async fn serve(cx: Cx, _: Request<Incoming>) -> Result<Response<Body>> {
    let files = local(&cx.daemon, &fingerprint_of(&cx)?);
    let part = files.and_then(|f| if cx.param("part") == "rootfs" { f.rootfs } else { Some(f.image) });
    let path = part.ok_or_else(|| Error::not_found("This member doesn't have that file"))?;
    let (body, size) = file_body(&path).await?;
    Response::builder().header("content-length", size).body(body).map_err(|e| Error::internal(e.to_string()))
}

/// Another member wants this one to have the files.
pub async fn fetch(cx: Cx, (): ()) -> Result<()> {
    ensure_local(&cx.daemon, cx.project(), &fingerprint_of(&cx)?).await.map(drop)
}

/// Another member has deleted the image.
pub async fn remove(cx: Cx, (): ()) -> Result<()> {
    remove_unused(&cx.daemon, &fingerprint_of(&cx)?).await
}
