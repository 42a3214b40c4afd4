//! Programs in terminals, and the console: the client itself runs in a terminal (of `script`).

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lab::{Cluster, Result};

/// Somebody before a terminal.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// Runs our command in a terminal of 101 columns and 37 rows.
    fn new(cluster: &Cluster, args: &[&str]) -> Result<Terminal> {
        let quoted: Vec<String> = args.iter().map(|a| format!("'{}'", a.replace('\'', "'\\''"))).collect();
        let line = format!("stty cols 101 rows 37; exec {} {}", cluster.programs.incus.display(), quoted.join(" "));
        let mut command = cluster.lab.machines[0].command("script");
        command.args(["-qefc", &line, "/dev/null"]).env("TERM", "xterm-test");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (keys, mut out) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
        let (send, shown) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 4096];
            while let Ok(n) = out.read(&mut buffer) {
                if n == 0 || send.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Terminal { child, keys, shown, seen: String::new() })
    }

    fn type_in(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes())?;
        Ok(self.keys.flush()?)
    }

    /// Waits until the text is shown, and forgets what was shown up to it.
    fn expect(&mut self, text: &str) -> Result<String> {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.seen.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(more) => self.seen.push_str(&String::from_utf8_lossy(&more)),
                Err(e) => return Err(format!("{text:?} is not shown ({e}): {:?}", self.seen).into()),
            }
        }
        let end = self.seen.find(text).map_or(0, |at| at + text.len());
        Ok(self.seen.drain(..end).collect())
    }

    /// Ctrl-a and q, as a person types them: one after the other.
    fn detach(&mut self) -> Result<()> {
        self.type_in("\u{1}")?;
        std::thread::sleep(Duration::from_millis(200));
        self.type_in("q")?;
        assert_eq!(self.ended()?, 0);
        Ok(())
    }

    fn ended(&mut self) -> Result<i32> {
        let status = lab::run::until(Duration::from_secs(20), || Ok(self.child.try_wait()?))
            .map_err(|e| format!("the client does not end: {e}: {:?}", self.seen))?;
        Ok(status.code().unwrap_or(-1))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn shell(cluster: &Cluster) -> Result<()> {
    let mut t = Terminal::new(cluster, &["exec", "c1", "--", "sh"])?;
    t.type_in("PS1=ready'':; stty size; echo $TERM; tty\r")?;
    t.expect("37 101")?;
    t.expect("xterm-test")?;
    t.expect("/dev/pts/")?;
    // Ctrl-C ends what runs, not the shell.
    t.type_in("echo sle''eps; sleep 1000; echo code $?\r")?;
    t.expect("sleeps")?;
    // The shell hands the terminal over to what it runs a moment later.
    std::thread::sleep(Duration::from_millis(500));
    t.type_in("\u{3}")?;
    t.expect("ready:")?;
    t.type_in("echo a''live\r")?;
    t.expect("alive")?;
    t.type_in("exit 5\r")?;
    assert_eq!(t.ended()?, 5);
    // Its last words are not lost.
    let mut t = Terminal::new(cluster, &["exec", "c1", "--", "sh", "-c", "seq 1 5000; echo the end; exit 3"])?;
    t.expect("the end")?;
    assert_eq!(t.ended()?, 3);
    Ok(())
}

pub fn console(cluster: &Cluster) -> Result<()> {
    let mut first = Terminal::new(cluster, &["console", "c1"])?;
    first.expect("To detach")?;
    first.type_in("\r")?;
    first.type_in("\recho con''sole; stty size\r")?;
    first.expect("console")?;
    first.expect("37 101")?;
    // One at a time.
    let mut second = Terminal::new(cluster, &["console", "c1"])?;
    second.expect("already connected")?;
    assert_ne!(second.ended()?, 0);
    let log = cluster.incus(1, &["console", "c1", "--show-log"])?;
    assert!(log.contains("console"), "{log}");
    first.detach()?;
    let mut again = Terminal::new(cluster, &["console", "c1"])?;
    again.expect("To detach")?;
    again.type_in("\recho a''gain\r")?;
    again.expect("again")?;
    again.detach()?;
    let done = cluster.incus_in(1, &["console", "s1"], "")?;
    assert_ne!(done.code, 0);
    Ok(())
}
