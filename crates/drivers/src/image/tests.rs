//! Images are unpacked without trusting them, packed again, and templates write only inside.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::image::template::{TemplateContext, apply, render};

const YAML: &str = "architecture: x86_64\ncreation_date: 1424284563\nproperties:\n  os: BusyBox\n  release: 1.10\n";

/// A tarball that is written without any care for what stands in it.
struct Tarball(Builder<Vec<u8>>);

impl Tarball {
    fn new() -> Tarball {
        Tarball(Builder::new(Vec::new())).file("metadata.yaml", YAML.as_bytes()).entry(
            EntryType::Directory,
            "rootfs",
            "",
            b"",
        )
    }

    fn pax(mut self, key: &str, value: &[u8]) -> Tarball {
        self.0.append_pax_extensions([(key, value)]).unwrap();
        self
    }

    fn file(self, name: &str, contents: &[u8]) -> Tarball {
        self.entry(EntryType::Regular, name, "", contents)
    }

    fn entry(self, kind: EntryType, name: &str, link: &str, contents: &[u8]) -> Tarball {
        self.with_mode(kind, name, link, contents, if kind.is_dir() { 0o755 } else { 0o644 })
    }

    fn with_mode(mut self, kind: EntryType, name: &str, link: &str, contents: &[u8], mode: u32) -> Tarball {
        let mut header = Header::new_ustar();
        let ustar = header.as_ustar_mut().unwrap();
        ustar.name[..name.len()].copy_from_slice(name.as_bytes());
        ustar.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(contents.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, contents).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("image")).unwrap();
        fs::write(dir.path().join("outside"), "untouched").unwrap();
        Place { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn unpack(&self, files: &Files, unprivileged: bool, limit: Option<u64>) -> Result<Metadata> {
        let cancel = AtomicBool::new(false);
        unpack(files, &self.path("image"), &Unpack { unprivileged, limit, progress: &|_| (), cancel: &cancel })
    }

    fn unpack_bytes(&self, bytes: &[u8]) -> Result<Metadata> {
        let image = self.file("file", bytes);
        self.unpack(&Files { image, rootfs: None }, true, None)
    }
}

#[test]
fn nothing_gets_out_of_the_directory() {
    let hostile = |t: fn(Tarball) -> Tarball| t(Tarball::new()).bytes();
    for (what, bytes, want) in [
        ("dots", hostile(|t| t.file("rootfs/../../outside", b"bad")), "leads out of it"),
        ("dots at the top", hostile(|t| t.file("../outside", b"bad")), "leads out of it"),
        ("absolute", hostile(|t| t.file("/etc/outside", b"bad")), "is absolute"),
        (
            "through a link to a directory",
            hostile(|t| t.entry(EntryType::Symlink, "rootfs/d", "../..", b"").file("rootfs/d/outside", b"bad")),
            "leads through",
        ),
        (
            "a directory through a link",
            hostile(|t| {
                t.entry(EntryType::Symlink, "rootfs/d", "../..", b"").entry(EntryType::Directory, "rootfs/d", "", b"")
            }),
            "leads through",
        ),
        (
            "the top replaced by a link",
            Tarball(Builder::new(Vec::new()))
                .entry(EntryType::Symlink, "rootfs", "..", b"")
                .file("rootfs/outside", b"bad")
                .bytes(),
            "leads through",
        ),
        (
            "another name for what lies outside",
            hostile(|t| t.entry(EntryType::Link, "rootfs/x", "../outside", b"")),
            "leads out of it",
        ),
        (
            "another name through a link",
            hostile(|t| {
                t.entry(EntryType::Symlink, "rootfs/d", "../..", b"").entry(
                    EntryType::Link,
                    "rootfs/x",
                    "rootfs/d/outside",
                    b"",
                )
            }),
            "leads through",
        ),
        (
            "another name of what is not part of it",
            hostile(|t| t.entry(EntryType::Link, "rootfs/x", "x", b"")),
            "leads out",
        ),
        (
            "through a link in the place of a directory of before",
            hostile(|t| {
                t.entry(EntryType::Directory, "rootfs/d", "", b"")
                    .file("rootfs/d/first", b"")
                    .entry(EntryType::Symlink, "rootfs/d", "../..", b"")
                    .file("rootfs/d/outside", b"bad")
            }),
            "rootfs/d",
        ),
        (
            "through a link that was a file",
            hostile(|t| {
                t.file("rootfs/d", b"")
                    .entry(EntryType::Symlink, "rootfs/d", "../..", b"")
                    .file("rootfs/d/outside", b"bad")
            }),
            "leads through",
        ),
        (
            "a link in an extended header",
            hostile(|t| t.pax("linkpath", b"../outside").entry(EntryType::Link, "rootfs/x", "", b"")),
            "leads out of it",
        ),
        ("a size that lies", hostile(|t| t.pax("size", b"18446744073709551615").file("rootfs/x", b"bad")), ""),
        ("a negative size", hostile(|t| t.pax("size", b"-1").file("rootfs/x", b"bad")), "is none"),
        ("in an extended header", hostile(|t| t.pax("path", b"../outside").file("x", b"bad")), "leads out of it"),
        ("an impossible owner", hostile(|t| t.pax("uid", b"4294967295").file("rootfs/x", b"")), "impossible"),
        ("sparse", hostile(|t| t.pax("GNU.sparse.major", b"1").file("rootfs/x", b"")), "sparse"),
        (
            "metadata as a link",
            {
                Tarball(Builder::new(Vec::new()))
                    .entry(EntryType::Directory, "rootfs", "", b"")
                    .entry(EntryType::Symlink, "metadata.yaml", "../outside", b"")
                    .bytes()
            },
            "symbolic link",
        ),
    ] {
        let place = Place::new();
        let e = place.unpack_bytes(&bytes).unwrap_err();
        assert!(e.message.contains(want), "{what}: {e}");
        assert_eq!(fs::read_to_string(place.path("outside")).unwrap(), "untouched", "{what}");
        let mut names: Vec<_> = fs::read_dir(place.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["file", "image", "outside"], "{what}");
    }
}

#[test]
fn a_link_may_lead_anywhere_and_a_later_file_takes_its_place() {
    let place = Place::new();
    let bytes = Tarball::new()
        .entry(EntryType::Symlink, "rootfs/a", "../../outside", b"")
        .file("rootfs/a", b"inside")
        .entry(EntryType::Symlink, "rootfs/b", "/etc/passwd", b"")
        .file("other/x", b"left out")
        .bytes();
    place.unpack_bytes(&bytes).unwrap();
    assert_eq!(fs::read_to_string(place.path("image/rootfs/a")).unwrap(), "inside");
    assert_eq!(fs::read_to_string(place.path("outside")).unwrap(), "untouched");
    assert_eq!(fs::read_link(place.path("image/rootfs/b")).unwrap(), Path::new("/etc/passwd"));
    assert!(!place.path("image/other").exists());
}

#[test]
fn what_is_unpacked_is_as_it_was_packed() {
    let place = Place::new();
    // The capabilities dac_override and fowner are a byte that is a newline.
    let capability = [1, 0, 0, 2, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("rootfs/{}/{}", "d".repeat(90), "f".repeat(90));
    let bytes = Tarball::new()
        .with_mode(EntryType::Regular, "rootfs/su", "", b"suid", 0o4755)
        .pax("SCHILY.xattr.security.capability", &capability)
        .file("rootfs/ping", b"caps")
        .pax("mtime", b"1000000000.5")
        .entry(EntryType::Link, "rootfs/su2", "rootfs/su", b"")
        .entry(EntryType::Fifo, "rootfs/fifo", "", b"")
        .entry(EntryType::Char, "rootfs/null", "", b"")
        .pax("path", long.as_bytes())
        .file("x", b"long")
        .with_mode(EntryType::Directory, "rootfs/closed/", "", b"", 0o500)
        .file("rootfs/closed/in", b"x")
        .bytes();
    let image = place.file("file", &bytes);
    let files = Files { image, rootfs: None };
    assert_eq!(inspect(&files).unwrap().properties["release"], "1.10");
    let metadata = place.unpack(&files, true, None).unwrap();
    assert_eq!((metadata.architecture.as_str(), metadata.creation_date), ("x86_64", 1_424_284_563));
    let at = |name: &str| place.path("image/rootfs").join(name);
    let su = fs::metadata(at("su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.mtime(), su.nlink()), (0o4755, 1_000_000_000, 2));
    assert_eq!(su.ino(), fs::metadata(at("su2")).unwrap().ino());
    assert_eq!(fs::metadata(at("closed")).unwrap().mode() & 0o7777, 0o500);
    assert_eq!(fs::metadata(at("closed")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::read(place.path("image").join(&long)).unwrap(), b"long");
    assert!(at("fifo").exists() && !at("null").exists());
    if rustix::process::geteuid().is_root() {
        let mut value = [0; 64];
        let n = rustix::fs::getxattr(at("ping"), "security.capability", &mut value).unwrap();
        assert_eq!(&value[..n], capability);
    } else {
        eprintln!("SKIPPED: without root no capabilities are set");
    }
    // Packed again and unpacked again, in each compression, it is the same.
    for compression in [
        Compression::None,
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Xz,
        Compression::Lzma,
        Compression::Zstd,
        Compression::Lz4,
    ] {
        let other = Place::new();
        let cancel = AtomicBool::new(false);
        let options = Pack {
            content: Content::All,
            metadata: None,
            compression,
            id: &|id| id,
            progress: &|_| (),
            cancel: &cancel,
        };
        let packed = pack(&place.path("image"), Vec::new(), &options).unwrap();
        assert_eq!(Format::of(&packed).unwrap(), Format::Tar(compression));
        assert_eq!(other.unpack_bytes(&packed).unwrap(), metadata, "{compression:?}");
        let again = |name: &str| other.path("image/rootfs").join(name);
        assert_eq!(fs::read(again("ping")).unwrap(), b"caps");
        assert_eq!(fs::read(other.path("image").join(&long)).unwrap(), b"long");
        let su = fs::metadata(again("su")).unwrap();
        assert_eq!((su.mode() & 0o7777, su.nlink(), su.mtime()), (0o4755, 2, 1_000_000_000), "{compression:?}");
        if rustix::process::geteuid().is_root() {
            let mut value = [0; 64];
            let n = rustix::fs::getxattr(again("ping"), "security.capability", &mut value).unwrap();
            assert_eq!(&value[..n], capability);
        }
    }
}

#[test]
fn an_image_is_packed_in_two_files_that_say_something_else() {
    let place = Place::new();
    for dir in ["image/templates", "image/rootfs/etc"] {
        fs::create_dir_all(place.path(dir)).unwrap();
    }
    fs::write(place.path("image/metadata.yaml"), "architecture: x86_64\n").unwrap();
    fs::write(place.path("image/templates/hosts.tpl"), "hosts").unwrap();
    fs::write(place.path("image/rootfs/etc/one"), "one").unwrap();
    fs::hard_link(place.path("image/rootfs/etc/one"), place.path("image/rootfs/etc/two")).unwrap();
    let said = Metadata {
        architecture: "aarch64".into(),
        creation_date: 1_700_000_000,
        properties: [("os".to_owned(), "Busy".to_owned())].into(),
        ..Metadata::default()
    };
    let file = |name: &str, content| {
        let options = Pack {
            content,
            metadata: Some(&said),
            compression: Compression::Zstd,
            id: &|id| id,
            progress: &|_| (),
            cancel: &AtomicBool::new(false),
        };
        let packed = pack(&place.path("image"), Vec::new(), &options).unwrap();
        fs::write(place.path(name), packed).unwrap();
        place.path(name)
    };
    let files = Files { image: file("m", Content::Metadata), rootfs: Some(file("r", Content::Rootfs)) };
    assert_eq!(inspect(&files).unwrap(), said);
    let other = Place::new();
    assert_eq!(other.unpack(&files, true, None).unwrap(), said);
    assert_eq!(fs::read(other.path("image/rootfs/etc/two")).unwrap(), b"one");
    assert_eq!(fs::metadata(other.path("image/rootfs/etc/one")).unwrap().nlink(), 2);
    assert_eq!(fs::read(other.path("image/templates/hosts.tpl")).unwrap(), b"hosts");
    // The metadata file alone is no image.
    assert!(inspect(&Files { image: files.image, rootfs: None }).is_err());
}

#[test]
fn devices_are_for_the_privileged() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: without root no devices are made");
    }
    let place = Place::new();
    let image = place.file("file", &Tarball::new().entry(EntryType::Char, "rootfs/null", "", b"").bytes());
    place.unpack(&Files { image, rootfs: None }, false, None).unwrap();
    let null = fs::metadata(place.path("image/rootfs/null")).unwrap();
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
}

#[test]
fn what_is_no_image_is_refused_in_clear_words() {
    let gzip = |bytes: &[u8]| {
        let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        to.write_all(bytes).unwrap();
        to.finish().unwrap()
    };
    let whole = gzip(&Tarball::new().file("rootfs/x", &[7; 100_000]).bytes());
    let plain = Tarball::new().file("rootfs/x", &[7; 2000]).bytes();
    let mut damaged = plain.clone();
    damaged[1600] ^= 1;
    for (what, bytes, want) in [
        ("nothing", vec![], "the file is empty"),
        ("text", b"hello, world".to_vec(), "it is neither a tarball"),
        ("a disk", b"QFI\xfb....".to_vec(), "it is the disk of a virtual machine"),
        ("torn", whole[..whole.len() - 20].to_vec(), "Not an image: it can't be unpacked"),
        ("torn, plain", plain[..plain.len() - 2500].to_vec(), "the file ends too early"),
        ("damaged", damaged, "a checksum doesn't fit"),
        ("no metadata", Tarball(Builder::new(Vec::new())).file("rootfs/x", b"").bytes(), "metadata.yaml is missing"),
        (
            "no rootfs",
            Tarball(Builder::new(Vec::new())).file("metadata.yaml", YAML.as_bytes()).bytes(),
            "it has no rootfs",
        ),
        (
            "bad metadata",
            Tarball(Builder::new(Vec::new())).file("metadata.yaml", b"- a\n- b\n").file("rootfs/x", b"").bytes(),
            "metadata.yaml can't be read",
        ),
        (
            "metadata without architecture",
            Tarball(Builder::new(Vec::new()))
                .file("metadata.yaml", b"creation_date: 1\n")
                .file("rootfs/x", b"")
                .bytes(),
            "for which architecture",
        ),
    ] {
        let place = Place::new();
        let files = Files { image: place.file("file", &bytes), rootfs: None };
        // Damage behind the beginning is only seen when all is read.
        let got = inspect(&files).and_then(|_| place.unpack(&files, true, None)).unwrap_err();
        assert!(got.message.contains(want), "{what}: {got}");
    }
    let place = Place::new();
    let image = place.file("file", &Tarball::new().file("rootfs/x", &[0; 2000]).bytes());
    let got = place.unpack(&Files { image, rootfs: None }, true, Some(1000)).unwrap_err();
    assert!(got.message.contains("larger than 1000 bytes"), "{got}");
}

#[test]
fn split_images_are_put_together() {
    let place = Place::new();
    let metadata = Tarball(Builder::new(Vec::new())).file("metadata.yaml", YAML.as_bytes()).bytes();
    let rootfs = Tarball(Builder::new(Vec::new())).file("./etc/os", b"x").bytes();
    let files = Files { image: place.file("m", &metadata), rootfs: Some(place.file("r", &rootfs)) };
    inspect(&files).unwrap();
    place.unpack(&files, true, None).unwrap();
    assert_eq!(fs::read(place.path("image/rootfs/etc/os")).unwrap(), b"x");
    assert_eq!(fingerprint(&files).unwrap(), hex::encode(Sha256::digest([metadata, rootfs].concat())));
}

#[test]
fn squashfs_as_root_file_system_and_as_all() {
    let made = |from: &Path, to: &Path| {
        let made = std::process::Command::new("mksquashfs").arg(from).arg(to).args(["-quiet", "-no-progress"]).output();
        made.is_ok_and(|o| o.status.success())
    };
    let place = Place::new();
    fs::create_dir_all(place.path("tree/rootfs/etc")).unwrap();
    fs::write(place.path("tree/rootfs/etc/os"), "x").unwrap();
    fs::write(place.path("tree/metadata.yaml"), YAML).unwrap();
    let (part, all) = (place.path("part"), place.path("all"));
    if !made(&place.path("tree/rootfs"), &part) || !made(&place.path("tree"), &all) {
        return eprintln!("SKIPPED: mksquashfs is missing, squashfs is not tried");
    }
    let metadata = Tarball(Builder::new(Vec::new())).file("metadata.yaml", YAML.as_bytes()).bytes();
    for files in [Files { image: place.file("m", &metadata), rootfs: Some(part) }, Files { image: all, rootfs: None }] {
        let other = Place::new();
        assert_eq!(inspect(&files).unwrap().properties["os"], "BusyBox");
        assert!(other.unpack(&files, true, Some(0)).is_err());
        let other = Place::new();
        other.unpack(&files, true, Some(100_000)).unwrap();
        assert_eq!(fs::read_to_string(other.path("image/rootfs/etc/os")).unwrap(), "x");
    }
}

#[test]
fn busybox_is_built_and_has_an_init() {
    if !Path::new("/bin/busybox").exists() {
        return eprintln!("SKIPPED: /bin/busybox is missing, no image is built");
    }
    let place = Place::new();
    let image = place.path("busybox.tar.gz");
    build::busybox(&image).unwrap();
    let files = Files { image, rootfs: None };
    assert_eq!(inspect(&files).unwrap().properties["os"], "BusyBox");
    place.unpack(&files, true, None).unwrap();
    let rootfs = place.path("image/rootfs");
    assert_eq!(fs::read_link(rootfs.join("sbin/init")).unwrap(), Path::new("/bin/busybox"));
    assert_eq!(fs::metadata(rootfs.join("bin/busybox")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert!(rootfs.join("etc/inittab").exists() && rootfs.join("usr/share/udhcpc/default.script").exists());
    let instance = TemplateContext { name: "c1".into(), ..TemplateContext::default() };
    apply(&place.path("image"), "create", &instance).unwrap();
    assert_eq!(fs::read_to_string(rootfs.join("etc/hostname")).unwrap(), "c1\n");
}

#[test]
fn templates_say_what_instances_are() {
    let instance = TemplateContext {
        name: "c1".into(),
        config: [("user.x".into(), "y".into())].into(),
        ..TemplateContext::default()
    };
    let properties = [("default".to_owned(), "none".to_owned())].into();
    for (source, want) in [
        ("{{ container.name }}\n", "c1\n"),
        ("{{ instance.name }}", "c1"),
        ("{{ config_get(\"user.x\", \"\") }}", "y"),
        ("{{ config_get(\"user.none\", properties.default) }}", "none"),
        ("{% if config_get(\"user.none\", \"\") == \"\" %}a{% else %}b{% endif %}\n\n", "a\n\n"),
        ("{{ trigger }} {{ path }} {{ nothing.at.all }}<", "start /x <"),
    ] {
        let made = render(source, "/x", &properties, "start", &instance).unwrap();
        assert_eq!(String::from_utf8(made).unwrap(), want, "{source}");
    }
    for source in ["{% for", "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"] {
        assert!(render(source, "/x", &properties, "start", &instance).is_err(), "{source}");
    }
}

#[test]
fn templates_write_inside_of_the_instance() {
    let place = Place::new();
    let bytes = Tarball(Builder::new(Vec::new()))
        .file(
            "metadata.yaml",
            b"architecture: x86_64\ntemplates:\n  /etc/a:\n    when: [create]\n    template: t\n    mode: \"0600\"\n  /etc/link:\n    when: [create]\n    template: t\n  /etc/there:\n    when: [create]\n    create_only: true\n    template: t\n  /etc/late:\n    when: [start]\n    template: t\n",
        )
        .file("templates/t", b"{{ path }}")
        .entry(EntryType::Symlink, "rootfs/etc/link", "/../../../outside", b"")
        .file("rootfs/etc/there", b"mine")
        .bytes();
    place.unpack_bytes(&bytes).unwrap();
    let apply = |trigger: &str| apply(&place.path("image"), trigger, &TemplateContext::default()).unwrap();
    apply("create");
    let read = |name: &str| fs::read_to_string(place.path("image/rootfs").join(name)).unwrap();
    assert_eq!(
        (read("etc/a"), read("outside"), read("etc/there")),
        ("/etc/a".into(), "/etc/link".into(), "mine".into())
    );
    assert_eq!(fs::metadata(place.path("image/rootfs/etc/a")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_to_string(place.path("outside")).unwrap(), "untouched");
    assert!(!place.path("image/rootfs/etc/late").exists());
    apply("start");
    assert_eq!(read("etc/late"), "/etc/late");
}

/// A directory as squashfs whose names and contents stand in it as they are; `None` where mksquashfs is missing.
fn squashed(place: &Place, tree: &str) -> Option<Vec<u8>> {
    let to = place.path("squashed");
    let _ = fs::remove_file(&to);
    let mut command = std::process::Command::new("mksquashfs");
    command.arg(place.path(tree)).arg(&to).args(["-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX"]);
    command.output().ok().filter(|o| o.status.success())?;
    Some(fs::read(to).unwrap())
}

#[test]
fn nothing_gets_out_of_a_squashfs_either() {
    let place = Place::new();
    fs::create_dir_all(place.path("tree/rootfs/zz")).unwrap();
    fs::write(place.path("tree/rootfs/zz/outside"), "bad").unwrap();
    fs::create_dir_all(place.path("tree/rootfs/y2")).unwrap();
    fs::write(place.path("tree/rootfs/y2/outside"), "bad").unwrap();
    std::os::unix::fs::symlink(place.dir.path(), place.path("tree/rootfs/y1")).unwrap();
    let Some(plain) = squashed(&place, "tree") else {
        return eprintln!("SKIPPED: mksquashfs is missing, squashfs is not tried");
    };
    let renamed = |from: &[u8], to: &[u8]| {
        let mut bytes = plain.clone();
        let places: Vec<usize> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
        assert!(!places.is_empty(), "the name is not there as it is");
        places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
        bytes
    };
    let metadata = Tarball(Builder::new(Vec::new())).file("metadata.yaml", YAML.as_bytes()).bytes();
    // A directory called `..`, one called `/`, and one that has the name of a link to the outside.
    for (what, bytes) in
        [("dots", renamed(b"zz", b"..")), ("a slash", renamed(b"zz", b"/x")), ("twice", renamed(b"y2", b"y1"))]
    {
        let other = Place::new();
        let rootfs = Some(other.file("r", &bytes));
        let files = Files { image: other.file("m", &metadata), rootfs };
        // Whether it is refused or left out is the program's own matter.
        let _ = other.unpack(&files, true, Some(1 << 20));
        for untouched in [&other, &place] {
            assert_eq!(fs::read_to_string(untouched.path("outside")).unwrap(), "untouched", "{what}");
        }
        assert!(!other.path("image/outside").exists(), "{what}");
    }
}

#[test]
fn what_is_small_and_becomes_large_is_refused_before_it_is() {
    let place = Place::new();
    let zstd = |tar: Vec<u8>| zstd::stream::encode_all(&tar[..], 1).unwrap();
    let large = vec![0; 40 << 20];
    let limit = Some(30 << 20);
    let one_large = zstd(Tarball::new().file("rootfs/x", &large).bytes());
    // What is claimed alone, without being there, is enough.
    let claimed = Tarball::new().pax("size", b"70368744177664").file("rootfs/x", b"").bytes();
    let mut many = Tarball::new();
    for n in 0..70_000 {
        many = many.file(&format!("rootfs/{n}"), b"");
    }
    let many = zstd(many.bytes());
    for (what, bytes, limit) in [("one", &one_large, limit), ("many", &many, limit), ("claimed", &claimed, None)] {
        let other = Place::new();
        let image = other.file("file", bytes);
        let e = other.unpack(&Files { image, rootfs: None }, true, limit).unwrap_err();
        assert!(e.message.starts_with("The image doesn't fit"), "{what}: {e}");
    }
    // The metadata is read into memory, whole.
    let metadata = zstd(Tarball(Builder::new(Vec::new())).file("metadata.yaml", &large).bytes());
    let image = place.file("file", &metadata);
    assert!(inspect(&Files { image, rootfs: None }).unwrap_err().message.contains("larger than"));
    fs::create_dir_all(place.path("tree/rootfs")).unwrap();
    fs::write(place.path("tree/rootfs/x"), &large).unwrap();
    fs::write(place.path("tree/metadata.yaml"), YAML).unwrap();
    if squashed(&place, "tree").is_none() {
        return eprintln!("SKIPPED: mksquashfs is missing, squashfs is not tried");
    }
    let files = Files { image: place.path("squashed"), rootfs: None };
    let e = place.unpack(&files, true, limit).unwrap_err();
    assert!(e.message.starts_with("The image doesn't fit"), "{e}");
    fs::write(place.path("tree/metadata.yaml"), &large).unwrap();
    squashed(&place, "tree").unwrap();
    assert!(inspect(&files).unwrap_err().message.contains("larger than"));
    // Two files share what there is.
    let small = Tarball(Builder::new(Vec::new())).file("metadata.yaml", YAML.as_bytes());
    let image = place.file("m", &small.file("templates/t", &large[..20 << 20]).bytes());
    let rootfs = Some(place.file("r", &Tarball(Builder::new(Vec::new())).file("x", &large[..20 << 20]).bytes()));
    let other = Place::new();
    let e = other.unpack(&Files { image, rootfs }, true, limit).unwrap_err();
    assert!(e.message.starts_with("The image doesn't fit"), "{e}");
}

#[test]
fn what_nests_or_refers_to_itself_has_an_end() {
    // On a stack as small as those of the daemon's threads.
    let work = || {
        // Directories as deep as a path can be, none of which has an entry of its own.
        let place = Place::new();
        let deep = format!("rootfs/{}x", "d/".repeat(2000));
        place.unpack_bytes(&Tarball::new().pax("path", deep.as_bytes()).file("x", b"deep").bytes()).unwrap();
        assert_eq!(fs::read(place.path("image").join(&deep)).unwrap(), b"deep");
        let cancel = AtomicBool::new(false);
        let options = Pack {
            content: Content::All,
            metadata: None,
            compression: Compression::None,
            id: &|id| id,
            progress: &|_| (),
            cancel: &cancel,
        };
        let e = pack(&place.path("image"), Vec::new(), &options).unwrap_err();
        assert!(e.message.contains("more than 256 deep"), "{e}");
        let deeper = format!("rootfs/{}x", "d/".repeat(100_000));
        let place = Place::new();
        let e = place.unpack_bytes(&Tarball::new().pax("path", deeper.as_bytes()).file("x", b"").bytes()).unwrap_err();
        assert!(e.message.contains("is impossible"), "{:.200}", e.message);
        // A billion laughs, and brackets without end.
        let mut laughs =
            "architecture: x86_64\nproperties:\n  a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n".to_owned();
        for n in 1..12 {
            let all = format!("*a{}, ", n - 1).repeat(9);
            laughs.push_str(&format!("  a{n}: &a{n} [{}]\n", all.trim_end_matches(", ")));
        }
        for yaml in [laughs, format!("architecture: {}", "[".repeat(200_000)), "- ".repeat(200_000)] {
            let place = Place::new();
            fs::write(place.path("image/metadata.yaml"), yaml).unwrap();
            assert!(read_metadata(&place.path("image")).unwrap_err().message.contains("can't be read"));
        }
        for template in ["(".repeat(100_000), "{{ ".to_owned() + &"(".repeat(100_000), "{% if 1 %}".repeat(50_000)] {
            let _ = render(&template, "/x", &Default::default(), "start", &TemplateContext::default());
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn owners_of_what_templates_make_can_not_wrap_around() {
    let place = Place::new();
    let yaml =
        "architecture: x86_64\ntemplates:\n  /etc/a:\n    when: [create]\n    template: t\n    uid: \"4294967295\"\n";
    let bytes = Tarball(Builder::new(Vec::new()))
        .file("metadata.yaml", yaml.as_bytes())
        .file("templates/t", b"x")
        .entry(EntryType::Directory, "rootfs", "", b"")
        .bytes();
    place.unpack_bytes(&bytes).unwrap();
    for id_base in [0, 1_000_000] {
        let instance = TemplateContext { id_base, ..TemplateContext::default() };
        let e = apply(&place.path("image"), "create", &instance).unwrap_err();
        assert!(e.message.contains("The owner 4294967295 is impossible"), "{e}");
    }
    assert!(!place.path("image/rootfs/etc/a").exists());
}
