//! Streams: volumes between members, backups, uploads in parts, frames on links.

use bytes::Bytes;
use daemon::readers::Multipart;
use drivers::storage::dir::Dir;
use drivers::storage::{Driver as _, Kind, Part, Volume, tree};

use super::{Place, RUNTIME};

fn a_volume() -> Volume {
    Volume::new(Kind::Custom, "default", "v")
}

pub fn volume(input: &[u8]) {
    let place = Place::new();
    let _ = tree::receive(&place.inside().join("tree"), &mut &*input, &mut |_| {});
    place.check();
    let pool = Dir::new(place.inside().join("pool"), None);
    if pool.create().is_ok() {
        let whole = pool.receive(&a_volume(), &mut &*input, &mut |_| {}).is_ok();
        assert_eq!(pool.exists(&a_volume()), whole, "a volume is there as a whole or not at all");
    }
    place.check();
}

pub fn volume_seeds() -> Vec<Vec<u8>> {
    let place = Place::new();
    let pool = Dir::new(place.inside().join("pool"), None);
    let made = (|| {
        pool.create()?;
        pool.create_volume(&a_volume(), &mut |path| {
            std::fs::create_dir_all(path.join("a/b"))?;
            std::fs::write(path.join("a/file"), "hello")?;
            std::fs::hard_link(path.join("a/file"), path.join("a/b/same"))?;
            std::os::unix::fs::symlink("../../outside", path.join("a/link"))?;
            std::fs::write(path.join("sparse"), [0; 9000])?;
            Ok(())
        })?;
        pool.snapshot(&a_volume(), "s")?;
        let mut seeds = Vec::new();
        for part in [Part::Whole, Part::Alone] {
            let mut stream = Vec::new();
            pool.send(&a_volume(), &part, &mut stream, &mut |_| {})?;
            seeds.push(stream);
        }
        let mut stream = Vec::new();
        tree::send(&pool.path(&a_volume()), &mut stream, &mut |_| {})?;
        seeds.push(stream);
        Ok::<_, api::Error>(seeds)
    })();
    made.expect("a stream of a volume")
}

pub fn backup(input: &[u8]) {
    let place = Place::new();
    let _ = daemon::readers::backup(&place.file(input), &mut std::io::sink());
}

pub fn backup_seeds() -> Vec<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let manifest = br#"{"format": 1, "created": "2026-01-01T00:00:00Z", "made_on": "a", "confirmed": true, "schema": 1,
        "members": [{"name": "a", "raft_id": 1, "address": "192.0.2.1:8443", "has_keys": true}], "sums": {}}"#;
    let parts: [(&str, &[u8]); 4] =
        [("backup.json", manifest), ("keys.json", b"{}"), ("database.db", &[7; 700]), ("complete", b"0")];
    for (name, data) in parts {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, name, data).expect("a part of a backup");
    }
    vec![tar.into_inner().expect("a backup")]
}

/// The first byte says in pieces of which size it comes in.
pub fn multipart(input: &[u8]) {
    let Some((size, rest)) = input.split_first() else { return };
    let chunks: Vec<_> = rest.chunks(usize::from(*size) + 1).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    RUNTIME.block_on(async {
        let from = futures::stream::iter(chunks);
        let Ok(mut parts) = Multipart::new("multipart/form-data; boundary=\"XY\"", from) else { return };
        while let Ok(Some(_)) = parts.next().await {
            while let Ok(Some(_)) = parts.chunk().await {}
        }
    });
}

pub fn multipart_seeds() -> Vec<Vec<u8>> {
    let body = b"--XY\r\nContent-Disposition: form-data; name=\"metadata\"; filename=\"m\"\r\n\r\nMETA\r\n--X\r\n\
        \r\n--XY\r\ncontent-disposition: form-data; name=rootfs\r\n\r\n\r\n--XZ--\r\n--XY--\r\n";
    [0, 6, 255].map(|size| [&[size], &body[..]].concat()).to_vec()
}

pub fn link(input: &[u8]) {
    RUNTIME.block_on(async {
        let stream = tokio::io::join(std::io::Cursor::new(input.to_vec()), tokio::io::sink());
        let _ = cluster::link::serve(stream, |_, body| async move { Ok(body) }).await;
        let _ = cluster::link::choose(&String::from_utf8_lossy(input));
    });
}

pub fn link_seeds() -> Vec<Vec<u8>> {
    let frame = |tag: u8, body: &[u8]| {
        let len = u32::try_from(body.len() + 1).unwrap_or(0).to_be_bytes();
        [&len[..], &[tag], body].concat()
    };
    vec![[frame(0, b"hello"), frame(1, b""), frame(0, &[9; 300])].concat(), b"incus-link/1, incus-link/2".to_vec()]
}
