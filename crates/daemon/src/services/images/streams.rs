//! Simple streams: servers that tell which images they have by an index in JSON.
//!
//! `streams/v1/index.json` names files with products; a product is an image of one release for one architecture, in
//! versions, whose items are files. The newest version that has files which this server can use is taken.

use std::collections::BTreeMap;

use api::{Error, Result};
use client::Web;
use db::value::Architecture;
use serde::Deserialize;

use super::remote::{Part, Told};
use super::store::is_fingerprint;

/// Kinds of root file systems, the best first, and where the fingerprint of both files stands.
const ROOTFS: [&str; 2] = ["squashfs", "root.tar.xz"];

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    index: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    datatype: String,
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
struct Products {
    #[serde(default)]
    products: BTreeMap<String, Product>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Product {
    aliases: String,
    arch: String,
    os: String,
    release: String,
    release_title: String,
    variant: String,
    versions: BTreeMap<String, Version>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    items: BTreeMap<String, Item>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Item {
    ftype: String,
    path: String,
    sha256: String,
    combined_sha256: String,
    combined_squashfs_sha256: String,
    combined_rootxz_sha256: String,
}

/// The image of that alias for this machine, or of that (beginning of a) fingerprint.
pub async fn find(web: &Web, server: &str, name: &str) -> Result<Told> {
    let server = server.trim_end_matches('/');
    let index: Index = get(web, &format!("{server}/streams/v1/index.json")).await?;
    let own = Architecture::parse_any(std::env::consts::ARCH)?;
    for entry in index.index.values().filter(|e| e.datatype == "image-downloads") {
        let products: Products = get(web, &format!("{server}/{}", entry.path)).await?;
        if let Some(told) = choose(&products, server, name, own) {
            return Ok(told);
        }
    }
    Err(Error::not_found(format!("The server {server} has no image \"{name}\" for containers on {}", own.as_str())))
}

async fn get<T: serde::de::DeserializeOwned>(web: &Web, url: &str) -> Result<T> {
    serde_json::from_slice(&web.bytes(url).await?)
        .map_err(|e| Error::bad_request(format!("{url} is not part of simple streams: {e}")))
}

/// Reads a file with products, and chooses from it: the fingerprint, if an image is found.
pub fn read(products: &[u8], server: &str, name: &str) -> Result<Option<String>> {
    let products: Products = serde_json::from_slice(products).map_err(|e| Error::bad_request(e.to_string()))?;
    let own = Architecture::parse_any(std::env::consts::ARCH)?;
    Ok(choose(&products, server, name, own).map(|told| told.fingerprint))
}

fn choose(products: &Products, server: &str, name: &str, own: Architecture) -> Option<Told> {
    for product in products.products.values() {
        let Ok(architecture) = Architecture::parse_any(&product.arch) else { continue };
        let called = architecture == own && product.aliases.split(',').any(|a| a.trim() == name);
        for (serial, version) in product.versions.iter().rev() {
            let Some((fingerprint, parts)) = files(version, server) else { continue };
            let meant = name.len() >= 12 && fingerprint.starts_with(name);
            if called || meant {
                let properties = properties(product, architecture, serial);
                return Some(Told { fingerprint, architecture, properties, parts });
            }
        }
    }
    None
}

/// The files of a version that make a container's image, and their fingerprint.
fn files(version: &Version, server: &str) -> Option<(String, Vec<Part>)> {
    let of = |ftype: &str| version.items.values().find(|i| i.ftype == ftype);
    let metadata = of("incus.tar.xz").or_else(|| of("lxd.tar.xz"))?;
    ROOTFS.into_iter().find_map(|kind| {
        let rootfs = of(kind)?;
        let combined = if kind == "squashfs" {
            [&metadata.combined_squashfs_sha256, &metadata.combined_sha256]
        } else {
            [&metadata.combined_rootxz_sha256, &metadata.combined_sha256]
        };
        let fingerprint = combined.into_iter().find(|f| is_fingerprint(f))?.clone();
        let part = |item: &Item| Part { url: format!("{server}/{}", item.path), sha256: item.sha256.clone() };
        Some((fingerprint, vec![part(metadata), part(rootfs)]))
    })
}

fn properties(product: &Product, architecture: Architecture, serial: &str) -> api::key::Config {
    let title = if product.release_title.is_empty() { &product.release } else { &product.release_title };
    let description = format!("{} {title} {} ({serial})", product.os, product.arch);
    [
        ("architecture", architecture.as_str()),
        ("description", &description),
        ("os", &product.os),
        ("release", &product.release),
        ("serial", serial),
        ("variant", &product.variant),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_newest_version_for_this_machine_is_chosen() {
        let (old, new) = ("a".repeat(64), "b".repeat(64));
        let version = |combined: &str| {
            serde_json::json!({"items": {
                "incus.tar.xz": {"ftype": "incus.tar.xz", "path": "i/m", "sha256": "1", "combined_squashfs_sha256": combined},
                "root.squashfs": {"ftype": "squashfs", "path": "i/r", "sha256": "2"},
                "disk.qcow2": {"ftype": "disk-kvm.img", "path": "i/d", "sha256": "3"},
            }})
        };
        let product = |arch: &str| {
            serde_json::json!({"aliases": "alpine/3.20,alpine/3.20/default", "arch": arch, "os": "Alpine",
                "release": "3.20", "variant": "default", "versions": {
                "20240101_13:00": version(&old), "20240202_13:00": version(&new), "20240303_13:00": {"items": {}}}})
        };
        let products: Products = serde_json::from_value(serde_json::json!({"products": {
            "a": product("arm64"), "b": product("amd64")}}))
        .unwrap();
        let own = Architecture::parse_any("x86_64").unwrap();
        let told = choose(&products, "https://x", "alpine/3.20", own).unwrap();
        assert_eq!((told.fingerprint, told.architecture), (new, own));
        assert_eq!(told.properties["description"], "Alpine 3.20 amd64 (20240202_13:00)");
        let urls: Vec<_> = told.parts.into_iter().map(|p| p.url).collect();
        assert_eq!(urls, ["https://x/i/m", "https://x/i/r"]);
        assert_eq!(choose(&products, "", &old[..12], own).unwrap().fingerprint, old);
        assert!(choose(&products, "", "alpine", own).is_none());
    }
}
