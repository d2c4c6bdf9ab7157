//! How a driver reaches the children of its session: they are sessions like its own, which the agent keeps.

use async_trait::async_trait;

use crate::child::{Child, Returned};
use crate::{Error, SessionId};

/// The children of one session.
#[async_trait]
pub(crate) trait Family: Send + Sync {
    /// Begins a child, unless it was begun before, and tells what it has come to if it has ended. Doing so again after it was cut off
    /// begins no other one.
    async fn begin(&self, child: &Child) -> Result<Option<Returned>, Error>;

    /// Stops a child. It tells what it has come to when it has.
    async fn cancel(&self, child: &SessionId) -> Result<(), Error>;
}

/// The family of a session that is driven by itself.
pub(crate) struct Alone;

#[async_trait]
impl Family for Alone {
    async fn begin(&self, _: &Child) -> Result<Option<Returned>, Error> {
        Err(Error::BadRequest("sub-agents cannot be begun here".to_string()))
    }

    async fn cancel(&self, _: &SessionId) -> Result<(), Error> {
        Ok(())
    }
}
