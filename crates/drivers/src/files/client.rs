//! The daemon's side: asking a helper.

use std::time::Duration;

use api::{Error, Kind as ErrorKind, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::Helper;
use super::wire::{Attributes, Kind, MAX_PACKET, Reader, Torn, VERSION, Writer, extension, kind, open, status};

/// How long a request may take. What lies behind a file may be anything, even a program that never answers.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much is read or written at once, in bytes.
const CHUNK: usize = 128 << 10;

/// A file that is open.
#[derive(Clone, Debug)]
pub struct Handle(Vec<u8>);

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    /// To be read.
    Read,
    /// To be written, what was in it is dropped; made if it isn't there.
    Overwrite,
    /// To be written at its end; made if it isn't there.
    Append,
}

/// A connection to a helper.
pub struct Client {
    socket: UnixStream,
    helper: Option<Helper>,
    id: u32,
}

impl Client {
    /// Talks to a helper.
    pub async fn new(mut helper: Helper) -> Result<Client> {
        // The helper keeps its end of a socket that goes nowhere any more.
        let (nothing, _) = UnixStream::pair()?;
        let socket = std::mem::replace(&mut helper.socket, nothing);
        Client::begin(socket, Some(helper)).await
    }

    /// Talks over a socket, to a `helper` if there is one.
    pub async fn begin(socket: UnixStream, helper: Option<Helper>) -> Result<Client> {
        let mut client = Client { socket, helper, id: 0 };
        let (kind, _) = client.exchange(Writer::new(kind::INIT).u32(VERSION)).await?;
        if kind == kind::VERSION { Ok(client) } else { Err(garbled()) }
    }

    async fn exchange(&mut self, request: Writer) -> Result<(u8, Vec<u8>)> {
        let exchanged = async {
            self.socket.write_all(&request.finish()).await?;
            let length = self.socket.read_u32().await? as usize;
            if length == 0 || length > MAX_PACKET {
                return Err(std::io::Error::other("it speaks something else"));
            }
            let kind = self.socket.read_u8().await?;
            let mut body = vec![0; length - 1];
            self.socket.read_exact(&mut body).await?;
            Ok((kind, body))
        };
        match tokio::time::timeout(PATIENCE, exchanged).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) => match &mut self.helper {
                Some(helper) => Err(helper.failure().await),
                None => Err(Error::unavailable(e.to_string())),
            },
            Err(_) => Err(Error::unavailable("The file does not answer: what lies behind it in the instance hangs")),
        }
    }

    /// Asks something; the answer must be of the type `wanted`.
    async fn ask(&mut self, what: u8, wanted: u8, fill: impl FnOnce(Writer) -> Writer) -> Result<Vec<u8>> {
        self.id = self.id.wrapping_add(1);
        let (kind, body) = self.exchange(fill(Writer::new(what).u32(self.id))).await?;
        let mut r = Reader::new(&body);
        if r.u32()? != self.id {
            return Err(garbled());
        }
        if kind == kind::STATUS {
            let code = r.u32()?;
            let text = String::from_utf8_lossy(r.bytes()?).into_owned();
            if code != status::OK {
                return Err(refusal(code, text));
            }
        }
        match kind == wanted {
            true => Ok(body.get(4..).unwrap_or_default().to_vec()),
            false => Err(garbled()),
        }
    }

    async fn ok(&mut self, what: u8, fill: impl FnOnce(Writer) -> Writer) -> Result<()> {
        self.ask(what, kind::STATUS, fill).await.map(drop)
    }

    /// What is known of a thing; a link itself, not what it leads to.
    pub async fn look(&mut self, path: &[u8]) -> Result<Attributes> {
        let body = self.ask(kind::LSTAT, kind::ATTRS, |w| w.bytes(path)).await?;
        Ok(Reader::new(&body).attributes()?)
    }

    /// What is known of a thing, or of what a link to it leads to.
    pub async fn look_behind(&mut self, path: &[u8]) -> Result<Attributes> {
        let body = self.ask(kind::STAT, kind::ATTRS, |w| w.bytes(path)).await?;
        Ok(Reader::new(&body).attributes()?)
    }

    /// Where a link leads.
    pub async fn read_link(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        let body = self.ask(kind::READLINK, kind::NAME, |w| w.bytes(path)).await?;
        let mut r = Reader::new(&body);
        r.u32()?;
        Ok(r.bytes()?.to_vec())
    }

    /// The names in a directory, sorted.
    pub async fn list(&mut self, path: &[u8]) -> Result<Vec<(Vec<u8>, Attributes)>> {
        let handle = self.handle(kind::OPENDIR, |w| w.bytes(path)).await?;
        let mut all = Vec::new();
        loop {
            let body = match self.ask(kind::READDIR, kind::NAME, |w| w.bytes(&handle.0)).await {
                Err(e) if e.kind == END => break,
                other => other?,
            };
            let mut r = Reader::new(&body);
            for _ in 0..r.u32()? {
                let name = r.bytes()?.to_vec();
                r.bytes()?;
                all.push((name, r.attributes()?));
            }
        }
        self.close(handle).await?;
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    async fn handle(&mut self, what: u8, fill: impl FnOnce(Writer) -> Writer) -> Result<Handle> {
        let body = self.ask(what, kind::HANDLE, fill).await?;
        Ok(Handle(Reader::new(&body).bytes()?.to_vec()))
    }

    /// Opens a file. If it is made, then with this mode.
    pub async fn open(&mut self, path: &[u8], flags: Flags, mode: u32) -> Result<Handle> {
        let flags = match flags {
            Flags::Read => open::READ,
            Flags::Overwrite => open::WRITE | open::CREATE | open::TRUNCATE,
            Flags::Append => open::WRITE | open::CREATE | open::APPEND,
        };
        let mode = Attributes { mode: Some(mode), ..Attributes::default() };
        self.handle(kind::OPEN, |w| w.bytes(path).u32(flags).attributes(&mode)).await
    }

    /// Reads on from `offset`; nothing at the end.
    pub async fn read(&mut self, handle: &Handle, offset: u64) -> Result<Vec<u8>> {
        let length = u32::try_from(CHUNK).unwrap_or(u32::MAX);
        match self.ask(kind::READ, kind::DATA, |w| w.bytes(&handle.0).u64(offset).u32(length)).await {
            Err(e) if e.kind == END => Ok(Vec::new()),
            body => Ok(Reader::new(&body?).bytes()?.to_vec()),
        }
    }

    /// Writes at `offset`.
    pub async fn write(&mut self, handle: &Handle, mut offset: u64, data: &[u8]) -> Result<()> {
        for chunk in data.chunks(CHUNK) {
            self.ok(kind::WRITE, |w| w.bytes(&handle.0).u64(offset).bytes(chunk)).await?;
            offset += chunk.len() as u64;
        }
        Ok(())
    }

    /// Sets attributes of an open file.
    pub async fn set_on(&mut self, handle: &Handle, attributes: &Attributes) -> Result<()> {
        self.ok(kind::FSETSTAT, |w| w.bytes(&handle.0).attributes(attributes)).await
    }

    /// Closes a file.
    pub async fn close(&mut self, handle: Handle) -> Result<()> {
        self.ok(kind::CLOSE, |w| w.bytes(&handle.0)).await
    }

    /// Sets attributes; those of a link itself, which has no mode.
    pub async fn set(&mut self, path: &[u8], attributes: &Attributes) -> Result<()> {
        self.ok(kind::EXTENDED, |w| w.bytes(extension::LSETSTAT).bytes(path).attributes(attributes)).await
    }

    /// Makes a directory.
    pub async fn make_directory(&mut self, path: &[u8], mode: u32) -> Result<()> {
        let mode = Attributes { mode: Some(mode), ..Attributes::default() };
        self.ok(kind::MKDIR, |w| w.bytes(path).attributes(&mode)).await
    }

    /// Makes a link `path` that leads to `to`.
    pub async fn make_link(&mut self, path: &[u8], to: &[u8]) -> Result<()> {
        self.ok(kind::SYMLINK, |w| w.bytes(to).bytes(path)).await
    }

    /// Removes something; a directory only if it is empty.
    pub async fn remove(&mut self, path: &[u8]) -> Result<()> {
        let what = if self.look(path).await?.kind() == Kind::Directory { kind::RMDIR } else { kind::REMOVE };
        self.ok(what, |w| w.bytes(path)).await
    }

    /// Removes something with all that is in it.
    pub async fn remove_all(&mut self, path: &[u8]) -> Result<()> {
        let mut left = vec![(path.to_vec(), false)];
        while let Some((path, emptied)) = left.pop() {
            if emptied || self.look(&path).await?.kind() != Kind::Directory {
                self.remove(&path).await?;
                continue;
            }
            let inside = self.list(&path).await?;
            left.push((path.clone(), true));
            left.extend(inside.into_iter().map(|(name, _)| ([&path, b"/".as_slice(), &name].concat(), false)));
        }
        Ok(())
    }
}

/// The kind under which the end of a file travels within this module: nothing else has it here.
const END: ErrorKind = ErrorKind::PreconditionFailed;

fn refusal(code: u32, text: String) -> Error {
    match code {
        status::EOF => Error::new(END, text),
        // The words that clients of Incus know.
        status::NO_SUCH_FILE => Error::not_found("Not Found"),
        status::PERMISSION_DENIED => Error::forbidden(text),
        _ => Error::bad_request(text),
    }
}

fn garbled() -> Error {
    Error::internal("The helper for files answers something else than was asked")
}

impl From<Torn> for Error {
    fn from(_: Torn) -> Error {
        garbled()
    }
}
