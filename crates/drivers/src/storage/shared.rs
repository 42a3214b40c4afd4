//! Pools in a directory that all members mount: NFS, CephFS, GlusterFS, or one disk in tests.
//!
//! Volumes lie in it as in a [`Dir`]. A mark in the directory bears the pool's id: the member that makes the pool leaves
//! it there, and every member uses the directory only while it finds it. A mount that is missing is thus never taken
//! for an empty pool. Beside the data lie [`Leases`] of the volumes, and locks for the moment in which their files are
//! changed.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use api::cluster::StoragePoolState;
use api::error::Context as _;
use api::{Error, Kind, Result};

use super::dir::Dir;
use super::lease::{Leases, Owner, State};
use super::{Driver, Part, Volume, tree};

/// What this sort of pool is called.
pub const NAME: &str = "shared";

/// The file that says which pool the directory is.
const MARK: &str = ".incus-pool";

/// What keeps volumes from being used by two members.
#[derive(Clone, Debug)]
pub struct Sharing {
    /// This member.
    pub owner: Owner,
    /// Who uses which volume.
    pub leases: Leases,
    /// Who changes the files of which volume in this moment.
    pub locks: Leases,
}

/// A pool in a shared directory.
pub struct Shared {
    dir: Dir,
    /// `$INCUS_DIR/storage-pools/<pool>`, a link.
    path: PathBuf,
    source: PathBuf,
    /// What the mark must say.
    id: String,
    sharing: Sharing,
}

impl Shared {
    /// The pool with that id in `source`, as `owner` reaches it.
    pub fn new(path: PathBuf, source: PathBuf, id: String, owner: Owner) -> Shared {
        let dir = Dir::among_others(path.clone(), source.clone(), owner.id);
        let sharing = Sharing { owner, leases: Leases::new(&source), locks: Leases::locks(&source) };
        Shared { dir, path, source, id, sharing }
    }

    fn mark(&self) -> PathBuf {
        self.source.join(MARK)
    }

    /// Refuses unless the directory is there and is the one of this pool.
    fn must_be_there(&self) -> Result<()> {
        let source = self.source.display();
        let refused = |why: String| Err(Error::unavailable(format!("The shared directory {source} {why}")));
        match fs::read_to_string(self.mark()) {
            Ok(text) if text.trim() == self.id => Ok(()),
            Ok(_) => refused("belongs to another storage pool: mount the right one there".into()),
            Err(e) if e.kind() != io::ErrorKind::NotFound => refused(format!("can't be read: {e}")),
            Err(_) if !self.source.is_dir() => refused("does not exist on this member: make and mount it".into()),
            Err(_) => refused(
                "is not the one that the storage pool was made in: mount the same file system there on all members"
                    .into(),
            ),
        }
    }

    fn leave_mark(&self) -> Result<()> {
        let (made, temporary) = (self.mark(), self.source.join(format!("{MARK}-{}", self.id)));
        let written = (|| {
            let mut file = fs::File::create(&temporary)?;
            writeln!(file, "{}", self.id)?;
            file.sync_all()?;
            // What leases need, tried out.
            fs::hard_link(&temporary, &made)
        })();
        let _ = fs::remove_file(&temporary);
        written.context(format!("Marking {} as a storage pool (this needs hard links)", self.source.display()))
    }

    /// Refuses while another member uses the volume.
    fn must_be_free(&self, volume: &Volume) -> Result<()> {
        match self.sharing.leases.read(volume)? {
            Some(r) if r.state == State::Held && r.owner != self.sharing.owner.id => Err(Error::conflict(format!(
                "The volume \"{}\" is in use by the cluster member \"{}\": it holds its lease",
                volume.name, r.name
            ))),
            _ => Ok(()),
        }
    }
}

/// Passes methods on to the directory once it is known to be the right one.
macro_rules! in_the_directory {
    ($($name:ident($($arg:ident: $kind:ty),*);)*) => {
        $(fn $name(&self, $($arg: $kind),*) -> Result<()> {
            self.must_be_there()?;
            self.dir.$name($($arg),*)
        })*
    };
}

impl Driver for Shared {
    fn create(&self) -> Result<()> {
        let source = self.source.display();
        if !self.source.is_dir() {
            return Err(Error::bad_request(format!("The shared directory {source} does not exist: mount it first")));
        }
        let names = fs::read_dir(&self.source).context(format!("Reading {source}"))?;
        let names: Vec<String> = names.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        if names.iter().any(|n| n == MARK) {
            return Err(Error::bad_request(format!("The shared directory {source} belongs to a storage pool already")));
        }
        if names.iter().any(|n| n != "lost+found") {
            return Err(Error::bad_request(format!("Source path \"{source}\" isn't empty")));
        }
        self.leave_mark().map_err(|e| Error { kind: Kind::BadRequest, ..e })?;
        self.start()
    }

    fn delete(&self) -> Result<()> {
        self.must_be_there()?;
        // First, so that no other member makes anything in it any more.
        fs::remove_file(self.mark()).context("Removing the mark of the storage pool")?;
        self.dir.clear_out()?;
        for dir in ["leases", "locks"] {
            match fs::remove_dir_all(self.source.join(dir)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).context("Removing the leases"),
                _ => {}
            }
        }
        self.leave()
    }

    fn leave(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).context(format!("Removing {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    fn sharing(&self) -> Option<&Sharing> {
        Some(&self.sharing)
    }

    fn start(&self) -> Result<()> {
        self.must_be_there()?;
        self.dir.furnish()?;
        self.sharing.leases.create()?;
        self.sharing.locks.create()
    }

    fn recover(&self) -> Result<()> {
        self.must_be_there()?;
        self.sharing.leases.tidy_up(self.sharing.owner.id)?;
        self.sharing.locks.tidy_up(self.sharing.owner.id)?;
        self.dir.recover()
    }

    fn usage(&self) -> Result<StoragePoolState> {
        self.must_be_there()?;
        self.dir.usage()
    }

    fn path(&self, volume: &Volume) -> PathBuf {
        self.dir.path(volume)
    }

    fn exists(&self, volume: &Volume) -> bool {
        self.dir.exists(volume)
    }

    fn volumes(&self) -> Result<Vec<Volume>> {
        self.must_be_there()?;
        self.dir.volumes()
    }

    fn delete_volume(&self, volume: &Volume) -> Result<()> {
        self.must_be_there()?;
        self.must_be_free(volume)?;
        self.dir.delete_volume(volume)?;
        self.sharing.leases.remove(volume)
    }

    fn rename_volume(&self, volume: &Volume, to: &Volume) -> Result<()> {
        self.must_be_there()?;
        self.must_be_free(volume)?;
        self.dir.rename_volume(volume, to)?;
        self.sharing.leases.remove(volume)
    }

    fn snapshots(&self, volume: &Volume) -> Result<Vec<String>> {
        self.must_be_there()?;
        self.dir.snapshots(volume)
    }

    fn snapshot_path(&self, volume: &Volume, snapshot: &str) -> PathBuf {
        self.dir.snapshot_path(volume, snapshot)
    }

    fn prepare(&self, volume: &Volume, fill: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
        self.must_be_there()?;
        self.must_be_free(volume)?;
        self.dir.prepare(volume, fill)
    }

    fn replace(&self, volume: &Volume) -> Result<()> {
        self.must_be_there()?;
        self.must_be_free(volume)?;
        self.dir.replace(volume)
    }

    fn prepared(&self) -> Result<Vec<Volume>> {
        self.must_be_there()?;
        self.dir.prepared()
    }

    fn restore(&self, volume: &Volume, snapshot: &str) -> Result<()> {
        self.must_be_there()?;
        self.must_be_free(volume)?;
        self.dir.restore(volume, snapshot)
    }

    in_the_directory! {
        create_volume(volume: &Volume, fill: &mut dyn FnMut(&Path) -> Result<()>);
        drop_prepared(volume: &Volume);
        snapshot(volume: &Volume, snapshot: &str);
        delete_snapshot(volume: &Volume, snapshot: &str);
        rename_snapshot(volume: &Volume, from: &str, to: &str);
        send(volume: &Volume, part: &Part, out: &mut dyn Write, progress: tree::Progress<'_>);
        receive(volume: &Volume, from: &mut dyn Read, progress: tree::Progress<'_>);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Kind as VolumeKind, lease};

    /// The pool as a member reaches it.
    fn member(root: &Path, id: u64, pool: &str) -> Shared {
        let home = root.join(format!("server{id}"));
        fs::create_dir_all(&home).unwrap();
        let owner = Owner { id, name: format!("server{id}") };
        Shared::new(home.join("pool"), root.join("mnt"), pool.to_owned(), owner)
    }

    fn volume(name: &str) -> Volume {
        Volume::new(VolumeKind::Custom, "default", name)
    }

    fn fill(path: &Path) -> Result<()> {
        Ok(fs::write(path.join("f"), "text")?)
    }

    #[test]
    fn all_members_reach_the_same_volumes_while_the_mark_is_there() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (member(root.path(), 1, "id"), member(root.path(), 2, "id"));
        assert!(one.create().unwrap_err().message.contains("mount it first"));
        assert!(two.start().unwrap_err().message.contains("does not exist on this member"));
        fs::create_dir(root.path().join("mnt")).unwrap();
        let early = two.start().unwrap_err();
        assert!(early.retryable() && early.message.contains("mount the same file system"), "{early}");
        one.create().unwrap();
        two.start().unwrap();
        let other = member(root.path(), 3, "other");
        assert!(other.create().unwrap_err().message.contains("belongs to a storage pool already"));
        assert!(other.start().unwrap_err().message.contains("belongs to another storage pool"));

        let v = volume("v");
        one.create_volume(&v, &mut fill).unwrap();
        assert!(two.exists(&v) && two.volumes().unwrap() == [v.clone()]);
        // Unmounted: nothing is done in the empty directory below.
        let (mnt, away) = (root.path().join("mnt"), root.path().join("away"));
        fs::rename(&mnt, &away).unwrap();
        fs::create_dir(&mnt).unwrap();
        for refused in [
            two.create_volume(&volume("w"), &mut fill),
            two.delete_volume(&v),
            two.recover(),
            two.volumes().map(drop),
            two.delete(),
        ] {
            assert!(refused.unwrap_err().message.contains("mount the same file system"));
        }
        assert_eq!(fs::read_dir(&mnt).unwrap().count(), 0);
        fs::remove_dir(&mnt).unwrap();
        fs::rename(&away, &mnt).unwrap();
        assert!(two.exists(&v));

        two.leave().unwrap();
        two.leave().unwrap();
        assert!(one.exists(&v) && !two.exists(&v));
        one.delete().unwrap();
        assert_eq!(fs::read_dir(&mnt).unwrap().count(), 0, "nothing is left, and the directory stays");
    }

    #[test]
    fn what_one_member_makes_or_uses_another_leaves_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("mnt")).unwrap();
        let (one, two) = (member(root.path(), 1, "id"), member(root.path(), 12, "id"));
        one.create().unwrap();
        two.start().unwrap();
        let v = volume("v");
        one.create_volume(&v, &mut |path| {
            two.recover().unwrap();
            assert!(two.volumes().unwrap().is_empty(), "it is not there yet");
            fill(path)
        })
        .unwrap();
        assert!(two.exists(&v));
        // What was left by a killed one goes when that one comes back.
        let left = one.path(&v).with_file_name(".unfinished-1-x");
        fs::create_dir(&left).unwrap();
        two.recover().unwrap();
        assert!(left.exists());
        one.recover().unwrap();
        assert!(!left.exists());

        let sharing = one.sharing().unwrap();
        let held = sharing.leases.take(&v, &sharing.owner, lease::TTL, host::clock::since_boot).unwrap();
        one.snapshot(&v, "s").unwrap();
        for refused in [two.delete_volume(&v), two.rename_volume(&v, &volume("w")), two.restore(&v, "s")] {
            assert!(refused.unwrap_err().message.contains("\"server1\": it holds its lease"));
        }
        held.release(State::Released).unwrap();
        two.restore(&v, "s").unwrap();
        two.rename_volume(&v, &volume("w")).unwrap();
        one.delete_volume(&volume("w")).unwrap();
        assert_eq!(fs::read_dir(root.path().join("mnt/leases")).unwrap().count(), 0);
    }
}
