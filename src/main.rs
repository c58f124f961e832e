//! The command line of palacekeeper.

use std::process::ExitCode;

fn main() -> ExitCode {
    palacekeeper::cli::main()
}
