//! The edge: HTTP comes in here and is known nowhere else.
//!
//! [`listen`] accepts connections, as many as [`door`] has seats for, and finds out who is there, [`router`] finds the
//! handler, [`permit`] lets the request in, [`forward`] sends it on to the member that it concerns, [`request`] is what
//! a handler gets, and [`session`] ends what was opened when whoever opened it may not any more.

pub mod auth;
#[cfg(test)]
mod auth_matrix;
mod connection;
pub mod door;
pub mod forward;
pub mod incoming;
pub mod listen;
pub mod permit;
pub mod reply;
pub mod request;
pub mod router;
pub mod session;
pub mod websocket;

pub use connection::Connection;
pub use incoming::Incoming;
pub use reply::Body;
pub use request::Cx;
pub use router::Router;
pub use session::Session;
