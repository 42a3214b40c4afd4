//! `metadata.yaml`.

use std::path::Path;

use api::error::Context as _;
use api::image::ImageMetadata;
use api::{Error, Result};
use serde::Deserialize;

use super::beneath::Root;
use super::not_an_image;

/// The name of the file.
pub const METADATA: &str = "metadata.yaml";
/// The largest file that is read, in bytes.
pub(super) const MAX: u64 = 1 << 20;

/// Reads `metadata.yaml` as an image brings it.
pub(super) fn parse(bytes: &[u8]) -> Result<ImageMetadata> {
    let text = std::str::from_utf8(bytes).map_err(|_| not_an_image(format!("{METADATA} isn't text")))?;
    let metadata: Lenient =
        serde_saphyr::from_str(text).map_err(|e| not_an_image(format!("{METADATA} can't be read: {e}")))?;
    let metadata = metadata.strict();
    if metadata.architecture.is_empty() {
        return Err(not_an_image(format!("{METADATA} doesn't say for which architecture it is")));
    }
    Ok(metadata)
}

/// Reads `metadata.yaml` of an unpacked image or an instance. Links are not followed.
pub fn read_metadata(dir: &Path) -> Result<ImageMetadata> {
    let bytes = Root::open(dir)?.read(METADATA.as_bytes(), MAX)?;
    parse(&bytes)
}

/// Writes `metadata.yaml` of an unpacked image or an instance, whole or not at all.
pub fn write_metadata(dir: &Path, metadata: &ImageMetadata) -> Result<()> {
    let fresh = dir.join(".metadata.yaml.new");
    std::fs::write(&fresh, text(metadata)?).context(format!("Writing {}", fresh.display()))?;
    let path = dir.join(METADATA);
    std::fs::rename(&fresh, &path).context(format!("Writing {}", path.display()))
}

/// The file as text.
pub(super) fn text(metadata: &ImageMetadata) -> Result<String> {
    serde_saphyr::to_string(metadata).map_err(|e| Error::internal(format!("Writing {METADATA}: {e}")))
}

/// As [`ImageMetadata`], but anything may be missing or `null`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Lenient {
    architecture: Option<String>,
    creation_date: Option<i64>,
    expiry_date: Option<i64>,
    properties: Option<std::collections::BTreeMap<String, Option<String>>>,
    templates: Option<std::collections::BTreeMap<String, LenientTemplate>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LenientTemplate {
    when: Option<Vec<String>>,
    create_only: Option<bool>,
    template: Option<String>,
    properties: Option<std::collections::BTreeMap<String, Option<String>>>,
    uid: Option<String>,
    gid: Option<String>,
    mode: Option<String>,
}

impl Lenient {
    fn strict(self) -> ImageMetadata {
        let filled = |p: Option<std::collections::BTreeMap<String, Option<String>>>| {
            p.unwrap_or_default().into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect()
        };
        let template = |t: LenientTemplate| api::image::ImageMetadataTemplate {
            when: t.when.unwrap_or_default(),
            create_only: t.create_only.unwrap_or_default(),
            template: t.template.unwrap_or_default(),
            properties: filled(t.properties),
            uid: t.uid.unwrap_or_default(),
            gid: t.gid.unwrap_or_default(),
            mode: t.mode.unwrap_or_default(),
        };
        ImageMetadata {
            architecture: self.architecture.unwrap_or_default(),
            creation_date: self.creation_date.unwrap_or_default(),
            expiry_date: self.expiry_date.unwrap_or_default(),
            properties: filled(self.properties),
            templates: self.templates.unwrap_or_default().into_iter().map(|(k, t)| (k, template(t))).collect(),
        }
    }
}
