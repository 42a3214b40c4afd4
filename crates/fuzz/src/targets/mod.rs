//! All targets. What they share: a place for files, a runtime, and what must not be touched.

mod images;
pub mod raft;
mod sessions;
mod streams;
mod texts;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tempfile::TempDir;

use crate::Target;

/// All of them.
pub const ALL: &[Target] = &[
    Target {
        name: "bodies",
        about: "JSON bodies of requests, of every endpoint",
        cases: 30_000,
        seeds: texts::body_seeds,
        read: texts::body,
    },
    Target {
        name: "keys",
        about: "values of configuration keys, of every family",
        cases: 20_000,
        seeds: texts::key_seeds,
        read: texts::key,
    },
    Target {
        name: "queries",
        about: "queries of URLs, filters of lists, sizes, times and names",
        cases: 4_000,
        seeds: texts::query_seeds,
        read: texts::query,
    },
    Target {
        name: "yaml",
        about: "preseeds, `edit` of the client, and `incusd cluster edit`",
        cases: 10_000,
        seeds: texts::yaml_seeds,
        read: texts::yaml,
    },
    Target {
        name: "tokens",
        about: "join tokens and trust tokens",
        cases: 20_000,
        seeds: texts::token_seeds,
        read: texts::token,
    },
    Target {
        name: "image",
        about: "files of images: looked into, and unpacked",
        cases: 400,
        seeds: images::seeds,
        read: images::unpack,
    },
    Target {
        name: "metadata",
        about: "metadata.yaml of images and instances",
        cases: 1_500,
        seeds: images::metadata_seeds,
        read: images::metadata,
    },
    Target {
        name: "template",
        about: "templates of images",
        cases: 4_000,
        seeds: images::template_seeds,
        read: images::template,
    },
    Target {
        name: "volume",
        about: "volumes as they come from other members",
        cases: 400,
        seeds: streams::volume_seeds,
        read: streams::volume,
    },
    Target {
        name: "backup",
        about: "backups of clusters",
        cases: 1_500,
        seeds: streams::backup_seeds,
        read: streams::backup,
    },
    Target {
        name: "multipart",
        about: "uploads in several parts",
        cases: 3_000,
        seeds: streams::multipart_seeds,
        read: streams::multipart,
    },
    Target {
        name: "raft",
        about: "what members ask of each other's database",
        cases: 3_000,
        seeds: Vec::new,
        read: raft::serve,
    },
    Target {
        name: "changeset",
        about: "changes of the database, as a replica applies them",
        cases: 2_000,
        seeds: raft::changeset_seeds,
        read: raft::changeset,
    },
    Target {
        name: "link",
        about: "frames on a link between members",
        cases: 60_000,
        seeds: streams::link_seeds,
        read: streams::link,
    },
    Target {
        name: "control",
        about: "messages of the control channel of exec and console",
        cases: 60_000,
        seeds: sessions::control_seeds,
        read: sessions::control,
    },
    Target {
        name: "guard",
        about: "messages on the guard's socket",
        cases: 20_000,
        seeds: sessions::guard_seeds,
        read: sessions::guard,
    },
    Target {
        name: "sftp",
        about: "packets of SFTP clients, at the helper that is confined to an instance",
        cases: 150,
        seeds: sessions::sftp_seeds,
        read: sessions::sftp,
    },
    Target {
        name: "helper",
        about: "what such a helper answers, at the daemon",
        cases: 10_000,
        seeds: sessions::helper_seeds,
        read: sessions::helper,
    },
    Target {
        name: "lease",
        about: "files of leases on shared storage",
        cases: 1_000,
        seeds: sessions::lease_seeds,
        read: sessions::lease,
    },
    Target {
        name: "scriptlet",
        about: "placement scriptlets",
        cases: 800,
        seeds: sessions::scriptlet_seeds,
        read: sessions::scriptlet,
    },
    Target {
        name: "products",
        about: "what servers with simple streams say",
        cases: 20_000,
        seeds: images::product_seeds,
        read: images::products,
    },
];

/// Runs what is asynchronous.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    // Nothing can be tried without one.
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
});

/// A directory for one input, with something beside it that must stay as it is.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("inside")).expect("a directory");
        std::fs::write(dir.path().join("outside"), "untouched").expect("a file");
        Place { dir }
    }

    /// Where everything has to stay.
    fn inside(&self) -> PathBuf {
        self.dir.path().join("inside")
    }

    /// A file beside.
    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("file");
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    /// Panics if anything beside was touched.
    fn check(&self) {
        let outside = std::fs::read_to_string(self.dir.path().join("outside"));
        assert_eq!(outside.ok().as_deref(), Some("untouched"), "something got out");
        let names = std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten();
        let known = |name: &std::ffi::OsStr| ["inside", "outside", "file"].iter().any(|k| name == *k);
        let strange: Vec<_> = names.map(|e| e.file_name()).filter(|n| !known(n)).collect();
        assert!(strange.is_empty(), "something got out: {strange:?}");
    }
}

/// The program of the name that cargo has built beside this one.
fn beside(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let dir = own.parent().unwrap_or(Path::new("."));
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    dir.join(name)
}
