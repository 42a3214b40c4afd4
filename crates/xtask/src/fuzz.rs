//! `cargo xtask fuzz`: the long form of what `crates/fuzz` does in tests.

use std::path::PathBuf;
use std::process::Command;

use crate::packages;
use crate::sh::{Result, cargo, cargo_in, target};

/// What makes the compiler count what is reached, for libFuzzer. Nothing of it needs a nightly compiler.
const COUNTED: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// What is wanted.
#[derive(clap::Args)]
pub struct Fuzz {
    /// What is tried: `list` shows what there is, `all` tries one after the other.
    target: String,
    /// For how long, each.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Decides which bytes: the same seed tries the same.
    #[arg(long)]
    seed: Option<u64>,
    /// Go on from bytes that reach code that others do not reach, by libFuzzer. The first time this builds everything once
    /// more, which takes some minutes.
    #[arg(long, conflicts_with = "seed")]
    guided: bool,
}

/// Builds it, and tries a target.
pub fn run(wanted: &Fuzz) -> Result<()> {
    cargo(&["build", "--quiet", "--workspace", "--all-targets"])?;
    let mut command = Command::new(target().join("debug/incus-fuzz"));
    match (wanted.target.as_str(), wanted.guided) {
        ("list", _) => command.arg("list"),
        (name, false) => command.args(["long", name, "--minutes", &wanted.minutes.to_string()]),
        (name, true) => {
            command.args(["guided", name, "--seconds", &(wanted.minutes * 60).to_string()]);
            command.arg("--program").arg(counted()?).arg("--work").arg(target().join("guided/found"))
        }
    };
    if let Some(seed) = wanted.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    match command.status()?.success() {
        true => Ok(()),
        false => Err("something broke: mend its cause, the input that did it is a test now".into()),
    }
}

/// Builds the program that counts what is reached, in a folder of its own: everything in it is built in another way.
fn counted() -> Result<PathBuf> {
    packages::also(&["g++"])?;
    let (dir, machine) = (target().join("guided"), format!("{}-unknown-linux-gnu", std::env::consts::ARCH));
    let folder = dir.to_string_lossy();
    // With a target named, what runs while building is left as it is.
    let args = ["build", "--profile", "guided", "--target", &machine, "--target-dir", &folder];
    let what = ["--package", "incus-fuzz", "--features", "guided", "--bin", "incus-fuzz-guided"];
    cargo_in(&[("RUSTFLAGS", &COUNTED.join(" "))], &[&args[..], &what[..]].concat())?;
    Ok(dir.join(machine).join("guided/incus-fuzz-guided"))
}
