//! A full disk: under a storage pool, and under the images.

use lab::{Cluster, Result};

use crate::refused;

#[test]
fn a_full_disk() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let cluster = Cluster::temporary("full", 1)?;
    cluster.import_busybox("busybox")?;
    let machine = &cluster.lab.machines[0];
    let (disk, place) = (machine.dir.join("disk.ext4"), machine.dir.join("small"));
    let (disk, at) = (disk.to_string_lossy().into_owned(), place.to_string_lossy().into_owned());
    std::fs::create_dir(&place)?;
    machine.must("truncate", &["-s", "24M", &disk])?;
    machine.must("mkfs.ext4", &["-q", "-m", "0", &disk])?;
    // What is mounted here the test does not see: it looks through the machine's eyes.
    machine.must("mount", &["-o", "loop", &disk, &at])?;
    let pool = format!("{at}/pool");
    machine.must("mkdir", &[&pool])?;
    cluster.incus(1, &["storage", "create", "small", "dir", &format!("source={pool}"), "--target", "server1"])?;
    cluster.incus(1, &["storage", "create", "small", "dir"])?;
    let volumes = || machine.must("sh", &["-c", "cd $0/containers && ls", &pool]);
    cluster.incus(1, &["launch", "busybox", "first", "-s", "small"])?;
    let ballast = format!("{at}/ballast");
    let fill = || machine.run("dd", &["if=/dev/zero", &format!("of={ballast}"), "bs=64k"], "").map(drop);
    fill()?;
    refused(&cluster, 1, &["launch", "busybox", "second", "-s", "small"], "The image doesn't fit")?;
    refused(&cluster, 1, &["copy", "first", "second"], "No space left")?;
    refused(&cluster, 1, &["snapshot", "create", "first", "s"], "No space left")?;
    let large = machine.dir.join("large");
    std::fs::write(&large, vec![1; 1 << 20])?;
    let large = large.to_string_lossy();
    refused(&cluster, 1, &["file", "push", &large, "first/root/large"], "No space left")?;
    assert_eq!(cluster.incus(1, &["list", "-f", "csv", "-c", "ns"])?.trim(), "first,RUNNING");
    assert_eq!(volumes()?.trim(), "first");
    // Stopping needs no space, and neither does deleting.
    cluster.incus(1, &["stop", "first"])?;
    machine.must("rm", &[&ballast])?;
    cluster.incus(1, &["launch", "busybox", "second", "-s", "small"])?;
    cluster.incus(1, &["snapshot", "create", "first", "s"])?;
    cluster.incus(1, &["storage", "volume", "create", "small", "v"])?;
    machine.must("sh", &["-c", "cd $0/custom/default_v && dd if=/dev/urandom of=large bs=64k count=16", &pool])?;
    cluster.incus(1, &["storage", "volume", "snapshot", "create", "small", "v", "s"])?;
    fill()?;
    // Putting a volume back and changing it, in one request: neither.
    let both = r#"{"restore": "s", "config": {"user.a": "b"}}"#;
    let path = "/1.0/storage-pools/small/volumes/custom/v";
    refused(&cluster, 1, &["query", "-X", "PUT", "-d", both, path], "No space left")?;
    assert_eq!(cluster.incus(1, &["storage", "volume", "get", "small", "v", "user.a"])?.trim(), "");
    cluster.incus(1, &["delete", "-f", "first", "second"])?;
    assert_eq!(volumes()?.trim(), "");

    // Images: the place where they come to lie is full.
    let images = machine.incus_dir().join("images").to_string_lossy().into_owned();
    let file = machine.dir.join("other.tar.gz").to_string_lossy().into_owned();
    let incusd = cluster.programs.incusd.to_string_lossy().into_owned();
    machine.must(&incusd, &["forkimage", "busybox", &file])?;
    cluster.incus(1, &["image", "delete", "busybox"])?;
    machine.must("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", &images])?;
    refused(&cluster, 1, &["image", "import", &file, "--alias", "other"], "doesn't fit")?;
    assert_eq!(machine.must("ls", &["-A", &images])?.trim(), "");
    assert_eq!(cluster.incus(1, &["image", "list", "-f", "csv"])?.trim(), "");
    machine.must("umount", &[&images])?;
    cluster.incus(1, &["image", "import", &file, "--alias", "other"])?;
    cluster.incus(1, &["launch", "other", "third"]).map(drop)
}
