//! Minds: what thinks. Today the embedded engine; a cluster behind an HTTP API is another file beside it.

mod local;

pub use local::LocalMind;
pub(crate) use local::weigh;
