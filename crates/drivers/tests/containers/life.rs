//! Starting, watching, stopping.

use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use drivers::instance::{End, Status};
use incus_core::lxc_conf::{Link, Spec};

use crate::lab::{Lab, expect, until};

pub fn starts_and_stops(lab: &Lab) {
    let it = &lab.containers;
    assert_eq!(it.status("c1").unwrap(), Status::Stopped);
    assert_eq!((it.init_pid("c1").unwrap(), it.wait("c1").unwrap()), (None, End::Stopped));
    let spec = lab.spec("c1");
    let start = Instant::now();
    let pid = it.start("c1", &spec).unwrap();
    println!("a start took {:?}", start.elapsed());
    assert_eq!((it.status("c1").unwrap(), it.init_pid("c1").unwrap()), (Status::Running, Some(pid)));
    assert!(it.start("c1", &spec).unwrap_err().message.contains("already running"));
    assert!(it.forget("c1").unwrap_err().message.contains("running"));
    lab.ready("c1");
    // Root inside is nobody outside, and its files are its own.
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "1000000", "1000000000"]);
    assert_eq!(lab.sh("c1", "stat -c %u:%g /etc/passwd; touch /made; stat -c %u /made").out, "0:0\n0\n");
    // Nothing of this process is left in its monitor but the ends that it needs.
    let monitor = host::process::parent(pid).unwrap();
    assert_eq!(host::process::title(monitor).unwrap().split(' ').next(), Some("[lxc"));
    for fd in fs::read_dir(format!("/proc/{monitor}/fd")).unwrap().flatten() {
        let target = fs::read_link(fd.path()).unwrap_or_default();
        assert!(!target.to_string_lossy().contains("image"), "{target:?}");
    }
    let start = Instant::now();
    it.stop("c1").unwrap();
    println!("a stop took {:?}", start.elapsed());
    assert_eq!((it.status("c1").unwrap(), it.wait("c1").unwrap()), (Status::Stopped, End::Stopped));
    assert!(lab.cgroups("c1*").is_empty(), "{:?}", lab.cgroups("c1*"));
    it.stop("c1").unwrap();
    assert!(it.shutdown("c1", None).unwrap());
}

pub fn shutdown_and_reboot(lab: &Lab) {
    let it = &lab.containers;
    let spec = lab.spec("c1");
    // Asked at once, before its init listens, it stops all the same.
    it.start("c1", &spec).unwrap();
    thread::scope(|s| {
        let waiting = s.spawn(|| (it.wait("c1").unwrap(), Instant::now()));
        let start = Instant::now();
        let stopped = it.shutdown("c1", Some(Duration::from_secs(20))).unwrap();
        println!("a shutdown took {:?}", start.elapsed());
        if !stopped {
            // Otherwise the other one would wait for ever.
            it.stop("c1").unwrap();
        }
        assert!(stopped);
        let (end, at) = waiting.join().unwrap();
        assert_eq!(end, End::Stopped);
        assert!(at.elapsed() < Duration::from_millis(500));
    });
    // What it said last can still be read.
    assert!(String::from_utf8_lossy(&it.console_log("c1", false).unwrap()).contains("going down"));
    // A reboot from inside ends it, and is told; the network link is back.
    let made = Command::new("ip").args("link add vethc1 type veth peer name vethp1".split(' ')).status();
    assert!(made.unwrap().success());
    let links = vec![Link { host: "vethp1".into(), inside: "net0".into() }];
    let spec = Spec { links, ..spec };
    for _ in 0..2 {
        it.start("c1", &spec).unwrap();
        lab.ready("c1");
        let usage = it.usage("c1").unwrap();
        let card = usage.network.iter().find(|c| c.link.name == "net0").unwrap();
        assert_eq!(card.host_name, "vethc1");
        assert!(Command::new("ip").args(["link", "show", "vethp1"]).output().unwrap().stdout.is_empty());
        assert_eq!(lab.run("c1", &["reboot"]).code, 0);
        assert_eq!(it.wait("c1").unwrap(), End::Reboot);
        assert_eq!(it.status("c1").unwrap(), Status::Stopped);
        assert!(!Command::new("ip").args(["link", "show", "vethp1"]).output().unwrap().stdout.is_empty());
    }
    // Halting from inside ends it for good. Who doesn't stop in time is told so.
    it.start("c1", &spec).unwrap();
    lab.ready("c1");
    assert!(!it.shutdown("c1", Some(Duration::from_millis(1))).unwrap());
    assert_eq!(it.wait("c1").unwrap(), End::Stopped);
    it.start("c1", &spec).unwrap();
    lab.ready("c1");
    assert_eq!(lab.run("c1", &["poweroff"]).code, 0);
    assert_eq!(it.wait("c1").unwrap(), End::Stopped);
}

pub fn frozen(lab: &Lab) {
    let it = &lab.containers;
    assert_eq!(it.freeze("c1").unwrap_err().message, "Instance is not running");
    lab.running("c1");
    it.freeze("c1").unwrap();
    assert_eq!(it.status("c1").unwrap(), Status::Frozen);
    it.unfreeze("c1").unwrap();
    assert_eq!(it.status("c1").unwrap(), Status::Running);
    assert_eq!(lab.run("c1", &["true"]).code, 0);
    it.freeze("c1").unwrap();
    let start = Instant::now();
    it.stop("c1").unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(it.status("c1").unwrap(), Status::Stopped);
}

pub fn limits(lab: &Lab) {
    let it = &lab.containers;
    let spec = Spec { memory: Some(64 << 20), processes: Some(100), cpus: Some("0".into()), ..lab.spec("c1") };
    let before = SystemTime::now();
    it.start("c1", &spec).unwrap();
    lab.ready("c1");
    let usage = it.usage("c1").unwrap();
    assert_eq!(usage.memory_limit, Some(64 << 20));
    assert!(usage.memory.unwrap() > 0 && usage.memory_peak >= usage.memory && usage.cpu.unwrap() > 0, "{usage:?}");
    assert!((2..20).contains(&usage.processes), "{usage:?}");
    let started = usage.started.unwrap();
    assert!(started + Duration::from_secs(2) > before && started < SystemTime::now() + Duration::from_secs(2));
    assert_eq!(usage.network.iter().map(|c| c.link.name.as_str()).collect::<Vec<_>>(), ["lo"]);
    assert_eq!(lab.sh("c1", "grep Cpus_allowed_list /proc/self/status").out, "Cpus_allowed_list:\t0\n");
    let fork = "for i in $(seq 15); do sleep 1 & done; wait; echo all";
    assert!(lab.sh("c1", fork).out.contains("all"));
    let changed = Spec { memory: Some(32 << 20), processes: Some(12), cpus: None, ..spec };
    it.set_limits("c1", &changed.limits()).unwrap();
    assert_eq!(it.usage("c1").unwrap().memory_limit, Some(32 << 20));
    assert!(lab.sh("c1", fork).err.contains("fork"));
    let bad = it.set_limits("c1", &[("pids.max", "many".into())]).unwrap_err();
    assert!(bad.message.contains("Setting pids.max to many"), "{bad}");
}

pub fn console(lab: &Lab) {
    let it = &lab.containers;
    assert!(it.console_log("c1", false).unwrap().is_empty());
    lab.running("c1");
    let console = it.console("c1").unwrap();
    assert!(it.console("c1").is_err());
    let mut terminal = fs::File::from(console.terminal.try_clone().unwrap());
    terminal.write_all(b"\n").unwrap();
    let seen = expect(&mut terminal, "# ");
    assert!(!seen.contains("\r\r"), "{seen:?}");
    terminal.write_all(b"echo con''sole\n").unwrap();
    // With the prompt after it: what the shell still has to say would stand in the log that is cleared below.
    expect(&mut terminal, "console\r\n/ # ");
    drop((console, terminal));
    until("the console to be free", || it.console("c1").is_ok());
    let shown = it.console_log("c1", true).unwrap();
    assert!(String::from_utf8_lossy(&shown).contains("press Enter"));
    assert!(it.console_log("c1", false).unwrap().is_empty());
    lab.sh("c1", "echo late > /dev/console");
    until("the log", || it.console_log("c1", false).unwrap().starts_with(b"late"));
    it.stop("c1").unwrap();
    assert!(it.console_log("c1", false).unwrap().starts_with(b"late"));
}

pub fn failures(lab: &Lab) {
    let it = &lab.containers;
    let spec = lab.spec("c1");
    let message = |spec: Spec| {
        let e = it.start("c1", &spec).unwrap_err().message;
        assert_eq!(it.status("c1").unwrap(), Status::Stopped, "{e}");
        println!("{e}");
        e
    };
    let bad = message(Spec { rootfs: "/no/such/rootfs".into(), ..spec.clone() });
    assert!(bad.contains("/no/such/rootfs") && bad.contains("No such file"), "{bad}");
    let bad = message(Spec { raw: "lxc.no.such.key = 1".into(), ..spec.clone() });
    assert!(bad.contains("lxc.no.such.key") || bad.contains("configuration"), "{bad}");
    fs::remove_file(format!("{}/sbin/init", spec.rootfs)).unwrap();
    let bad = message(spec.clone());
    assert!(bad.contains("/sbin/init"), "{bad}");
    let links = vec![Link { host: "no-such-link".into(), inside: "net0".into() }];
    let bad = message(Spec { links, ..lab.spec("c1") });
    assert!(bad.contains("no-such-link"), "{bad}");
    // A file system without id-mapped mounts.
    let ramfs = lab.dir.path().join("ramfs");
    fs::create_dir_all(&ramfs).unwrap();
    assert!(Command::new("mount").args(["-t", "ramfs", "none"]).arg(&ramfs).status().unwrap().success());
    let spec = lab.spec("c1");
    assert!(Command::new("cp").args(["-a", &spec.rootfs]).arg(&ramfs).status().unwrap().success());
    let bad = message(Spec { rootfs: ramfs.join("rootfs").to_string_lossy().into_owned(), ..spec.clone() });
    assert!(bad.contains("id-mapped"), "{bad}");
    assert!(Command::new("umount").arg(&ramfs).status().unwrap().success());
    // After all that it starts.
    it.start("c1", &spec).unwrap();
}

pub fn crash(lab: &Lab) {
    let it = &lab.containers;
    let spec = lab.running("c1");
    // Its monitor dies, and so does it; cgroups and a dead monitor that nobody collects remain.
    let pid = it.init_pid("c1").unwrap().unwrap();
    let monitor = host::process::Process::open(host::process::parent(pid).unwrap()).unwrap().unwrap();
    thread::scope(|s| {
        let waiting = s.spawn(|| it.wait("c1").unwrap());
        monitor.signal(9).unwrap();
        assert_eq!(waiting.join().unwrap(), End::Stopped);
    });
    until("its end", || it.status("c1").unwrap() == Status::Stopped);
    it.start("c1", &spec).unwrap();
    lab.ready("c1");
    // Its init dies.
    let pid = it.init_pid("c1").unwrap().unwrap();
    host::process::Process::open(pid).unwrap().unwrap().signal(9).unwrap();
    assert_eq!(it.wait("c1").unwrap(), End::Stopped);
    it.start("c1", &spec).unwrap();
    lab.ready("c1");
    it.stop("c1").unwrap();
    // Somebody else's leftovers.
    for place in lab.cgroups("lxc.pivot") {
        fs::create_dir_all(place.parent().unwrap().join("c1/a/b")).unwrap();
        fs::create_dir_all(place.parent().unwrap().join("c1.monitor")).unwrap();
    }
    it.start("c1", &spec).unwrap();
}

pub fn another_process(lab: &Lab) {
    // Started by a process that is killed right after.
    let spec = lab.running("c1");
    let other = lab.again();
    assert_eq!(other.status("c1").unwrap(), Status::Running);
    assert_eq!(other.usage("c1").unwrap().pid, lab.containers.init_pid("c1").unwrap().unwrap());
    assert!(other.console("c1").is_ok());
    thread::scope(|s| {
        let waiting = s.spawn(|| other.wait("c1").unwrap());
        assert_eq!(lab.run("c1", &["reboot"]).code, 0);
        assert_eq!(waiting.join().unwrap(), End::Reboot);
    });
    // It knows how it ended even if nobody waited.
    assert_eq!(lab.again().wait("c1").unwrap(), End::Reboot);
    other.start("c1", &spec).unwrap();
    other.stop("c1").unwrap();
    assert_eq!(lab.again().wait("c1").unwrap(), End::Stopped);
}

pub fn privileged(lab: &Lab) {
    let it = &lab.containers;
    let spec = Spec { idmap: None, ..lab.spec("c1") };
    let pid = it.start("c1", &spec).unwrap();
    lab.ready("c1");
    assert!(fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap().contains("4294967295"));
    let done = lab.sh("c1", "echo x > /dev/null && mknod /tmp/sda b 8 0 && cat /tmp/sda");
    assert!(done.err.contains("not permitted"), "{done:?}");
    let bounds = lab.sh("c1", "grep CapBnd /proc/self/status").out;
    let bounds = u64::from_str_radix(bounds.split_whitespace().nth(1).unwrap(), 16).unwrap();
    for (name, bit) in [("sys_module", 16), ("sys_rawio", 17), ("sys_time", 25), ("mac_override", 32)] {
        assert_eq!(bounds & (1 << bit), 0, "{name}: {bounds:x}");
    }
    let (_, theirs) = it.terminal("c1", (80, 24)).unwrap();
    drop(theirs);
    assert!(it.shutdown("c1", Some(Duration::from_secs(20))).unwrap());
}
