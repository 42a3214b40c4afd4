//! What is of others: things of other projects, of all projects together, and of the cluster.

use std::fs::File;
use std::process::{Child, Stdio};

use lab::Result;
use serde_json::{Value, json};

use crate::{REFUSED, RESTRICTED, UNTRUSTED, Who, World, get, no_project, refusal, send};

/// A request in the own project whose body names another one.
pub fn a_body_names_no_other_project(world: &World) -> Result<()> {
    let own = world.restricted("own")?;
    let volume = "/1.0/storage-pools/local/volumes/custom";
    for (method, path, body) in [
        (
            "POST",
            "/1.0/instances?project=own".to_owned(),
            json!({"name": "x", "source": {"type": "copy", "source": "c1", "project": "default"}}),
        ),
        (
            "POST",
            "/1.0/instances?project=own".to_owned(),
            json!({"name": "x", "source": {"type": "copy", "source": "c1/s1", "project": "default"}}),
        ),
        (
            "POST",
            "/1.0/instances/c1?project=own".to_owned(),
            json!({"name": "x", "project": "default", "migration": true}),
        ),
        (
            "POST",
            format!("{volume}?project=own"),
            json!({"name": "x", "source": {"type": "copy", "name": "v", "pool": "local", "project": "default"}}),
        ),
        ("POST", format!("{volume}/v?project=own"), json!({"name": "x", "project": "default"})),
    ] {
        let answer = world.ask(&own, send(method, &path, &body))?;
        assert_eq!(answer, (403, no_project("default")), "{path} {body}");
    }
    // Nor do values become lines of what liblxc is told.
    for (key, value) in [
        ("environment.A", "x\nlxc.hook.start-host = /bin/false"),
        ("environment.A\nlxc.hook.start-host", "/bin/false"),
        ("limits.cpu", "0\n"),
    ] {
        let body = json!({"config": {key: value}});
        let (status, said) = world.ask(&own, send("PATCH", "/1.0/instances/c1?project=own", &body))?;
        assert!(status == 400 && said.contains("Invalid config"), "{key:?}: {status} {said}");
    }
    // Nobody makes themselves or others worth more.
    let print = world.value(&own, get("/1.0"))?["auth_user_name"].as_str().unwrap_or_default().to_owned();
    let certificate = format!("/1.0/certificates/{print}");
    assert_eq!(world.value(&own, get(&certificate))?["restricted"], true);
    for (method, path, body, want) in [
        ("POST", "/1.0/certificates", json!({"type": "client", "token": true, "name": "x"}), REFUSED),
        ("POST", "/1.0/certificates", json!({"type": "client", "name": "x"}), REFUSED),
        ("POST", "/1.0/certificates", json!({"type": "client", "trust_token": "e30="}), REFUSED),
        ("PATCH", certificate.as_str(), json!({"restricted": false}), RESTRICTED),
        ("PUT", certificate.as_str(), json!({"type": "client", "restricted": false, "name": "x"}), RESTRICTED),
        ("DELETE", certificate.as_str(), json!({}), RESTRICTED),
    ] {
        assert_eq!(world.ask(&own, send(method, path, &body))?, (403, refusal(want)), "{method} {path} {body}");
    }
    Ok(())
}

/// A project that has profiles, images and volumes from the default one: its clients read them.
pub fn what_projects_share_is_not_changed_by_one_of_them(world: &World) -> Result<()> {
    let shared = ["features.images=false", "features.profiles=false", "features.storage.volumes=false"];
    let options = shared.iter().flat_map(|s| ["-c", s]).collect::<Vec<_>>();
    world.cluster.incus(1, &[&["project", "create", "shared"][..], &options].concat())?;
    let who = world.restricted("shared")?;
    let image = world.fingerprint_of_image()?;
    let volume = "/1.0/storage-pools/local/volumes/custom";
    for path in ["/1.0/profiles/default".to_owned(), format!("/1.0/images/{image}"), format!("{volume}/v")] {
        assert_eq!(world.value(&who, get(&format!("{path}?project=shared")))?["project"], "default", "{path}");
    }
    world.value(&who, send("POST", &format!("/1.0/images/{image}/secret?project=shared"), &json!({})))?;
    for (method, path, body) in [
        ("PATCH", "/1.0/profiles/default".to_owned(), json!({"description": "theirs"})),
        ("POST", "/1.0/profiles".to_owned(), json!({"name": "x"})),
        ("DELETE", format!("/1.0/images/{image}"), json!({})),
        ("PATCH", format!("/1.0/images/{image}"), json!({"public": true})),
        ("POST", "/1.0/images/aliases".to_owned(), json!({"name": "x", "target": image})),
        ("DELETE", "/1.0/images/aliases/bb".to_owned(), json!({})),
        ("DELETE", format!("{volume}/v"), json!({})),
        ("DELETE", format!("{volume}/v/snapshots/s1"), json!({})),
        ("POST", volume.to_owned(), json!({"name": "x"})),
    ] {
        let answer = world.ask(&who, send(method, &format!("{path}?project=shared"), &body))?;
        assert_eq!(answer, (403, no_project("default")), "{method} {path}");
    }
    // Nor is a volume moved to where it would lie among those of all.
    world.cluster.incus(1, &["config", "trust", "list"])?;
    let (both, _) = world.identity("both", Some(&["--restricted", "--projects", "own,shared"]))?;
    let answer = world
        .ask(&both, send("POST", &format!("{volume}/v?project=own"), &json!({"name": "x", "project": "shared"})))?;
    assert_eq!(answer, (403, no_project("default")));
    Ok(())
}

/// Lists, and what uses the things that all have.
pub fn lists_and_uses_are_of_the_own_projects(world: &World) -> Result<()> {
    let own = world.restricted("own")?;
    assert_eq!(world.value(&own, get("/1.0/projects"))?, json!(["/1.0/projects/own"]));
    assert_eq!(world.value(&own, get("/1.0/certificates"))?.as_array().map(Vec::len), Some(1));
    let whole = world.value(&world.local(), get("/1.0/storage-pools/local"))?["used_by"].clone();
    assert!(whole.to_string().contains("\"/1.0/instances/c1\""), "{whole}");
    for path in ["/1.0/storage-pools/local", "/1.0/storage-pools?recursion=1", "/1.0/projects?recursion=1"] {
        let answer = world.value(&own, get(path))?;
        let things = answer.as_array().cloned().unwrap_or_else(|| vec![answer]);
        let used: Vec<String> = things
            .iter()
            .flat_map(|t| t["used_by"].as_array().cloned().unwrap_or_default())
            .map(|u| u.to_string())
            .collect();
        assert!(!used.is_empty() && used.iter().all(|u| u.contains("project=own")), "{path}: {used:?}");
    }
    let volumes = world.value(&own, get("/1.0/storage-pools/local/volumes?project=own&recursion=1"))?;
    for volume in volumes.as_array().unwrap() {
        assert_eq!(volume["project"], "own", "{volume}");
    }
    // The configuration of the server may hold secrets.
    world.cluster.incus(1, &["config", "set", "user.secret=hidden"])?;
    for path in ["/1.0", "/1.0?target=server2"] {
        assert_eq!(world.value(&own, get(path))?["config"], json!({}), "{path}");
        assert_eq!(world.value(&world.local(), get(path))?["config"]["user.secret"], "hidden", "{path}");
    }
    world.cluster.incus(1, &["config", "unset", "user.secret"]).map(drop)
}

/// A server joins with a token, or with the certificate for which it has used its token; the certificates of clients are
/// in the same list.
pub fn nobody_joins_with_the_certificate_of_a_client(world: &World) -> Result<()> {
    let before = world.cluster.get(1, "/1.0/cluster/members?recursion=1")?;
    for (name, trust) in [
        ("joiner-restricted", Some(&["--restricted", "--projects", "own"][..])),
        ("joiner-metrics", Some(&["--type", "metrics"])),
        ("joiner-full", Some(&[])),
        ("joiner-unknown", None),
    ] {
        let (who, _) = world.identity(name, trust)?;
        let certificate = std::fs::read_to_string(world.cluster.lab.dir.join(format!("{name}.crt")))?;
        let version = world.cluster.get(1, "/1.0")?["api_extensions"].as_array().map_or(0, Vec::len);
        let schema =
            world.cluster.incus(1, &["admin", "sql", "global", "SELECT MAX(schema) FROM nodes", "-f", "csv"])?;
        let schema: i64 = schema.lines().last().unwrap_or_default().trim().parse()?;
        let body = json!({
            "name": name, "address": "10.77.0.3:8443", "schema": schema, "api_extensions": version,
            "architecture": "x86_64", "certificate": certificate,
        });
        for path in ["/internal/cluster/preflight", "/internal/cluster/accept"] {
            assert_eq!(world.ask(&who, send("POST", path, &body))?, (403, refusal(REFUSED)), "{name} {path}");
        }
        // Nor with one that it does not show.
        let other = std::fs::read_to_string(world.cluster.lab.machines[1].incus_dir().join("server.crt"))?;
        let body = json!({"certificate": other, "architecture": "x86_64", "address": "10.77.0.3:8443"});
        for path in ["/internal/cluster/preflight", "/internal/cluster/accept"] {
            assert_eq!(world.ask(&who, send("POST", path, &body))?, (403, refusal(REFUSED)), "{name} {path}");
        }
    }
    let rows = world.cluster.incus(1, &["admin", "sql", "global", "SELECT COUNT(*) FROM nodes", "-f", "csv"])?;
    assert_eq!(rows.lines().last(), Some("2"), "not even a pending one");
    assert_eq!(world.cluster.get(1, "/1.0/cluster/members?recursion=1")?, before);
    Ok(())
}

/// A join token that was used to have a certificate trusted, by whoever got hold of it, and nobody joined.
pub fn a_certificate_without_a_member_is_taken_back(world: &World) -> Result<()> {
    let token = world.cluster.token("server4")?;
    let (thief, print) = world.identity("thief", None)?;
    let body = json!({"type": "server", "trust_token": token});
    world.value(&thief, send("POST", "/1.0/certificates", &body))?;
    assert_eq!(world.value(&thief, get("/1.0"))?["auth"], "trusted");
    assert!(world.cluster.incus(2, &["config", "trust", "list", "-f", "csv", "-c", "nF"])?.contains(&print));
    let of_member = world.cluster.get(1, "/1.0/certificates?recursion=1")?;
    let of_member =
        of_member.as_array().unwrap().iter().find(|c| c["name"] == "server2").unwrap()["fingerprint"].clone();
    let of_member = of_member.as_str().unwrap();
    world.cluster.refused_with(1, &["config", "trust", "remove", of_member], "goes with it: remove the member")?;
    let kind = |print: &str, kind: &str| {
        let body = json!({"type": kind, "name": "x"});
        world.ask(&world.local(), send("PATCH", &format!("/1.0/certificates/{print}"), &body))
    };
    let (_, client) = world.identity("ambitious", Some(&[]))?;
    for (print, to) in [(client.as_str(), "server"), (of_member, "client"), (of_member, "metrics")] {
        let (status, body) = kind(print, to)?;
        assert!(status == 400 && body.contains("come and go with them"), "{to}: {status} {body}");
    }
    world.cluster.incus(2, &["config", "trust", "remove", &print])?;
    // It was taken back on another member than the one that is asked here.
    world.cluster.until("it is nobody everywhere", || {
        Ok((world.ask(&thief, get("/1.0"))? == (200, UNTRUSTED.to_owned())).then_some(()))
    })?;
    // The next one who joins under that name has it for itself.
    let token = world.cluster.token("server3")?;
    world.value(&thief, send("POST", "/1.0/certificates", &json!({"type": "server", "trust_token": token})))?;
    assert_eq!(world.value(&thief, get("/1.0"))?["auth"], "trusted");
    Ok(())
}

/// The key of a member that got into other hands is worth nothing once the member was removed, and comes back with
/// another one.
pub fn a_member_comes_back_with_another_key(world: &mut World) -> Result<()> {
    world.cluster.start(3)?;
    world.cluster.until("server3 finds out", || {
        let said = world.cluster.incus_in(3, &["list"], "")?;
        Ok(said.err.contains("was removed from its cluster").then_some(()))
    })?;
    let incusd = world.cluster.programs.incusd.to_string_lossy().into_owned();
    let old = world.cluster.lab.machines[2].incus_dir().join("server.key");
    let stolen = (world.identity("stolen", None)?.0, world.cluster.lab.dir.join("stolen"));
    for end in ["crt", "key"] {
        std::fs::copy(old.with_extension(end), stolen.1.with_extension(end))?;
    }
    world.cluster.lab.machines[2].must(&incusd, &["cluster", "wipe", "--quiet"])?;
    world
        .cluster
        .until("a fresh server", || Ok((world.cluster.incus_in(3, &["list"], "")?.code == 0).then_some(())))?;
    world.cluster.machine(3).end_daemon("TERM", lab::cluster::PATIENCE)?;
    for end in ["crt", "key"] {
        std::fs::remove_file(old.with_extension(end))?;
    }
    world.cluster.start(3)?;
    world.cluster.join(3)?;
    assert_eq!(world.cluster.member(1, 3, 's')?, "ONLINE");
    assert_eq!(world.ask(&stolen.0, get("/1.0"))?, (200, UNTRUSTED.to_owned()));
    assert_eq!(world.value(&world.of_machine(3, "server"), get("/1.0"))?["auth"], "trusted");
    let thief = |end: &str| world.cluster.lab.dir.join(format!("thief.{end}")).to_string_lossy().into_owned();
    let thief = Who::files(&thief("crt"), &thief("key"));
    assert_eq!(world.ask(&thief, get("/1.0"))?, (200, UNTRUSTED.to_owned()), "its name is another's now");
    Ok(())
}

/// Listens to events until the lab ends; what it hears is in the file.
struct Listener {
    child: Child,
    heard: std::path::PathBuf,
}

impl Listener {
    fn new(world: &World, name: &str, who: &Who, query: &str) -> Result<Listener> {
        let heard = world.cluster.lab.dir.join(format!("heard-{name}"));
        let config = world.cluster.lab.dir.join(format!("listen-{name}"));
        std::fs::write(
            &config,
            format!(
                "silent\ninsecure\nno-buffer\ninclude\nmax-time = 600\nhttp1.1\n{}url = \"https://10.77.0.1:8443/1.0/events?{query}\"\n\
                 header = \"Connection: Upgrade\"\nheader = \"Upgrade: websocket\"\nheader = \"Sec-WebSocket-Version: 13\"\n\
                 header = \"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\"\n",
                who.0
            ),
        )?;
        let mut command = world.cluster.lab.machines[0].command("curl");
        command.args(["-K", &config.to_string_lossy()]).stdin(Stdio::null()).stdout(File::create(&heard)?);
        Ok(Listener { child: command.spawn()?, heard })
    }

    /// curl writes the head of the answer when something follows it: an event, or a ping after some seconds.
    fn listens(&self, world: &World) -> Result<()> {
        world.cluster.until("a listener", || Ok(self.heard()?.contains(" 101 ").then_some(())))
    }

    fn heard(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.heard)?).into_owned())
    }

    fn waits_for(&self, world: &World, what: &str) -> Result<()> {
        let waited = world.cluster.until(what, || Ok(self.heard()?.contains(what).then_some(())));
        waited.map_err(|e| format!("{e}\nheard: {}", self.heard().unwrap_or_default()).into())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn operations_and_events_are_of_the_own_projects(world: &World) -> Result<()> {
    let own = world.restricted("own")?;
    let (none, _) = world.identity("of-nothing", Some(&["--restricted"]))?;
    // To others these are two projects.
    world.cluster.incus(1, &["project", "create", "a,default"])?;
    let comma = world.identity("of-comma", None)?;
    let certificate = std::fs::read_to_string(world.cluster.lab.dir.join("of-comma.crt"))?;
    let trust = json!({"type": "client", "name": "comma", "certificate": certificate, "restricted": true, "projects": ["a,default"]});
    world.value(&world.local(), send("POST", "/1.0/certificates", &trust))?;
    let image = world.fingerprint_of_image()?;
    let listeners = [
        ("own", &own, "project=own"),
        ("default", &own, "project=default"),
        ("types", &own, "project=own&type=logging,lifecycle,operation"),
        ("none", &none, "project=default"),
    ];
    let listeners: Vec<Listener> =
        listeners.iter().map(|(name, who, query)| Listener::new(world, name, who, query)).collect::<Result<_>>()?;
    // Who is trusted with less than when they came hears nothing more.
    let (leaving, print) = world.identity("listening", Some(&[]))?;
    let leaver = Listener::new(world, "leaver", &leaving, "all-projects=true")?;
    listeners.iter().chain([&leaver]).try_for_each(|listener| listener.listens(world))?;
    world.cluster.incus(1, &["profile", "create", "before"])?;
    leaver.waits_for(world, "/1.0/profiles/before")?;
    world.cluster.incus(1, &["config", "trust", "remove", &print])?;

    let secret = |machine, project: &str| {
        world.operation(machine, "POST", &format!("/1.0/images/{image}/secret?project={project}"), "{}")
    };
    for machine in [1, 2] {
        let theirs = [
            secret(machine, "default")?,
            world.operation(
                machine,
                "POST",
                "/1.0/cluster/members",
                &json!({"server_name": format!("t{machine}")}).to_string(),
            )?,
            world.operation(
                machine,
                "POST",
                "/1.0/certificates",
                &json!({"token": true, "name": format!("t{machine}")}).to_string(),
            )?,
        ];
        let mine = secret(machine, "own")?;
        for id in &theirs {
            for who in [&own, &none, &comma.0] {
                for request in [
                    get(&format!("/1.0/operations/{id}")),
                    get(&format!("/1.0/operations/{id}/wait?timeout=1")),
                    send("DELETE", &format!("/1.0/operations/{id}"), &json!({})),
                ] {
                    let (status, body) = world.ask(who, request)?;
                    assert!(status == 404 && body.contains("Operation not found"), "{id} {status} {body}");
                }
                for query in ["recursion=1", "recursion=1&project=own", "recursion=1&only=default&project=default"] {
                    let listed = world.value(who, get(&format!("/1.0/operations?{query}")))?.to_string();
                    assert!(!listed.contains(id.as_str()), "{query}: {listed}");
                    // A client has its own, and nobody else's.
                    let secrets = listed.matches("\"secret\"").count();
                    assert_eq!(secrets, listed.matches("?project=own\"").count(), "{query}: {listed}");
                }
            }
            assert_eq!(world.value(&world.local(), get(&format!("/1.0/operations/{id}")))?["status"], "Running");
        }
        assert_eq!(world.value(&own, get(&format!("/1.0/operations/{mine}?project=own")))?["id"], mine.as_str());
        let listed = world.value(&own, get("/1.0/operations?recursion=1&project=own"))?;
        assert!(listed.to_string().contains(mine.as_str()), "{listed}");
        for listener in [&listeners[0], &listeners[2]] {
            listener.waits_for(world, &mine)?;
        }
        for listener in &listeners {
            let heard = listener.heard()?;
            assert!(theirs.iter().all(|id| !heard.contains(id.as_str())), "{heard}");
            assert!(!heard.contains("/1.0/profiles/before") && !heard.contains("certificate-"), "{heard}");
        }
        assert!(!listeners[1].heard()?.contains(&mine) && !listeners[3].heard()?.contains(&mine));
        assert!(!leaver.heard()?.contains(&mine));
        let ended: Value = world.value(&own, send("DELETE", &format!("/1.0/operations/{mine}"), &json!({})))?;
        assert_eq!(ended, Value::Null);
    }
    Ok(())
}
