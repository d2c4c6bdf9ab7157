//! The log: append-only segments of frames. It is the truth; everything else in the data folder can be made from it.
//!
//! A segment is `00000001.log`: a header of 32 bytes, then frames. Only the last segment grows; the others change only
//! when a purge rewrites one of them, which raises its generation.
//!
//! **Torn tails.** A write that a crash interrupted leaves anything at the end of the last segment, even a hole with
//! whole frames behind it. Each frame says how far the segment was durable when it was written (`durable`). Damage past
//! the largest such mark was never acknowledged and is cut off; damage before it was, and is reported for ever.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use crate::Error;
use crate::blobs::sync_dir;
use crate::frame::{Before, Broken, FRAME_BYTES_MAX, Frame, next_frame, u32_at};

/// A segment is closed when a write would take it past this. Small enough that rewriting one takes well under a second.
pub(crate) const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// The most bytes one batch may have: it must fit in a segment.
pub(crate) const BATCH_BYTES_MAX: usize = 48 * 1024 * 1024;
const _: () = assert!(BATCH_BYTES_MAX as u64 + HEADER < SEGMENT_BYTES && FRAME_BYTES_MAX < BATCH_BYTES_MAX);

/// The header's length.
pub(crate) const HEADER: u64 = 32;
const HEADER_MAGIC: [u8; 8] = *b"SAGALOG\n";
const FORMAT: u32 = 1;

/// Where a frame lies. With `len` 0 the frame is known to be lost, and the place is where the damage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// One file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) generation: u32,
    pub(crate) file: File,
    /// Bytes, for the closed ones. The last one's length is the writer's to know.
    pub(crate) len: u64,
}

/// All segments. Readers hold the read lock from the look-up of a place until its bytes are read; a purge takes the
/// write lock to put a rewritten segment and its new places in force together.
pub(crate) struct Log {
    pub(crate) dir: PathBuf,
    pub(crate) segments: RwLock<BTreeMap<u32, Segment>>,
}

/// What a scan meets.
#[derive(Debug)]
pub(crate) enum Met<'a> {
    Frame { at: usize, frame: Frame<'a> },
    Damage(Damage),
}

/// Bytes that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) at: usize,
    pub(crate) len: usize,
    pub(crate) who: Who,
}

/// Whose frame was damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// Its own head says so.
    Name { kind: crate::frame::Kind, name: String, seq: u64 },
    /// The frame after it says so.
    Sum(Before),
    /// Nothing says so. Gaps in the numbers may still tell.
    Nobody,
}

impl Log {
    /// Opens the folder's segments, making the first when there is none. Does not read frames.
    pub(crate) fn open(dir: &Path) -> Result<Log, Error> {
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
            let path = entry.map_err(|e| Error::io(dir, e))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with(".tmp") {
                // A segment that was being made or rewritten when the process ended; it was not in force yet.
                fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
            } else if let Some(id) = name.strip_suffix(".log").and_then(|stem| stem.parse::<u32>().ok()) {
                segments.insert(id, open_segment(&path)?);
            }
        }
        let log = Log { dir: dir.to_path_buf(), segments: RwLock::new(segments) };
        if log.last_id() == 0 {
            log.make(1)?;
        }
        Ok(log)
    }

    /// The number of the last segment; 0 while there is none.
    pub(crate) fn last_id(&self) -> u32 {
        self.read().last_key_value().map_or(0, |(id, _)| *id)
    }

    /// Bytes of all closed segments but the last.
    pub(crate) fn closed_bytes(&self) -> u64 {
        let segments = self.read();
        segments.iter().rev().skip(1).map(|(_, segment)| segment.len).sum()
    }

    /// The lock, for reading.
    pub(crate) fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<u32, Segment>> {
        self.segments.read().expect("no holder of the segments' lock panics")
    }

    /// The lock, to change which segments are in force.
    pub(crate) fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<u32, Segment>> {
        self.segments.write().expect("no holder of the segments' lock panics")
    }

    /// Where a segment lies.
    pub(crate) fn path(&self, id: u32) -> PathBuf {
        self.dir.join(format!("{id:08}.log"))
    }

    /// Makes an empty segment; it is durable when this returns.
    pub(crate) fn make(&self, id: u32) -> Result<(), Error> {
        let segment = self.put(id, &header(id, 0), 0)?;
        self.write().insert(id, segment);
        Ok(())
    }

    /// Puts `bytes` (header and frames) in the place of segment `id`, all or nothing over a crash.
    pub(crate) fn put(&self, id: u32, bytes: &[u8], generation: u32) -> Result<Segment, Error> {
        let (path, tmp) = (self.path(id), self.dir.join(format!("{id:08}.tmp")));
        let written = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&tmp)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()).map(|()| file))
            .and_then(|file| fs::rename(&tmp, &path).map(|()| file));
        let file = match written {
            Ok(file) => file,
            Err(e) => {
                // What could not be finished is of no use; should this fail too, the next open removes it.
                let _ = fs::remove_file(&tmp);
                return Err(Error::io(&path, e));
            }
        };
        sync_dir(&self.dir)?;
        Ok(Segment { generation, file, len: bytes.len() as u64 })
    }

    /// Closes the last segment, which holds `len` bytes, and makes the next. Returns its number.
    pub(crate) fn roll(&self, len: u64) -> Result<u32, Error> {
        let last = self.last_id();
        self.make(last + 1)?;
        self.write().get_mut(&last).expect("the last segment is in the map").len = len;
        Ok(last + 1)
    }

    /// The bytes of a segment from `from` on, as they are on disk now.
    pub(crate) fn bytes(&self, id: u32, from: u64) -> Result<Vec<u8>, Error> {
        let path = self.path(id);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(from))?;
                file.read_to_end(&mut bytes)
            })
            .map_err(|e| Error::io(&path, e))?;
        Ok(bytes)
    }

    /// Makes durable what the last segment holds: a process that was killed may not have come to it.
    pub(crate) fn sync_last(&self) -> Result<(), Error> {
        let segments = self.read();
        let (id, last) = segments.last_key_value().expect("a log has a last segment");
        last.file.sync_data().map_err(|e| Error::io(&self.path(*id), e))
    }

    /// Copies the end of a segment to a side file, then cuts it off. Both are durable when this returns.
    pub(crate) fn cut(&self, id: u32, from: u64, tail: &[u8]) -> Result<(), Error> {
        let dropped = self.dir.join("dropped");
        fs::create_dir_all(&dropped).map_err(|e| Error::io(&dropped, e))?;
        let side = (0..u32::MAX)
            .map(|n| dropped.join(format!("{id:08}-{from}-{n}.bytes")))
            .find(|path| !path.exists())
            .expect("a folder holds fewer files than that");
        File::create(&side)
            .and_then(|mut file| file.write_all(tail).and_then(|()| file.sync_all()))
            .map_err(|e| Error::io(&side, e))?;
        sync_dir(&dropped)?;
        let segments = self.read();
        let file = &segments.get(&id).expect("the caller scanned this segment").file;
        file.set_len(from).and_then(|()| file.sync_all()).map_err(|e| Error::io(&self.path(id), e))
    }

    /// Removes the side files of dropped tails: what is to be forgotten might be in them.
    pub(crate) fn remove_dropped(&self) -> Result<(), Error> {
        let dropped = self.dir.join("dropped");
        match fs::remove_dir_all(&dropped) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(&dropped, e)),
            _ => Ok(()),
        }
    }
}

/// The bytes at a place. `None` when the segment is not there or too short.
pub(crate) fn read_at(segments: &BTreeMap<u32, Segment>, place: Place) -> Option<Vec<u8>> {
    let mut bytes = vec![0; place.len as usize];
    segments.get(&place.segment)?.file.read_exact_at(&mut bytes, place.offset.into()).ok()?;
    Some(bytes)
}

/// A segment's first bytes.
pub(crate) fn header(id: u32, generation: u32) -> Vec<u8> {
    let mut bytes = HEADER_MAGIC.to_vec();
    for number in [FORMAT, id, generation, 0, 0] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(bytes.len() as u64, HEADER);
    bytes
}

fn open_segment(path: &Path) -> Result<Segment, Error> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| Error::io(path, e))?;
    let len = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let mut bytes = [0; HEADER as usize];
    let whole = file.read_exact_at(&mut bytes, 0).is_ok()
        && bytes[..8] == HEADER_MAGIC
        && u32_at(&bytes, 28) == crc32c::crc32c(&bytes[..28]);
    if whole && u32_at(&bytes, 8) != FORMAT {
        return Err(Error::TooNew { path: path.to_path_buf(), found: u32_at(&bytes, 8), known: FORMAT });
    }
    // A damaged header costs nothing but the generation: the frames behind it say all else. The odd generation only
    // makes the index look at the segment again.
    let generation = if whole { u32_at(&bytes, 16) } else { u32::MAX };
    Ok(Segment { generation, file, len })
}

/// Walks over a segment's bytes, of which the first lies at `base`. Every byte belongs to a frame or to a damage.
pub(crate) fn scan(bytes: &[u8], base: usize) -> Result<Vec<Met<'_>>, u8> {
    let mut met = Vec::new();
    let mut here = 0;
    while here < bytes.len() {
        let at = base + here;
        match Frame::decode(&bytes[here..]) {
            Ok(frame) => {
                if let Some(Met::Damage(Damage { who: who @ Who::Nobody, .. })) = met.last_mut() {
                    *who = Who::Sum(frame.before);
                }
                here += frame.len();
                met.push(Met::Frame { at, frame });
            }
            Err(Broken::TooNew(version)) => return Err(version),
            Err(Broken::Body { kind, name, seq, len }) if goes_on(bytes, here + len) => {
                met.push(Met::Damage(Damage { at, len, who: Who::Name { kind, name, seq } }));
                here += len;
            }
            Err(broken) => {
                let who = match broken {
                    Broken::Body { kind, name, seq, .. } => Who::Name { kind, name, seq },
                    Broken::Head | Broken::TooNew(_) => Who::Nobody,
                };
                let end = next_frame(bytes, here + 1).unwrap_or(bytes.len());
                met.push(Met::Damage(Damage { at, len: end - here, who }));
                here = end;
            }
        }
    }
    Ok(met)
}

/// Whether a frame with at least a whole head, or the end, is at `at`: then the length that led here was right.
fn goes_on(bytes: &[u8], at: usize) -> bool {
    at == bytes.len() || (at < bytes.len() && !matches!(Frame::decode(&bytes[at..]), Err(Broken::Head)))
}

/// Where the acknowledged part of the last segment ends, given all that was met from `start` on and what was known to
/// be durable before. Everything from there on was never acknowledged.
pub(crate) fn tail_cut(met: &[Met<'_>], end: usize, known_durable: usize) -> usize {
    let proven = met
        .iter()
        .filter_map(|met| match met {
            Met::Frame { frame, .. } => Some(frame.durable as usize),
            Met::Damage(_) => None,
        })
        .fold(known_durable, usize::max);
    let torn = met.iter().find_map(|met| match met {
        Met::Damage(damage) if damage.at >= proven => Some(damage.at),
        Met::Damage(_) | Met::Frame { .. } => None,
    });
    let mut cut = torn.unwrap_or(end);
    // A batch whose last frame is missing never happened.
    for met in met.iter().rev() {
        match met {
            Met::Frame { at, frame } if at + frame.len() == cut && *at >= proven && frame.batch_left > 0 => {
                cut = *at
            }
            Met::Frame { at, .. } if *at >= cut => {}
            Met::Damage(damage) if damage.at >= cut => {}
            Met::Frame { .. } | Met::Damage(_) => break,
        }
    }
    cut
}

/// The end of the log, where frames are appended. Only the writer has it.
pub(crate) struct End {
    pub(crate) segment: u32,
    pub(crate) len: u64,
    pub(crate) before: Before,
    file: File,
    path: PathBuf,
    stopped: Option<String>,
}

impl End {
    /// The end of the last segment, which is `len` bytes long; `before` is its last frame.
    pub(crate) fn open(log: &Log, len: u64, before: Before) -> Result<End, Error> {
        let segment = log.last_id();
        let path = log.path(segment);
        let segments = log.read();
        let file = segments.get(&segment).expect("a log has a last segment").file.try_clone();
        let file = file.map_err(|e| Error::io(&path, e))?;
        Ok(End { segment, len, before, file, path, stopped: None })
    }

    /// Writes whole frames at the end and makes them durable. On an error nothing of them is there.
    pub(crate) fn write(&mut self, frames: &[u8]) -> Result<(), Error> {
        if let Some(why) = &self.stopped {
            return Err(Error::Stopped(why.clone()));
        }
        let written = self.file.write_all_at(frames, self.len);
        let reached_disk = written.is_ok();
        let Err(e) = written.and_then(|()| self.file.sync_data()) else {
            self.len += frames.len() as u64;
            return Ok(());
        };
        // After a failed fsync nobody knows what the disk holds; only a lack of room is safe to go on from, since
        // the cut below removes all that was attempted.
        let error = Error::io(&self.path, e);
        if let Err(cut) = self.file.set_len(self.len).and_then(|()| self.file.sync_data()) {
            self.stopped = Some(format!("{error}; and cutting it back failed: {cut}"));
        } else if reached_disk && !matches!(error, Error::Full { .. }) {
            self.stopped = Some(error.to_string());
        }
        Err(error)
    }

    /// Goes on in a new segment.
    pub(crate) fn roll(&mut self, log: &Log) -> Result<(), Error> {
        log.roll(self.len)?;
        *self = End::open(log, HEADER, self.before)?;
        Ok(())
    }
}
