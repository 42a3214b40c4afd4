//! Trying a target by libFuzzer, which sees what of the code an input reaches, and goes on from those that reach more.
//!
//! The program is `incus-fuzz-guided`, built so that what is reached is counted (`cargo xtask fuzz --guided`). All that it finds
//! stays in a folder of the build. What of it reaches code that neither the seeds nor the corpus reach is copied into
//! the corpus while it is small, and from then on is read in every run of the tests.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use crate::mutate::{LONGEST, WORDS};
use crate::supervise::{Outcome, keep, last_lines};
use crate::{Target, run};

/// The variable that names the target to the program.
pub const TARGET: &str = "INCUS_FUZZ_TARGET";
/// What they are for happens in another process, where nothing is counted.
const ELSEWHERE: &[&str] = &["sftp"];
/// The largest input that gets into the corpus by itself, in bytes.
const SMALL: u64 = 8 << 10;
/// The most that a target's corpus grows to by itself, in bytes.
const ENOUGH: u64 = 64 << 10;
/// How many inputs that are.
const MANY: usize = 96;

/// What came of trying a target.
pub struct Explored {
    /// How it ended.
    pub outcome: Outcome,
    /// Inputs that are new in the corpus.
    pub kept: Vec<PathBuf>,
}

/// A target, the program that tries it, and where everything lies that is found.
struct Explorer<'a> {
    target: &'a Target,
    program: &'a Path,
    dir: PathBuf,
}

/// Tries a target for so long; what is found lies in a folder of `work`. `None` if it can't be tried in this way.
pub fn explore(target: &Target, program: &Path, work: &Path, seconds: u64) -> io::Result<Option<Explored>> {
    if ELSEWHERE.contains(&target.name) {
        return Ok(None);
    }
    let explorer = Explorer { target, program, dir: work.join(target.name) };
    explorer.prepare()?;
    let outcome = explorer.search(seconds)?;
    let kept = match &outcome {
        Outcome::Good(_) => explorer.keep_what_reaches_more()?,
        Outcome::Broken { .. } => Vec::new(),
    };
    Ok(Some(Explored { outcome, kept }))
}

impl Explorer<'_> {
    fn folder(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes the folders, and writes down the seeds and the words.
    fn prepare(&self) -> io::Result<()> {
        for fresh in ["seeds", "broke", "scratch", "best"] {
            let _ = fs::remove_dir_all(self.folder(fresh));
            fs::create_dir_all(self.folder(fresh))?;
        }
        fs::create_dir_all(self.folder("found"))?;
        for (number, seed) in (self.target.seeds)().iter().enumerate() {
            fs::write(self.folder("seeds").join(number.to_string()), seed)?;
        }
        let quoted = |word: &&[u8]| format!("\"{}\"\n", word.iter().map(|b| format!("\\x{b:02x}")).collect::<String>());
        fs::write(self.folder("words"), WORDS.iter().map(quoted).collect::<String>())
    }

    /// The program, with what always holds.
    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        let option = |name: &str, value: &dyn std::fmt::Display| format!("-{name}={value}");
        command.env(TARGET, self.target.name).env("TMPDIR", self.folder("scratch")).stdin(Stdio::null());
        command.arg(option("max_len", &LONGEST));
        command.arg(option("timeout", &run::BUSY.as_secs()));
        command.arg(option("rss_limit_mb", &(run::MEMORY >> 20)));
        command.arg(option("artifact_prefix", &format!("{}/", self.folder("broke").display())));
        command
    }

    fn search(&self, seconds: u64) -> io::Result<Outcome> {
        let mut command = self.command();
        command.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1").arg("-print_funcs=0");
        command.arg(format!("-dict={}", self.folder("words").display()));
        command.arg(self.folder("found")).arg(self.folder("seeds"));
        if self.target.corpus().is_dir() {
            command.arg(self.target.corpus());
        }
        let log = self.folder("log");
        let file = File::create(&log)?;
        let status = command.stdout(file.try_clone()?).stderr(file).status()?;
        let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let tried = said.lines().find_map(|l| l.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok());
        match (status.success(), tried) {
            (true, Some(tried)) => Ok(Outcome::Good(tried)),
            _ => Ok(Outcome::Broken { input: self.culprit()?, how: format!("{status}\n{}", last_lines(&said)) }),
        }
    }

    /// The input that broke the target. What was only slow is left beside it.
    fn culprit(&self) -> io::Result<Vec<u8>> {
        let files = fs::read_dir(self.folder("broke"))?.flatten();
        let broke =
            files.map(|f| f.path()).find(|p| !p.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"slow")));
        broke.map_or_else(|| Ok(Vec::new()), fs::read)
    }

    /// Copies what reaches more than the corpus and the seeds into the corpus: what adds most first.
    fn keep_what_reaches_more(&self) -> io::Result<Vec<PathBuf>> {
        let best = self.folder("best");
        let known = files(&self.folder("seeds"))?.into_iter().chain(files(&self.target.corpus())?);
        for (number, (path, _)) in known.enumerate() {
            fs::copy(path, best.join(format!("known-{number}")))?;
        }
        let mut command = self.command();
        // How often something is reached does not count: otherwise there would be no end to what is new.
        command.args(["-merge=1", "-set_cover_merge=1", "-use_counters=0"]).arg(&best).arg(self.folder("found"));
        let status = command.stdout(Stdio::null()).stderr(File::create(self.folder("log-of-choice"))?).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("choosing what reaches more: {status}")));
        }
        let mut chosen = files(&best)?;
        chosen.retain(|(path, _)| !path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"known-")));
        chosen.sort_by_key(|(_, meta)| meta.modified().unwrap_or(SystemTime::UNIX_EPOCH));
        let has = files(&self.target.corpus())?.into_iter().filter(|(path, _)| by_itself(path));
        let (mut many, mut size) = has.fold((0, 0), |(many, size), (_, meta)| (many + 1, size + meta.len()));
        let mut kept = Vec::new();
        for (path, meta) in chosen.into_iter().filter(|(_, meta)| meta.len() <= SMALL) {
            if many < MANY && size + meta.len() <= ENOUGH {
                kept.push(keep(self.target, REACHES, &fs::read(path)?)?);
                (many, size) = (many + 1, size + meta.len());
            }
        }
        Ok(kept)
    }
}

/// How names of inputs begin that got into the corpus by themselves.
const REACHES: &str = "reaches";

fn by_itself(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(REACHES.as_bytes()))
}

/// The files in a folder, which need not be there.
fn files(dir: &Path) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
    match fs::read_dir(dir) {
        Ok(files) => files.map(|f| f.and_then(|f| Ok((f.path(), f.metadata()?)))).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}
