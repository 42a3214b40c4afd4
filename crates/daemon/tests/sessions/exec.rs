//! Programs with pipes.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use lab::run::{Output, only_child, until};
use lab::{Cluster, Result};

fn exec(cluster: &Cluster, args: &[&str], stdin: &str) -> Result<Output> {
    cluster.incus_in(1, &[&["exec"], args].concat(), stdin)
}

fn sh(cluster: &Cluster, script: &str) -> Result<Output> {
    exec(cluster, &["c1", "--", "sh", "-c", script], "")
}

pub fn programs(cluster: &Cluster) -> Result<()> {
    let done = sh(cluster, "echo out; echo err >&2; exit 7")?;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(sh(cluster, "kill -9 $$")?.code, 137);
    for (program, code, said) in
        [("no-such-program", 127, "Command not found"), ("/etc/passwd", 126, "Command not executable")]
    {
        let done = exec(cluster, &["c1", "--", program], "")?;
        assert_eq!(done.code, code, "{done:?}");
        assert!(done.err.contains(said), "{done:?}");
    }
    // Both ways at once, more than any pipe holds.
    let lines: String = (0..150_000).map(|n| format!("{n:06}\n")).collect();
    let done = exec(cluster, &["c1", "--", "cat"], &lines)?;
    assert_eq!((done.code, done.out.len(), done.out == lines), (0, lines.len(), true), "{}", done.err);
    assert_eq!(exec(cluster, &["c1", "--", "wc", "-c"], &lines)?.out.trim(), lines.len().to_string());
    // Who does not read is not waited for.
    assert_eq!(exec(cluster, &["c1", "--", "head", "-n", "1"], &lines)?.out, "000000\n");
    // What it leaves behind is not waited for either.
    assert_eq!(sh(cluster, "sleep 1000 & echo left")?.out, "left\n");

    let done = exec(cluster, &["c1", "--env", "A=b c", "--", "env"], "")?;
    for line in [
        "A=b c",
        "FROM_CONFIG=yes",
        "HOME=/root",
        "USER=root",
        "LANG=C.UTF-8",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ] {
        assert!(done.out.lines().any(|l| l == line), "{line}: {}", done.out);
    }
    assert_eq!(sh(cluster, "pwd; id -u")?.out, "/root\n0\n");
    let as_user =
        ["c1", "--user", "1000", "--group", "1001", "--cwd", "/tmp", "--", "sh", "-c", "id -u; id -g; pwd; echo $HOME"];
    assert_eq!(exec(cluster, &as_user, "")?.out, "1000\n1001\n/tmp\n\n");

    for (args, said) in [(["s1", "--", "true"], "Instance is not running"), (["no", "--", "true"], "not found")] {
        let done = exec(cluster, &args, "")?;
        assert!(done.code != 0 && done.err.contains(said), "{done:?}");
    }
    cluster.incus(1, &["pause", "c1"])?;
    let done = exec(cluster, &["c1", "--", "true"], "")?;
    assert!(done.code != 0 && done.err.contains("Instance is frozen"), "{done:?}");
    cluster.incus(1, &["resume", "c1"])?;
    signals(cluster)
}

/// A client that runs a script and has shown its first line.
fn started(cluster: &Cluster, script: &str) -> Result<Child> {
    let incus = cluster.programs.incus.clone();
    let mut command = cluster.lab.machines[0].command(incus);
    command.args(["exec", "c1", "--", "sh", "-c", script]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().ok_or("no output")?);
    out.read_line(&mut line)?;
    assert_eq!(line, "ready\n");
    // Whoever waits for more must be able to.
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    Ok(child)
}

fn signals(cluster: &Cluster) -> Result<()> {
    let mut child = started(cluster, "trap 'exit 33' TERM; echo ready; while :; do sleep 0.1; done")?;
    lab::run::must("kill", &["-TERM", &only_child(child.id())?.to_string()])?;
    let status = until(Duration::from_secs(10), || Ok(child.try_wait()?))?;
    assert_eq!(status.code(), Some(33));
    Ok(())
}

fn runs(cluster: &Cluster, pattern: &str) -> Result<bool> {
    Ok(!sh(cluster, &format!("ps | grep ' {pattern}$' || true"))?.out.trim().is_empty())
}

/// What a client that died has started ends.
pub fn client_is_killed(cluster: &Cluster) -> Result<()> {
    let mut child = started(cluster, "echo ready; exec sleep 4711")?;
    cluster.until("the program", || Ok(runs(cluster, "sleep 4711")?.then_some(())))?;
    lab::run::must("kill", &["-KILL", &only_child(child.id())?.to_string()])?;
    child.wait()?;
    cluster.until("the program ended", || Ok((!runs(cluster, "sleep 4711")?).then_some(())))
}

/// The client of a daemon that died gets an error, the instance runs on.
pub fn daemon_is_killed(cluster: &mut Cluster) -> Result<()> {
    let pid = cluster.get(1, "/1.0/instances/c1/state")?["pid"].clone();
    let mut child = started(cluster, "echo ready; exec sleep 1000")?;
    cluster.kill(2)?;
    cluster.start(2)?;
    let status = until(Duration::from_secs(30), || Ok(child.try_wait()?))?;
    assert!(!status.success(), "{status}");
    cluster.until("the instance is there again", || {
        let state = cluster.get(1, "/1.0/instances/c1/state");
        Ok(state.is_ok_and(|state| state["pid"] == pid).then_some(()))
    })?;
    assert_eq!(sh(cluster, "echo again")?.out, "again\n");
    Ok(())
}
