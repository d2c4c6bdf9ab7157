//! How much the workspace has grown in a session. The exact answer needs a walk through it, so it is asked for only when
//! the file system has lost room, or when it was long ago for what it costs.
//!
//! What bounds the growth between two counts: room is looked at every few milliseconds, which takes no walk and waits for no disk. As soon as
//! what was counted last and what the file system has lost since might together be too much, everything the command started stands
//! still while it is counted, and goes on only if it was not. So what a command gets beyond its share is what it can write between two looks,
//! plus what others on the file system give back meanwhile, which hides as much of a loss until the next count. Files that were deleted
//! while a process holds them open are looked for in the processes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};

use super::survey::{self, Then};
use super::sys;
use crate::Limits;

/// How many entries are counted at most.
const ENTRIES_MAX: u64 = 5_000_000;

/// Counting may take this share of the time, and is not done more often than the least: once in a while, and again at once while room comes
/// and goes, since what others free hides how much is lost.
const REST: u32 = 20;
const REST_LEAST: Duration = Duration::from_millis(300);
const REST_LEAST_MOVING: Duration = Duration::from_millis(20);

/// How long after a change of it room is looked at more often.
const MOVING: Duration = Duration::from_secs(1);

/// How long is waited for the count at a session's start when a command takes too much before it is there.
const START_WALL: Duration = Duration::from_secs(10);

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

    fn plus(self, other: Amount) -> Amount {
        Amount {
            bytes: self.bytes.saturating_add(other.bytes),
            files: self.files.saturating_add(other.files),
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

    /// Whether what the workspace held at the start has been counted.
    fn is_known(&self) -> bool {
        self.shared[KNOWN].load(Ordering::Acquire) != 0
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

/// Watches the growth during one command, from the first process of its pid namespace.
pub(super) struct Watch {
    account: Account,
    workspace: OwnedFd,
    /// How much it had grown when this command began: what was too much then is not this command's doing.
    before: Amount,
    counted: Instant,
    cost: Duration,
    free_then: Amount,
    /// What was there when it was counted last, and how much more that was than at the start.
    there_then: Amount,
    grown_then: Amount,
    /// Whether files that have no name any more were seen to take room.
    hides: bool,
    /// The room that was there at the last look, and when it was another.
    free_last: Amount,
    moved: Instant,
}

impl Watch {
    pub(super) fn begin(account: Account, workspace: &Path) -> io::Result<Watch> {
        let workspace = open(workspace)?;
        let free_then = free(&workspace)?;
        let before = account.get(GROWN);
        let there_then = account.get(START).plus(before);
        let (counted, cost) = (Instant::now(), Duration::ZERO);
        Ok(Watch {
            account,
            workspace,
            before,
            counted,
            cost,
            free_then,
            there_then,
            grown_then: before,
            hides: false,
            free_last: free_then,
            moved: counted,
        })
    }

    /// Whether the workspace has grown by more than it may, through this command.
    pub(super) fn is_full(&mut self) -> bool {
        let Ok(free) = free(&self.workspace) else { return false };
        if free != self.free_last {
            (self.free_last, self.moved) = (free, Instant::now());
        }
        let may = self.account.may;
        let lost = self.free_then.beyond(free);
        let enough = Amount { bytes: may.bytes / PART, files: may.files / PART };
        // One that began beyond the limit is there to delete, and is not stopped for each file that somebody else writes.
        let might = match self.before.exceeds(may) {
            true => lost.exceeds(enough),
            false => lost != Amount::default() && self.grown_then.plus(lost).exceeds(may),
        };
        let least = if free == self.free_then { REST_LEAST } else { REST_LEAST_MOVING };
        if !might && !lost.exceeds(enough) && self.counted.elapsed() <= (self.cost * REST).max(least) {
            return false;
        }
        if !might && !self.account.is_known() {
            return false;
        }
        if might {
            sys::signal_all(libc::SIGSTOP);
            let began = Instant::now();
            while !self.account.is_known() && began.elapsed() < START_WALL {
                thread::sleep(Duration::from_millis(5));
            }
        }
        let full = self.count(lost);
        if might && !full {
            sys::signal_all(libc::SIGCONT);
        }
        full
    }

    /// Whether room comes or goes, so that it is worth looking more often.
    pub(super) fn is_moving(&self) -> bool {
        self.moved.elapsed() < MOVING
    }

    fn count(&mut self, lost: Amount) -> bool {
        let began = Instant::now();
        let (now, whole) = count(&self.workspace);
        let free = free(&self.workspace).unwrap_or(self.free_then);
        let mut grown = now.beyond(self.account.get(START));
        if !whole || !self.account.is_known() {
            // Something hides from the count: then it is as much as the file system has lost.
            grown = grown.most(self.account.free_at_start.beyond(free));
        }
        let unseen = lost.bytes.saturating_sub(now.beyond(self.there_then).bytes);
        if self.hides || unseen > self.account.may.bytes / PART {
            let hidden = held_without_a_name(&self.workspace);
            self.hides = hidden > 0;
            grown.bytes = grown.bytes.saturating_add(hidden);
        }
        self.account.put(GROWN, grown);
        (self.counted, self.cost, self.free_then) = (Instant::now(), began.elapsed(), free);
        (self.there_then, self.grown_then) = (now, grown);
        grown.exceeds(self.account.may) && grown.exceeds(self.before)
    }
}

/// The room that is taken by files of the workspace's file system that were deleted, and that processes seen here still hold: open, or as
/// memory. Bytes.
fn held_without_a_name(workspace: &OwnedFd) -> u64 {
    const GONE: &str = " (deleted)";
    let Ok(device) = rustix::fs::fstat(workspace).map(|stat| stat.st_dev) else { return 0 };
    let named = format!("{:02x}:{:02x}", rustix::fs::major(device), rustix::fs::minor(device));
    let mut held: BTreeMap<u64, u64> = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers =
        processes.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
    for process in numbers.map(|entry| entry.path()) {
        for open in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            let path = open.path();
            if fs::read_link(&path)
                .is_ok_and(|to| to.as_os_str().as_encoded_bytes().ends_with(GONE.as_bytes()))
                && let Ok(file) = fs::metadata(&path)
                && file.dev() == device
            {
                held.insert(file.ino(), file.blocks() * 512);
            }
        }
        for line in fs::read_to_string(process.join("maps")).unwrap_or_default().lines() {
            // from-to permissions offset major:minor inode path
            let mut parts = line.split_ascii_whitespace();
            let (Some(range), Some(of), Some(inode)) = (parts.next(), parts.nth(2), parts.next()) else {
                continue;
            };
            if of != named {
                continue;
            }
            let ends = range
                .split_once('-')
                .map(|(from, to)| (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16)));
            let Some((Ok(from), Ok(to))) = ends else { continue };
            let inode: u64 = inode.parse().unwrap_or(0);
            if inode > 0 && line.ends_with(GONE) {
                held.entry(inode).or_insert(to.saturating_sub(from));
            }
        }
    }
    held.values().sum()
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
