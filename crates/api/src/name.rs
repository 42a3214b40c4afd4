//! Which names things can have.

use crate::{Error, Result};

/// Refuses a name that no member or instance can have: they are host names (RFC 1123, one label).
fn host(what: &str, name: &str) -> Result<()> {
    let refused = |why: &str| Err(Error::bad_request(format!("Invalid {what} name \"{name}\": {why}")));
    let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    match name.as_bytes() {
        [] => refused("Name can't be empty"),
        bytes if bytes.len() > 63 => refused("Name must be 1-63 characters long"),
        bytes if !bytes.iter().all(|b| letters(*b)) => {
            refused("Name can only contain alphanumeric and hyphen characters")
        }
        [b'-', ..] | [.., b'-'] => refused("Name must not start or end with \"-\""),
        bytes if bytes.iter().all(u8::is_ascii_digit) => refused("Name must not be a number"),
        _ => Ok(()),
    }
}

/// Refuses a name that no cluster member can have.
pub fn member(name: &str) -> Result<()> {
    if name == "none" {
        return Err(Error::bad_request(
            "Invalid cluster member name \"none\": it stands for a server without a cluster",
        ));
    }
    host("cluster member", name)
}

/// Refuses a name that no instance can have.
pub fn instance(name: &str) -> Result<()> {
    if name.bytes().next().is_some_and(|b| b.is_ascii_digit()) {
        return Err(Error::bad_request(format!("Invalid instance name \"{name}\": Name must not start with a number")));
    }
    host("instance", name)
}

/// Refuses a name that nothing in a list can have: it stands in URLs and paths. `what` as `profile`.
pub fn plain(what: &str, name: &str) -> Result<()> {
    let refused = |why: &str| Err(Error::bad_request(format!("Invalid {what} name \"{name}\": {why}")));
    match name {
        "" => refused("Name can't be empty"),
        "." | ".." => refused("Name can't be \".\" or \"..\""),
        _ if name.len() > 64 => refused("Name must be at most 64 characters long"),
        _ if name
            .chars()
            .any(|c| c == '/' || c == '\\' || c.is_whitespace() || c.is_control() || "'\"*@:".contains(c)) =>
        {
            refused("Name can't contain slashes, spaces, quotes, \"*\", \"@\" or \":\"")
        }
        _ if name.starts_with(['-', '_']) => refused("Name can't begin with \"-\" or \"_\""),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_pass_and_bad_ones_are_explained() {
        for name in ["c1", "server-1", "a", "1a"] {
            assert_eq!(member(name), Ok(()), "{name}");
        }
        for (name, why) in [
            ("", "Name can't be empty"),
            ("a b", "Name can only contain alphanumeric and hyphen characters"),
            ("../x", "Name can only contain alphanumeric and hyphen characters"),
            ("-a", "Name must not start or end with \"-\""),
            ("12", "Name must not be a number"),
        ] {
            assert_eq!(member(name).unwrap_err().message, format!("Invalid cluster member name \"{name}\": {why}"));
        }
        assert!(member("none").is_err() && instance("1a").is_err() && member(&"a".repeat(64)).is_err());
        assert!(plain("profile", "..").is_err() && plain("profile", "a/b").is_err());
        assert_eq!(plain("profile", "web.server_1"), Ok(()));
    }
}
