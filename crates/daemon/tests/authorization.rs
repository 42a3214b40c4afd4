//! Who may do what, asked of real daemons over TLS: an endpoint of each kind, each kind of caller, and the answers
//! byte for byte as clients know them.
#![allow(clippy::unwrap_used)]

use client::tls::Identity;
use lab::{Cluster, Result};

const REFUSED: &str = r#"{"type":"error","status":"","status_code":0,"operation":"","error_code":403,"error":"not authorized","metadata":null}"#;
const UNTRUSTED: &str = r#"{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":{"config":{},"api_extensions":null,"api_status":"stable","api_version":"1.0","auth":"untrusted","public":false,"auth_methods":["tls"]}}"#;

/// Endpoints of each kind, what is sent, and who they are open to: nobody in particular, a restricted client in
/// another project, the same in its own, a client, a member.
const ASKED: &[(&str, &str, &str, [bool; 5])] = &[
    ("GET", "/", "", [true, true, true, true, true]),
    ("GET", "/1.0", "", [true, true, true, true, true]),
    ("GET", "/1.0/images?project={}", "", [true, true, true, true, true]),
    ("GET", "/1.0/cluster/members", "", [false, true, true, true, true]),
    ("GET", "/1.0/cluster/members/server2/state", "", [false, true, true, true, true]),
    ("GET", "/1.0/operations?project={}", "", [false, true, true, true, true]),
    ("GET", "/1.0/profiles?project={}", "", [false, false, true, true, true]),
    ("PATCH", "/1.0/profiles/default?project={}", r#"{"description":"d"}"#, [false, false, true, true, true]),
    ("PATCH", "/1.0", r#"{"config":{"user.a":"b"}}"#, [false, false, false, true, true]),
    ("PATCH", "/1.0?target=server2", r#"{"config":{"user.a":"b"}}"#, [false, false, false, true, true]),
    ("PATCH", "/1.0/cluster/members/server2", r#"{"description":"d"}"#, [false, false, false, true, true]),
    ("GET", "/internal/ready", "", [false, false, false, false, true]),
    ("GET", "/internal/sql?database=global&schema=1", "", [false, false, false, false, true]),
];

struct Caller {
    name: &'static str,
    /// Arguments for curl that say who asks.
    identity: Vec<String>,
    /// Where in the table.
    column: usize,
    project: &'static str,
}

/// Writes a certificate and its key where curl finds them.
fn identity(cluster: &Cluster, name: &str) -> (String, Vec<String>) {
    let made = Identity::generate(name, &[]).unwrap();
    let file = |end: &str| cluster.lab.dir.join(format!("{name}.{end}")).to_string_lossy().into_owned();
    std::fs::write(file("crt"), &made.certificate).unwrap();
    std::fs::write(file("key"), &made.key).unwrap();
    (file("crt"), vec!["--cert".into(), file("crt"), "--key".into(), file("key")])
}

fn callers(cluster: &Cluster) -> Result<Vec<Caller>> {
    let (metrics_file, metrics) = identity(cluster, "metrics");
    let (restricted_file, restricted) = identity(cluster, "restricted");
    let (full_file, full) = identity(cluster, "full");
    let (_, unknown) = identity(cluster, "unknown");
    let trust = |args: &[&str]| cluster.incus(1, &[&["config", "trust", "add-certificate"], args].concat());
    trust(&[&metrics_file, "--type", "metrics"])?;
    trust(&[&restricted_file, "--restricted", "--projects", "own"])?;
    trust(&[&full_file])?;
    let of_member = |end: &str| cluster.lab.machines[1].incus_dir().join(end).to_string_lossy().into_owned();
    let member = vec!["--cert".into(), of_member("server.crt"), "--key".into(), of_member("server.key")];
    let socket = cluster.lab.machines[0].incus_dir().join("unix.socket").to_string_lossy().into_owned();
    let caller = |name, identity, column, project| Caller { name, identity, column, project };
    Ok(vec![
        caller("no certificate", vec![], 0, "own"),
        caller("a certificate that nobody trusts", unknown, 0, "own"),
        caller("a certificate for metrics", metrics, 0, "own"),
        caller("a restricted client in another project", restricted.clone(), 1, "default"),
        caller("a restricted client in its own project", restricted, 2, "own"),
        caller("a client", full, 3, "default"),
        caller("another member", member, 4, "default"),
        caller("a local user", vec!["--unix-socket".into(), socket], 4, "default"),
    ])
}

/// Status and body of the answer of server1.
fn ask(cluster: &Cluster, caller: &Caller, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let server =
        if caller.identity.iter().any(|a| a == "--unix-socket") { "http://incus" } else { "https://10.77.0.1:8443" };
    let url = format!("{server}{}", path.replace("{}", caller.project));
    let mut args = vec!["-sSk", "--max-time", "20", "-X", method, "-w", "\n%{http_code}", &url];
    args.extend(caller.identity.iter().map(String::as_str));
    if !body.is_empty() {
        args.extend(["-H", "Content-Type: application/json", "-d", body]);
    }
    let said = cluster.lab.machines[0].must("curl", &args)?;
    let (body, status) = said.rsplit_once('\n').ok_or("no status")?;
    Ok((status.parse()?, body.trim().to_owned()))
}

#[test]
fn each_kind_of_endpoint_is_open_to_those_that_it_is_for() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let cluster = Cluster::temporary("authorization", 2)?;
    cluster.incus(1, &["project", "create", "own", "-c", "features.images=true", "-c", "features.profiles=true"])?;
    let callers = callers(&cluster)?;
    for caller in &callers {
        for (method, path, body, open) in ASKED {
            let (status, answer) = ask(&cluster, caller, method, path, body)?;
            let what = format!("{method} {path} for {}: {status} {answer}", caller.name);
            match open[caller.column] {
                true => assert_eq!(status, 200, "{what}"),
                false => assert_eq!((status, answer.as_str()), (403, REFUSED), "{what}"),
            }
        }
        // How much is told does not depend on which member answers.
        for path in ["/1.0", "/1.0?target=server1", "/1.0?target=server2"] {
            let (_, answer) = ask(&cluster, caller, "GET", path, "")?;
            let what = format!("GET {path} for {}: {answer}", caller.name);
            assert_eq!(answer == UNTRUSTED, caller.column == 0, "{what}");
        }
    }
    // Who is trusted no more is refused on the connection that they have.
    let client = &callers[5];
    let fingerprint =
        Identity { certificate: std::fs::read_to_string(cluster.lab.dir.join("full.crt"))?, key: String::new() }
            .fingerprint()
            .unwrap();
    cluster.incus(2, &["config", "trust", "remove", &fingerprint])?;
    cluster.until("the client trusted no more", || {
        Ok((ask(&cluster, client, "GET", "/1.0/cluster/members", "")?.0 == 403).then_some(()))
    })
}
