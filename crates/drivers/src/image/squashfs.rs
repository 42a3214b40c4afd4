//! squashfs, through the program `unsquashfs`.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use api::error::Context as _;
use api::{Error, Result};
use host::confine::{self, Capabilities};

use super::room::{ENTRY, Room};
use super::unpack::Unpack;
use super::{metadata, not_an_image};

/// The longest line of a listing that is looked at in one piece, in bytes.
const LINE: u64 = 64 << 10;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new("unsquashfs");
    command.args(args).stdin(Stdio::null()).env("LC_ALL", "C");
    // What it reads is made by others.
    confine::command_alone(&mut command, confine::FILES.union(Capabilities::MKNOD).union(Capabilities::SETFCAP));
    command
}

fn missing(e: &std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::internal("The program unsquashfs is missing: install the package squashfs-tools")
        }
        _ => Error::internal(format!("Running unsquashfs: {e}")),
    }
}

/// The contents of a small file.
pub(super) fn cat(image: &Path, name: &str) -> Result<Vec<u8>> {
    let mut listing = Listing::start(command(&["-cat"]).arg(image).arg(name))?;
    let mut bytes = Vec::new();
    (&mut listing.output).take(metadata::MAX + 1).read_to_end(&mut bytes).context("Reading from unsquashfs")?;
    if bytes.len() as u64 > metadata::MAX {
        return Err(not_an_image(format!("{name} is larger than {} bytes", metadata::MAX)));
    }
    match listing.ended_well()? && !bytes.is_empty() {
        true => Ok(bytes),
        false => Err(not_an_image(format!("{name} is missing"))),
    }
}

/// unsquashfs while it tells something. What it tells may have no end: it is ended with this value.
struct Listing {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Listing {
    fn start(command: &mut Command) -> Result<Listing> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|e| missing(&e))?;
        let output = child.stdout.take().ok_or_else(|| Error::internal("unsquashfs has no output"))?;
        Ok(Listing { child, output: BufReader::new(output) })
    }

    fn ended_well(&mut self) -> Result<bool> {
        Ok(self.child.wait().context("Waiting for unsquashfs")?.success())
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Unpacks into a directory; with `names`, only what lies under these.
pub(super) fn unpack(image: &Path, dest: &Path, names: &[&[u8]], room: &mut Room, options: &Unpack<'_>) -> Result<()> {
    room.take(unpacked_size(image)?)?;
    let mut child = command(&["-force", "-no-progress", "-quiet", "-no-exit-code", "-dest"])
        .arg(dest)
        .arg(image)
        .args(names.iter().map(|n| String::from_utf8_lossy(n).into_owned()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| missing(&e))?;
    let errors = child.stderr.take().map(|mut pipe| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = std::io::Read::read_to_end(&mut pipe, &mut text);
            text
        })
    });
    let status = loop {
        if let Some(status) = child.try_wait().context("Waiting for unsquashfs")? {
            break status;
        }
        if let Err(e) = options.check().and_then(|()| room.look(0)) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(e);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let errors = errors.and_then(|t| t.join().ok()).unwrap_or_default();
    if !status.success() {
        let errors = String::from_utf8_lossy(&errors);
        let last = errors.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("it gave no reason").to_owned();
        return Err(not_an_image(format!("unsquashfs can't unpack it: {last}")));
    }
    (options.progress)(std::fs::metadata(image).map_or(0, |m| m.len()));
    if options.unprivileged { remove_devices(dest) } else { Ok(()) }
}

/// Bytes of all files together, with what each takes beside.
fn unpacked_size(image: &Path) -> Result<u64> {
    let mut listing = Listing::start(command(&["-llnumeric"]).arg(image))?;
    let (mut sum, mut line) = (0_u64, Vec::new());
    // A line holds a name and where a link leads.
    while (&mut listing.output).take(LINE).read_until(b'\n', &mut line).context("Reading from unsquashfs")? > 0 {
        let text = String::from_utf8_lossy(&line);
        let size = text.starts_with('-').then(|| text.split_whitespace().nth(2)?.parse::<u64>().ok()).flatten();
        sum = sum.saturating_add(size.unwrap_or(0)).saturating_add(ENTRY);
        line.clear();
    }
    if listing.ended_well()? { Ok(sum) } else { Err(not_an_image("unsquashfs can't list it")) }
}

/// Removes device nodes. The tree was just made and nobody else changes it; links are not followed.
fn remove_devices(dir: &Path) -> Result<()> {
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).context(format!("Reading {}", dir.display()))? {
            let entry = entry.context(format!("Reading {}", dir.display()))?;
            let (kind, path) = (entry.file_type()?, entry.path());
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_char_device() || kind.is_block_device() {
                std::fs::remove_file(&path).context(format!("Removing {}", path.display()))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use super::*;

    #[test]
    fn unsquashfs_has_what_files_need_and_no_network() {
        if !rustix::process::geteuid().is_root() || Command::new("unsquashfs").arg("-version").output().is_err() {
            return eprintln!("SKIPPED: this needs root and unsquashfs");
        }
        let dir = tempfile::tempdir().unwrap();
        // Nobody writes: it waits, and can be looked at.
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let mut child = command(&["-cat"]).arg(&fifo).arg("x").stderr(Stdio::null()).spawn().unwrap();
        let of = |key: &str| host::process::status(child.id(), key).unwrap_or_default();
        let begun = Instant::now();
        while of("Name") != "unsquashfs" && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let seen = ["Name", "CapEff", "CapBnd", "NoNewPrivs"].map(of);
        let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        let alone = network(&child.id().to_string()) != network("self");
        child.kill().unwrap();
        child.wait().unwrap();
        // chown to fsetid, mknod, setfcap.
        let kept = format!("{:016x}", 0b1_1111 | 1 << 27 | 1_u64 << 31);
        assert_eq!(seen, ["unsquashfs", &kept, &kept, "1"]);
        assert!(alone);
    }
}
