//! The reference documents that are made from the declarations in `api`: endpoints and configuration keys.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use api::Info;
use api::endpoint::{Allow, At, Method, ReplyKind};
use api::key::{AnyKey, Scope};

use crate::sh::{Result, workspace};

/// What is made, and where it belongs.
fn all() -> [(PathBuf, String); 2] {
    let docs = workspace().join("docs");
    [(docs.join("rest-api.yaml"), openapi()), (docs.join("configuration.md"), configuration())]
}

/// The documents that are not as the declarations have it.
pub fn stale() -> Vec<String> {
    let stale = |(path, text): &(PathBuf, String)| fs::read_to_string(path).ok().as_ref() != Some(text);
    let tell = |(path, _): (PathBuf, String)| {
        format!("{} is not as the declarations have it: cargo xtask fix writes it again", path.display())
    };
    all().into_iter().filter(stale).map(tell).collect()
}

/// Writes them again.
pub fn write() -> Result<()> {
    for (path, text) in all() {
        fs::write(&path, text).map_err(|e| format!("writing {}: {e}", path.display()))?;
    }
    Ok(())
}

/// A string in YAML: JSON's are valid there.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Documentation as one line.
fn flat(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn openapi() -> String {
    let mut paths: BTreeMap<&str, BTreeMap<Method, &Info>> = BTreeMap::new();
    for endpoint in api::endpoints() {
        paths.entry(endpoint.path).or_default().insert(endpoint.method, endpoint);
    }
    let mut out = String::from(
        "# Made from the declarations in crates/api by `cargo xtask fix`.\nswagger: \"2.0\"\ninfo:\n  \
         title: incus-rs\n  version: \"1.0\"\npaths:\n",
    );
    for (path, endpoints) in paths {
        let _ = writeln!(out, "  {path}:");
        parameters(&mut out, path);
        for endpoint in endpoints.values() {
            operation(&mut out, endpoint);
        }
    }
    out
}

fn parameters(out: &mut String, path: &str) {
    let names: Vec<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
    if names.is_empty() {
        return;
    }
    let _ = writeln!(out, "    parameters:");
    for name in names {
        let _ = writeln!(out, "      - {{name: {name}, in: path, required: true, type: string}}");
    }
}

fn operation(out: &mut String, endpoint: &Info) {
    let (status, answer) = match endpoint.reply {
        ReplyKind::Sync => (200, "the value"),
        ReplyKind::List => (200, "a list: URLs, or with recursion=1 the things themselves"),
        ReplyKind::Operation => (202, "a background operation"),
        ReplyKind::Raw => (200, "as described"),
    };
    let _ = writeln!(out, "    {}:", endpoint.method.as_str().to_lowercase());
    let _ = writeln!(out, "      summary: {}", quoted(&flat(endpoint.doc)));
    if !endpoint.since.is_empty() {
        let _ = writeln!(out, "      x-extension: {}", endpoint.since);
    }
    let _ = writeln!(out, "      x-allowed-to: {}", quoted(allowed_to(endpoint.allow)));
    let _ = writeln!(out, "      x-runs-on: {}", quoted(runs_on(endpoint.at)));
    let _ = writeln!(out, "      responses:\n        \"{status}\": {{description: {}}}", quoted(answer));
}

fn allowed_to(allow: Allow) -> &'static str {
    match allow {
        Allow::Anyone => "anyone",
        Allow::Metrics => "clients that may read metrics",
        Allow::Trusted => "trusted clients",
        Allow::Project => "clients that may use the project",
        Allow::Admin => "clients that are not restricted to projects",
        Allow::Member => "members of the cluster and local users",
    }
}

fn runs_on(at: At) -> &'static str {
    match at {
        At::Any => "the member that is asked",
        At::Target => "the member named by target",
        At::Instance => "the member that has the instance",
        At::MemberOrAny => "the member of that name, any other if that is away",
        At::InstanceRecord => "the member that has the instance, any other if that is away",
        At::Volume => "the member that has the volume",
        At::Operation => "the member that runs the operation",
        At::Member => "the member named in the path",
        At::Leader => "the leader of the database",
    }
}

fn configuration() -> String {
    let mut out = String::from(
        "# Configuration keys\n\nMade from the declarations in `crates/api` by `cargo xtask fix`. Keys with a part in \
         capitals or `*` stand for any.\n",
    );
    for (family, keys) in api::keys::families() {
        let _ = write!(out, "\n## {family}\n\n| key | type | default | scope | meaning |\n|---|---|---|---|---|\n");
        keys.iter().for_each(|key| row(&mut out, *key));
    }
    out
}

fn row(out: &mut String, key: &dyn AnyKey) {
    let default = if key.default().is_empty() { String::new() } else { format!("`{}`", key.default()) };
    let scope = match key.scope() {
        Scope::Global => "global",
        Scope::Local => "local",
    };
    let doc = flat(key.doc()).replace('|', "\\|");
    let _ = writeln!(out, "| `{}` | {} | {default} | {scope} | {doc} |", key.name(), key.kind());
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_endpoint_and_every_key_is_in_the_reference() {
        let text = super::openapi();
        let operations = text.lines().filter(|l| l.starts_with("      summary: ")).count();
        assert_eq!(operations, api::endpoints().count());
        assert!(text.contains("  /1.0/cluster/members/{name}:\n    parameters:\n      - {name: name, in: path"));
        let text = super::configuration();
        let keys = api::keys::families().into_iter().map(|(_, keys)| keys.len()).sum::<usize>();
        assert_eq!(text.lines().filter(|l| l.starts_with("| `")).count(), keys);
    }
}
