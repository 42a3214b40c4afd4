//! `incus image export`.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, Write},
    path::{Path, PathBuf},
};

use api::{Error, Result};

use super::url;
use crate::{cmd::instance::create::resolve, ctx::Ctx, server::RawReply, transfer::Meter, transport::empty};

/// Export an image into files
///
/// The target is a directory or the beginning of the files' names; without one they come here.
#[derive(clap::Args)]
pub struct Export {
    #[arg(value_name = "[remote:]image")]
    name: String,
    target: Option<String>,
    /// The image for virtual machines
    #[arg(long)]
    vm: bool,
}

impl Export {
    /// Exports.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "image name")?;
        let fingerprint = resolve(&server, &name, self.vm).await?;
        let reply = server.raw("GET", &(url(&fingerprint) + "/export"), &[], empty()).await?;
        let target = Target(self.target.map(PathBuf::from));
        let boundary = reply.header("content-type").and_then(boundary).map(str::to_owned);
        let file = reply.header("content-disposition").and_then(filename).unwrap_or(&fingerprint).to_owned();
        let dir = target.dir();
        let mut whole = tempfile::Builder::new().prefix(".incus_export_").tempfile_in(&dir)?;
        receive(ctx, reply, whole.as_file_mut()).await?;
        match boundary {
            Some(boundary) => split(whole.as_file_mut(), &boundary, &target)?,
            None => {
                let to = target.file(&file, "");
                whole.persist(&to).map_err(|e| Error::internal(format!("Unable to write {}: {e}", to.display())))?;
                set_readable(&to)?;
            }
        }
        ctx.say("Image exported successfully!");
        Ok(())
    }
}

async fn receive(ctx: &Ctx, reply: RawReply, file: &mut File) -> Result<()> {
    let total = reply.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let meter = Meter::new(ctx.progress("Exporting the image: %s"), total);
    let result = reply
        .each(|data| {
            meter.add(data.len());
            file.write_all(data)
        })
        .await;
    meter.finish();
    result
}

fn set_readable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))?)
}

struct Target(Option<PathBuf>);

impl Target {
    fn dir(&self) -> PathBuf {
        match &self.0 {
            None => PathBuf::from("."),
            Some(t) if t.is_dir() => t.clone(),
            Some(t) => t.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned(),
        }
    }

    /// Where a file of that name goes; `infix` tells the second file from the first.
    fn file(&self, name: &str, infix: &str) -> PathBuf {
        let name = Path::new(name).file_name().unwrap_or_default().to_string_lossy().into_owned();
        match &self.0 {
            None => PathBuf::from(name),
            Some(t) if t.is_dir() => t.join(name),
            Some(t) => PathBuf::from(format!("{}{infix}{}", t.display(), extension(&name))),
        }
    }
}

/// `.tar.gz` of `x.tar.gz`, `.squashfs` of `x.squashfs`.
fn extension(name: &str) -> &str {
    match (name.find(".tar"), name.rfind('.')) {
        (Some(at), _) | (None, Some(at)) => &name[at..],
        (None, None) => "",
    }
}

fn parameter<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.split(';').skip(1).find_map(|p| p.trim().strip_prefix(name)?.strip_prefix('=')).map(|v| v.trim_matches('"'))
}

fn boundary(content_type: &str) -> Option<&str> {
    content_type.starts_with("multipart/form-data").then(|| parameter(content_type, "boundary"))?
}

fn filename(disposition: &str) -> Option<&str> {
    parameter(disposition, "filename")
}

/// Takes the two files of a split image apart.
fn split(whole: &mut File, boundary: &str, target: &Target) -> Result<()> {
    let bad = || Error::internal("The server's answer is not the image that was announced");
    whole.rewind()?;
    let mut reader = BufReader::with_capacity(1 << 20, whole);
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    if !line.starts_with(format!("--{boundary}").as_bytes()) {
        return Err(bad());
    }
    let end = format!("\r\n--{boundary}").into_bytes();
    for infix in ["", ".root"] {
        let mut name = None;
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Err(bad());
            }
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            if text.is_empty() {
                break;
            }
            if text.to_ascii_lowercase().starts_with("content-disposition:") {
                name = filename(&text).map(str::to_owned);
            }
        }
        let path = target.file(&name.ok_or_else(bad)?, infix);
        let mut out =
            File::create(&path).map_err(|e| Error::internal(format!("Unable to write {}: {e}", path.display())))?;
        copy_until(&mut reader, &end, &mut out)?;
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        if line.starts_with(b"--") {
            break;
        }
    }
    Ok(())
}

/// Copies up to (and reads past) `end`.
fn copy_until(from: &mut impl BufRead, end: &[u8], to: &mut impl Write) -> Result<()> {
    let mut bytes = from.by_ref().bytes();
    let mut matched = 0;
    let mut out = Vec::with_capacity(1 << 16);
    while matched < end.len() {
        let Some(byte) = bytes.next().transpose()? else {
            return Err(Error::internal("The server's answer ended too early"));
        };
        // The end begins with CR and holds no other, so a mismatch can only restart at a CR.
        if byte == end[matched] {
            matched += 1;
            continue;
        }
        out.extend_from_slice(&end[..matched]);
        matched = usize::from(byte == end[0]);
        if matched == 0 {
            out.push(byte);
        }
        if out.len() >= 1 << 16 {
            to.write_all(&out)?;
            out.clear();
        }
    }
    to.write_all(&out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn two_files_are_taken_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut whole = tempfile::tempfile().unwrap();
        let rootfs = b"a\r\n--XY\r\r\n--X!\n";
        whole
            .write_all(
                b"--XYZ\r\nContent-Disposition: form-data; name=metadata; filename=meta.tar.xz\r\nA: b\r\n\r\nMETA",
            )
            .unwrap();
        whole
            .write_all(b"\r\n--XYZ\r\nContent-Disposition: form-data; name=rootfs; filename=\"r.squashfs\"\r\n\r\n")
            .unwrap();
        whole.write_all(rootfs).unwrap();
        whole.write_all(b"\r\n--XYZ--\r\n").unwrap();
        split(&mut whole, "XYZ", &Target(Some(dir.path().join("img")))).unwrap();
        assert_eq!(std::fs::read(dir.path().join("img.tar.xz")).unwrap(), b"META");
        assert_eq!(std::fs::read(dir.path().join("img.root.squashfs")).unwrap(), rootfs);
    }

    #[test]
    fn names() {
        assert_eq!(extension("ab.tar.gz"), ".tar.gz");
        assert_eq!(extension("ab.squashfs"), ".squashfs");
        assert_eq!(extension("ab"), "");
        assert_eq!(boundary("multipart/form-data; boundary=abc"), Some("abc"));
        assert_eq!(boundary("application/octet-stream"), None);
    }
}
