//! One file per promise.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash;
mod sessions;
