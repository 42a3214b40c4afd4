//! `sim`: lives of simulated clusters, one or many.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use sim::breaks::Break;
use sim::{Ended, Kind, Life, many};

/// Lets simulated clusters live. Without options a thousand of them, each from a seed of its own.
#[derive(Parser)]
struct Sim {
    /// Which simulation; both by turns if it is not said.
    kind: Option<Kind>,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// So many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Until it is stopped.
    #[arg(long)]
    forever: bool,
    /// Plant a fault of ours, to see that it is found.
    #[arg(long = "break", value_name = "NAME")]
    broken: Option<Break>,
    /// Tell all that happens; with RUST_LOG also what the engine and the Raft library say.
    #[arg(long)]
    tell: bool,
    /// Write failing seeds here.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

fn main() -> ExitCode {
    let asked = Sim::parse();
    if asked.tell {
        let wanted = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().without_time().with_env_filter(wanted).init();
    }
    let kinds = asked.kind.map_or(Kind::ALL.to_vec(), |kind| vec![kind]);
    let seeds = match (asked.seed, asked.forever) {
        (Some(seed), _) => seed..seed + 1,
        (None, true) => asked.from..u64::MAX,
        (None, false) => asked.from..asked.from.saturating_add(asked.seeds),
    };
    let life = |kind: Kind, seed| Life { kind, seed, broken: asked.broken, told: asked.tell };
    let lives = seeds.flat_map(|seed| kinds.iter().map(move |kind| life(*kind, seed)));
    let (began, lived, failed, done) = (Instant::now(), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    many::live(lives, |life, ended| {
        done.fetch_add(ended.done as u64, Ordering::Relaxed);
        if !ended.violations.is_empty() {
            failed.fetch_add(1, Ordering::Relaxed);
            tell(life, ended);
            save(asked.save.as_deref(), life);
        }
        if asked.seed.is_some() {
            println!(
                "{} seed {}: trace {:016x}, {} things done",
                life.kind.as_str(),
                life.seed,
                ended.trace,
                ended.done
            );
        }
        let n = lived.fetch_add(1, Ordering::Relaxed) + 1;
        if n.is_multiple_of(500) {
            println!("{n} lives in {} s, {} failed", began.elapsed().as_secs(), failed.load(Ordering::Relaxed));
        }
        true
    });
    let (lived, failed, done) = (lived.into_inner(), failed.into_inner(), done.into_inner());
    println!("{lived} lives in {:.1} s, {done} things done, {failed} failed", began.elapsed().as_secs_f64());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(life: Life, ended: &Ended) {
    println!("\n{} seed {}:", life.kind.as_str(), life.seed);
    for violation in ended.violations.iter().take(5) {
        println!("    {violation}");
    }
    println!("    again: {}", life.command());
}

/// Adds a line to the file of failing seeds.
fn save(file: Option<&std::path::Path>, life: Life) {
    let Some(file) = file else { return };
    let line = format!("{} {}\n", life.kind.as_str(), life.seed);
    let written =
        OpenOptions::new().create(true).append(true).open(file).and_then(|mut f| f.write_all(line.as_bytes()));
    if let Err(e) = written {
        eprintln!("{}: {e}", file.display());
    }
}
