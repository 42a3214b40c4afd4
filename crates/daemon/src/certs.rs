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
    read(&paths.cluster_cert(), &paths.cluster_key())
}

/// Keeps the cluster's certificate.
pub fn write_cluster(paths: &Paths, identity: &Identity) -> Result<()> {
    write(&paths.cluster_cert(), &paths.cluster_key(), identity)
}

/// Forgets the cluster's certificate.
pub fn forget_cluster(paths: &Paths) {
    for path in [paths.cluster_cert(), paths.cluster_key()] {
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

/// Each file is whole at any time: it is written beside and moved into place.
fn write(certificate: &Path, key: &Path, identity: &Identity) -> Result<()> {
    for (path, text, mode) in [(key, &identity.key, 0o600), (certificate, &identity.certificate, 0o644)] {
        let beside = path.with_extension("new");
        let failed = || format!("Writing {}", path.display());
        let mut file =
            fs::File::options().create(true).truncate(true).write(true).mode(mode).open(&beside).context(failed())?;
        std::io::Write::write_all(&mut file, text.as_bytes()).context(failed())?;
        file.sync_all().context(failed())?;
        fs::rename(&beside, path).context(failed())?;
    }
    Ok(())
}
