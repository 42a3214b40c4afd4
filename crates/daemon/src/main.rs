//! The program `incusd`.

fn main() -> std::process::ExitCode {
    daemon::main()
}
