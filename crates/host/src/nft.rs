//! Packet filter rules, through the `nft` program of the calling thread's network namespace.

use std::{
    io::{self, Write},
    process::{Command, Output, Stdio},
};

use crate::confine::{self, Capabilities};

/// Applies rules in `nft`'s language, all of them or none.
///
/// # Errors
/// When `nft` is missing, or in its own words when it or the kernel refuses the rules.
pub fn apply(rules: &str) -> io::Result<()> {
    let mut child = nft(&["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    // A refusal while writing shows in the exit status.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(rules.as_bytes()));
    let output = child.wait_with_output()?;
    checked(&output, "apply firewall rules")?;
    written.transpose()?;
    Ok(())
}

/// The names of the chains of a table; empty when there is no such table.
///
/// # Errors
/// When `nft` is missing or cannot list.
pub fn chains(family: &str, table: &str) -> io::Result<Vec<String>> {
    let output = run(&["-j", "list", "chains", family])?;
    checked(&output, "list firewall chains")?;
    let listing: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let entries = listing.get("nftables").and_then(|v| v.as_array()).cloned().unwrap_or_default();
    Ok(entries
        .iter()
        .filter_map(|entry| entry.get("chain"))
        .filter(|chain| chain.get("table").and_then(|t| t.as_str()) == Some(table))
        .filter_map(|chain| Some(chain.get("name")?.as_str()?.to_owned()))
        .collect())
}

/// A table as text; empty when there is none.
///
/// # Errors
/// When `nft` is missing.
pub fn table(family: &str, table: &str) -> io::Result<String> {
    let output = run(&["list", "table", family, table])?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The version of `nft`, as `1.0.6`.
///
/// # Errors
/// When it is missing, or may not speak to the kernel.
pub fn version() -> io::Result<String> {
    let output = run(&["--version"])?;
    checked(&output, "ask for the version")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().nth(1).unwrap_or_default().trim_start_matches('v').to_owned())
}

fn run(args: &[&str]) -> io::Result<Output> {
    nft(args).stdin(Stdio::null()).output().map_err(missing)
}

fn nft(args: &[&str]) -> Command {
    let mut command = Command::new("nft");
    confine::command(command.args(args), Capabilities::NET_ADMIN);
    command
}

fn checked(output: &Output, what: &str) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("Failed to {what} with nft: {}", words.trim())))
}

fn missing(e: io::Error) -> io::Error {
    match e.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            e.kind(),
            "Managed networks need the program \"nft\" (package nftables), which is not installed",
        ),
        _ => e,
    }
}
