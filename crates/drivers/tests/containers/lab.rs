//! What the tests share: a directory as `INCUS_DIR`, an image, containers made of it, programs run in them.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use drivers::image::{self, Files};
use drivers::instance::{Containers, Exec, Status};
use incus_core::idmap::Idmap;
use incus_core::lxc_conf::{Init, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The environment that programs get.
pub const PATH: &str = "PATH=/sbin:/bin:/usr/sbin:/usr/bin";

pub struct Lab {
    pub dir: tempfile::TempDir,
    pub containers: Containers,
}

/// What a program did.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Lab {
    pub fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        image::build::busybox(&dir.path().join("image")).unwrap();
        let containers = Lab::containers(&dir.path().join("incus"));
        Lab { dir, containers }
    }

    fn containers(dir: &std::path::Path) -> Containers {
        fs::create_dir_all(dir).unwrap();
        Containers::new(dir, std::env::current_exe().unwrap())
    }

    /// As another daemon process would see them.
    pub fn again(&self) -> Containers {
        Lab::containers(&self.dir.path().join("incus"))
    }

    /// A fresh container.
    pub fn spec(&self, id: &str) -> Spec {
        let volume = self.dir.path().join("pool").join(id);
        let _ = fs::remove_dir_all(&volume);
        fs::create_dir_all(&volume).unwrap();
        let files = Files { image: self.dir.path().join("image"), rootfs: None };
        let cancel = AtomicBool::new(false);
        let options = image::Unpack { unprivileged: true, limit: None, progress: &|_| (), cancel: &cancel };
        image::unpack(&files, &volume, &options).unwrap();
        Spec {
            host_name: id.into(),
            rootfs: volume.join("rootfs").to_string_lossy().into_owned(),
            idmap: Some(Idmap::of_host("", "")),
            init: Init::Busybox,
            architecture: String::new(),
            environment: vec![("FROM_CONFIG".into(), "yes".into())],
            mounts: Vec::new(),
            links: Vec::new(),
            cgroups: self.containers.cgroups(),
            cgroup: String::new(),
            memory: None,
            cpus: None,
            processes: None,
            nesting: false,
            console_log: String::new(),
            raw: String::new(),
        }
    }

    /// A fresh container that runs, its init ready.
    pub fn running(&self, id: &str) -> Spec {
        let spec = self.spec(id);
        self.containers.start(id, &spec).unwrap();
        self.ready(id);
        spec
    }

    /// Waits until its init has said its first words.
    pub fn ready(&self, id: &str) {
        until("init to be ready", || {
            let shown = self.containers.console_log(id, false).unwrap();
            String::from_utf8_lossy(&shown).contains("press Enter")
        });
    }

    pub fn run(&self, id: &str, argv: &[&str]) -> Output {
        self.run_with(id, argv, &[PATH.to_owned()], b"", |_| ())
    }

    pub fn sh(&self, id: &str, script: &str) -> Output {
        self.run(id, &["sh", "-c", script])
    }

    pub fn run_with(
        &self,
        id: &str,
        argv: &[&str],
        env: &[String],
        input: &[u8],
        adjust: impl FnOnce(&mut Exec<'_>),
    ) -> Output {
        let argv: Vec<String> = argv.iter().map(|a| (*a).to_owned()).collect();
        let (stdin, mut to) = std::io::pipe().unwrap();
        let ((mut out, stdout), (mut err, stderr)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let mut exec = Exec {
            argv: &argv,
            env,
            cwd: "/root",
            uid: 0,
            gid: 0,
            stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            controlling_terminal: false,
        };
        adjust(&mut exec);
        let running = self.containers.exec(id, &exec).unwrap();
        drop((stdin, stdout, stderr));
        to.write_all(input).unwrap();
        drop(to);
        let mut output = Output { code: 0, out: String::new(), err: String::new() };
        out.read_to_string(&mut output.out).unwrap();
        err.read_to_string(&mut output.err).unwrap();
        output.code = running.wait().unwrap();
        output
    }

    /// A program that is refused; the words of the refusal.
    pub fn refused(&self, id: &str, argv: &[&str]) -> String {
        let argv: Vec<String> = argv.iter().map(|a| (*a).to_owned()).collect();
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
        let env = [PATH.to_owned()];
        let exec = Exec { argv: &argv, env: &env, cwd: "/", uid: 0, gid: 0, stdio, controlling_terminal: false };
        self.containers.exec(id, &exec).unwrap_err().message
    }

    /// Directories of cgroups that are there with a name of ours.
    pub fn cgroups(&self, name: &str) -> Vec<PathBuf> {
        let Ok(parent) = fs::read_to_string(self.dir.path().join("incus/cgroup.name")) else { return Vec::new() };
        let pattern = format!("*/{parent}/{name}");
        let found = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-path", &pattern]).output().unwrap();
        String::from_utf8_lossy(&found.stdout).lines().map(PathBuf::from).collect()
    }

    /// Ends and removes all containers.
    pub fn tidy(&self) {
        for logs in fs::read_dir(self.dir.path().join("incus/logs")).into_iter().flatten() {
            let id = logs.unwrap().file_name().to_string_lossy().into_owned();
            self.containers.stop(&id).unwrap();
            assert_eq!(self.containers.status(&id).unwrap(), Status::Stopped);
            self.containers.forget(&id).unwrap();
        }
    }

    /// Nothing of it may be left.
    pub fn end(self) {
        let left = self.cgroups("*");
        assert!(left.is_empty(), "cgroups are left: {left:?}");
    }
}

/// Asks again until it is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(20), "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Reads from a terminal until the text has been shown.
pub fn expect(terminal: &mut File, text: &str) -> String {
    let (start, mut seen) = (Instant::now(), String::new());
    while !seen.contains(text) {
        assert!(start.elapsed() < Duration::from_secs(20), "still waiting for {text:?}; seen: {seen:?}");
        let timeout = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        if poll(&mut [PollFd::new(terminal, PollFlags::IN)], Some(&timeout)).unwrap() > 0 {
            let mut buffer = [0; 4096];
            let n = terminal.read(&mut buffer).unwrap_or(0);
            seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    }
    seen
}
