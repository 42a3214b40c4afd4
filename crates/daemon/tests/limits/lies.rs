//! What a member that tells what can't be does to the database of another one.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use lab::{Cluster, Result};

use super::PATIENCE;

/// A link to the database of the first member, opened by a local user as if they were a member.
struct Link(UnixStream);

impl Link {
    fn open(cluster: &Cluster) -> Result<Link> {
        let mut stream = UnixStream::connect(cluster.lab.machines[0].incus_dir().join("unix.socket"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(
            b"GET /internal/link HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: incus-link/1\r\n\r\n",
        )?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        if head.starts_with("HTTP/1.1 101") { Ok(Link(stream)) } else { Err(head.into()) }
    }

    /// Sends a letter; whatever is said to that.
    fn send(&mut self, letter: &[u8]) -> Result<Vec<u8>> {
        let length = u32::try_from(letter.len() + 1)?.to_be_bytes();
        self.0.write_all(&[&length[..], &[0], letter].concat())?;
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let mut said = vec![0; usize::try_from(u32::from_be_bytes(length))?];
        self.0.read_exact(&mut said)?;
        Ok(said)
    }
}

#[test]
fn a_lie_about_the_log_stops_a_database_for_a_moment_and_no_daemon() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let cluster = Cluster::temporary("limits-lies", 1)?;
    cluster.incus(1, &["config", "set", "user.kept", "yes"])?;
    let before = cluster.lab.machines[0].daemon_pid()?;
    // Member 2, which is none, as the leader of the term 127, sends a copy of the database as of the entry 1: what this
    // member knows to be later. (From, no incarnation, part 0 of copy 7; then copy 7 of one part, vote with whom it is for, what it stands at.)
    let mut link = Link::open(&cluster)?;
    link.send(&[2, 0, 3, 7, 0, 1, b'x'])?;
    link.send(&[2, 0, 4, 7, 1, 127, 1, 2, 1, 1, 127, 1, 0, 0, 0, 0])?;
    let log = |what: &str| cluster.lab.machines[0].log_tail(10_000).contains(what);
    cluster
        .until("the database stopped", || Ok(log("the database of this member has stopped by itself").then_some(())))?;
    cluster
        .until("the database opened again", || Ok(log("the database of this member was opened again").then_some(())))?;
    cluster.until("the database written again", || {
        Ok(cluster.incus(1, &["config", "set", "user.more", "yes"]).is_ok().then_some(()))
    })?;
    assert_eq!(cluster.incus(1, &["config", "get", "user.kept"])?.trim(), "yes");
    assert_eq!(cluster.lab.machines[0].daemon_pid()?, before, "it is the same daemon");
    // What nobody can have said is refused before it gets that far: a term that leaves room for no other one, and entries
    // that do not follow each other.
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let said = Link::open(&cluster)?.send(&[&[2, 0, 1][..], &huge, &[1, 2, 0, 0, 0, 0, 0]].concat())?;
    assert!(String::from_utf8_lossy(&said).contains("There can't have been so many elections"), "{said:?}");
    cluster.incus(1, &["config", "set", "user.more", "no"])?;
    assert_eq!(cluster.lab.machines[0].daemon_pid()?, before);
    Ok(())
}
