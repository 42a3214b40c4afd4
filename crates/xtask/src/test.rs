//! `cargo xtask test`: everything that has to hold before a change lands.

use crate::sh::{Result, cargo, say};
use crate::{check, packages};

/// Installs, builds, checks, tests.
pub fn all(filter: Option<&str>) -> Result<()> {
    packages::install()?;
    if filter.is_none() {
        say("checking");
        check::check()?;
    }
    say("building");
    // With what tests need, so that the same libraries serve for both.
    cargo(&["build", "--workspace", "--all-targets"])?;
    say("testing");
    // Tests that form clusters are one program; its tests share two cores and run one after another.
    let mut args = vec!["test", "--workspace", "--no-fail-fast"];
    args.extend(filter);
    cargo(&args)
}
