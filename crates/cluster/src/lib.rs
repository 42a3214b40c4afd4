//! Real time and sockets for the engines of `core` and `db`: links between members, heartbeats, roles.

pub mod health;
pub mod link;
pub mod liveness;

pub use health::Health;
pub use link::{Channel, Dial, Links, Stream};
pub use liveness::Liveness;
