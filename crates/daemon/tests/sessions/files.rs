//! Files pushed, pulled, listed and deleted, in an instance that runs and in one that does not.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use lab::{Cluster, Result};

pub fn rootfs(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.lab.machines[1].incus_dir().join("storage-pools/local/containers").join(name).join("rootfs")
}

pub fn come_and_go(cluster: &Cluster) -> Result<()> {
    let dir = cluster.lab.machines[0].dir.join("files");
    let text = |path: &str| dir.join(path).to_string_lossy().into_owned();
    for name in ["c1", "s1"] {
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("tree/sub"))?;
        let inside = |path: &str| format!("{name}/{path}");
        let incus = |args: &[&str]| cluster.incus(1, args);
        // Large, with owner and mode.
        let large: String = (0..400_000).map(|n| format!("{n:06}\n")).collect();
        std::fs::write(dir.join("large"), &large)?;
        incus(&["file", "push", &text("large"), &inside("tmp/"), "--uid", "1000", "--gid", "1001", "--mode", "0640"])?;
        let there = std::fs::metadata(rootfs(cluster, name).join("tmp/large"))?;
        assert_eq!((there.uid(), there.gid(), there.mode() & 0o7777), (1000, 1001, 0o640), "{name}");
        incus(&["file", "pull", &inside("tmp/large"), &text("back")])?;
        assert_eq!(std::fs::read_to_string(dir.join("back"))?, large);
        assert_eq!(std::fs::metadata(dir.join("back"))?.permissions().mode() & 0o7777, 0o640);
        // By pipes, and over one that is there: owner and mode stay.
        let done = cluster.incus_in(1, &["file", "push", "-", &inside("tmp/large"), "--mode", "0600"], "short")?;
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(incus(&["file", "pull", &inside("tmp/large"), "-"])?, "short");
        // Directories, trees and links.
        incus(&["file", "create", "--type", "directory", &inside("srv/a/b"), "-p", "--mode", "0750", "--uid", "7"])?;
        let there = std::fs::metadata(rootfs(cluster, name).join("srv/a/b"))?;
        assert_eq!((there.mode() & 0o7777, there.uid()), (0o750, 7));
        std::fs::write(dir.join("tree/sub/leaf"), "leaf")?;
        std::os::unix::fs::symlink("sub/leaf", dir.join("tree/link"))?;
        incus(&["file", "push", "-r", &text("tree"), &inside("srv/")])?;
        assert_eq!(std::fs::read_to_string(rootfs(cluster, name).join("srv/tree/sub/leaf"))?, "leaf");
        assert_eq!(std::fs::read_link(rootfs(cluster, name).join("srv/tree/link"))?, PathBuf::from("sub/leaf"));
        std::fs::create_dir_all(dir.join("got"))?;
        incus(&["file", "pull", "-r", &inside("srv/tree"), &text("got")])?;
        assert_eq!(std::fs::read_to_string(dir.join("got/tree/sub/leaf"))?, "leaf");
        assert_eq!(std::fs::read_link(dir.join("got/tree/link"))?, PathBuf::from("sub/leaf"));
        incus(&["file", "create", "--type", "symlink", &inside("srv/to"), "/tmp/large"])?;
        assert_eq!(std::fs::read_link(rootfs(cluster, name).join("srv/to"))?, PathBuf::from("/tmp/large"));
        incus(&["file", "delete", &inside("tmp/large")])?;
        assert!(!rootfs(cluster, name).join("tmp/large").exists());
        let said = cluster.refused(1, &["file", "pull", &inside("tmp/large"), "-"])?.to_lowercase();
        assert!(said.contains("not exist") || said.contains("not found"), "{said}");
        assert!(cluster.refused(1, &["file", "delete", &inside("srv/tree")]).is_ok());
    }
    Ok(())
}

/// An answer of the first member: its status, its headers in small letters, its body.
pub fn ask(cluster: &Cluster, method: &str, path: &str, more: &[&str]) -> Result<(u16, String, String)> {
    let socket = cluster.lab.machines[0].incus_dir().join("unix.socket").to_string_lossy().into_owned();
    let url = format!("http://incus{path}");
    let mut args = vec!["-s", "-i", "--max-time", "20", "--unix-socket", &socket, "-X", method];
    if method == "HEAD" {
        args.push("--head");
    }
    args.extend(more);
    args.push(&url);
    let said = cluster.lab.machines[0].must("curl", &args)?.replace("\r\n", "\n");
    let said = said.strip_prefix("HTTP/1.1 100 Continue\n\n").unwrap_or(&said);
    let (head, body) = said.split_once("\n\n").unwrap_or((said, ""));
    let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
    Ok((status, head.to_lowercase(), body.to_owned()))
}

pub fn are_refused(cluster: &Cluster) -> Result<()> {
    for name in ["c1", "s1"] {
        let at = |path: &str| format!("/1.0/instances/{name}/files?path={path}");
        let ask = |method: &str, path: &str, more: &[&str]| ask(cluster, method, &at(path), more);
        // As the API describes them.
        let (status, head, body) = ask("GET", "/etc/hostname", &[])?;
        assert_eq!(status, 200, "{head} {body}");
        for line in ["x-incus-uid: 0", "x-incus-gid: 0", "x-incus-mode: 0644", "x-incus-type: file"] {
            assert!(head.lines().any(|l| l == line), "{line}: {head}");
        }
        let (status, head, body) = ask("HEAD", "/etc/hostname", &[])?;
        assert!(status == 200 && head.contains("x-incus-type: file") && body.is_empty(), "{head} {body}");
        let (_, head, body) = ask("GET", "/usr", &[])?;
        assert!(head.contains("x-incus-type: directory"), "{head}");
        assert!(body.contains(r#""metadata":["bin","sbin","share"]"#), "{body}");
        let (_, head, body) = ask("GET", "/bin/sh", &[])?;
        assert!(head.contains("x-incus-type: symlink") && body.trim() == "/bin/busybox", "{head} {body}");
        for (data, write, whole) in [("one", "overwrite", "one"), ("two", "append", "onetwo"), ("3", "overwrite", "3")]
        {
            let write = format!("X-Incus-write: {write}");
            assert_eq!(ask("POST", "/tmp/f", &["-H", &write, "--data-binary", data])?.0, 200);
            assert_eq!(ask("GET", "/tmp/f", &[])?.2, whole);
        }
        let directory = ["-H", "X-Incus-type: directory"];
        assert_eq!((ask("POST", "/tmp/d", &directory)?.0, ask("POST", "/tmp/d", &directory)?.0), (200, 200));
        let link = ["-H", "X-Incus-type: symlink", "-d", "f"];
        assert_eq!((ask("POST", "/tmp/l", &link)?.0, ask("POST", "/tmp/l", &link)?.0), (200, 200));
        assert_eq!(ask("POST", "/tmp/d/x", &["-d", "x"])?.0, 200);
        // Bad input.
        for (method, path, more, want, said) in [
            ("GET", "", &[][..], 400, "Missing path argument"),
            ("GET", "/nope", &[], 404, "Not Found"),
            ("GET", "/etc/hostname/x", &[], 404, "Not Found"),
            ("DELETE", "/nope", &[], 404, "Not Found"),
            ("DELETE", "/", &[], 400, "can't be deleted"),
            ("DELETE", "/tmp/d", &[], 400, "Directory not empty"),
            ("POST", "/nope/x", &["-d", "x"], 404, "Not Found"),
            ("POST", "/tmp/f", &["-H", "X-Incus-write: sideways", "-d", "x"], 400, "Bad file write mode: sideways"),
            ("POST", "/tmp/f", &["-H", "X-Incus-type: dream", "-d", "x"], 400, "Bad file type: dream"),
            ("POST", "/tmp/f", &["-H", "X-Incus-uid: me", "-d", "x"], 400, "is no id"),
            ("POST", "/tmp/f", &["-H", "X-Incus-type: directory"], 400, "Not a directory"),
            ("POST", "/tmp/d", &["-d", "x"], 400, "Is a directory"),
        ] {
            let (status, _, body) = ask(method, path, more)?;
            assert!(status == want && body.contains(said), "{method} {path} {more:?}: {status} {body}");
        }
        assert_eq!(ask("DELETE", "/tmp/d", &["-H", "X-Incus-force: true"])?.0, 200);
        assert_eq!(ask("GET", "/tmp/d", &[])?.0, 404);
        hostile(cluster, name)?;
    }
    assert_eq!(ask(cluster, "GET", "/1.0/instances/no/files?path=/", &[])?.0, 404);
    Ok(())
}

/// Nothing in a root file system leads out of it, nothing in it is waited for.
fn hostile(cluster: &Cluster, name: &str) -> Result<()> {
    let secret = cluster.lab.machines[1].dir.join("secret");
    std::fs::write(&secret, "secret")?;
    let root = rootfs(cluster, name);
    let far = format!("{}{}", "../".repeat(30), secret.strip_prefix("/")?.display());
    for (link, to) in [("up", far.as_str()), ("absolute", &secret.to_string_lossy()), ("outside", "/proc/1/root/etc")] {
        let _ = std::fs::remove_file(root.join("tmp").join(link));
        std::os::unix::fs::symlink(to, root.join("tmp").join(link))?;
    }
    let _ = std::fs::remove_file(root.join("tmp/fifo"));
    let _ = std::fs::remove_file(root.join("tmp/null"));
    lab::run::must("mkfifo", &[root.join("tmp/fifo")])?;
    let null = root.join("tmp/null").to_string_lossy().into_owned();
    lab::run::must("mknod", &[null.as_str(), "c", "1", "3"])?;
    for (method, path, more, want) in [
        // A link itself is told, not followed; what is written through it lands inside or nowhere.
        ("GET", "/tmp/up", &[][..], 200),
        ("POST", "/tmp/up", &["-d", "x"], 404),
        ("POST", "/tmp/absolute", &["-d", "x"], 404),
        ("GET", "/tmp/fifo", &[], 400),
        ("POST", "/tmp/fifo", &["-d", "x"], 400),
        ("GET", "/tmp/null", &[], 400),
        ("POST", "/tmp/null", &["-d", "x"], 400),
        ("GET", "/../../../../etc/shadow/../hostname", &[], 404),
    ] {
        let (status, _, body) = ask(cluster, method, &format!("/1.0/instances/{name}/files?path={path}"), more)?;
        assert_eq!(status, want, "{name} {method} {path}: {body}");
        assert!(!body.contains("secret") || path == "/tmp/up", "{body}");
    }
    assert_eq!(std::fs::read_to_string(&secret)?, "secret");
    Ok(())
}
