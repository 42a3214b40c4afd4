//! Starting the process that tries a target, and telling how it ended.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};

use crate::Target;

/// How the name of an input begins that broke something.
pub const BROKE: &str = "broke";

/// How it ended.
pub enum Outcome {
    /// So many inputs were read or refused.
    Good(u64),
    /// One broke the reader.
    Broken {
        /// The input.
        input: Vec<u8>,
        /// What was said, and how the process ended.
        how: String,
    },
}

/// Tries a target by `program` (`incus-fuzz`), with these further arguments. What it makes on disk lies below `scratch`.
pub fn run(program: &Path, target: &Target, arguments: &[String], scratch: &Path) -> io::Result<Outcome> {
    let note = scratch.join("input");
    let out = Command::new(program)
        .arg("try")
        .arg(target.name)
        .arg("--note")
        .arg(&note)
        .args(arguments)
        .env("TMPDIR", scratch)
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    if out.status.success()
        && let Some(tried) = said.trim().parse().ok()
    {
        return Ok(Outcome::Good(tried));
    }
    let how = format!("{}\n{}", out.status, last_lines(&String::from_utf8_lossy(&out.stderr)));
    Ok(Outcome::Broken { input: std::fs::read(&note).unwrap_or_default(), how })
}

/// The last lines of what was said.
pub(crate) fn last_lines(said: &str) -> String {
    let last: Vec<&str> = said.lines().rev().take(40).collect();
    last.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Keeps an input in the corpus of its target, with a name that begins with what it is there for.
pub fn keep(target: &Target, what: &str, input: &[u8]) -> io::Result<PathBuf> {
    let dir = target.corpus();
    std::fs::create_dir_all(&dir)?;
    let name: String = hex::encode(Sha256::digest(input)).chars().take(12).collect();
    let path = dir.join(format!("{what}-{name}"));
    std::fs::write(&path, input)?;
    Ok(path)
}
