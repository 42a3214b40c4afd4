//! All configuration keys, a family per file.

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
        ("project", project::PROJECT),
        ("instance", instance::INSTANCE),
        ("storage_volume_dir", volume::VOLUME),
    ]
}
