//! Recording an image whose files have come in, wherever from.

use std::sync::Arc;

use api::image::{ImageAlias, ImagesPost};
use api::key::Config;
use api::{Error, Result};
use db::images::{Changes, NewImage, Source};
use db::projects::{Feature, holder};
use db::value::{Architecture, InstanceType};
use drivers::image::Metadata;
use jiff::Timestamp;
use serde_json::Value;

use super::incoming::Received;
use super::{aliases, moment, store, tell};
use crate::blocking;
use crate::edge::Cx;
use crate::operations::Operation;

/// What the one who adds an image wants it to be.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The fingerprint that it must have; any if empty.
    pub fingerprint: String,
    /// Name of its file.
    pub filename: String,
    /// True if anybody may have it.
    pub public: bool,
    /// True if it is to be kept up to date.
    pub auto_update: bool,
    /// When it expires; as the image says if `None`.
    pub expires: Option<Timestamp>,
    /// Properties beside those that the image brings.
    pub properties: Config,
    /// Profiles of its instances; `default` if `None`.
    pub profiles: Option<Vec<String>>,
    /// Its names.
    pub aliases: Vec<ImageAlias>,
    /// Where it came from, if it can be looked for again.
    pub source: Option<Source>,
    /// True if it only comes because an instance needs it.
    pub cached: bool,
}

impl Wishes {
    /// What a request says.
    pub fn of(new: &ImagesPost) -> Result<Wishes> {
        new.aliases.iter().try_for_each(|a| aliases::check_name(&a.name))?;
        Ok(Wishes {
            filename: new.filename.rsplit('/').next().unwrap_or_default().to_owned(),
            public: new.public,
            auto_update: new.auto_update,
            expires: moment(new.expires_at),
            properties: new.properties.clone(),
            profiles: new.profiles.clone(),
            aliases: new.aliases.clone(),
            ..Wishes::default()
        })
    }

    /// Refuses aliases that are taken, before any work is done for them.
    pub async fn must_be_free(&self, cx: &Cx) -> Result<()> {
        let (project, names) = (cx.project().to_owned(), self.aliases.clone());
        cx.daemon
            .view(move |tx| {
                let project = holder(tx, &project, Feature::Images)?;
                match names.iter().find(|a| db::aliases::get(tx, &project, &a.name).is_ok()) {
                    Some(taken) => Err(Error::conflict(format!("Alias already exists: {}", taken.name))),
                    None => Ok(()),
                }
            })
            .await
    }

    /// Refuses files of another fingerprint than the one that was promised.
    pub fn must_be(&self, received: &Received) -> Result<()> {
        if self.fingerprint.is_empty() || self.fingerprint == received.fingerprint {
            return Ok(());
        }
        Err(Error::bad_request(format!(
            "The image came in damaged: its fingerprint is {}, not {}",
            received.fingerprint, self.fingerprint
        )))
    }
}

/// Looks into what came in, records it and tells everybody.
pub async fn add(cx: &Cx, received: Received, wishes: Wishes, operation: &Arc<Operation>) -> Result<()> {
    wishes.must_be(&received)?;
    let files = received.files();
    let metadata = blocking::run(move || drivers::image::inspect(&files)).await?;
    let (fingerprint, size) = (received.fingerprint.clone(), received.size);
    let aliases = wishes.aliases.clone();
    let image = new_image(cx, &received, metadata, wishes)?;
    record(cx, received, image, aliases).await?;
    done(operation, &fingerprint, size);
    tell(cx, "image-created", &fingerprint, [("type", Value::from(InstanceType::Container.as_str()))]);
    store::replicate(&cx.daemon, cx.project(), &fingerprint);
    Ok(())
}

/// Tells what came of the operation.
pub fn done(operation: &Operation, fingerprint: &str, size: u64) {
    operation.report([
        ("fingerprint".to_owned(), Value::from(fingerprint)),
        ("size".to_owned(), Value::from(size.to_string())),
    ]);
}

fn new_image(cx: &Cx, received: &Received, metadata: Metadata, wishes: Wishes) -> Result<NewImage> {
    let moment = |seconds: i64| Timestamp::from_second(seconds).ok().filter(|_| seconds > 0);
    let mut properties = metadata.properties;
    properties.extend(wishes.properties);
    Ok(NewImage {
        fingerprint: received.fingerprint.clone(),
        project: cx.project().to_owned(),
        filename: wishes.filename,
        size: i64::try_from(received.size).unwrap_or(i64::MAX),
        architecture: Architecture::parse_any(&metadata.architecture)?,
        kind: InstanceType::Container,
        created: moment(metadata.creation_date),
        uploaded: Timestamp::now(),
        cached: wishes.cached,
        source: wishes.source,
        changeable: Changes {
            public: wishes.public,
            auto_update: wishes.auto_update,
            expires: wishes.expires.or_else(|| moment(metadata.expiry_date)),
            properties,
            profiles: wishes.profiles.unwrap_or_else(|| vec!["default".into()]),
        },
    })
}

/// Puts the files into place and then records the image; if that is refused, the files go again.
async fn record(cx: &Cx, received: Received, image: NewImage, aliases: Vec<ImageAlias>) -> Result<()> {
    let (daemon, fingerprint) = (&cx.daemon, image.fingerprint.clone());
    let _lock = store::lock(daemon, &fingerprint).await;
    received.place(daemon)?;
    let member = daemon.member_id();
    let recorded = daemon
        .write(move |tx| {
            let project = holder(tx, &image.project, Feature::Images)?;
            let image = NewImage { project: project.clone(), ..image.clone() };
            let id = db::images::create(tx, &image)?;
            db::images::add_location(tx, id, member)?;
            for alias in &aliases {
                db::aliases::create(tx, &project, &alias.name, &image.fingerprint, &alias.description)?;
            }
            Ok(())
        })
        .await;
    if recorded.is_err()
        && let Err(e) = store::remove_locked(daemon, &fingerprint).await
    {
        tracing::warn!("removing the files of the image {fingerprint}, which was refused: {e}");
    }
    recorded
}
