//! Bad input is refused in the words that clients of Incus parse, by any client, and changes nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lab::cluster::Programs;
use lab::{Cluster, Lab, Result};
use serde_json::{Value, json};

/// What is asked of a cluster of server1, which has the instance c1, and server2; what it says.
const SAID: &[(&[&str], &str)] = &[
    (&["cluster", "add", "server2"], "The cluster already has a member with name: server2"),
    (&["cluster", "revoke-token", "dup"], "No cluster join token for member dup on remote: local"),
    (&["config", "set", "cluster.bogus=1"], "cannot set 'cluster.bogus' to '1': unknown key"),
    (
        &["config", "set", "cluster.max_voters=4"],
        "cannot set 'cluster.max_voters' to '4': Value must be an odd number equal to or higher than 3",
    ),
    (
        &["config", "set", "cluster.offline_threshold=1"],
        "cannot set 'cluster.offline_threshold' to '1': Value must be greater than '10'",
    ),
    (&["cluster", "set", "server2", "foo=bar"], "Invalid cluster configuration key \"foo\""),
    (
        &["cluster", "set", "server2", "scheduler.instance=foo"],
        "Invalid cluster configuration key \"scheduler.instance\" value",
    ),
    (&["init", "busybox", "zz", "--target", "nope"], "Cluster member \"nope\" not found"),
    (&["cluster", "enable", "foo"], "This server is already clustered"),
    (&["cluster", "evacuate", "server9", "--force"], "Failed to update cluster member state: Cluster member not found"),
    (&["cluster", "group", "delete", "default"], "The 'default' cluster group cannot be deleted"),
    (&["info", "nope"], "Instance not found"),
    (&["cluster", "show", "server9"], "Cluster member not found"),
    (&["cluster", "list", "-c", "nX"], "Unknown column shorthand char 'X' in 'nX'"),
    (&["cluster", "remove", "server1", "--yes"], "Node still has the following instances: c1"),
    (&["cluster", "role", "add", "server2", "bogus"], "Update roles: Invalid cluster role \"bogus\""),
    (&["cluster", "group", "show", "nope"], "Cluster_group not found"),
    (&["cluster", "rename", "server2", "server1"], "Conflict"),
];

#[test]
fn bad_input_is_refused_in_words_that_clients_know() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    // server3 stays alone.
    let mut cluster = Cluster::daemons(Lab::temporary("golden", 3)?, Programs::built()?)?;
    cluster.bootstrap()?;
    cluster.join(2)?;
    cluster.import_busybox("busybox")?;
    cluster.incus(1, &["init", "busybox", "c1", "--target", "server1"])?;
    let before = state(&cluster)?;
    words(&cluster)?;
    raw(&cluster)?;
    strangers(&cluster)?;
    alone(&cluster)?;
    bad_token(&cluster)?;
    if let Some(stock) = Programs::built()?.with_stock_client() {
        cluster.programs = stock;
        words(&cluster)?;
    }
    assert_eq!(state(&cluster)?, before);
    Ok(())
}

/// What the clients show of all that could have changed.
fn state(cluster: &Cluster) -> Result<Vec<Value>> {
    let all = ["/1.0/cluster/members?recursion=1", "/1.0/cluster/groups?recursion=1", "/1.0/instances?recursion=1"];
    let mut state = all.iter().map(|path| cluster.get(1, path)).collect::<Result<Vec<_>>>()?;
    state.push(cluster.get(1, "/1.0")?["config"].clone());
    Ok(state)
}

fn words(cluster: &Cluster) -> Result<()> {
    for (args, want) in SAID {
        for from in [1, 2] {
            let said = cluster.refused(from, args)?;
            let last = said.trim().lines().last().unwrap_or_default();
            assert_eq!(last, format!("Error: {want}"), "{args:?} on server{from}");
        }
    }
    // To restore a member that is in service changes nothing, and scripts do.
    assert_eq!(cluster.incus(1, &["cluster", "restore", "server2", "--force"])?, "");
    for what in [&["cluster", "edit", "server2"][..], &["profile", "edit", "default"], &["config", "edit", "c1"]] {
        let done = cluster.incus_in(1, what, "config: {a: [")?;
        assert!(done.code != 0 && done.err.contains("line 1"), "{what:?}: {}", done.err);
    }
    Ok(())
}

/// Requests that no client makes.
fn raw(cluster: &Cluster) -> Result<()> {
    let socket = cluster.lab.machines[0].incus_dir().join("unix.socket").to_string_lossy().into_owned();
    for (method, path, header, body, code, want) in [
        (
            "PATCH",
            "/1.0",
            "",
            r#"{"config":{"cluster.bogus":"1"}}"#,
            400,
            "cannot set 'cluster.bogus' to '1': unknown key",
        ),
        (
            "POST",
            "/1.0/cluster/members",
            "",
            "{nope",
            400,
            "invalid character 'n' looking for beginning of object key string",
        ),
        (
            "PUT",
            "/1.0/cluster/members/server2",
            "If-Match: deadbeef",
            r#"{"config":{},"roles":[]}"#,
            412,
            "ETag doesn't match: ",
        ),
        ("GET", "/1.0/cluster/members/server9", "", "", 404, "Cluster member not found"),
        ("GET", "/1.0/bogus", "", "", 404, "not found"),
        ("DELETE", "/1.0/cluster/members/server1", "", "", 500, "Node still has the following instances: c1"),
    ] {
        let url = format!("http://incus{path}");
        let mut args = vec!["-sS", "--unix-socket", &socket, "-X", method, &url];
        if !header.is_empty() {
            args.extend(["-H", header]);
        }
        if !body.is_empty() {
            args.extend(["-d", body]);
        }
        let answer: Value = serde_json::from_str(&cluster.lab.machines[0].must("curl", &args)?)?;
        assert_eq!(answer["error_code"], code, "{method} {path}: {answer}");
        assert!(answer["error"].as_str().unwrap_or_default().starts_with(want), "{method} {path}: {answer}");
    }
    Ok(())
}

/// Status, headers in small letters, and body of an answer to curl.
fn answer(cluster: &Cluster, machine: usize, args: &[&str]) -> Result<(u16, Vec<String>, String)> {
    let said = cluster.lab.machines[machine - 1].must("curl", &[&["-sSki", "--max-time", "20"], args].concat())?;
    let (head, body) = said.split_once("\r\n\r\n").ok_or("no head")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).ok_or("no status")?.parse()?;
    Ok((status, lines.map(str::to_lowercase).collect(), body.trim().to_owned()))
}

/// What strangers are told over the network.
fn strangers(cluster: &Cluster) -> Result<()> {
    let refused = r#"{"type":"error","status":"","status_code":0,"operation":"","error_code":403,"error":"not authorized","metadata":null}"#;
    let server = r#"{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":{"config":{},"api_extensions":null,"api_status":"stable","api_version":"1.0","auth":"untrusted","public":false,"auth_methods":["tls"]}}"#;
    for (method, path, body, want, text) in [
        ("GET", "/1.0", "", 200, server),
        ("PUT", "/1.0/cluster", "{}", 403, refused),
        ("GET", "/1.0/cluster/members", "", 403, refused),
    ] {
        let url = format!("https://10.77.0.1:8443{path}");
        let mut args = vec!["-X", method, &url];
        if !body.is_empty() {
            args.extend(["-d", body]);
        }
        let (status, head, said) = answer(cluster, 1, &args)?;
        assert_eq!((status, said.as_str()), (want, text), "{method} {path}");
        assert!(head.iter().any(|h| h == "content-type: application/json"), "{head:?}");
    }
    Ok(())
}

/// What a server says that is in no cluster.
fn alone(cluster: &Cluster) -> Result<()> {
    let socket = cluster.lab.machines[2].incus_dir().join("unix.socket").to_string_lossy().into_owned();
    let error = |code: u16, why: &str| {
        format!(
            r#"{{"type":"error","status":"","status_code":0,"operation":"","error_code":{code},"error":"{why}","metadata":null}}"#
        )
    };
    let nothing = r#"{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":{"server_name":"","enabled":false,"member_config":[]}}"#;
    for (method, path, want, text) in [
        ("POST", "/1.0/cluster/members", 400, error(400, "This server is not clustered")),
        ("GET", "/1.0/cluster", 200, nothing.to_owned()),
        ("GET", "/1.0/cluster/members", 500, error(500, "Server is not clustered")),
    ] {
        let url = format!("http://incus{path}");
        let body: &[&str] = if method == "POST" { &["-d", r#"{"server_name":"x"}"#] } else { &[] };
        let (status, head, said) =
            answer(cluster, 3, &[&["--unix-socket", &socket, "-X", method, &url], body].concat())?;
        assert_eq!((status, said), (want, text), "{method} {path}");
        assert_eq!(head.iter().any(|h| h.starts_with("etag: \"")), path == "/1.0/cluster", "{head:?}");
    }
    Ok(())
}

/// A server that joins with a token whose secret is wrong.
fn bad_token(cluster: &Cluster) -> Result<()> {
    let mut token: Value = serde_json::from_slice(&BASE64.decode(cluster.token("golden")?)?)?;
    token["secret"] = json!("00");
    cluster.incus(1, &["cluster", "revoke-token", "golden"])?;
    let body = json!({
        "server_name": "server3", "enabled": true, "server_address": "10.77.0.3:8443",
        "cluster_token": BASE64.encode(token.to_string()),
    });
    let socket = cluster.lab.machines[2].incus_dir().join("unix.socket").to_string_lossy().into_owned();
    let asked = ["--unix-socket", &socket, "-X", "PUT", "-d", &body.to_string(), "http://incus/1.0/cluster"];
    let (status, head, said) = answer(cluster, 3, &asked)?;
    let said: Value = serde_json::from_str(&said)?;
    let url = said["operation"].as_str().unwrap_or_default().to_owned();
    assert_eq!((status, &said["type"], &said["status"]), (202, &json!("async"), &json!("Operation created")));
    assert!(head.contains(&format!("location: {url}")), "{head:?}");
    let (status, _, ended) =
        answer(cluster, 3, &["--unix-socket", &socket, &format!("http://incus{url}/wait?timeout=60")])?;
    let ended: Value = serde_json::from_str(&ended)?;
    assert_eq!(status, 200, "{ended}");
    for (field, begun, end) in [
        ("class", json!("task"), json!("task")),
        ("description", json!("Joining cluster"), json!("Joining cluster")),
        ("status", json!("Running"), json!("Failure")),
        ("status_code", json!(103), json!(400)),
        ("resources", json!({"cluster": null}), json!({"cluster": null})),
        ("metadata", json!({}), json!({})),
        ("may_cancel", json!(false), json!(false)),
        ("location", json!("none"), json!("none")),
        (
            "err",
            json!(""),
            json!("Failed to setup cluster trust: Failed to add server cert to cluster: not authorized"),
        ),
    ] {
        assert_eq!((&said["metadata"][field], &ended["metadata"][field]), (&begun, &end), "{field}");
    }
    Ok(())
}
