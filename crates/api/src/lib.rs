//! What can be seen on the wire, and nothing else.
//!
//! Every resource of the API lives in a file of its own: its types (field order is that of the JSON that
//! clients see) and, in one [`endpoints!`] table, its endpoints. Every configuration key is one typed
//! constant in [`keys`]. Routes, permissions, forwarding, client calls, validation and the reference
//! documents are all read from these declarations.
//!
//! Architecture invariant: this crate knows no async runtime, no files and no SQL.

pub mod body;
pub mod certificate;
pub mod cluster;
pub mod endpoint;
pub mod envelope;
pub mod error;
pub mod event;
pub mod expiry;
pub mod extension;
pub mod image;
pub mod instance;
pub mod instance_exec;
pub mod instance_files;
pub mod internal;
pub mod key;
pub mod keys;
pub mod name;
pub mod network;
pub mod operation;
pub mod profile;
pub mod project;
pub mod schedule;
pub mod server;
pub mod size;
pub mod storage;
pub mod volume;
pub mod warning;

pub use endpoint::{Endpoint, Info};
pub use error::{Error, Kind, Result};

/// Every endpoint of the API.
pub fn endpoints() -> impl Iterator<Item = &'static Info> {
    [
        server::ENDPOINTS,
        operation::ENDPOINTS,
        certificate::ENDPOINTS,
        cluster::ENDPOINTS,
        instance_exec::ENDPOINTS,
        instance_files::ENDPOINTS,
        internal::ENDPOINTS,
        project::ENDPOINTS,
        profile::ENDPOINTS,
        image::ENDPOINTS,
        instance::ENDPOINTS,
        storage::ENDPOINTS,
        network::ENDPOINTS,
        volume::ENDPOINTS,
        warning::ENDPOINTS,
    ]
    .into_iter()
    .flatten()
}
