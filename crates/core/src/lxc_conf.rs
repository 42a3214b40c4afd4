//! What liblxc is told about a container, as the text of its configuration.

use std::fmt::Write as _;

use crate::idmap::Idmap;

/// The init of a container, as far as stopping it cleanly depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// systemd.
    Systemd,
    /// busybox.
    Busybox,
    /// Any other.
    Other,
}

impl Init {
    /// Judged by what `/sbin/init` points at.
    pub fn of(target: &str) -> Init {
        match target {
            t if t.contains("systemd") => Init::Systemd,
            t if t.contains("busybox") => Init::Busybox,
            _ => Init::Other,
        }
    }

    const fn halt(self) -> &'static str {
        match self {
            Init::Systemd => "SIGRTMIN+3",
            Init::Busybox => "SIGUSR2",
            Init::Other => "SIGPWR",
        }
    }
}

/// Which cgroup hierarchies the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// One per controller.
    V1,
    /// One for all.
    V2,
}

/// A mount into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Path on the host.
    pub source: String,
    /// Path inside, without a leading slash.
    pub target: String,
    /// Mount options, as `bind,create=dir`.
    pub options: String,
}

/// A network link that is moved into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name on the host.
    pub host: String,
    /// Its name inside.
    pub inside: String,
}

/// Everything that liblxc needs to know.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Host name inside.
    pub host_name: String,
    /// Path of its root file system.
    pub rootfs: String,
    /// Ids; `None` for a privileged container.
    pub idmap: Option<Idmap>,
    /// Its init.
    pub init: Init,
    /// `amd64` and the like; empty for the machine's own.
    pub architecture: String,
    /// Environment of its init.
    pub environment: Vec<(String, String)>,
    /// Mounts beyond the usual ones.
    pub mounts: Vec<Mount>,
    /// Its network links.
    pub links: Vec<Link>,
    /// The machine's hierarchies.
    pub cgroups: Cgroups,
    /// Name of its cgroup, unique on the machine; the driver gives it one.
    pub cgroup: String,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Its processors, as `0-3`.
    pub cpus: Option<String>,
    /// Number of processes.
    pub processes: Option<u64>,
    /// May it hold containers itself?
    pub nesting: bool,
    /// Where its console is logged; the driver decides.
    pub console_log: String,
    /// Lines added as they are: `raw.lxc`.
    pub raw: String,
}

/// What the driver of containers adds: paths on the host.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Where liblxc logs.
    pub log: String,
    /// An empty directory on which the root file system is put together.
    pub rootfs_mount: String,
    /// The cgroup that a monitor waits in while it removes its own.
    pub pivot: String,
    /// Is told the process id of the monitor.
    pub monitor: String,
    /// Is told how it ended: `stop` or `reboot`.
    pub ended: String,
    /// Is AppArmor in force? The profiles that liblxc would look for are not ours.
    pub apparmor: bool,
}

impl Runtime {
    /// Lines that liblxc reads before those of the container.
    fn render(&self, out: &mut String) {
        let mut line = |key: &str, value: &str| {
            let _ = writeln!(out, "{key} = {value}");
        };
        line("lxc.log.file", &self.log);
        line("lxc.log.level", "warn");
        line("lxc.rootfs.mount", &self.rootfs_mount);
        line("lxc.cgroup.dir.monitor.pivot", &self.pivot);
        if self.apparmor {
            line("lxc.apparmor.profile", "unconfined");
        }
        // Both are programs that the monitor runs with `exec` in a shell; liblxc adds words, which nobody reads.
        let shell = |script: &str, path: &str| format!("/bin/sh -c '{script}' {}", quote(path));
        line("lxc.hook.pre-start", &shell("echo $PPID > \"$0\"", &self.monitor));
        // A failing hook makes it stop for good: with its own reboot it would come up without its network links.
        let script = "echo \"$LXC_TARGET\" > \"$0\"; [ \"$LXC_TARGET\" != reboot ]";
        line("lxc.hook.post-stop", &shell(script, &self.ended));
    }
}

fn quote(path: &str) -> String {
    format!("'{}'", path.replace('\'', "'\\''"))
}

impl Spec {
    /// The text of the configuration.
    ///
    /// # Errors
    /// If a value would go on in a line of its own: whoever may set it could tell liblxc anything, as to run a program on
    /// the machine.
    pub fn render(&self, runtime: &Runtime) -> Result<String, String> {
        let (mut out, mut broken) = (String::new(), None);
        runtime.render(&mut out);
        let mut line = |key: &str, value: &str| {
            if [key, value].iter().any(|text| text.contains(['\n', '\0'])) {
                broken.get_or_insert_with(|| format!("A line break can't be part of {key}: {value:?}"));
            }
            let _ = writeln!(out, "{key} = {value}");
        };
        line("lxc.uts.name", &self.host_name);
        line("lxc.rootfs.path", &format!("dir:{}", self.rootfs));
        line("lxc.init.cmd", "/sbin/init");
        line("lxc.pty.max", "1024");
        line("lxc.tty.max", "0");
        line("lxc.console.buffer.size", "auto");
        line("lxc.console.size", "auto");
        line("lxc.console.logfile", &self.console_log);
        line("lxc.mount.auto", "proc:rw sys:rw cgroup:rw:force");
        line("lxc.autodev", "1");
        line("lxc.signal.halt", self.init.halt());
        line("lxc.signal.stop", "SIGKILL");
        if !self.architecture.is_empty() {
            line("lxc.arch", &self.architecture);
        }
        line("lxc.cgroup.dir.container", &self.cgroup);
        line("lxc.cgroup.dir.monitor", &format!("{}.monitor", self.cgroup));
        if let Some(idmap) = &self.idmap {
            line("lxc.rootfs.options", "idmap=container");
            for (kind, range) in [("u", &idmap.uids), ("g", &idmap.gids)] {
                line("lxc.idmap", &format!("{kind} {} {} {}", range.inside, range.outside, range.size));
            }
        } else {
            // Its root is that of the host: it must not change what is not its own.
            line("lxc.cap.drop", "mac_admin mac_override sys_module sys_rawio sys_time");
            let prefix = self.cgroups.prefix();
            line(&format!("{prefix}.devices.deny"), "a");
            for device in DEVICES {
                line(&format!("{prefix}.devices.allow"), device);
            }
        }
        for (key, value) in &self.environment {
            line("lxc.environment", &format!("{key}={value}"));
        }
        for mount in &self.mounts {
            let (source, target) = (field(&mount.source), field(&mount.target));
            line("lxc.mount.entry", &format!("{source} {target} none {} 0 0", mount.options));
        }
        for device in ["fuse", "net/tun"] {
            line("lxc.mount.entry", &format!("/dev/{device} dev/{device} none bind,create=file,optional 0 0"));
        }
        if self.idmap.is_some() {
            for place in KERNEL {
                line("lxc.mount.entry", &format!("/{place} {place} none bind,optional 0 0"));
            }
        }
        if self.nesting {
            line("lxc.mount.entry", "proc dev/.lxc/proc proc create=dir,optional 0 0");
            line("lxc.mount.entry", "sys dev/.lxc/sys sysfs create=dir,optional 0 0");
        }
        if self.links.is_empty() {
            line("lxc.net.0.type", "empty");
        }
        for (n, link) in self.links.iter().enumerate() {
            line(&format!("lxc.net.{n}.type"), "phys");
            line(&format!("lxc.net.{n}.link"), &link.host);
            line(&format!("lxc.net.{n}.name"), &link.inside);
            line(&format!("lxc.net.{n}.flags"), "up");
        }
        for (key, value) in self.limits() {
            line(&format!("{}.{key}", self.cgroups.prefix()), &value);
        }
        if let Some(why) = broken {
            return Err(why);
        }
        out.push_str(&self.raw);
        if !self.raw.is_empty() && !self.raw.ends_with('\n') {
            out.push('\n');
        }
        Ok(out)
    }

    /// The cgroup values that its limits amount to; the same can be set while it runs.
    pub fn limits(&self) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        if let Some(bytes) = self.memory {
            let key = if self.cgroups == Cgroups::V1 { "memory.limit_in_bytes" } else { "memory.max" };
            all.push((key, bytes.to_string()));
        }
        if let Some(cpus) = &self.cpus {
            all.push(("cpuset.cpus", cpus.clone()));
        }
        if let Some(processes) = self.processes {
            all.push(("pids.max", processes.to_string()));
        }
        all
    }
}

/// A path as a field of a line of mounts (fstab(5)).
fn field(path: &str) -> String {
    path.chars().fold(String::new(), |mut out, c| {
        match c {
            ' ' | '\t' | '\n' | '\\' => {
                let _ = write!(out, "\\{:03o}", u32::from(c));
            }
            _ => out.push(c),
        }
        out
    })
}

/// File systems of the kernel that systemd mounts when they are not there, which only the machine's root can: an
/// unprivileged container is shown the machine's, where it may change nothing.
const KERNEL: &[&str] = &[
    "proc/sys/fs/binfmt_misc",
    "sys/fs/fuse/connections",
    "sys/fs/pstore",
    "sys/kernel/config",
    "sys/kernel/debug",
    "sys/kernel/security",
    "sys/kernel/tracing",
];

/// What a privileged container may use: null, zero, full, tty, console, ptmx, random, urandom, pts, fuse, tun.
const DEVICES: &[&str] = &[
    "b *:* m",
    "c *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 10:200 rwm",
    "c 10:229 rwm",
    "c 136:* rwm",
];

impl Cgroups {
    const fn prefix(self) -> &'static str {
        match self {
            Cgroups::V1 => "lxc.cgroup",
            Cgroups::V2 => "lxc.cgroup2",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec() -> Spec {
        Spec {
            host_name: "c1".into(),
            rootfs: "/pool/c1/rootfs".into(),
            idmap: Some(Idmap::contiguous(1_000_000, 65_536)),
            init: Init::Busybox,
            architecture: String::new(),
            environment: vec![("A".into(), "b c".into())],
            mounts: vec![Mount { source: "/a b".into(), target: "mnt".into(), options: "bind,create=dir".into() }],
            links: vec![Link { host: "veth1".into(), inside: "eth0".into() }],
            cgroups: Cgroups::V1,
            cgroup: "incus-1/c1".into(),
            memory: Some(1024),
            cpus: Some("0-1".into()),
            processes: Some(5),
            nesting: false,
            console_log: "/log".into(),
            raw: "lxc.x = y".into(),
        }
    }

    fn runtime() -> Runtime {
        let text = str::to_owned;
        Runtime {
            log: text("/logs/lxc.log"),
            rootfs_mount: text("/lxc"),
            pivot: text("incus-1"),
            monitor: text("/logs/it's/monitor"),
            ended: text("/logs/ended"),
            apparmor: false,
        }
    }

    #[test]
    fn all_of_a_spec_reaches_the_configuration() {
        let text = spec().render(&runtime()).unwrap();
        for line in [
            "lxc.rootfs.path = dir:/pool/c1/rootfs",
            "lxc.rootfs.options = idmap=container",
            "lxc.idmap = u 0 1000000 65536",
            "lxc.idmap = g 0 1000000 65536",
            "lxc.signal.halt = SIGUSR2",
            "lxc.environment = A=b c",
            "lxc.mount.entry = /a\\040b mnt none bind,create=dir 0 0",
            "lxc.mount.entry = /dev/net/tun dev/net/tun none bind,create=file,optional 0 0",
            "lxc.mount.entry = /sys/kernel/debug sys/kernel/debug none bind,optional 0 0",
            "lxc.net.0.link = veth1",
            "lxc.cgroup.memory.limit_in_bytes = 1024",
            "lxc.cgroup.cpuset.cpus = 0-1",
            "lxc.cgroup.pids.max = 5",
            "lxc.x = y",
            "lxc.hook.pre-start = /bin/sh -c 'echo $PPID > \"$0\"' '/logs/it'\\''s/monitor'",
            "lxc.log.file = /logs/lxc.log",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        let other = Spec { idmap: None, cgroups: Cgroups::V2, links: Vec::new(), raw: String::new(), ..spec() }
            .render(&runtime())
            .unwrap();
        assert!(
            !other.contains("idmap") && !other.contains("sys/kernel") && other.contains("lxc.net.0.type = empty"),
            "{other}"
        );
        assert!(other.contains("lxc.cgroup2.memory.max = 1024"), "{other}");
    }

    #[test]
    fn no_value_becomes_a_line_of_its_own() {
        let evil = || "x\nlxc.hook.start-host = /bin/sh".to_owned();
        for spec in [
            Spec { environment: vec![("A".into(), evil())], ..spec() },
            Spec { environment: vec![(evil(), "b".into())], ..spec() },
            Spec { host_name: evil(), ..spec() },
            Spec { rootfs: evil(), ..spec() },
            Spec { architecture: evil(), ..spec() },
            Spec { cpus: Some(evil()), ..spec() },
            Spec { links: vec![Link { host: "veth1".into(), inside: evil() }], ..spec() },
            Spec { mounts: vec![Mount { source: "/a".into(), target: "b".into(), options: evil() }], ..spec() },
        ] {
            let why = spec.render(&runtime()).unwrap_err();
            assert!(why.starts_with("A line break can't be part of lxc."), "{why}");
        }
        // Paths may hold anything.
        let mounts = vec![Mount { source: format!("/{}", evil()), target: "a\\040\tb".into(), options: "bind".into() }];
        let text = Spec { mounts, ..spec() }.render(&runtime()).unwrap();
        assert!(text.lines().all(|l| !l.starts_with("lxc.hook.start-host")), "{text}");
        assert!(text.contains("/x\\012lxc.hook.start-host\\040=\\040/bin/sh a\\134040\\011b none bind 0 0"), "{text}");
    }
}
