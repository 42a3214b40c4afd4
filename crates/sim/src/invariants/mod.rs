//! What has to hold, one file each. They know nothing of how a life is simulated: they are told what was seen.

pub mod caught_up;
pub mod given_up;
pub mod histories;
pub mod leaders;
pub mod owners;
pub mod plans;
pub mod replicas;
pub mod rest;
pub mod voters;
pub mod waiting;
