//! `incus-fuzz`: tries what reads bytes with bytes that nobody has sent yet. `cargo xtask fuzz` is how people call it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use fuzz::run::{self, Plan};
use fuzz::supervise::{self, Outcome};
use fuzz::{Target, guided, targets};

/// Tries what reads bytes of others.
#[derive(Parser)]
enum Args {
    /// What can be tried.
    List,
    /// Try a target for some time; an input that breaks it is kept in the corpus.
    Long {
        /// Its name, or `all`, one after the other.
        target: String,
        /// How long, for each.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// Decides which inputs are made; a new one each time if it is left out.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Try a target by a program that sees what is reached; an input that reaches more is kept in the corpus, too.
    Guided {
        /// Its name, or `all`, one after the other.
        target: String,
        /// How long, in seconds, for each.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// The program.
        #[arg(long)]
        program: PathBuf,
        /// Where everything is kept that it finds.
        #[arg(long)]
        work: PathBuf,
    },
    /// Try one input.
    One {
        /// Name of the target.
        target: String,
        /// The file with the input.
        file: PathBuf,
    },
    /// Be the process in which a target is tried.
    #[command(hide = true)]
    Try {
        /// Name of the target.
        target: String,
        /// Where the input is noted that is being tried.
        #[arg(long)]
        note: PathBuf,
        /// Decides which inputs are made.
        #[arg(long)]
        seed: u64,
        /// How many are made.
        #[arg(long, default_value_t = u64::MAX)]
        cases: u64,
        /// For how long, in seconds.
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Write what members really send each other into the corpus of `raft`.
    #[command(hide = true)]
    Record,
}

fn main() -> ExitCode {
    match work(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("incus-fuzz: {e}");
            ExitCode::FAILURE
        }
    }
}

fn find(name: &str) -> std::io::Result<&'static Target> {
    Target::find(name).ok_or_else(|| std::io::Error::other(format!("there is no target \"{name}\": see `list`")))
}

/// False if something broke.
fn work(args: Args) -> std::io::Result<bool> {
    match args {
        Args::List => {
            for target in targets::ALL {
                println!("{:<12} {}", target.name, target.about);
            }
            Ok(true)
        }
        Args::Long { target, minutes, seed } => {
            let seed = seed.unwrap_or_else(|| jiff::Timestamp::now().as_millisecond().cast_unsigned());
            of_each(&target, |target| long(target, minutes, seed))
        }
        Args::Guided { target, seconds, program, work } => {
            of_each(&target, |target| guided(target, seconds, &program, &work))
        }
        Args::One { target, file } => {
            let (target, input) = (find(&target)?, std::fs::read(file)?);
            run::confine();
            (target.read)(&input);
            println!("{} bytes were read or refused", input.len());
            Ok(true)
        }
        Args::Try { target, note, seed, cases, seconds } => {
            let target = find(&target)?;
            run::confine();
            let tried = run::all(target, &Plan { seed, cases, time: seconds.map(Duration::from_secs) }, &note)?;
            println!("{tried}");
            Ok(true)
        }
        Args::Record => targets::raft::record().map(|()| true),
    }
}

/// Tries the target of that name, or all of them.
fn of_each(name: &str, attempt: impl Fn(&Target) -> std::io::Result<bool>) -> std::io::Result<bool> {
    let targets: Vec<&Target> = match name {
        "all" => targets::ALL.iter().collect(),
        name => vec![find(name)?],
    };
    let good: Vec<bool> = targets.into_iter().map(attempt).collect::<std::io::Result<_>>()?;
    Ok(good.into_iter().all(|good| good))
}

fn guided(target: &Target, seconds: u64, program: &Path, work: &Path) -> std::io::Result<bool> {
    println!("{}, guided by what is reached, for {seconds} seconds", target.name);
    let Some(explored) = guided::explore(target, program, work, seconds)? else {
        println!("{}: what reads is another process, of which nothing is seen", target.name);
        return Ok(true);
    };
    for path in &explored.kept {
        println!("{}: reaches more: {}", target.name, path.display());
    }
    told(target, explored.outcome)
}

fn long(target: &Target, minutes: u64, seed: u64) -> std::io::Result<bool> {
    println!("{}, with the seed {seed}, for {minutes} minutes", target.name);
    let scratch = tempfile::tempdir()?;
    let arguments = ["--seed".into(), seed.to_string(), "--seconds".into(), (minutes * 60).to_string()];
    told(target, supervise::run(&std::env::current_exe()?, target, &arguments, scratch.path())?)
}

/// Tells how it ended; false if something broke.
fn told(target: &Target, outcome: Outcome) -> std::io::Result<bool> {
    match outcome {
        Outcome::Good(tried) => {
            println!("{}: {tried} inputs, nothing broke", target.name);
            Ok(true)
        }
        Outcome::Broken { input, how } => {
            let path = supervise::keep(target, supervise::BROKE, &input)?;
            println!("{} BROKE: {how}\nthe input is kept in {}", target.name, path.display());
            Ok(false)
        }
    }
}
