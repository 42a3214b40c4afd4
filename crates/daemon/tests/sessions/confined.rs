//! The helper for files by itself: confined to a directory, and to what a process sees.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lab::Result;
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
