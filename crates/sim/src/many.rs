//! Many lives, on all processors.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Ended, Life};

/// Lives those that the iterator gives, several at a time; `each` is told of each one that has ended, and says whether to
/// go on.
pub fn live(lives: impl Iterator<Item = Life> + Send, each: impl Fn(Life, &Ended) -> bool + Sync) {
    let (lives, stop) = (Mutex::new(lives), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // Its clock stands while it waits: whatever else runs here goes by the real one, and comes first.
                let _ = rustix::process::nice(10);
                while !stop.load(Ordering::Relaxed) {
                    let next = lives.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
                    let Some(life) = next else { return };
                    if !each(life, &life.live()) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}
