//! Our declarations beside those of Incus: what is not there yet is told, what Incus does not know is refused.
//!
//! The contract lies beside the work tree; where it is missing these tests say so and compare nothing.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use api::key::{AnyKey, Scope};
use serde_json::Value;

/// Endpoints that Incus has without describing them, or that only we have.
const OWN_ENDPOINTS: &[(&str, &str)] = &[
    (
        "POST /1.0/cluster/members/{}/state/plan",
        "a dry run must not be taken for the real thing by a server that doesn't know it",
    ),
    ("GET /.well-known/acme-challenge/{}", "Incus answers it too, and describes it nowhere (RFC 8555)"),
];

/// Keys that Incus has without describing them, or that only we have.
const OWN_KEYS: &[(&str, &str)] = &[
    ("server cluster.evacuation.parallel", "ours: Incus looks after one for each 16 processors"),
    ("server cluster.healing_hook", "ours: a power switch before a member is healed"),
    ("server user.*", "accepted there, described only for other families"),
    ("storage_volume_dir user.*", "accepted there, described only for other families"),
    ("instance image.*", "what the image says about itself, described nowhere"),
    ("instance cloud-init.*", "described one by one; all of them are for the guest"),
    ("instance volatile.*", "described one by one; noted by the server itself"),
    ("storage_volume_dir size", "described under the name security.size, which nothing reads"),
];

const METHODS: &[&str] = &["get", "head", "put", "patch", "post", "delete"];

/// A file of the contract; `None`, loudly, if it is not here.
fn contract(file: &str) -> Option<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/contract").join(file);
    let text = std::fs::read_to_string(path).ok();
    if text.is_none() {
        eprintln!("SKIPPED: the contract is not here, nothing is compared with {file}");
    }
    text
}

fn tell(what: &str, have: usize, of: usize, missing: &BTreeSet<String>) {
    println!("{what}: {have} of {of}; missing {}:", missing.len());
    missing.iter().for_each(|m| println!("    {m}"));
}

/// `GET /1.0/images/{}`: the names of what stands in a path do not matter.
fn endpoint(method: &str, path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    let part = |p: &str| if p.starts_with('{') { "{}".to_owned() } else { p.to_owned() };
    let path = path.split('/').map(part).collect::<Vec<_>>().join("/");
    format!("{} {path}", method.to_uppercase())
}

/// The endpoints that the OpenAPI document describes. Its indentation is regular: it was made by a program.
fn described(yaml: &str) -> BTreeSet<String> {
    let mut path = "";
    let mut found = BTreeSet::new();
    for line in yaml.lines().skip_while(|l| *l != "paths:").skip(1).take_while(|l| l.is_empty() || l.starts_with(' ')) {
        let (depth, word) = (line.len() - line.trim_start().len(), line.trim().trim_end_matches(':'));
        match depth {
            4 => path = word,
            8 if METHODS.contains(&word) => drop(found.insert(endpoint(word, path))),
            _ => {}
        }
    }
    assert!(found.len() > 150, "only {} endpoints were found in the contract", found.len());
    found
}

#[test]
fn endpoints_are_those_of_incus() {
    let Some(yaml) = contract("rest-api.yaml") else { return };
    let described = described(&yaml);
    let ours: BTreeSet<String> = api::endpoints()
        .filter(|e| !e.path.starts_with("/internal"))
        .map(|e| endpoint(e.method.as_str(), e.path))
        .collect();
    let missing: BTreeSet<String> = described.difference(&ours).cloned().collect();
    tell("endpoints", described.len() - missing.len(), described.len(), &missing);
    let unknown: Vec<&String> =
        ours.difference(&described).filter(|e| !OWN_ENDPOINTS.iter().any(|(own, _)| own == *e)).collect();
    assert!(unknown.is_empty(), "Incus has no endpoints {unknown:?}");
}

#[test]
fn an_endpoint_names_an_extension_that_incus_knows() {
    let Some(known) = contract("api-extensions.txt") else { return };
    let known: BTreeSet<&str> = known.lines().map(str::trim).collect();
    let wrong: Vec<String> = api::endpoints()
        .filter(|e| !e.since.is_empty() && !known.contains(e.since))
        .map(|e| format!("{} {}: {}", e.method.as_str(), e.path, e.since))
        .collect();
    assert!(wrong.is_empty(), "Incus has no such extensions: {wrong:?}");
}

#[test]
fn extensions_are_those_of_incus() {
    let Some(known) = contract("api-extensions.txt") else { return };
    let known: BTreeSet<String> = known.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect();
    let ours: BTreeSet<String> = api::extension::ALL.iter().map(|e| (*e).to_owned()).collect();
    let missing: BTreeSet<String> = known.difference(&ours).cloned().collect();
    tell("extensions", known.len() - missing.len(), known.len(), &missing);
    let unknown: Vec<&String> = ours.difference(&known).collect();
    assert!(unknown.is_empty(), "Incus has no extensions {unknown:?}");
}

/// The keys of a family (`server`) or of a group in it (`devices/disk`), as the reference describes them.
fn reference(all: &Value, family: &str) -> BTreeMap<String, Value> {
    let (section, only) = family.split_once('/').map_or((family, None), |(s, g)| (s, Some(g)));
    let groups = all["configs"][section].as_object().unwrap_or_else(|| panic!("Incus has no family {section}"));
    let groups = groups.iter().filter(|(name, _)| only.is_none_or(|o| o == *name));
    let keys = groups.flat_map(|(_, group)| group["keys"].as_array().unwrap().iter());
    keys.flat_map(|k| k.as_object().unwrap().clone()).collect()
}

/// How our declaration of a key differs from the description.
fn differences(key: &dyn AnyKey, known: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut differs = |what: &str, ours: &str, theirs: &str| {
        if ours != theirs {
            wrong.push(format!("{what} is {ours:?}, not {theirs:?}"));
        }
    };
    if let Some(kind) = known["type"].as_str() {
        differs("type", key.kind(), if kind == "int" { "integer" } else { kind });
    }
    if let Some(scope @ ("global" | "local")) = known["scope"].as_str() {
        differs("scope", if key.scope() == Scope::Global { "global" } else { "local" }, scope);
    }
    match known["defaultdesc"].as_str() {
        // Keys of storage have it in words in another field.
        None if known["default"].is_string() => {}
        None => differs("default", key.default(), ""),
        // A default in words (`no expiry`) is not a value.
        Some(text) if text.starts_with('`') && text.ends_with('`') && text.matches('`').count() == 2 => {
            differs("default", key.default(), text.trim_matches('`'));
        }
        Some(_) => {}
    }
    wrong
}

#[test]
fn configuration_keys_are_those_of_incus() {
    let Some(text) = contract("configuration.json") else { return };
    let all: Value = serde_json::from_str(&text).unwrap();
    let mut wrong = Vec::new();
    for (family, keys) in api::keys::families() {
        let known = reference(&all, family);
        let ours: BTreeSet<String> = keys.iter().map(|k| k.name().to_owned()).collect();
        let missing: BTreeSet<String> = known.keys().filter(|k| !ours.contains(*k)).cloned().collect();
        tell(&format!("keys of family {family}"), known.len() - missing.len(), known.len(), &missing);
        for key in keys {
            match known.get(key.name()) {
                Some(described) => {
                    wrong.extend(differences(*key, described).iter().map(|d| format!("{family} {}: {d}", key.name())));
                }
                None if OWN_KEYS.iter().any(|(own, _)| *own == format!("{family} {}", key.name())) => {}
                None => wrong.push(format!("{family} {}: Incus has no such key", key.name())),
            }
        }
    }
    let families = api::keys::families();
    let here = |section: &str| families.iter().any(|(f, _)| f.split('/').next() == Some(section));
    let absent: Vec<&String> = all["configs"].as_object().unwrap().keys().filter(|s| !here(s)).collect();
    println!("families without keys here: {absent:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
