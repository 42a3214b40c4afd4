//! Real containers of BusyBox, in namespaces and below a cgroup of their own.
//!
//! Without the usual harness, as this program is also its own helper (`fork…`) with a single thread.
#![allow(clippy::unwrap_used)]

mod lab;
mod life;
mod mounts;
mod programs;

use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use lab::Lab;

/// Set in the namespaces.
const INSIDE: &str = "INCUS_TEST_INSIDE";

type Test = (&'static str, fn(&Lab));

const TESTS: &[Test] = &[
    ("a_container_starts_tells_its_state_and_stops", life::starts_and_stops),
    ("a_shutdown_is_clean_and_a_reboot_is_told", life::shutdown_and_reboot),
    ("frozen_it_stands_still_and_can_be_stopped", life::frozen),
    ("limits_hold_and_can_be_changed", life::limits),
    ("the_console_shows_and_remembers", life::console),
    ("a_start_that_fails_says_why", life::failures),
    ("a_crash_leaves_nothing_that_hinders", life::crash),
    ("another_process_takes_over", life::another_process),
    ("privileged_it_has_less_power_than_the_host", life::privileged),
    ("programs_have_their_streams_and_exit_codes", programs::streams),
    ("programs_have_their_environment_user_and_directory", programs::environment),
    ("programs_that_cant_be_run_are_refused", programs::refused),
    ("a_terminal_controls_its_program", programs::terminal),
    ("a_program_is_signalled_by_its_host_pid", programs::signals),
    ("a_directory_is_mounted_while_it_runs", mounts::directory),
    ("what_cant_be_mounted_is_refused", mounts::refused),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a.starts_with("fork")) {
        return match drivers::instance::fork::main() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    if std::env::var_os(INSIDE).is_some() {
        return inside(args.iter().find(|a| !a.starts_with('-')).map(String::as_str));
    }
    if let Some(lacking) = lacking() {
        println!("SKIPPED: {lacking}");
        return ExitCode::SUCCESS;
    }
    // In its place: whoever ends this program ends its namespaces.
    let error = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(args)
        .env(INSIDE, "1")
        .exec();
    println!("unshare can't be run: {error}");
    ExitCode::FAILURE
}

fn lacking() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("containers need root".into());
    }
    if let Err(e) = host::lxc::version() {
        return Some(e.to_string());
    }
    (!Path::new("/bin/busybox").exists()).then(|| "/bin/busybox is missing".into())
}

fn inside(filter: Option<&str>) -> ExitCode {
    let lab = Lab::new();
    let mut failed: Vec<&str> = Vec::new();
    for (name, test) in TESTS.iter().filter(|(name, _)| filter.is_none_or(|f| name.contains(f))) {
        let start = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| test(&lab)));
        lab.tidy();
        println!("test {name} ... {} ({:.1?})", if done.is_ok() { "ok" } else { "FAILED" }, start.elapsed());
        failed.extend(done.err().map(|_| *name));
    }
    lab.end();
    println!("\ntest result: {}", if failed.is_empty() { "ok".into() } else { format!("FAILED: {failed:?}") });
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
