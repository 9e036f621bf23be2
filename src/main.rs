//! The `postlog` program. `postlog --help` teaches it.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match postlog::main(postlog::cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            // Standard error may be closed; the exit code still tells.
            let _ = writeln!(std::io::stderr(), "postlog: {error:#}");
            ExitCode::FAILURE
        }
    }
}
