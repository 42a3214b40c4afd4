//! How many may be connected at once: each kind to its end, and what that costs.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lab::{Cluster, Result};
use rustix::net::{AddressFamily, SocketAddrAny, SocketType, bind, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{API, GET, PATIENCE, Scene, Tls, answer, asked, events, refused, shaken, somebody};

/// Lets this process, and the daemons that it starts, have as many files open as may be; fails if those are too few for
/// what is tried here.
fn many_files() -> Result<()> {
    const NEEDED: u64 = 4 * 4096;
    let maximum = getrlimit(Resource::Nofile).maximum;
    if maximum.is_some_and(|n| n < NEEDED) {
        return Err(format!("the limit of open files (ulimit -Hn) is less than {NEEDED}").into());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// One of the addresses of this machine from which strangers come.
fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, number)
}

/// A connection to the API from an address, in the network of the calling thread.
fn tcp_from(address: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrAny::from(std::net::SocketAddrV4::new(address, 0)))?;
    connect(&socket, &SocketAddrAny::from(API))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Strangers who hold all connections that they get, and connect anew whenever one is closed.
struct Crowd {
    goes_on: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// From so many addresses of the first machine, 64 from each.
    fn gather(scene: &Scene, addresses: u8) -> Result<Crowd> {
        let (network, goes_on) = (scene.network(1)?, Arc::new(AtomicBool::new(true)));
        let still = goes_on.clone();
        let thread = std::thread::spawn(move || {
            let _ = network.run(|| {
                let each = (0..addresses).flat_map(|n| std::iter::repeat_n(n, 64));
                let mut all: Vec<(Ipv4Addr, Option<TcpStream>)> = each.map(|n| (address(n), None)).collect();
                while still.load(Ordering::Relaxed) {
                    for (from, stream) in &mut all {
                        if !stream.as_ref().is_some_and(is_open) {
                            *stream = tcp_from(*from).ok();
                        }
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        });
        Ok(Crowd { goes_on, thread: Some(thread) })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// False if the other end has closed it.
fn is_open(stream: &TcpStream) -> bool {
    let nothing_yet = |e: std::io::Error| e.kind() == ErrorKind::WouldBlock;
    stream.set_nonblocking(true).is_ok() && stream.peek(&mut [0]).map_or_else(nothing_yet, |n| n > 0)
}

#[test]
fn strangers_from_one_address_take_nobodys_place() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let scene = Scene::new(Cluster::temporary("limits-strangers", 2)?)?;
    // Half of them shake hands and ask for nothing, the other half do not even that.
    let shaken: Vec<Tls> = (0..32).map(|_| scene.tls(2, &scene.stranger)).collect::<Result<_>>()?;
    let raw: Vec<TcpStream> = (0..32).map(|_| scene.tcp(2)).collect::<Result<_>>()?;
    let why = "Too many connections: those from 10.77.0.2 who are not trusted may have 64 at once";
    scene.cluster.until("the next one refused", || {
        let said = scene.ask(2, &scene.stranger, GET)?;
        Ok((said.starts_with("HTTP/1.1 503") && said.contains("Connection: close") && said.contains(why)).then_some(()))
    })?;
    // Whoever turns out to be trusted is served, from there too, and so are the other members.
    let said = scene.ask(2, &scene.trusted, GET)?;
    assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
    scene.others_are_served()?;
    // There is no end to those who come, but to what they get.
    let flood: Vec<TcpStream> = (0..200).map(|_| scene.tcp(2)).collect::<Result<_>>()?;
    scene.others_are_served()?;
    drop((shaken, raw, flood));
    scene.cluster.until("a stranger served from there again", || {
        Ok(scene.ask(2, &scene.stranger, GET).is_ok_and(|said| said.starts_with("HTTP/1.1 200 OK")).then_some(()))
    })
}

/// Kibibytes of memory that a process has.
fn memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn a_thousand_that_wait_cost_little_and_leave_room_for_others() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let scene = Scene::new(Cluster::temporary("limits-many", 1)?)?;
    let daemon = scene.cluster.lab.machines[0].daemon_pid()?;
    // What the first ones need is needed once.
    let mut waiting: Vec<Tls> = (0..24).map(|_| events(&scene, &scene.trusted)).collect::<Result<_>>()?;
    let before = memory(daemon)?;
    for _ in 0..1000 {
        waiting.push(events(&scene, &scene.trusted)?);
    }
    let each = memory(daemon)?.saturating_sub(before) * 1024 / 1000;
    println!("a websocket that waits for events takes {each} bytes of memory");
    assert!(each < 128 << 10, "{each} bytes for a connection that waits");
    // All that one client may have.
    let said = scene.ask(1, &scene.trusted, GET)?;
    refused(&said, "503", "Too many connections: a client may have 1024 at once");
    scene.others_are_served()?;
    // All of them still hear what happens.
    scene.cluster.incus(1, &["project", "create", "heard"])?;
    for socket in waiting.iter_mut().step_by(100) {
        socket.read_exact(&mut [0])?;
    }
    drop(waiting);
    scene.cluster.until("the client served again", || {
        Ok(scene.ask(1, &scene.trusted, GET)?.starts_with("HTTP/1.1 200 OK").then_some(()))
    })?;
    // The unix socket has seats of its own.
    let path = scene.cluster.lab.machines[0].incus_dir().join("unix.socket");
    let local: Vec<UnixStream> = (0..2048).map(|_| UnixStream::connect(&path)).collect::<std::io::Result<_>>()?;
    let mut next = UnixStream::connect(&path)?;
    next.set_read_timeout(Some(PATIENCE))?;
    let _ = next.write_all(GET);
    refused(&answer(&mut next), "503", "all who use the unix socket may have 2048");
    let said = scene.ask(1, &scene.trusted, GET)?;
    assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
    drop((local, next));
    scene.cluster.until("local users served again", || Ok(scene.cluster.incus(1, &["list"]).is_ok().then_some(())))?;
    scene.others_are_served()
}

#[test]
fn strangers_from_everywhere_leave_room_for_those_who_are_known() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    many_files()?;
    let mut scene = Scene::new(Cluster::temporary("limits-everywhere", 2)?)?;
    let from_elsewhere =
        |scene: &Scene| asked(shaken(scene.network(1)?.run(|| tcp_from(address(99)))??, &scene.stranger)?, GET);
    // Eight addresses have all seats that there are for strangers.
    let crowd = Crowd::gather(&scene, 8)?;
    scene.cluster.until("the next stranger refused", || {
        let said = from_elsewhere(&scene).unwrap_or_default();
        let why = "Too many connections: all clients who are not trusted may have 512 at once";
        Ok((said.starts_with("HTTP/1.1 503") && said.contains(why)).then_some(()))
    })?;
    for _ in 0..20 {
        let said = scene.ask(1, &scene.trusted, GET)?;
        assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
    }
    scene.cluster.incus(1, &["config", "set", "user.limits", "1"])?;
    drop(crowd);
    // More than that even have all seats in which one is refused. A member comes back nevertheless, and its clients, too.
    let crowd = Crowd::gather(&scene, 12)?;
    scene.cluster.until("a stranger closed without a word", || Ok(from_elsewhere(&scene).is_err().then_some(())))?;
    scene.cluster.kill(2)?;
    scene.cluster.start(2)?;
    scene.cluster.until("the other member writing again", || {
        Ok(scene.cluster.incus(2, &["config", "set", "user.limits", "2"]).is_ok().then_some(()))
    })?;
    let said = scene.ask(2, &scene.trusted, GET)?;
    assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
    scene.cluster.incus(1, &["config", "set", "user.limits", "3"])?;
    drop(crowd);
    scene.cluster.until("strangers served again", || {
        Ok(from_elsewhere(&scene).is_ok_and(|said| said.starts_with("HTTP/1.1 200 OK")).then_some(()))
    })?;
    scene.others_are_served()
}

#[test]
fn all_clients_together_have_an_end() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    many_files()?;
    let scene = Scene::new(Cluster::temporary("limits-clients", 2)?)?;
    let daemon = scene.cluster.lab.machines[0].daemon_pid()?;
    let before = memory(daemon)?;
    let mut waiting: Vec<Tls> = Vec::new();
    for number in 1..=4 {
        let client = somebody(&scene.cluster, &format!("client{number}"))?;
        for _ in 0..1024 {
            waiting.push(events(&scene, &client)?);
        }
    }
    println!("4096 clients that wait for events take {} KiB of memory", memory(daemon)?.saturating_sub(before));
    let said = scene.ask(1, &scene.trusted, GET)?;
    refused(&said, "503", "Too many connections: all clients may have 4096 at once. Close some, or try later");
    // Strangers, local users and members have their own.
    let said = scene.ask(1, &scene.stranger, GET)?;
    assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
    scene.cluster.incus(1, &["config", "set", "user.limits", "1"])?;
    scene.cluster.incus(2, &["config", "set", "user.limits", "2"])?;
    assert!(!scene.cluster.incus(2, &["cluster", "list"])?.contains("OFFLINE"));
    // Nobody who had a seat has lost it.
    scene.cluster.incus(1, &["project", "create", "heard"])?;
    for socket in &mut waiting {
        socket.read_exact(&mut [0])?;
    }
    // One that leaves makes room for one, and all of them for all.
    drop(waiting.pop());
    scene.cluster.until("another client served", || {
        Ok(scene.ask(1, &scene.trusted, GET)?.starts_with("HTTP/1.1 200 OK").then_some(()))
    })?;
    drop(waiting);
    let again: Vec<Tls> = scene.cluster.until("one client with all its connections again", || {
        let all: Result<Vec<Tls>> = (0..1024).map(|_| events(&scene, &scene.trusted)).collect();
        Ok(all.ok())
    })?;
    drop(again);
    scene.others_are_served()
}
