//! Programs in a container.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

use drivers::instance::{Exec, Running};

use crate::lab::{Lab, PATH, expect};

pub fn streams(lab: &Lab) {
    lab.running("c1");
    let start = Instant::now();
    let done = lab.sh("c1", "echo out; echo err >&2; exit 7");
    println!("a program took {:?}", start.elapsed());
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (7, "out\n", "err\n"));
    let done = lab.run_with("c1", &["cat"], &[], &vec![b'x'; 50_000], |_| ());
    assert_eq!((done.code, done.out.len()), (0, 50_000));
    assert_eq!(lab.sh("c1", "kill -9 $$").code, 137);
    assert_eq!(lab.run("c1", &["hostname"]).out, "busybox\n");
}

pub fn environment(lab: &Lab) {
    lab.running("c1");
    let env = [PATH.to_owned(), "A=b c".to_owned()];
    let done = lab.run_with("c1", &["env"], &env, b"", |_| ());
    for line in ["A=b c", "FROM_CONFIG=yes", PATH] {
        assert!(done.out.lines().any(|l| l == line), "{line}: {done:?}");
    }
    assert_eq!(lab.run("c1", &["pwd"]).out, "/root\n");
    assert_eq!(lab.run("c1", &["id"]).out, "uid=0(root) gid=0(root)\n");
    let done = lab.run_with("c1", &["sh", "-c", "id -u; id -g; id -G; pwd; echo hi > /dev/stderr"], &env, b"", |e| {
        (e.uid, e.gid, e.cwd) = (1000, 1001, "/tmp");
    });
    assert_eq!((done.out.as_str(), done.err.as_str()), ("1000\n1001\n1001\n/tmp\n", "hi\n"));
    // It is in the container's cgroup and session of its own.
    let done = lab.sh("c1", "cat /proc/self/cgroup; [ $(cut -d' ' -f6 /proc/$$/stat) = $$ ] && echo leader");
    assert!(done.out.contains("pids:/\n") || done.out.contains("0::/\n"), "{done:?}");
    assert!(done.out.ends_with("leader\n"), "{done:?}");
}

pub fn refused(lab: &Lab) {
    assert_eq!(lab.refused("c1", &["true"]), "Instance is not running");
    lab.running("c1");
    assert_eq!(lab.refused("c1", &["no-such-program"]), "Command not found");
    assert_eq!(lab.refused("c1", &["/no/such/program"]), "Command not found");
    assert_eq!(lab.refused("c1", &["/etc/passwd"]), "Command not executable");
    assert_eq!(lab.refused("c1", &["/etc"]), "Command not executable");
    assert_eq!(lab.refused("c1", &[""]), "Missing command");
    lab.containers.freeze("c1").unwrap();
    assert_eq!(lab.refused("c1", &["true"]), "Instance is frozen");
}

fn in_terminal(lab: &Lab, argv: &[&str], uid: u32) -> (Running, File) {
    let argv: Vec<String> = argv.iter().map(|a| (*a).to_owned()).collect();
    let (ours, theirs): (OwnedFd, OwnedFd) = lab.containers.terminal("c1", (132, 50)).unwrap();
    let env = [PATH.to_owned(), "TERM=xterm".to_owned(), "PS1=ready> ".to_owned()];
    let stdio = [theirs.as_fd(), theirs.as_fd(), theirs.as_fd()];
    let exec = Exec { argv: &argv, env: &env, cwd: "/", uid, gid: uid, stdio, controlling_terminal: true };
    let running = lab.containers.exec("c1", &exec).unwrap();
    (running, File::from(ours))
}

pub fn terminal(lab: &Lab) {
    lab.running("c1");
    let (running, mut terminal) = in_terminal(lab, &["sh", "-i"], 0);
    let seen = expect(&mut terminal, "ready> ");
    assert!(!seen.contains("job control"), "{seen}");
    terminal.write_all(b"stty size; tty; stat -c %u:%g $(tty)\n").unwrap();
    let seen = expect(&mut terminal, "0:5");
    assert!(seen.contains("50 132") && seen.contains("/dev/pts/"), "{seen}");
    // Ctrl-C ends what runs in the foreground, not the shell.
    terminal.write_all(b"sleep 1000; echo code $?\n").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    terminal.write_all(b"\x03").unwrap();
    expect(&mut terminal, "ready> ");
    terminal.write_all(b"echo al''ive\n").unwrap();
    expect(&mut terminal, "alive");
    terminal.write_all(b"exit 3\n").unwrap();
    assert_eq!(running.wait().unwrap(), 3);
    // A user that is not root has its terminal, too.
    let (running, mut terminal) = in_terminal(lab, &["sh", "-c", "echo hello > /dev/tty; stat -c %u $(tty)"], 1000);
    let seen = expect(&mut terminal, "1000");
    assert!(seen.contains("hello"), "{seen}");
    assert_eq!(running.wait().unwrap(), 0);
    // Hanging up ends the program.
    let (running, terminal) = in_terminal(lab, &["sleep", "1000"], 0);
    drop(terminal);
    assert_eq!(running.wait().unwrap(), 129);
}

pub fn signals(lab: &Lab) {
    lab.running("c1");
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let argv = ["sleep".to_owned(), "1000".to_owned()];
    let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
    let exec =
        Exec { argv: &argv, env: &[PATH.to_owned()], cwd: "/", uid: 0, gid: 0, stdio, controlling_terminal: false };
    let running = lab.containers.exec("c1", &exec).unwrap();
    let title = std::fs::read_to_string(format!("/proc/{}/cmdline", running.pid)).unwrap();
    assert_eq!(title, "sleep\x001000\x00");
    running.signal(15).unwrap();
    assert_eq!(running.wait().unwrap(), 143);
    // The end of the container is the end of its programs.
    let running = lab.containers.exec("c1", &exec).unwrap();
    lab.containers.stop("c1").unwrap();
    assert_eq!(running.wait().unwrap(), 137);
}
