//! What lies beside an instance: logs, recorded output, metadata, templates.

use lab::{Cluster, Result};
use serde_json::{Value, json};

use crate::files::ask;

pub fn logs_and_metadata(cluster: &Cluster) -> Result<()> {
    let logs = cluster.get(1, "/1.0/instances/c1/logs")?;
    let logs: Vec<&str> = logs.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for file in ["lxc.conf", "console.log"] {
        assert!(logs.contains(&format!("/1.0/instances/c1/logs/{file}").as_str()), "{logs:?}");
    }
    let (status, _, conf) = ask(cluster, "GET", "/1.0/instances/c1/logs/lxc.conf", &[])?;
    assert!(status == 200 && conf.contains("lxc."), "{conf}");
    for (method, file, want) in [
        ("GET", "nope.log", 400),
        ("GET", "..%2Fc1%2Flxc.conf", 400),
        ("GET", "snapshot_1.log", 404),
        ("DELETE", "lxc.log", 400),
        ("DELETE", "snapshot_1.log", 404),
        ("GET", "exec-output/exec_1.stdout", 404),
        ("GET", "exec-output/..%2F..%2Flxc.conf", 400),
    ] {
        let (status, _, body) = ask(cluster, method, &format!("/1.0/instances/c1/logs/{file}"), &[])?;
        assert_eq!(status, want, "{method} {file}: {body}");
    }
    recorded(cluster)?;
    metadata(cluster)
}

fn recorded(cluster: &Cluster) -> Result<()> {
    let wanted = json!({
        "command": ["sh", "-c", "echo out; echo err >&2; exit 4"],
        "record-output": true, "wait-for-websocket": false, "environment": {},
    });
    let wanted = wanted.to_string();
    let query = ["query", "--wait", "-X", "POST", "-d", &wanted, "/1.0/instances/c1/exec"];
    let operation: Value = serde_json::from_str(&cluster.incus(1, &query)?)?;
    let metadata = &operation["metadata"];
    assert_eq!(metadata["return"], 4, "{operation}");
    for (fd, text) in [("1", "out\n"), ("2", "err\n")] {
        let url = metadata["output"][fd].as_str().unwrap();
        assert_eq!(ask(cluster, "GET", url, &[])?.2, text, "{url}");
        let all = cluster.get(1, "/1.0/instances/c1/logs/exec-output")?;
        assert!(all.as_array().unwrap().contains(&json!(url)), "{all}");
        assert_eq!(ask(cluster, "DELETE", url, &[])?.0, 200);
        assert_eq!(ask(cluster, "GET", url, &[])?.0, 404);
    }
    Ok(())
}

fn metadata(cluster: &Cluster) -> Result<()> {
    let shown = cluster.incus(2, &["config", "metadata", "show", "s1"])?;
    assert!(shown.contains("architecture:"), "{shown}");
    let changed = format!("{shown}\n").replace("\nproperties:\n", "\nproperties:\n  color: blue\n");
    let done = cluster.incus_in(1, &["config", "metadata", "edit", "s1"], &changed)?;
    assert_eq!(done.code, 0, "{done:?}");
    let (status, head, body) = ask(cluster, "GET", "/1.0/instances/s1/metadata", &[])?;
    assert!(status == 200 && body.contains(r#""color":"blue""#) && head.contains("etag: "), "{head} {body}");
    let patch = ["-d", r#"{"properties":{"color":"red"}}"#];
    assert_eq!(ask(cluster, "PATCH", "/1.0/instances/s1/metadata", &patch)?.0, 200);
    let stale = ["-d", r#"{"architecture":"x86_64"}"#, "-H", "If-Match: \"stale\""];
    assert_eq!(ask(cluster, "PUT", "/1.0/instances/s1/metadata", &stale)?.0, 412);
    assert_eq!(ask(cluster, "PUT", "/1.0/instances/s1/metadata", &["-d", "{}"])?.0, 400);
    assert!(cluster.incus(1, &["config", "metadata", "show", "s1"])?.contains("color: red"));
    let done = cluster.incus_in(1, &["config", "template", "create", "s1", "motd.tpl"], "hello")?;
    assert_eq!(done.code, 0, "{done:?}");
    let names = cluster.get(1, "/1.0/instances/s1/metadata/templates")?;
    assert_eq!(names, json!(["hostname.tpl", "motd.tpl"]));
    let done = cluster.incus_in(1, &["config", "template", "edit", "s1", "motd.tpl"], "hello again")?;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(cluster.incus(1, &["config", "template", "show", "s1", "motd.tpl"])?, "hello again");
    cluster.incus(1, &["config", "template", "delete", "s1", "motd.tpl"])?;
    for (method, path, want) in [("GET", "motd.tpl", 404), ("GET", "..%2Fmetadata.yaml", 400), ("DELETE", "", 400)] {
        let path = format!("/1.0/instances/s1/metadata/templates?path={path}");
        assert_eq!(ask(cluster, method, &path, &[])?.0, want, "{method} {path}");
    }
    Ok(())
}
