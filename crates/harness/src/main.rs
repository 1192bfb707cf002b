//! `parity-check`: see `harness::cli` for the command line and `harness::exit` for the exit codes.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    harness::cli::main(std::env::args_os()).into()
}
