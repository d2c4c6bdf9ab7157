//! One file per promise.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod background;
mod children;
mod crash;
mod egress;
mod goals;
mod hours;
mod poison;
mod remembering;
mod rewinding;
mod rules;
mod schedules;
mod sessions;
