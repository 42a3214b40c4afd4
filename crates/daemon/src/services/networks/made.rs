//! The networks that this member has made, as it made them: noted in a file, so that a change that happened while
//! the daemon was away, and the end of a network, can still be followed.
//!
//! Calls block.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::error::Context as _;
use api::{Error, Result};
use drivers::network::{Definition, Networks};

/// A network as this member is to have it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Row id.
    pub id: i64,
    /// What it is.
    pub def: Definition,
}

/// What was made, by row id.
pub struct Made {
    networks: Arc<Networks>,
    file: PathBuf,
    made: Mutex<BTreeMap<i64, Definition>>,
    /// What could not be made, and why: it is not tried again at each change of the database.
    failed: Mutex<BTreeMap<i64, (Definition, Error)>>,
    /// True if something could not be taken down.
    left: AtomicBool,
}

impl Made {
    /// What the file says.
    pub fn open(networks: Arc<Networks>, file: PathBuf) -> Made {
        let read = fs::read(&file).ok().map(|text| serde_json::from_slice(&text));
        let made = read.transpose().unwrap_or_else(|e| {
            tracing::warn!("{} says nothing about the networks of this member: {e}", file.display());
            None
        });
        Made {
            networks,
            file,
            made: Mutex::new(made.unwrap_or_default()),
            failed: Mutex::default(),
            left: AtomicBool::new(false),
        }
    }

    /// Brings this member in line with what is wanted; what became of each. `again` also looks after those that have
    /// not changed, and tries again what has failed.
    pub fn bring(&self, wanted: &[Wanted], again: bool) -> Vec<(i64, Result<()>)> {
        if again {
            lock(&self.failed).clear();
        }
        let gone: Vec<i64> = self.all().into_keys().filter(|id| wanted.iter().all(|w| w.id != *id)).collect();
        let mut left = false;
        for id in gone {
            if let Err(e) = self.remove(id) {
                tracing::error!("a network that was deleted: {e}");
                left = true;
            }
        }
        self.left.store(left, Ordering::Relaxed);
        lock(&self.failed).retain(|id, _| wanted.iter().any(|w| w.id == *id));
        wanted.iter().map(|w| (w.id, self.bring_one(w, again))).collect()
    }

    fn bring_one(&self, w: &Wanted, again: bool) -> Result<()> {
        if let Some((def, why)) = lock(&self.failed).get(&w.id)
            && *def == w.def
        {
            return Err(why.clone());
        }
        // Names may have been exchanged; whoever is in the way is made again in its turn.
        let in_the_way = self.all().into_iter().find(|(id, def)| *id != w.id && def.name == w.def.name);
        if let Some((id, _)) = in_the_way {
            self.remove(id)?;
        }
        self.put(w.id, &w.def, again)
    }

    /// Makes a network be as `def` says, from whatever it is; on failure it is what it was.
    pub fn put(&self, id: i64, def: &Definition, again: bool) -> Result<()> {
        let done = match self.all().remove(&id) {
            None => self.make(id, def),
            Some(old) if old == *def => {
                if again {
                    self.networks.start(def)
                } else {
                    Ok(())
                }
            }
            Some(old) if old.kind != def.kind => self.remove(id).and_then(|()| self.make(id, def)),
            Some(old) if old.name != def.name => self.rename(&old, def),
            Some(old) => self.networks.update(&old, def),
        };
        match &done {
            Ok(()) => drop(lock(&self.failed).remove(&id)),
            Err(why) => drop(lock(&self.failed).insert(id, (def.clone(), why.clone()))),
        }
        done?;
        self.note(id, Some(def))
    }

    fn make(&self, id: i64, def: &Definition) -> Result<()> {
        self.networks.create(def)?;
        // Noted before it is started: whatever there is of it then can be found again.
        self.note(id, Some(def))?;
        self.networks.start(def).inspect_err(|_| {
            if let Err(e) = self.remove(id) {
                tracing::warn!("network \"{}\", which could not be made: {e}", def.name);
            }
        })
    }

    fn rename(&self, old: &Definition, new: &Definition) -> Result<()> {
        let renamed = self.networks.rename(old, &new.name).and_then(|()| {
            self.networks.start(new).inspect_err(|_| {
                if let Err(e) = self.networks.rename(new, &old.name) {
                    tracing::warn!("network \"{}\" could not get its old name again: {e}", old.name);
                }
            })
        });
        renamed.inspect_err(|_| {
            if let Err(e) = self.networks.start(old) {
                tracing::warn!("network \"{}\" could not be brought back: {e}", old.name);
            }
        })
    }

    /// Takes a network down and forgets it; fine if it was never made.
    pub fn remove(&self, id: i64) -> Result<()> {
        lock(&self.failed).remove(&id);
        let Some(def) = self.all().remove(&id) else { return Ok(()) };
        self.networks.delete(&def)?;
        self.note(id, None)
    }

    /// Everything that was made, by row id.
    pub fn all(&self) -> BTreeMap<i64, Definition> {
        lock(&self.made).clone()
    }

    /// True if something could not be made or taken down.
    pub fn has_failed(&self) -> bool {
        self.left.load(Ordering::Relaxed) || !lock(&self.failed).is_empty()
    }

    fn note(&self, id: i64, def: Option<&Definition>) -> Result<()> {
        let mut made = lock(&self.made);
        match def {
            Some(def) => made.insert(id, def.clone()),
            None => made.remove(&id),
        };
        let text = serde_json::to_vec(&*made).map_err(|e| Error::internal(e.to_string()))?;
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &self.file))
            .context("Noting the networks of this member")
    }
}

/// What a panic left behind is still the best that is known.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_can_not_be_taken_down_is_tried_again_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (file, folder) = (dir.path().join("networks.json"), dir.path().join("networks/stuck"));
        let config = [("parent".to_owned(), "lo".to_owned())].into();
        let def = Definition { name: "stuck".into(), kind: "macvlan".into(), config };
        fs::write(&file, serde_json::to_vec(&BTreeMap::from([(1, def)])).unwrap()).unwrap();
        let open = || Made::open(Arc::new(Networks::new(dir.path(), "seed")), file.clone());
        let made = open();
        assert!(!made.has_failed());
        // What is no folder is not removed as one.
        fs::create_dir(dir.path().join("networks")).unwrap();
        fs::write(&folder, "").unwrap();
        for again in [false, true] {
            made.bring(&[], again);
            assert!(made.has_failed() && made.all().contains_key(&1));
        }
        assert!(open().all().contains_key(&1), "the next daemon knows of it");
        fs::remove_file(&folder).unwrap();
        made.bring(&[], true);
        assert!(!made.has_failed() && made.all().is_empty() && open().all().is_empty());
    }
}
