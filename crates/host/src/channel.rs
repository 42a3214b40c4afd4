//! Messages with file descriptors between this process and a helper, over the helper's standard input.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most descriptors in a message.
const MAX_FDS: usize = 4;
/// The most bytes of a message: an environment fits.
const MAX: usize = 8 << 20;

/// One end of a channel.
#[derive(Debug)]
pub struct Channel(UnixStream);

impl From<UnixStream> for Channel {
    fn from(stream: UnixStream) -> Channel {
        Channel(stream)
    }
}

impl Channel {
    /// Both ends; the second one becomes the standard input of a helper.
    pub fn pair() -> io::Result<(Channel, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Channel(ours), theirs.into()))
    }

    /// Waits no longer than that for a message, or for one of ours to be taken.
    pub fn patience(&self, patience: std::time::Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(patience))?;
        self.0.set_write_timeout(Some(patience))
    }

    /// The process at the other end.
    pub fn peer(&self) -> io::Result<u32> {
        let peer = rustix::net::sockopt::socket_peercred(&self.0)?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).map_err(io::Error::other)
    }

    /// The helper's end.
    pub fn of_stdin() -> io::Result<Channel> {
        Ok(Channel(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?)))
    }

    /// Sends a message; the descriptors are duplicated.
    pub fn send(&mut self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let head = u32::try_from(bytes.len()).map_err(io::Error::other)?.to_ne_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors in a message"));
        }
        let sent = sendmsg(&self.0, &[IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL)?;
        if sent != head.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.0.write_all(&bytes)
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the other end is gone.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<(T, Vec<OwnedFd>)> {
        let (mut head, mut fds) = ([0; 4], Vec::new());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let mut into = [IoSliceMut::new(&mut head)];
            match recvmsg(&self.0, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                got => break got?.bytes,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        match got {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => self.0.read_exact(&mut head[got..])?,
        }
        let size = usize::try_from(u32::from_ne_bytes(head)).map_err(io::Error::other)?;
        if size > MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too large"));
        }
        let mut bytes = vec![0; size];
        self.0.read_exact(&mut bytes)?;
        Ok((serde_json::from_slice(&bytes)?, fds))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs::File;

    #[test]
    fn messages_arrive_whole_with_their_descriptors_and_a_closed_end_is_told() {
        let (mut ours, theirs) = Channel::pair().unwrap();
        let mut theirs = Channel(theirs.into());
        let (mut read, write) = io::pipe().unwrap();
        let long = "x".repeat(300_000);
        let sent = long.clone();
        let sender = std::thread::spawn(move || {
            ours.send(&sent, &[write.as_fd()]).unwrap();
            drop(write);
            ours.send(&7, &[]).unwrap();
        });
        let (text, fds) = theirs.receive::<String>().unwrap();
        assert!(text == long && fds.len() == 1);
        assert_eq!(theirs.receive::<u32>().unwrap().0, 7);
        sender.join().unwrap();
        File::from(fds.into_iter().next().unwrap()).write_all(b"hello").unwrap();
        let mut got = String::new();
        read.read_to_string(&mut got).unwrap();
        assert_eq!(got, "hello");
        assert_eq!(theirs.receive::<u32>().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
