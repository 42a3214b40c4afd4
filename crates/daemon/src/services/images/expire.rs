//! Images that came along with instances are forgotten when nobody has used them for a while.

use std::sync::Arc;
use std::time::Duration;

use api::endpoint::in_project;
use api::key::Read as _;
use api::keys::server::IMAGES_CACHE_EXPIRY;
use api::{Error, Result};
use db::images::Image;
use jiff::{SignedDuration, Timestamp};

use super::{resources, store};
use crate::events::lifecycle;
use crate::state::Daemon;

/// How often is looked for them.
const LOOK: Duration = Duration::from_secs(20);

/// Looks again and again while this member leads.
pub async fn watch(daemon: Arc<Daemon>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if daemon.db().status().leads()
            && let Err(e) = look(&daemon).await
        {
            tracing::warn!("forgetting images that came along and are not used: {e}");
        }
    }
}

async fn look(daemon: &Arc<Daemon>) -> Result<()> {
    let days = daemon.snapshot().config.read(&IMAGES_CACHE_EXPIRY);
    if days == 0 {
        return Ok(());
    }
    let age = SignedDuration::from_hours(days.saturating_mul(24).min(24 * 365 * 1000));
    let before = Timestamp::now().checked_sub(age).map_err(|e| Error::internal(e.to_string()))?;
    let all = daemon.db().peek(|tx| db::images::list(tx, None)).await?;
    for image in all.into_iter().filter(|i| unused_since(i, before)) {
        let (fingerprint, project) = (image.image.fingerprint.clone(), image.image.project.clone());
        let about = resources(&fingerprint, &project);
        let operation = daemon.operation("Deleting expired images", &project, about);
        let work = daemon.clone();
        daemon.run(operation, |_| async move { forget(&work, image, before).await }).wait(None).await;
    }
    Ok(())
}

fn unused_since(image: &Image, before: Timestamp) -> bool {
    image.image.cached && image.last_used.unwrap_or(image.image.uploaded) < before
}

async fn forget(daemon: &Arc<Daemon>, image: Image, before: Timestamp) -> Result<()> {
    let (fingerprint, project) = (image.image.fingerprint.clone(), image.image.project.clone());
    let (print, of) = (fingerprint.clone(), project.clone());
    let holders = daemon
        .write(move |tx| {
            let now = db::images::get(tx, &of, &print)?;
            if !unused_since(&now, before) {
                return Err(Error::conflict("Somebody has used the image just now"));
            }
            let holders = db::images::holders(tx, &print)?;
            db::images::delete(tx, now.id)?;
            Ok(holders)
        })
        .await?;
    let source = in_project(format!("/1.0/images/{fingerprint}"), &project);
    daemon.tell_in(&lifecycle("image-deleted", source, None), &project);
    store::remove_everywhere(daemon, &fingerprint, holders).await;
    Ok(())
}
