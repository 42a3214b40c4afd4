//! Images that are made of instances, and images that come from web servers and other servers, on real daemons. With
//! our client and with Debian's.
#![allow(clippy::unwrap_used)]

mod web;

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use client::tls::Identity;
use lab::cluster::Programs;
use lab::{Cluster, Lab, Result};
use serde_json::{Value, json};
use web::{Page, Pages};

const TLS: &str = "https://10.77.0.1:8444";
/// A host that is reached by the proxy only.
const BEHIND: &str = "images.example";
const PLAIN: &str = "http://10.77.0.1:8080";

fn rootfs(cluster: &Cluster, number: usize, name: &str) -> PathBuf {
    cluster.lab.machines[number - 1].incus_dir().join("storage-pools/local/containers").join(name).join("rootfs")
}

/// The files that a member has of images.
fn files(cluster: &Cluster, number: usize) -> Vec<PathBuf> {
    let dir = cluster.lab.machines[number - 1].incus_dir().join("images");
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect()
}

fn image(cluster: &Cluster, alias: &str) -> Result<Value> {
    let target = cluster.get(1, &format!("/1.0/images/aliases/{alias}"))?["target"].as_str().unwrap().to_owned();
    cluster.get(1, &format!("/1.0/images/{target}"))
}

fn fingerprint(image: &Value) -> String {
    image["fingerprint"].as_str().unwrap().to_owned()
}

/// What a member has of an image: its files, one or two.
fn bytes(cluster: &Cluster, number: usize, fingerprint: &str) -> Vec<Vec<u8>> {
    let dir = cluster.lab.machines[number - 1].incus_dir().join("images");
    let names = [fingerprint.to_owned(), format!("{fingerprint}.rootfs")];
    names.iter().filter_map(|name| std::fs::read(dir.join(name)).ok()).collect()
}

/// Asks the API for a new image and waits for it.
fn post(cluster: &Cluster, number: usize, path: &str, body: &Value) -> Result<String> {
    cluster.incus(number, &["query", "-X", "POST", "--wait", "-d", &body.to_string(), path])
}

/// A cluster of two, a server for itself, and a web server on the first machine that all trust.
fn rack(name: &str, programs: Programs) -> Result<(Cluster, Pages)> {
    let lab = Lab::temporary(name, 3)?;
    let identity = Identity::generate("web", &["10.77.0.1".to_owned(), BEHIND.to_owned()])?;
    let authority = lab.dir.join("authority.pem");
    std::fs::write(&authority, &identity.certificate)?;
    let env = [("SSL_CERT_FILE", authority.to_str().unwrap())];
    let cluster = Cluster::daemons_in(lab, programs, &env)?;
    let pages = web::serve(&cluster.lab.machines[0], &identity)?;
    cluster.bootstrap()?;
    cluster.join(2)?;
    let alone = "config:\n  core.https_address: 10.77.0.3:8443\nstorage_pools:\n- name: local\n  driver: dir\n\
                 profiles:\n- name: default\n  devices:\n    root:\n      path: /\n      pool: local\n      type: disk\n";
    cluster.incus_in(3, &["admin", "init", "--preseed"], alone)?.ok()?;
    cluster.import_busybox("busybox")?;
    Ok((cluster, pages))
}

#[test]
fn images_are_published_and_come_from_elsewhere() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let ours = Programs::built()?;
    let mut clients = vec![("ours", ours.clone())];
    clients.extend(ours.with_stock_client().map(|stock| ("stock", stock)));
    for (client, programs) in clients {
        println!("with the client that is {client}");
        let (cluster, pages) = rack(&format!("publish-{client}"), programs)?;
        stopped(&cluster)?;
        running(&cluster)?;
        snapshots(&cluster)?;
        refusals(&cluster)?;
        from_urls(&cluster, &pages)?;
        by_proxy(&cluster, &pages)?;
        from_streams(&cluster, &pages)?;
        from_another_server(&cluster)?;
        for number in 1..=3 {
            let torn = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().starts_with('.');
            assert!(!files(&cluster, number).iter().any(torn), "{:?}", files(&cluster, number));
        }
    }
    Ok(())
}

fn stopped(cluster: &Cluster) -> Result<()> {
    cluster.incus(1, &["init", "busybox", "c1", "--target", "server2"])?;
    let root = rootfs(cluster, 2, "c1");
    std::fs::write(root.join("data"), "written before")?;
    std::os::unix::fs::chown(root.join("data"), Some(1000), Some(1001))?;
    // Asked of a member that doesn't have the instance.
    cluster.incus(1, &["publish", "c1", "--alias", "stopped", "--public", "os=Busy", "release=one"])?;
    let image = image(cluster, "stopped")?;
    assert_eq!(image["properties"], json!({"os": "Busy", "release": "one"}));
    assert_eq!((&image["public"], &image["architecture"]), (&json!(true), &json!(std::env::consts::ARCH)));
    assert_eq!(image["locations"][0], "server2", "{image}");
    cluster.until("a copy on the other member", || {
        Ok((!bytes(cluster, 1, &fingerprint(&image)).is_empty()).then_some(()))
    })?;
    cluster.incus(2, &["launch", "stopped", "n1", "--target", "server1"])?;
    let data = rootfs(cluster, 1, "n1").join("data");
    assert_eq!(std::fs::read_to_string(&data)?, "written before");
    assert_eq!((data.metadata()?.uid(), data.metadata()?.gid()), (1000, 1001));
    assert_eq!(cluster.get(1, "/1.0/instances/n1")?["config"]["image.os"], "Busy");
    cluster.incus(1, &["delete", "n1", "--force"]).map(drop)
}

fn running(cluster: &Cluster) -> Result<()> {
    cluster.incus(1, &["start", "c1"])?;
    let said = cluster.refused(1, &["publish", "c1", "--alias", "no"])?;
    assert!(said.contains("--force"), "{said}");
    let body = json!({"source": {"type": "instance", "name": "c1"}});
    let said = cluster.refused(1, &["query", "-X", "POST", "--wait", "-d", &body.to_string(), "/1.0/images"])?;
    assert!(said.contains("running instance"), "{said}");
    cluster.incus(1, &["publish", "c1", "--alias", "forced", "--force"])?;
    assert_eq!(cluster.get(1, "/1.0/instances/c1")?["status"], "Running", "it runs again");
    // Without properties it has those of the image that the instance was made from.
    let of = |alias| Ok::<_, lab::run::Error>(image(cluster, alias)?["properties"].clone());
    assert_eq!(of("forced")?, of("busybox")?);
    Ok(())
}

fn snapshots(cluster: &Cluster) -> Result<()> {
    // Other than what was published before, within the same second perhaps.
    std::fs::write(rootfs(cluster, 2, "c1").join("snapped"), "s1")?;
    cluster.incus(1, &["snapshot", "create", "c1", "s1"])?;
    std::fs::write(rootfs(cluster, 2, "c1").join("data"), "written later")?;
    for (algorithm, magic) in [
        ("none", &b"metadata.yaml"[..]),
        ("gzip", &[0x1f, 0x8b]),
        ("bzip2", b"BZh"),
        ("xz", b"\xfd7zXZ"),
        ("lzma", &[0x5d, 0, 0]),
        ("zstd", &[0x28, 0xb5, 0x2f, 0xfd]),
        ("lz4", &[4, 0x22, 0x4d, 0x18]),
    ] {
        cluster.incus(1, &["publish", "c1/s1", "--alias", algorithm, "--compression", algorithm])?;
        let fingerprint = fingerprint(&image(cluster, algorithm)?);
        assert!(bytes(cluster, 2, &fingerprint)[0].starts_with(magic), "{algorithm}");
    }
    cluster.incus(1, &["config", "set", "images.compression_algorithm=bzip2"])?;
    let expires = "2099-01-02T03:04:05Z";
    let body = json!({"source": {"type": "snapshot", "name": "c1/s1"}, "format": "split", "expires_at": expires,
        "properties": {"os": "Split"}, "aliases": [{"name": "split"}]});
    post(cluster, 1, "/1.0/images", &body)?;
    let split = image(cluster, "split")?;
    assert_eq!(split["expires_at"], expires);
    let both = bytes(cluster, 2, &fingerprint(&split));
    assert!(both.len() == 2 && both.iter().all(|f| f.starts_with(b"BZh")));
    for from in ["lz4", "split"] {
        cluster.incus(1, &["init", from, "n2", "--target", "server1"])?;
        assert_eq!(std::fs::read_to_string(rootfs(cluster, 1, "n2").join("data"))?, "written before");
        cluster.incus(1, &["delete", "n2"])?;
    }
    let target = cluster.lab.machines[0].dir.join("exported");
    cluster.incus(1, &["image", "export", "xz", &target.to_string_lossy()])?;
    let exported = std::fs::read(target.with_extension("tar.xz"))?;
    assert_eq!(exported, bytes(cluster, 2, &fingerprint(&image(cluster, "xz")?))[0]);
    Ok(())
}

fn refusals(cluster: &Cluster) -> Result<()> {
    for (args, why) in [
        (&["publish", "nothere"][..], "not found"),
        (&["publish", "c1/nothere"], "not found"),
        (&["publish", "c1/s1", "--compression", "pigeon"], "pigeon"),
        (&["publish", "c1/s1", "--alias", "stopped"], "already exists"),
        (&["image", "import", "https://10.77.0.1:1/x"], "refused"),
        (&["image", "import", "https://10.77.0.1:8443/1.0"], "ertificate"),
    ] {
        let said = cluster.refused(1, args)?;
        assert!(said.contains(why), "{args:?}: {said}");
    }
    for (source, why) in [
        (json!({"type": "instance"}), "missing"),
        (json!({"type": "snapshot", "name": "c1"}), "not a snapshot"),
        (json!({"type": "url"}), "Missing URL"),
        (json!({"type": "url", "url": "/etc/passwd"}), "no URL"),
        (json!({"type": "image", "server": "http://x", "alias": "a"}), "https://"),
        (json!({"type": "image", "server": "https://10.77.0.1:1", "alias": "a", "protocol": "fax"}), "fax"),
        (json!({"type": "image", "server": "https://10.77.0.1:1", "alias": "a", "mode": "push"}), "push"),
        (json!({"type": "pigeon"}), "pigeon"),
    ] {
        let body = json!({"source": source}).to_string();
        let said = cluster.refused(1, &["query", "-X", "POST", "--wait", "-d", &body, "/1.0/images"])?;
        assert!(said.contains(why), "{body}: {said}");
    }
    Ok(())
}

fn page(headers: &[(&str, &str)], body: &[u8]) -> Page {
    let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Page { headers, body: body.to_vec(), missing: 0 }
}

fn from_urls(cluster: &Cluster, pages: &Pages) -> Result<()> {
    let forced = fingerprint(&image(cluster, "forced")?);
    let file = bytes(cluster, 2, &forced)[0].clone();
    cluster.incus(1, &["image", "delete", "forced"])?;
    let at = format!("{TLS}/file.tar.gz");
    let garbage = "0c15b7ed0eb4ad2d5f2bd4ad5e9d5f4b18ad4ed0a6ee0b67f75dbe1a1d9ce2c4";
    for (path, page) in [
        ("/image", page(&[("Incus-Image-Hash", &forced), ("Incus-Image-URL", &at)], b"")),
        ("/again", page(&[("Location", "/image")], b"")),
        ("/loop", page(&[("Location", "/loop")], b"")),
        ("/unsafe", page(&[("Location", &format!("{PLAIN}/image"))], b"")),
        ("/plain", page(&[], b"hello")),
        ("/wrong", page(&[("Incus-Image-Hash", garbage), ("Incus-Image-URL", &at)], b"")),
        ("/hello", page(&[("Incus-Image-Hash", HELLO), ("Incus-Image-URL", &format!("{TLS}/plain"))], b"")),
        ("/slow", page(&[("Incus-Image-Hash", garbage), ("Incus-Image-URL", &format!("{TLS}/never"))], b"")),
        ("/never", Page { missing: 1000, ..page(&[], b"some") }),
        ("/file.tar.gz", page(&[], &file)),
    ] {
        pages.lock().unwrap().insert(path.into(), page);
    }
    for (path, why) in [
        ("/nothere", "404"),
        ("/loop", "without end"),
        ("/unsafe", "not safe"),
        ("/plain", "Incus-Image-Hash"),
        ("/wrong", "damaged"),
        ("/hello", "Not an image"),
    ] {
        let said = cluster.refused(1, &["image", "import", &format!("{TLS}{path}")])?;
        assert!(said.contains(why), "{path}: {said}");
    }
    cluster.incus(1, &["image", "import", &format!("{TLS}/image"), "--alias", "fromweb", "os=Web"])?;
    let got = image(cluster, "fromweb")?;
    assert_eq!((fingerprint(&got), &got["filename"]), (forced.clone(), &json!("file.tar.gz")));
    assert_eq!(got["properties"]["os"], "Web");
    cluster.incus(1, &["image", "delete", "fromweb"])?;
    post(cluster, 1, "/1.0/images", &json!({"source": {"type": "url", "url": format!("{PLAIN}/again")}}))?;
    cluster.incus(1, &["image", "delete", &forced])?;
    // One that never comes is cancelled, and leaves nothing.
    let body = json!({"source": {"type": "url", "url": format!("{TLS}/slow")}}).to_string();
    cluster.incus(1, &["query", "-X", "POST", "-d", &body, "/1.0/images"])?;
    let torn = || files(cluster, 1).into_iter().any(|p| p.file_name().unwrap().to_string_lossy().starts_with('.'));
    cluster.until("a file that is not whole", || Ok(torn().then_some(())))?;
    let running = cluster.get(1, "/1.0/operations?recursion=1")?["running"].clone();
    let slow = running.as_array().unwrap().iter().find(|o| o["may_cancel"] == true).unwrap();
    cluster.incus(1, &["query", "-X", "DELETE", &format!("/1.0/operations/{}", slow["id"].as_str().unwrap())])?;
    cluster.until("nothing left of it", || Ok((!torn()).then_some(())))
}

/// The same by a proxy: what is not secret is asked of it, and through it goes what is.
fn by_proxy(cluster: &Cluster, pages: &Pages) -> Result<()> {
    let at = pages.lock().unwrap()["/image"].headers[1].1.replace("10.77.0.1:8444", BEHIND);
    let hash = pages.lock().unwrap()["/image"].headers[0].1.clone();
    let described = page(&[("Incus-Image-Hash", &hash), ("Incus-Image-URL", &at)], b"");
    pages.lock().unwrap().insert("/behind".into(), described);
    let source = json!({"source": {"type": "url", "url": format!("http://{BEHIND}/behind")}});
    let said = cluster.incus_in(2, &["query", "-X", "POST", "--wait", "-d", &source.to_string(), "/1.0/images"], "")?;
    assert!(said.refused()?.contains(BEHIND), "nothing is known of the host");
    let asked = web::proxy(&cluster.lab.machines[0])?;
    let proxy = "http://10.77.0.1:3128";
    for key in ["core.proxy_http", "core.proxy_https"] {
        cluster.incus(1, &["config", "set", &format!("{key}={proxy}")])?;
    }
    post(cluster, 2, "/1.0/images", &source)?;
    let head = format!("HEAD http://{BEHIND}/behind HTTP/1.1");
    assert_eq!(*asked.lock().unwrap(), [head, format!("CONNECT {BEHIND}:443 HTTP/1.1")]);
    cluster.incus(1, &["image", "delete", &hash])?;
    cluster.incus(1, &["config", "set", &format!("core.proxy_ignore_hosts={BEHIND}")])?;
    let said = cluster.incus_in(2, &["query", "-X", "POST", "--wait", "-d", &source.to_string(), "/1.0/images"], "")?;
    assert!(said.refused()?.contains(BEHIND), "it is reached directly, and can't be");
    assert_eq!(asked.lock().unwrap().len(), 2);
    for key in ["core.proxy_http", "core.proxy_https", "core.proxy_ignore_hosts"] {
        cluster.incus(1, &["config", "unset", key])?;
    }
    Ok(())
}

/// SHA-256 of `hello`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn from_streams(cluster: &Cluster, pages: &Pages) -> Result<()> {
    let split = fingerprint(&image(cluster, "split")?);
    let both = bytes(cluster, 2, &split);
    cluster.incus(1, &["image", "delete", "split"])?;
    let arch = if std::env::consts::ARCH == "x86_64" { "amd64" } else { std::env::consts::ARCH };
    let index = json!({"format": "index:1.0", "index": {"images": {"datatype": "image-downloads",
        "path": "streams/v1/images.json", "products": ["busy:1"]}}});
    let products = json!({"format": "products:1.0", "products": {"busy:1": {"aliases": "busy/1,busy", "arch": arch,
    "os": "Busy", "release": "1", "versions": {"20240101": {"items": {
        "m": {"ftype": "incus.tar.xz", "path": "m", "size": both[0].len(), "combined_rootxz_sha256": split},
        "r": {"ftype": "root.tar.xz", "path": "r", "size": both[1].len()},
    }}}}}});
    for (path, body) in [
        ("/streams/v1/index.json", index.to_string().as_bytes()),
        ("/streams/v1/images.json", products.to_string().as_bytes()),
        ("/m", &both[0]),
        ("/r", &both[1]),
    ] {
        pages.lock().unwrap().insert(path.into(), page(&[], body));
    }
    let source = |alias: &str| json!({"type": "image", "server": TLS, "protocol": "simplestreams", "alias": alias});
    post(cluster, 1, "/1.0/instances?target=server2", &json!({"name": "n3", "source": source("busy/1")}))?;
    assert_eq!(std::fs::read_to_string(rootfs(cluster, 2, "n3").join("data"))?, "written before");
    let image = cluster.get(1, &format!("/1.0/images/{split}"))?;
    assert_eq!((&image["cached"], &image["update_source"]["alias"]), (&json!(true), &json!("busy/1")));
    assert_eq!(image["properties"]["description"], format!("Busy 1 {arch} (20240101)"));
    let body = json!({"name": "n4", "source": source("lazy")}).to_string();
    let said = cluster.refused(1, &["query", "-X", "POST", "--wait", "-d", &body, "/1.0/instances"])?;
    assert!(said.contains("no image \"lazy\""), "{said}");
    cluster.incus(1, &["delete", "n3"])?;
    // What came along with an instance and is not used for long is forgotten.
    let sql =
        format!("UPDATE images SET last_use_date = '2001-01-01T00:00:00.000000000Z' WHERE fingerprint = '{split}'");
    cluster.incus(1, &["admin", "sql", "global", &sql])?;
    let there = || cluster.incus(1, &["image", "list", "-f", "csv", "-c", "F"]).map(|list| list.contains(&split));
    cluster.until("the image is forgotten", || Ok((!there()?).then_some(())))?;
    cluster.until("its files too", || {
        Ok((!files(cluster, 1).into_iter().any(|p| p.to_string_lossy().contains(&split))).then_some(()))
    })
}

/// What the other server has under the same name by now takes the place of the copy, with its names.
fn renewed(cluster: &Cluster) -> Result<()> {
    let target = |name: &str| -> Result<String> {
        Ok(cluster.get(3, &format!("/1.0/images/aliases/{name}"))?["target"].as_str().unwrap().to_owned())
    };
    let (first, file) = (target("theirs")?, cluster.lab.machines[2].dir.join("busybox.tar.gz"));
    cluster.incus(3, &["query", "-X", "PATCH", "-d", "{\"public\": true}", &format!("/1.0/images/{first}")])?;
    cluster.incus(3, &["image", "alias", "create", "followed", &first])?;
    let certificate = cluster.get(3, "/1.0")?["environment"]["certificate"].clone();
    let source = json!({"type": "image", "server": "https://10.77.0.3:8443", "certificate": certificate,
        "alias": "followed"});
    let body = json!({"source": source, "auto_update": true, "aliases": [{"name": "followed"}]});
    post(cluster, 1, "/1.0/images", &body)?;
    assert!(cluster.incus(1, &["image", "refresh", "followed"])?.contains("Image already up to date."));

    let incusd = cluster.programs.incusd.to_string_lossy().into_owned();
    cluster.lab.machines[2].must(&incusd, &["forkimage", "busybox", &file.to_string_lossy()])?;
    cluster.incus(3, &["image", "alias", "delete", "followed"])?;
    cluster.incus(3, &["image", "import", &file.to_string_lossy(), "--public", "--alias", "followed"])?;
    assert!(cluster.incus(2, &["image", "refresh", "followed"])?.contains("Image refreshed successfully!"));
    let now = image(cluster, "followed")?;
    assert_eq!((fingerprint(&now), &now["auto_update"]), (target("followed")?, &json!(true)));
    assert_eq!(now["update_source"]["alias"], "followed");
    assert!(cluster.get(1, &format!("/1.0/images/{first}")).is_err(), "the old one is gone");
    cluster.incus(1, &["image", "delete", "followed"]).map(drop)
}

fn from_another_server(cluster: &Cluster) -> Result<()> {
    // Its own image, that only it has.
    let file = cluster.lab.machines[0].dir.join("exported.tar.xz");
    cluster.incus(1, &["image", "delete", "xz"])?;
    cluster.incus(3, &["image", "import", &file.to_string_lossy(), "--alias", "theirs"])?;
    let token = cluster.incus(3, &["config", "trust", "add", "friend"])?;
    cluster.incus(1, &["remote", "add", "other", token.lines().last().unwrap_or_default().trim()])?;
    cluster.incus(1, &["init", "other:theirs", "n5", "--target", "server2"])?;
    assert_eq!(std::fs::read_to_string(rootfs(cluster, 2, "n5").join("data"))?, "written before");
    let print = cluster.get(1, "/1.0/instances/n5")?["config"]["volatile.base_image"].as_str().unwrap().to_owned();
    assert_eq!(cluster.get(1, &format!("/1.0/images/{print}"))?["cached"], true);
    // A copy that is wanted stays.
    cluster.incus(1, &["image", "copy", "other:theirs", "local:", "--alias", "mine"])?;
    assert_eq!((fingerprint(&image(cluster, "mine")?), &image(cluster, "mine")?["cached"]), (print, &json!(false)));
    cluster.incus(1, &["image", "delete", "mine"])?;
    cluster.incus(1, &["image", "copy", "other:theirs", "local:", "--copy-aliases"])?;
    assert_eq!(image(cluster, "theirs")?["cached"], false);
    // Without a secret nobody gets what is not public.
    let certificate = cluster.get(3, "/1.0")?["environment"]["certificate"].clone();
    let body = json!({"source": {"type": "image", "server": "https://10.77.0.3:8443", "certificate": certificate,
        "alias": "theirs"}})
    .to_string();
    let said = cluster.refused(1, &["query", "-X", "POST", "--wait", "-d", &body, "/1.0/images"])?;
    assert!(said.contains("404"), "{said}");
    cluster.incus(1, &["delete", "n5"])?;
    cluster.incus(1, &["image", "delete", "theirs"])?;
    renewed(cluster)
}
