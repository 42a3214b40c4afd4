//! What happens in a life, in order: hashed, and told to people who want to see it.

use std::fmt::Display;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// All that has happened, and what did not hold.
pub struct Trace {
    told: bool,
    all: Mutex<(DefaultHasher, Vec<String>)>,
}

impl Trace {
    /// Nothing has happened yet.
    pub fn new(told: bool) -> Trace {
        Trace { told, all: Mutex::new((DefaultHasher::new(), Vec::new())) }
    }

    /// Something has happened at that time since the beginning.
    pub fn note(&self, at: Duration, what: impl Display) {
        let text = format!("{:>10.3} {what}", at.as_secs_f64());
        if self.told {
            println!("{text}");
        }
        text.hash(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner).0);
    }

    /// An invariant did not hold.
    pub fn violated(&self, at: Duration, invariant: &str, text: impl Display) {
        let text = format!("{invariant}: {text} (at {:.3} s)", at.as_secs_f64());
        self.note(at, format!("VIOLATED {text}"));
        self.all.lock().unwrap_or_else(PoisonError::into_inner).1.push(text);
    }

    /// The hash, and what did not hold.
    pub fn ended(&self) -> (u64, Vec<String>) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        (all.0.finish(), all.1.clone())
    }
}
