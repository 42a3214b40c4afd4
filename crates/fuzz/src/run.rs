//! The process that tries a target. It ends at once when something goes wrong, and leaves the input that did it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::Target;
use crate::mutate::{Numbers, mutated};

/// The most memory that the process may have, in bytes: what unpacking takes at most, stacks of threads, and a reserve.
pub(crate) const MEMORY: u64 = 3 << 30;
/// How long one input may keep a processor busy: a hundred times what the slowest reader allows itself. What this machine
/// does beside does not count.
pub(crate) const BUSY: Duration = Duration::from_secs(60);
/// How long one input may take in all.
const WAITING: Duration = Duration::from_secs(600);

/// What is tried.
pub struct Plan {
    /// Decides which inputs are made.
    pub seed: u64,
    /// How many are made of the corpus and the seeds; these themselves are tried first.
    pub cases: u64,
    /// After so long no more are begun.
    pub time: Option<Duration>,
}

/// How many inputs have been begun; the process ends when one of them takes too long.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// Limits what the process may take, and makes every panic, of any thread, its end.
pub fn confine() {
    let _ = setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) });
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        std::process::abort();
    }));
    std::thread::spawn(watch);
}

/// Ends the process when an input takes too long.
fn watch() {
    let busy = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
    let (mut seen, mut at, mut since) = (0, Instant::now(), busy());
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let begun = BEGUN.load(Ordering::Relaxed);
        if begun != seen || begun == 0 {
            (seen, at, since) = (begun, Instant::now(), busy());
        } else if busy().saturating_sub(since) > BUSY || at.elapsed() > WAITING {
            eprintln!("the input takes longer than {} s of a processor, or {} s", BUSY.as_secs(), WAITING.as_secs());
            std::process::abort();
        }
    }
}

/// Where the input is noted before it is tried.
struct Note(Mutex<File>);

impl Note {
    fn take(&self, input: &[u8]) -> std::io::Result<()> {
        let file = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.set_len(input.len() as u64)?;
        file.write_all_at(input, 0)
    }
}

/// Tries a target; `note` is the file in which the input stands that is being tried. How many were tried.
pub fn all(target: &Target, plan: &Plan, note: &Path) -> std::io::Result<u64> {
    let note = Note(Mutex::new(File::create(note)?));
    let inputs = target.inputs();
    let end = plan.time.map(|time| Instant::now() + time);
    let made = (0..plan.cases).map(|case| mutated(&inputs, &mut Numbers::new(plan.seed, case)));
    let mut tried = 0;
    for input in inputs.iter().cloned().chain(made) {
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        note.take(&input)?;
        BEGUN.fetch_add(1, Ordering::Relaxed);
        (target.read)(&input);
        tried += 1;
    }
    Ok(tried)
}
