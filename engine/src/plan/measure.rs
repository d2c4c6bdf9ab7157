//! How fast this machine moves bytes: from memory through the engine's products, and from a disk around its cache.
//!
//! Both are bounded: a quarter of a gigabyte for each kind of weights, a gigabyte of a file and three seconds.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Shape;
use crate::Error;
use crate::crew::Crew;
use crate::kernels::{Input, Kernels, Product, multiply};
use crate::weights::{Bytes, Kind, Matrix};

/// Bytes of weights that are multiplied with, far more than any cache holds, and how often. The fastest pass counts:
/// others were disturbed.
const RAM_BYTES: usize = 256 << 20;
const RAM_PASSES: usize = 3;
/// The width of a model of middle size; a whole number of blocks of every kind.
const COLUMNS: usize = 4096;
/// Bytes of a file that are read at most, and for how long.
const DISK_BYTES: u64 = 1 << 30;
const DISK_TIME: Duration = Duration::from_secs(3);
/// What is asked for at once: about an expert's matrix.
const PIECE: usize = 2 << 20;
/// How many ask at once: enough to keep a solid-state disk busy.
const READERS: usize = 8;
/// A file of less than this says more of the way to the disk than of the disk.
const FILE_BYTES_MIN: u64 = 8 << 20;
/// What addresses in files and in memory are multiples of when the system's cache is gone around.
const ALIGNMENT: usize = 4096;

/// Bytes of weights per second that `threads` threads multiply a token with; 0 means one per physical core, as the
/// engine does it. Every kind of weights of the shape counts as much as a token reads of it.
///
/// # Errors
/// [`Error::Option`] if so many threads cannot be started.
pub fn ram_bytes_per_s(shape: &Shape, threads: usize) -> Result<f64, Error> {
    let kernels = Kernels::pick()?;
    let threads = if threads == 0 { crate::engine::physical_cores() } else { threads };
    let crew = Crew::new(threads).map_err(|e| Error::Option(format!("{threads} threads: {e}")))?;
    // A machine that has little left is not to be pushed over the edge.
    let available = crate::engine::available_memory().unwrap_or(u64::MAX) / 4;
    let bytes = RAM_BYTES.min(usize::try_from(available).unwrap_or(usize::MAX)).max(16 << 20);
    let kinds = &shape.sizes.kinds;
    let total = kinds.values().sum::<u128>() as f64;
    let mut seconds = 0.0;
    for (&kind, &share) in kinds {
        // What hardly counts is not worth the wait.
        if share as f64 > 0.01 * total {
            seconds += share as f64 / crew.lead(|| product(kernels, kind, bytes));
        }
    }
    Ok(if seconds > 0.0 { total / seconds } else { crew.lead(|| product(kernels, Kind::F32, bytes)) })
}

/// Bytes per second of products of one token with weights of a kind.
fn product(kernels: Kernels, kind: Kind, bytes: usize) -> f64 {
    let row = COLUMNS / kind.block() * kind.block_bytes();
    let rows = bytes / row;
    // Not zeros, of which all pages would be one; as scales these bytes are small numbers.
    let weights: Bytes = Arc::new(vec![0x11_u8; rows * row]);
    let matrix = Matrix::new(weights, 0, rows, COLUMNS, kind);
    let token: Vec<f32> = (0..COLUMNS).map(|i| (i % 17) as f32 - 8.0).collect();
    let mut input = Input::default();
    input.set(kernels, &token, COLUMNS, &[kind]);
    let mut to = vec![0.0; rows];
    let pass = |_| {
        let start = Instant::now();
        multiply(kernels, &mut [Product { input: &input, matrix: &matrix, to: &mut to }]);
        (rows * row) as f64 / start.elapsed().as_secs_f64().max(1e-9)
    };
    (0..RAM_PASSES).map(pass).fold(0.0, f64::max)
}

/// Bytes per second that can be read of the file at `path` when none of it is in memory.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Option`] if it is too small to say anything.
pub fn disk_bytes_per_s(path: &Path) -> Result<f64, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length < FILE_BYTES_MIN {
        return Err(Error::Option(format!(
            "{} is too small to measure a disk with; say how fast it is, or name a larger file",
            path.display()
        )));
    }
    // Read from end to end, in pieces that lie evenly over the file if it is large.
    let pieces = length.min(DISK_BYTES) / PIECE as u64;
    let stride = length / pieces.max(1) / PIECE as u64 * PIECE as u64;
    let (next, read) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    let reader = || -> std::io::Result<()> {
        let mut file = uncached(path)?;
        let mut buffer = vec![0_u8; PIECE + ALIGNMENT];
        let shift = buffer.as_ptr().align_offset(ALIGNMENT);
        let to = &mut buffer[shift..shift + PIECE];
        while start.elapsed() < DISK_TIME {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                break;
            }
            let at = piece * stride;
            forget(&file, at);
            file.seek(SeekFrom::Start(at))?;
            let mut done = 0;
            while done < PIECE {
                match file.read(&mut to[done..])? {
                    0 => break,
                    n => done += n,
                }
            }
            read.fetch_add(done as u64, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(reader)).collect();
        readers.into_iter().try_for_each(|reader| reader.join().expect("a reader does not panic"))
    })
    .map_err(io)?;
    Ok(read.into_inner() as f64 / start.elapsed().as_secs_f64().max(1e-9))
}

/// The file, around the system's cache if its file system allows that.
fn uncached(path: &Path) -> std::io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::DIRECT.bits();
        if let Ok(flags) = i32::try_from(flags)
            && let Ok(file) = File::options().read(true).custom_flags(flags).open(path)
        {
            return Ok(file);
        }
    }
    File::open(path)
}

/// Has the system drop a piece from its cache, which matters where the cache cannot be gone around.
fn forget(file: &File, at: u64) {
    #[cfg(target_os = "linux")]
    {
        let bytes = std::num::NonZeroU64::new(PIECE as u64);
        // Advice only.
        let _ = rustix::fs::fadvise(file, at, bytes, rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, at);
}
