//! The `saga` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Sandboxes start this binary again as their helper, which must not begin as anything else.
    tools::maybe_become_helper();
    api::run()
}
