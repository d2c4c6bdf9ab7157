//! The file helper: a child of the anchor's that does one file operation in the workspace and ends. It may open files
//! below the workspace and nothing else: no program, no socket, no other folder. So a mistake about a path in the
//! operation cannot become an escape.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use super::anchor::Session;
use super::confine::Purpose;
use super::sys;
use super::wire;
use crate::files::{Answer, Request, Workspace};

/// How long one operation may take, whatever it meets. Seconds.
pub(super) const WALL_SECS: u32 = 30;

/// Does the one operation that comes over the channel. Never returns.
pub(super) fn main(session: Session, channel: OwnedFd, output: Option<OwnedFd>) -> ! {
    let channel = UnixStream::from(channel);
    let answer = match work(session, &channel, output) {
        Ok(answer) => Ok(answer),
        Err(error) => Err(error.to_string()),
    };
    // If the service has let go, nobody waits for this word.
    let sent: io::Result<()> = wire::send(&channel, &answer);
    sys::exit(i32::from(sent.is_err()))
}

fn work(session: Session, channel: &UnixStream, output: Option<OwnedFd>) -> io::Result<Answer> {
    let request: Request = wire::receive(channel)?;
    sys::alarm(WALL_SECS);
    let workspace = Workspace::open(&session.setup.workspace, session.secrets, output.map(Into::into))?;
    let purpose = match &request {
        Request::Inventory(_) => Purpose::Listing,
        request if request.writes() => Purpose::Writing,
        _ => Purpose::Reading,
    };
    session.confinement.apply(purpose, &session.setup.limits, session.memory_is_limited)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(request.perform(&workspace))
}
