//! A file of a snapshot as it lies on disk: what it is and whose, its body, and checksums.
//!
//! ```text
//!  0  magic      4   f5 's' 'k' 01
//!  4  version    1
//!  5  kind       1   see Kind
//!  6  sealed     1   1 if the body is sealed with a secret
//!  7  reserved   1   0
//!  8  chain      32  of everything said up to the end of what this is, and of what it was computed with
//! 40  nonce      24  0 if the body is not sealed
//! 64  body_len   8   with the 16 bytes that sealing adds
//! 72  head_crc   4   crc32c of everything above
//! 76  body
//!     crc        4   crc32c of everything above
//! ```
//! Numbers are little-endian.

use super::secret::{NONCE_BYTES, Secret, TAG_BYTES, random};
use crate::cache::Chain;

/// The newest layout this program writes and the only one it reads. What is older or newer is computed again.
const VERSION: u8 = 1;
const MAGIC: [u8; 4] = [0xf5, b's', b'k', 1];
const HEAD: usize = 76;
const CRC: usize = 4;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// What all layers keep of the tokens of a page.
    Page,
    /// The states of all layers.
    States,
    /// Which pages a line has.
    Line,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Page => 1,
            Kind::States => 2,
            Kind::Line => 3,
        }
    }

    /// How names of such files end.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Kind::Page => "page",
            Kind::States => "states",
            Kind::Line => "line",
        }
    }
}

/// How long the file is whose body has so many bytes.
pub(super) fn file_bytes(body: usize, secret: Option<&Secret>) -> u64 {
    (HEAD + body + if secret.is_some() { TAG_BYTES } else { 0 } + CRC) as u64
}

/// Makes a file's bytes in `to`, whose body is what `body` adds.
///
/// # Errors
/// If the system gives no random bytes.
pub(super) fn encode(
    kind: Kind,
    chain: Chain,
    secret: Option<&Secret>,
    to: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>),
) -> std::io::Result<()> {
    to.clear();
    to.extend_from_slice(&MAGIC);
    to.extend_from_slice(&[VERSION, kind.byte(), u8::from(secret.is_some()), 0]);
    to.extend_from_slice(&chain.bytes());
    let nonce = if secret.is_some() { random::<NONCE_BYTES>()? } else { [0; NONCE_BYTES] };
    to.extend_from_slice(&nonce);
    to.resize(HEAD, 0);
    body(to);
    let len = to.len() - HEAD + if secret.is_some() { TAG_BYTES } else { 0 };
    to[64..72].copy_from_slice(&(len as u64).to_le_bytes());
    let head_crc = crc32c::crc32c(&to[..72]);
    to[72..76].copy_from_slice(&head_crc.to_le_bytes());
    if let Some(secret) = secret {
        secret.seal(&nonce, to, HEAD);
    }
    let crc = crc32c::crc32c(to);
    to.extend_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// Finds the body in a file's bytes, which is opened in place, or says why this is not the file that was asked for.
pub(super) fn decode<'a>(
    kind: Kind,
    chain: Option<Chain>,
    secret: Option<&Secret>,
    bytes: &'a mut [u8],
) -> Result<(Chain, &'a [u8]), &'static str> {
    if bytes.len() < HEAD + CRC || bytes[..4] != MAGIC {
        return Err("it is no snapshot");
    }
    if u32_at(bytes, 72) != crc32c::crc32c(&bytes[..72]) {
        return Err("its head is damaged");
    }
    if bytes[4] != VERSION {
        return Err("it was written by another version");
    }
    let found = Chain::from_bytes(bytes[8..40].try_into().expect("32 bytes were sliced"));
    if bytes[5] != kind.byte() || chain.is_some_and(|chain| chain != found) {
        return Err("it is something else than its name says");
    }
    if (bytes[6] == 1) != secret.is_some() {
        return Err("it is sealed with a key that is not here, or not sealed while a key is");
    }
    let body_len = u64::from_le_bytes(bytes[64..72].try_into().expect("eight bytes were sliced"));
    let end = bytes.len() - CRC;
    if body_len != (end - HEAD) as u64 {
        return Err("it is cut off");
    }
    if u32_at(bytes, end) != crc32c::crc32c(&bytes[..end]) {
        return Err("it is damaged");
    }
    let (head, rest) = bytes.split_at_mut(HEAD);
    let body = &mut rest[..end - HEAD];
    match secret {
        None => Ok((found, body)),
        Some(secret) => {
            let nonce = head[40..64].try_into().expect("24 bytes were sliced");
            let body = secret.open(&nonce, head, body).ok_or("it is sealed with another key")?;
            Ok((found, body))
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were sliced"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(secret: Option<&Secret>) -> (Chain, Vec<u8>) {
        let chain = Chain::root(b"test").then(&[1, 2, 3]);
        let mut bytes = Vec::new();
        encode(Kind::Page, chain, secret, &mut bytes, |to| to.extend_from_slice(b"what was computed"))
            .unwrap();
        (chain, bytes)
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for secret in [None, Some(&Secret::new([9; 32]))] {
            let (chain, mut bytes) = file(secret);
            assert_eq!(bytes.len() as u64, file_bytes(17, secret));
            let decoded = decode(Kind::Page, Some(chain), secret, &mut bytes).unwrap();
            assert_eq!(decoded, (chain, &b"what was computed"[..]));
        }
    }

    #[test]
    fn no_changed_bit_no_cut_and_no_other_name_goes_unnoticed() {
        // What is restored takes the place of what would be computed, so it must be that or nothing.
        for secret in [None, Some(&Secret::new([9; 32]))] {
            let (chain, bytes) = file(secret);
            for at in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << (at % 8);
                assert!(decode(Kind::Page, Some(chain), secret, &mut bad).is_err(), "byte {at}");
                assert!(
                    decode(Kind::Page, Some(chain), secret, &mut bytes[..at].to_vec()).is_err(),
                    "cut at {at}"
                );
            }
            let mut longer = [&bytes[..], b"x"].concat();
            assert_eq!(decode(Kind::Page, Some(chain), secret, &mut longer), Err("it is cut off"));
            let check = |kind, chain, secret: Option<&Secret>, why| {
                assert_eq!(decode(kind, Some(chain), secret, &mut bytes.clone()), Err(why));
            };
            check(Kind::States, chain, secret, "it is something else than its name says");
            check(
                Kind::Page,
                Chain::root(b"another model"),
                secret,
                "it is something else than its name says",
            );
            let other = Secret::new([1; 32]);
            let (with, why) = match secret {
                None => {
                    (Some(&other), "it is sealed with a key that is not here, or not sealed while a key is")
                }
                Some(_) => (Some(&other), "it is sealed with another key"),
            };
            check(Kind::Page, chain, with, why);
        }
        assert!(decode(Kind::Line, None, None, &mut []).is_err());
    }
}
