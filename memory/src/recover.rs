//! Opening: what a crash left at the log's end is put aside, and the index is brought level with the log, or made anew.

use std::path::Path;

use crate::Error;
use crate::frame::{Frame, name_sum};
use crate::index::{Index, Item, Mark};
use crate::log::{Damage, HEADER, Log, Met, Place, Who, read_at, scan, tail_cut};

/// What opening found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Bytes that were never acknowledged and are now in a side file.
    pub(crate) dropped_tail_bytes: u64,
    /// Why the index was made anew, if it was.
    pub(crate) rebuilt: Option<String>,
    /// Damage in the part that was read, in words.
    pub(crate) damaged: Vec<String>,
}

/// Brings log and index level. The index is usable afterwards, whatever state it was in.
pub(crate) fn recover(log: &Log, index_dir: &Path) -> Result<(Index, Found), Error> {
    let mut found = Found::default();
    let mut durable = (0, 0);
    let opened = if index_dir.exists() { Index::open(index_dir) } else { Err("it was missing".into()) };
    let level = opened.and_then(|index| {
        let mark = index.catalog().mark.clone();
        match stale(log, &mark) {
            Some(reason) => {
                // Even an index that does not fit knows how far the log was durable, unless the log is shorter.
                let len = log.read().get(&mark.segment).map_or(0, |segment| segment.len);
                if len >= u64::from(mark.offset) {
                    durable = (mark.segment, mark.offset as usize);
                }
                Err(reason)
            }
            None => {
                refresh_rewritten(log, &index, &mark)?;
                durable = (mark.segment, mark.offset as usize);
                Ok(index)
            }
        }
    });
    let reason = match level {
        Ok(index) => match catch_up(log, &index, durable, &mut found) {
            Ok(()) => return Ok((index, found)),
            Err(Trouble::Index(reason)) => reason,
            Err(Trouble::Log(error)) => return Err(error),
        },
        Err(reason) => reason,
    };
    let cut = found.dropped_tail_bytes;
    found = Found { dropped_tail_bytes: cut, ..Found::default() };
    let index = Index::create(index_dir).map_err(Error::Index)?;
    match catch_up(log, &index, durable, &mut found) {
        Ok(()) => {}
        Err(Trouble::Index(reason)) => return Err(Error::Index(reason)),
        Err(Trouble::Log(error)) => return Err(error),
    }
    index.flush().map_err(Error::Index)?;
    let empty = index.catalog().mark.frame.is_none() && log.last_id() == 1;
    found.rebuilt = (!empty).then_some(reason);
    Ok((index, found))
}

/// Makes an index that turned out to be damaged while in use anew. Only the writer may call this: the log must rest.
/// `durable` is the last segment and its length.
pub(crate) fn rebuild(log: &Log, index: &Index, durable: (u32, usize)) -> Result<Found, Error> {
    index.empty().map_err(Error::Index)?;
    let mut found = Found::default();
    match catch_up(log, index, durable, &mut found) {
        Ok(()) => Ok(found),
        Err(Trouble::Index(reason)) => Err(Error::Index(reason)),
        Err(Trouble::Log(error)) => Err(error),
    }
}

enum Trouble {
    Index(String),
    Log(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Log(error)
    }
}

impl From<String> for Trouble {
    fn from(reason: String) -> Trouble {
        Trouble::Index(reason)
    }
}

/// Why this index cannot be brought level with this log by reading on; `None` when it can.
fn stale(log: &Log, mark: &Mark) -> Option<String> {
    let segments = log.read();
    if mark.segment == 0 {
        return Some("it was empty".into());
    }
    let Some(segment) = segments.get(&mark.segment) else {
        return Some(format!("it is ahead of the log, which has no segment {}", mark.segment));
    };
    if u64::from(mark.offset) > segment.len {
        return Some(format!(
            "it is ahead of the log: segment {} should have {} bytes and has {}",
            mark.segment, mark.offset, segment.len
        ));
    }
    let (offset, len, at_ms) = mark.frame?;
    let bytes = read_at(&segments, Place { segment: mark.segment, offset, len }).unwrap_or_default();
    match Frame::decode(&bytes) {
        Ok(frame) if (name_sum(frame.name), frame.seq) == mark.before && frame.at_ms == at_ms => None,
        _ => Some("its last record is not the log's".into()),
    }
}

/// Takes in segments that a purge rewrote without the index having kept up.
fn refresh_rewritten(log: &Log, index: &Index, mark: &Mark) -> Result<(), String> {
    let indexed = index.generations()?;
    let on_disk: Vec<(u32, u32)> =
        log.read().range(..=mark.segment).map(|(id, segment)| (*id, segment.generation)).collect();
    for (id, generation) in on_disk {
        match indexed.get(&id) {
            Some(known) if *known == generation => {}
            Some(_) if id < mark.segment => {
                let bytes = log.bytes(id, HEADER).map_err(|e| e.to_string())?;
                let met = scan(&bytes, HEADER as usize)
                    .map_err(|v| format!("segment {id} has a frame of version {v}"))?;
                index.move_segment(id, generation, &met)?;
            }
            _ => return Err(format!("it does not know segment {id} as it is")),
        }
    }
    Ok(())
}

/// Applies what the log has beyond the index's mark, and cuts off a torn tail. `durable` is a segment and how far it
/// was known to be durable.
fn catch_up(log: &Log, index: &Index, durable: (u32, usize), found: &mut Found) -> Result<(), Trouble> {
    log.sync_last()?;
    let mark = index.catalog().mark.clone();
    let last = log.last_id();
    let mut hanging: Option<(u32, Damage)> = None;
    for id in mark.segment.max(1)..=last {
        let Some(generation) = log.read().get(&id).map(|segment| segment.generation) else {
            found
                .damaged
                .push(format!("segment {id} is missing: its records are lost unless it is restored"));
            continue;
        };
        let from = if id == mark.segment { u64::from(mark.offset) } else { HEADER };
        if id != mark.segment {
            index.start_segment(id, generation)?;
        }
        let bytes = log.bytes(id, from)?;
        let too_new = |version: u8| Error::TooNew {
            path: log.path(id),
            found: version.into(),
            known: crate::frame::VERSION.into(),
        };
        let mut met = scan(&bytes, from as usize).map_err(too_new)?;
        let end = from as usize + bytes.len();
        if id == last {
            let known = if durable.0 == id { durable.1 } else { 0 };
            let cut = tail_cut(&met, end, known);
            if cut < end {
                log.cut(id, cut as u64, &bytes[cut - from as usize..])?;
                found.dropped_tail_bytes += (end - cut) as u64;
                met.retain(|met| match met {
                    Met::Frame { at, .. } => *at < cut,
                    Met::Damage(damage) => damage.at < cut,
                });
                log.write().get_mut(&id).expect("the last segment is in the map").len = cut as u64;
            }
        }
        let mut items = Vec::with_capacity(met.len() + 1);
        if let Some((segment, mut damage)) = hanging.take() {
            if let (Who::Nobody, Some(Met::Frame { frame, .. })) = (&damage.who, met.first()) {
                damage.who = Who::Sum(frame.before);
            }
            items.push(Item { segment, met: Met::Damage(damage) });
        }
        if let (Some(Met::Damage(_)), true) = (met.last(), id < last)
            && let Some(Met::Damage(damage)) = met.pop()
        {
            found.damaged.push(in_words(id, &damage));
            hanging = Some((id, damage));
        }
        for met in met {
            if let Met::Damage(damage) = &met {
                found.damaged.push(in_words(id, damage));
            }
            items.push(Item { segment: id, met });
        }
        index.apply(&items)?;
    }
    Ok(())
}

fn in_words(segment: u32, damage: &Damage) -> String {
    let whose = match &damage.who {
        Who::Name { name, seq, .. } if name.is_empty() => format!("note {seq}"),
        Who::Name { name, seq, .. } => format!("journal {name:?}, record {seq}"),
        Who::Sum(_) | Who::Nobody => "see the gaps in the journals".into(),
    };
    format!("segment {segment}, byte {}: {} damaged bytes ({whose})", damage.at, damage.len)
}
