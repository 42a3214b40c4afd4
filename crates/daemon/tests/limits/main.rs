//! What a client can do to a daemon, tried on real ones: everything is refused at its limit in words, and everybody else
//! is served meanwhile.
#![allow(clippy::unwrap_used)]

mod connections;
mod lies;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use client::tls::{Identity, client_config_for};
use host::netns::Netns;
use lab::{Cluster, Lab, Result};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// How long a test waits for what a daemon does by itself after a minute at most.
const PATIENCE: Duration = Duration::from_secs(240);

/// Where the first member serves the API.
const API: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 8443);

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A cluster, and those who talk to its first member.
struct Scene {
    cluster: Cluster,
    trusted: Arc<ClientConfig>,
    other: Arc<ClientConfig>,
    stranger: Arc<ClientConfig>,
}

impl Scene {
    fn new(cluster: Cluster) -> Result<Scene> {
        let config = |name: &str| somebody(&cluster, name);
        let (trusted, other, stranger) = (config("trusted")?, config("other")?, config("stranger")?);
        Ok(Scene { cluster, trusted, other, stranger })
    }

    /// The network of a machine.
    fn network(&self, machine: usize) -> Result<Netns> {
        let init = i32::try_from(self.cluster.lab.machines[machine - 1].init()?)?;
        Ok(Netns::of_pid(init)?)
    }

    /// A connection from a machine to the API of the first one.
    fn tcp(&self, from: usize) -> Result<TcpStream> {
        let stream = self.network(from)?.run(|| TcpStream::connect(API))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// The same with TLS, after its handshake.
    fn tls(&self, from: usize, who: &Arc<ClientConfig>) -> Result<Tls> {
        shaken(self.tcp(from)?, who)
    }

    /// The answer to what is sent on a connection of its own.
    fn ask(&self, from: usize, who: &Arc<ClientConfig>, request: &[u8]) -> Result<String> {
        asked(self.tls(from, who)?, request)
    }

    /// Fails unless a client, a stranger, local users and the other members are served.
    fn others_are_served(&self) -> Result<()> {
        for who in [&self.other, &self.stranger] {
            let said = self.ask(1, who, GET)?;
            assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
        }
        self.cluster.incus(1, &["config", "set", "user.limits", "1"])?;
        if self.cluster.lab.machines.len() > 1 {
            self.cluster.incus(2, &["config", "set", "user.limits", "2"])?;
            assert!(!self.cluster.incus(2, &["cluster", "list"])?.contains("OFFLINE"));
        }
        Ok(())
    }
}

/// A connection with TLS, after its handshake.
fn shaken(stream: TcpStream, who: &Arc<ClientConfig>) -> Result<Tls> {
    let name = ServerName::from(IpAddr::from(*API.ip()));
    let mut stream = StreamOwned::new(ClientConnection::new(who.clone(), name)?, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// The answer to a request.
fn asked(mut stream: Tls, request: &[u8]) -> Result<String> {
    // It may be answered, and closed, before all was sent.
    let _ = stream.write_all(request).and_then(|()| stream.flush());
    Ok(answer(&mut stream))
}

/// Somebody with a certificate of their own, which is trusted unless they are called a stranger.
fn somebody(cluster: &Cluster, name: &str) -> Result<Arc<ClientConfig>> {
    let certificate = std::fs::read_to_string(cluster.lab.machines[0].incus_dir().join("cluster.crt"))?;
    let certificate = client::tls::fingerprint(&certificate)?;
    let own = Identity::generate(name, &[])?;
    let file = cluster.lab.dir.join(format!("{name}.crt"));
    std::fs::write(&file, &own.certificate)?;
    if name != "stranger" {
        cluster.incus(1, &["config", "trust", "add-certificate", &file.to_string_lossy()])?;
    }
    Ok(client_config_for(&[&certificate], Some(&own))?)
}

const GET: &[u8] = b"GET /1.0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// What comes until the other end closes, or says nothing more.
fn answer(stream: &mut impl std::io::Read) -> String {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => all.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return format!("nothing happens after {:?}", String::from_utf8_lossy(&all));
            }
            _ => return String::from_utf8_lossy(&all).into_owned(),
        }
    }
}

fn refused(said: &str, status: &str, why: &str) {
    assert!(said.starts_with(&format!("HTTP/1.1 {status}")) && said.contains(why), "{status} {why}: {said:.600}");
}

fn post(path: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[test]
fn what_is_too_large_is_refused() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let scene = Scene::new(Cluster::temporary("limits-size", 1)?)?;
    let head = |more: &str| format!("GET /1.0 HTTP/1.1\r\nHost: x\r\n{more}\r\n").into_bytes();
    for who in [&scene.trusted, &scene.stranger] {
        refused(&scene.ask(1, who, &head(&format!("X: {}\r\n", "a".repeat(200 << 10))))?, "431", "");
        refused(&scene.ask(1, who, &head(&"X: y\r\n".repeat(200)))?, "431", "");
        let long = format!("GET /1.0?{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70_000));
        refused(&scene.ask(1, who, long.as_bytes())?, "414", "");
        // Brackets in brackets, in a list that anybody may ask for.
        let nested =
            format!("GET /1.0/images?filter={} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "(".repeat(60_000));
        refused(&scene.ask(1, who, nested.as_bytes())?, "400", "nested more than 64 deep");
    }
    // JSON that ends too late, whether it says so before or not.
    let large = [b"{\"name\": \"", "a".repeat(5 << 20).as_bytes(), b"\"}"].concat();
    let why = "The body is too large: at most 4194304 bytes are accepted";
    refused(&scene.ask(1, &scene.trusted, &post("/1.0/profiles", large.len(), &large))?, "413", why);
    let mut chunked =
        b"POST /1.0/profiles HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".to_vec();
    for _ in 0..5 {
        chunked.extend_from_slice(b"100000\r\n");
        chunked.extend(std::iter::repeat_n(b' ', 1 << 20));
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    refused(&scene.ask(1, &scene.trusted, &chunked)?, "413", r#""error_code":413"#);
    let why = "at most 262144 bytes";
    refused(&scene.ask(1, &scene.stranger, &post("/1.0/certificates", large.len(), &large))?, "413", why);
    // A websocket whose next message is said to be larger than any may be.
    let mut socket = events(&scene, &scene.trusted)?;
    let mut frame = vec![0x82, 0x80 | 127];
    frame.extend((17_u64 << 20).to_be_bytes());
    frame.extend([0; 4]);
    let _ = socket.write_all(&frame).and_then(|()| socket.flush());
    let said = answer(&mut socket);
    assert!(!said.contains("nothing happens"), "the websocket goes on: {said}");
    scene.others_are_served()
}

/// A websocket on which events come.
fn events(scene: &Scene, who: &Arc<ClientConfig>) -> Result<Tls> {
    let mut socket = scene.tls(1, who)?;
    let request = b"GET /1.0/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(request)?;
    socket.flush()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if head.starts_with("HTTP/1.1 101") { Ok(socket) } else { Err(head.into()) }
}

#[test]
fn slow_clients_are_not_waited_for() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let scene = Scene::new(Cluster::temporary("limits-slow", 1)?)?;
    // A handshake that never begins, one that stops in the middle, a head without end, nothing after an answer, bodies
    // that stop.
    let mut silent = scene.tcp(1)?;
    let mut torn = scene.tcp(1)?;
    torn.write_all(&[0x16, 3, 1, 2, 0, 1])?;
    let begin = |request: &[u8]| -> Result<Tls> {
        let mut stream = scene.tls(1, &scene.trusted)?;
        stream.write_all(request)?;
        stream.flush()?;
        Ok(stream)
    };
    let mut head = begin(b"GET /1.0 HTTP/1.1\r\nHost: x\r\nX-Slow: ")?;
    let mut idle = begin(b"GET /1.0 HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut json = begin(&post("/1.0/profiles", 100, b"{\"name\": "))?;
    let mut upload = begin(&post("/1.0/images", 1 << 30, &[7; 5000]))?;
    scene.others_are_served()?;
    assert_eq!((answer(&mut silent), answer(&mut torn)), (String::new(), String::new()), "closed without a word");
    assert_eq!(answer(&mut head), "", "closed without a word");
    let said = answer(&mut idle);
    assert!(said.starts_with("HTTP/1.1 200 OK") && !said.contains("nothing happens"), "{said}");
    refused(&answer(&mut json), "408", "The body did not come within 30 seconds");
    refused(&answer(&mut upload), "408", "The client stopped sending for 60 seconds");
    let left = std::fs::read_dir(scene.cluster.lab.machines[0].incus_dir().join("images"))?.count();
    assert_eq!(left, 0, "what came of an upload is removed");
    scene.others_are_served()
}

/// An image of a few kilobytes that unpacks to so many bytes.
fn bomb(bytes: u64) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(zstd::stream::write::Encoder::new(Vec::new(), 1)?);
    let mut add = |name: &str, size: u64, data: &mut dyn std::io::Read| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        tar.append_data(&mut header, name, data)
    };
    let yaml = format!("architecture: {}\ncreation_date: 1\n", std::env::consts::ARCH);
    add("metadata.yaml", yaml.len() as u64, &mut yaml.as_bytes())?;
    add("rootfs/etc/hosts", 0, &mut std::io::empty())?;
    add("rootfs/bomb", bytes, &mut std::io::repeat(0).take(bytes))?;
    Ok(tar.into_inner()?.finish()?)
}

#[test]
fn an_image_that_unpacks_to_more_than_there_is_room_for_leaves_nothing() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let cluster = Cluster::form(Lab::temporary("limits-bomb", 1)?, lab::cluster::Programs::built()?)?;
    let machine = &cluster.lab.machines[0];
    let (small, file) = (machine.dir.join("small"), cluster.lab.dir.join("bomb.tar.zst"));
    std::fs::create_dir(&small)?;
    machine.must("mount", &["-t", "tmpfs", "-o", "size=192m", "small", &small.to_string_lossy()])?;
    let packed = bomb(1 << 30)?;
    assert!(packed.len() < 200_000, "{} bytes", packed.len());
    std::fs::write(&file, packed)?;
    let source = small.join("pool");
    let own = format!("source={}", source.display());
    cluster.incus(1, &["storage", "create", "small", "dir", "--target", "server1", &own])?;
    cluster.incus(1, &["storage", "create", "small", "dir"])?;
    cluster.incus(1, &["image", "import", &file.to_string_lossy(), "--alias", "bomb"])?;

    // The file system is left as it was, long before it is full.
    let why = "The image doesn't fit: the file system of the storage pool has";
    cluster.refused_with(1, &["init", "bomb", "c1", "-s", "small"], why)?;
    let used = machine.must("du", &["-s", "--block-size=1M", &small.to_string_lossy()])?;
    assert!(used.starts_with('0') || used.starts_with('1'), "{used}");
    assert_eq!(machine.must("ls", &["-A", &source.join("containers").to_string_lossy()])?.trim(), "");

    // The size of the root disk holds where there is room enough.
    let why = "The image doesn't fit: unpacked it is larger than 10485760 bytes, the size of the root disk";
    cluster.refused_with(1, &["init", "bomb", "c1", "-s", "local", "-d", "root,size=10MiB"], why)?;
    assert_eq!(cluster.get(1, "/1.0/instances")?.as_array().map(Vec::len), Some(0));
    let containers = machine.incus_dir().join("storage-pools/local/containers");
    assert_eq!(std::fs::read_dir(&containers)?.count(), 0);
    // Who is not root can't even look for setuid programs of others.
    cluster.incus(1, &["init", "c2", "--empty"])?;
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(containers.join("c2"))?) & 0o7777;
    assert_eq!(mode, 0o100);
    Ok(())
}
