//! Pools that are plain directories.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use api::cluster::{StoragePoolState, Usage};
use api::error::Context as _;
use api::{Error, Result};

use super::{Driver, Kind, Part, Volume, tree};

/// Names of things that are being made or removed begin so.
const UNFINISHED: &str = ".unfinished-";
/// Names of volumes that are put back, complete, and have to take the place of what is there, begin so.
const PUT_BACK: &str = ".put-back-";

/// What waits beside a volume to take its place, complete, is called so: whoever uses the pool can find it.
const PREPARED: &str = ".prepared-";

/// A pool in a directory.
pub struct Dir {
    /// `$INCUS_DIR/storage-pools/<pool>`: the directory, or a link to it.
    path: PathBuf,
    /// Where it lies if not there.
    source: Option<PathBuf>,
    /// Whose the unfinished things are, in a directory that several use: only its own are removed.
    mine: String,
}

impl Dir {
    /// The pool at `path`; its files lie in `source` if that is given and another place.
    pub fn new(path: PathBuf, source: Option<PathBuf>) -> Dir {
        let source = source.filter(|s| *s != path);
        Dir { path, source, mine: String::new() }
    }

    /// The same in a directory that others use, too; `user` is this one's name among them.
    pub fn among_others(path: PathBuf, source: PathBuf, user: u64) -> Dir {
        Dir { path, source: Some(source), mine: format!("{user}-") }
    }

    fn beside(&self, path: &Path) -> PathBuf {
        self.named(UNFINISHED, path)
    }

    /// The own name beside a path that begins so.
    fn named(&self, prefix: &str, path: &Path) -> PathBuf {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        path.with_file_name(format!("{prefix}{}{name}", self.mine))
    }

    /// Makes `path` as a whole or not at all.
    fn make(&self, path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if path.exists() {
            return Err(Error::conflict(format!("{} exists already", path.display())));
        }
        let beside = self.beside(path);
        remove(&beside)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).context(format!("Making {}", parent.display()))?;
        }
        let made = fill(&beside)
            .and_then(|()| fs::rename(&beside, path).context(format!("Moving {} into place", path.display())));
        if made.is_err() {
            let _ = remove(&beside);
        }
        made
    }

    fn unmake(&self, path: &Path) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        let beside = self.beside(path);
        remove(&beside)?;
        fs::rename(path, &beside).context(format!("Removing {}", path.display()))?;
        remove(&beside)
    }

    /// Makes the way to its directory, and the folders in it.
    pub(super) fn furnish(&self) -> Result<()> {
        if let Some(source) = &self.source
            && fs::read_link(&self.path).ok().as_ref() != Some(source)
        {
            let _ = fs::remove_file(&self.path);
            std::os::unix::fs::symlink(source, &self.path).context(format!("Linking {}", self.path.display()))?;
        }
        FOLDERS.iter().try_for_each(|(folder, mode)| make_dir(&self.path.join(folder), *mode))
    }

    /// Removes the folders with all that is in them, and nothing else.
    pub(super) fn clear_out(&self) -> Result<()> {
        FOLDERS.iter().try_for_each(|(folder, _)| remove(&self.path.join(folder)))
    }

    /// Puts what was made beside it in the place of `path` where the file system can't exchange two names: from the
    /// first renaming on it is ended by [`Driver::recover`].
    fn take_turns(&self, beside: &Path, path: &Path) -> Result<()> {
        let ready = self.named(PUT_BACK, path);
        fs::rename(beside, &ready).context(format!("Putting {} back", path.display()))?;
        self.put_in_place(&ready, path)
    }

    /// Puts `new` in the place of `path`; what was interrupted is ended by doing it again.
    fn put_in_place(&self, new: &Path, path: &Path) -> Result<()> {
        let old = self.beside(path);
        if path.exists() {
            remove(&old)?;
            fs::rename(path, &old).context(format!("Removing {}", path.display()))?;
        }
        fs::rename(new, path).context(format!("Moving {} into place", path.display()))?;
        remove(&old)
    }

    /// Ends or removes what was begun under one name.
    fn recover_one(&self, name: &str, path: &Path) -> Result<()> {
        if let Some(of) = name.strip_prefix(PUT_BACK).and_then(|rest| rest.strip_prefix(&self.mine)) {
            return self.put_in_place(path, &path.with_file_name(of));
        }
        if name.strip_prefix(UNFINISHED).is_some_and(|rest| rest.starts_with(&self.mine)) {
            remove(path)
        } else {
            Ok(())
        }
    }

    /// What waits to take the place of a volume.
    fn prepared_for(&self, volume: &Volume) -> PathBuf {
        self.path(volume).with_file_name(format!("{PREPARED}{}", volume.name))
    }

    /// A power cut must not take what was written by now.
    fn sync(&self) -> Result<()> {
        let pool = fs::File::open(&self.path).context("Opening the pool")?;
        rustix::fs::syncfs(&pool).map_err(io::Error::from).context("Writing the volume to the disk")
    }

    fn snapshots_of(&self, volume: &Volume) -> PathBuf {
        self.snapshot_folder(volume.kind).join(&volume.name)
    }

    fn snapshot_folder(&self, kind: Kind) -> PathBuf {
        self.path.join(format!("{}-snapshots", kind.folder()))
    }
}

/// What is in a pool, with its mode. Root in a container is somebody else here and has to get through to its disks.
const FOLDERS: [(&str, u32); 4] =
    [("containers", 0o711), ("containers-snapshots", 0o700), ("custom", 0o711), ("custom-snapshots", 0o700)];

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).context(format!("Making {}", path.display()))
}

/// Makes the directory of a volume with what is to be in it.
fn fill_dir(path: &Path, kind: Kind, fill: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    let mode = if kind == Kind::Container { 0o100 } else { 0o711 };
    fs::DirBuilder::new().mode(mode).create(path).context(format!("Making {}", path.display()))?;
    fill(path)
}

/// True for names that are no volume's and no snapshot's.
fn hidden(name: &str) -> bool {
    [UNFINISHED, PUT_BACK, PREPARED].iter().any(|prefix| name.starts_with(prefix))
}

fn remove(path: &Path) -> Result<()> {
    match super::remove::remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context(format!("Removing {}", path.display())),
        _ => Ok(()),
    }
}

fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let read = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context(format!("Reading {}", dir.display()))?,
    };
    Ok(read.flatten().map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect())
}

impl Driver for Dir {
    fn create(&self) -> Result<()> {
        let real = self.source.as_ref().unwrap_or(&self.path);
        if !entries(real)?.is_empty() {
            return Err(Error::bad_request(format!("Source path \"{}\" isn't empty", real.display())));
        }
        self.start()
    }

    fn delete(&self) -> Result<()> {
        let real = self.source.as_ref().unwrap_or(&self.path);
        for (_, path) in entries(real)? {
            remove(&path)?;
        }
        if self.source.is_some() {
            let _ = fs::remove_file(&self.path);
        }
        remove(real)
    }

    fn start(&self) -> Result<()> {
        make_dir(self.source.as_ref().unwrap_or(&self.path), 0o711)?;
        self.furnish()
    }

    fn recover(&self) -> Result<()> {
        for (folder, _) in FOLDERS {
            for (name, path) in entries(&self.path.join(folder))? {
                if hidden(&name) {
                    self.recover_one(&name, &path)?;
                } else if folder.ends_with("-snapshots") {
                    let begun = entries(&path)?.into_iter().filter(|(name, _)| hidden(name));
                    begun.into_iter().try_for_each(|(name, path)| self.recover_one(&name, &path))?;
                }
            }
        }
        Ok(())
    }

    fn usage(&self) -> Result<StoragePoolState> {
        let stat = rustix::fs::statvfs(&self.path).map_err(io::Error::from).context("Asking for the pool's size")?;
        let size = stat.f_frsize;
        Ok(StoragePoolState {
            space: Usage { used: (stat.f_blocks - stat.f_bfree) * size, total: stat.f_blocks * size },
            inodes: Usage { used: stat.f_files - stat.f_ffree, total: stat.f_files },
        })
    }

    fn path(&self, volume: &Volume) -> PathBuf {
        self.path.join(volume.kind.folder()).join(&volume.name)
    }

    fn exists(&self, volume: &Volume) -> bool {
        self.path(volume).is_dir()
    }

    fn volumes(&self) -> Result<Vec<Volume>> {
        let mut all = Vec::new();
        for kind in [Kind::Container, Kind::Custom] {
            for folder in [self.path.join(kind.folder()), self.snapshot_folder(kind)] {
                let names = entries(&folder)?.into_iter().map(|(name, _)| name);
                all.extend(names.filter(|n| !hidden(n)).map(|name| Volume { kind, name }));
            }
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    fn create_volume(&self, volume: &Volume, fill: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
        self.make(&self.path(volume), |path| fill_dir(path, volume.kind, fill))
    }

    fn prepare(&self, volume: &Volume, fill: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
        self.drop_prepared(volume)?;
        self.make(&self.prepared_for(volume), |path| {
            fill_dir(path, volume.kind, fill)?;
            // What it replaces is removed then.
            self.sync()
        })
    }

    fn replace(&self, volume: &Volume) -> Result<()> {
        let prepared = self.prepared_for(volume);
        if prepared.exists() { self.put_in_place(&prepared, &self.path(volume)) } else { Ok(()) }
    }

    fn drop_prepared(&self, volume: &Volume) -> Result<()> {
        self.unmake(&self.prepared_for(volume))
    }

    fn prepared(&self) -> Result<Vec<Volume>> {
        let mut all = Vec::new();
        for kind in [Kind::Container, Kind::Custom] {
            let names = entries(&self.path.join(kind.folder()))?.into_iter();
            all.extend(names.filter_map(|(n, _)| Some(Volume { kind, name: n.strip_prefix(PREPARED)?.to_owned() })));
        }
        Ok(all)
    }

    fn delete_volume(&self, volume: &Volume) -> Result<()> {
        self.drop_prepared(volume)?;
        remove(&self.snapshots_of(volume))?;
        self.unmake(&self.path(volume))
    }

    fn rename_volume(&self, volume: &Volume, to: &Volume) -> Result<()> {
        let (from_path, to_path) = (self.path(volume), self.path(to));
        match (from_path.exists(), to_path.exists()) {
            (true, true) => return Err(Error::conflict(format!("{} exists already", to_path.display()))),
            (false, false) => return Err(Error::not_found(format!("{} is not there", from_path.display()))),
            _ => {}
        }
        let snapshots = self.snapshots_of(volume);
        if snapshots.exists() {
            fs::rename(&snapshots, self.snapshots_of(to)).context("Renaming the snapshots")?;
        }
        let prepared = self.prepared_for(volume);
        if prepared.exists() {
            fs::rename(&prepared, self.prepared_for(to)).context("Renaming what is to take its place")?;
        }
        if from_path.exists() {
            fs::rename(&from_path, &to_path).context(format!("Renaming {}", from_path.display()))?;
        }
        Ok(())
    }

    fn snapshots(&self, volume: &Volume) -> Result<Vec<String>> {
        let mut all: Vec<(i64, String)> = Vec::new();
        for (name, path) in entries(&self.snapshots_of(volume))? {
            if !hidden(&name) {
                all.push((fs::metadata(&path).map_or(0, |m| m.ctime()), name));
            }
        }
        all.sort();
        Ok(all.into_iter().map(|(_, name)| name).collect())
    }

    fn snapshot_path(&self, volume: &Volume, snapshot: &str) -> PathBuf {
        self.snapshots_of(volume).join(snapshot)
    }

    fn snapshot(&self, volume: &Volume, snapshot: &str) -> Result<()> {
        self.make(&self.snapshot_path(volume, snapshot), |path| tree::copy(&self.path(volume), path))
    }

    fn delete_snapshot(&self, volume: &Volume, snapshot: &str) -> Result<()> {
        self.unmake(&self.snapshot_path(volume, snapshot))?;
        let _ = fs::remove_dir(self.snapshots_of(volume));
        Ok(())
    }

    fn rename_snapshot(&self, volume: &Volume, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.snapshot_path(volume, from), self.snapshot_path(volume, to));
        if to.exists() {
            return Err(Error::conflict(format!("{} exists already", to.display())));
        }
        fs::rename(&from, &to).context(format!("Renaming {}", from.display()))
    }

    fn restore(&self, volume: &Volume, snapshot: &str) -> Result<()> {
        let (from, path) = (self.snapshot_path(volume, snapshot), self.path(volume));
        let beside = self.beside(&path);
        remove(&beside)?;
        let copied = tree::copy(&from, &beside);
        if copied.is_err() {
            let _ = remove(&beside);
            return copied;
        }
        // The two change places at once, so that a crash leaves one of the two states.
        let swap = rustix::fs::RenameFlags::EXCHANGE;
        match rustix::fs::renameat_with(rustix::fs::CWD, &beside, rustix::fs::CWD, &path, swap) {
            Ok(()) => remove(&beside),
            // NFS can't.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                self.take_turns(&beside, &path)
            }
            Err(e) => Err(io::Error::from(e)).context(format!("Putting {} back", path.display())),
        }
    }

    fn send(&self, volume: &Volume, part: &Part, out: &mut dyn Write, progress: tree::Progress<'_>) -> Result<()> {
        let (snapshots, path) = match part {
            Part::Whole => (self.snapshots(volume)?, self.path(volume)),
            Part::Alone => (Vec::new(), self.path(volume)),
            Part::Snapshot(name) => (Vec::new(), self.snapshot_path(volume, name)),
        };
        let names = serde_json::to_vec(&snapshots).map_err(|e| Error::internal(e.to_string()))?;
        let len = u32::try_from(names.len()).map_err(|_| Error::internal("Too many snapshots"))?;
        out.write_all(&len.to_be_bytes()).and_then(|()| out.write_all(&names)).context("Sending the volume")?;
        for snapshot in snapshots {
            tree::send(&self.snapshot_path(volume, &snapshot), out, progress)?;
        }
        tree::send(&path, out, progress)
    }

    fn receive(&self, volume: &Volume, from: &mut dyn Read, progress: tree::Progress<'_>) -> Result<()> {
        let mut len = [0; 4];
        let torn = |_| Error::bad_request("The stream ends in the middle");
        from.read_exact(&mut len).map_err(torn)?;
        let len = u32::from_be_bytes(len) as usize;
        if len > 1 << 20 {
            return Err(Error::bad_request("This is not a stream of a volume"));
        }
        let mut names = vec![0; len];
        from.read_exact(&mut names).map_err(torn)?;
        let names: Vec<String> =
            serde_json::from_slice(&names).map_err(|_| Error::bad_request("This is not a stream of a volume"))?;
        if let Some(bad) = names.iter().find(|n| n.contains('/') || matches!(n.as_str(), "" | "." | "..")) {
            return Err(Error::bad_request(format!("Invalid snapshot name \"{bad}\" in the stream")));
        }
        if self.exists(volume) {
            return Err(Error::conflict(format!("{} exists already", self.path(volume).display())));
        }
        // Snapshots without their volume are what an interrupted daemon left.
        remove(&self.snapshots_of(volume))?;
        let received = (|| {
            for name in names {
                self.make(&self.snapshot_path(volume, &name), |path| tree::receive(path, from, progress))?;
            }
            self.make(&self.path(volume), |path| tree::receive(path, from, progress))?;
            // Who sent it may remove it when this returns.
            self.sync()
        })();
        if received.is_err() {
            let _ = remove(&self.snapshots_of(volume));
        }
        received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pool {
        dir: Dir,
        _temp: tempfile::TempDir,
    }

    fn pool() -> Pool {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::new(temp.path().join("pool"), None);
        dir.create().unwrap();
        Pool { dir, _temp: temp }
    }

    fn volume(name: &str) -> Volume {
        Volume::new(Kind::Custom, "default", name)
    }

    fn with(pool: &Dir, volume: &Volume, text: &str) {
        pool.create_volume(volume, &mut |path| Ok(fs::write(path.join("f"), text)?)).unwrap();
    }

    fn read(path: PathBuf) -> String {
        fs::read_to_string(path.join("f")).unwrap_or_default()
    }

    #[test]
    fn volumes_are_made_whole_or_not_at_all() {
        let Pool { dir, .. } = &pool();
        let v = volume("v");
        let failed = dir.create_volume(&v, &mut |path| {
            fs::write(path.join("f"), "half")?;
            Err(Error::bad_request("full"))
        });
        assert_eq!(failed.unwrap_err().message, "full");
        assert!(!dir.exists(&v) && dir.volumes().unwrap().is_empty());
        with(dir, &v, "whole");
        assert_eq!(dir.create_volume(&v, &mut |_| Ok(())).unwrap_err().kind, api::Kind::Conflict);
        assert_eq!(dir.volumes().unwrap(), std::slice::from_ref(&v));
        // What a killed daemon leaves is gone after the next start.
        fs::create_dir(dir.path(&volume("x")).with_file_name(".unfinished-x")).unwrap();
        dir.recover().unwrap();
        assert_eq!(fs::read_dir(dir.path(&v).parent().unwrap()).unwrap().count(), 1);
        dir.delete_volume(&v).unwrap();
        dir.delete_volume(&v).unwrap();
        assert!(!dir.exists(&v));
    }

    #[test]
    fn snapshots_keep_what_was_and_follow_their_volume() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: owners can only be set by root");
        }
        let Pool { dir, .. } = &pool();
        let (v, w) = (volume("v"), volume("w"));
        with(dir, &v, "one");
        dir.snapshot(&v, "s1").unwrap();
        assert_eq!(dir.snapshot(&v, "s1").unwrap_err().kind, api::Kind::Conflict);
        fs::write(dir.path(&v).join("f"), "two").unwrap();
        dir.rename_snapshot(&v, "s1", "s2").unwrap();
        dir.rename_volume(&v, &w).unwrap();
        assert_eq!((dir.snapshots(&w).unwrap(), read(dir.path(&w))), (vec!["s2".to_owned()], "two".into()));
        dir.restore(&w, "s2").unwrap();
        assert_eq!(read(dir.path(&w)), "one");
        assert!(dir.restore(&w, "missing").is_err());
        assert_eq!(read(dir.path(&w)), "one");

        let mut stream = Vec::new();
        dir.send(&w, &Part::Whole, &mut stream, &mut |_| {}).unwrap();
        let copy = volume("copy");
        assert!(dir.receive(&copy, &mut &stream[..stream.len() - 9], &mut |_| {}).is_err());
        assert!(!dir.exists(&copy) && dir.snapshots(&copy).unwrap().is_empty(), "nothing is half there");
        dir.receive(&copy, &mut &stream[..], &mut |_| {}).unwrap();
        assert_eq!((dir.snapshots(&copy).unwrap(), read(dir.path(&copy))), (vec!["s2".to_owned()], "one".into()));
        assert_eq!(dir.receive(&copy, &mut &stream[..], &mut |_| {}).unwrap_err().kind, api::Kind::Conflict);
        assert_eq!(dir.snapshots(&copy).unwrap(), ["s2"], "what is there stays as it is");

        fs::write(dir.path(&w).join("f"), "now").unwrap();
        let other = pool();
        for (part, text, snapshots) in
            [(Part::Whole, "now", 1), (Part::Alone, "now", 0), (Part::Snapshot("s2".into()), "one", 0)]
        {
            super::super::copy((dir, &w), &part, (&other.dir, &w), &mut |_| {}).unwrap();
            assert_eq!((read(other.dir.path(&w)).as_str(), other.dir.snapshots(&w).unwrap().len()), (text, snapshots));
            other.dir.delete_volume(&w).unwrap();
        }
        let missing = super::super::copy((dir, &volume("x")), &Part::Whole, (&other.dir, &w), &mut |_| {});
        assert!(missing.unwrap_err().message.contains("default_x"));
        assert!(other.dir.volumes().unwrap().is_empty());

        // A rename that was interrupted between the two is completed.
        fs::rename(dir.snapshots_of(&w), dir.snapshots_of(&v)).unwrap();
        assert_eq!(dir.volumes().unwrap(), [copy.clone(), v.clone(), w.clone()]);
        dir.rename_volume(&w, &v).unwrap();
        dir.rename_volume(&w, &v).unwrap();
        assert_eq!((dir.snapshots(&v).unwrap(), dir.exists(&w)), (vec!["s2".to_owned()], false));
        assert_eq!(dir.rename_volume(&w, &volume("y")).unwrap_err().kind, api::Kind::NotFound);
        assert_eq!(dir.rename_volume(&v, &copy).unwrap_err().kind, api::Kind::Conflict);
        dir.delete_snapshot(&v, "s2").unwrap();
        assert!(dir.snapshots(&v).unwrap().is_empty());
    }

    #[test]
    fn a_volume_is_put_back_where_names_can_not_be_exchanged() {
        let Pool { dir, .. } = &pool();
        let (v, w) = (volume("v"), volume("w"));
        for of in [&v, &w] {
            with(dir, of, "now");
            let beside = dir.beside(&dir.path(of));
            fs::create_dir(&beside).unwrap();
            fs::write(beside.join("f"), "then").unwrap();
        }
        dir.take_turns(&dir.beside(&dir.path(&v)), &dir.path(&v)).unwrap();
        assert_eq!(read(dir.path(&v)), "then");
        // Killed in the middle: either way it is ended at the next start.
        fs::rename(dir.beside(&dir.path(&w)), dir.named(PUT_BACK, &dir.path(&w))).unwrap();
        for gone in [false, true] {
            if gone {
                fs::rename(dir.path(&w), dir.named(PUT_BACK, &dir.path(&w))).unwrap();
            }
            assert!(!dir.volumes().unwrap().iter().any(|v| v.name.contains("put-back")));
            dir.recover().unwrap();
            assert_eq!(read(dir.path(&w)), "then");
        }
        assert_eq!(fs::read_dir(dir.path(&v).parent().unwrap()).unwrap().count(), 2);
    }

    #[test]
    fn what_takes_the_place_of_a_volume_is_made_beside_it() {
        let Pool { dir, .. } = &pool();
        let (v, w) = (volume("v"), volume("w"));
        let names = || {
            let mut names: Vec<_> = entries(&dir.path.join("custom")).unwrap().into_iter().map(|(n, _)| n).collect();
            names.sort();
            names
        };
        let new = |text: &'static str| move |path: &Path| Ok(fs::write(path.join("f"), text)?);
        with(dir, &v, "old");
        let failed = dir.prepare(&v, &mut |path| {
            fs::write(path.join("f"), "half")?;
            Err(Error::bad_request("full"))
        });
        assert_eq!(failed.unwrap_err().message, "full");
        assert_eq!((read(dir.path(&v)).as_str(), names()), ("old", vec!["default_v".to_owned()]));
        dir.replace(&v).unwrap();
        assert_eq!(read(dir.path(&v)), "old", "there is nothing to put in its place");

        // It waits for the next daemon, and is no volume.
        dir.prepare(&v, &mut new("first")).unwrap();
        dir.prepare(&v, &mut new("new")).unwrap();
        dir.recover().unwrap();
        assert_eq!((dir.prepared().unwrap(), dir.volumes().unwrap()), (vec![v.clone()], vec![v.clone()]));
        assert_eq!(read(dir.path(&v)), "old");
        dir.replace(&v).unwrap();
        dir.replace(&v).unwrap();
        assert_eq!((read(dir.path(&v)).as_str(), names()), ("new", vec!["default_v".to_owned()]));

        // Killed between the steps: it is done again, at the next start or before.
        for started in [false, true] {
            dir.prepare(&v, &mut new("newer")).unwrap();
            fs::rename(dir.path(&v), dir.beside(&dir.path(&v))).unwrap();
            if started {
                dir.recover().unwrap();
            }
            dir.replace(&v).unwrap();
            dir.recover().unwrap();
            assert_eq!((read(dir.path(&v)).as_str(), names()), ("newer", vec!["default_v".to_owned()]));
        }

        // It goes where its volume goes.
        dir.prepare(&v, &mut new("later")).unwrap();
        dir.rename_volume(&v, &w).unwrap();
        assert_eq!(dir.prepared().unwrap(), std::slice::from_ref(&w));
        dir.prepare(&v, &mut new("dropped")).unwrap();
        dir.drop_prepared(&v).unwrap();
        dir.drop_prepared(&v).unwrap();
        dir.delete_volume(&w).unwrap();
        assert!(names().is_empty());
    }

    #[test]
    fn a_source_must_be_empty_and_is_linked() {
        let temp = tempfile::tempdir().unwrap();
        let (path, source) = (temp.path().join("pool"), temp.path().join("source"));
        fs::create_dir(&source).unwrap();
        fs::write(source.join("f"), "mine").unwrap();
        let dir = Dir::new(path.clone(), Some(source.clone()));
        assert!(dir.create().unwrap_err().message.contains("isn't empty"));
        fs::remove_file(source.join("f")).unwrap();
        dir.create().unwrap();
        assert!(source.join("custom").is_dir() && path.join("custom").is_dir());
        assert!(dir.usage().unwrap().space.total > 0);
        dir.delete().unwrap();
        assert!(!source.exists() && !path.exists());
    }
}
