//! Devices of instances.

pub mod nic;

use api::{Error, Result, key::Config};

/// Checks a device of type `none`, which only keeps a device of that name from being inherited from a profile.
///
/// # Errors
/// Says which option it cannot have.
pub fn validate_none(config: &Config) -> Result<()> {
    match config.keys().find(|key| *key != "type") {
        Some(key) => Err(Error::bad_request(format!("Invalid device option \"{key}\""))),
        None => Ok(()),
    }
}
