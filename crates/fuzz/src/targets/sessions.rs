//! What goes to and fro while something is open: control channels, the guard's socket, SFTP; leases; scriptlets.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ::scriptlet::{Answers, Question};
use daemon::readers::Ask;
use drivers::files::{Client, Flags, Helper, Place as Files};
use drivers::storage::lease::{Leases, Owner, Watch, lapse};
use drivers::storage::{Kind, Volume};
use host::channel::Channel;
use serde_json::{Value, json};

use super::{Place, RUNTIME, beside};

pub fn control(input: &[u8]) {
    let _ = daemon::readers::control_message(input);
}

pub fn control_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"command": "window-resize", "args": {"width": "80", "height": "24"}, "signal": 0}"#,
        r#"{"command": "signal", "signal": 15, "args": null}"#,
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

pub fn guard(input: &[u8]) {
    let Ok((mut theirs, ours)) = UnixStream::pair() else { return };
    let input = input.to_vec();
    let sender = std::thread::spawn(move || theirs.write_all(&input));
    let mut channel = Channel::from(ours);
    while channel.receive::<Ask>().is_ok() {}
    drop(channel);
    let _ = sender.join();
}

pub fn guard_seeds() -> Vec<Vec<u8>> {
    let message = |text: &str| {
        let len = u32::try_from(text.len()).unwrap_or(0).to_ne_bytes();
        [&len[..], text.as_bytes()].concat()
    };
    let quorum = json!({"quorum": {"confirmed": {"secs": 1, "nanos": 2}, "fence_after": {"secs": 30, "nanos": 0}}});
    let using = json!({"use": {"name": "v", "users": [{"name": "c1", "cgroup": "a", "note": "/x"}]}});
    vec![
        [message("\"look\""), message(&quorum.to_string())].concat(),
        [message(&using.to_string()), message(r#"{"give-back": {"name": "v"}}"#)].concat(),
    ]
}

/// Packets, each with its length before it in two bytes; the length of the protocol is made to fit. One that begins with
/// 255 is sent as it is.
pub fn sftp(input: &[u8]) {
    let sent = match input.split_first() {
        Some((255, raw)) => raw.to_vec(),
        _ => framed(input),
    };
    let place = Place::new();
    let _ = std::fs::write(place.inside().join("file"), "hello");
    let _ = std::fs::create_dir(place.inside().join("dir"));
    let talked = RUNTIME.block_on(async {
        let helper = Helper::start(&beside("incusd"), &Files::Directory(place.inside())).expect("a helper");
        let stream = tokio::io::join(std::io::Cursor::new(sent), tokio::io::sink());
        tokio::time::timeout(Duration::from_secs(60), helper.talk(stream)).await.expect("the helper comes back")
    });
    if let Err(e) = talked {
        assert!(!e.message.contains("panicked"), "{e}");
    }
    place.check();
}

fn framed(mut input: &[u8]) -> Vec<u8> {
    let mut packets = Vec::new();
    while let [a, b, rest @ ..] = input {
        let len = usize::from(u16::from_be_bytes([*a, *b])).min(rest.len());
        let (packet, left) = rest.split_at(len);
        packets.extend(u32::try_from(len).unwrap_or(0).to_be_bytes());
        packets.extend_from_slice(packet);
        input = left;
    }
    packets
}

/// A packet of a type with these fields: numbers of four bytes, or texts.
fn packet(kind: u8, fields: &[Field<'_>]) -> Vec<u8> {
    let mut packet = vec![kind];
    for field in fields {
        match field {
            Field::Number(n) => packet.extend(n.to_be_bytes()),
            Field::Text(text) => {
                packet.extend(u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
                packet.extend_from_slice(text);
            }
        }
    }
    packet
}

enum Field<'a> {
    Number(u32),
    Text(&'a [u8]),
}

pub fn sftp_seeds() -> Vec<Vec<u8>> {
    use Field::{Number as N, Text as T};
    let handle = 1_u32.to_be_bytes();
    let session = |packets: &[Vec<u8>]| {
        let one = |p: &Vec<u8>| [&u16::try_from(p.len()).unwrap_or(0).to_be_bytes()[..], p].concat();
        packets.iter().flat_map(one).collect::<Vec<u8>>()
    };
    let begin = packet(1, &[N(3)]);
    vec![
        session(&[
            begin.clone(),
            packet(3, &[N(1), T(b"/new"), N(0x1a), N(4), N(0o644)]),
            packet(6, &[N(2), T(&handle), N(0), N(0), T(b"data")]),
            packet(5, &[N(3), T(&handle), N(0), N(0), N(100)]),
            packet(10, &[N(4), T(&handle), N(1), N(0), N(2)]),
            packet(4, &[N(5), T(&handle)]),
        ]),
        session(&[
            begin.clone(),
            packet(11, &[N(1), T(b"/")]),
            packet(12, &[N(2), T(&handle)]),
            packet(17, &[N(3), T(b"/file")]),
            packet(7, &[N(4), T(b"/dir")]),
            packet(16, &[N(5), T(b"/../..//x")]),
        ]),
        session(&[
            begin,
            packet(14, &[N(1), T(b"/made"), N(0)]),
            packet(20, &[N(2), T(b"../../outside"), T(b"/link")]),
            packet(19, &[N(3), T(b"/link")]),
            packet(18, &[N(4), T(b"/file"), T(b"/moved")]),
            packet(200, &[N(5), T(b"posix-rename@openssh.com"), T(b"/moved"), T(b"/file")]),
            packet(200, &[N(6), T(b"statvfs@openssh.com"), T(b"/")]),
            packet(13, &[N(7), T(b"/link")]),
            packet(15, &[N(8), T(b"/made")]),
        ]),
    ]
}

/// What a helper answers, one byte after the other, whatever it was asked.
pub fn helper(input: &[u8]) {
    RUNTIME.block_on(async {
        let Ok((ours, theirs)) = tokio::net::UnixStream::pair() else { return };
        let answers = input.to_vec();
        let answering = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let (mut read, mut write) = theirs.into_split();
            let reading = tokio::spawn(async move { while read.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {} });
            let _ = write.write_all(&answers).await;
            drop(write);
            let _ = reading.await;
        });
        if let Ok(mut client) = Client::begin(ours, None).await {
            let _ = client.look(b"/x").await;
            let _ = client.list(b"/").await;
            if let Ok(handle) = client.open(b"/x", Flags::Read, 0).await {
                let _ = client.read(&handle, 0).await;
            }
            let _ = client.read_link(b"/x").await;
            let _ = client.remove_all(b"/x").await;
        }
        answering.abort();
    });
}

pub fn helper_seeds() -> Vec<Vec<u8>> {
    use Field::{Number as N, Text as T};
    let session = |packets: &[Vec<u8>]| {
        let one = |p: &Vec<u8>| [&u32::try_from(p.len()).unwrap_or(0).to_be_bytes()[..], p].concat();
        packets.iter().flat_map(one).collect::<Vec<u8>>()
    };
    let version = packet(2, &[N(3)]);
    let attributes = |id| packet(105, &[N(id), N(4), N(0o100_644)]);
    vec![session(&[
        version,
        attributes(1),
        packet(102, &[N(2), T(&[0, 0, 0, 1])]),
        packet(104, &[N(3), N(1), T(b"name"), T(b"long"), N(4), N(0o40_755)]),
        packet(101, &[N(4), N(1), T(b"End of file"), T(b"")]),
        packet(101, &[N(5), N(0), T(b""), T(b"")]),
        packet(102, &[N(6), T(&[0, 0, 0, 2])]),
        packet(103, &[N(7), T(b"data")]),
        packet(104, &[N(8), N(1), T(b"to"), T(b"to"), N(0)]),
    ])]
}

pub fn lease(input: &[u8]) {
    let place = Place::new();
    let (leases, volume) = (Leases::new(&place.inside()), Volume::new(Kind::Custom, "default", "v"));
    let clock = || Duration::from_secs(1);
    let owner = |id| Owner { id, name: format!("server{id}") };
    let ttl = Duration::from_secs(10);
    if leases.create().is_err() || leases.take(&volume, &owner(1), ttl, clock).is_err() {
        return;
    }
    for file in std::fs::read_dir(place.inside().join("leases")).into_iter().flatten().flatten() {
        let _ = std::fs::write(file.path(), input);
    }
    let mut watch = Watch::default();
    for _ in 0..2 {
        let _ = watch.look(&leases, &volume, clock);
    }
    let _ = leases.take(&volume, &owner(1), ttl, clock).map(|mut held| held.renew(clock));
    if let Ok(Some(seen)) = leases.read(&volume) {
        let _ = lapse(seen.ttl());
        let _ = leases.take_over(&volume, &owner(2), ttl, clock, &seen).map(|mut held| held.renew(clock));
    }
    let _ = leases.held_by(2);
    let _ = leases.tidy_up(1);
    place.check();
}

pub fn lease_seeds() -> Vec<Vec<u8>> {
    let record = |incarnation: u64, beat: u64| {
        let record = json!({"owner": 1, "name": "server1", "incarnation": incarnation, "beat": beat, "ttl_ms": 10000,
            "state": "held"});
        record.to_string().into_bytes()
    };
    vec![record(1, 0), record(u64::MAX, u64::MAX)]
}

struct Nobody;

impl Answers for Nobody {
    fn answer(&self, _: &Question) -> Result<Value, String> {
        Ok(json!({"name": "a", "config": {}, "count": 1}))
    }
}

pub fn scriptlet(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = ::scriptlet::check(&text);
    let candidates = [json!({"server_name": "server1"}), json!({"server_name": "server2"})];
    let request = json!({"name": "c1", "config": {"limits.cpu": "2"}, "reason": "new"});
    let _ = ::scriptlet::place(&text, &request, &candidates, Box::new(Nobody), Duration::from_millis(500));
}

pub fn scriptlet_seeds() -> Vec<Vec<u8>> {
    let in_function =
        |body: &str| format!("def instance_placement(request, candidate_members):\n{body}\n").into_bytes();
    vec![
        in_function("    set_target(candidate_members[0].server_name)\n    return"),
        in_function(
            "    for m in candidate_members:\n        if get_instances_count(location=m.server_name) < 3:\n            \
            log_info(\"x\", m)\n            set_target(m.server_name)\n            return\n    fail(\"none\")",
        ),
        in_function(
            "    x = [a * 2 for a in range(10) if a % 2 == 0]\n    y = {\"a\": x, \"b\": lambda z: z + 1}\n    \
            return \"%s %d\" % (request.name, len(y))",
        ),
        in_function("    return (1 if request.reason == \"new\" else [1, 2][::-1])"),
    ]
}
