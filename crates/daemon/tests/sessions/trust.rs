//! What is open ends with the trust that it was opened with, on the member that was asked and on the one that serves it,
//! and what others have open goes on.

use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use client::tls::{Identity, client_config_for};
use futures::{SinkExt as _, StreamExt as _};
use host::netns::Netns;
use lab::{Cluster, Result};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

type Stream = TlsStream<TcpStream>;
const PATIENCE: Duration = Duration::from_secs(30);
/// A file that does not fit into what lies between its ends.
const LARGE: u64 = 400 << 20;

/// A client with a certificate, and what it has of `server1`.
struct Client<'a> {
    cluster: &'a Cluster,
    config: Arc<ClientConfig>,
    fingerprint: String,
}

impl<'a> Client<'a> {
    fn trusted(cluster: &'a Cluster, name: &str) -> Result<Client<'a>> {
        let own = Identity::generate(name, &[])?;
        let file = cluster.lab.dir.join(format!("{name}.crt"));
        std::fs::write(&file, &own.certificate)?;
        cluster.incus(1, &["config", "trust", "add-certificate", &file.to_string_lossy()])?;
        let server = std::fs::read_to_string(cluster.lab.machines[0].incus_dir().join("cluster.crt"))?;
        let config = client_config_for(&[&client::tls::fingerprint(&server)?], Some(&own))?;
        Ok(Client { cluster, config, fingerprint: own.fingerprint()? })
    }

    async fn connect(&self) -> Result<Stream> {
        let init = i32::try_from(self.cluster.lab.machines[0].init()?)?;
        let tcp = Netns::of_pid(init)?.run(|| StdStream::connect("10.77.0.1:8443"))??;
        tcp.set_nonblocking(true)?;
        let connector = TlsConnector::from(self.config.clone());
        Ok(connector.connect(ServerName::try_from("incus")?, TcpStream::from_std(tcp)?).await?)
    }

    async fn websocket(&self, path: &str) -> Result<WebSocketStream<Stream>> {
        Ok(client_async(format!("ws://incus{path}"), self.connect().await?).await?.0)
    }

    /// A connection on which that much was sent.
    async fn begin(&self, head: &str) -> Result<Stream> {
        let mut stream = self.connect().await?;
        stream.write_all(head.replace('\n', "\r\n").as_bytes()).await?;
        stream.flush().await?;
        Ok(stream)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        ask(&mut self.connect().await?, "POST", path, &body.to_string()).await
    }

    /// A program that says back what it is told.
    async fn program(&self, instance: &str) -> Result<Program<Stream>> {
        let (_, begun) = self.post(&format!("/1.0/instances/{instance}"), &echo()).await?;
        let mut sockets = Vec::new();
        for path in websockets(&begun) {
            sockets.push(self.websocket(&path).await?);
        }
        Program::ready(&begun, sockets).await
    }
}

/// What has to happen within a reasonable time.
async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> Result<T> {
    timeout(PATIENCE, happens).await.map_err(|_| format!("waited in vain for: {what}").into())
}

fn echo() -> Value {
    json!({"command": ["sh", "-c", "echo ready; cat; sleep 1000"], "wait-for-websocket": true})
}

/// The paths of the websockets that an answer names.
fn websockets(begun: &Value) -> Vec<String> {
    let (operation, fds) = (&begun["metadata"]["id"], &begun["metadata"]["metadata"]["fds"]);
    let secrets = ["control", "0", "1", "2"].into_iter().filter_map(|fd| fds[fd].as_str());
    secrets.map(|s| format!("/1.0/operations/{}/websocket?secret={s}", operation.as_str().unwrap())).collect()
}

/// Status and body of the answer to a request on that connection.
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, Value)> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: incus\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    stream.flush().await?;
    answer(stream).await
}

async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> Result<(u16, Value)> {
    let head = head(stream).await?;
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).ok_or("an answer without length")?;
    let mut body = vec![0; length.parse()?];
    soon("the body of an answer", stream.read_exact(&mut body)).await??;
    Ok((head[9..12].parse()?, serde_json::from_slice(&body)?))
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("the head of an answer", stream.read_u8()).await??);
    }
    Ok(String::from_utf8(head)?.to_lowercase())
}

/// A program in an instance and its websockets.
struct Program<S> {
    operation: String,
    sockets: Vec<WebSocketStream<S>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Program<S> {
    async fn ready(begun: &Value, sockets: Vec<WebSocketStream<S>>) -> Result<Program<S>> {
        let operation = begun["metadata"]["id"].as_str().ok_or("no operation")?.to_owned();
        let mut program = Program { operation, sockets };
        program.expect("ready").await?;
        Ok(program)
    }

    async fn expect(&mut self, text: &str) -> Result<()> {
        let mut seen = String::new();
        while !seen.contains(text) {
            match soon(text, self.sockets[2].next()).await?.ok_or("it ended")?? {
                Message::Binary(data) => seen.push_str(&String::from_utf8_lossy(&data)),
                Message::Close(_) => return Err("it was closed".into()),
                _ => {}
            }
        }
        Ok(())
    }

    async fn goes_on(&mut self, text: &str) -> Result<()> {
        self.sockets[1].send(Message::binary(format!("{text}\n"))).await?;
        self.expect(text).await
    }

    /// All its websockets end, and so does the program.
    async fn ended(self, cluster: &Cluster) -> Result<()> {
        for socket in self.sockets {
            closed(socket).await?;
        }
        let ended = cluster.get(2, &format!("/1.0/operations/{}/wait?timeout=20", self.operation))?;
        // Its websockets are closed and it is cancelled: either ends the program, whichever comes first.
        let killed = ended["status"] == "Success" && ended["metadata"]["return"].as_i64().is_some_and(|code| code != 0);
        assert!(killed || ended["status"] == "Cancelled", "{ended}");
        Ok(())
    }
}

async fn closed<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) -> Result<()> {
    let end = async { while let Some(Ok(_)) = socket.next().await {} };
    soon("the end of a websocket", end).await
}

/// SFTP in an instance, after its greeting.
async fn sftp(client: &Client<'_>) -> Result<Stream> {
    let request = "GET /1.0/instances/c1/sftp HTTP/1.1\nHost: incus\nConnection: Upgrade\nUpgrade: sftp\n\n";
    let mut stream = client.begin(request).await?;
    assert!(head(&mut stream).await?.starts_with("http/1.1 101"));
    greet(&mut stream).await?;
    Ok(stream)
}

/// The first packet of SFTP, and its answer.
async fn greet(stream: &mut Stream) -> Result<()> {
    stream.write_all(&[0, 0, 0, 5, 1, 0, 0, 0, 3]).await?;
    stream.flush().await?;
    let length = soon("SFTP", stream.read_u32()).await??;
    soon("SFTP", stream.read_exact(&mut vec![0; length as usize])).await??;
    Ok(())
}

/// How many bytes come until the end.
async fn rest(stream: &mut Stream) -> Result<u64> {
    let (mut all, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        match soon("the end of a file", stream.read(&mut buffer)).await? {
            Ok(n) if n > 0 => all += n as u64,
            _ => return Ok(all),
        }
    }
}

async fn heard(events: &mut WebSocketStream<Stream>, text: &str) -> Result<()> {
    loop {
        let next = soon(text, events.next()).await?.ok_or("the events ended")??;
        if next.to_text().is_ok_and(|event| event.contains(text)) {
            return Ok(());
        }
    }
}

/// Of clients: one is removed, one is restricted to a project, and one stays.
#[tokio::main]
pub async fn of_clients(cluster: &Cluster) -> Result<()> {
    cluster.incus(1, &["project", "create", "own", "-c", "features.images=false", "-c", "features.profiles=false"])?;
    cluster.incus(1, &["launch", "busybox", "c3", "--project", "own", "--target", "server2"])?;
    cluster.incus(1, &["launch", "busybox", "c2", "--target", "server1"])?;
    std::fs::File::create(crate::files::rootfs(cluster, "c1").join("large"))?.set_len(LARGE)?;
    let [leaving, limited, staying] = ["leaving", "limited", "staying"].map(|name| Client::trusted(cluster, name));
    let (leaving, limited, staying) = (leaving?, limited?, staying?);

    // All that the one who leaves has open: here, and through server1 on server2.
    let mut programs = vec![leaving.program("c1/exec").await?, leaving.program("c2/exec").await?];
    let events = leaving.websocket("/1.0/events?all-projects=true").await?;
    let (_, console) = leaving.post("/1.0/instances/c1/console", &json!({"type": "console"})).await?;
    let mut console_sockets = Vec::new();
    for path in websockets(&console) {
        console_sockets.push(leaving.websocket(&path).await?);
    }
    let mut files = sftp(&leaving).await?;
    let mut download = leaving.begin("GET /1.0/instances/c1/files?path=/large HTTP/1.1\nHost: incus\n\n").await?;
    assert!(head(&mut download).await?.starts_with("http/1.1 200"));
    let mut upload = leaving.begin("POST /1.0/images HTTP/1.1\nHost: incus\nContent-Length: 99999\n\nabc").await?;
    let slow = "POST /1.0/profiles HTTP/1.1\nHost: incus\nContent-Length: 16\n\n{\"name\":";
    let mut slow = leaving.begin(slow).await?;
    let mut idle = leaving.connect().await?;
    assert_eq!(ask(&mut idle, "GET", "/1.0/profiles", "").await?.0, 200);
    let mut waiting =
        leaving.begin(&format!("GET /1.0/operations/{}/wait HTTP/1.1\nHost: incus\n\n", programs[0].operation)).await?;
    // What needs nobody to talk to.
    let (_, alone) = leaving.post("/1.0/instances/c1/exec", &json!({"command": ["sleep", "4713"]})).await?;
    let alone = alone["metadata"]["id"].as_str().ok_or("no operation")?;

    // And the others.
    let (mut lost, mut kept) = (limited.program("c1/exec").await?, limited.program("c3/exec?project=own").await?);
    let limited_events = limited.websocket("/1.0/events").await?;
    let mut stays = vec![staying.program("c1/exec").await?, staying.program("c2/exec").await?];
    let (mut their_events, mut their_files) = (staying.websocket("/1.0/events").await?, sftp(&staying).await?);

    for program in programs.iter_mut().chain(&mut stays).chain([&mut lost, &mut kept]) {
        program.goes_on("before").await?;
    }
    // A change of trust that takes nothing from anybody.
    let patch = |who: &Client<'_>, body: Value| {
        let path = format!("/1.0/certificates/{}", who.fingerprint);
        cluster.incus(2, &["query", "-X", "PATCH", "-d", &body.to_string(), &path])
    };
    patch(&leaving, json!({"description": "soon gone"}))?;
    programs[0].goes_on("still there").await?;

    cluster.incus(2, &["config", "trust", "remove", &leaving.fingerprint])?;
    for program in programs {
        program.ended(cluster).await?;
    }
    closed(events).await?;
    for socket in console_sockets {
        closed(socket).await?;
    }
    assert!(greet(&mut files).await.is_err(), "SFTP goes on");
    assert!(rest(&mut download).await? < LARGE, "all was sent nevertheless");
    let (status, _) = answer(&mut upload).await.map_err(|e| format!("the upload: {e}"))?;
    assert_eq!(status, 403, "who sends is not heard any more");
    slow.write_all(b"\"later\"}").await?;
    slow.flush().await?;
    let (status, _) = answer(&mut slow).await.map_err(|e| format!("the slow request: {e}"))?;
    assert_eq!(status, 403, "a request is decided at its end, too");
    assert!(!cluster.incus(1, &["profile", "list", "-f", "csv"])?.contains("later"));
    assert_eq!(ask(&mut idle, "GET", "/1.0/profiles", "").await?.0, 403);
    assert!(answer(&mut waiting).await.is_ok_and(|(status, _)| status == 200 || status == 403));
    assert_eq!(cluster.get(1, &format!("/1.0/operations/{alone}"))?["status"], "Running");
    cluster.incus(1, &["query", "-X", "DELETE", &format!("/1.0/operations/{alone}")])?;

    patch(&limited, json!({"restricted": true, "projects": ["own"]}))?;
    lost.ended(cluster).await?;
    closed(limited_events).await?;
    kept.goes_on("in its own project").await?;
    patch(&limited, json!({"projects": ["default"]}))?;
    kept.ended(cluster).await?;

    for program in &mut stays {
        program.goes_on("after").await?;
    }
    greet(&mut their_files).await?;
    cluster.incus(2, &["profile", "create", "heard"])?;
    heard(&mut their_events, "/1.0/profiles/heard").await
}

/// Of a member that is removed: what its users have open on the others.
#[tokio::main]
pub async fn of_a_member(cluster: &Cluster) -> Result<()> {
    let through = async |number: usize| {
        let path = cluster.lab.machines[number - 1].incus_dir().join("unix.socket");
        let mut socket = UnixStream::connect(&path).await?;
        let (_, begun) = ask(&mut socket, "POST", "/1.0/instances/c1/exec", &echo().to_string()).await?;
        let mut sockets = Vec::new();
        for path_of in websockets(&begun) {
            sockets.push(client_async(format!("ws://incus{path_of}"), UnixStream::connect(&path).await?).await?.0);
        }
        Program::ready(&begun, sockets).await
    };
    let (mut lost, mut stays) = (through(3).await?, through(1).await?);
    lost.goes_on("before").await?;
    cluster.incus(1, &["cluster", "remove", "server3", "--force", "--yes"])?;
    lost.ended(cluster).await?;
    stays.goes_on("after").await
}
