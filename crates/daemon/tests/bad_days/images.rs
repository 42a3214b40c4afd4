//! Files that are no images, and images that reach for what is not theirs.

use std::path::PathBuf;

use lab::{Cluster, Result};

use crate::{names, refused};

/// A tarball with a good `metadata.yaml` and what else `script` makes in the folder or appends to `$1`.
fn tarball(cluster: &Cluster, name: &str, script: &str) -> Result<String> {
    let machine = &cluster.lab.machines[0];
    let dir = machine.dir.join(format!("{name}.d"));
    std::fs::create_dir_all(dir.join("rootfs/sbin"))?;
    std::fs::write(dir.join("metadata.yaml"), format!("architecture: {}\ncreation_date: 1\n", std::env::consts::ARCH))?;
    std::fs::copy("/bin/busybox", dir.join("rootfs/sbin/init"))?;
    let file = machine.dir.join(format!("{name}.tar")).to_string_lossy().into_owned();
    let script = format!("set -e; cd \"$0\"; {script}");
    machine.must("sh", &["-c", &script, &dir.to_string_lossy(), &file])?;
    Ok(file)
}

#[test]
fn files_that_are_no_images() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let cluster = Cluster::temporary("noimage", 1)?;
    let machine = &cluster.lab.machines[0];
    let write = |name: &str, content: &[u8]| -> Result<PathBuf> {
        let path = machine.dir.join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    };
    for (path, why) in [
        (write("text", b"this is no image\n")?, "neither a tarball"),
        (write("empty", b"")?, "empty"),
        (write("torn.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2])?, "Not an image"),
    ] {
        refused(&cluster, 1, &["image", "import", &path.to_string_lossy()], why)?;
    }
    let bare = tarball(&cluster, "bare", "rm metadata.yaml; tar -cf \"$1\" rootfs")?;
    refused(&cluster, 1, &["image", "import", &bare], "metadata.yaml")?;
    assert_eq!(cluster.incus(1, &["image", "list", "-f", "csv"])?.trim(), "");
    assert!(names(&machine.incus_dir().join("images")).is_empty());

    // Those that look like one at first: nothing is written outside of the volume, and no devices come to be.
    let outside = machine.dir.join("outside");
    std::fs::create_dir(&outside)?;
    std::fs::write(outside.join("kept"), "as it was")?;
    let out = outside.display();
    for (name, script) in [
        (
            "dots",
            "tar -cf \"$1\" *; echo x > x; tar -rPf \"$1\" --transform 's#^x$#rootfs/../../../escaped#' x".to_owned(),
        ),
        ("absolute", format!("tar -cf \"$1\" *; echo x > x; tar -rPf \"$1\" --transform 's#^x$#{out}/escaped#' x")),
        (
            "link",
            format!(
                "ln -s {out} rootfs/way; tar -cf \"$1\" metadata.yaml rootfs; echo x > x; \
                 tar -rPf \"$1\" --transform 's#^x$#rootfs/way/escaped#' x"
            ),
        ),
        (
            "hard",
            format!(
                "mkdir -p rootfs/a; ln {out}/kept rootfs/a/first; ln rootfs/a/first rootfs/a/second; \
                 tar -cPf \"$1\" --transform 's#^rootfs/a/first$#{out}/kept#' metadata.yaml rootfs"
            ),
        ),
        ("device", "mknod rootfs/disk b 7 0; tar -cf \"$1\" metadata.yaml rootfs".to_owned()),
    ] {
        let file = tarball(&cluster, name, &script)?;
        let imported = cluster.incus_in(1, &["image", "import", &file, "--alias", name], "")?;
        if imported.code == 0 {
            let made = cluster.incus_in(1, &["init", name, name], "")?;
            println!("{name}: imported, then {made:?}");
        } else {
            println!("{name}: {}", imported.err.trim());
            assert!(imported.err.contains("Not an image") || imported.err.contains("escape"), "{imported:?}");
        }
        let root = machine.incus_dir().join("storage-pools/local/containers").join(name).join("rootfs");
        assert!(!root.join("disk").exists(), "{name}: a device");
        assert_eq!(names(&outside), ["kept"], "{name}");
        assert_eq!(std::fs::read_to_string(outside.join("kept"))?, "as it was", "{name}");
        let escaped = lab::must("find", &[machine.dir.as_os_str(), "-name".as_ref(), "escaped".as_ref()])?;
        let inside = format!("{}/", root.display());
        assert!(escaped.lines().all(|path| path.starts_with(&inside)), "{name}: {escaped}");
    }
    Ok(())
}
