//! The `saga` command.

fn main() {}
