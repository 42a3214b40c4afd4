//! The certificates of this server: its own, and the one that all members of a cluster answer with.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use api::Result;
use api::error::Context as _;
use client::tls::Identity;

use crate::paths::Paths;

/// Reads the server's own certificate, or makes it at the first start.
pub fn own(paths: &Paths) -> Result<Identity> {
    match read(&paths.server_cert(), &paths.server_key())? {
        Some(identity) => Ok(identity),
        None => {
            let identity = generate()?;
            write(&paths.server_cert(), &paths.server_key(), &identity)?;
            Ok(identity)
        }
    }
}

/// Reads the cluster's certificate; `None` outside of a cluster.
pub fn of_cluster(paths: &Paths) -> Result<Option<Identity>> {
    // A crash came between the two files: what was to be in them is still here.
    if let Ok(pair) = fs::read_to_string(paths.cluster_pair()) {
        let (certificate, key) = pair.split_once('\0').unwrap_or_default();
        let identity = Identity { certificate: certificate.to_owned(), key: key.to_owned() };
        if client::tls::server_config(&identity).is_ok() {
            write(&paths.cluster_cert(), &paths.cluster_key(), &identity)?;
        }
        fs::remove_file(paths.cluster_pair())?;
    }
    read(&paths.cluster_cert(), &paths.cluster_key())
}

/// Replaces the server's own certificate and its key, while no daemon uses them.
pub fn write_own(paths: &Paths, identity: &Identity) -> Result<()> {
    write(&paths.server_cert(), &paths.server_key(), identity)
}

/// Keeps the cluster's certificate and its key, both or none.
pub fn write_cluster(paths: &Paths, identity: &Identity) -> Result<()> {
    let pair = paths.cluster_pair();
    put(&pair, &format!("{}\0{}", identity.certificate, identity.key), 0o600)?;
    write(&paths.cluster_cert(), &paths.cluster_key(), identity)?;
    fs::remove_file(&pair).context(format!("Removing {}", pair.display()))
}

/// Forgets the cluster's certificate.
pub fn forget_cluster(paths: &Paths) {
    for path in [paths.cluster_pair(), paths.cluster_cert(), paths.cluster_key()] {
        let _ = fs::remove_file(path);
    }
}

/// A new certificate for this machine.
pub fn generate() -> Result<Identity> {
    let host = hostname();
    Identity::generate(&format!("root@{host}"), &[host, "127.0.0.1".into(), "::1".into()])
}

/// The machine's name.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn read(certificate: &Path, key: &Path) -> Result<Option<Identity>> {
    if !certificate.exists() || !key.exists() {
        return Ok(None);
    }
    let read = |path: &Path| fs::read_to_string(path).context(format!("Reading {}", path.display()));
    Ok(Some(Identity { certificate: read(certificate)?, key: read(key)? }))
}

fn write(certificate: &Path, key: &Path, identity: &Identity) -> Result<()> {
    put(key, &identity.key, 0o600)?;
    put(certificate, &identity.certificate, 0o644)
}

/// The file is whole at any time: it is written beside and moved into place.
fn put(path: &Path, text: &str, mode: u32) -> Result<()> {
    let beside = path.with_extension("new");
    let failed = || format!("Writing {}", path.display());
    let mut file =
        fs::File::options().create(true).truncate(true).write(true).mode(mode).open(&beside).context(failed())?;
    std::io::Write::write_all(&mut file, text.as_bytes()).context(failed())?;
    file.sync_all().context(failed())?;
    fs::rename(&beside, path).context(failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_and_its_key_are_replaced_together() {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = Paths::at(dir.path());
        let (old, new) = (generate().expect("made"), generate().expect("made"));
        write_cluster(&paths, &old).expect("written");
        assert_eq!(of_cluster(&paths), Ok(Some(old)));
        // A crash between the two files.
        put(&paths.cluster_pair(), &format!("{}\0{}", new.certificate, new.key), 0o600).expect("written");
        put(&paths.cluster_key(), &new.key, 0o600).expect("written");
        assert_eq!(of_cluster(&paths), Ok(Some(new)));
        assert!(!paths.cluster_pair().exists());
        forget_cluster(&paths);
        assert_eq!(of_cluster(&paths), Ok(None));
    }
}
