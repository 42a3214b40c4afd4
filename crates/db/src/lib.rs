//! The databases: schema, migrations, and rows beside their SQL.
//!
//! Architecture invariant: no other crate knows SQL, and this one knows neither HTTP nor drivers.

pub mod aliases;
pub mod certificates;
pub mod config;
pub mod groups;
pub mod images;
pub mod instances;
pub mod keys;
pub mod members;
pub mod networks;
pub mod operations;
pub mod placed;
pub mod plans;
pub mod pools;
pub mod profiles;
pub mod projects;
pub mod schema;
pub mod snapshots;
pub mod tokens;
pub mod tx;
pub mod value;
pub mod volume_snapshots;
pub mod volumes;
pub mod warnings;

pub use tx::Tx;
