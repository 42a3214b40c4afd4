//! What differs by backend: networks, devices. Blocking code; the daemon calls it on threads that may block.
//!
//! Architecture invariant: knows no HTTP and no Raft.

pub mod device;
pub mod files;
pub mod image;
pub mod instance;
pub mod network;
pub mod storage;
