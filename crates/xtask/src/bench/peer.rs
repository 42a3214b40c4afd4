//! Debian's Incus, unpacked beside the build: its files are laid over `/usr` on the machines of the lab and nowhere
//! else. No script of the package runs, nothing of it is started or left on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::{Machine, must};

use crate::packages;
use crate::sh::{Result, say, target};

/// Where the daemon is once the files are laid over.
pub const INCUSD: &str = "/usr/libexec/incus/incusd";
/// The client that belongs to it.
pub const INCUS: &str = "/usr/bin/incus";
const PACKAGE: &str = "incus-base";

/// Downloads and unpacks the daemon and what it needs that this machine does not have; where to.
pub fn fetch() -> Result<PathBuf> {
    let home = target().join("peer");
    let root = home.join("root");
    if root.join("ready").exists() {
        return Ok(root);
    }
    say("getting Debian's incusd to measure beside ours");
    packages::know_backports()?;
    let release = packages::backports()?;
    let plan = must("apt-get", &["install", "-s", "--no-install-recommends", "-t", &release, PACKAGE])?;
    let names: Vec<&str> =
        plan.lines().filter_map(|l| l.strip_prefix("Inst ")?.split_whitespace().next()).chain([PACKAGE]).collect();
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&root)?;
    let status = Command::new("apt-get")
        .args(["download", "-qq", "-o=APT::Sandbox::User=root", "-t", &release])
        .args(&names)
        .current_dir(&home)
        .status()?;
    if !status.success() {
        return Err(format!("downloading {} failed: {status}", names.join(" ")).into());
    }
    for entry in fs::read_dir(&home)?.flatten().filter(|e| e.path().extension().is_some_and(|x| x == "deb")) {
        must("dpkg-deb", &["-x", &entry.path().to_string_lossy(), &root.to_string_lossy()])?;
    }
    // What its installation would have set: ids for unprivileged containers.
    fs::write(root.join("subids"), "root:1000000:1000000000\n")?;
    fs::write(root.join("ready"), "")?;
    Ok(root)
}

/// Makes a machine look as if the package were installed on it.
pub fn lay_over(machine: &Machine, root: &Path) -> Result<()> {
    let layers = format!("lowerdir={}:/usr", root.join("usr").display());
    machine.must("mount", &["-t", "overlay", "overlay", "-o", &layers, "/usr"])?;
    for file in ["/etc/subuid", "/etc/subgid"] {
        machine.must("mount", &["--bind", &root.join("subids").to_string_lossy(), file])?;
    }
    Ok(())
}
