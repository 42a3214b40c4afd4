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
use std::path::PathBuf;
use std::time::Instant;

use lab::cluster::Programs;

use crate::packages;
use crate::sh::{Result, cargo, say, target};
pub use load::{Load, run as load};
use rows::{Better, Row, Samples};
use side::Side;

/// A name, a unit, and which way it is good.
type Measure<'a> = (&'a str, &'static str, Better);

/// What to measure, and what to do with it.
#[derive(clap::Args)]
pub struct Wanted {
    /// Write rows of name, unit, ours, peer, ratio here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write plots (SVG) of how figures grow into this folder.
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
    /// Fewer rounds, and not what takes long.
    #[arg(long)]
    quick: bool,
    /// Only these parts; a cluster is formed in any case.
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Without the peer, for profiling.
    #[arg(long)]
    alone: bool,
}

/// How a part is measured.
type Measuring = fn(&mut Bench) -> Result<()>;

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// A cluster of three at rest, reads and writes.
    Steady,
    /// Instances: made, launched, moved, evacuated.
    Instances,
    /// Members that are killed.
    Failures,
    /// How it grows with the number of instances.
    ManyInstances,
    /// How it grows with the number of members.
    ManyMembers,
}

/// Both sides and what was measured.
pub struct Bench {
    /// Ours, and the peer's if it takes part.
    sides: Vec<Side>,
    rows: Vec<Row>,
    quick: bool,
    only: Vec<Part>,
}

/// Measures, prints the ratios, and writes what is wanted.
pub fn run(wanted: &Wanted) -> Result<()> {
    packages::install()?;
    let peer = if wanted.alone { None } else { Some(peer::fetch()?) };
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
    let mut sides = vec![Side::new("ours", &home, ours, None)?];
    if peer.is_some() {
        sides.push(Side::new("peer", &home, theirs, peer)?);
    }
    let mut bench = Bench { sides, rows: Vec::new(), quick: wanted.quick, only: wanted.only.clone() };
    let done = bench.all();
    let Bench { sides, rows, .. } = bench;
    drop(sides);
    let _ = fs::remove_dir_all(&home);
    rows::print(&rows);
    if let Some(path) = &wanted.json {
        rows::write(&rows, path)?;
    }
    if let Some(folder) = &wanted.plots {
        plot::write(&rows, folder)?;
    }
    say(&format!("measured in {:.0} s", began.elapsed().as_secs_f64()));
    done
}

impl Bench {
    fn all(&mut self) -> Result<()> {
        say("forming clusters");
        forming::measure(self)?;
        let parts: [(Part, &str, Measuring); 5] = [
            (Part::Steady, "idle, reads and writes", steady::measure),
            (Part::Instances, "instances", instances::measure),
            (Part::Failures, "failures", failures::measure),
            (Part::ManyInstances, "more and more instances", growth::of_instances),
            (Part::ManyMembers, "more and more members", growth::of_members),
        ];
        for (part, name, measure) in parts {
            if self.only.is_empty() || self.only.contains(&part) {
                say(name);
                measure(self)?;
            }
        }
        Ok(())
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
