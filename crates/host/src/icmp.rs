//! Asking a machine for a sign of life: ICMP echo requests, as `ping` sends them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, connect, ipproto, recv, send, socket};

/// Tells our own questions from each other.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// What a question and its answer look like.
#[derive(Clone, Copy)]
struct Kind {
    request: u8,
    reply: u8,
    /// The kernel hands the header of the packet over, too.
    headed: bool,
}

const V4: Kind = Kind { request: 8, reply: 0, headed: true };
const V6: Kind = Kind { request: 128, reply: 129, headed: false };

/// True if the machine with this address answers one of so many echo requests, each within `patience`.
///
/// # Errors
/// Only when this machine can't ask at all; an address to which there is no way does not answer.
pub fn answers(address: IpAddr, tries: u16, patience: Duration) -> io::Result<bool> {
    let (family, protocol, kind) = match address {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, V4),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, V6),
    };
    let socket = socket(family, SocketType::RAW, Some(protocol))?;
    if connect(&socket, &SocketAddr::new(address, 0)).is_err() {
        return Ok(false);
    }
    for _ in 0..tries.max(1) {
        let end = Instant::now() + patience;
        let question = question(kind, NEXT.fetch_add(1, Ordering::Relaxed));
        let asked = send(&socket, &question, SendFlags::empty()).is_ok();
        if asked && answered(&socket, kind, &question, end)? {
            return Ok(true);
        }
        // Where there is no way the answer is immediate; a way may come up.
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
    }
    Ok(false)
}

/// A request; the kernel fills in the checksum of version 6 itself.
fn question(kind: Kind, number: u16) -> Vec<u8> {
    let [id, number] = [(std::process::id() & 0xffff) as u16, number].map(u16::to_be_bytes);
    let mut packet = vec![kind.request, 0, 0, 0, id[0], id[1], number[0], number[1]];
    packet.extend_from_slice(b"incus: are you there?");
    if kind.headed {
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

/// The checksum of the Internet protocols (RFC 1071).
fn checksum(packet: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = packet.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Waits for the answer to a request; what else comes is somebody else's.
fn answered(socket: &OwnedFd, kind: Kind, question: &[u8], end: Instant) -> io::Result<bool> {
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut packet = [0; 512];
        match recv(socket, &mut packet, RecvFlags::DONTWAIT) {
            Ok((got, _)) if is_answer(kind, question, &packet[..got]) => return Ok(true),
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // A router on the way, or this machine itself, says that it is not to be reached.
            Err(_) => return Ok(false),
        }
    }
}

fn is_answer(kind: Kind, question: &[u8], packet: &[u8]) -> bool {
    let head = if kind.headed { packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4) } else { 0 };
    let Some(message) = packet.get(head..) else { return false };
    // The number and the words come back as they were sent.
    message.first() == Some(&kind.reply) && message.get(4..) == question.get(4..)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_comes_back_is_told_from_what_others_send() {
        let ask = question(V4, 7);
        assert_eq!(checksum(&ask), 0, "a packet with its checksum sums up to nothing");
        let mut reply = vec![0x45; 20];
        reply.extend_from_slice(&ask);
        assert!(!is_answer(V4, &ask, &reply), "that is the question itself");
        reply[20] = V4.reply;
        assert!(is_answer(V4, &ask, &reply));
        assert!(!is_answer(V4, &question(V4, 8), &reply), "another question's answer");
        assert!(!is_answer(V4, &ask, &reply[..10]) && !is_answer(V4, &ask, &[]));
        let ask = question(V6, 7);
        let mut reply = ask.clone();
        reply[0] = V6.reply;
        assert!(is_answer(V6, &ask, &reply));
    }

    #[test]
    fn who_is_there_answers_and_who_is_not_does_not() {
        use crate::net::{Change, Kind, Net};
        let Ok(ns) = crate::netns::Netns::fresh() else {
            return eprintln!("SKIPPED: no network namespace can be made here (not root?)");
        };
        let asked = ns.run(|| {
            let net = Net::open().unwrap();
            let up = Change { up: Some(true), ..Change::default() };
            net.change("lo", up).unwrap();
            net.create("br0", Kind::Bridge, up).unwrap();
            net.add_address("br0", "10.9.8.1/24".parse().unwrap()).unwrap();
            ["10.9.8.1", "::1", "10.9.8.2", "192.0.2.1", "2001:db8::1"]
                .map(|address| answers(address.parse().unwrap(), 2, Duration::from_millis(200)).unwrap())
        });
        // Here, here, nobody, and no way to the last two.
        assert_eq!(asked.unwrap(), [true, true, false, false, false]);
    }
}
