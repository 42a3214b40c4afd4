//! `cargo xtask torture`: a real cluster while everything under it fails, for as long as one likes.

use std::process::Command;

use crate::sh::{Result, cargo, cargo_json, say};
use crate::{packages, test};

/// How it is to be run.
#[derive(clap::Args)]
pub struct Torture {
    /// For how long things fail.
    #[arg(long, default_value = "10")]
    minutes: f64,
    /// What is done and when follows from this; by default another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Members of the cluster: 3 or 5.
    #[arg(long, default_value = "3")]
    members: u64,
    /// Kill daemons at every step of every plan instead, each role in turn.
    #[arg(long)]
    steps: bool,
}

/// Builds and runs it.
pub fn run(wanted: &Torture) -> Result<()> {
    packages::install()?;
    say("building");
    cargo(&["build", "--workspace", "--all-targets"])?;
    let messages = cargo_json(&["test", "--workspace", "--no-run"])?;
    let program = messages.iter().filter_map(test::program).find(|p| p.name.ends_with("/torture"));
    let program = program.ok_or("the program of tests is missing")?;
    let filter = if wanted.steps { "steps::" } else { "tortured" };
    let mut command = Command::new(&program.path);
    command.args([filter, "--nocapture"]).current_dir(&program.home).env("CARGO_MANIFEST_DIR", &program.home);
    command.env("TORTURE_SECONDS", format!("{:.0}", wanted.minutes * 60.0));
    command.env("TORTURE_MEMBERS", wanted.members.to_string()).env("TORTURE_ALL", "1");
    command.envs(wanted.seed.map(|seed| ("TORTURE_SEED", seed.to_string())));
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("the cluster did not keep what it promised: {status}").into()) }
}
