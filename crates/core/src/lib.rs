//! Every decision the system takes, as plain functions and state machines without IO.
//!
//! Architecture invariant: the same inputs give the same outputs. Time and entropy come in as arguments;
//! nothing here knows files, sockets, processes or async code.

pub mod concern;
pub mod disk;
pub mod evacuate;
pub mod event_route;
pub mod expand;
pub mod filter;
pub mod guard;
pub mod heal;
pub mod idmap;
pub mod limits;
pub mod lxc_conf;
pub mod member;
pub mod metrics;
pub mod net;
pub mod placement;
pub mod plan;
pub mod project;
pub mod quorum;
pub mod roles;
pub mod snapshot_name;
pub mod version;
