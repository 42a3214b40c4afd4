//! The kernel and processes: what only works by system calls, netlink and programs of the system.
//!
//! Architecture invariant: knows no instances and no clusters. The only crate of the programs with `unsafe`; each block
//! says why.
#![allow(unsafe_code)]

pub mod cgroup;
pub mod channel;
pub mod clock;
pub mod confine;
pub mod enter;
pub mod icmp;
pub mod lxc;
pub mod mounts;
pub mod net;
pub mod netns;
pub mod nft;
pub mod process;
pub mod urgent;
pub mod watchdog;
