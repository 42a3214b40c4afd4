//! Route netlink on the wire: messages are built and taken apart here, and travel over one blocking socket.
//!
//! Attributes that are not known are passed over, so a newer kernel never breaks reading.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Mutex,
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const HEADER: usize = 16;
const BUFFER: usize = 256 * 1024;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// The kernel marks nested attributes with this bit; it is not part of the number.
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Attributes under construction, aligned and length-prefixed as the kernel wants them.
#[derive(Default)]
pub(super) struct Attrs(Vec<u8>);

impl Attrs {
    pub fn raw(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.raw(kind, &[value])
    }
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.raw(kind, &value.to_ne_bytes())
    }
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.raw(kind, &value.to_ne_bytes())
    }
    pub fn str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.raw(kind, &bytes)
    }
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attrs)) -> &mut Self {
        let mut inner = Attrs::default();
        fill(&mut inner);
        self.raw(kind | NESTED, &inner.0)
    }
    /// Puts attributes that are ready into a nest; nothing if there are none.
    pub fn append(&mut self, kind: u16, inner: &Attrs) -> &mut Self {
        if inner.0.is_empty() { self } else { self.raw(kind | NESTED, &inner.0) }
    }
    /// A nest that opens with a fixed structure, as a veth's peer does.
    pub fn nest_with(&mut self, kind: u16, body: &[u8], fill: impl FnOnce(&mut Attrs)) -> &mut Self {
        let mut inner = Attrs(body.to_vec());
        fill(&mut inner);
        self.raw(kind | NESTED, &inner.0)
    }
}

/// Walks over received attributes; stops at the first that is malformed.
pub(super) fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
pub(super) fn text(value: &[u8]) -> String {
    let bytes = CStr::from_bytes_until_nul(value).map_or(value, CStr::to_bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

/// A message that came back: its type, and what follows the header.
pub(super) struct Message {
    pub kind: u16,
    pub body: Vec<u8>,
}

/// A netlink socket; it stays in the namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Wire {
    /// The socket and the number of the last request; one request at a time.
    socket: Mutex<(OwnedFd, u32)>,
}

impl Wire {
    pub fn open() -> io::Result<Self> {
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None, // NETLINK_ROUTE is protocol 0
        )?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_GET_STRICT_CHK] {
            // Errors in words and filtered dumps: good to have, kernels without them do as well.
            set_flag(&fd, option);
        }
        Ok(Self { socket: Mutex::new((fd, 0)) })
    }

    /// A request that is answered by an acknowledgement alone.
    pub fn call(&self, kind: u16, flags: i32, body: &[u8], attrs: &Attrs) -> io::Result<()> {
        self.exchange(kind, flags | libc::NLM_F_ACK, body, attrs).map(drop)
    }

    /// A request for one thing.
    pub fn get(&self, kind: u16, body: &[u8], attrs: &Attrs) -> io::Result<Vec<Message>> {
        self.exchange(kind, libc::NLM_F_ACK, body, attrs)
    }

    /// A request for all things of a kind; asked again if they changed underway.
    pub fn dump(&self, kind: u16, body: &[u8], attrs: &Attrs) -> io::Result<Vec<Message>> {
        for _ in 0..8 {
            match self.exchange(kind, libc::NLM_F_DUMP, body, attrs) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
        Err(io::Error::other("the kernel's list keeps changing while it is read"))
    }

    fn exchange(&self, kind: u16, flags: i32, body: &[u8], attrs: &Attrs) -> io::Result<Vec<Message>> {
        let mut guard = self.socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        guard.1 = guard.1.wrapping_add(1);
        let (fd, seq) = (&guard.0, guard.1);
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or_default();
        let len = HEADER + body.len() + attrs.0.len();
        let mut message = Vec::with_capacity(len);
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        message.extend_from_slice(&len.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&seq.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(body);
        message.extend_from_slice(&attrs.0);
        rustix::io::retry_on_intr(|| send(fd, &message, SendFlags::empty()))?;
        receive(fd, seq)
    }
}

/// Reads until the answer to request `seq` is complete.
fn receive(fd: &OwnedFd, seq: u32) -> io::Result<Vec<Message>> {
    let mut buffer = vec![0u8; BUFFER];
    let mut answers = Vec::new();
    let mut interrupted = false;
    loop {
        let (read, whole) = rustix::io::retry_on_intr(|| recv(fd, &mut buffer[..], RecvFlags::TRUNC))?;
        if whole > read {
            return Err(io::Error::other("an answer of the kernel is larger than can be"));
        }
        let mut rest = &buffer[..read];
        while let (Some(len), Some(kind), Some(got_flags), Some(got)) =
            (u32_at(rest, 0), u16_at(rest, 4), u16_at(rest, 6), u32_at(rest, 8))
        {
            let len = len as usize;
            let Some(body) = rest.get(HEADER..len) else {
                return Err(io::Error::other("an answer of the kernel is cut off"));
            };
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            if got != seq {
                continue; // left over from a request that was given up
            }
            interrupted |= i32::from(got_flags) & libc::NLM_F_DUMP_INTR != 0;
            match i32::from(kind) {
                libc::NLMSG_ERROR => return failure(body, got_flags).map_or(Ok(answers), Err),
                libc::NLMSG_DONE if interrupted => return Err(io::ErrorKind::Interrupted.into()),
                libc::NLMSG_DONE => return Ok(answers),
                _ => answers.push(Message { kind, body: body.to_vec() }),
            }
        }
    }
}

/// What an acknowledgement says: nothing if all went well.
fn failure(body: &[u8], flags: u16) -> Option<io::Error> {
    let code = u32_at(body, 0).map_or(libc::EPROTO, |c| -(c.cast_signed()));
    if code == 0 {
        return None;
    }
    let error = match code {
        // "No such device" is "not found" for everybody else.
        libc::ENODEV => io::Error::new(io::ErrorKind::NotFound, "No such device"),
        _ => io::Error::from_raw_os_error(code),
    };
    // The request is repeated whole unless capped, then follow the attributes of the error.
    let capped = i32::from(flags) & libc::NLM_F_CAPPED != 0;
    let repeated = if capped { HEADER } else { u32_at(body, 4).unwrap_or(16) as usize };
    let words = body.get(4 + repeated.next_multiple_of(4)..).unwrap_or_default();
    let words = attrs(words).find(|(k, _)| *k == NLMSGERR_ATTR_MSG).map(|(_, v)| text(v));
    Some(match words {
        Some(words) if code != libc::ENODEV => io::Error::new(error.kind(), format!("{words} ({error})")),
        _ => error,
    })
}

fn set_flag(fd: &OwnedFd, option: i32) {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int of the given length that lives throughout the call.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}
