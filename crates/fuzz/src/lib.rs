//! Bytes that nobody has sent yet, for everything that reads bytes of others.
//!
//! A [`Target`] is a function that takes any bytes and must come back: a panic, an abort, a hang or memory without end is
//! a fault. [`run`] tries it, in a process of its own, with what is known to be valid (its seeds), with what once broke
//! something (its corpus), and with both changed at random; [`supervise`] starts that process and tells how it ended.
//! The same seed gives the same bytes. [`guided`] tries targets in a build that sees what an input reaches.

pub mod guided;
pub mod mutate;
pub mod run;
pub mod supervise;
pub mod targets;

use std::path::PathBuf;

/// Something that reads bytes.
pub struct Target {
    /// What it is called.
    pub name: &'static str,
    /// What it reads.
    pub about: &'static str,
    /// How many changed inputs are tried in the short form.
    pub cases: u64,
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads an input.
    pub read: fn(&[u8]),
}

impl Target {
    /// The one of that name.
    pub fn find(name: &str) -> Option<&'static Target> {
        targets::ALL.iter().find(|t| t.name == name)
    }

    /// Where its corpus is.
    pub fn corpus(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }

    /// Its corpus, in the order of the names of the files, and then its seeds.
    pub fn inputs(&self) -> Vec<Vec<u8>> {
        let files = std::fs::read_dir(self.corpus()).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = files.map(|f| f.path()).collect();
        paths.sort();
        let mut inputs: Vec<Vec<u8>> = paths.iter().filter_map(|p| std::fs::read(p).ok()).collect();
        inputs.extend((self.seeds)());
        inputs
    }
}
