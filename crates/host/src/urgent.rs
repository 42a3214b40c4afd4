//! A process that must go on whatever becomes of its machine: without disk, memory or a turn to spare.

use std::io;

/// Makes this process one of which the kernel takes nothing away: its memory stays in place, it gets its turn before
/// others, and it is not chosen when memory runs out. What is refused is told and does without.
pub fn claim() -> Vec<io::Error> {
    // SAFETY: plain system calls on this process itself; the one structure is read during the call.
    let (locked, first) = unsafe {
        let turn = libc::sched_param { sched_priority: 1 };
        // Pages as they are used, and not all of the program at once.
        let locked = libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT);
        let locked = (locked != 0).then(io::Error::last_os_error);
        let first = libc::sched_setscheduler(0, libc::SCHED_RR, &raw const turn);
        (locked, (first != 0).then(io::Error::last_os_error))
    };
    let spared = std::fs::write("/proc/self/oom_score_adj", "-1000").err();
    let named = [
        ("memory that stays in place", locked),
        ("its turn before others", first),
        ("mercy when memory runs out", spared),
    ];
    let refused = named.into_iter().filter_map(|(what, e)| e.map(|e| io::Error::new(e.kind(), format!("{what}: {e}"))));
    refused.collect()
}
