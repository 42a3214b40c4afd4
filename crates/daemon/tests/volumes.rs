//! Storage volumes on real daemons: their life on one server, with our client and Debian's, and between members, with
//! daemons that are killed in the middle.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use lab::cluster::Programs;
use lab::{Cluster, Lab, Result};
use serde_json::Value;

/// Where a custom volume lies.
fn place(cluster: &Cluster, number: usize, pool: &str, name: &str) -> PathBuf {
    pool_dir(cluster, number, pool).join("custom").join(format!("default_{name}"))
}

/// Where a snapshot lies.
fn snapshot(cluster: &Cluster, number: usize, pool: &str, name: &str, snapshot: &str) -> PathBuf {
    pool_dir(cluster, number, pool).join("custom-snapshots").join(format!("default_{name}")).join(snapshot)
}

fn pool_dir(cluster: &Cluster, number: usize, pool: &str) -> PathBuf {
    cluster.lab.machines[number - 1].incus_dir().join("storage-pools").join(pool)
}

/// Everything of custom volumes in a pool of a member: volumes, and snapshots as `volume/snapshot`.
fn lies_in(cluster: &Cluster, number: usize, pool: &str) -> Vec<String> {
    let names = |dir: PathBuf| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    let dir = pool_dir(cluster, number, pool);
    let mut all = names(dir.join("custom"));
    for volume in names(dir.join("custom-snapshots")) {
        let of_it = names(dir.join("custom-snapshots").join(&volume));
        all.extend(of_it.into_iter().map(|s| format!("{volume}/{s}")));
    }
    all.sort();
    all
}

/// All that can be seen of a tree of files.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u32, u32, u32, i64, Vec<u8>)> {
    fn walk(root: &Path, path: &Path, all: &mut BTreeMap<PathBuf, (u32, u32, u32, i64, Vec<u8>)>) {
        let full = root.join(path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let content = if meta.is_file() {
            fs::read(&full).unwrap()
        } else if meta.is_symlink() {
            fs::read_link(&full).unwrap().to_string_lossy().into_owned().into_bytes()
        } else {
            Vec::new()
        };
        all.insert(path.to_owned(), (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), content));
        if meta.is_dir() {
            for entry in fs::read_dir(&full).unwrap() {
                walk(root, &path.join(entry.unwrap().file_name()), all);
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(dir, Path::new(""), &mut all);
    all
}

/// Puts some files into a volume.
fn fill(dir: &Path, text: &str) {
    fs::create_dir_all(dir.join("a/b")).unwrap();
    fs::write(dir.join("a/file"), text).unwrap();
    let _ = fs::remove_file(dir.join("a/b/same"));
    fs::hard_link(dir.join("a/file"), dir.join("a/b/same")).unwrap();
    let _ = fs::remove_file(dir.join("link"));
    symlink("a/file", dir.join("link")).unwrap();
    std::os::unix::fs::chown(dir.join("a/file"), Some(1_000_000), Some(1_000_001)).unwrap();
}

/// Makes a volume large: so many files of 2 MB that are not to be compressed to nothing.
fn fill_much(dir: &Path, files: u64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0; 2 << 20];
    for n in 0..files {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        fs::write(dir.join(format!("file{n}")), &block).unwrap();
    }
}

fn volume(cluster: &Cluster, args: &[&str]) -> Result<String> {
    cluster.incus(1, &[&["storage", "volume"], args].concat())
}

fn refused(cluster: &Cluster, args: &[&str], why: &str) -> Result<()> {
    cluster.refused_with(1, &[&["storage", "volume"], args].concat(), why)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|v| v["name"].as_str().or(v.as_str()).unwrap()).collect()
}

#[test]
fn a_volume_lives_on_a_server() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    for (client, programs) in Programs::clients()? {
        println!("with {client} client");
        let mut cluster = Cluster::daemons(Lab::temporary("volumes", 1)?, programs)?;
        for pool in ["one", "two"] {
            cluster.incus(1, &["storage", "create", pool, "dir"])?;
        }
        making(&cluster)?;
        snapshots(&cluster)?;
        copies(&cluster)?;
        uses(&cluster)?;
        interrupted(&mut cluster)?;
        for (pool, name) in [("one", "v"), ("two", "w"), ("two", "from-snapshot"), ("two", "alone")] {
            volume(&cluster, &["delete", pool, name])?;
        }
        assert!(lies_in(&cluster, 1, "one").is_empty() && lies_in(&cluster, 1, "two").is_empty());
        refused(&cluster, &["delete", "one", "v"], "not found")?;
    }
    Ok(())
}

fn making(cluster: &Cluster) -> Result<()> {
    volume(cluster, &["create", "one", "v", "size=1GiB", "user.a=b", "initial.mode=0750", "initial.uid=1000"])?;
    let root = fs::metadata(place(cluster, 1, "one", "v"))?;
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o750, 1000, 0));
    volume(cluster, &["create", "one", "plain"])?;
    let root = fs::metadata(place(cluster, 1, "one", "plain"))?;
    assert_eq!((root.mode() & 0o7777, root.uid()), (0o711, 0));
    for (args, why) in [
        (&["create", "one", "v"][..], "already exists"),
        (&["create", "nope", "x"], "Storage pool not found"),
        (&["create", "one", "x", "--type", "block"], "only \"filesystem\""),
        (&["create", "one", "x", "size=big"], "Invalid size \"big\""),
        (&["create", "one", "x", "nope=1"], "Invalid option for volume \"x\" option \"nope\""),
        (&["create", "one", "x y"], "Invalid storage volume name"),
        (&["set", "one", "v", "initial.mode=999"], "Invalid mode"),
        (&["show", "one", "nope"], "not found"),
    ] {
        refused(cluster, args, why)?;
    }
    assert_eq!(lies_in(cluster, 1, "one"), ["default_plain", "default_v"]);
    volume(cluster, &["set", "one", "v", "user.c=d"])?;
    assert_eq!(volume(cluster, &["get", "one", "v", "user.c"])?.trim(), "d");
    volume(cluster, &["unset", "one", "v", "user.c"])?;
    assert_eq!(volume(cluster, &["get", "one", "v", "user.c"])?.trim(), "");
    let shown = volume(cluster, &["show", "one", "v"])?;
    assert!(shown.contains("user.a: b") && shown.contains("content_type: filesystem"), "{shown}");

    let base = "/1.0/storage-pools/one/volumes";
    for (path, want) in [
        ("", &["/1.0/storage-pools/one/volumes/custom/plain", "/1.0/storage-pools/one/volumes/custom/v"][..]),
        ("?recursion=1", &["plain", "v"]),
        ("/custom?recursion=1&filter=name%20eq%20v", &["v"]),
        ("/container?recursion=1", &[]),
        ("?recursion=1&all-projects=true", &["plain", "v"]),
    ] {
        assert_eq!(names(&cluster.get(1, &format!("{base}{path}"))?), want, "{path}");
    }
    assert!(cluster.refused(1, &["query", &format!("{base}/nope")])?.contains("Invalid storage volume type"));
    volume(cluster, &["rename", "one", "plain", "renamed"])?;
    assert_eq!(lies_in(cluster, 1, "one"), ["default_renamed", "default_v"]);
    refused(cluster, &["rename", "one", "renamed", "v"], "already exists")?;
    volume(cluster, &["delete", "one", "renamed"])?;

    // A project with volumes of its own has them beside those of the default one.
    cluster.incus(1, &["project", "create", "p1", "-c", "features.storage.volumes=true"])?;
    cluster.incus(1, &["storage", "volume", "create", "one", "v", "--project", "p1"])?;
    assert_eq!(names(&cluster.get(1, &format!("{base}?all-projects=true&recursion=1"))?), ["v", "v"]);
    assert_eq!(names(&cluster.get(1, &format!("{base}?project=p1"))?), [format!("{base}/custom/v?project=p1")]);
    cluster.incus(1, &["storage", "volume", "delete", "one", "v", "--project", "p1"])?;
    Ok(())
}

fn snapshots(cluster: &Cluster) -> Result<()> {
    let dir = place(cluster, 1, "one", "v");
    fill(&dir, "one");
    volume(cluster, &["snapshot", "create", "one", "v"])?;
    volume(cluster, &["set", "one", "v", "snapshots.expiry=2d"])?;
    volume(cluster, &["snapshot", "create", "one", "v", "s1"])?;
    assert_eq!(lies_in(cluster, 1, "one"), ["default_v", "default_v/s1", "default_v/snap0"]);
    refused(cluster, &["snapshot", "create", "one", "v", "s1"], "already exists")?;
    refused(cluster, &["snapshot", "create", "one", "v", "a/b"], "Invalid")?;
    let before = tree(&dir);
    fill(&dir, "two");
    fs::write(dir.join("new"), "x")?;
    volume(cluster, &["snapshot", "restore", "one", "v", "s1"])?;
    assert_eq!(tree(&dir), before);
    refused(cluster, &["snapshot", "restore", "one", "v", "nope"], "not found")?;
    // Putting back and changing, in one request: both or neither.
    fill(&dir, "three");
    let now = tree(&dir);
    let path = "/1.0/storage-pools/one/volumes/custom/v";
    for (body, why) in [
        (r#"{"restore": "s1", "config": {"size": "big"}}"#, "Invalid size"),
        (r#"{"restore": "nope", "config": {"user.c": "d"}}"#, "not found"),
    ] {
        cluster.refused_with(1, &["query", "-X", "PUT", "-d", body, path], why)?;
        assert_eq!((tree(&dir), volume(cluster, &["get", "one", "v", "user.c"])?.trim()), (now.clone(), ""), "{body}");
    }
    let mut config = cluster.get(1, path)?["config"].clone();
    config["user.c"] = "d".into();
    let both = serde_json::json!({"restore": "s1", "config": config}).to_string();
    cluster.incus(1, &["query", "-X", "PUT", "-d", &both, path])?;
    assert_eq!((tree(&dir), volume(cluster, &["get", "one", "v", "user.c"])?.trim()), (before.clone(), "d"));
    volume(cluster, &["snapshot", "rename", "one", "v", "s1", "s2"])?;
    refused(cluster, &["snapshot", "rename", "one", "v", "s2", "snap0"], "already exists")?;
    assert_eq!(tree(&snapshot(cluster, 1, "one", "v", "s2")), before);
    let base = "/1.0/storage-pools/one/volumes/custom/v/snapshots";
    assert_eq!(names(&cluster.get(1, base)?), [format!("{base}/snap0"), format!("{base}/s2")]);
    let got = cluster.get(1, &format!("{base}/s2"))?;
    assert_eq!((got["name"].as_str(), got["config"]["user.a"].as_str()), (Some("s2"), Some("b")));
    assert!(got["expires_at"].as_str().unwrap() > got["created_at"].as_str().unwrap(), "{got}");
    let body = r#"{"description": "mine", "expires_at": "0001-01-01T00:00:00Z"}"#;
    cluster.incus(1, &["query", "-X", "PUT", "-d", body, &format!("{base}/s2")])?;
    let got = cluster.get(1, &format!("{base}/s2"))?;
    assert_eq!((got["description"].as_str(), got["expires_at"].as_str()), (Some("mine"), Some("0001-01-01T00:00:00Z")));
    let listed = volume(cluster, &["list", "one", "-f", "csv"])?;
    assert!(listed.contains("custom,v,") && listed.contains("custom (snapshot),v/s2,"), "{listed}");
    assert!(volume(cluster, &["snapshot", "list", "one", "v", "-f", "csv"])?.contains("snap0,"));
    let info = volume(cluster, &["info", "one", "v"])?;
    assert!(info.contains("Name: v") && info.contains("snap0"), "{info}");
    Ok(())
}

fn copies(cluster: &Cluster) -> Result<()> {
    let from = place(cluster, 1, "one", "v");
    fs::write(from.join("later"), "not in a snapshot")?;
    volume(cluster, &["copy", "one/v", "two/w"])?;
    assert_eq!(lies_in(cluster, 1, "two"), ["default_w", "default_w/s2", "default_w/snap0"]);
    assert_eq!(tree(&place(cluster, 1, "two", "w")), tree(&from));
    assert_eq!(tree(&snapshot(cluster, 1, "two", "w", "s2")), tree(&snapshot(cluster, 1, "one", "v", "s2")));
    let copied = cluster.get(1, "/1.0/storage-pools/two/volumes/custom/w/snapshots/s2")?;
    let original = cluster.get(1, "/1.0/storage-pools/one/volumes/custom/v/snapshots/s2")?;
    assert_eq!((&copied["created_at"], &copied["description"]), (&original["created_at"], &original["description"]));
    assert_eq!(volume(cluster, &["get", "two", "w", "user.a"])?.trim(), "b");
    refused(cluster, &["copy", "one/v", "two/w"], "already exists")?;
    refused(cluster, &["copy", "one/nope", "two/x"], "not found")?;
    volume(cluster, &["copy", "one/v/s2", "two/from-snapshot"])?;
    assert!(!place(cluster, 1, "two", "from-snapshot").join("later").exists());
    volume(cluster, &["copy", "one/v", "two/alone", "--volume-only"])?;
    assert_eq!(
        lies_in(cluster, 1, "two"),
        ["default_alone", "default_from-snapshot", "default_w", "default_w/s2", "default_w/snap0"]
    );
    let there = tree(&from);
    volume(cluster, &["move", "one/v", "two/moved"])?;
    assert!(lies_in(cluster, 1, "one").is_empty());
    assert_eq!(tree(&place(cluster, 1, "two", "moved")), there);
    refused(cluster, &["move", "two/moved", "two/w"], "already exists")?;
    volume(cluster, &["move", "two/moved", "one/v"])?;
    // To another project and back.
    let url = "/1.0/storage-pools/one/volumes/custom/v";
    let post = |url: &str, body: &str| cluster.incus(1, &["query", "-X", "POST", "--wait", "-d", body, url]);
    post(url, r#"{"name": "v", "project": "p1"}"#)?;
    assert_eq!(lies_in(cluster, 1, "one"), ["p1_v", "p1_v/s2", "p1_v/snap0"]);
    post(&format!("{url}?project=p1"), r#"{"name": "v", "project": "default"}"#)?;
    assert_eq!(lies_in(cluster, 1, "one"), ["default_v", "default_v/s2", "default_v/snap0"]);
    Ok(())
}

fn uses(cluster: &Cluster) -> Result<()> {
    volume(cluster, &["attach-profile", "one", "v", "default", "/data"])?;
    let used = cluster.get(1, "/1.0/storage-pools/one/volumes/custom/v")?["used_by"].clone();
    assert_eq!(used, serde_json::json!(["/1.0/profiles/default"]));
    for args in [&["delete", "one", "v"][..], &["rename", "one", "v", "x"], &["move", "one/v", "two/x"]] {
        refused(cluster, args, "The storage volume is still in use")?;
    }
    volume(cluster, &["detach-profile", "one", "v", "default"])?;
    volume(cluster, &["snapshot", "delete", "one", "v", "snap0"])?;
    assert_eq!(lies_in(cluster, 1, "one"), ["default_v", "default_v/s2"]);
    Ok(())
}

/// A crash between files and rows, at each side of the border.
fn interrupted(cluster: &mut Cluster) -> Result<()> {
    let note = |cluster: &Cluster, value: &str| {
        let sql = format!(
            "INSERT INTO storage_volumes_config (storage_volume_id, key, value)
             SELECT id, 'volatile.unfinished', '{value}' FROM storage_volumes WHERE name = 'v' AND type = 2"
        );
        cluster.incus_in(1, &["admin", "sql", "global", &sql], "")
    };
    let ours = Programs::built()?.incus;
    let client = std::mem::replace(&mut cluster.programs.incus, ours);
    let before = tree(&place(cluster, 1, "one", "v"));
    for (noted, done) in [("rename v2", false), ("rename v2", true), ("rename-snapshot s2 s3", false)] {
        note(cluster, noted)?.ok()?;
        cluster.kill(1)?;
        if done {
            fs::rename(place(cluster, 1, "one", "v"), place(cluster, 1, "one", "v2"))?;
        }
        // Files without a row, and snapshots without either.
        fs::create_dir_all(place(cluster, 1, "one", "ghost"))?;
        fs::create_dir_all(snapshot(cluster, 1, "one", "ghost2", "s"))?;
        fs::create_dir_all(snapshot(cluster, 1, "two", "w", "ghost"))?;
        fs::create_dir_all(pool_dir(cluster, 1, "one").join("containers/gone"))?;
        cluster.start(1)?;
        if noted.starts_with("rename ") {
            assert_eq!(lies_in(cluster, 1, "one"), ["default_v2", "default_v2/s2"], "{noted} {done}");
            volume(cluster, &["rename", "one", "v2", "v"])?;
        }
        assert!(!pool_dir(cluster, 1, "one").join("containers/gone").exists());
    }
    assert_eq!(lies_in(cluster, 1, "one"), ["default_v", "default_v/s3"]);
    assert_eq!(lies_in(cluster, 1, "two").len(), 5);
    assert_eq!(tree(&place(cluster, 1, "one", "v")), before);
    assert_eq!(names(&cluster.get(1, "/1.0/storage-pools/one/volumes/custom/v/snapshots?recursion=1")?), ["v/s3"]);
    let shown = cluster.get(1, "/1.0/storage-pools/one/volumes/custom/v")?;
    assert!(shown["config"]["volatile.unfinished"].is_null(), "{shown}");
    cluster.programs.incus = client;
    Ok(())
}

#[test]
fn volumes_go_from_member_to_member() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("between", 3)?;
    cluster.incus(1, &["storage", "create", "more", "dir"])?;
    for (client, programs) in Programs::clients()? {
        println!("with {client} client");
        cluster.programs = programs;
        travels(&cluster)?;
    }
    cluster.programs = Programs::built()?;
    killed(&mut cluster)
}

/// The member that has a volume, as server1 sees it.
fn location(cluster: &Cluster, pool: &str, name: &str) -> Result<String> {
    let found = cluster.get(1, &format!("/1.0/storage-pools/{pool}/volumes/custom/{name}"))?;
    Ok(found["location"].as_str().unwrap().to_owned())
}

fn travels(cluster: &Cluster) -> Result<()> {
    volume(cluster, &["create", "local", "v", "--target", "server2"])?;
    let home = place(cluster, 2, "local", "v");
    fill(&home, "first");
    volume(cluster, &["snapshot", "create", "local", "v", "s1"])?;
    fill(&home, "second");
    volume(cluster, &["set", "local", "v", "user.a=b"])?;
    assert_eq!(location(cluster, "local", "v")?, "server2");
    assert_eq!(cluster.incus(3, &["storage", "volume", "get", "local", "v", "user.a"])?.trim(), "b");
    assert!(volume(cluster, &["list", "local", "-f", "csv"])?.contains("server2"));
    let state = cluster.get(1, "/1.0/storage-pools/local/volumes/custom/v/state")?;
    assert!(state["usage"]["used"].as_u64().unwrap() > 4096, "{state}");

    // To another member, by name and with its snapshot; the source stays.
    volume(cluster, &["copy", "local/v", "local/w", "--destination-target", "server3"])?;
    assert_eq!(lies_in(cluster, 3, "local"), ["default_w", "default_w/s1"]);
    assert_eq!(tree(&place(cluster, 3, "local", "w")), tree(&home));
    assert_eq!(tree(&snapshot(cluster, 3, "local", "w", "s1")), tree(&snapshot(cluster, 2, "local", "v", "s1")));
    assert_eq!(location(cluster, "local", "w")?, "server3");

    // Onwards, to another pool and under another name.
    let (data, old) = (tree(&place(cluster, 3, "local", "w")), tree(&snapshot(cluster, 3, "local", "w", "s1")));
    volume(cluster, &["move", "local/w", "more/x", "--target", "server3", "--destination-target", "server1"])?;
    assert!(lies_in(cluster, 3, "local").is_empty());
    assert_eq!(tree(&place(cluster, 1, "more", "x")), data);
    assert_eq!(tree(&snapshot(cluster, 1, "more", "x", "s1")), old);
    assert_eq!(location(cluster, "more", "x")?, "server1");
    refused(
        cluster,
        &["move", "local/v", "more/x", "--target", "server2", "--destination-target", "server1"],
        "exists",
    )?;

    // Members may have volumes of the same name; then one has to say which.
    volume(cluster, &["create", "local", "v", "--target", "server1"])?;
    refused(cluster, &["show", "local", "v"], "More than one cluster member has a volume named \"v\"")?;
    refused(cluster, &["delete", "local", "v"], "More than one cluster member has a volume named \"v\"")?;
    assert!(volume(cluster, &["show", "local", "v", "--target", "server1"])?.contains("location: server1"));
    refused(cluster, &["delete", "local", "v", "--target", "server3"], "not found")?;
    volume(cluster, &["delete", "local", "v", "--target", "server1"])?;
    volume(cluster, &["delete", "more", "x"])?;
    volume(cluster, &["delete", "local", "v"])?;
    for number in 1..=3 {
        assert!(lies_in(cluster, number, "local").is_empty() && lies_in(cluster, number, "more").is_empty());
    }
    Ok(())
}

/// The daemon that gets a large volume is killed while it comes in; started again it has nothing of it, and doing it
/// again works.
fn killed(cluster: &mut Cluster) -> Result<()> {
    volume(cluster, &["create", "local", "large", "--target", "server2"])?;
    let home = place(cluster, 2, "local", "large");
    fill_much(&home, 40);
    volume(cluster, &["snapshot", "create", "local", "large", "s1"])?;
    fill_much(&home, 70);
    let data = tree(&home);
    let copy = r#"{"name":"copy","type":"custom","source":{"type":"copy","name":"large","pool":"local","location":"server2"}}"#;
    let moved = r#"{"name":"large","pool":"local","source":{"location":"server2"}}"#;
    for (path, body, name) in [("", copy, "copy"), ("/large", moved, "large")] {
        let url = format!("/1.0/storage-pools/local/volumes/custom{path}?target=server3");
        let socket = cluster.lab.machines[0].incus_dir().join("unix.socket");
        let ask = |cluster: &Cluster| {
            let socket = socket.to_string_lossy();
            let args = ["-s", "--unix-socket", &socket, "-X", "POST", "-d", body, &format!("http://incus{url}")];
            let said = cluster.lab.machines[0].must("curl", &args)?;
            let answer: Value = serde_json::from_str(&said)?;
            answer["operation"].as_str().filter(|o| !o.is_empty()).map(str::to_owned).ok_or(said.into())
        };
        let ask = |cluster: &Cluster| -> Result<String> { ask(cluster) };
        ask(cluster)?;
        // Half of the snapshot, and later half of the volume itself.
        let there = || {
            let dir = pool_dir(cluster, 3, "local").join("custom");
            let half = |d: PathBuf| fs::read_dir(d).map_or(0, |files| files.count());
            half(dir.join(format!(".unfinished-default_{name}"))) > 20
        };
        cluster.until("half a volume", || Ok(there().then_some(())))?;
        cluster.kill(3)?;
        assert!(lies_in(cluster, 3, "local").iter().any(|n| n.starts_with(".unfinished-")));
        assert_eq!(location(cluster, "local", "large")?, "server2");
        cluster.start(3)?;
        assert!(lies_in(cluster, 3, "local").is_empty(), "{name}: {:?}", lies_in(cluster, 3, "local"));
        assert!(tree(&home) == data, "the source is as it was");
        cluster.until("server3 back", || Ok((cluster.member(1, 3, 's')? == "ONLINE").then_some(())))?;

        let operation = cluster.until("asked again", || Ok(ask(cluster).ok()))?;
        let ended = cluster.get(1, &format!("{operation}/wait?timeout=60"))?;
        assert_eq!(ended["status"], "Success", "{ended}");
        assert!(tree(&place(cluster, 3, "local", name)) == data);
        assert_eq!(fs::read_dir(snapshot(cluster, 3, "local", name, "s1"))?.count(), 40);
        volume(cluster, &["delete", "local", name, "--target", "server3"])?;
    }
    assert!((1..=3).all(|n| lies_in(cluster, n, "local").is_empty()), "it has moved, and is deleted");

    // What a member that is away left behind is swept when it is back.
    volume(cluster, &["create", "local", "v", "--target", "server2"])?;
    cluster.kill(2)?;
    assert!(cluster.get(1, "/1.0/storage-pools/local/volumes/custom/v")?["location"] == "server2");
    fs::create_dir_all(place(cluster, 2, "local", "ghost"))?;
    cluster.start(2)?;
    cluster.until("swept", || Ok((lies_in(cluster, 2, "local") == ["default_v"]).then_some(())))
}
