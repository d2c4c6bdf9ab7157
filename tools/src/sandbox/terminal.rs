//! A terminal for a command that asks for one: a pair of the sandbox's own, between the command and the service's pipes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// As wide as a page of text, so that little is broken over lines.
const SIZE: Winsize = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };

/// What a terminal takes for the end of its input.
const END_OF_INPUT: &[u8] = &[4];

/// How much is passed on at once. A terminal holds 4 KiB.
const CHUNK_BYTES: usize = 16 << 10;

/// How often it reads before it lets others have their turn: a command may print for ever.
const ROUNDS: usize = 16;

/// Opens a terminal: this end, and the command's.
pub(super) fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let here = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&here)?;
    let there = rustix::pty::ioctl_tiocgptpeer(&here, flags)?;
    rustix::termios::tcsetwinsize(&there, SIZE)?;
    Ok((here, there))
}

/// Passes text on between a terminal and the pipes.
pub(super) struct Relay {
    here: OwnedFd,
    output: OwnedFd,
    input: Option<OwnedFd>,
    /// What the terminal has not taken yet.
    typed: Vec<u8>,
    open: bool,
}

impl Relay {
    pub(super) fn new(here: OwnedFd, output: OwnedFd, input: Option<OwnedFd>) -> io::Result<Relay> {
        for fd in [Some(&here), input.as_ref()].into_iter().flatten() {
            let flags = rustix::fs::fcntl_getfl(fd)?;
            rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
        }
        Ok(Relay { here, output, input, typed: Vec::new(), open: true })
    }

    /// What it is woken by.
    pub(super) fn waits_for(&self) -> impl Iterator<Item = PollFd<'_>> {
        let flags = if self.typed.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let here = self.open.then(|| PollFd::new(&self.here, flags));
        // No more is read from a pipe than the terminal takes.
        let input = self.input.as_ref().filter(|_| self.typed.is_empty());
        here.into_iter().chain(input.map(|input| PollFd::new(input, PollFlags::IN)))
    }

    /// Passes on what there is.
    pub(super) fn pass_on(&mut self) {
        let mut chunk = [0; CHUNK_BYTES];
        for _ in 0..ROUNDS {
            if !self.open {
                break;
            }
            match rustix::io::read(&self.here, &mut chunk) {
                Ok(count @ 1..) => self.open = write_all(&self.output, &chunk[..count]),
                Err(Errno::AGAIN | Errno::INTR) => break,
                // Nobody has the other end any more.
                Ok(0) | Err(_) => self.open = false,
            }
        }
        if self.typed.is_empty()
            && let Some(input) = &self.input
        {
            match rustix::io::read(input, &mut chunk) {
                Ok(count @ 1..) => self.typed.extend_from_slice(&chunk[..count]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(0) | Err(_) => {
                    self.typed.extend_from_slice(END_OF_INPUT);
                    self.input = None;
                }
            }
        }
        if !self.typed.is_empty() {
            match rustix::io::write(&self.here, &self.typed) {
                Ok(count) => drop(self.typed.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.typed.clear(),
            }
        }
    }
}

/// Writes all of it, waiting for the service to read. `false` when nobody reads any more.
fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(to.as_fd(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}
