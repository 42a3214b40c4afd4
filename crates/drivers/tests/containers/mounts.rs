//! Mounts into a container that runs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use drivers::instance::Hotplug;

use crate::lab::Lab;

fn hotplug(lab: &Lab, target: &str) -> Hotplug {
    let source = lab.dir.path().join("disk");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("f"), "hello").unwrap();
    Hotplug { source, target: target.into(), readonly: false, recursive: false, shift: true }
}

pub fn directory(lab: &Lab) {
    lab.running("c1");
    let disk = hotplug(lab, "/mnt/deep/disk");
    lab.containers.mount("c1", &disk).unwrap();
    let done = lab.sh("c1", "cd /mnt/deep/disk; stat -c %u:%g f .; stat -c %u:%g ..; cat f; echo new > g; chown 5:6 g");
    assert_eq!(done.out, "0:0\n0:0\n0:0\nhello", "{done:?}");
    let meta = fs::metadata(disk.source.join("g")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (5, 6));
    lab.containers.unmount("c1", "/mnt/deep/disk").unwrap();
    assert_eq!(lab.sh("c1", "ls /mnt/deep/disk").out, "");
    // Read-only, as it is, and with what is mounted below it; a path with a link in it stays inside.
    fs::create_dir_all(disk.source.join("below")).unwrap();
    let below = disk.source.join("below");
    assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&below).status().unwrap().success());
    fs::write(below.join("t"), "tmpfs").unwrap();
    lab.sh("c1", "ln -s / /mnt/link");
    let plain =
        Hotplug { target: "mnt/link/disk2".into(), readonly: true, recursive: true, shift: false, ..disk.clone() };
    lab.containers.mount("c1", &plain).unwrap();
    let done = lab.sh("c1", "cd /disk2; stat -c %u f; cat below/t; touch x");
    assert_eq!(done.out, "65534\ntmpfs");
    assert!(done.err.contains("Read-only"), "{done:?}");
    assert!(!std::path::Path::new("/disk2").exists());
    assert!(Command::new("umount").arg(&below).status().unwrap().success());
    // A file.
    let file = Hotplug { source: disk.source.join("f"), target: "/etc/given".into(), ..disk };
    lab.containers.mount("c1", &file).unwrap();
    assert_eq!(lab.sh("c1", "cat /etc/given; stat -c %u /etc/given").out, "hello0\n");
    lab.containers.unmount("c1", "/etc/given").unwrap();
}

pub fn refused(lab: &Lab) {
    let disk = hotplug(lab, "/mnt");
    assert_eq!(lab.containers.mount("c1", &disk).unwrap_err().message, "Instance is not running");
    lab.running("c1");
    let message = |disk: &Hotplug| lab.containers.mount("c1", disk).unwrap_err().message;
    let gone = Hotplug { source: "/no/such".into(), ..disk.clone() };
    assert!(message(&gone).contains("No such file"), "{}", message(&gone));
    for target in ["/", "", "/mnt/../x", "/etc/passwd/x"] {
        let bad = Hotplug { target: target.into(), ..disk.clone() };
        assert!(message(&bad).contains("Failed to make"), "{target}: {}", message(&bad));
    }
    assert!(lab.containers.unmount("c1", "/nothing").is_err());
}
