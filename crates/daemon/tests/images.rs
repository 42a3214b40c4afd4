//! Images on a cluster of real daemons: each member serves each image, whoever has the files, and what is torn or
//! deleted leaves nothing.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use lab::{Cluster, Result};

/// The files that a member has of images.
fn files(cluster: &Cluster, number: usize) -> Vec<String> {
    let dir = cluster.lab.machines[number - 1].incus_dir().join("images");
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn image(cluster: &Cluster) -> Result<PathBuf> {
    let file = cluster.lab.machines[0].dir.join("busybox.tar.gz");
    let incusd = cluster.programs.incusd.to_string_lossy().into_owned();
    cluster.lab.machines[0].must(&incusd, &["forkimage", "busybox", &file.to_string_lossy()])?;
    Ok(file)
}

#[test]
fn every_member_serves_every_image() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("images", 3)?;
    let file = image(&cluster)?;
    let path = file.to_string_lossy().into_owned();
    cluster.incus(1, &["config", "set", "cluster.images_minimal_replica=1"])?;
    cluster.incus(1, &["image", "import", &path, "--alias", "busybox"])?;
    let fingerprint = cluster.get(2, "/1.0/images/aliases/busybox")?["target"].as_str().unwrap().to_owned();
    assert_eq!(files(&cluster, 1), [fingerprint.as_str()]);
    assert!(files(&cluster, 3).is_empty());

    // Asked for it, another member fetches it.
    let target = cluster.lab.machines[2].dir.join("exported");
    cluster.incus(3, &["image", "export", "busybox", &target.to_string_lossy()])?;
    assert_eq!(std::fs::read(target.with_extension("tar.gz"))?, std::fs::read(&file)?);
    assert_eq!(files(&cluster, 3), [fingerprint.as_str()]);
    let locations = cluster.get(2, &format!("/1.0/images/{fingerprint}"))?["locations"].clone();
    assert_eq!(locations, serde_json::json!(["server1", "server3"]));

    // The first one gone, the second one has it still, for the third.
    cluster.vote(2, &[1, 2, 3])?;
    cluster.kill(1)?;
    std::fs::remove_file(target.with_extension("tar.gz"))?;
    cluster.until("the image from the member that is left", || {
        let done = cluster.incus_in(2, &["image", "export", "busybox", &target.to_string_lossy()], "")?;
        Ok((done.code == 0).then_some(()))
    })?;
    assert_eq!(files(&cluster, 2), [fingerprint.as_str()]);

    // Deleted while it was away, its files go when it is back.
    cluster.until("deleted without the first one", || {
        let done = cluster.incus_in(2, &["image", "delete", "busybox"], "")?;
        Ok((done.code == 0).then_some(()))
    })?;
    assert!(files(&cluster, 2).is_empty() && files(&cluster, 3).is_empty());
    assert_eq!(files(&cluster, 1), [fingerprint.as_str()]);
    std::fs::write(cluster.lab.machines[0].incus_dir().join("images/.upload-torn"), "torn")?;
    cluster.start(1)?;
    cluster.until("no files of a deleted image", || Ok(files(&cluster, 1).is_empty().then_some(())))?;

    // New images are copied to as many as the configuration wants.
    cluster.incus(2, &["config", "set", "cluster.images_minimal_replica=-1"])?;
    cluster.incus(2, &["image", "import", &path, "--alias", "again"])?;
    cluster.until("a copy on each member", || Ok((1..=3).all(|n| files(&cluster, n).len() == 1).then_some(())))?;
    cluster.until("three locations", || {
        let image = cluster.get(1, &format!("/1.0/images/{fingerprint}"))?;
        Ok((image["locations"].as_array().is_some_and(|l| l.len() == 3)).then_some(()))
    })?;
    cluster.incus(3, &["image", "delete", "again"])?;
    cluster.until("no files left", || Ok((1..=3).all(|n| files(&cluster, n).is_empty()).then_some(())))?;
    Ok(())
}

#[test]
fn a_torn_upload_leaves_nothing() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("torn", 1)?;
    let file = std::fs::read(image(&cluster)?)?;
    for crash in [false, true] {
        let socket = cluster.lab.machines[0].incus_dir().join("unix.socket");
        let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
        let head = format!(
            "POST /1.0/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            file.len()
        );
        std::io::Write::write_all(&mut stream, head.as_bytes())?;
        std::io::Write::write_all(&mut stream, &file[..file.len() / 2])?;
        cluster.until("a file that is not whole", || Ok((files(&cluster, 1).len() == 1).then_some(())))?;
        if crash {
            cluster.kill(1)?;
            assert_eq!(files(&cluster, 1).len(), 1);
            cluster.start(1)?;
        }
        drop(stream);
        cluster.until("nothing left of it", || Ok(files(&cluster, 1).is_empty().then_some(())))?;
    }
    assert_eq!(cluster.incus(1, &["image", "list", "-f", "csv"])?.trim(), "");
    Ok(())
}
