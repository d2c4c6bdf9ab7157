//! The `saga` command, built beside the tests that start it: a test can only name the programs of its own package.

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::maybe_become_helper();
    api::run()
}
