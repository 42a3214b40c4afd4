//! squashfs, through the program `unsquashfs`.

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use api::error::Context as _;
use api::{Error, Result};

use super::unpack::Unpack;
use super::{metadata, not_an_image};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new("unsquashfs");
    command.args(args).stdin(Stdio::null()).env("LC_ALL", "C");
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
    let output = command(&["-cat"]).arg(image).arg(name).output().map_err(|e| missing(&e))?;
    if !output.status.success() || output.stdout.is_empty() {
        return Err(not_an_image(format!("{name} is missing")));
    }
    if output.stdout.len() as u64 > metadata::MAX {
        return Err(not_an_image(format!("{name} is larger than {} bytes", metadata::MAX)));
    }
    Ok(output.stdout)
}

/// Unpacks into a directory; with `names`, only what lies under these.
pub(super) fn unpack(image: &Path, dest: &Path, names: &[&[u8]], options: &Unpack<'_>) -> Result<()> {
    if let Some(limit) = options.limit
        && unpacked_size(image)? > limit
    {
        return Err(options.too_large());
    }
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
        if let Err(e) = options.check() {
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

/// Bytes of all files together.
fn unpacked_size(image: &Path) -> Result<u64> {
    let output = command(&["-llnumeric"]).arg(image).output().map_err(|e| missing(&e))?;
    if !output.status.success() {
        return Err(not_an_image("unsquashfs can't list it"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let files = text.lines().filter(|l| l.starts_with('-'));
    Ok(files.filter_map(|l| l.split_whitespace().nth(2)?.parse::<u64>().ok()).fold(0, u64::saturating_add))
}

/// Removes device nodes. The tree was just made and nobody else changes it; links are not followed.
fn remove_devices(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).context(format!("Reading {}", dir.display()))? {
        let entry = entry.context(format!("Reading {}", dir.display()))?;
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() {
            remove_devices(&path)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            std::fs::remove_file(&path).context(format!("Removing {}", path.display()))?;
        }
    }
    Ok(())
}
