//! The binary: everything is in the library, where tests, benches and fuzz targets can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    chat::cli::main()
}
