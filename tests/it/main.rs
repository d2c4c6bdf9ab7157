//! One file per promise.

mod crash;
mod sessions;
