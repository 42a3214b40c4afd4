//! A machine without liblxc.

use std::time::Duration;

use lab::{Cluster, Result};

use crate::refused;

#[test]
fn no_liblxc() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("nolxc", 1)?;
    cluster.import_busybox("busybox")?;
    cluster.incus(1, &["launch", "busybox", "c1"])?;
    cluster.machine(1).end_daemon("PWR", Duration::from_secs(60))?;
    let machine = &cluster.lab.machines[0];
    let library = machine.must("sh", &["-c", "ldconfig -p | sed -n 's#.*liblxc.so.1 .*=> ##p' | head -1"])?;
    let library = machine.must("readlink", &["-f", library.trim()])?.trim().to_owned();
    machine.must("mount", &["--bind", "/dev/null", &library])?;
    cluster.start(1)?;
    // Everything else is served.
    cluster.incus(1, &["profile", "create", "p"])?;
    assert_eq!(cluster.incus(1, &["list", "-f", "csv", "-c", "ns"])?.trim(), "c1,STOPPED");
    cluster.incus(1, &["copy", "c1", "c2"])?;
    cluster.incus(1, &["snapshot", "create", "c2"])?;
    assert_eq!(cluster.get(1, "/1.0")?["environment"]["driver"], "");
    for args in [&["launch", "busybox", "x"][..], &["start", "c1"]] {
        refused(&cluster, 1, args, "Containers need liblxc")?;
    }
    cluster.until("a warning", || {
        let warnings = cluster.incus(1, &["query", "/1.0/warnings?recursion=1"])?;
        Ok((warnings.contains("Instance type not operational") && warnings.contains("liblxc")).then_some(()))
    })?;
    // There again, it is over.
    cluster.machine(1).end_daemon("TERM", Duration::from_secs(20))?;
    cluster.lab.machines[0].must("umount", &[&library])?;
    cluster.start(1)?;
    cluster.incus(1, &["start", "c2"])?;
    cluster.until("the warning resolved", || {
        let warnings = cluster.get(1, "/1.0/warnings?recursion=1")?;
        let mut all = warnings.as_array().unwrap().iter();
        Ok(all.all(|w| w["type"] != "Instance type not operational" || w["status"] == "resolved").then_some(()))
    })
}
