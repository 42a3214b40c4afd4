//! Reading `multipart/form-data` as it comes in, without keeping more than a piece of it in memory.

use api::{Error, Result};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};

/// The largest headers of a part, in bytes.
const MAX_HEADERS: usize = 16 << 10;

/// What stands at the beginning of a part.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// Name of the field.
    pub name: String,
}

/// A body of several parts.
pub struct Multipart<S> {
    from: S,
    buffer: BytesMut,
    /// What stands between two parts: a line break, two dashes, the boundary.
    delimiter: Vec<u8>,
    /// True between the headers of a part and the delimiter behind it.
    inside: bool,
}

impl<S: Stream<Item = Result<Bytes>> + Unpin> Multipart<S> {
    /// Reads a body with the header `Content-Type` that came with it.
    pub fn new(content_type: &str, from: S) -> Result<Multipart<S>> {
        let boundary = content_type.split(';').skip(1).find_map(|p| p.trim().strip_prefix("boundary="));
        let boundary = boundary.map(|b| b.trim_matches('"')).filter(|b| !b.is_empty() && b.len() <= 200);
        let boundary = boundary.ok_or_else(|| Error::bad_request("The header Content-Type names no boundary"))?;
        // The first delimiter has no line break before it: give it one.
        Ok(Multipart {
            from,
            buffer: BytesMut::from(&b"\r\n"[..]),
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            inside: false,
        })
    }

    async fn more(&mut self) -> Result<()> {
        match self.from.next().await {
            Some(bytes) => self.buffer.extend_from_slice(&bytes?),
            None => return Err(Error::bad_request("The body ends in the middle of a part")),
        }
        Ok(())
    }

    async fn at_least(&mut self, n: usize) -> Result<()> {
        while self.buffer.len() < n {
            self.more().await?;
        }
        Ok(())
    }

    /// Goes on to the next part; what was not read of the last one is skipped.
    pub async fn next(&mut self) -> Result<Option<Part>> {
        self.inside |= !self.buffer.starts_with(&self.delimiter);
        while self.chunk().await?.is_some() {}
        self.at_least(self.delimiter.len() + 2).await?;
        self.buffer.advance(self.delimiter.len());
        if self.buffer.starts_with(b"--") {
            return Ok(None);
        }
        let mut searched: usize = 0;
        let end = loop {
            let from = searched.saturating_sub(3);
            if let Some(at) = find(self.buffer.get(from..).unwrap_or_default(), b"\r\n\r\n") {
                break from + at;
            }
            searched = self.buffer.len();
            if self.buffer.len() > MAX_HEADERS {
                return Err(Error::bad_request("The headers of a part are too long"));
            }
            self.more().await?;
        };
        let headers = String::from_utf8_lossy(&self.buffer.split_to(end)).into_owned();
        self.buffer.advance(4);
        self.inside = true;
        let disposition = headers.lines().find(|l| l.to_ascii_lowercase().starts_with("content-disposition:"));
        let name = disposition.and_then(|d| d.split(';').skip(1).find_map(|p| p.trim().strip_prefix("name=")));
        Ok(Some(Part { name: name.unwrap_or_default().trim_matches('"').to_owned() }))
    }

    /// The next piece of the part, or `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if !self.inside {
            return Ok(None);
        }
        loop {
            if let Some(at) = find(&self.buffer, &self.delimiter) {
                if at == 0 {
                    self.inside = false;
                    return Ok(None);
                }
                return Ok(Some(self.buffer.split_to(at).freeze()));
            }
            // The end of the buffer may be the beginning of a delimiter.
            let sure = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
            if sure > 0 {
                return Ok(Some(self.buffer.split_to(sure).freeze()));
            }
            self.more().await?;
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    let first = *what.first()?;
    let mut from = 0;
    loop {
        let at = from + text.get(from..)?.iter().position(|b| *b == first)?;
        if text.get(at..)?.starts_with(what) {
            return Some(at);
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BODY: &[u8] =
        b"--XY\r\nContent-Disposition: form-data; name=\"metadata\"; filename=\"m\"\r\n\r\nMETA\r\n--X\r\n\
        \r\n--XY\r\nContent-Type: application/octet-stream\r\ncontent-disposition: form-data; name=rootfs\r\n\r\n\
        \r\n--XZ--\r\n--XY--\r\n";

    async fn parts(body: &'static [u8], size: usize) -> Result<Vec<(String, Vec<u8>)>> {
        let chunks = futures::stream::iter(body.chunks(size).map(|c| Ok(Bytes::from_static(c))));
        let mut multipart = Multipart::new("multipart/form-data; boundary=\"XY\"", chunks).unwrap();
        let mut all = Vec::new();
        while let Some(part) = multipart.next().await? {
            let mut contents = Vec::new();
            while let Some(chunk) = multipart.chunk().await? {
                contents.extend_from_slice(&chunk);
            }
            all.push((part.name, contents));
        }
        Ok(all)
    }

    #[tokio::test]
    async fn parts_are_told_apart_however_they_come_in() {
        let want = [("metadata".to_owned(), b"META\r\n--X\r\n".to_vec()), ("rootfs".into(), b"\r\n--XZ--".to_vec())];
        for size in (1..BODY.len()).chain([1000]) {
            assert_eq!(parts(BODY, size).await.unwrap(), want, "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn a_torn_body_is_noticed() {
        for end in [3, 30, 80, 100, BODY.len() - 20, BODY.len() - 5] {
            assert!(parts(&BODY[..end], 7).await.is_err(), "cut at {end}");
        }
        assert!(Multipart::new("multipart/form-data", futures::stream::empty()).is_err());
    }
}
