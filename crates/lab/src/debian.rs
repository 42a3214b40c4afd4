//! Debian: where this machine's own packages come from, and an image of Debian made of such packages.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{self, Result, must};

/// What the image has beyond the packages that every Debian has.
const INCLUDE: &str = "systemd-sysv,dbus";

/// Where packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Address of the archive.
    pub uri: String,
    /// The line `Signed-By: …` that goes with it, or nothing.
    pub key: String,
}

/// The name of the release that this machine runs.
pub fn codename() -> Result<String> {
    let os = fs::read_to_string("/etc/os-release")?;
    let name = os.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="));
    name.map(|n| n.trim_matches('"').to_owned()).ok_or_else(|| "this is not Debian: no VERSION_CODENAME".into())
}

/// The texts of all that apt knows of sources.
pub fn sources() -> Result<Vec<String>> {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    if Path::new("/etc/apt/sources.list.d").is_dir() {
        for entry in fs::read_dir("/etc/apt/sources.list.d")?.flatten() {
            texts.push(fs::read_to_string(entry.path()).unwrap_or_default());
        }
    }
    Ok(texts)
}

/// Where this machine's own packages of Debian come from.
pub fn own_source() -> Result<Source> {
    let codename = codename()?;
    let found = sources()?.iter().find_map(|text| source_in(text, &codename));
    found.ok_or_else(|| "apt has no source of Debian's own packages, whose address could be taken".into())
}

/// The source of a release in a text of either format of apt.
fn source_in(text: &str, codename: &str) -> Option<Source> {
    for stanza in text.split("\n\n") {
        let field = |name: &str| stanza.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        let ours = field("Suites:").is_some_and(|s| s.split_whitespace().any(|s| s == codename));
        if let (true, Some(uri)) = (ours, field("URIs:")) {
            let key = field("Signed-By:").map(|k| format!("Signed-By: {k}\n")).unwrap_or_default();
            return Some(Source { uri: uri.to_owned(), key });
        }
    }
    text.lines().find_map(|l| {
        let words: Vec<&str> = l.split_whitespace().filter(|w| !w.starts_with('[') && !w.ends_with(']')).collect();
        let ours = words.first() == Some(&"deb") && words.get(2) == Some(&codename);
        ours.then(|| Source { uri: words[1].to_owned(), key: String::new() })
    })
}

/// The two files of an image of a Debian that boots with systemd: its metadata, and its root file system as squashfs.
#[derive(Clone, Debug)]
pub struct Image {
    /// Tarball with `metadata.yaml`.
    pub metadata: PathBuf,
    /// squashfs.
    pub rootfs: PathBuf,
}

/// True if the archive answers.
pub fn reachable() -> bool {
    let (Ok(source), Ok(codename)) = (own_source(), codename()) else { return false };
    let release = format!("{}/dists/{codename}/InRelease", source.uri.trim_end_matches('/'));
    must("curl", &["-sfL", "--max-time", "10", "-o", "/dev/null", &release]).is_ok()
}

/// An image of the release that this machine runs; it is made once and kept in `cache`.
///
/// # Errors
/// With the words of debootstrap, for one when the archive can't be reached.
pub fn image(cache: &Path) -> Result<Image> {
    let codename = codename()?;
    let dir = cache.join(format!("debian-{codename}"));
    let image = Image { metadata: dir.join("metadata.tar.gz"), rootfs: dir.join("rootfs.squashfs") };
    if image.metadata.exists() && image.rootfs.exists() {
        return Ok(image);
    }
    fs::create_dir_all(&dir)?;
    let work = tempfile::tempdir_in(&dir)?;
    make_rootfs(&codename, work.path(), &image.rootfs)?;
    let arch = std::env::consts::ARCH;
    let text = format!(
        "architecture: {arch}\ncreation_date: 1\nproperties:\n  os: Debian\n  release: {codename}\n  description: \
         Debian {codename} with systemd\ntemplates:\n  /etc/hostname:\n    when: [create, copy]\n    template: hostname.tpl\n"
    );
    fs::write(work.path().join("metadata.yaml"), text)?;
    fs::create_dir(work.path().join("templates"))?;
    fs::write(work.path().join("templates/hostname.tpl"), "{{ container.name }}\n")?;
    let (half, work) = (dir.join("metadata.half"), work.path().as_os_str());
    must(
        "tar",
        &[OsStr::new("-czf"), half.as_os_str(), OsStr::new("-C"), work, "metadata.yaml".as_ref(), "templates".as_ref()],
    )?;
    fs::rename(half, &image.metadata)?;
    Ok(image)
}

/// debootstrap in namespaces of its own, so that nothing that it mounts is left on this machine, and on a tmpfs: dpkg
/// waits for the disk after each file.
fn make_rootfs(codename: &str, work: &Path, to: &Path) -> Result<()> {
    let source = own_source()?;
    // Packages that were fetched before are not fetched again.
    let packages = to.with_file_name("packages");
    fs::create_dir_all(&packages)?;
    let script = "set -e; mount -t tmpfs -o mode=755 debian \"$1\"; \
        debootstrap --variant=minbase --include=\"$5\" --cache-dir=\"$6\" \"$2\" \"$1/root\" \"$3\"; \
        rm -rf \"$1\"/root/var/cache/apt/archives/*.deb \"$1\"/root/var/lib/apt/lists/*; \
rm -f \"$1/root/var/lib/dbus/machine-id\"; : > \"$1/root/etc/machine-id\"; \
        mksquashfs \"$1/root\" \"$4\" -quiet -no-progress -noappend -comp gzip -Xcompression-level 1";
    let half = to.with_extension("half");
    let made = run::run(
        Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--mount-proc", "--", "sh", "-c", script, "sh"])
            .args([work.as_os_str(), codename.as_ref(), source.uri.as_ref(), half.as_os_str(), INCLUDE.as_ref()])
            .arg(&packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stderr(Stdio::piped()),
        b"",
    )?;
    if made.code != 0 {
        let said = format!("{}{}", made.out, made.err);
        let tail: Vec<&str> = said.lines().rev().take(4).collect();
        return Err(format!("debootstrap: {}", tail.into_iter().rev().collect::<Vec<_>>().join("; ")).into());
    }
    Ok(fs::rename(half, to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_found_in_both_formats() {
        let source = |key: &str| Some(Source { uri: "http://a/debian".into(), key: key.into() });
        for (text, want) in [
            ("Types: deb\nURIs: http://a/debian\nSuites: x x-updates\nSigned-By: /k\n", source("Signed-By: /k\n")),
            ("Types: deb\nURIs: http://a/s\nSuites: x-security\n\nURIs: http://a/debian\nSuites: x\n", source("")),
            ("# deb http://b x\ndeb [signed-by=/k] http://a/debian x main\n", source("")),
            ("deb http://a/debian x-security main\n", None),
            ("", None),
        ] {
            assert_eq!(source_in(text, "x"), want, "{text}");
        }
    }
}
