//! One file per promise.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod background;
mod budgets;
mod carrying;
#[path = "../sim/chance.rs"]
mod chance;
mod children;
mod crash;
mod egress;
mod goals;
mod guides;
mod hours;
mod kills;
mod poison;
mod remembering;
mod replay;
mod rewinding;
mod rules;
mod schedules;
mod sessions;
mod tasks;
mod undo;
