//! `/1.0/images`: what instances are made from, and the aliases of images.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::{Allow::*, At, Background, List, Listed, Raw, Sync, encode};
use crate::key::Config;

/// An image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// True if it is kept up to date.
    pub auto_update: bool,
    /// What its makers say about it.
    pub properties: Config,
    /// True if anybody may have it.
    pub public: bool,
    /// When it expires.
    pub expires_at: Timestamp,
    /// Profiles of instances made from it.
    pub profiles: Vec<String>,
    /// Its names.
    pub aliases: Vec<ImageAlias>,
    /// For what architecture it is.
    pub architecture: String,
    /// True if it came because an instance needed it, and may go again.
    pub cached: bool,
    /// Name of the file that it came in.
    pub filename: String,
    /// SHA-256 of its files, in hexadecimal.
    pub fingerprint: String,
    /// Bytes.
    pub size: i64,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_source: Option<ImageSource>,
    /// `container` or `virtual-machine`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When an instance was last made from it.
    pub last_used_at: Timestamp,
    /// When it came here.
    pub uploaded_at: Timestamp,
    /// Its project.
    pub project: String,
    /// Names of the members that have its files.
    #[serde(default)]
    pub locations: Vec<String>,
}

impl Listed for Image {
    fn url(&self) -> String {
        crate::endpoint::in_project(format!("/1.0/images/{}", self.fingerprint), &self.project)
    }
}

/// A name of an image, as the image shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ImageAlias {
    pub name: String,
    pub description: String,
}

/// Where an image came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSource {
    /// Name of the image there.
    pub alias: String,
    /// PEM of the server's certificate.
    pub certificate: String,
    /// How the server is talked to.
    pub protocol: String,
    /// URL of the server.
    pub server: String,
    /// `container` or `virtual-machine`.
    pub image_type: String,
}

/// Body of `PUT` of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ImagePut {
    pub auto_update: bool,
    pub properties: Config,
    pub public: bool,
    pub expires_at: Option<Timestamp>,
    /// `None` leaves them as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Vec<String>>,
}

/// JSON body of `POST /1.0/images`; an upload has the file itself as its body, and headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ImagesPost {
    pub auto_update: bool,
    pub properties: Config,
    pub public: bool,
    pub expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Vec<String>>,
    pub filename: String,
    pub source: ImagesPostSource,
    /// How the published image is compressed; as the server's configuration says if empty.
    pub compression_algorithm: String,
    pub aliases: Vec<ImageAlias>,
    /// `unified` or `split`.
    pub format: String,
}

/// From where an image is to come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ImagesPostSource {
    pub alias: String,
    pub certificate: String,
    pub protocol: String,
    pub server: String,
    pub image_type: String,
    /// `pull` or `push`.
    pub mode: String,
    /// `instance`, `snapshot`, `image` or `url`.
    #[serde(rename = "type")]
    pub kind: String,
    pub url: String,
    pub name: String,
    pub fingerprint: String,
    pub secret: String,
    pub project: String,
}

/// A name of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageAliasesEntry {
    /// For people.
    pub description: String,
    /// Fingerprint of the image.
    pub target: String,
    /// Its name.
    pub name: String,
    /// `container` or `virtual-machine`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its project; only so that it knows its own URL.
    #[serde(skip)]
    pub project: String,
}

impl Listed for ImageAliasesEntry {
    fn url(&self) -> String {
        crate::endpoint::in_project(format!("/1.0/images/aliases/{}", encode(&self.name)), &self.project)
    }
}

/// Body of `PUT` of an alias.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ImageAliasesEntryPut {
    pub description: String,
    pub target: String,
}

/// Body of `POST /1.0/images/aliases`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ImageAliasesPost {
    pub description: String,
    pub target: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
}

/// Body of `POST` of an alias: its new name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ImageAliasesEntryPost {
    pub name: String,
}

/// What stands in the file `metadata.yaml` of an image or an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageMetadata {
    /// For what architecture it is.
    pub architecture: String,
    /// When it was made; seconds since 1970.
    pub creation_date: i64,
    /// When it expires; seconds since 1970, 0 for never.
    pub expiry_date: i64,
    /// What its makers say about it.
    pub properties: Config,
    /// Templates by the path of the file that they make.
    pub templates: BTreeMap<String, ImageMetadataTemplate>,
}

/// How a file of an instance is made from a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageMetadataTemplate {
    /// When it is made: `create`, `copy`, `start`, `rename`.
    pub when: Vec<String>,
    /// True if a file that is there already is left alone.
    pub create_only: bool,
    /// Name of the template's file below `templates/`.
    pub template: String,
    /// What the template may use.
    pub properties: Config,
    /// Owner of a new file; 0 if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Group of a new file; 0 if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gid: String,
    /// Mode of a new file in octal; 0644 if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mode: String,
}

// What may be seen without trust is decided by the handlers that allow anyone: public images, or with a secret.
crate::endpoints! {
    /// List the images.
    LIST = GET "/1.0/images" -> List<Image>, Anyone, At::Any, "";
    /// Add an image: an upload, or JSON that says where it comes from. A background operation.
    CREATE = POST "/1.0/images" -> Raw, Project, At::Any, "";
    /// One image.
    GET = GET "/1.0/images/{fingerprint}" -> Sync<Image>, Anyone, At::Any, "";
    /// Replace what can be changed of an image.
    PUT = PUT "/1.0/images/{fingerprint}" (ImagePut) -> Sync<()>, Project, At::Any, "";
    /// Change some of an image.
    PATCH = PATCH "/1.0/images/{fingerprint}" (serde_json::Value) -> Sync<()>, Project, At::Any, "patch";
    /// Delete an image.
    DELETE = DELETE "/1.0/images/{fingerprint}" -> Background, Project, At::Any, "";
    /// Ask the image's server for a newer one of the same name.
    REFRESH = POST "/1.0/images/{fingerprint}/refresh" -> Background, Project, At::Any, "image_force_refresh";
    /// The files of an image.
    EXPORT = GET "/1.0/images/{fingerprint}/export" -> Raw, Anyone, At::Any, "";
    /// A secret with which anybody can read the image for a while.
    SECRET = POST "/1.0/images/{fingerprint}/secret" -> Background, Project, At::Any, "";
    /// List the aliases.
    ALIASES = GET "/1.0/images/aliases" -> List<ImageAliasesEntry>, Anyone, At::Any, "";
    /// Create an alias.
    ALIAS_CREATE = POST "/1.0/images/aliases" (ImageAliasesPost) -> Sync<()>, Project, At::Any, "";
    /// One alias.
    ALIAS_GET = GET "/1.0/images/aliases/{name}" -> Sync<ImageAliasesEntry>, Anyone, At::Any, "";
    /// Replace an alias.
    ALIAS_PUT = PUT "/1.0/images/aliases/{name}" (ImageAliasesEntryPut) -> Sync<()>, Project, At::Any, "";
    /// Change some of an alias.
    ALIAS_PATCH = PATCH "/1.0/images/aliases/{name}" (serde_json::Value) -> Sync<()>, Project, At::Any, "patch";
    /// Rename an alias.
    ALIAS_RENAME = POST "/1.0/images/aliases/{name}" (ImageAliasesEntryPost) -> Sync<()>, Project, At::Any, "";
    /// Delete an alias.
    ALIAS_DELETE = DELETE "/1.0/images/aliases/{name}" -> Sync<()>, Project, At::Any, "";
    /// A file of an image that this member has (`?part=rootfs` for the second one), for another member.
    INTERNAL_GET = GET "/internal/images/{fingerprint}" -> Raw, Member, At::Any, "";
    /// This member gets itself the files of an image.
    INTERNAL_FETCH = POST "/internal/images/{fingerprint}" -> Sync<()>, Member, At::Any, "";
    /// This member removes the files of an image that nobody has any more.
    INTERNAL_DELETE = DELETE "/internal/images/{fingerprint}" -> Sync<()>, Member, At::Any, "";
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn images_look_as_a_server_showed_them() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/contract/golden/raw/images_r1.json");
        let Ok(text) = std::fs::read_to_string(path) else {
            return eprintln!("SKIPPED: the contract is not here, images are not compared");
        };
        let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
        let images: Vec<Image> = serde_json::from_value(golden["metadata"].clone()).unwrap();
        assert_eq!(serde_json::to_string(&images).unwrap(), serde_json::to_string(&golden["metadata"]).unwrap());
    }
}
