//! One file per promise.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod background;
#[path = "../sim/chance.rs"]
mod chance;
mod children;
mod crash;
mod egress;
mod goals;
mod hours;
mod kills;
mod poison;
mod remembering;
mod rewinding;
mod rules;
mod schedules;
mod sessions;
mod tasks;
mod undo;
