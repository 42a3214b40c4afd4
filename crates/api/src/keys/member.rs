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
    for (key, value) in config {
        let declared = crate::key::find(MEMBER, key)
            .ok_or_else(|| crate::Error::bad_request(format!("Invalid cluster configuration key \"{key}\"")))?;
        declared
            .check(value)
            .map_err(|_| crate::Error::bad_request(format!("Invalid cluster configuration key \"{key}\" value")))?;
    }
    Ok(())
}
