//! `/1.0/instances/{name}/files`: one file at a time, by plain HTTP.

use api::{Error, Kind as ErrorKind, Result};
use bytes::Bytes;
use drivers::files::{Attributes, Client, Flags, Handle, Kind};
use futures::stream::try_unfold;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use serde_json::json;

use super::{find_here, sftp, tell};
use crate::edge::reply::{self, full};
use crate::edge::request::discard;
use crate::edge::{Body, Cx, Incoming, Router};
use crate::instances::Loaded;

/// The longest target of a link, in bytes: the kernel's limit.
const MAX_TARGET: usize = 4096;

pub fn routes(r: &mut Router) {
    r.raw(&api::instance_files::FILE_GET, get);
    r.raw(&api::instance_files::FILE_HEAD, get);
    r.raw(&api::instance_files::FILE_POST, post);
    r.sync(&api::instance_files::FILE_DELETE, delete);
}

/// The instance of the request, its files, and the path that is meant.
async fn open(cx: &Cx) -> Result<(Loaded, Client, String)> {
    let path = match cx.param("path") {
        "" => return Err(Error::bad_request("Missing path argument")),
        path if path.contains('\0') => return Err(Error::bad_request("A path can't hold a zero byte")),
        path => path.to_owned(),
    };
    let l = find_here(cx).await?;
    let client = Client::new(sftp::helper(&cx.daemon, &l).await?).await?;
    Ok((l, client, path))
}

async fn get(cx: Cx, request: Request<Incoming>) -> Result<Response<Body>> {
    let (l, mut client, path) = open(&cx).await?;
    let there = client.look(path.as_bytes()).await?;
    let head = request.method() == Method::HEAD;
    let mut response = match there.kind() {
        Kind::Directory if head => Response::new(full("")),
        Kind::Directory => {
            let names = client.list(path.as_bytes()).await?;
            let names: Vec<_> = names.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
            reply::sync(&names)?
        }
        Kind::Symlink => bytes(name_of(&path), client.read_link(path.as_bytes()).await?)?,
        Kind::Other if !head => return Err(Error::bad_request("Not a regular file")),
        Kind::File | Kind::Other => {
            let mut response = match head {
                true => bytes(name_of(&path), Vec::new())?,
                false => {
                    let handle = client.open(path.as_bytes(), Flags::Read, 0).await?;
                    typed(name_of(&path), content(client, handle))?
                }
            };
            // What grows or shrinks meanwhile has no length that could be told.
            if head && let Some(size) = there.size {
                response.headers_mut().insert(CONTENT_LENGTH, size.into());
            }
            response
        }
    };
    describe(response.headers_mut(), &there)?;
    if !head {
        tell(&cx, &l, "instance-file-retrieved", [("path", json!(path))]);
    }
    Ok(response)
}

/// The body that is the content of a file.
fn content(client: Client, handle: Handle) -> Body {
    let stream = try_unfold((client, handle, 0_u64), |(mut client, handle, offset)| async move {
        let data = client.read(&handle, offset).await.map_err(std::io::Error::other)?;
        let next = offset + data.len() as u64;
        Ok::<_, std::io::Error>((!data.is_empty()).then(|| (Frame::data(Bytes::from(data)), (client, handle, next))))
    });
    StreamBody::new(stream).boxed()
}

fn name_of(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// An answer with these bytes, as a file of that name.
pub fn bytes(name: &str, bytes: Vec<u8>) -> Result<Response<Body>> {
    typed(name, full(bytes))
}

/// An answer with this body, as a file of that name.
pub fn typed(name: &str, body: Body) -> Result<Response<Body>> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // A name may hold anything; one that can't stand in a header is not told.
    let shown = format!("inline;filename={name}");
    if let Ok(shown) = HeaderValue::from_str(&shown) {
        headers.insert(CONTENT_DISPOSITION, shown);
    }
    Ok(response)
}

/// Tells what a file is in headers.
fn describe(headers: &mut HeaderMap, there: &Attributes) -> Result<()> {
    let kind = match there.kind() {
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::File | Kind::Other => "file",
    };
    let (uid, gid) = there.owner.unwrap_or_default();
    let changed = jiff::Timestamp::from_second(there.times.unwrap_or_default().1.into()).unwrap_or_default();
    for (name, value) in [
        ("x-incus-uid", uid.to_string()),
        ("x-incus-gid", gid.to_string()),
        ("x-incus-mode", format!("{:04o}", there.mode.unwrap_or_default() & 0o7777)),
        ("x-incus-modified", changed.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()),
        ("x-incus-type", kind.to_owned()),
    ] {
        let value = HeaderValue::from_str(&value).map_err(|e| Error::internal(e.to_string()))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(())
}

/// What the headers of a request ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
    kind: String,
    append: bool,
}

impl Wanted {
    fn read(headers: &HeaderMap) -> Result<Wanted> {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty());
        let id = |name: &str| match text(name) {
            // Clients send -1 where they do not care.
            None | Some("-1") => Ok(None),
            Some(n) => n.parse().map(Some).map_err(|_| Error::bad_request(format!("\"{n}\" is no id: {name}"))),
        };
        let mode = match text("x-incus-mode") {
            None | Some("-1") => None,
            Some(m) => match u32::from_str_radix(m.trim_start_matches("0o"), 8) {
                Ok(mode) if mode <= 0o7777 => Some(mode),
                _ => return Err(Error::bad_request(format!("\"{m}\" is no mode: octal digits are expected"))),
            },
        };
        let append = match text("x-incus-write") {
            None | Some("overwrite") => false,
            Some("append") => true,
            Some(other) => return Err(Error::bad_request(format!("Bad file write mode: {other}"))),
        };
        let kind = text("x-incus-type").unwrap_or("file").to_owned();
        Ok(Wanted { uid: id("x-incus-uid")?, gid: id("x-incus-gid")?, mode, kind, append })
    }

    /// The owner that something gets that has this one.
    fn owner(&self, now: (u32, u32)) -> Option<(u32, u32)> {
        let owner = (self.uid.unwrap_or(now.0), self.gid.unwrap_or(now.1));
        (owner != now).then_some(owner)
    }
}

async fn post(cx: Cx, request: Request<Incoming>) -> Result<Response<Body>> {
    let wanted = Wanted::read(&cx.headers)?;
    let (l, mut client, path) = open(&cx).await?;
    match wanted.kind.as_str() {
        "file" => {
            let mut body = request.into_body();
            if let Err(e) = put_file(&mut client, path.as_bytes(), &wanted, &mut body).await {
                discard(BodyStream::new(body)).await;
                return Err(e);
            }
        }
        "directory" => put_directory(&mut client, path.as_bytes(), &wanted).await?,
        "symlink" => put_link(&mut client, path.as_bytes(), &wanted, request.into_body()).await?,
        other => return Err(Error::bad_request(format!("Bad file type: {other}"))),
    }
    tell(&cx, &l, "instance-file-pushed", [("path", json!(path))]);
    reply::sync(&())
}

async fn put_file(client: &mut Client, path: &[u8], wanted: &Wanted, body: &mut Incoming) -> Result<()> {
    let before = match client.look_behind(path).await {
        Ok(there) => Some(there),
        Err(e) if e.kind == ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let flags = if wanted.append { Flags::Append } else { Flags::Overwrite };
    let handle = client.open(path, flags, wanted.mode.unwrap_or(0o644)).await?;
    let now = before.and_then(|b| b.owner).unwrap_or_default();
    // Before there is anything in it that not everybody may read.
    let set = Attributes { owner: wanted.owner(now), mode: wanted.mode, ..Attributes::default() };
    if set != Attributes::default() {
        client.set_on(&handle, &set).await?;
    }
    let mut offset = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| e.context("The file ended too early"))?;
        if let Ok(data) = frame.into_data() {
            client.write(&handle, offset, &data).await?;
            offset += data.len() as u64;
        }
    }
    client.close(handle).await
}

async fn put_directory(client: &mut Client, path: &[u8], wanted: &Wanted) -> Result<()> {
    match client.look_behind(path).await {
        Ok(there) if there.kind() == Kind::Directory => return Ok(()),
        Ok(_) => return Err(Error::bad_request("Not a directory")),
        Err(e) if e.kind != ErrorKind::NotFound => return Err(e),
        Err(_) => {}
    }
    client.make_directory(path, wanted.mode.unwrap_or(0o755)).await?;
    settle(client, path, wanted).await
}

async fn put_link(client: &mut Client, path: &[u8], wanted: &Wanted, body: Incoming) -> Result<()> {
    let target = http_body_util::Limited::new(body, MAX_TARGET).collect().await;
    let target = target.map_err(|_| Error::bad_request("The target of the link is too long"))?.to_bytes();
    if target.is_empty() || target.contains(&0) {
        return Err(Error::bad_request("The body must be what the link leads to"));
    }
    if client.read_link(path).await.is_ok_and(|now| now == target) {
        return Ok(());
    }
    client.make_link(path, &target).await?;
    settle(client, path, wanted).await
}

/// Gives something that was just made to its owner.
async fn settle(client: &mut Client, path: &[u8], wanted: &Wanted) -> Result<()> {
    match wanted.owner((0, 0)) {
        Some(owner) => client.set(path, &Attributes { owner: Some(owner), ..Attributes::default() }).await,
        None => Ok(()),
    }
}

async fn delete(cx: Cx, (): ()) -> Result<()> {
    let (l, mut client, path) = open(&cx).await?;
    if path.split('/').all(|part| matches!(part, "" | "." | "..")) {
        return Err(Error::bad_request("The root directory can't be deleted"));
    }
    let force = cx.headers.get("x-incus-force").is_some_and(|v| matches!(v.as_bytes(), b"true" | b"1"));
    match force {
        true => client.remove_all(path.as_bytes()).await?,
        false => client.remove(path.as_bytes()).await?,
    }
    tell(&cx, &l, "instance-file-deleted", [("path", json!(path))]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&'static str, &'static str)]) -> Result<Wanted> {
        Wanted::read(&headers.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect())
    }

    #[test]
    fn headers_are_read_as_clients_write_them() {
        let plain = Wanted { kind: "file".into(), ..Wanted::default() };
        assert_eq!(read(&[]), Ok(plain));
        let all = read(&[
            ("x-incus-uid", "1000"),
            ("x-incus-gid", "-1"),
            ("x-incus-mode", "0644"),
            ("x-incus-type", "directory"),
            ("x-incus-write", "append"),
        ]);
        let want = Wanted { uid: Some(1000), gid: None, mode: Some(0o644), kind: "directory".into(), append: true };
        assert_eq!(all, Ok(want));
        assert_eq!(read(&[("x-incus-mode", "0o755")]).unwrap().mode, Some(0o755));
        for (name, value, said) in [
            ("x-incus-uid", "root", "\"root\" is no id: x-incus-uid"),
            ("x-incus-mode", "rwx", "\"rwx\" is no mode: octal digits are expected"),
            ("x-incus-mode", "777777", "\"777777\" is no mode: octal digits are expected"),
            ("x-incus-write", "sideways", "Bad file write mode: sideways"),
        ] {
            assert_eq!(read(&[(name, value)]).unwrap_err().message, said);
        }
    }

    #[test]
    fn files_are_described_as_clients_read_it() {
        let mut headers = HeaderMap::new();
        let there = Attributes { size: Some(1), owner: Some((7, 8)), mode: Some(0o104_755), times: Some((0, 86_400)) };
        describe(&mut headers, &there).unwrap();
        let of = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!((of("x-incus-uid"), of("x-incus-gid"), of("x-incus-mode")), ("7".into(), "8".into(), "4755".into()));
        assert_eq!(of("x-incus-modified"), "1970-01-02 00:00:00 +0000 UTC");
        assert_eq!(of("x-incus-type"), "file");
        assert_eq!((name_of("/a/b/"), name_of("/"), name_of("c")), ("b", "", "c"));
    }
}
