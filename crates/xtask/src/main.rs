//! `cargo xtask`: everything a developer does, in one place and in the same words on every machine.

mod bench;
mod book;
mod check;
mod demo;
mod deny;
mod documents;
mod fuzz;
mod packages;
mod sh;
mod sim;
mod test;
mod torture;

use std::process::ExitCode;

use clap::Parser;

/// Sets up, tries out, tests and measures incus-rs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Xtask {
    /// Install what is missing, build, form a cluster of three members, and show what it can do.
    Demo {
        /// Take the cluster of an earlier demo down.
        #[arg(long)]
        down: bool,
    },
    /// Install what is missing, build, check and run all tests.
    Test {
        /// Only tests whose names contain this.
        filter: Option<String>,
    },
    /// Format, lints, import direction, documents, what the build consists of: changes nothing.
    Check,
    /// Run cargo-deny, where it is installed: licences, sources, versions and advisories of all that is built.
    Deny,
    /// Mend what `check` can mend by itself.
    Fix,
    /// Measure ours beside Debian's Incus in one run.
    Bench(bench::Wanted),
    /// Try what reads bytes of others with bytes that nobody has sent yet; what breaks it is kept as a test.
    Fuzz(fuzz::Fuzz),
    /// Kill, pause, cut off and fill up members of a real cluster under load, and check what it promised.
    Torture(torture::Torture),
    /// Let simulated clusters live, on new seeds; those that fail are added to what the tests always run.
    Sim {
        /// So many of each kind.
        #[arg(long, default_value_t = 5000)]
        seeds: u64,
        /// Until it is stopped.
        #[arg(long)]
        forever: bool,
    },
    /// The client of the benchmark.
    #[command(hide = true)]
    Load(bench::Load),
    /// Install the Debian packages that building and testing need.
    Setup,
    /// Build all that is tested, also the daemon as a later version could be, for tests of upgrades.
    Next,
}

fn main() -> ExitCode {
    let done = match Xtask::parse() {
        Xtask::Demo { down: true } => demo::down(),
        Xtask::Demo { down: false } => demo::up(),
        Xtask::Test { filter } => test::all(filter.as_deref()),
        Xtask::Check => check::check(),
        Xtask::Deny => deny::run(),
        Xtask::Fix => check::fix(),
        Xtask::Bench(wanted) => bench::run(&wanted),
        Xtask::Fuzz(wanted) => fuzz::run(&wanted),
        Xtask::Torture(wanted) => torture::run(&wanted),
        Xtask::Sim { seeds, forever } => sim::run(seeds, forever),
        Xtask::Load(load) => bench::load(&load),
        Xtask::Setup => packages::install(),
        Xtask::Next => test::build(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e}");
            ExitCode::FAILURE
        }
    }
}
