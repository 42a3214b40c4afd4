//! `cargo xtask fuzz`: the long form of what `crates/fuzz` does in tests.

use std::process::Command;

use crate::sh::{Result, cargo, target};

/// Builds it, and tries a target.
pub fn long(name: &str, minutes: u64, seed: Option<u64>) -> Result<()> {
    cargo(&["build", "--quiet", "--workspace", "--all-targets"])?;
    let mut command = Command::new(target().join("debug/incus-fuzz"));
    match name {
        "list" => command.arg("list"),
        _ => command.args(["long", name, "--minutes", &minutes.to_string()]),
    };
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    match command.status()?.success() {
        true => Ok(()),
        false => Err("something broke: mend its cause, the input that did it is a test now".into()),
    }
}
