//! `cargo xtask bench`: ours beside Debian's Incus, in one run.

use std::path::Path;

use crate::sh::Result;

/// Measures, prints the ratios, and writes them to `json`.
pub fn run(_json: Option<&Path>) -> Result<()> {
    Err("the benchmark is not part of this version yet".into())
}
