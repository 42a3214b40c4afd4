//! Keys of a cluster member.

crate::keys! { MEMBER {
    /// How instances get here: `all` that are placed by themselves, those of its `group`s only, or `manual`ly.
    SCHEDULER: String = "scheduler.instance", "all", Local,
        |v| if ["all", "group", "manual"].contains(&v.as_str()) { Ok(()) } else { Err("unknown".into()) };
    /// Anything.
    USER: String = "user.*", "", Local;
}}

/// Checks the configuration of a member in the words that clients know.
pub fn check(config: &crate::key::Config) -> crate::Result<()> {
    let unknown = |key: &str| format!("Invalid cluster configuration key \"{key}\"");
    crate::key::check_all(MEMBER, config, unknown, |key, _| format!("{} value", unknown(key)))
}
