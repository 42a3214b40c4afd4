//! What the build may consist of: `deny.toml` says it once, for cargo-deny and for the check here.
//!
//! cargo-deny looks for advisories as well, but it takes minutes to build and a database from the network. What needs
//! neither is checked here by each `cargo xtask check`, from the same lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::sh::{Result, cargo, workspace};

/// The targets whose dependencies are looked at, as in `deny.toml`.
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// Runs cargo-deny.
pub fn run() -> Result<()> {
    let version = Command::new("cargo-deny").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        return Err("cargo-deny is not installed: \"cargo install cargo-deny --locked\" builds it. Without it \
                    \"cargo xtask check\" looks at licences, sources and versions, but not at advisories"
            .into());
    }
    cargo(&["deny", "--locked", "check", "--deny", "warnings"])
}

/// What `deny.toml` forbids, of all that is built.
pub fn wrong() -> Result<Vec<String>> {
    let rules = Rules::read(&fs::read_to_string(workspace().join("deny.toml"))?);
    let platforms = TARGETS.iter().flat_map(|target| ["--filter-platform", target]);
    let args = ["metadata", "--format-version", "1", "--locked", "--all-features"];
    let metadata = serde_json::from_str(&cargo_says(args.into_iter().chain(platforms))?)?;
    // Metadata also names what could be asked for by a feature that is not switched on.
    let platforms = TARGETS.iter().flat_map(|target| ["--target", target]);
    let args = ["tree", "--workspace", "--locked", "--all-features", "--prefix", "none", "--format", "{p}"];
    let tree = cargo_says(args.into_iter().chain(platforms))?;
    Ok(rules.wrong(&metadata, &built(&tree)))
}

fn cargo_says<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<String> {
    let args: Vec<&str> = args.into_iter().collect();
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let out = Command::new(program).args(&args).current_dir(workspace()).stderr(Stdio::inherit()).output()?;
    if !out.status.success() {
        return Err(format!("cargo {} failed: {}", args.join(" "), out.status).into());
    }
    Ok(String::from_utf8(out.stdout)?)
}

/// Names and versions in lines of `cargo tree`: `name v1.2.3 (what else there is to say)`.
fn built(tree: &str) -> BTreeSet<(&str, &str)> {
    let packages = tree.lines().filter_map(|line| line.split_once(" v"));
    packages.map(|(name, rest)| (name, rest.split(' ').next().unwrap_or_default())).collect()
}

/// The lists of `deny.toml` that are held to here.
#[derive(Debug)]
struct Rules {
    licences: BTreeSet<String>,
    registries: BTreeSet<String>,
    twice: BTreeSet<String>,
}

impl Rules {
    fn read(text: &str) -> Rules {
        Rules {
            licences: list(text, "licenses", "allow"),
            registries: list(text, "sources", "allow-registry"),
            twice: list(text, "bans", "skip"),
        }
    }

    fn wrong(&self, metadata: &Value, built: &BTreeSet<(&str, &str)>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for package in metadata["packages"].as_array().into_iter().flatten() {
            let text = |key: &str| package[key].as_str().unwrap_or_default();
            let (name, version) = (text("name"), text("version"));
            if !built.contains(&(name, version)) {
                continue;
            }
            versions.entry(name).or_default().insert(version);
            if !self.permits(text("license")) {
                wrong.push(format!(
                    "{name} {version} has the licence \"{}\", which deny.toml does not allow",
                    text("license")
                ));
            }
            // What has no source is of this workspace.
            let known = text("source")
                .split_once('+')
                .is_none_or(|(kind, url)| matches!(kind, "registry" | "sparse") && self.registries.contains(url));
            if !known {
                wrong.push(format!("{name} {version} comes from {}, which deny.toml does not allow", text("source")));
            }
        }
        for (name, versions) in &versions {
            match (versions.len() > 1, self.twice.contains(*name)) {
                (true, false) => wrong.push(format!(
                    "{name} is built in several versions ({}): use one, or name it under `skip` in deny.toml",
                    versions.iter().copied().collect::<Vec<_>>().join(", ")
                )),
                (false, true) => wrong.push(format!("{name} is built once: take it out of `skip` in deny.toml")),
                _ => {}
            }
        }
        wrong.extend(
            self.twice
                .iter()
                .filter(|name| !versions.contains_key(name.as_str()))
                .map(|name| format!("{name} is not built: take it out of `skip` in deny.toml")),
        );
        wrong
    }

    /// Whether an SPDX expression (also with the older `/` for `OR`) can be satisfied with what is allowed.
    fn permits(&self, expression: &str) -> bool {
        let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut rest = &words[..];
        self.any(&mut rest) == Some(true) && rest.is_empty()
    }

    /// `AND` binds closer than `OR`. `None` if it can't be read.
    fn any(&self, rest: &mut &[&str]) -> Option<bool> {
        let mut good = self.all(rest)?;
        while rest.first() == Some(&"OR") {
            *rest = &rest[1..];
            good |= self.all(rest)?;
        }
        Some(good)
    }

    fn all(&self, rest: &mut &[&str]) -> Option<bool> {
        let mut good = self.one(rest)?;
        while rest.first() == Some(&"AND") {
            *rest = &rest[1..];
            good &= self.one(rest)?;
        }
        Some(good)
    }

    fn one(&self, rest: &mut &[&str]) -> Option<bool> {
        match *rest {
            ["(", inner @ ..] => {
                *rest = inner;
                let good = self.any(rest)?;
                *rest = (*rest).strip_prefix(&[")"][..])?;
                Some(good)
            }
            [licence, "WITH", exception, after @ ..] => {
                *rest = after;
                Some(self.licences.contains(&format!("{licence} WITH {exception}")))
            }
            [licence, after @ ..] if !matches!(*licence, ")" | "OR" | "AND" | "WITH") => {
                *rest = after;
                Some(self.licences.contains(*licence))
            }
            _ => None,
        }
    }
}

/// The texts in the list `key` of a section of our own TOML: one key a line, comments on lines of their own.
fn list(text: &str, section: &str, key: &str) -> BTreeSet<String> {
    let head = format!("[{section}]");
    let lines = text.lines().skip_while(|l| l.trim() != head).skip(1).take_while(|l| !l.starts_with('['));
    let own: Vec<&str> = lines.filter(|l| !l.trim_start().starts_with('#')).collect();
    let own = own.join("\n");
    let list = own.split(&format!("\n{key} = [")).nth(1).unwrap_or_default();
    let list = list.split(']').next().unwrap_or_default();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = "[licenses]\n# \"no\"\nversion = 2\nallow = [\n    \"MIT\",\n    \"ISC\",\n    \"Apache-2.0 WITH LLVM-exception\",\n]\n\
                        [bans]\nx = 1\nskip = [\"twice\", \"once\", \"gone\"]\n[sources]\nx = 1\nallow-registry = [\"https://a\"]\nallow-git = []\n";

    #[test]
    fn licences_are_read_as_they_are_written() {
        let rules = Rules::read(TEXT);
        for (expression, want) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0/MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("MIT AND ISC", true),
            ("GPL-3.0 AND MIT OR ISC", true),
            ("GPL-3.0 AND (MIT OR ISC)", false),
            ("(MIT OR GPL-3.0) AND ISC", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0", false),
            ("MIT OR", false),
            ("(MIT", false),
            ("MIT)", false),
            ("MIT ISC", false),
        ] {
            assert_eq!(rules.permits(expression), want, "{expression}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_told() {
        let package = |name: &str, version: &str, license: Value, source: Value| json!({"name": name, "version": version, "license": license, "source": source});
        let good = || json!("registry+https://a");
        let packages = [
            package("ours", "1", json!("MIT"), Value::Null),
            package("twice", "1", json!("MIT"), good()),
            package("twice", "2", json!("MIT"), good()),
            package("once", "1", json!("MIT"), good()),
            package("more", "1", json!("MIT"), good()),
            package("more", "2", json!("MIT"), good()),
            package("once", "2", json!("not built"), good()),
            package("none", "1", Value::Null, good()),
            package("git", "1", json!("MIT"), json!("git+https://a?rev=1#1")),
            package("other", "1", json!("MIT"), json!("registry+https://b")),
        ];
        let tree = "ours v1 (/here)\n\ntwice v1\ntwice v2 (*)\nonce v1 (proc-macro)\nmore v1\nmore v2\nnone v1\ngit v1 (git)\nother v1";
        let wrong = Rules::read(TEXT).wrong(&json!({"packages": packages}), &built(tree));
        let about: Vec<&str> = wrong.iter().filter_map(|w| w.split(' ').next()).collect();
        assert_eq!(about, ["none", "git", "other", "more", "once", "gone"], "{wrong:?}");
    }
}
