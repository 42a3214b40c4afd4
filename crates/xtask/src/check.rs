//! `cargo xtask check`: what a reader may rely on, checked; changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::sh::{Result, cargo, say, workspace};
use crate::{book, deny, documents};

/// Which of our crates each crate may import (dependencies of tests aside): downward only.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("core", &["api"]),
    ("host", &[]),
    ("histogram", &[]),
    ("db", &["api", "core"]),
    ("client", &["api"]),
    ("scriptlet", &[]),
    ("drivers", &["api", "core", "host"]),
    ("cluster", &["api", "core", "db", "client"]),
    ("daemon", &["api", "core", "host", "db", "drivers", "cluster", "client", "scriptlet"]),
    ("cli", &["api", "client"]),
    ("fuzz", &["api", "core", "host", "db", "drivers", "cluster", "daemon", "cli", "scriptlet"]),
    ("lab", &[]),
    ("vfs", &[]),
    ("sim", &["api", "core", "db", "drivers", "cluster", "lab", "vfs"]),
    ("xtask", &["api", "client", "lab"]),
];

/// Format, lints, import direction, the first line of each file, the reference documents, the links of the book, and
/// what the build consists of.
pub fn check() -> Result<()> {
    let mut wrong = imports()?;
    wrong.extend(openings()?);
    wrong.extend(unsafe_code()?);
    wrong.extend(documents::stale());
    wrong.extend(book::wrong()?);
    wrong.extend(deny::wrong()?);
    if !wrong.is_empty() {
        return Err(wrong.join("\n       ").into());
    }
    cargo(&["fmt", "--all", "--check"])?;
    say("lints");
    cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

/// Mends what can be mended by itself.
pub fn fix() -> Result<()> {
    documents::write()?;
    cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"])?;
    cargo(&["fmt", "--all"])
}

fn crates() -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(workspace().join("crates"))? {
        let path = entry?.path();
        if let Some(name) = path.file_name().and_then(|n| n.to_str())
            && path.join("Cargo.toml").exists()
        {
            found.insert(name.to_owned(), path.clone());
        }
    }
    Ok(found)
}

fn imports() -> Result<Vec<String>> {
    let crates = crates()?;
    let mut wrong = Vec::new();
    for (name, path) in &crates {
        let Some((_, may)) = MAY_IMPORT.iter().find(|(n, _)| n == name) else {
            wrong.push(format!("crates/{name} has no row in xtask/src/check.rs that says what it may import"));
            continue;
        };
        let manifest = fs::read_to_string(path.join("Cargo.toml"))?;
        let section = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let section = section.split("\n[").next().unwrap_or_default();
        for line in section.lines() {
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let dependency = dependency.strip_prefix("incus-").unwrap_or(dependency);
            if crates.contains_key(dependency) && !may.contains(&dependency) {
                wrong.push(format!("crates/{name} imports {dependency}: imports run downward only (ARCHITECTURE.md)"));
            }
        }
    }
    Ok(wrong)
}

/// Every source file opens by saying what it owns.
fn openings() -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for file in sources()? {
        if !fs::read_to_string(&file)?.starts_with("//!") {
            wrong.push(format!("{} does not open with a //! line that says what it owns", file.display()));
        }
    }
    Ok(wrong)
}

/// `unsafe` stands only in the crate `host`, and in `vfs`, which only simulations use.
fn unsafe_code() -> Result<Vec<String>> {
    let homes = ["host", "vfs"].map(|name| workspace().join("crates").join(name));
    let mut wrong = Vec::new();
    for file in sources()?.into_iter().filter(|f| !homes.iter().any(|home| f.starts_with(home))) {
        let allowed = concat!("allow(", "unsafe_code");
        if fs::read_to_string(&file)?.contains(allowed) {
            wrong.push(format!("{} allows unsafe code: it belongs into crates/host", file.display()));
        }
    }
    Ok(wrong)
}

fn sources() -> Result<Vec<PathBuf>> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(&path, found)?;
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(&workspace().join("crates"), &mut found)?;
    found.sort();
    Ok(found)
}
