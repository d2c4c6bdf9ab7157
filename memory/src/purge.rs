//! Purging: the bytes of what was deleted or forgotten leave the log.
//!
//! The tombstone is durable before a purge begins, so a purge that a crash cuts short is taken up at the next open.
//! Each affected segment is written anew beside the old one, made durable, and renamed over it: at every moment the
//! folder holds one whole version of each segment.

use crate::Error;
use crate::frame::{Frame, name_sum};
use crate::index::Pending;
use crate::log::{HEADER, Log, Met, Who, header, scan};
use crate::memory::Shared;

/// Carries out every deletion that is pending. When it returns, their bytes are gone from the log.
pub(crate) fn purge(shared: &Shared) -> Result<(), Error> {
    let _one_at_a_time = shared.purging.lock().expect("no holder of the purge lock panics");
    let pending = shared.index.catalog().pending.clone();
    if pending.is_empty() {
        return Ok(());
    }
    // The tombstones must be in the index on disk before a segment changes: the other way round, the next open would
    // take the rewritten segment's places without knowing which frames are dead.
    shared.index.flush().map_err(Error::Index)?;
    let segments: std::collections::BTreeSet<u32> =
        pending.iter().flat_map(|pending| pending.segments.iter().copied()).collect();
    for id in segments {
        rewrite(shared, id, &pending)?;
    }
    // Dropped tails cannot be read well enough to tell whose they were, and nothing in them was ever acknowledged.
    shared.log.remove_dropped()?;
    for pending in &pending {
        shared.index.settle(pending).map_err(Error::Index)?;
    }
    shared.index.flush().map_err(Error::Index)
}

/// Writes one segment anew without the frames that are meant.
fn rewrite(shared: &Shared, id: u32, pending: &[Pending]) -> Result<(), Error> {
    let log: &Log = &shared.log;
    let Some(generation) = log.read().get(&id).map(|segment| segment.generation) else {
        return Ok(());
    };
    assert!(id < log.last_id(), "the writer closes a segment before what is in it is purged");
    let bytes = log.bytes(id, HEADER)?;
    let met = scan(&bytes, HEADER as usize).map_err(|version| Error::TooNew {
        path: log.path(id),
        found: version.into(),
        known: crate::frame::VERSION.into(),
    })?;
    let generation = generation.wrapping_add(1);
    let mut out = header(id, generation);
    out.reserve(bytes.len());
    let mut before = None;
    for met in &met {
        match met {
            Met::Frame { at, frame } => {
                let dead = |p: &Pending| p.means(frame.kind, frame.name, frame.seq, id, *at);
                if pending.iter().any(dead) {
                    continue;
                }
                Frame { before: before.unwrap_or(frame.before), ..frame.clone() }.encode(&mut out);
                before = Some((name_sum(frame.name), frame.seq));
            }
            Met::Damage(damage) => {
                if let Who::Name { kind, name, seq } = &damage.who
                    && pending.iter().any(|p| p.means(*kind, name, *seq, id, damage.at))
                {
                    continue;
                }
                // Damaged bytes of others stay as they are, so that they are still reported, and might be mended by hand.
                let from = damage.at - HEADER as usize;
                out.extend_from_slice(&bytes[from..from + damage.len]);
                before = None;
            }
        }
    }
    let met = scan(&out[HEADER as usize..], HEADER as usize).expect("it was scanned before");
    let (old, new) = (bytes.len() as u64 + HEADER, out.len() as u64);
    let mut segments = log.write();
    let segment = log.put(id, &out, generation)?;
    segments.insert(id, segment);
    shared.index.move_segment(id, generation, &met).map_err(Error::Index)?;
    drop(segments);
    // Adding the difference modulo 2⁶⁴ subtracts, should the segment have shrunk, as it nearly always has.
    shared.bytes.fetch_add(new.wrapping_sub(old), std::sync::atomic::Ordering::Relaxed);
    Ok(())
}
