//! The databases: schema, migrations, and rows beside their SQL.
//!
//! Architecture invariant: no other crate knows SQL, and this one knows neither HTTP nor drivers.

pub mod certificates;
pub mod config;
pub mod groups;
pub mod instances;
pub mod keys;
pub mod members;
pub mod networks;
pub mod placed;
pub mod pools;
pub mod profiles;
pub mod projects;
pub mod schema;
pub mod snapshots;
pub mod tx;
pub mod value;

pub use tx::Tx;
