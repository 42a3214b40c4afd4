//! `incusd`: the daemon that runs on every member.

mod args;
mod backup;
mod blocking;
mod certs;
mod concerns;
mod dial;
mod edge;
mod events;
mod fork;
mod guard;
mod instances;
mod join;
mod kept;
mod leases;
mod locks;
mod moved;
mod operations;
mod paths;
mod pki;
mod plans;
mod removed;
mod repair;
mod revive;
mod services;
mod sockets;
mod start;
mod state;
mod streams;
mod versions;
mod volumes;

/// What reads bytes that others have sent, for those who try it with bytes that nobody has sent yet (`crates/fuzz`).
pub mod readers {
    pub use crate::backup::archive::read as backup;
    pub use crate::edge::request::parse_query as query;
    pub use crate::guard::wire::Ask;
    pub use crate::repair::nodes::Nodes;
    pub use crate::services::images::multipart::Multipart;
    pub use crate::services::images::streams::read as simple_streams;
    pub use crate::streams::{Control, asked as control_message};
}

use std::process::ExitCode;

use api::Result;
use api::error::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use args::{Args, Command};

/// Does what the arguments of this process say.
pub fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Version) = args.command {
        println!("{}", services::server::VERSION);
        return ExitCode::SUCCESS;
    }
    if let Some(done) = args.command.as_ref().and_then(fork::helper) {
        return exit(done);
    }
    if let Some(done) = args.command.as_ref().and_then(repair::run) {
        return exit(done);
    }
    if let Some(Command::Forkimage { kind, file }) = &args.command {
        return exit(match kind.as_str() {
            "busybox" => drivers::image::build::busybox(file),
            other => Err(api::Error::bad_request(format!("\"{other}\" can't be built: there is only busybox"))),
        });
    }
    let done = log(&args).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)))
            .enable_all()
            .build()
            .context("Starting the runtime")?;
        let done = runtime.block_on(run(&args));
        // What blocks, as an instance that takes its time to stop, is not waited for.
        runtime.shutdown_background();
        done
    });
    exit(done)
}

fn exit(done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("Error: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    let daemon = start::up(args).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut power = signal(SignalKind::from_raw(POWER))?;
    let served = async {
        start::settle(&daemon).await?;
        tracing::info!("serving");
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        failed = served => return failed,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = power.recv() => {
            start::finish_operations(&daemon).await;
            instances::boot::shut_down(&daemon).await;
        }
        () = daemon.stop.notified() => {}
    }
    tracing::info!("stopping");
    start::down(&daemon).await;
    Ok(())
}

/// SIGPWR, with which an init tells that the machine goes down.
const POWER: i32 = 30;

fn log(args: &Args) -> Result<()> {
    let level = match args {
        Args { debug: true, .. } => "debug",
        Args { verbose: true, .. } => "info",
        _ => "warn",
    };
    // The Raft library tells far more than a person wants to read.
    let filter = EnvFilter::try_from_env("INCUS_LOG").unwrap_or_else(|_| {
        EnvFilter::new(format!("{level},openraft=error,hyper=warn,rustls=warn,tokio_util=warn,mio=warn"))
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    match &args.logfile {
        Some(path) => {
            let file = std::fs::File::options().create(true).append(true).open(path);
            let file = file.context(format!("Opening the log file {}", path.display()))?;
            builder.with_writer(std::sync::Mutex::new(file)).init();
        }
        None if args.syslog => builder.with_writer(syslog()?).init(),
        None => builder.with_writer(std::io::stderr).init(),
    }
    Ok(())
}

/// Lines to the machine's syslog socket (RFC 3164: facility daemon, severity notice).
fn syslog() -> Result<impl for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static> {
    struct Line(std::sync::Arc<std::os::unix::net::UnixDatagram>);
    impl std::io::Write for Line {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            let mut message = format!("<29>incusd[{}]: ", std::process::id()).into_bytes();
            message.extend_from_slice(line.trim_ascii_end());
            self.0.send(&message)?;
            Ok(line.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket.connect("/dev/log").context("Connecting to syslog at /dev/log")?;
    let socket = std::sync::Arc::new(socket);
    Ok(move || Line(socket.clone()))
}
