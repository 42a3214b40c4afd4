//! The helper's server against its client, and against a client of others.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use russh_sftp::client::SftpSession;
use russh_sftp::protocol::OpenFlags;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::wire::{Reader, Torn, Writer};
use super::{Attributes, Client, Flags, Kind, server};

/// A server in a thread, unconfined: paths are those of the test's directory.
fn served() -> UnixStream {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    std::thread::spawn(move || server::run(theirs, None));
    UnixStream::from_std(ours).unwrap()
}

async fn client() -> Client {
    Client::begin(served(), None).await.unwrap()
}

fn below(dir: &Path, name: &str) -> Vec<u8> {
    dir.join(name).into_os_string().into_encoded_bytes()
}

#[test]
fn packets_come_out_as_they_went_in() {
    let a = Attributes { size: Some(1 << 40), owner: Some((1, 2)), mode: None, times: Some((3, 4)) };
    let bytes = Writer::new(9).u32(7).bytes("name").attributes(&a).u64(u64::MAX).finish();
    assert_eq!(&bytes[..9], [0, 0, 0, 49, 9, 0, 0, 0, 7]);
    let mut r = Reader::new(&bytes[9..]);
    assert_eq!((r.bytes(), r.attributes(), r.u64()), (Ok(b"name".as_slice()), Ok(a), Ok(u64::MAX)));
    assert_eq!(r.u8(), Err(Torn));
    // A length that lies.
    assert_eq!(Reader::new(&[255, 255, 255, 255, 1]).bytes(), Err(Torn));
    assert_eq!(Reader::new(&[128, 0, 0, 0, 255, 255, 255, 255]).attributes(), Err(Torn));
}

#[tokio::test]
async fn files_are_written_read_and_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let (mut c, file) = (client().await, below(dir.path(), "f"));
    assert_eq!(c.open(&file, Flags::Read, 0).await.unwrap_err().message, "Not Found");
    let data: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let handle = c.open(&file, Flags::Overwrite, 0o640).await.unwrap();
    c.write(&handle, 0, &data).await.unwrap();
    c.close(handle).await.unwrap();
    let handle = c.open(&file, Flags::Append, 0).await.unwrap();
    c.write(&handle, 0, b"end").await.unwrap();
    c.set_on(&handle, &Attributes { times: Some((5, 6)), ..Attributes::default() }).await.unwrap();
    c.close(handle).await.unwrap();
    let handle = c.open(&file, Flags::Read, 0).await.unwrap();
    let mut got = Vec::new();
    loop {
        let chunk = c.read(&handle, got.len() as u64).await.unwrap();
        if chunk.is_empty() {
            break;
        }
        got.extend(chunk);
    }
    assert_eq!(got, [&data, b"end".as_slice()].concat());
    let there = std::fs::metadata(dir.path().join("f")).unwrap();
    assert_eq!((there.mode() & 0o777, there.mtime()), (0o640 & !umask(), 6));
    assert_eq!(c.close(handle.clone()).await, Ok(()));
    assert_eq!(c.read(&handle, 0).await.unwrap_err().message, "Nothing is open under that handle");
}

fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    mask.as_raw_mode()
}

#[tokio::test]
async fn directories_links_and_names_that_are_no_text() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = client().await;
    c.make_directory(&below(dir.path(), "d"), 0o700).await.unwrap();
    for n in 0..2000 {
        std::fs::write(dir.path().join(format!("d/{n:05}")), "").unwrap();
    }
    std::fs::write(
        dir.path().join("d").join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff")),
        "",
    )
    .unwrap();
    let names = c.list(&below(dir.path(), "d")).await.unwrap();
    assert_eq!((names.len(), names[1999].0.as_slice(), names[2000].0.as_slice()), (2001, &b"01999"[..], &b"\xff"[..]));
    assert_eq!(names[0].1.kind(), Kind::File);
    c.make_link(&below(dir.path(), "l"), b"d").await.unwrap();
    assert_eq!(c.look(&below(dir.path(), "l")).await.unwrap().kind(), Kind::Symlink);
    assert_eq!(c.look_behind(&below(dir.path(), "l")).await.unwrap().kind(), Kind::Directory);
    assert_eq!(c.read_link(&below(dir.path(), "l")).await.unwrap(), b"d");
    let refused = c.remove(&below(dir.path(), "d")).await.unwrap_err();
    assert_eq!((refused.kind, refused.message.as_str()), (api::Kind::BadRequest, "Directory not empty"));
    c.remove_all(&below(dir.path(), "l")).await.unwrap();
    assert!(dir.path().join("d/00001").exists(), "what a link leads to stays");
    c.remove_all(&below(dir.path(), "d")).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn pipes_and_devices_are_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
        .unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("zero")).unwrap();
    let mut c = client().await;
    for name in ["fifo", "zero"] {
        for flags in [Flags::Read, Flags::Overwrite, Flags::Append] {
            let refused = c.open(&below(dir.path(), name), flags, 0).await.unwrap_err();
            assert_eq!(refused.message, "Not a regular file", "{name} {flags:?}");
        }
    }
    assert!(std::fs::symlink_metadata(fifo).unwrap().file_type().is_fifo());
    // Clients open a directory to see whether it is one.
    let handle = c.open(&below(dir.path(), ""), Flags::Read, 0).await.unwrap();
    assert_eq!(c.read(&handle, 0).await.unwrap_err().message, "Is a directory");
    assert_eq!(c.open(&below(dir.path(), ""), Flags::Overwrite, 0).await.unwrap_err().message, "Is a directory");
}

#[tokio::test]
async fn another_client_understands_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let sftp = SftpSession::new(served()).await.unwrap();
    sftp.create_dir(at("d")).await.unwrap();
    let mut file = sftp.create(at("d/f")).await.unwrap();
    file.write_all(&vec![7; 300_000]).await.unwrap();
    file.close().await.unwrap();
    let mut file = sftp.open_with_flags(at("d/f"), OpenFlags::READ | OpenFlags::WRITE).await.unwrap();
    file.seek(std::io::SeekFrom::Start(299_999)).await.unwrap();
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [7]);
    file.sync_all().await.unwrap();
    let mut attributes = sftp.metadata(at("d/f")).await.unwrap();
    assert_eq!(attributes.len(), 300_000);
    attributes.permissions = Some(0o4755);
    attributes.size = Some(5);
    sftp.set_metadata(at("d/f"), attributes).await.unwrap();
    let there = std::fs::metadata(dir.path().join("d/f")).unwrap();
    assert_eq!((there.len(), there.permissions().mode() & 0o7777), (5, 0o4755));
    // This client has the two names in the order of the draft, all others in that of OpenSSH.
    sftp.symlink("d/f".to_owned(), at("l")).await.unwrap();
    assert_eq!(std::fs::read_link(dir.path().join("l")).unwrap(), Path::new("d/f"));
    assert_eq!(sftp.read_link(at("l")).await.unwrap(), "d/f");
    assert_eq!(sftp.read(at("l")).await.unwrap(), [7; 5]);
    assert!(sftp.hardlink(at("d/f"), at("h")).await.unwrap());
    assert!(sftp.rename(at("d/f"), at("h")).await.is_err(), "nothing is replaced");
    sftp.rename(at("d/f"), at("g")).await.unwrap();
    assert_eq!(sftp.canonicalize("/a/../b/./c//").await.unwrap(), "/b/c");
    assert!(sftp.fs_info(at("")).await.unwrap().unwrap().blocks > 0);
    let mut names: Vec<String> = sftp.read_dir(at("")).await.unwrap().map(|e| e.file_name()).collect();
    names.sort();
    assert_eq!(names, ["d", "g", "h", "l"]);
    sftp.remove_file(at("g")).await.unwrap();
    sftp.remove_dir(at("d")).await.unwrap();
    assert!(!sftp.try_exists(at("d")).await.unwrap());
}

#[tokio::test]
async fn nonsense_is_refused_and_ends_nothing_but_its_own_session() {
    let mut socket = served();
    // A request that is too short, an unknown one, and then a packet that is too long.
    socket.write_all(&[0, 0, 0, 9, 3, 0, 0, 0, 1, 0, 0, 0, 99]).await.unwrap();
    socket.write_all(&[0, 0, 0, 9, 77, 0, 0, 0, 2, 0, 0, 0, 0]).await.unwrap();
    for (id, code) in [(1, 5), (2, 8)] {
        let mut body = vec![0; socket.read_u32().await.unwrap() as usize];
        socket.read_exact(&mut body).await.unwrap();
        assert_eq!(&body[..9], [101, 0, 0, 0, id, 0, 0, 0, code]);
    }
    socket.write_all(&[255, 255, 255, 255, 3]).await.unwrap();
    assert_eq!(socket.read(&mut [0]).await.unwrap_or(0), 0);
}
