//! The helpers by themselves: those for files are confined to a directory, and to what a process sees, and all keep no more
//! capabilities than `docs/security.md` says.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use host::process::status;
use lab::{Cluster, Result};
use russh_sftp::client::SftpSession;

/// A helper, and a client of it.
async fn helper(args: &[&str]) -> Result<(Child, SftpSession)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = Command::new(lab::cluster::Programs::built()?.incusd);
    let child = command.arg("forkfile").args(args).stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
    drop(command);
    Ok((child, SftpSession::new(tokio::net::UnixStream::from_std(ours)?).await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_sees_nothing_but_its_place() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let place = dir.path().join("place");
    std::fs::create_dir_all(place.join("sub"))?;
    std::fs::write(dir.path().join("outside"), "outside")?;
    std::fs::write(place.join("inside"), "inside")?;
    std::os::unix::fs::symlink(dir.path().join("outside"), place.join("absolute"))?;
    std::os::unix::fs::symlink("../outside", place.join("relative"))?;
    std::os::unix::fs::symlink("/sub/../inside", place.join("good"))?;
    let (mut child, sftp) = helper(&["--directory", &place.to_string_lossy()]).await?;
    let mut names: Vec<String> = sftp.read_dir("/").await?.map(|e| e.file_name()).collect();
    names.sort();
    assert_eq!(names, ["absolute", "good", "inside", "relative", "sub"]);
    assert_eq!(sftp.read("good").await?, b"inside");
    for path in ["/absolute", "/relative", "/../outside", "../../outside", &dir.path().to_string_lossy(), "/proc"] {
        assert!(sftp.read(path).await.is_err(), "{path}");
        assert!(!sftp.try_exists(path).await?, "{path}");
    }
    sftp.write("/inside", b"INSIDE").await?;
    assert_eq!(std::fs::read(place.join("inside"))?, b"INSIDE");
    // It ends with its client.
    drop(sftp);
    assert!(lab::run::until(std::time::Duration::from_secs(10), || Ok(child.try_wait()?))?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_is_root_of_the_user_namespace_that_it_enters() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("root");
    for name in ["bin", "tmp", "old"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    let enter = format!(
        "mount --rbind {root} {root}; cd {root}; pivot_root . old; exec /bin/busybox sh -c \
         '/bin/busybox umount -l /old; echo ready; exec /bin/busybox sleep 1000'",
        root = root.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--mount", "--map-root-user", "sh", "-c", &enter]);
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(process.stdout.take().unwrap()), &mut line)?;
    assert_eq!(line, "ready\n");
    let (mut child, sftp) = helper(&["--pid", &process.id().to_string()]).await?;
    sftp.create("/tmp/made").await?.close().await?;
    assert!(root.join("tmp/made").is_file());
    assert_eq!(sftp.metadata("/tmp/made").await?.uid, Some(0));
    assert!(!sftp.try_exists(dir.path().to_string_lossy()).await?);
    assert!(Path::new(&format!("/proc/{}/root/etc", child.id())).read_dir().is_err(), "it sees nothing of the host");
    // It ends with the process.
    process.kill()?;
    process.wait()?;
    assert!(lab::run::until(std::time::Duration::from_secs(10), || Ok(child.try_wait()?))?.success());
    Ok(())
}

const MANUAL: &str = include_str!("../../../../docs/security.md");
/// The capabilities that stand in the manual, with their numbers (`capabilities(7)`).
const CAPABILITIES: [(&str, u32); 8] = [
    ("chown", 0),
    ("dac_override", 1),
    ("dac_read_search", 2),
    ("fowner", 3),
    ("fsetid", 4),
    ("kill", 5),
    ("ipc_lock", 14),
    ("sys_admin", 21),
];

/// What the manual says that a process keeps.
fn allowed(process: &str) -> Result<u64> {
    let row = MANUAL.lines().find(|l| l.starts_with(&format!("| `{process}` |"))).ok_or("it is not in the manual")?;
    let names = row.trim_end_matches(" |").rsplit("| ").next().unwrap_or_default();
    names.split(", ").filter(|name| !name.starts_with("none")).try_fold(0, |all, name| {
        let found = CAPABILITIES.iter().find(|(known, _)| *known == name);
        found.map(|(_, bit)| all | 1 << bit).ok_or_else(|| format!("{name} is no capability").into())
    })
}

fn number(pid: u32, key: &str) -> Option<u64> {
    u64::from_str_radix(&status(pid, key)?, 16).ok()
}

/// Waits until a process keeps what the manual says and nothing else.
fn is_confined(pid: u32, process: &str) -> Result<()> {
    let wanted = [allowed(process)?; 3].into_iter().chain([0, 1]).map(Some).collect::<Vec<_>>();
    let keys = ["CapEff", "CapPrm", "CapBnd", "CapInh", "NoNewPrivs"];
    let mut seen = Vec::new();
    let same = lab::run::until(std::time::Duration::from_secs(10), || {
        seen = keys.iter().map(|key| number(pid, key)).collect::<Vec<_>>();
        Ok((seen == wanted).then_some(()))
    });
    same.map_err(|e| format!("{process}: {seen:x?} and not {wanted:x?}: {e}").into())
}

/// The helpers of a daemon of that kind.
fn helpers(daemon: u32, kind: &str) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let of_kind = host::process::title(pid).is_some_and(|t| t.split(' ').nth(1) == Some(kind));
        if of_kind && host::process::parent(pid) == Some(daemon) {
            all.push(pid);
        }
    }
    Ok(all)
}

/// While programs and files of instances are open; the programs themselves get what their instance has.
#[tokio::main]
pub async fn helpers_keep_what_the_manual_says(cluster: &Cluster) -> Result<()> {
    let daemon = cluster.lab.machines[1].daemon_pid()?;
    for (name, process) in [("c1", "incusd forkfile --pid"), ("s1", "incusd forkfile --directory")] {
        let _open = crate::raw::open_sftp(cluster, name).await?;
        for pid in
            cluster.until("a helper for files", || Ok(Some(helpers(daemon, "forkfile")?).filter(|p| !p.is_empty())))?
        {
            is_confined(pid, process)?;
        }
        drop(_open);
        cluster.until("no helper", || Ok(helpers(daemon, "forkfile")?.is_empty().then_some(())))?;
    }
    let command = ["exec", "c1", "--", "sleep", "4714"];
    let mut client =
        cluster.lab.machines[0].command(&cluster.programs.incus).args(command).stdin(Stdio::null()).spawn()?;
    for pid in
        cluster.until("a helper for a program", || Ok(Some(helpers(daemon, "forkexec")?).filter(|p| !p.is_empty())))?
    {
        is_confined(pid, "incusd forkexec")?;
    }
    client.kill()?;
    client.wait()?;

    cluster.incus(1, &["launch", "busybox", "p1", "--target", "server2", "-c", "security.privileged=true"])?;
    for name in ["c1", "p1"] {
        let of = |path: &str| -> Result<Vec<String>> {
            let text = cluster.incus(1, &["exec", name, "--", "grep", "-E", "^(Cap...|NoNewPrivs|Seccomp):", path])?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        let (program, init) = (of("/proc/self/status")?, of("/proc/1/status")?);
        assert!(program.len() == 7 && program == init, "{name}: {program:?} {init:?}");
    }
    cluster.incus(1, &["delete", "-f", "p1"]).map(drop)
}

#[test]
fn a_guard_keeps_what_the_manual_says() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("guard.socket");
    let mut command = Command::new(lab::cluster::Programs::built()?.incusd);
    let mut guard = command.arg("forkguard").arg(&socket).stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let confined = is_confined(guard.id(), "incusd forkguard");
    guard.kill()?;
    guard.wait()?;
    confined
}
