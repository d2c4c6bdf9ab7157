//! File operations in the workspace, as they run inside the sandbox.

mod workspace;

pub(crate) use workspace::Workspace;

use serde::{Deserialize, Serialize};

/// The largest text one call may write. Bytes. A model's reply is far smaller.
pub(crate) const WRITE_BYTES_MAX: usize = 4 << 20;
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Read,
}
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {}
impl Answer {
    pub(crate) fn stopped() -> Answer {
        Answer {}
    }
}
impl Request {
    pub(crate) fn writes(&self) -> bool {
        false
    }
    pub(crate) fn perform(&self, _: &Workspace) -> Answer {
        Answer {}
    }
}
