//! Who may do what, asked of real daemons over TLS and the unix socket: every endpoint by every kind of caller, and what
//! a caller tries who wants more.
#![allow(clippy::unwrap_used)]

mod kinds;
mod matrix;
mod odd;
mod others;
mod table;

use std::fmt::Write as _;

use client::tls::Identity;
use lab::cluster::Programs;
use lab::{Cluster, Lab, Result};
use serde_json::Value;

const REFUSED: &str = "not authorized";
const RESTRICTED: &str = "Certificate is restricted";
const UNTRUSTED: &str = r#"{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":{"config":{},"api_extensions":null,"api_status":"stable","api_version":"1.0","auth":"untrusted","public":false,"auth_methods":["tls"]}}"#;
/// Ends the answer to each request; no answer holds it.
const END: &str = "<<<end of the answer:";

/// The answer that refuses in these words.
fn refusal(why: &str) -> String {
    let why = why.replace('"', "\\\"");
    format!(
        r#"{{"type":"error","status":"","status_code":0,"operation":"","error_code":403,"error":"{why}","metadata":null}}"#
    )
}

fn no_project(name: &str) -> String {
    refusal(&format!("User does not have permission for project \"{name}\""))
}

/// Who asks: lines for curl that say so.
#[derive(Clone)]
struct Who(String);

/// A request.
#[derive(Clone, Default)]
struct Request {
    method: &'static str,
    path: String,
    body: String,
    headers: Vec<String>,
}

fn get(path: &str) -> Request {
    Request { method: "GET", path: path.to_owned(), ..Request::default() }
}

fn send(method: &'static str, path: &str, body: &Value) -> Request {
    Request { method, path: path.to_owned(), body: body.to_string(), ..Request::default() }
}

/// A cluster of server1 and server2 with things in the projects `default` and `own`; server3 was a member.
struct World {
    cluster: Cluster,
    /// The key of server3, whose certificate the cluster does not know any more.
    removed: Who,
}

impl World {
    fn new() -> Result<World> {
        let mut cluster = Cluster::form(Lab::temporary("authorization", 3)?, Programs::built()?)?;
        let removed = Who::files(
            &cluster.lab.machines[2].incus_dir().join("server.crt").to_string_lossy(),
            &cluster.lab.machines[2].incus_dir().join("server.key").to_string_lossy(),
        );
        cluster.kill(3)?;
        cluster.incus(1, &["cluster", "remove", "server3", "--force", "--yes"])?;
        cluster.import_busybox("bb")?;
        let file = cluster.lab.machines[0].dir.join("busybox.tar.gz").to_string_lossy().into_owned();
        cluster.incus(1, &["project", "create", "own"])?;
        cluster.incus(
            1,
            &["profile", "device", "add", "default", "root", "disk", "path=/", "pool=local", "--project", "own"],
        )?;
        cluster.incus(1, &["image", "import", &file, "--alias", "bb", "--project", "own"])?;
        cluster.incus(1, &["network", "create", "br0", "ipv4.address=none", "ipv6.address=none"])?;
        for project in ["default", "own"] {
            let run = |args: &[&str]| cluster.incus(1, &[args, &["--project", project]].concat());
            // What is asked of server1 has to be sent on.
            run(&["init", "bb", "c1", "--target", "server2"])?;
            run(&["snapshot", "create", "c1", "s1"])?;
            run(&["storage", "volume", "create", "local", "v", "--target", "server2"])?;
            run(&["storage", "volume", "snapshot", "create", "local", "v", "s1", "--target", "server2"])?;
        }
        Ok(World { cluster, removed })
    }

    /// A new certificate, and its fingerprint; `trust` are options of `config trust add-certificate`, if it is trusted.
    fn identity(&self, name: &str, trust: Option<&[&str]>) -> Result<(Who, String)> {
        let made = Identity::generate(name, &[])?;
        let file = |end: &str| self.cluster.lab.dir.join(format!("{name}.{end}")).to_string_lossy().into_owned();
        std::fs::write(file("crt"), &made.certificate)?;
        std::fs::write(file("key"), &made.key)?;
        if let Some(options) = trust {
            self.cluster.incus(1, &[&["config", "trust", "add-certificate", &file("crt")], options].concat())?;
        }
        Ok((Who::files(&file("crt"), &file("key")), made.fingerprint()?))
    }

    /// A client that is restricted to a project.
    fn restricted(&self, project: &str) -> Result<Who> {
        Ok(self
            .identity(&format!("of-{}", project.replace(',', "-")), Some(&["--restricted", "--projects", project]))?
            .0)
    }

    /// Files of a machine's daemon.
    fn of_machine(&self, number: usize, name: &str) -> Who {
        let file = |end: &str| {
            self.cluster.lab.machines[number - 1]
                .incus_dir()
                .join(format!("{name}.{end}"))
                .to_string_lossy()
                .into_owned()
        };
        Who::files(&file("crt"), &file("key"))
    }

    /// A local user of server1.
    fn local(&self) -> Who {
        Who(format!("unix-socket = \"{}\"\n", self.cluster.lab.machines[0].incus_dir().join("unix.socket").display()))
    }

    /// Status and body of what server1 answers, for each request, on one connection.
    fn ask_all(&self, who: &Who, requests: &[Request]) -> Result<Vec<(u16, String)>> {
        let server = if who.0.starts_with("unix") { "http://incus" } else { "https://10.77.0.1:8443" };
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let mut config = String::new();
        for (i, request) in requests.iter().enumerate() {
            let (next, method) = (if i > 0 { "next\n" } else { "" }, request.method);
            let method = if method == "HEAD" {
                "head\noutput = \"/dev/null\"".to_owned()
            } else {
                format!("request = \"{method}\"")
            };
            write!(
                config,
                "{next}silent\nshow-error\ninsecure\npath-as-is\nglobo\nmax-time = 60\n{}{method}\nurl = \"{server}{}\"\n\
                 write-out = \"\\n{END}%{{http_code}}\\n\"\n",
                who.0,
                quoted(&request.path)
            )?;
            for header in &request.headers {
                writeln!(config, "header = \"{}\"", quoted(header))?;
            }
            if !request.body.is_empty() {
                writeln!(config, "header = \"Content-Type: application/json\"\ndata = \"{}\"", quoted(&request.body))?;
            }
        }
        let file = self.cluster.lab.dir.join("requests");
        std::fs::write(&file, config.replace("globo\n", "globoff\n"))?;
        let said = self.cluster.lab.machines[0].must("curl", &["-K", &file.to_string_lossy()])?;
        let mut answers = Vec::new();
        let mut body = String::new();
        for line in said.split_inclusive('\n') {
            match line.strip_prefix(END) {
                Some(code) => answers.push((code.trim().parse()?, std::mem::take(&mut body).trim().to_owned())),
                None => body.push_str(line),
            }
        }
        match answers.len() == requests.len() {
            true => Ok(answers),
            false => Err(format!("{} answers to {} requests", answers.len(), requests.len()).into()),
        }
    }

    fn ask(&self, who: &Who, request: Request) -> Result<(u16, String)> {
        Ok(self.ask_all(who, &[request])?.remove(0))
    }

    /// The value that server1 answers with; it has to be a success.
    fn value(&self, who: &Who, request: Request) -> Result<Value> {
        let path = request.path.clone();
        let (status, body) = self.ask(who, request)?;
        assert!((200..300).contains(&status), "{path}: {status} {body}");
        Ok(serde_json::from_str::<Value>(&body)?["metadata"].take())
    }

    /// The id of an operation that a local user of that machine begins with this request.
    fn operation(&self, machine: usize, method: &str, path: &str, body: &str) -> Result<String> {
        let socket = self.cluster.lab.machines[machine - 1].incus_dir().join("unix.socket");
        let url = format!("http://incus{path}");
        let args = ["-sS", "--unix-socket", &socket.to_string_lossy(), "-X", method, "-d", body, &url];
        let said: Value = serde_json::from_str(&self.cluster.lab.machines[machine - 1].must("curl", &args)?)?;
        let id = said["metadata"]["id"].as_str().ok_or_else(|| format!("{method} {path}: {said}"))?;
        Ok(id.to_owned())
    }

    fn fingerprint_of_image(&self) -> Result<String> {
        Ok(self.cluster.get(1, "/1.0/images/aliases/bb")?["target"].as_str().ok_or("no image")?.to_owned())
    }
}

impl Who {
    fn nobody() -> Who {
        Who(String::new())
    }

    fn files(certificate: &str, key: &str) -> Who {
        Who(format!("cert = \"{certificate}\"\nkey = \"{key}\"\n"))
    }
}

#[test]
fn everybody_may_do_what_is_theirs_and_nothing_else() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut world = World::new()?;
    matrix::every_endpoint_is_open_to_those_that_it_is_for(&world)?;
    kinds::how_much_is_told_does_not_depend_on_the_member(&world)?;
    odd::paths_and_queries_lead_nowhere_else(&world)?;
    odd::methods_tell_nothing(&world)?;
    odd::nobody_is_believed_who_says_that_they_are_somebody_else(&world)?;
    others::a_body_names_no_other_project(&world)?;
    others::what_projects_share_is_not_changed_by_one_of_them(&world)?;
    others::lists_and_uses_are_of_the_own_projects(&world)?;
    others::nobody_joins_with_the_certificate_of_a_client(&world)?;
    others::operations_and_events_are_of_the_own_projects(&world)?;
    others::a_certificate_without_a_member_is_taken_back(&world)?;
    others::a_member_comes_back_with_another_key(&mut world)
}
