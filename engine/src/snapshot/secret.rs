//! The key that seals what is left on disk. The only file that names the cipher.

use std::fmt;
use std::path::Path;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};

use crate::Error;

/// A key under which timelines leave what was computed for them. Timelines with different secrets share nothing, neither in
/// memory nor on disk, and without the secret nobody can tell what was said from what lies on disk.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// Random bytes that are used once. With so many of them chance does not repeat itself.
pub(super) const NONCE_BYTES: usize = 24;
/// What sealing adds.
pub(super) const TAG_BYTES: usize = 16;

impl Secret {
    /// A secret of 256 bits, which should be random.
    pub fn new(key: [u8; 32]) -> Secret {
        Secret(key)
    }

    /// Reads a secret from a file that holds 64 hex digits.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Option`] if it holds something else or others may read it.
    pub fn read(path: &Path) -> Result<Secret, Error> {
        use std::os::unix::fs::PermissionsExt;
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mode = std::fs::metadata(path).map_err(io)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Error::Option(format!(
                "the key file {} can be read by others; run `chmod 600` on it",
                path.display()
            )));
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        let key = from_hex(text.trim()).ok_or_else(|| {
            Error::Option(format!(
                "the key file {} does not hold 64 hex digits; `openssl rand -hex 32` makes some",
                path.display()
            ))
        })?;
        Ok(Secret(key))
    }

    /// What stands for it where the secret itself must not.
    pub(crate) fn id(&self) -> [u8; 32] {
        Sha256::new_with_prefix(b"saga snapshots").chain_update(self.0).finalize().into()
    }

    /// Seals `bytes` from `start` on, in place, and adds a tag that also vouches for what comes before.
    pub(super) fn seal(&self, nonce: &[u8; NONCE_BYTES], bytes: &mut Vec<u8>, start: usize) {
        let (head, body) = bytes.split_at_mut(start);
        let cipher = XChaCha20Poly1305::new(&self.0.into());
        let tag = cipher
            .encrypt_inout_detached(&XNonce::from(*nonce), head, body.into())
            .expect("a body is far shorter than the 256 GiB the cipher takes");
        bytes.extend_from_slice(&tag);
    }

    /// Opens what was sealed after `head`, in place; none if anything in either was changed.
    pub(super) fn open<'a>(
        &self,
        nonce: &[u8; NONCE_BYTES],
        head: &[u8],
        sealed: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        let (body, tag) = sealed.split_at_mut_checked(sealed.len().checked_sub(TAG_BYTES)?)?;
        let tag = Tag::try_from(&*tag).ok()?;
        let cipher = XChaCha20Poly1305::new(&self.0.into());
        let opened = cipher.decrypt_inout_detached(&XNonce::from(*nonce), head, (&mut *body).into(), &tag);
        opened.ok().map(|()| &*body)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Bytes that nobody can foresee.
pub(super) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

/// What 64 hex digits stand for.
pub(super) fn from_hex(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_by_the_same_secret_only_and_only_unchanged() {
        let (secret, nonce) = (Secret::new([7; 32]), [3; NONCE_BYTES]);
        let mut bytes = b"headand the body".to_vec();
        secret.seal(&nonce, &mut bytes, 4);
        assert!(bytes.starts_with(b"head") && !bytes.windows(4).any(|part| part == b"body"));
        let open = |secret: &Secret, mut bytes: Vec<u8>| {
            let (head, sealed) = bytes.split_at_mut(4);
            secret.open(&nonce, head, sealed).map(<[u8]>::to_vec)
        };
        assert_eq!(open(&secret, bytes.clone()).unwrap(), b"and the body");
        assert!(open(&Secret::new([8; 32]), bytes.clone()).is_none());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(open(&secret, bad).is_none(), "byte {at}");
        }
        assert!(open(&secret, bytes[..10].to_vec()).is_none());
    }

    #[test]
    fn a_key_file_that_others_can_read_or_that_is_none_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let check = |text: &str, mode: u32, said: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match Secret::read(&path) {
                Ok(secret) => assert_eq!((secret.0, said), ([0xab; 32], "")),
                Err(error) => assert!(!said.is_empty() && error.to_string().contains(said), "{error}"),
            }
        };
        check(&format!("{}\n", "ab".repeat(32)), 0o600, "");
        check(&"ab".repeat(32), 0o640, "chmod 600");
        check(&"ab".repeat(31), 0o600, "openssl rand -hex 32");
        check(&"xy".repeat(32), 0o600, "64 hex digits");
        assert!(Secret::read(&folder.path().join("none")).is_err());
        assert_eq!(format!("{:?}", Secret::new([1; 32])), "Secret");
    }
}
