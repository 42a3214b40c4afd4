//! Images: their files, and what is in them.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use drivers::image::template::TemplateContext;
use drivers::image::{Compression, Content, Files, METADATA, Pack, Unpack};
use serde_json::json;

use super::Place;

const YAML: &str = "architecture: x86_64\ncreation_date: 1424284563\nexpiry_date: 0\nproperties:\n  os: BusyBox\n\
    templates:\n  /etc/hostname:\n    when: [create, copy]\n    create_only: true\n    template: hostname.tpl\n    \
    properties: {a: b}\n    uid: \"1\"\n    gid: \"2\"\n    mode: \"0640\"\n";

/// The most that an image may unpack to here, in bytes.
const LIMIT: u64 = 16 << 20;

pub fn unpack(input: &[u8]) {
    let place = Place::new();
    let files = Files { image: place.file(input), rootfs: None };
    let _ = drivers::image::inspect(&files);
    let options = Unpack { unprivileged: true, limit: Some(LIMIT), progress: &|_| (), cancel: &AtomicBool::new(false) };
    if drivers::image::unpack(&files, &place.inside(), &options).is_ok() {
        let _ = drivers::image::template::apply(&place.inside(), "create", &TemplateContext::default());
    }
    place.check();
    // The same as a root file system of its own.
    let dest = place.inside().join("again");
    if std::fs::create_dir(&dest).is_ok() {
        let metadata = place.inside().join("m.tar");
        let made = std::fs::write(&metadata, tarball(&[("metadata.yaml", tar::EntryType::Regular, "", YAML)]));
        let rootfs = Some(files.image);
        let _ = made.map(|()| drivers::image::unpack(&Files { image: metadata, rootfs }, &dest, &options));
    }
    place.check();
}

fn tarball(entries: &[(&str, tar::EntryType, &str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, link, contents) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(contents.len() as u64);
        if !link.is_empty() {
            let _ = header.set_link_name(link);
        }
        let _ = tar.append_pax_extensions([("SCHILY.xattr.user.a", b"b".as_slice()), ("mtime", b"1.5")]);
        let _ = tar.append_data(&mut header, name, contents.as_bytes());
    }
    tar.into_inner().unwrap_or_default()
}

pub fn seeds() -> Vec<Vec<u8>> {
    use tar::EntryType as Is;
    let plain = tarball(&[
        ("metadata.yaml", Is::Regular, "", YAML),
        ("templates/hostname.tpl", Is::Regular, "", "{{ container.name }}"),
        ("rootfs", Is::Directory, "", ""),
        ("rootfs/etc", Is::Directory, "", ""),
        ("rootfs/etc/os", Is::Regular, "", "busybox"),
        ("rootfs/etc/link", Is::Symlink, "../../outside", ""),
        ("rootfs/etc/same", Is::Link, "rootfs/etc/os", ""),
        ("rootfs/null", Is::Char, "", ""),
        ("rootfs/fifo", Is::Fifo, "", ""),
        (&format!("rootfs/{}", "long/".repeat(60)), Is::Directory, "", ""),
    ]);
    let mut seeds = vec![plain.clone()];
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (image, tree) = (dir.path().join("image"), dir.path().join("tree"));
    let made = std::fs::write(&image, &plain).is_ok() && std::fs::create_dir(&tree).is_ok();
    let cancel = AtomicBool::new(false);
    let options = Unpack { unprivileged: true, limit: None, progress: &|_| (), cancel: &cancel };
    if made {
        drivers::image::unpack(&Files { image, rootfs: None }, &tree, &options).expect("a seed that is an image");
        use Compression as By;
        for compression in [By::Gzip, By::Bzip2, By::Xz, By::Lzma, By::Zstd, By::Lz4] {
            let options = Pack {
                content: Content::All,
                metadata: None,
                compression,
                id: &|id| id,
                progress: &|_| (),
                cancel: &cancel,
            };
            seeds.extend(drivers::image::pack(&tree, Vec::new(), &options));
        }
        seeds.extend(squashed(&tree, &dir.path().join("squashed")));
    }
    seeds
}

/// As squashfs, where mksquashfs is installed.
fn squashed(tree: &Path, to: &Path) -> Option<Vec<u8>> {
    let mut command = std::process::Command::new("mksquashfs");
    let made =
        command.arg(tree).arg(to).args(["-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX", "-all-time", "0"]);
    made.output().ok().filter(|o| o.status.success())?;
    std::fs::read(to).ok()
}

pub fn metadata(input: &[u8]) {
    let place = Place::new();
    if std::fs::write(place.inside().join(METADATA), input).is_ok()
        && let Ok(metadata) = drivers::image::read_metadata(&place.inside())
    {
        // What was read can be written, and means the same.
        if drivers::image::write_metadata(&place.inside(), &metadata).is_ok() {
            assert_eq!(drivers::image::read_metadata(&place.inside()).as_ref(), Ok(&metadata));
        }
        let _ = std::fs::create_dir(place.inside().join("templates"));
        let _ = std::fs::create_dir(place.inside().join("rootfs"));
        let _ = std::fs::write(place.inside().join("templates/hostname.tpl"), "x");
        let instance = TemplateContext { id_base: 1_000_000, ..TemplateContext::default() };
        let _ = drivers::image::template::apply(&place.inside(), "create", &instance);
    }
    place.check();
}

pub fn metadata_seeds() -> Vec<Vec<u8>> {
    [
        YAML,
        "architecture: x86_64\nproperties: null\ntemplates:\n  ../../outside:\n    when: [create]\n    template: hostname.tpl\n    uid: \"4294967295\"\n",
        "architecture: &a [x]\ntemplates: {b: *a}\n",
        "{\"architecture\": \"x\", \"properties\": {\"a\": null}}",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

pub fn template(input: &[u8]) {
    let instance = TemplateContext {
        name: "c1".into(),
        config: [("user.x".to_owned(), "y".to_owned())].into(),
        ..TemplateContext::default()
    };
    let source = String::from_utf8_lossy(input);
    let _ = drivers::image::template::render(&source, "/x", &Default::default(), "start", &instance);
}

pub fn template_seeds() -> Vec<Vec<u8>> {
    [
        "{{ container.name }}\n{{ config_get(\"user.x\", properties.default) }}",
        "{% for k, v in config|items %}{{ k|upper }}={{ v|replace(\"a\", \"b\") }}{% else %}none{% endfor %}",
        "{% macro m(a, b=2) %}{{ a * b }}{% endmacro %}{{ m(3) }}{{ \"x\" * 1000 }}{{ range(10)|list|join(\",\") }}",
        "{% set x = [1, 2, 3] %}{{ x[::-1] }}{{ x|map(\"string\")|list }}{{ 2 ** 62 }}{{ 7 // 2 }}{{ \"a\" ~ 1 }}",
        "{% if trigger == \"create\" and not x.y.z is defined %}{%- raw %}{{{% endraw -%}{% endif %}",
        "{% filter upper %}{% block b %}x{% endblock %}{% endfilter %}{# c #}",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

pub fn products(input: &[u8]) {
    let _ = daemon::readers::simple_streams(input, "https://x", "alpine/3.20");
    let _ = daemon::readers::simple_streams(input, "", &"a".repeat(12));
}

pub fn product_seeds() -> Vec<Vec<u8>> {
    let version = json!({"items": {
        "incus.tar.xz": {"ftype": "incus.tar.xz", "path": "i/m", "sha256": "1", "combined_squashfs_sha256": "a".repeat(64)},
        "root.squashfs": {"ftype": "squashfs", "path": "i/r", "sha256": "2"}}});
    let product = json!({"aliases": "alpine/3.20,alpine/3.20/default", "arch": "amd64", "os": "Alpine", "release": "3.20",
        "variant": "default", "versions": {"20240101_13:00": version, "20240303_13:00": {"items": {}}}});
    vec![json!({"products": {"a": product}}).to_string().into_bytes()]
}
