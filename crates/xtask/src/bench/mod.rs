//! `cargo xtask bench`: ours beside Debian's Incus, in one run.
//!
//! Both run on machines of the lab, three members each, with release builds of ours. Each measure is taken on both
//! sides in turn, several times; what counts is the ratio of the medians. A client's view is measured: whole
//! processes of the command line, requests over the unix socket, and mTLS connections that are kept open.

mod failures;
mod forming;
mod growth;
mod instances;
mod load;
mod peer;
mod plot;
mod rows;
mod side;
mod steady;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lab::cluster::Programs;

use crate::packages;
use crate::sh::{Result, cargo, say, target};
pub use load::{Load, run as load};
use rows::{Better, Row, Samples};
use side::Side;

/// A name, a unit, and which way it is good.
type Measure<'a> = (&'a str, &'static str, Better);

/// Both sides and what was measured.
pub struct Bench {
    /// Ours, and the peer's.
    sides: [Side; 2],
    rows: Vec<Row>,
    quick: bool,
}

/// Measures, prints the ratios, writes them to `json` and how they grow into the folder `plots`.
pub fn run(json: Option<&Path>, plots: Option<&Path>, quick: bool) -> Result<()> {
    packages::install()?;
    let peer = peer::fetch()?;
    say("building for release");
    cargo(&["build", "--release", "-p", "incusd", "-p", "incus", "-p", "xtask"])?;
    let home = PathBuf::from("/var/tmp/incus-rs-bench");
    if home.exists() {
        fs::remove_dir_all(&home).map_err(|e| format!("what an earlier run left at {}: {e}", home.display()))?;
    }
    let began = Instant::now();
    let bin = target().join("release");
    let ours = Programs { incusd: bin.join("incusd"), incus: bin.join("incus") };
    let theirs = Programs { incusd: peer::INCUSD.into(), incus: peer::INCUS.into() };
    let sides = [Side::new("ours", &home, ours, None)?, Side::new("peer", &home, theirs, Some(peer))?];
    let mut bench = Bench { sides, rows: Vec::new(), quick };
    let done = bench.all();
    let Bench { sides, rows, .. } = bench;
    drop(sides);
    let _ = fs::remove_dir_all(&home);
    rows::print(&rows);
    if let Some(path) = json {
        rows::write(&rows, path)?;
    }
    if let Some(folder) = plots {
        plot::write(&rows, folder)?;
    }
    say(&format!("measured in {:.0} s", began.elapsed().as_secs_f64()));
    done
}

impl Bench {
    fn all(&mut self) -> Result<()> {
        say("forming clusters");
        forming::measure(self)?;
        say("idle, reads and writes");
        steady::measure(self)?;
        say("instances");
        instances::measure(self)?;
        say("failures");
        failures::measure(self)?;
        say("growth");
        growth::measure(self)
    }

    /// That many rounds, fewer if it has to be quick.
    fn rounds(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(3) } else { full }
    }

    /// Measures one thing on both sides in turn.
    fn measure(&mut self, row: Measure<'_>, rounds: usize, mut take: impl FnMut(&mut Side) -> Result<f64>) {
        self.measure_all(&[row], rounds, |side| Ok(vec![take(side)?]));
    }

    /// Measures what is seen in one go on both sides in turn. A side that fails is asked no more, and why is noted.
    fn measure_all(
        &mut self,
        names: &[Measure<'_>],
        rounds: usize,
        mut take: impl FnMut(&mut Side) -> Result<Vec<f64>>,
    ) {
        let mut new: Vec<Row> = names.iter().map(|(name, unit, better)| Row::new(name, unit, *better)).collect();
        let mut failed = [false; 2];
        for _ in 0..rounds {
            for (which, side) in self.sides.iter_mut().enumerate() {
                if failed[which] {
                    continue;
                }
                match take(side) {
                    Ok(values) => new.iter_mut().zip(values).for_each(|(row, v)| row.sides[which].values.push(v)),
                    Err(e) => {
                        failed[which] = true;
                        eprintln!("    {}: {}: {e}", side.name, names[0].0);
                        let why = e.to_string().lines().next().unwrap_or_default().to_owned();
                        new.iter_mut().for_each(|row| row.sides[which].note = why.clone());
                    }
                }
            }
        }
        for row in &new {
            println!("    {}", row.name);
        }
        self.rows.extend(new);
    }

    /// Notes that something is not measured, and why.
    fn skip(&mut self, (name, unit, better): Measure<'_>, notes: [&str; 2]) {
        let sides = notes.map(|note| Samples { values: Vec::new(), note: note.to_owned() });
        self.rows.push(Row { sides, ..Row::new(name, unit, better) });
    }
}
