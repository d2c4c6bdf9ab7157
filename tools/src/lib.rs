//! Acts: the tools a model may call and the sandbox they run in.
//!
//! A [`Toolbox`] holds the [`Tool`]s; a [`Call`] names one and comes back as an [`Outcome`] the model can read, also when
//! it failed. [`Error`] means that the sandbox itself failed. Everything a tool does to files or processes happens inside
//! a [`Sandbox`], opened under a [`Policy`] and kept for a session.
//!
//! A binary that opens sandboxes calls [`maybe_become_helper`] as the first line of its `main`: the sandbox starts the
//! same binary again as its helper, with nothing inherited.

#[cfg(not(target_os = "linux"))]
compile_error!("the sandbox is built on Linux namespaces, Landlock and seccomp; saga runs on Linux only");

mod arguments;
pub mod attack;
mod builtin;
pub mod checkpoint;
pub mod egress;
mod error;
mod files;
pub mod mcp;
pub mod outline;
mod output;
mod policy;
pub mod rules;
mod sandbox;
mod secrets;
pub mod sources;
mod spec;
mod tool;
mod toolbox;

pub use error::Error;
pub use policy::{Backend, Limits, Policy};
pub use sandbox::{
    Command, Ended, Exit, Layer, Ran, Running, Sandbox, maybe_become_helper, probe, probe_runsc,
};
pub use spec::{Bound, Call, Outcome, Reach, Replay, Spec, To};
pub use tool::Tool;
pub use toolbox::Toolbox;
