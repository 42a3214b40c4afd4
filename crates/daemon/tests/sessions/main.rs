//! What people do inside an instance: programs, consoles, files. The client always talks to the member that does not
//! have the instance; ours and Debian's client do the same, and where clients can't be wrong enough, the test speaks
//! the API itself.
#![allow(clippy::unwrap_used)]

mod beside;
mod confined;
mod exec;
mod files;
mod raw;
mod terminal;
mod trust;

use lab::cluster::Programs;
use lab::{Cluster, Lab, Result};

/// A cluster of two with the running container `c1` and the stopped `s1`, both on the second.
fn cluster(name: &str, programs: Programs) -> Result<Cluster> {
    let cluster = Cluster::form(Lab::temporary(name, 2)?, programs)?;
    cluster.import_busybox("busybox")?;
    cluster.incus(1, &["launch", "busybox", "c1", "--target", "server2", "-c", "environment.FROM_CONFIG=yes"])?;
    cluster.incus(1, &["init", "busybox", "s1", "--target", "server2"])?;
    Ok(cluster)
}

#[test]
fn with_our_client() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut cluster = cluster("sessions", Programs::built()?)?;
    exec::programs(&cluster)?;
    exec::client_is_killed(&cluster)?;
    terminal::shell(&cluster)?;
    terminal::console(&cluster)?;
    files::come_and_go(&cluster)?;
    files::are_refused(&cluster)?;
    beside::logs_and_metadata(&cluster)?;
    raw::protocol(&cluster)?;
    raw::sftp(&cluster)?;
    confined::helpers_keep_what_the_manual_says(&cluster)?;
    exec::daemon_is_killed(&mut cluster)
}

#[test]
fn with_the_client_of_debian() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let Some(programs) = Programs::built()?.with_stock_client() else {
        eprintln!("SKIPPED: Debian's incus-client is not installed");
        return Ok(());
    };
    let mut cluster = cluster("sessions-stock", programs)?;
    exec::programs(&cluster)?;
    terminal::shell(&cluster)?;
    terminal::console(&cluster)?;
    files::come_and_go(&cluster)?;
    beside::logs_and_metadata(&cluster)?;
    exec::daemon_is_killed(&mut cluster)
}

#[test]
fn of_those_who_are_trusted_no_more() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let cluster = Cluster::form(Lab::temporary("sessions-trust", 3)?, Programs::built()?)?;
    cluster.import_busybox("busybox")?;
    cluster.incus(1, &["launch", "busybox", "c1", "--target", "server2"])?;
    trust::of_clients(&cluster)?;
    trust::of_a_member(&cluster)
}
