//! One file per promise.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod background;
mod budgets;
mod carrying;
mod crash;
mod egress;
mod guides;
mod hours;
mod poison;
mod remembering;
mod replay;
mod rewinding;
mod rules;
mod sessions;
