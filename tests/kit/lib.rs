//! What tests share: a small real world for the agent, with a scripted mind and a power switch; a mind behind an API; and the service as a
//! process that can be killed.

mod elsewhere;
mod saga;
mod stage;

pub use elsewhere::{Elsewhere, Saying};
pub use saga::{PATIENCE, Saga, ask};
pub use stage::{Files, Ran, Script, Stage, Theatre, asks, call, says, thinks};
