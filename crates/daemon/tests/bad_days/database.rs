//! A full disk under the database: what would write is refused, what reads is answered, and nothing is lost.

use std::time::Duration;

use lab::{Cluster, Result};

use crate::refused;

#[test]
fn a_full_disk_under_the_database() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("dbfull", 1)?;
    cluster.incus(1, &["profile", "create", "before"])?;
    cluster.machine(1).end_daemon("TERM", Duration::from_secs(20))?;
    let machine = &cluster.lab.machines[0];
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let (database, kept) = (text(machine.incus_dir().join("database")), text(machine.dir.join("kept")));
    let ballast = format!("{database}/ballast");
    machine.must("cp", &["-a", &database, &kept])?;
    machine.must("mount", &["-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", &database])?;
    machine.must("cp", &["-a", &format!("{kept}/."), &database])?;
    cluster.start(1)?;
    cluster.incus(1, &["profile", "create", "small"])?;

    let machine = &cluster.lab.machines[0];
    machine.run("dd", &["if=/dev/zero", &format!("of={ballast}"), "bs=4k"], "")?;
    // The files of the database may have some room left inside of them: it is used up first.
    let large = format!("config:\n  user.large: {}\n", "x".repeat(100_000));
    let mut made = 0;
    let said = loop {
        let done = cluster.incus_in(1, &["profile", "create", &format!("p{made}")], &large)?;
        if done.code != 0 {
            break done.err;
        }
        made += 1;
        assert!(made < 100, "the disk isn't full");
    };
    assert!(said.contains("No space left for the database"), "{said}");
    refused(&cluster, 1, &["profile", "create", "x"], "No space left for the database")?;
    assert!(cluster.incus(1, &["profile", "list", "-f", "csv"])?.contains("small"));
    assert!(cluster.incus(1, &["cluster", "list", "-f", "csv"])?.contains("server1"));

    // With space again it goes on by itself, and so it does after a start.
    cluster.lab.machines[0].must("rm", &[&ballast])?;
    cluster.until("a write", || {
        let made = cluster.incus_in(1, &["profile", "create", "after"], "")?;
        Ok((made.code == 0 || made.err.contains("already exists")).then_some(()))
    })?;
    cluster.machine(1).end_daemon("TERM", Duration::from_secs(20))?;
    for file in ["local.db", "global/db.bin", "global/raft.db"] {
        let check = cluster.lab.machines[0].must("sqlite3", &[&format!("{database}/{file}"), "PRAGMA integrity_check"]);
        assert_eq!(check?.trim(), "ok", "{file}");
    }
    cluster.start(1)?;
    let profiles = cluster.incus(1, &["profile", "list", "-f", "csv", "-c", "n"])?;
    for name in ["before", "small", "after"].into_iter().map(str::to_owned).chain((0..made).map(|n| format!("p{n}"))) {
        assert!(profiles.lines().any(|line| line == name), "{name} is lost: {profiles}");
    }
    assert!(!profiles.lines().any(|line| line == "x"), "it was refused: {profiles}");
    Ok(())
}
