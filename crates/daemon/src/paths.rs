//! Where everything lies below `$INCUS_DIR`.

use std::path::{Path, PathBuf};

/// The daemon's directory.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

macro_rules! paths {
    ($($(#[$doc:meta])* $name:ident = $path:literal;)*) => {
        impl Paths {
            $($(#[$doc])* pub fn $name(&self) -> PathBuf { self.root.join($path) })*
        }
    };
}

paths! {
    /// The API for local clients.
    socket = "unix.socket";
    /// Process id of the daemon.
    pid = "incus.pid";
    /// This server's own certificate.
    server_cert = "server.crt";
    /// Its key.
    server_key = "server.key";
    /// The certificate of the authority that signs those of clients, if there is one.
    server_ca = "server.ca";
    /// What that authority has revoked.
    ca_crl = "ca.crl";
    /// The certificate that all members of the cluster answer with.
    cluster_cert = "cluster.crt";
    /// Its key.
    cluster_key = "cluster.key";
    /// Both, while they are being replaced.
    cluster_pair = "cluster.pair";
    /// The member's own database.
    local_db = "database/local.db";
    /// The replicated database.
    global = "database/global";
    /// The files of images.
    images = "images";
    /// The replicated database of the time before a join that has not ended yet.
    global_before = "database/global.before-join";
    /// The replicated database that was given up for that of a recovered member, until that has arrived.
    global_given_up = "database/global.given-up";
    /// Which networks this member has made, and how.
    networks_made = "database/networks.json";
    /// What a restore from a backup makes of this server, from the moment on at which it is done in any case.
    restoring = "database/restoring";
    /// The same while it is made ready.
    restoring_new = "database/restoring.new";
    /// Tells that this member was restored from a backup: what that did not know may be here, and is not removed.
    restored = "database/restored";
    /// Tells that this server is becoming one of its own again.
    leaving = "database/leaving";
    /// The socket of the guard.
    guard = "guard.socket";
    /// Tells that a join has not ended yet.
    joining = "database/joining";
    /// Tells that a join was undone and the cluster does not know that yet.
    joining_undone = "database/joining.undone";
}

impl Paths {
    /// The directory named by `INCUS_DIR`, or `/var/lib/incus`.
    pub fn from_env() -> Paths {
        let root = std::env::var_os("INCUS_DIR").map_or_else(|| "/var/lib/incus".into(), PathBuf::from);
        Paths { root }
    }

    /// Another directory, for tests.
    #[cfg(test)]
    pub fn at(root: &Path) -> Paths {
        Paths { root: root.to_owned() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folders that are always there.
    pub fn create(&self) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        let make =
            |name: &str, mode| std::fs::DirBuilder::new().recursive(true).mode(mode).create(self.root.join(name));
        make("", 0o711)?;
        for (name, mode) in [
            ("database", 0o700),
            ("containers", 0o711),
            ("devices", 0o711),
            ("images", 0o700),
            ("logs", 0o700),
            ("networks", 0o711),
            ("security", 0o700),
            ("shmounts", 0o711),
            ("storage-pools", 0o711),
        ] {
            make(name, mode)?;
        }
        Ok(())
    }
}
