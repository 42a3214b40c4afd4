//! All configuration keys, a family per file.

pub mod member;
pub mod server;
