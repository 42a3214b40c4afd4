//! A disk that has damaged the database of a member.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use lab::cluster::PATIENCE;
use lab::{Cluster, Result};

use crate::names;

/// What lies at the beginning of the file is not what was written there, and what was written after it is lost.
fn spoil(replica: &Path) -> Result<()> {
    let _ = fs::remove_file(replica.with_extension("bin-wal"));
    let file = fs::File::options().write(true).open(replica)?;
    Ok(file.write_all_at(&[0x5a; 8192], 0)?)
}

#[test]
fn a_database_that_can_not_be_read_is_replaced_by_a_copy() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("damaged", 3)?;
    cluster.vote(1, &[1, 2, 3])?;
    cluster.import_busybox("busybox")?;
    cluster.incus(1, &["launch", "busybox", "c3", "--target", "server3"])?;
    let database = cluster.lab.machines[2].incus_dir().join("database/global");
    let replica = database.join("db.bin");

    // With nobody to ask it says so, and leaves everything as it is.
    for number in 1..=3 {
        cluster.machine(number).end_daemon("TERM", PATIENCE)?;
    }
    spoil(&replica)?;
    let of_replica = || names(&database).into_iter().filter(|name| name.starts_with("db.")).collect::<Vec<_>>();
    let before = (fs::read(&replica)?, of_replica());
    let refused = cluster.start(3).err().map(|e| e.to_string()).unwrap_or_default();
    for part in ["The database of this member is damaged", "member 1: ", "member 2: ", "tried again at the next start"]
    {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert!(fs::read(&replica)? == before.0, "the damaged file has changed");
    assert_eq!(of_replica(), before.1);

    cluster.start(1)?;
    cluster.start(2)?;
    cluster.incus(1, &["profile", "create", "meanwhile"])?;
    cluster.start(3)?;
    whole(&cluster, "meanwhile")?;
    assert_eq!(fs::read(database.join("db.bin.damaged"))?[..8192], [0x5a; 8192]);

    // A file that is not there is one that lacks everything.
    cluster.machine(3).end_daemon("TERM", PATIENCE)?;
    for name in of_replica() {
        fs::remove_file(database.join(name))?;
    }
    cluster.incus(2, &["profile", "create", "later"])?;
    cluster.start(3)?;
    whole(&cluster, "later")
}

/// The third member has everything, does its part, and its container has never stopped.
fn whole(cluster: &Cluster, profile: &str) -> Result<()> {
    cluster.incus(3, &["profile", "show", profile])?;
    cluster.incus(3, &["profile", "set", profile, "user.seen=yes"])?;
    assert_eq!(cluster.incus(1, &["profile", "get", profile, "user.seen"])?.trim(), "yes");
    cluster.vote(1, &[1, 2, 3])?;
    cluster.until("its container", || {
        let list = cluster.incus(1, &["list", "-f", "csv", "-c", "ns"])?;
        Ok((list.trim() == "c3,RUNNING").then_some(()))
    })
}
