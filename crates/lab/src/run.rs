//! Running programs and namespaces.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Errors here are for the person who reads a test's output.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// The result of whatever can go wrong.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit code; 128 + n if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// Standard output if it succeeded, otherwise an error with all it said.
    pub fn ok(self) -> Result<String> {
        match self.code {
            0 => Ok(self.out),
            code => Err(format!("exit code {code}: {}{}", self.out, self.err).into()),
        }
    }

    /// Standard error if it failed, otherwise an error.
    pub fn refused(self) -> Result<String> {
        match self.code {
            0 => Err(format!("it succeeded: {}{}", self.out, self.err).into()),
            _ => Ok(self.err),
        }
    }
}

/// Runs a command to its end with the given standard input.
pub fn run(command: &mut Command, stdin: &[u8]) -> Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut pipe = child.stdin.take();
    let input = stdin.to_vec();
    let feeder = std::thread::spawn(move || {
        if let Some(pipe) = &mut pipe {
            let _ = pipe.write_all(&input);
        }
    });
    let done = child.wait_with_output()?;
    let _ = feeder.join();
    Ok(Output {
        code: code(done.status),
        out: String::from_utf8_lossy(&done.stdout).into_owned(),
        err: String::from_utf8_lossy(&done.stderr).into_owned(),
    })
}

fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs a program that has to succeed; its standard output.
pub fn must<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String> {
    let mut words = program.to_owned();
    for arg in args {
        let _ = write!(words, " {}", arg.as_ref().to_string_lossy());
    }
    run(Command::new(program).args(args), b"").and_then(Output::ok).map_err(|e| format!("{words}: {e}").into())
}

/// Fails unless this is root: namespaces and mounts need it.
pub fn root() -> Result<()> {
    match must("id", &["-u"])?.trim() {
        "0" => Ok(()),
        _ => Err("this needs root: it makes network namespaces, mounts and containers".into()),
    }
}

/// True, and said loudly, where a test can't run: it makes namespaces, and needs root and these programs or files.
pub fn skip(needs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |need: &&str| match need.starts_with('/') {
        true => Path::new(need).exists(),
        false => std::env::split_paths(&path).any(|dir| dir.join(need).exists()),
    };
    let skip = root().is_err() || !needs.iter().all(there);
    if skip {
        let needs: String = needs.iter().map(|need| format!(", {need}")).collect();
        eprintln!("SKIPPED: this test makes namespaces and needs root{needs}");
    }
    skip
}

/// A process that holds new namespaces (`unshare` flags, a process namespace is always among them), after
/// `setup` (shell) has run in them.
///
/// Its child is their init and collects the processes that are left to it. Killing it ends them all.
pub fn namespace(flags: &[&str], setup: &str) -> Result<Child> {
    let ready = tempfile::NamedTempFile::new()?;
    let script = format!("set -e; {setup}; echo ready > {}; sleep infinity & wait", ready.path().display());
    let mut child = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"])
        .args(flags)
        .args(["--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let made = until(Duration::from_secs(10), || {
        if let Some(status) = child.try_wait()? {
            return Err(format!("the setup of a namespace failed ({status}): {setup}").into());
        }
        Ok(std::fs::read_to_string(ready.path())?.starts_with("ready").then_some(()))
    });
    made.map(|()| child)
}

/// The process that a waiting `unshare --fork` or `nsenter` has started; it may be about to.
pub fn only_child(pid: u32) -> Result<u32> {
    until(Duration::from_secs(5), || {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        Ok(children.split_whitespace().next().map(str::parse).transpose()?)
    })
    .map_err(|e| format!("process {pid} has no child: {e}").into())
}

/// Asks again every few milliseconds until there is an answer; an error at the end of `patience`.
pub fn until<T>(patience: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if start.elapsed() > patience {
            return Err(format!("still waiting after {} s", patience.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Removes the (empty) cgroups that daemons with their state below `dir` have left: each names its daemon's
/// directory by a hash that it writes to `cgroup.name` there.
pub fn sweep_cgroups(dir: &Path) {
    let Ok(machines) = std::fs::read_dir(dir) else { return };
    for machine in machines.flatten() {
        let Ok(name) = std::fs::read_to_string(machine.path().join("incus/cgroup.name")) else { continue };
        let _ = Command::new("find")
            .args([
                "/sys/fs/cgroup",
                "-depth",
                "-type",
                "d",
                "-path",
                &format!("*/{}*", name.trim()),
                "-exec",
                "rmdir",
                "{}",
                ";",
            ])
            .stderr(Stdio::null())
            .status();
    }
}
