//! Devices of instances.

pub mod nic;
