//! `incus`, the command line.
//!
//! Every command is a struct under [`cmd`] whose doc comment is its help text, and whose `run` talks to a server
//! and prints. Nothing is decided here that a server could decide.

mod alias;
mod cmd;
mod config;
mod ctx;
mod edit;
mod entity;
mod keyval;
mod operation;
mod output;
mod prompt;
mod server;
mod tls;
mod transfer;
mod transport;
mod tty;
mod usage;

/// What reads texts of people, for those who try it with texts that nobody has written yet (`crates/fuzz`).
pub mod readers {
    pub use crate::output::yaml::from_yaml as yaml;
}

use std::{process::ExitCode, sync::OnceLock};

use clap::{CommandFactory, FromArgMatches};

use crate::{cmd::Cli, ctx::Ctx};

/// Does what the arguments of this process say.
pub fn main() -> ExitCode {
    restore_sigpipe();
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("Error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> api::Result<u8> {
    let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let mut command = Cli::command();
    let args = alias::expand(&command, args)?;
    let matches = match command.try_get_matches_from_mut(&args) {
        Ok(matches) => matches,
        Err(e) => return Ok(usage::report(&e, &args)),
    };
    let cli = Cli::from_arg_matches(&matches).map_err(|e| api::Error::bad_request(e.to_string()))?;
    start_logging(&cli);
    let ctx = Ctx::new(cli.global.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(Box::pin(cli.command.run(&ctx)));
    runtime.shutdown_background();
    code
}

/// Rust ignores SIGPIPE; a command whose output goes to `head` should end quietly instead of panicking.
fn restore_sigpipe() {
    static HOOK: OnceLock<()> = OnceLock::new();
    HOOK.get_or_init(|| {
        let old = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<String>().map_or("", String::as_str);
            if text.contains("Broken pipe") {
                std::process::exit(141);
            }
            old(info);
        }));
    });
}

fn start_logging(cli: &Cli) {
    let level = if cli.global.debug {
        tracing::Level::DEBUG
    } else if cli.global.verbose {
        tracing::Level::INFO
    } else {
        return;
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
}
