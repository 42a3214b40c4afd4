//! `cargo xtask test`: everything that has to hold before a change lands.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

use crate::sh::{Result, cargo, cargo_json, say, target};
use crate::{check, packages};

/// How many programs of tests run at the same time. Those that take long wait for the most part: for elections, for
/// members to count as offline. One of them is the torture nearly all the time.
const AT_ONCE: usize = 4;

/// For how many seconds things fail under a real cluster while the other tests run.
const TORTURE: &str = "600";

/// Those that take longest, which begin first.
const LONG: &[&str] = &[
    "torture",
    "seeds",
    "healing",
    "evacuation",
    "upgrade",
    "shared_storage",
    "book",
    "bad_days",
    "members",
    "instances",
    "limits",
    "corpus",
];

/// Those whose figures are shown although nothing is wrong: what was survived, and how long it took.
const TOLD: &[&str] = &["torture", "seeds"];

/// Installs, builds, checks, tests.
pub fn all(filter: Option<&str>) -> Result<()> {
    packages::install()?;
    if filter.is_none() {
        say("checking");
        check::check()?;
    }
    build()?;
    say("testing");
    run(programs()?, filter)?;
    cargo(&["test", "--quiet", "--workspace", "--doc"])
}

/// Builds all that is tested: first the daemon as a later version could be, which is set aside, then everything else.
pub fn build() -> Result<()> {
    say("building");
    // Tests are named here and there, so that the same libraries serve for all.
    cargo(&["build", "--workspace", "--bin", "incusd", "--test", "upgrade", "--features", "incusd/next"])?;
    let (built, next) = (target().join("debug/incusd"), target().join("debug/next"));
    std::fs::create_dir_all(&next)?;
    // The one of an earlier build may still run.
    let _ = std::fs::remove_file(next.join("incusd"));
    std::fs::copy(built, next.join("incusd"))?;
    cargo(&["build", "--workspace", "--all-targets"])
}

/// A program of tests.
pub struct Program {
    /// Its crate and name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// The folder of its crate, where it runs.
    pub home: PathBuf,
}

impl Program {
    /// True if that is its name, in whichever crate.
    fn is(&self, name: &str) -> bool {
        self.name.rsplit('/').next() == Some(name)
    }
}

/// The programs of tests that cargo has built, in the order in which they are to begin.
fn programs() -> Result<Vec<Program>> {
    let messages = cargo_json(&["test", "--workspace", "--no-run"])?;
    let mut found: Vec<Program> = messages.iter().filter_map(program).collect();
    let place = |p: &Program| LONG.iter().position(|name| p.is(name)).unwrap_or(LONG.len());
    found.sort_by_key(place);
    Ok(found)
}

/// The program that a message of cargo tells of, if it does.
pub fn program(message: &Value) -> Option<Program> {
    let path = PathBuf::from(message["executable"].as_str()?);
    if message["profile"]["test"] != true {
        return None;
    }
    let home = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
    let of = home.file_name()?.to_string_lossy().into_owned();
    Some(Program { name: format!("{of}/{}", message["target"]["name"].as_str()?), path, home })
}

/// What came of a program of tests.
struct Ran {
    name: String,
    good: bool,
    /// Tests that passed, failed, and were left out.
    counts: [u64; 3],
}

/// Runs them, several at a time, and shows what each has said when it has ended.
fn run(programs: Vec<Program>, filter: Option<&str>) -> Result<()> {
    let (waiting, ended) = (Mutex::new(VecDeque::from(programs)), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(program) = next else { return };
                    let ran = run_one(&program, filter);
                    ended.lock().unwrap_or_else(PoisonError::into_inner).push(ran);
                }
            });
        }
    });
    let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    let [passed, failed, ignored] = ended.iter().fold([0; 3], |sum, ran| {
        let [a, b, c] = ran.counts;
        [sum[0] + a, sum[1] + b, sum[2] + c]
    });
    let bad: Vec<&str> = ended.iter().filter(|ran| !ran.good).map(|ran| ran.name.as_str()).collect();
    let word = if bad.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\nall: test result: {word}. {passed} passed; {failed} failed; {ignored} ignored; {} programs",
        ended.len()
    );
    if bad.is_empty() { Ok(()) } else { Err(format!("tests failed: {}", bad.join(", ")).into()) }
}

fn run_one(program: &Program, filter: Option<&str>) -> Ran {
    let began = Instant::now();
    let mut command = Command::new(&program.path);
    command.args(filter).current_dir(&program.home).stdin(Stdio::null());
    if TOLD.iter().any(|name| program.is(name)) {
        command.arg("--show-output");
    }
    command.env("CARGO_MANIFEST_DIR", &program.home).env("TORTURE_SECONDS", TORTURE);
    let (said, good) = match command.output() {
        Ok(out) => {
            let said = [String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)].concat();
            (said, out.status.success())
        }
        Err(e) => (format!("{}: {e}", program.path.display()), false),
    };
    println!("\n--- {} ({} s)\n{}", program.name, began.elapsed().as_secs(), said.trim());
    Ran { name: program.name.clone(), good, counts: counts(&said) }
}

/// The numbers of tests that passed, failed and were left out, as the last lines of a program say.
fn counts(said: &str) -> [u64; 3] {
    let line = said.lines().rfind(|line| line.starts_with("test result: ")).unwrap_or_default();
    ["passed", "failed", "ignored"].map(|word| {
        let before = line.split_once(&format!(" {word}")).map(|(before, _)| before);
        before.and_then(|b| b.rsplit(' ').next()).and_then(|n| n.parse().ok()).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_last_line() {
        let said = "running 2 tests\ntest result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(counts(said), [12, 3, 1]);
        assert_eq!(counts("nothing"), [0; 3]);
    }

    #[test]
    fn a_program_that_fails_and_one_that_is_not_there_are_told() {
        let program = |path: &str| Program { name: "x/y".into(), path: path.into(), home: "/".into() };
        assert!(run(vec![program("/bin/true")], None).is_ok());
        for path in ["/bin/false", "/no/such/program"] {
            let said = run(vec![program("/bin/true"), program(path)], None).err().map(|e| e.to_string());
            assert_eq!(said.as_deref(), Some("tests failed: x/y"));
        }
    }
}
