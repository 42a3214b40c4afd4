//! What the functions of a running scriptlet work on. A scriptlet runs on one thread from its beginning to its end: the
//! functions find it there.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::Answers;

/// A scriptlet that runs.
pub struct Run {
    /// Who knows more.
    pub answers: Box<dyn Answers>,
    /// The members that can be named.
    pub candidates: BTreeSet<String>,
    /// The member that was named.
    pub target: RefCell<Option<String>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Run>>> = const { RefCell::new(None) };
}

struct Ended;

impl Drop for Ended {
    fn drop(&mut self) {
        CURRENT.take();
    }
}

/// Does something during which that is the scriptlet that runs on this thread.
pub fn during<T>(run: Rc<Run>, work: impl FnOnce() -> T) -> T {
    CURRENT.replace(Some(run));
    let _ended = Ended;
    work()
}

/// The scriptlet that runs on this thread.
pub fn current() -> anyhow::Result<Rc<Run>> {
    let run = CURRENT.with_borrow(Clone::clone);
    run.ok_or_else(|| anyhow::anyhow!("This can only be asked while an instance is placed"))
}
