//! A small image that is built on the spot: BusyBox as everything.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use api::error::Context as _;
use api::image::{ImageMetadata, ImageMetadataTemplate};
use api::{Error, Result};
use tar::{Builder, EntryType, Header};

use super::{Compression, METADATA, metadata};

/// The program; it must be linked statically.
const BUSYBOX: &str = "/bin/busybox";

const DIRECTORIES: &[(&str, u32)] = &[
    ("", 0o755),
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/network", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("usr/share", 0o755),
    ("usr/share/udhcpc", 0o755),
    ("var", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

const FILES: &[(&str, u32, &str)] = &[
    ("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", 0o644, "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/shadow", 0o600, "root:*:19000:0:99999:7:::\n"),
    ("etc/hostname", 0o644, "busybox\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/resolv.conf", 0o644, ""),
    ("etc/profile", 0o644, "export PATH=/sbin:/bin:/usr/sbin:/usr/bin\n"),
    ("etc/inittab", 0o644, INITTAB),
    ("etc/rc", 0o755, RC),
    ("usr/share/udhcpc/default.script", 0o755, UDHCPC),
];

/// The signals that end it are those that BusyBox's init knows by itself.
const INITTAB: &str = "\
::sysinit:/etc/rc
console::askfirst:-/bin/sh
::ctrlaltdel:/sbin/reboot
::shutdown:/bin/umount -a -r
";

const RC: &str = "\
#!/bin/sh
hostname -F /etc/hostname 2>/dev/null
[ -d /proc/1 ] || mount -t proc proc /proc 2>/dev/null
ip link set lo up 2>/dev/null
if [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    udhcpc -s /usr/share/udhcpc/default.script -b -i eth0 -S -x hostname:\"$(hostname)\" >/dev/null 2>&1
fi
exit 0
";

const UDHCPC: &str = "\
#!/bin/sh
case \"$1\" in
deconfig)
    ip addr flush dev \"$interface\" scope global
    ip link set \"$interface\" up
    ;;
bound|renew)
    ip addr flush dev \"$interface\" scope global
    ip addr add \"$ip/${mask:-24}\" ${broadcast:+broadcast \"$broadcast\"} dev \"$interface\"
    for gateway in $router; do
        ip route replace default via \"$gateway\" dev \"$interface\"
        break
    done
    : > /etc/resolv.conf
    [ -z \"$domain\" ] || echo \"search $domain\" >> /etc/resolv.conf
    for server in $dns; do
        echo \"nameserver $server\" >> /etc/resolv.conf
    done
    ;;
esac
exit 0
";

/// Builds an image of `/bin/busybox` (the package `busybox-static`) into the file `dest`: a unified `.tar.gz`.
pub fn busybox(dest: &Path) -> Result<()> {
    let program = std::fs::read(BUSYBOX)
        .context(format!("{BUSYBOX} is needed to build the image: install the package busybox-static"))?;
    let applets = applets()?;
    let metadata = describe(jiff::Timestamp::now().as_second());
    let to = File::create(dest).context(format!("Creating {}", dest.display()))?;
    let to = Compression::Gzip.write(to, |to| {
        let mut image = Image { to: Builder::new(to), time: metadata.creation_date };
        image.file(METADATA, 0o644, metadata::text(&metadata)?.as_bytes())?;
        image.directory("templates", 0o755)?;
        image.file("templates/hostname.tpl", 0o644, b"{{ container.name }}\n")?;
        for (path, mode) in DIRECTORIES {
            image.directory(&format!("rootfs/{path}"), *mode)?;
        }
        for (path, mode, text) in FILES {
            image.file(&format!("rootfs/{path}"), *mode, text.as_bytes())?;
        }
        image.file("rootfs/bin/busybox", 0o755, &program)?;
        for applet in &applets {
            image.symlink(&format!("rootfs/{applet}"), "/bin/busybox")?;
        }
        image.to.finish().context("Writing the image")
    })?;
    to.sync_all().context(format!("Writing {}", dest.display()))
}

/// Where the names of the program lie, as `sbin/init`.
fn applets() -> Result<Vec<String>> {
    let output = Command::new(BUSYBOX).arg("--list-full").output().context(format!("Running {BUSYBOX}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let known = |dir: &str| DIRECTORIES.iter().any(|(d, _)| *d == dir);
    let applets: Vec<String> = text
        .lines()
        .filter(|l| l.rsplit_once('/').is_some_and(|(dir, name)| known(dir) && !name.is_empty() && name != "busybox"))
        .map(str::to_owned)
        .collect();
    if !applets.iter().any(|a| a == "sbin/init") {
        return Err(Error::internal(format!("{BUSYBOX} has no init: install the package busybox-static")));
    }
    Ok(applets)
}

fn describe(now: i64) -> ImageMetadata {
    let architecture = std::env::consts::ARCH;
    let text = |(k, v): (&str, &str)| (k.to_owned(), v.to_owned());
    let name = format!("busybox-{architecture}");
    let description = format!("BusyBox {architecture}");
    let hostname = ImageMetadataTemplate {
        when: ["create", "copy", "rename"].map(str::to_owned).into(),
        template: "hostname.tpl".into(),
        ..ImageMetadataTemplate::default()
    };
    ImageMetadata {
        architecture: architecture.into(),
        creation_date: now,
        expiry_date: 0,
        properties: [
            ("architecture", architecture),
            ("description", description.as_str()),
            ("name", name.as_str()),
            ("os", "BusyBox"),
        ]
        .map(text)
        .into(),
        templates: [("/etc/hostname".to_owned(), hostname)].into(),
    }
}

struct Image<W: Write> {
    to: Builder<W>,
    time: i64,
}

impl<W: Write> Image<W> {
    fn header(&self, kind: EntryType, mode: u32, size: usize) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(self.time).unwrap_or(0));
        header
    }

    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = self.header(EntryType::Directory, mode, 0);
        self.to.append_data(&mut header, path, std::io::empty()).context(format!("Adding {path}"))
    }

    fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
        let mut header = self.header(EntryType::Regular, mode, contents.len());
        self.to.append_data(&mut header, path, contents).context(format!("Adding {path}"))
    }

    fn symlink(&mut self, path: &str, to: &str) -> Result<()> {
        let mut header = self.header(EntryType::Symlink, 0o777, 0);
        self.to.append_link(&mut header, path, to).context(format!("Adding {path}"))
    }
}
