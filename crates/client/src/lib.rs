//! Calling a server: over its unix socket or over TLS with a certificate on both sides.

pub mod acme;
pub mod authority;
pub mod http;
pub mod proxy;
pub mod tls;
pub mod web;

pub use http::{Body, Remote};
pub use web::Web;
