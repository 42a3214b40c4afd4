//! Secrets are known to those whom they are for: a cluster at its most talkative makes, uses and refuses keys, tokens and
//! passwords, and then they are looked for in all that it has said: logs, events, errors, lists, command lines.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use client::tls::Identity;
use lab::cluster::Programs;
use lab::{Cluster, Lab, Result};
use serde_json::{Value, json};

/// The command lines and environments of all processes that were there for longer than a moment.
struct Processes {
    seen: Arc<Mutex<BTreeSet<String>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Processes {
    fn watch() -> Processes {
        let (seen, ended) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
        let (notes, end) = (seen.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
                    for file in ["cmdline", "environ"] {
                        let text = fs::read(process.path().join(file)).unwrap_or_default();
                        // What is set for an instance is there for its programs.
                        if !text.is_empty() && !text.windows(14).any(|w| w == b"container=lxc\0") {
                            notes.lock().unwrap().insert(String::from_utf8_lossy(&text).replace('\0', " "));
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Processes { seen, ended, thread: Some(thread) }
    }

    fn seen(&self) -> String {
        self.seen.lock().unwrap().iter().map(|line| format!("{line}\n")).collect()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Secrets by what they are.
#[derive(Default)]
struct Secrets(BTreeMap<String, String>);

impl Secrets {
    fn note(&mut self, what: &str, secret: &str) {
        assert!(secret.len() >= 12, "{what}: {secret:?} could be anywhere");
        self.0.insert(what.to_owned(), secret.to_owned());
    }

    /// A private key in PEM: a line from its middle.
    fn note_key(&mut self, what: &str, pem: &str) {
        let lines: Vec<&str> = pem.lines().filter(|l| !l.starts_with("-----")).collect();
        self.note(what, lines[lines.len() / 2]);
    }

    /// A token, and the secret in it.
    fn note_token(&mut self, what: &str, token: &str) {
        let inside: Value = serde_json::from_slice(&BASE64.decode(token).unwrap()).unwrap();
        self.note(&format!("the secret of {what}"), inside["secret"].as_str().unwrap());
        // Not the first bytes, which name the client.
        self.note(what, &token[token.len() / 2..token.len() / 2 + 24]);
    }

    fn found_in(&self, place: &str, text: &str) -> Vec<String> {
        let line =
            |secret: &str| text.lines().find(|l| l.contains(secret)).unwrap_or_default().chars().take(300).collect();
        let found = self.0.iter().filter(|(_, secret)| text.contains(secret.as_str()));
        found
            .map(|(what, secret)| {
                format!("{what} is in {place}: {}", {
                    let l: String = line(secret);
                    l
                })
            })
            .collect()
    }
}

/// A request to the daemon of a machine over its socket, so that nothing of it stands in a command line.
fn ask(cluster: &Cluster, machine: usize, method: &str, path: &str, body: &str) -> Result<Value> {
    let socket = cluster.lab.machines[machine - 1].incus_dir().join("unix.socket");
    curl(
        cluster,
        machine,
        &format!("unix-socket = \"{}\"\nurl = \"http://incus{path}\"\n", socket.display()),
        method,
        body,
    )
}

fn curl(cluster: &Cluster, machine: usize, who: &str, method: &str, body: &str) -> Result<Value> {
    let file = cluster.lab.dir.join("request");
    let data = if body.is_empty() { String::new() } else { format!("data = \"{}\"\n", body.replace('"', "\\\"")) };
    fs::write(&file, format!("silent\nshow-error\ninsecure\nmax-time = 60\nrequest = \"{method}\"\n{who}{data}"))?;
    let said = cluster.lab.machines[machine - 1].must("curl", &["-K", &file.to_string_lossy()])?;
    serde_json::from_str(&said).map_err(|e| format!("{method} {who}: {e}: {said}").into())
}

fn read(cluster: &Cluster, machine: usize, name: &str) -> Result<String> {
    Ok(fs::read_to_string(cluster.lab.machines[machine - 1].incus_dir().join(name))?)
}

#[test]
fn secrets_are_told_to_nobody_else() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let processes = Processes::watch();
    let mut secrets = Secrets::default();
    // The Raft library tells what it writes, which is the database: nobody has it tell that much.
    let talkative = [("INCUS_LOG", "debug,openraft=error")];
    let cluster = Cluster::daemons_in(Lab::temporary("secrets", 2)?, Programs::built()?, &talkative)?;
    cluster.bootstrap()?;
    let heard = cluster.lab.dir.join("heard");
    let incus = cluster.programs.incus.clone();
    let mut monitor = cluster.lab.machines[0].command(&incus);
    monitor.args(["monitor", "--all-projects"]).stdin(Stdio::null()).stdout(File::create(&heard)?);
    let mut monitor = monitor.spawn()?;
    // Errors are answers, too.
    let mut said = String::new();

    joining(&cluster, &mut secrets, &mut said)?;
    trusting(&cluster, &mut secrets, &mut said)?;
    configuring(&cluster, &mut secrets, &mut said)?;
    instances(&cluster, &mut secrets, &mut said)?;
    let backup = backing_up(&cluster, &mut secrets, &mut said)?;
    for (n, name) in [(1, "server.key"), (2, "server.key"), (1, "cluster.key")] {
        secrets.note_key(&format!("{name} of server{n}"), &read(&cluster, n, name)?);
    }

    // What is told last has come in.
    cluster.incus(1, &["profile", "create", "the-end"])?;
    cluster.until("the last event", || Ok(fs::read_to_string(&heard)?.contains("the-end").then_some(())))?;
    let mut wrong = secrets.found_in("the events", &fs::read_to_string(&heard)?);
    wrong.extend(secrets.found_in("what was said", &said));
    for machine in &cluster.lab.machines {
        let log = fs::read_to_string(machine.dir.join("incusd.log"))?;
        assert!(log.contains("INFO"), "the daemon says something");
        wrong.extend(secrets.found_in(&format!("the log of {}", machine.name), &log));
        // What liblxc is told about an instance is no log.
        let logs = files(&machine.incus_dir().join("logs"))?.into_iter().filter(|f| !f.ends_with("lxc.conf"));
        for file in logs {
            let text = String::from_utf8_lossy(&fs::read(&file)?).into_owned();
            wrong.extend(secrets.found_in(&file.display().to_string(), &text));
        }
    }
    wrong.extend(secrets.found_in("a command line or an environment", &processes.seen()));
    // Operations tell administrators the secrets of tokens and sessions that are open; nothing else does.
    for path in ["/1.0/warnings?recursion=1", "/1.0/certificates?recursion=1", "/1.0/cluster/members?recursion=1"] {
        wrong.extend(secrets.found_in(path, &ask(&cluster, 2, "GET", path, "")?.to_string()));
    }
    let keys = ask(&cluster, 1, "GET", "/1.0", "")?["metadata"]["config"].clone();
    let internal = keys.as_object().unwrap().keys().any(|key| key.starts_with("internal."));
    assert!(!internal, "{keys}");
    let _ = monitor.kill();
    let _ = monitor.wait();
    println!("{} secrets looked for", secrets.0.len());
    assert!(secrets.0.len() > 15, "{:?}", secrets.0.keys());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // The search finds what is there.
    assert!(!secrets.found_in("cluster.key", &read(&cluster, 1, "cluster.key")?).is_empty());
    readable(&cluster, &backup)
}

fn joining(cluster: &Cluster, secrets: &mut Secrets, said: &mut String) -> Result<()> {
    let token = cluster.token("server2")?;
    secrets.note_token("the join token", &token);
    let mut wrong: Value = serde_json::from_slice(&BASE64.decode(&token)?)?;
    let made_up = format!("{:064x}", 0xfeed_u64);
    wrong["secret"] = json!(made_up);
    let wrong = BASE64.encode(wrong.to_string());
    *said += &cluster.join_with(2, &wrong)?.err;
    *said += &cluster.join_with(2, &format!("{token}x"))?.err;
    cluster.join_with(2, &token)?.ok()?;
    *said += &cluster.join_with(2, &token)?.err;
    // Administrators are shown it as long as it is good.
    let open = cluster.token("server9")?;
    secrets.note_token("an open join token", &open);
    Ok(())
}

fn trusting(cluster: &Cluster, secrets: &mut Secrets, said: &mut String) -> Result<()> {
    let token = |name: &str| -> Result<String> {
        let out = cluster.incus(1, &["config", "trust", "add", name])?;
        Ok(out.lines().last().unwrap_or_default().trim().to_owned())
    };
    let (used, open) = (token("laptop")?, token("waiting")?);
    secrets.note_token("a trust token", &used);
    secrets.note_token("an open trust token", &open);
    let client = Identity::generate("laptop", &[])?;
    secrets.note_key("the key of a client", &client.key);
    let file = |end: &str| cluster.lab.dir.join(format!("laptop.{end}"));
    fs::write(file("crt"), &client.certificate)?;
    fs::write(file("key"), &client.key)?;
    let who = format!(
        "cert = \"{}\"\nkey = \"{}\"\nurl = \"https://10.77.0.2:8443/1.0/certificates\"\n",
        file("crt").display(),
        file("key").display()
    );
    let body = json!({"type": "client", "trust_token": used}).to_string();
    assert_eq!(curl(cluster, 1, &who, "POST", &body)?["status_code"], 200);
    // It is good once.
    *said += &curl(cluster, 1, &who, "POST", &body)?.to_string();
    // Somebody sends the key along with the certificate.
    let both = format!("{}{}", client.certificate, client.key).replace('\n', "\\n");
    *said += &ask(cluster, 1, "POST", "/1.0/certificates", &format!(r#"{{"type":"client","certificate":"{both}"}}"#))?
        .to_string();
    let only = client.key.replace('\n', "\\n");
    *said += &ask(cluster, 1, "POST", "/1.0/certificates", &format!(r#"{{"type":"client","certificate":"{only}"}}"#))?
        .to_string();
    Ok(())
}

fn configuring(cluster: &Cluster, secrets: &mut Secrets, said: &mut String) -> Result<()> {
    secrets.note("a value of the server's configuration", "Server-Passw0rd");
    secrets.note("a password that is refused", "Refused-Passw0rd");
    let set = |key: &str, value: &str| ask(cluster, 1, "PATCH", "/1.0", &json!({"config": {key: value}}).to_string());
    assert_eq!(set("user.password", "Server-Passw0rd")?["status_code"], 200);
    for url in ["http://user:Refused-Passw0rd@10.77.0.9:3128", "ftp://user:Refused-Passw0rd@10.77.0.9:99999"] {
        let refused = set("core.proxy_https", url)?;
        assert_eq!(refused["type"], "error", "{refused}");
        *said += &refused.to_string();
    }
    // The certificate of the cluster is replaced, and before that refused.
    secrets.note_key("the first cluster.key", &read(cluster, 1, "cluster.key")?);
    let (new, other) = (Identity::generate("cluster.example.net", &[])?, Identity::generate("other", &[])?);
    secrets.note_key("a key that does not fit", &other.key);
    secrets.note_key("the new cluster.key", &new.key);
    let put = |key: &str| {
        let body = json!({"cluster_certificate": new.certificate, "cluster_certificate_key": key}).to_string();
        ask(cluster, 2, "PUT", "/1.0/cluster/certificate", &body.replace("\\n", "\\\\n"))
    };
    let refused = put(&other.key)?;
    assert_eq!(refused["type"], "error", "{refused}");
    *said += &refused.to_string();
    let done = put(&new.key)?;
    assert_eq!(done["status_code"], 200, "{done}");
    cluster.until("the new certificate", || Ok((read(cluster, 1, "cluster.key")? == new.key).then_some(())))
}

fn instances(cluster: &Cluster, secrets: &mut Secrets, said: &mut String) -> Result<()> {
    cluster.import_busybox("bb")?;
    let image = cluster.get(1, "/1.0/images/aliases/bb")?["target"].as_str().unwrap().to_owned();
    let given = ask(cluster, 1, "POST", &format!("/1.0/images/{image}/secret"), "{}")?["metadata"].clone();
    let secret = given["metadata"]["secret"].as_str().unwrap().to_owned();
    secrets.note("the secret of an image", &secret);
    let stranger = |secret: &str| format!("url = \"https://10.77.0.1:8443/1.0/images/{image}?secret={secret}\"\n");
    assert_eq!(curl(cluster, 1, &stranger(&secret), "GET", "")?["status_code"], 200, "it opens the image");
    *said += &curl(cluster, 1, &stranger("Wrong-Secret"), "GET", "")?.to_string();
    cluster.incus(1, &["init", "bb", "c1", "--target", "server2"])?;
    secrets.note("a value of user.*", "User-Data-Passw0rd");
    let set =
        json!({"config": {"user.password": "User-Data-Passw0rd", "environment.PASSWORD": "Environment-Passw0rd"}});
    secrets.note("an environment", "Environment-Passw0rd");
    ask(cluster, 1, "PATCH", "/1.0/instances/c1", &set.to_string())?;
    cluster.incus(1, &["start", "c1"])?;
    let body = json!({"command": ["cat"], "wait-for-websocket": true, "interactive": false}).to_string();
    let session = ask(cluster, 1, "POST", "/1.0/instances/c1/exec", &body)?["metadata"].clone();
    for (name, secret) in session["metadata"]["fds"].as_object().unwrap() {
        secrets.note(&format!("the websocket {name}"), secret.as_str().unwrap());
    }
    let id = session["id"].as_str().unwrap();
    // A websocket of it is refused, and it is ended.
    let with =
        |secret: &str| format!("url = \"https://10.77.0.1:8443/1.0/operations/{id}/websocket?secret={secret}\"\n");
    let right = session["metadata"]["fds"]["0"].as_str().unwrap();
    for secret in [right, "Wrong-Secret"] {
        *said += &curl(cluster, 1, &with(secret), "GET", "")?.to_string();
    }
    *said += &cluster.incus_in(1, &["operation", "delete", id], "")?.err;
    assert_eq!(cluster.incus(1, &["exec", "c1", "--", "cat", "/etc/hostname"])?.trim(), "c1");
    cluster.incus(1, &["stop", "-f", "c1"])?;
    cluster.incus(1, &["storage", "volume", "create", "local", "v"]).map(drop)
}

fn backing_up(cluster: &Cluster, secrets: &mut Secrets, said: &mut String) -> Result<PathBuf> {
    let file = cluster.lab.machines[0].dir.join("backup");
    *said += &cluster.incus(1, &["admin", "cluster", "backup", &file.to_string_lossy()])?;
    *said += &cluster.refused(1, &["admin", "cluster", "backup", &file.to_string_lossy()])?;
    let inside = fs::read(&file)?;
    assert!(inside.len() > 1000);
    secrets.note("a backup", &BASE64.encode(&inside[200..230]));
    Ok(file)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry?.path();
        let kind = fs::symlink_metadata(&path)?.file_type();
        match kind.is_dir() {
            true => found.extend(files(&path)?),
            false if kind.is_file() => found.push(path),
            false => {}
        }
    }
    Ok(found)
}

/// What others than root can reach and read below the daemon's directory: what everybody is shown anyway.
fn readable(cluster: &Cluster, backup: &Path) -> Result<()> {
    fn walk(dir: &Path, open: &mut Vec<String>, top: &Path) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let about = fs::symlink_metadata(&path)?;
            let (kind, others) = (about.file_type(), about.mode() & 0o007);
            let name = path.strip_prefix(top)?.display().to_string();
            if kind.is_dir() && others & 0o001 != 0 {
                walk(&path, open, top)?;
            } else if (kind.is_file() && others & 0o006 != 0) || (kind.is_socket() && others & 0o002 != 0) {
                open.push(name);
            }
        }
        Ok(())
    }
    assert_eq!(fs::metadata(backup)?.mode() & 0o777, 0o600);
    for machine in &cluster.lab.machines {
        let mut open = Vec::new();
        walk(&machine.incus_dir(), &mut open, &machine.incus_dir())?;
        // Programs in containers read these with the ids of the container.
        open.retain(|name| !name.starts_with("devices/"));
        open.sort();
        let public = ["cgroup.name", "cluster.crt", "incus.pid", "server.crt"];
        assert!(open.iter().all(|name| public.contains(&name.as_str())), "{}: {open:?}", machine.name);
        for (name, mode) in [
            ("server.key", 0o600),
            ("cluster.key", 0o600),
            ("unix.socket", 0o660),
            ("guard.socket", 0o600),
            ("database", 0o700),
            ("images", 0o700),
        ] {
            let path = machine.incus_dir().join(name);
            // The guard goes when nothing is left to guard.
            if name == "guard.socket" && !path.exists() {
                continue;
            }
            assert_eq!(fs::metadata(&path)?.mode() & 0o777, mode, "{}", path.display());
        }
    }
    Ok(())
}
