//! `cargo xtask test`: everything that has to hold before a change lands.

use crate::sh::{Result, cargo, say, target};
use crate::{check, packages};

/// Installs, builds, checks, tests.
pub fn all(filter: Option<&str>) -> Result<()> {
    packages::install()?;
    if filter.is_none() {
        say("checking");
        check::check()?;
    }
    build()?;
    say("testing");
    // Tests that form clusters are one program; its tests share two cores and run one after another.
    let mut args = vec!["test", "--workspace", "--no-fail-fast"];
    args.extend(filter);
    cargo(&args)
}

/// Builds all that is tested: first the daemon as a later version could be, which is set aside, then everything else.
pub fn build() -> Result<()> {
    say("building");
    // Tests are named here and there, so that the same libraries serve for all.
    cargo(&["build", "--workspace", "--bin", "incusd", "--test", "upgrade", "--features", "incusd/next"])?;
    let (built, next) = (target().join("debug/incusd"), target().join("debug/next"));
    std::fs::create_dir_all(&next)?;
    // The one of an earlier build may still run.
    let _ = std::fs::remove_file(next.join("incusd"));
    std::fs::copy(built, next.join("incusd"))?;
    cargo(&["build", "--workspace", "--all-targets"])
}
