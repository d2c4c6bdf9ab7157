//! What the service and its helper say to each other: length-prefixed JSON frames over socket pairs, and single bytes
//! that carry descriptors. No path leads to any of these sockets; each end was inherited or passed.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Layer;
use crate::Limits;
use crate::egress::Inside;
use crate::files;

/// The helper's argv[0]: what tells a helper from a `saga` that somebody started.
pub(super) const HELPER: &str = "saga-sandbox-helper:anchor";

/// The largest frame. A written file's text is the largest thing in one; twice its cap, since JSON escapes.
pub(super) const FRAME_BYTES_MAX: usize = 2 * files::WRITE_BYTES_MAX + (1 << 20);

/// The first thing the helper sends, so that a binary that is no helper is told at once.
pub(super) const HELLO: u8 = b'H';

/// What carries the listener for the session's proxy from the anchor to the service.
pub(super) const LISTENER: u8 = b'n';

/// A host path shown inside, at the same place unless `at` says otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Shown {
    pub(super) host: PathBuf,
    pub(super) at: PathBuf,
}

/// Service → keeper: everything a sandbox is built from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) workspace: PathBuf,
    /// Whether it can only be read.
    #[serde(default)]
    pub(super) frozen: bool,
    /// The gVisor that commands run in, where they do.
    #[serde(default)]
    pub(super) runsc: Option<PathBuf>,
    pub(super) limits: Limits,
    pub(super) read_only: Vec<Shown>,
    /// Complete environment of a command, before its own additions.
    pub(super) env: Vec<(String, String)>,
    /// What comes with a way out, where the operator opens one.
    pub(super) egress: Option<Inside>,
    /// Patterns of names that are secrets.
    pub(super) secrets: Vec<String>,
    pub(super) lowered: Vec<String>,
    /// Report every layer and go on where that is possible, instead of refusing at the first that is missing.
    pub(super) probing: bool,
}

/// Keeper or anchor → service: how the setup went.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The sandbox is open. With `listens`, [`LISTENER`] follows, and the listener of its proxy with it.
    Ready { layers: Vec<Layer>, cgroup: Option<super::cgroup::Place>, listens: bool },
    /// A layer does not hold and may not be missing. `layers` are those tried before it.
    Missing { layers: Vec<Layer>, layer: Layer },
    /// Something else failed.
    Failed { what: String },
}

/// What kind of child the anchor forks for a job; also says which descriptors come along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A command: channel, output.
    Command,
    /// A command with standard input: channel, output, input.
    CommandWithInput,
    /// A command that the service talks with: channel, output, input, standard error.
    Wired,
    /// A file operation: channel.
    Files,
    /// A file operation on the kept output of a command: channel, output.
    FilesWithOutput,
}

impl Kind {
    pub(super) fn byte(self) -> u8 {
        match self {
            Kind::Command => b'c',
            Kind::CommandWithInput => b'i',
            Kind::Wired => b'w',
            Kind::Files => b'f',
            Kind::FilesWithOutput => b'o',
        }
    }

    pub(super) fn of(byte: u8) -> Option<Kind> {
        let kinds = [Kind::Command, Kind::CommandWithInput, Kind::Wired, Kind::Files, Kind::FilesWithOutput];
        kinds.into_iter().find(|kind| kind.byte() == byte)
    }

    pub(super) fn descriptors(self) -> usize {
        match self {
            Kind::Command | Kind::FilesWithOutput => 2,
            Kind::CommandWithInput => 3,
            Kind::Wired => 4,
            Kind::Files => 1,
        }
    }
}

/// Service → command's init, over the job's channel. What follows it there are single bytes: signals for the command.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) argv: Vec<String>,
    pub(super) cwd: Option<String>,
    pub(super) env: Vec<(String, String)>,
    /// Whether its streams are a terminal of its own.
    pub(super) tty: bool,
}

/// Command's init → service: the main process has ended. When others are left, the channel stays open while they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Word {
    pub(super) status: Status,
    /// Whether no other process of the command is left.
    pub(super) alone: bool,
}

/// How a command's main process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Status {
    Exited(i32),
    Signalled(i32),
    NotStarted(String),
    /// The watchdog saw more memory in use than the session may have (used where no cgroup limits it).
    OutOfMemory,
    /// The watchdog saw the workspace grow by more than it may in one session.
    WorkspaceFull,
    /// The sandbox could not confine the command, so it was not run.
    Broken(String),
}

pub(super) fn send<T: Serialize>(mut to: impl Write, message: &T) -> io::Result<()> {
    to.write_all(&frame(message)?)
}

/// A message as one frame: four bytes of length, little-endian, then JSON.
pub(super) fn frame<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too large"));
    }
    let length = u32::try_from(length).expect("the largest frame fits 32 bits");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

pub(super) fn receive<T: DeserializeOwned>(mut from: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = checked_length(length)?;
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&bytes)?)
}

pub(super) fn checked_length(prefix: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the frame is too large"));
    }
    Ok(length)
}

/// The most descriptors one job brings.
const DESCRIPTORS_MAX: usize = 4;

/// Sends one byte with descriptors. A stream socket keeps the bytes of different sends apart when descriptors ride on them.
pub(super) fn send_with(socket: impl AsFd, byte: u8, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(
        control.push(SendAncillaryMessage::ScmRights(fds)),
        "the buffer holds the most descriptors a job brings"
    );
    rustix::net::sendmsg(socket, &[IoSlice::new(&[byte])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one byte with its descriptors; `None` at the end of the stream.
pub(super) fn receive_with(socket: impl AsFd) -> io::Result<Option<(u8, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let got = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(Some((byte[0], fds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_out_as_it_went_in() {
        // The two sides share this file and nothing else, so what one writes the other must read.
        let status = Status::NotStarted("no such program: \"ü\"".to_owned());
        let bytes = frame(&status).unwrap();
        assert_eq!(receive::<Status>(bytes.as_slice()).unwrap(), status);
        assert!(receive::<Status>(&bytes[..bytes.len() - 1]).is_err(), "a cut frame is an error");
        assert!(receive::<Status>([255, 255, 255, 255].as_slice()).is_err(), "a huge length is an error");
    }
}
