//! The API spoken directly, where clients would not do what is to be tried.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use lab::{Cluster, Result};
use russh_sftp::client::SftpSession;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

type WebSocket = WebSocketStream<UnixStream>;

struct Operation<'a> {
    cluster: &'a Cluster,
    id: String,
    fds: Value,
}

impl Operation<'_> {
    async fn open(&self, fd: &str) -> Result<WebSocket> {
        self.connect(self.fds[fd].as_str().ok_or("no such channel")?).await
    }

    async fn connect(&self, secret: &str) -> Result<WebSocket> {
        let socket = UnixStream::connect(self.cluster.lab.machines[0].incus_dir().join("unix.socket")).await?;
        let url = format!("ws://incus/1.0/operations/{}/websocket?secret={secret}", self.id);
        Ok(client_async(url, socket).await?.0)
    }

    fn ended(&self) -> Result<Value> {
        self.cluster.get(1, &format!("/1.0/operations/{}/wait?timeout=20", self.id))
    }
}

fn exec<'a>(cluster: &'a Cluster, wanted: &Value) -> Result<Operation<'a>> {
    let answer = cluster.incus(1, &["query", "-X", "POST", "-d", &wanted.to_string(), "/1.0/instances/c1/exec"])?;
    let operation: Value = serde_json::from_str(&answer)?;
    assert_eq!((&operation["class"], &operation["description"]), (&json!("websocket"), &json!("Executing command")));
    assert_eq!((&operation["status"], &operation["location"]), (&json!("Running"), &json!("server2")));
    let id = operation["id"].as_str().ok_or("no id")?.to_owned();
    Ok(Operation { cluster, id, fds: operation["metadata"]["fds"].clone() })
}

/// What comes until the text is there.
async fn expect(socket: &mut WebSocket, text: &str) -> Result<String> {
    let mut seen = String::new();
    let read = async {
        while !seen.contains(text) {
            match socket.next().await.ok_or("it ended")?? {
                Message::Binary(data) => seen.push_str(&String::from_utf8_lossy(&data)),
                Message::Text(_) | Message::Close(_) => return Err("it ended".into()),
                _ => {}
            }
        }
        Ok::<_, lab::run::Error>(())
    };
    let done = tokio::time::timeout(Duration::from_secs(20), read).await;
    done.map_err(|e| e.to_string().into()).flatten().map_err(|e| format!("{text:?}: {e}: {seen:?}"))?;
    Ok(seen)
}

async fn said(socket: &mut WebSocket, wanted: Value) -> Result<()> {
    Ok(socket.send(Message::text(wanted.to_string())).await?)
}

#[tokio::main]
pub async fn protocol(cluster: &Cluster) -> Result<()> {
    // A terminal: its size follows, signals arrive, the last message says that it is over.
    let wanted = json!({
        "command": ["sh", "-i"], "wait-for-websocket": true, "interactive": true, "width": 91, "height": 31,
    });
    let operation = exec(cluster, &wanted)?;
    assert!(operation.connect("wrong").await.is_err());
    assert!(operation.connect("").await.is_err());
    let (mut control, mut data) = (operation.open("control").await?, operation.open("0").await?);
    assert!(operation.open("0").await.is_err(), "a secret is good once");
    data.send(Message::binary("stty size\n")).await?;
    expect(&mut data, "31 91").await?;
    said(&mut control, json!({"command": "window-resize", "args": {"width": "77", "height": "22"}})).await?;
    said(&mut control, json!({"command": "nonsense"})).await?;
    control.send(Message::text("no json")).await?;
    data.send(Message::Ping("are you there".into())).await?;
    data.send(Message::binary("sleep 0.2; stty size\n")).await?;
    expect(&mut data, "22 77").await?;
    said(&mut control, json!({"command": "signal", "args": null, "signal": 9})).await?;
    let mut last = None;
    while let Some(Ok(message)) = data.next().await {
        if !message.is_close() {
            last = Some(message);
        }
    }
    assert_eq!(last, Some(Message::text("")));
    let ended = operation.ended()?;
    assert_eq!((&ended["status"], &ended["metadata"]["return"]), (&json!("Success"), &json!(137)));

    // Pipes: the end of the input is an empty message; what goes to standard error comes there.
    let operation = exec(cluster, &json!({"command": ["sh", "-c", "cat; echo err >&2"], "wait-for-websocket": true}))?;
    let (mut input, mut output, mut errors) =
        (operation.open("0").await?, operation.open("1").await?, operation.open("2").await?);
    input.send(Message::binary("hello")).await?;
    expect(&mut output, "hello").await?;
    input.send(Message::text("")).await?;
    expect(&mut errors, "err\n").await?;
    assert_eq!(operation.ended()?["metadata"]["return"], 0);

    // A client that is lost takes its program with it; one that says goodbye to its control channel does not.
    let command = json!({"command": ["sh", "-c", "echo ready; sleep 4712"], "wait-for-websocket": true});
    let operation = exec(cluster, &command)?;
    let mut control = operation.open("control").await?;
    let (_input, mut output, _errors) =
        (operation.open("0").await?, operation.open("1").await?, operation.open("2").await?);
    expect(&mut output, "ready").await?;
    control.close(None).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(cluster.get(1, &format!("/1.0/operations/{}", operation.id))?["status"], "Running");
    // It can be cancelled.
    cluster.incus(1, &["query", "-X", "DELETE", &format!("/1.0/operations/{}", operation.id)])?;
    assert_eq!(operation.ended()?["status"], "Cancelled");
    let operation = exec(cluster, &command)?;
    let control = operation.open("control").await?;
    let (_input, mut output, _errors) =
        (operation.open("0").await?, operation.open("1").await?, operation.open("2").await?);
    expect(&mut output, "ready").await?;
    drop(control);
    assert_eq!(operation.ended()?["metadata"]["return"], 137);

    // Bad input.
    for (wanted, said) in [
        (json!({"command": []}), "A command is needed"),
        (json!({"command": ["true"], "interactive": true, "record-output": true}), "can't be recorded"),
        (json!({"command": ["a\u{0}b"]}), "zero byte"),
        (json!({"command": ["true"], "environment": {"A=B": "c"}}), "can't be the name of a variable"),
    ] {
        let refused =
            cluster.refused(1, &["query", "-X", "POST", "-d", &wanted.to_string(), "/1.0/instances/c1/exec"])?;
        assert!(refused.contains(said), "{wanted}: {refused}");
    }
    secrets_are_not_told(cluster).await
}

/// Who listens to events learns nothing that lets them take part.
async fn secrets_are_not_told(cluster: &Cluster) -> Result<()> {
    let socket = UnixStream::connect(cluster.lab.machines[1].incus_dir().join("unix.socket")).await?;
    let (mut events, _) = client_async("ws://incus/1.0/events?type=operation,lifecycle", socket).await?;
    let operation = exec(cluster, &json!({"command": ["true"], "wait-for-websocket": true}))?;
    let mut sockets = Vec::new();
    for fd in ["0", "1", "2", "control"] {
        sockets.push(operation.open(fd).await?);
    }
    assert_eq!(operation.ended()?["metadata"]["return"], 0);
    let (mut heard, mut executed) = (0, false);
    while !executed || heard < 3 {
        let message = tokio::time::timeout(Duration::from_secs(10), events.next()).await?.ok_or("no more events")??;
        let Message::Text(text) = message else { continue };
        heard += usize::from(text.contains(&operation.id));
        executed |= text.contains("instance-exec");
        for secret in operation.fds.as_object().unwrap().values() {
            assert!(!text.contains(secret.as_str().unwrap()), "{text}");
        }
    }
    Ok(())
}

/// The files of an instance by SFTP, over the first member's unix socket.
pub async fn open_sftp(cluster: &Cluster, name: &str) -> Result<SftpSession> {
    let mut socket = UnixStream::connect(cluster.lab.machines[0].incus_dir().join("unix.socket")).await?;
    let head = format!(
        "GET /1.0/instances/{name}/sftp HTTP/1.1\r\nHost: incus\r\nConnection: Upgrade\r\nUpgrade: sftp\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await?);
    }
    let answer = String::from_utf8(answer)?;
    assert!(answer.starts_with("HTTP/1.1 101") && answer.to_lowercase().contains("upgrade: sftp"), "{answer}");
    Ok(SftpSession::new(socket).await?)
}

/// SFTP over an upgraded connection, from the member that does not have the instance, by a client of others.
#[tokio::main]
pub async fn sftp(cluster: &Cluster) -> Result<()> {
    for name in ["c1", "s1"] {
        let sftp = open_sftp(cluster, name).await?;
        let data: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let mut file = sftp.create("/tmp/by-sftp").await?;
        file.write_all(&data).await?;
        file.close().await?;
        assert_eq!(std::fs::read(crate::files::rootfs(cluster, name).join("tmp/by-sftp"))?, data);
        assert!(sftp.read("/tmp/by-sftp").await? == data, "what is read is what was written");
        let names: Vec<String> = sftp.read_dir("/usr").await?.map(|e| e.file_name()).collect();
        assert!(names.contains(&"bin".to_owned()), "{names:?}");
        assert!(sftp.metadata("/nope").await.is_err());
        assert!(!sftp.try_exists(cluster.lab.dir.to_string_lossy()).await?, "nothing of the host is there");
        sftp.remove_file("/tmp/by-sftp").await?;
    }
    let said = crate::files::ask(cluster, "GET", "/1.0/instances/c1/sftp", &[])?;
    assert!(said.0 == 400 && said.2.contains("upgrade header"), "{said:?}");
    Ok(())
}
