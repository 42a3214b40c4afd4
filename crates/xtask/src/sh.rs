//! Running programs so that the person sees what is run.

use std::path::PathBuf;
use std::process::Command;

pub use lab::Result;

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map_or(here.clone(), PathBuf::from)
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Says what is being done.
pub fn say(what: &str) {
    println!("\x1b[1m==> {what}\x1b[0m");
}

/// A program that is run from the root of the workspace. It does not hear what cargo has told this one: build scripts ask
/// for that, and all that depends on them would be built again whenever a person runs cargo without us in between.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace());
    for (name, _) in std::env::vars_os() {
        let told = name.to_str().unwrap_or_default();
        if told.starts_with("CARGO_PKG_") || told.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a program from the root of the workspace with its output shown; fails if it fails.
pub fn show(program: &str, args: &[&str]) -> Result<()> {
    show_in(&[], program, args)
}

fn show_in(env: &[(&str, &str)], program: &str, args: &[&str]) -> Result<()> {
    println!("    $ {program} {}", args.join(" "));
    let status = command(program).args(args).envs(env.iter().copied()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{program} {} failed: {status}", args.join(" ")).into()) }
}

/// Runs cargo.
pub fn cargo(args: &[&str]) -> Result<()> {
    cargo_in(&[], args)
}

/// Runs cargo with these variables, too.
pub fn cargo_in(env: &[(&str, &str)], args: &[&str]) -> Result<()> {
    show_in(env, &std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), args)
}

/// Runs cargo, and gives what it tells programs of what it builds.
pub fn cargo_json(args: &[&str]) -> Result<Vec<serde_json::Value>> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = command(&program);
    command.args(args).arg("--message-format=json-render-diagnostics");
    let out = command.stderr(std::process::Stdio::inherit()).output()?;
    if !out.status.success() {
        return Err(format!("cargo {} failed: {}", args.join(" "), out.status).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
