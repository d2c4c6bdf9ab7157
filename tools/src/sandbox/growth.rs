//! How much the workspace has grown in a session. The exact answer needs a walk through it, so it is asked for only when
//! the file system has lost room, or when it was long ago for what it costs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};

use super::survey::{self, Then};
use super::sys;
use crate::Limits;

/// How many entries are counted at most.
const ENTRIES_MAX: u64 = 5_000_000;

/// Counting may take this share of the time, and is not done more often than the least. What others free meanwhile hides how much room
/// is lost, and a fast disk takes more than a gigabyte in a second.
const REST: u32 = 20;
const REST_LEAST: Duration = Duration::from_millis(300);

/// Room that the file system loses before the workspace is counted again, as a part of what the session may take.
const PART: u64 = 16;

/// A number of bytes and one of files.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Amount {
    bytes: u64,
    files: u64,
}

impl Amount {
    fn beyond(self, other: Amount) -> Amount {
        Amount {
            bytes: self.bytes.saturating_sub(other.bytes),
            files: self.files.saturating_sub(other.files),
        }
    }

    fn most(self, other: Amount) -> Amount {
        Amount { bytes: self.bytes.max(other.bytes), files: self.files.max(other.files) }
    }

    fn exceeds(self, other: Amount) -> bool {
        self.bytes > other.bytes || self.files > other.files
    }
}

/// What the processes of a session know in common: what the workspace held at its start, and how much more it held when
/// it was counted last.
#[derive(Clone)]
pub(super) struct Account {
    shared: &'static [AtomicU64; sys::SHARED],
    free_at_start: Amount,
    may: Amount,
}

/// The places in the shared memory.
const KNOWN: usize = 0;
const START: [usize; 2] = [1, 2];
const GROWN: [usize; 2] = [3, 4];
const LOOK_MICROS: usize = 5;

impl Account {
    /// For a session that begins: nothing has been counted yet.
    pub(super) fn open(workspace: &Path, limits: &Limits) -> io::Result<Account> {
        let free_at_start = free(&open(workspace)?)?;
        let may = Amount { bytes: limits.workspace_bytes, files: limits.workspace_files };
        Ok(Account { shared: sys::shared_memory()?, free_at_start, may })
    }

    /// Counts what the workspace holds at the start.
    pub(super) fn count_start(&self, workspace: &Path) -> io::Result<()> {
        let (amount, _) = count(&open(workspace)?);
        self.put(START, amount);
        self.shared[KNOWN].store(1, Ordering::Release);
        Ok(())
    }

    /// Notes what a look for secrets has cost, which tells when the next is due.
    pub(super) fn note_look(&self, cost: Duration) {
        let micros = u64::try_from(cost.as_micros()).unwrap_or(u64::MAX);
        self.shared[LOOK_MICROS].store(micros, Ordering::Release);
    }

    /// What the last look for secrets has cost.
    pub(super) fn look_cost(&self) -> Duration {
        Duration::from_micros(self.shared[LOOK_MICROS].load(Ordering::Acquire))
    }

    fn get(&self, at: [usize; 2]) -> Amount {
        let [bytes, files] = at.map(|at| self.shared[at].load(Ordering::Acquire));
        Amount { bytes, files }
    }

    fn put(&self, at: [usize; 2], amount: Amount) {
        self.shared[at[0]].store(amount.bytes, Ordering::Release);
        self.shared[at[1]].store(amount.files, Ordering::Release);
    }
}

/// Watches the growth during one command.
pub(super) struct Watch {
    account: Account,
    workspace: OwnedFd,
    /// How much it had grown when this command began: what was too much then is not this command's doing.
    before: Amount,
    counted: Instant,
    cost: Duration,
    free_then: Amount,
}

impl Watch {
    pub(super) fn begin(account: Account, workspace: &Path) -> io::Result<Watch> {
        let workspace = open(workspace)?;
        let free_then = free(&workspace)?;
        let before = account.get(GROWN);
        Ok(Watch { account, workspace, before, counted: Instant::now(), cost: Duration::ZERO, free_then })
    }

    /// Whether the workspace has grown by more than it may, through this command.
    pub(super) fn is_full(&mut self) -> bool {
        let Ok(free) = free(&self.workspace) else { return false };
        let may = self.account.may;
        let enough = Amount { bytes: may.bytes / PART, files: may.files / PART };
        let due = self.free_then.beyond(free).exceeds(enough)
            || self.counted.elapsed() > (self.cost * REST).max(REST_LEAST);
        if !due || self.account.shared[KNOWN].load(Ordering::Acquire) == 0 {
            return false;
        }
        let began = Instant::now();
        let (now, whole) = count(&self.workspace);
        let mut grown = now.beyond(self.account.get(START));
        if !whole {
            // Something hides from the count: then it is as much as the file system has lost.
            grown = grown.most(self.account.free_at_start.beyond(free));
        }
        self.account.put(GROWN, grown);
        (self.counted, self.cost, self.free_then) = (Instant::now(), began.elapsed(), free);
        grown.exceeds(may) && grown.exceeds(self.before)
    }

    /// Whether it is worth looking more often.
    pub(super) fn is_near(&self) -> bool {
        let half = Amount { bytes: self.account.may.bytes / 2, files: self.account.may.files / 2 };
        self.account.get(GROWN).exceeds(half)
    }
}

fn open(workspace: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(workspace, flags, Mode::empty())?)
}

fn free(workspace: &OwnedFd) -> io::Result<Amount> {
    let found = rustix::fs::fstatvfs(workspace)?;
    Ok(Amount { bytes: found.f_bfree.saturating_mul(found.f_frsize), files: found.f_ffree })
}

/// What a workspace holds on disk, and whether all of it was seen. A file with several names counts for each.
fn count(workspace: &OwnedFd) -> (Amount, bool) {
    let mut amount = Amount::default();
    let whole = survey::go_through(workspace, ENTRIES_MAX, &mut |entry| {
        amount.files += 1;
        // Links and the like take next to nothing.
        if matches!(entry.kind, FileType::RegularFile | FileType::Directory)
            && let Some(stat) = entry.stat()
        {
            amount.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        Then::Enter
    });
    (amount, whole)
}
