//! Minds: what thinks. The embedded engine, or a server somewhere else.

mod local;
pub mod remote;

pub use local::LocalMind;
pub(crate) use local::weigh;
pub use remote::{Remote, RemoteMind};
