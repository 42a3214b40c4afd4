//! Images that are kept up to date: their server is asked for a newer one of the same name, which takes their place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::endpoint::in_project;
use api::key::Read as _;
use api::keys::server::IMAGES_AUTO_UPDATE_INTERVAL;
use api::{Error, Result};
use db::images::{Image, Protocol, Source};
use serde_json::Value;

use super::add::Wishes;
use super::remote::{Offer, Wanted};
use super::{find, resources, store};
use crate::edge::Cx;
use crate::edge::auth::{Caller, Trust};
use crate::events::lifecycle;
use crate::operations::Operation;
use crate::state::Daemon;

/// How often is looked whether it is time.
const LOOK: Duration = Duration::from_secs(60);

/// Renews, while this member leads, what is to be kept up to date, as often as `images.auto_update_interval` says.
pub async fn watch(daemon: Arc<Daemon>) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let hours = u64::try_from(daemon.snapshot().config.read(&IMAGES_AUTO_UPDATE_INTERVAL)).unwrap_or(0);
        let due = hours > 0 && last.elapsed() >= Duration::from_secs(hours.saturating_mul(3600));
        if due && daemon.db().status().leads() {
            last = Instant::now();
            if let Err(e) = renew_all(&daemon).await {
                tracing::warn!("keeping images up to date: {e}");
            }
        }
    }
}

async fn renew_all(daemon: &Arc<Daemon>) -> Result<()> {
    let all = daemon.db().peek(|tx| db::images::list(tx, None)).await?;
    let kept = |i: &Image| i.image.changeable.auto_update && i.image.source.as_ref().is_some_and(can_be_asked);
    for image in all.into_iter().filter(kept) {
        let cx = by_itself(daemon, &image.image.project);
        let done = begin(cx, image).wait(None).await;
        if !done.err.is_empty() {
            tracing::warn!("keeping an image up to date: {}", done.err);
        }
    }
    Ok(())
}

fn can_be_asked(source: &Source) -> bool {
    matches!(source.protocol, Protocol::Incus | Protocol::Simplestreams)
}

/// What this member does by itself in a project.
fn by_itself(daemon: &Arc<Daemon>, project: &str) -> Cx {
    let caller =
        Caller { trust: Trust::Member, name: "root".into(), protocol: "unix", address: "@".into(), certificate: None };
    Cx {
        daemon: daemon.clone(),
        caller,
        args: Vec::new(),
        carrier: None,
        info: api::image::REFRESH.info,
        query: [("project".to_owned(), project.to_owned())].into(),
        headers: hyper::HeaderMap::new(),
        answer: Arc::default(),
    }
}

/// `POST /1.0/images/{fingerprint}/refresh`.
pub async fn refresh(cx: Cx, (): ()) -> Result<Arc<Operation>> {
    let image = find(&cx).await?;
    if !image.image.source.as_ref().is_some_and(can_be_asked) {
        return Err(Error::bad_request(
            "The image can't be refreshed: it isn't known by which name of which server it came",
        ));
    }
    Ok(begin(cx, image))
}

fn begin(cx: Cx, image: Image) -> Arc<Operation> {
    let about = resources(&image.image.fingerprint, cx.project());
    let daemon = cx.daemon.clone();
    let operation = daemon.operation("Refreshing image", cx.project(), about);
    daemon.run(operation, |operation| async move {
        let refreshed = renew(&cx, &image, &operation).await?;
        operation.report([("refreshed".to_owned(), Value::from(refreshed))]);
        Ok(())
    })
}

/// True if there was a newer one. It has the names of the old one then, which is gone.
async fn renew(cx: &Cx, image: &Image, operation: &Arc<Operation>) -> Result<bool> {
    let Some(source) = image.image.source.clone() else { return Ok(false) };
    let offer = Offer::find(cx, &Wanted::again(&source)).await?;
    if offer.fingerprint == image.image.fingerprint {
        return Ok(false);
    }
    let changeable = image.image.changeable.clone();
    let wishes = Wishes {
        public: changeable.public,
        auto_update: changeable.auto_update,
        profiles: Some(changeable.profiles),
        cached: image.image.cached,
        ..Wishes::default()
    };
    offer.obtain(cx, wishes, operation).await?;
    let (project, new, old) = (image.image.project.clone(), offer.fingerprint.clone(), image.image.fingerprint.clone());
    let print = old.clone();
    let holders = cx
        .daemon
        .write(move |tx| {
            let (new, old) = (db::images::get(tx, &project, &new)?, db::images::get(tx, &project, &print)?);
            db::aliases::move_all(tx, old.id, new.id)?;
            // It may have been here already, for another reason.
            db::images::set_source(tx, new.id, old.image.source.as_ref())?;
            let changes = db::images::Changes { auto_update: old.image.changeable.auto_update, ..new.image.changeable };
            db::images::update(tx, new.id, &changes)?;
            let holders = db::images::holders(tx, &print)?;
            db::images::delete(tx, old.id)?;
            Ok(holders)
        })
        .await?;
    let source = in_project(format!("/1.0/images/{}", offer.fingerprint), cx.project());
    cx.daemon.tell_in(&lifecycle("image-refreshed", source, Some(cx.caller.requestor())), cx.project());
    store::remove_everywhere(&cx.daemon, &old, holders).await;
    Ok(true)
}
