//! All configuration keys, a family per file.

pub mod group;
pub mod instance;
pub mod member;
pub mod project;
pub mod server;
pub mod volume;

use crate::key::Family;

/// Every family, under the name that the reference of Incus has for it (`devices/disk` for a group of one).
pub fn families() -> Vec<(&'static str, Family)> {
    vec![
        ("server", server::SERVER),
        ("cluster", member::MEMBER),
        ("cluster_group", group::GROUP),
        ("project", project::PROJECT),
        ("instance", instance::INSTANCE),
        ("storage_volume_dir", volume::VOLUME),
    ]
}

/// Refuses a value that is none of these.
fn one_of(value: &str, all: &[&str]) -> Result<(), String> {
    if all.contains(&value) {
        Ok(())
    } else {
        Err(format!("Invalid value \"{value}\" (not one of {})", all.join(", ")))
    }
}

/// Refuses what is no time span.
fn expiry(value: &str) -> Result<(), String> {
    crate::expiry::Expiry::parse(value).map(drop).map_err(|e| e.message)
}

/// Refuses what does not say when something is to happen.
fn schedule(value: &str) -> Result<(), String> {
    crate::schedule::Schedule::parse(value).map(drop).map_err(|e| e.message)
}

/// The same for what never starts.
fn clock(value: &str) -> Result<(), String> {
    match crate::schedule::Schedule::parse(value) {
        Ok(schedule) if schedule.at_startup() => Err("Only instances start: @startup is not for volumes".into()),
        parsed => parsed.map(drop).map_err(|e| e.message),
    }
}

/// Refuses what is no way to compress, with or without options behind it.
fn compression(value: &str) -> Result<(), String> {
    one_of(value.split(' ').next().unwrap_or(""), &["bzip2", "gzip", "lz4", "lzma", "xz", "zstd", "none"])
}
