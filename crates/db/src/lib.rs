//! The database: its schema, its rows beside their SQL, and the engine that replicates it.
//!
//! Architecture invariant: SQL is written here and nowhere else; other crates pass a [`Tx`] from a [`Db`] to the
//! row functions.

pub mod acme;
pub mod aliases;
pub mod certificates;
pub mod cluster_certificate;
pub mod config;
pub mod engine;
pub mod groups;
pub mod images;
pub mod instances;
pub mod keys;
pub mod local;
pub mod members;
pub mod networks;
#[cfg(feature = "next")]
pub mod next;
pub mod operations;
pub mod placed;
pub mod plans;
pub mod pools;
pub mod profiles;
pub mod projects;
pub mod schema;
pub mod snapshots;
pub mod sql;
pub mod tokens;
pub mod tx;
pub mod used_by;
pub mod value;
pub mod versions;
pub mod volume_snapshots;
pub mod volumes;
pub mod warnings;

pub use engine::{Alone, Change, Db, Options, Rehearsal, SCHEMA, Schema, Status, Transport};
pub use tx::Tx;
