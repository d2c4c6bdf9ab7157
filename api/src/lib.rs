//! Speaks: the `saga` command, the HTTP API and everything a person sees. Holds no state of its own.
//!
//! [`router`] is the HTTP API over a [`Service`]; [`serve`] serves it; [`run`] is the `saga` command, which reaches its
//! sessions through the same HTTP API.

mod auth;
mod carrying;
mod checkpoints;
mod code;
mod config;
mod context;
mod egress;

mod error;
mod goals;
mod health;
pub mod mcp;
mod memories;
mod metrics;
mod routes;
mod schedules;
mod sessions;
mod stream;
mod telemetry;
mod tenants;
mod wire;

mod failure;
mod server;
mod service;

mod cli;
mod client;
mod diff;
mod host;

#[cfg(test)]
mod tests;

mod models;
mod show;
mod term;
pub use auth::{Auth, Key, KeyHash};
pub use cli::run;
pub use config::{Config, Folders};
pub use error::Problem;
pub use failure::Failure;
pub use routes::router;
pub use server::serve;
pub use service::{Readiness, Service, Switches};
