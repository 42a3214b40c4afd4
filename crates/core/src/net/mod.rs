//! Decisions about networks: what a configuration means, which addresses are free, what `dnsmasq` and `nft` are
//! told, what a network device of an instance needs.

pub mod bridge;
pub mod dnsmasq;
pub mod firewall;
pub mod mac;
pub mod name;
pub mod nic;
pub mod pick;

/// Where fresh randomness comes from.
pub type Entropy<'a> = &'a mut dyn FnMut() -> u64;
