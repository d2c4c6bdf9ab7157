//! What tests share: a small real world for the agent, with a scripted mind and a power switch.

mod stage;

pub use stage::{Files, Ran, Script, Stage, Theatre, asks, call, says, thinks};
