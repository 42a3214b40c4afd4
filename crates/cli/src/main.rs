//! The program `incus`.

fn main() -> std::process::ExitCode {
    cli::main()
}
