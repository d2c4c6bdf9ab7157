//! A frame: one record as it lies in the log, with its length, version and checksums.
//!
//! ```text
//!  0  magic        4   f5 's' 'g' 01; f5 is in no UTF-8 text, so looking for the next frame seldom stops in a body
//!  4  version      1
//!  5  kind         1   see Kind
//!  6  name_len     1   journal's name; 0 for a note
//!  7  key_len      1   idempotency key; 0 for none
//!  8  body_len     4
//! 12  batch_left   4   frames of the same batch still to come: a batch counts only once its last frame is there
//! 16  durable      4   how far the segment had been fsynced when this frame was written (see log.rs, torn tails)
//! 20  before_name  4   crc32c of the name in the frame before this one …
//! 24  before_seq   8   … and its number: they name that frame should its own head be destroyed
//! 32  seq          8
//! 40  at_ms        8   when it was written, milliseconds since 1970
//! 48  name
//!     head_crc     4   crc32c of everything above: length, journal and number can be trusted though the body is damaged
//!     key
//!     body
//!     crc          4   crc32c of everything above
//! ```
//! Numbers are little-endian.

use crate::journal::{KEY_BYTES_MAX, RECORD_BYTES_MAX};

/// The newest layout this program writes and the only one it reads.
pub(crate) const VERSION: u8 = 1;
const MAGIC: [u8; 4] = [0xf5, b's', b'g', 1];
const FIXED: usize = 48;
const CRC: usize = 4;
/// The longest name of a journal, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 64;
/// The longest frame there can be: what a scan needs to look ahead.
pub(crate) const FRAME_BYTES_MAX: usize =
    FIXED + NAME_BYTES_MAX + CRC + KEY_BYTES_MAX + RECORD_BYTES_MAX + CRC;
const _: () = assert!(FRAME_BYTES_MAX < u32::MAX as usize / 4);
const _: () = assert!(KEY_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(NAME_BYTES_MAX <= u8::MAX as usize);

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A journal was made. Its seq is 0.
    Made,
    /// A record of a journal.
    Record,
    /// A journal was deleted: its frames before this one are to leave the log. Its seq is 0.
    Deleted,
    /// A note; its seq is the note's number, its name is empty.
    Note,
    /// A note was forgotten: its frame is to leave the log. Says the number and nothing else.
    Forgotten,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Made, Kind::Record, Kind::Deleted, Kind::Note, Kind::Forgotten];

    fn byte(self) -> u8 {
        match self {
            Kind::Made => 1,
            Kind::Record => 2,
            Kind::Deleted => 3,
            Kind::Note => 4,
            Kind::Forgotten => 5,
        }
    }
}

/// Which frame came before: the crc32c of its name, and its number.
pub(crate) type Before = (u32, u64);

/// A frame, borrowed from wherever its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) name: &'a str,
    pub(crate) seq: u64,
    pub(crate) at_ms: u64,
    pub(crate) batch_left: u32,
    pub(crate) durable: u32,
    pub(crate) before: Before,
    /// Empty when the record has none.
    pub(crate) key: &'a [u8],
    pub(crate) body: &'a [u8],
}

/// Why there is no frame at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The head is not one. Nothing is known of what was here.
    Head,
    /// The head is whole, the rest is not (or is cut off): this frame was here, and this long.
    Body { kind: Kind, name: String, seq: u64, len: usize },
    /// A whole head of a layout this program does not know.
    TooNew(u8),
}

/// What stands for a name in `before`.
pub(crate) fn name_sum(name: &str) -> u32 {
    crc32c::crc32c(name.as_bytes())
}

impl<'a> Frame<'a> {
    /// How many bytes it takes in the log.
    pub(crate) fn len(&self) -> usize {
        FIXED + self.name.len() + CRC + self.key.len() + self.body.len() + CRC
    }

    /// Appends its bytes to `to`. Lengths were checked where the parts came in.
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        assert!(self.name.len() <= NAME_BYTES_MAX && self.key.len() <= KEY_BYTES_MAX);
        assert!(self.body.len() <= RECORD_BYTES_MAX);
        let start = to.len();
        to.reserve(self.len());
        to.extend_from_slice(&MAGIC);
        to.extend_from_slice(&[VERSION, self.kind.byte(), self.name.len() as u8, self.key.len() as u8]);
        to.extend_from_slice(&(self.body.len() as u32).to_le_bytes());
        to.extend_from_slice(&self.batch_left.to_le_bytes());
        to.extend_from_slice(&self.durable.to_le_bytes());
        to.extend_from_slice(&self.before.0.to_le_bytes());
        to.extend_from_slice(&self.before.1.to_le_bytes());
        to.extend_from_slice(&self.seq.to_le_bytes());
        to.extend_from_slice(&self.at_ms.to_le_bytes());
        to.extend_from_slice(self.name.as_bytes());
        let head_crc = crc32c::crc32c(&to[start..]);
        to.extend_from_slice(&head_crc.to_le_bytes());
        to.extend_from_slice(self.key);
        to.extend_from_slice(self.body);
        let crc = crc32c::crc32c(&to[start..]);
        to.extend_from_slice(&crc.to_le_bytes());
    }

    /// Reads the frame that begins where `bytes` does; what follows it is not looked at.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Frame<'a>, Broken> {
        if bytes.len() < FIXED || bytes[..4] != MAGIC {
            return Err(Broken::Head);
        }
        let name_end = FIXED + bytes[6] as usize;
        let head_end = name_end + CRC;
        if bytes.len() < head_end || u32_at(bytes, name_end) != crc32c::crc32c(&bytes[..name_end]) {
            return Err(Broken::Head);
        }
        if bytes[4] != VERSION {
            return Err(Broken::TooNew(bytes[4]));
        }
        let kind = Kind::ALL.into_iter().find(|kind| kind.byte() == bytes[5]).ok_or(Broken::Head)?;
        let name = std::str::from_utf8(&bytes[FIXED..name_end]).map_err(|_| Broken::Head)?;
        let seq = u64_at(bytes, 32);
        let key_end = head_end + bytes[7] as usize;
        let body_end = key_end + u32_at(bytes, 8) as usize;
        let len = body_end + CRC;
        if bytes.len() < len || u32_at(bytes, body_end) != crc32c::crc32c(&bytes[..body_end]) {
            return Err(Broken::Body { kind, name: name.into(), seq, len });
        }
        Ok(Frame {
            kind,
            name,
            seq,
            at_ms: u64_at(bytes, 40),
            batch_left: u32_at(bytes, 12),
            durable: u32_at(bytes, 16),
            before: (u32_at(bytes, 20), u64_at(bytes, 24)),
            key: &bytes[head_end..key_end],
            body: &bytes[key_end..body_end],
        })
    }
}

/// Where the next whole frame begins at or after `from`; `None` when there is none.
pub(crate) fn next_frame(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(step) = bytes.get(at..)?.iter().position(|&byte| byte == MAGIC[0]) {
        at += step;
        if matches!(Frame::decode(&bytes[at..]), Ok(_) | Err(Broken::TooNew(_))) {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// The little-endian number at `at`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were sliced"))
}

/// The little-endian number at `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were sliced"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample<'a>(key: &'a [u8], body: &'a [u8]) -> Frame<'a> {
        Frame {
            kind: Kind::Record,
            name: "s-1",
            seq: 7,
            at_ms: 1_795_000_000_000,
            batch_left: 0,
            durable: 32,
            before: (9, 6),
            key,
            body,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        // The frame is the only thing between a record and the disk.
        for (key, body) in [(&b""[..], &b""[..]), (b"k", b"{}"), (&[0xf5; 255], &[0xf5, b's', b'g', 1])] {
            let frame = sample(key, body);
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            assert_eq!(bytes.len(), frame.len());
            assert_eq!(Frame::decode(&bytes), Ok(frame));
        }
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed_and_a_flipped_body_still_says_whose_it_was() {
        // A damaged record must be reported with its journal and number, never read as something else.
        let mut bytes = Vec::new();
        sample(b"key", b"the body").encode(&mut bytes);
        let head = FIXED + 3 + CRC;
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                let broken = Frame::decode(&bad).expect_err("a flipped bit must not pass");
                let named = matches!(&broken, Broken::Body { name, seq: 7, .. } if name == "s-1");
                assert_eq!(named, at >= head, "byte {at}: {broken:?}");
            }
        }
    }

    #[test]
    fn a_frame_is_found_again_after_rubbish() {
        // After damage the scan must go on with the next whole frame, not with a magic that lies in a body.
        let mut bytes = vec![0xf5, b's', b'g', 1, 1, 2, 3];
        let at = bytes.len();
        sample(b"", b"x").encode(&mut bytes);
        assert_eq!(next_frame(&bytes, 0), Some(at));
        assert_eq!(next_frame(&bytes, at + 1), None);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        // These bytes come from a disk that may hold anything.
        let mut whole = Vec::new();
        sample(b"key", b"body").encode(&mut whole);
        for cut in 0..whole.len() {
            assert!(Frame::decode(&whole[..cut]).is_err());
        }
        let mut seed = 1u64;
        for len in 0..600 {
            let noise: Vec<u8> = (0..len)
                .map(|_| {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (seed >> 56) as u8
                })
                .collect();
            let mut headed = MAGIC.to_vec();
            headed.extend(&noise);
            assert!(Frame::decode(&noise).is_err() && Frame::decode(&headed).is_err());
        }
    }
}
