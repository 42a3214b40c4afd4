//! Bad days: a full disk, files that are no images, members that are away, no majority, no liblxc. Each is told in
//! clear words and soon, leaves nothing half done, and is over when its cause is.
#![allow(clippy::unwrap_used)]

mod damaged;
mod database;
mod disk;
mod golden;
mod images;
mod liblxc;
mod members;

use std::path::Path;
use std::time::{Duration, Instant};

use lab::{Cluster, Result};

/// Whoever waits longer has been left waiting, however busy the machine is.
const SOON: Duration = Duration::from_secs(20);

/// Refused with these words, and soon.
fn refused(cluster: &Cluster, from: usize, args: &[&str], why: &str) -> Result<()> {
    let started = Instant::now();
    let said = cluster.refused(from, args)?;
    let took = started.elapsed();
    assert!(said.contains(why), "{args:?}: {said}");
    assert!(took < SOON, "{args:?} took {took:?}: {said}");
    Ok(())
}

/// Answered soon.
fn at_once(cluster: &Cluster, from: usize, args: &[&str]) -> Result<String> {
    let started = Instant::now();
    let said = cluster.incus(from, args)?;
    let took = started.elapsed();
    assert!(took < SOON, "{args:?} took {took:?}");
    Ok(said)
}

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> = std::fs::read_dir(dir)
        .map(|d| d.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    all.sort();
    all
}
