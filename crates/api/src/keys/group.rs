//! Keys of a cluster group. Those for virtual machines come with them.

crate::keys! { GROUP {
    /// Anything.
    USER: String = "user.*", "", Global;
}}

/// Checks the configuration of a cluster group in the words that clients know.
pub fn check(config: &crate::key::Config) -> crate::Result<()> {
    let unknown = |key: &str| format!("Invalid cluster group configuration key \"{key}\"");
    crate::key::check_all(GROUP, config, unknown, |key, _| format!("{} value", unknown(key)))
}
