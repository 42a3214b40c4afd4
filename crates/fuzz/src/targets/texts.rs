//! What people and programs write: JSON, YAML, values, queries, tokens.

use std::collections::BTreeMap;

use api::Info;
use base64::Engine as _;
use serde_json::{Value, json};

/// An endpoint is named by the first two bytes.
pub fn body(input: &[u8]) {
    let ([a, b, rest @ ..], all) = (input, endpoints()) else { return };
    if let Some(endpoint) = all.get(usize::from(u16::from_be_bytes([*a, *b])) % all.len()) {
        let _ = (endpoint.check)(rest);
    }
}

fn endpoints() -> Vec<&'static Info> {
    api::endpoints().collect()
}

pub fn body_seeds() -> Vec<Vec<u8>> {
    let device = json!({"root": {"type": "disk", "path": "/", "pool": "local", "size": "1GiB"}});
    let samples = [
        json!({}),
        json!({"name": "c1", "type": "container", "config": {"limits.cpu": "2"}, "devices": device, "profiles": ["default"],
            "ephemeral": true, "source": {"type": "image", "alias": "busybox", "server": "https://x", "protocol": "simplestreams",
            "mode": "pull", "properties": {"os": "x"}}, "start": true}),
        json!({"config": {"user.a": "b"}, "description": "d", "devices": device, "state": "EVACUATED", "roles": ["event-hub"],
            "failure_domain": "a", "groups": ["default"], "members": ["a"]}),
        json!({"action": "restart", "timeout": 30, "force": true, "stateful": false}),
        json!({"command": ["sh"], "environment": {"A": "b"}, "wait-for-websocket": true, "interactive": true, "width": 80,
            "height": 24, "user": 0, "group": 0, "cwd": "/"}),
        json!({"server_name": "a", "enabled": true, "member_config": [{"entity": "storage-pool", "name": "p", "key": "source",
            "value": "/x"}], "cluster_address": "192.0.2.1:8443", "cluster_token": "x", "server_address": "192.0.2.1:8443"}),
        json!({"aliases": [{"name": "a", "description": "b"}], "auto_update": true, "filename": "f", "public": true,
            "properties": {"os": "x"}, "expires_at": "2030-01-01T00:00:00Z", "source": {"type": "url", "url": "https://x"}}),
        json!({"name": "n", "driver": "dir", "type": "bridge", "config": {"ipv4.address": "192.0.2.1/24"}, "target": "t"}),
        json!({"certificate": "-----BEGIN CERTIFICATE-----", "name": "a", "type": "client", "restricted": true,
            "projects": ["p"], "trust_token": "x", "token": true}),
        json!({"database": "global", "query": "SELECT 1"}),
        json!([{"a": null}]),
        json!(null),
    ];
    let texts: Vec<Vec<u8>> = samples.iter().map(|s| s.to_string().into_bytes()).collect();
    let mut seeds = Vec::new();
    for (number, endpoint) in endpoints().iter().enumerate() {
        // One that takes anything ignores its body.
        if (endpoint.check)(b"[").is_ok() {
            continue;
        }
        let number = u16::try_from(number).unwrap_or(0).to_be_bytes();
        let fitting = texts.iter().filter(|text| (endpoint.check)(text).is_ok());
        seeds.extend(fitting.map(|text| [&number[..], text].concat()));
    }
    seeds
}

/// The number of a family, a key, and after a line break its value.
pub fn key(input: &[u8]) {
    let ([family, rest @ ..], families) = (input, api::keys::families()) else { return };
    let text = String::from_utf8_lossy(rest);
    let (name, value) = text.split_once('\n').unwrap_or((&text, ""));
    if let Some((_, family)) = families.get(usize::from(*family) % families.len()) {
        let _ = api::key::check(family, name, value);
        let config = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let _ = incus_core::disk::validate(&config);
    }
}

pub fn key_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (number, (_, family)) in api::keys::families().iter().enumerate() {
        for key in *family {
            for value in [key.default(), "1", "50%", "2GiB", "true", "0-3,5", "a=b,c", "2026-01-01T00:00:00Z", "@daily"]
            {
                let number = u8::try_from(number).unwrap_or(0);
                seeds.push([&[number], key.name().as_bytes(), b"\n", value.as_bytes()].concat());
            }
        }
    }
    seeds
}

pub fn query(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let things = json!({"name": "c1", "config": {"user.a": "1", "a": {"b": {"c": [1]}}}, "size": 10});
    for value in daemon::readers::query(&text).values().chain([&text.clone().into_owned()]) {
        if let Ok(filter) = incus_core::filter::Filter::parse(value) {
            filter.accepts(&things);
        }
        let _ = api::size::bytes(value);
        let _ = api::expiry::Expiry::parse(value);
        let _ = api::name::instance(value);
        assert_eq!(api::endpoint::decode(&api::endpoint::encode(value)), *value);
    }
}

pub fn query_seeds() -> Vec<Vec<u8>> {
    [
        "filter=name+eq+c1+and+(status+eq+Running+or+not+(size+gt+9))&recursion=1",
        "filter=name%3Dc*+config.user.a%3D1&project=a%20b",
        "config.a.b.c eq \"x y\" or not not not name ne c1",
        "1d 2H 3M",
        "512MiB",
        "name-1",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

pub fn yaml(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(value) = cli::readers::yaml(text) {
        let _ = serde_json::from_value::<api::cluster::ClusterPut>(value.clone());
        let _ = serde_json::from_value::<api::instance::InstancesPost>(value);
    }
    let node = |id: u64, name: &str| db::local::RaftNode {
        id,
        name: name.into(),
        address: format!("192.0.2.{id}:8443"),
        role: db::local::RaftRole::Voter,
    };
    let nodes = daemon::readers::Nodes { nodes: vec![node(1, "server1"), node(2, "server2")], last_log: (1, 2) };
    let _ = nodes.changed(text);
}

pub fn yaml_seeds() -> Vec<Vec<u8>> {
    [
        "config:\n  core.https_address: 192.0.2.1:8443\ncluster:\n  enabled: true\n  server_name: a\n  member_config:\n  \
         - entity: storage-pool\n    name: local\n    key: source\n    value: \"\"\nstorage_pools:\n- name: local\n  \
         driver: dir\nprofiles:\n- name: default\n  devices:\n    root: {path: /, pool: local, type: disk}\n",
        "members:\n  - id: 1\n    name: server1\n    address: 192.0.2.7:8443\n    role: voter\n  - id: 2\n    name: \
         server2\n    address: 192.0.2.2:8443\n    role: voter\n",
        "a: &a [1, 2, 3]\nb: [*a, *a, *a]\nc: &c {x: *a}\nd:\n  <<: *c\n",
        "config:\n  limits.cpu: 2\n  user.data: |\n    #cloud-config\n    a: b\n  raw.lxc: >-\n    x\n    y\n",
        "{\"name\": \"c\", \"devices\": {\"eth0\": null}}",
        "--- !!map\n? a\n: !!str 1\n...\n",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

pub fn token(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = api::cluster::JoinToken::decode(&text);
    let inside = base64::engine::general_purpose::STANDARD.encode(input);
    if let Ok(token) = api::cluster::JoinToken::decode(&inside) {
        assert!(api::cluster::JoinToken::decode(&token.encode()).is_ok());
    }
    let _ = serde_json::from_slice::<api::certificate::TrustToken>(input);
}

pub fn token_seeds() -> Vec<Vec<u8>> {
    let token: Value = json!({"server_name": "a", "client_name": "a", "fingerprint": "ab", "addresses": ["192.0.2.1:8443"],
        "secret": "s", "expires_at": "2030-01-01T00:00:00Z"});
    let text = token.to_string().into_bytes();
    vec![base64::engine::general_purpose::STANDARD.encode(&text).into_bytes(), text]
}
