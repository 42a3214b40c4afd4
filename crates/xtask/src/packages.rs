//! The Debian packages that incus-rs needs, and how they get onto a machine.

use std::fs;
use std::process::Command;

use lab::debian;

use crate::sh::{Result, say, show};

/// Packages of Debian 12 itself: what the daemon uses at run time, then what building and testing use.
const PACKAGES: &[&str] = &[
    "liblxc1",
    "lxcfs",
    "uidmap",
    "dnsmasq-base",
    "nftables",
    "iproute2",
    "squashfs-tools",
    "busybox-static",
    "debootstrap",
    "iputils-ping",
    "sqlite3",
    "curl",
    "e2fsprogs",
    "procps",
    "gcc",
    "libclang-dev",
];

/// Packages of backports.
const BACKPORTS: &[&str] = &["incus-client"];

const SOURCE: &str = "/etc/apt/sources.list.d/incus-rs-backports.sources";

/// Installs what is missing.
pub fn install() -> Result<()> {
    install_these(PACKAGES, BACKPORTS)
}

/// Installs packages of Debian that only a few things need.
pub fn also(names: &[&str]) -> Result<()> {
    install_these(names, &[])
}

fn install_these(names: &[&str], of_backports: &[&str]) -> Result<()> {
    let missing = missing(names);
    let missing_backports = self::missing(of_backports);
    if missing.is_empty() && missing_backports.is_empty() {
        return Ok(());
    }
    say(&format!("installing {}", [missing.as_slice(), missing_backports.as_slice()].concat().join(" ")));
    if !missing_backports.is_empty() {
        add_backports()?;
    }
    show("apt-get", &["update", "-qq"])?;
    let flags = ["install", "-y", "-qq", "--no-install-recommends", "-o=Dpkg::Use-Pty=0"];
    if !missing.is_empty() {
        show("apt-get", &[&flags[..], missing.as_slice()].concat())?;
    }
    if !missing_backports.is_empty() {
        let release = backports()?;
        show("apt-get", &[&flags[..], &["-t", release.as_str()], missing_backports.as_slice()].concat())?;
    }
    Ok(())
}

fn missing<'a>(wanted: &[&'a str]) -> Vec<&'a str> {
    let installed = |name: &&&str| {
        let asked = Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", name]).output();
        asked.is_ok_and(|o| o.stdout.starts_with(b"installed"))
    };
    wanted.iter().filter(|name| !installed(name)).copied().collect()
}

/// Backports, known to apt with their newest list of packages.
pub fn know_backports() -> Result<()> {
    add_backports()?;
    show("apt-get", &["update", "-qq"])
}

/// The name of the release that backports are.
pub fn backports() -> Result<String> {
    Ok(format!("{}-backports", debian::codename()?))
}

/// Makes backports known to apt, from the same address as the machine's own packages.
fn add_backports() -> Result<()> {
    let release = backports()?;
    if known(&release)? {
        return Ok(());
    }
    let debian::Source { uri, key } = debian::own_source()?;
    let source = format!("Types: deb\nURIs: {uri}\nSuites: {release}\nComponents: main\n{key}");
    fs::write(SOURCE, source).map_err(|e| format!("writing {SOURCE}: {e}").into())
}

fn known(release: &str) -> Result<bool> {
    let mentions = |text: &String| text.lines().any(|l| !l.trim_start().starts_with('#') && l.contains(release));
    Ok(debian::sources()?.iter().any(mentions))
}
