//! What reads bytes of others reads its corpus, its seeds and some thousand changed forms of them, and comes back.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use fuzz::supervise::{self, Outcome};
use fuzz::{Target, targets};

/// Always the same inputs: what is new is looked for with `cargo xtask fuzz`.
const SEED: u64 = 1;

fn tried(name: &str) {
    let target = Target::find(name).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let arguments = ["--seed".into(), SEED.to_string(), "--cases".into(), target.cases.to_string()];
    let program = Path::new(env!("CARGO_BIN_EXE_incus-fuzz"));
    match supervise::run(program, target, &arguments, scratch.path()).unwrap() {
        Outcome::Good(tried) => {
            println!("{name}: {tried} inputs");
            assert!(tried > target.cases, "{name} has neither seeds nor a corpus");
        }
        Outcome::Broken { input, how } => {
            let path = supervise::keep(target, supervise::BROKE, &input).unwrap();
            panic!("{name} broke (seed {SEED}): {how}\nthe input is in {}", path.display());
        }
    }
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test] fn $name() { tried(stringify!($name)); })*

        #[test]
        fn every_target_has_a_test() {
            assert_eq!(targets::ALL.iter().map(|t| t.name).collect::<Vec<_>>(), [$(stringify!($name)),*]);
        }
    };
}

tests! {
    bodies keys queries yaml tokens image metadata template volume backup multipart raft changeset link control guard
    sftp helper lease scriptlet products
}
