//! The Model Context Protocol, from both sides: the servers whose tools sessions may use (`config.rs`), and this service as a
//! server that other agents use (`mouth.rs`, over standard streams or at `/mcp`). <https://modelcontextprotocol.io/specification>
//!
//! As a server it is a thin client of the HTTP API: every tool is a request that its user could have made, with the user's own
//! key, so that what they may see is decided where it always is.

pub(crate) mod config;
mod mount;
mod mouth;
mod tools;
mod waiting;

pub use mount::{mount, speak};
pub(crate) use mouth::{Mouth, Way};
