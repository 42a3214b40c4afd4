//! `incus-fuzz-guided`: the same targets under libFuzzer. `incus-fuzz guided` starts it.
#![no_main]

use std::sync::OnceLock;

use fuzz::{Target, guided, run};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var(guided::TARGET).unwrap_or_default();
        let Some(target) = Target::find(&name) else {
            eprintln!("{} names no target: \"{name}\"", guided::TARGET);
            std::process::exit(2);
        };
        run::confine();
        let _ = TARGET.set(target);
    },
    |input: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.read)(input);
        }
    }
);
