//! `cargo xtask sim`: many lives of simulated clusters; seeds that fail become tests.

use crate::sh::{Result, cargo, say, show, target, workspace};

/// Lets so many clusters of each kind live, from seeds that were not tried before, or goes on until it is stopped.
pub fn run(seeds: u64, forever: bool) -> Result<()> {
    say("building");
    // The test is named so that the same libraries serve for all.
    cargo(&["build", "--workspace", "--bin", "sim", "--test", "seeds"])?;
    let (program, failing) = (target().join("debug/sim"), workspace().join("crates/sim/seeds.txt"));
    let from = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let (from, seeds) = (from.saturating_mul(1_000_000).to_string(), seeds.to_string());
    let failing = failing.to_string_lossy();
    let mut args = vec!["--from", &from, "--seeds", &seeds, "--save", &failing];
    if forever {
        args.push("--forever");
    }
    say("simulating; what fails is added to crates/sim/seeds.txt");
    show(&program.to_string_lossy(), &args)
}
