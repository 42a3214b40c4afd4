//! Bad input is refused in the words that clients of Incus parse, by any client, and changes nothing.

use lab::cluster::Programs;
use lab::{Cluster, Result};
use serde_json::Value;

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
];

#[test]
fn bad_input_is_refused_in_words_that_clients_know() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("golden", 2)?;
    cluster.import_busybox("busybox")?;
    cluster.incus(1, &["init", "busybox", "c1", "--target", "server1"])?;
    let before = state(&cluster)?;
    words(&cluster)?;
    raw(&cluster)?;
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
