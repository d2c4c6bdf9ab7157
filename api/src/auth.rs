//! Who may talk to the service.
//!
//! A key is 256 random bits, shown once and kept as its SHA-256. A slow hash such as Argon2 protects secrets that people
//! choose, because those can be guessed; nobody guesses 2^256 keys at any speed, so a slow hash would only slow requests.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, Uri, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::Problem;
use crate::failure::Failure;

/// How the service tells who is asking.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Whoever shows one of these keys.
    Keys(Vec<KeyHash>),
    /// Everybody who reaches the loopback address, web pages excepted.
    KeylessLoopback,
}

/// What is kept of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHash([u8; 32]);

/// A key in the clear. Exists only while it is shown or sent.
#[derive(Clone)]
pub struct Key(String);

impl Key {
    /// A new key from the system's random source.
    ///
    /// # Errors
    /// [`Failure`] when the system has no randomness to give.
    pub fn new() -> Result<Key, Failure> {
        // The prefix lets people and secret scanners recognise what it is.
        Ok(Key(format!("saga-{}", hex(&random::<32>()?))))
    }

    /// A key as a person gave it.
    pub(crate) fn given(text: String) -> Key {
        Key(text)
    }

    /// The text to send.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What may be kept of it.
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }
}

impl KeyHash {
    fn of(key: &str) -> KeyHash {
        KeyHash(Sha256::digest(key.as_bytes()).into())
    }
}

impl Auth {
    /// Lets a request pass, or says why not.
    pub(crate) fn check(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        match self {
            Auth::Keys(hashes) => match presented(headers) {
                None => Err(Problem::no_key()),
                Some(key) => {
                    let given = KeyHash::of(key);
                    // Every hash is compared in full, so that the time says nothing about which one was near.
                    let fits = hashes
                        .iter()
                        .fold(subtle::Choice::from(0), |fits, hash| fits | hash.0.ct_eq(&given.0));
                    if bool::from(fits) { Ok(()) } else { Err(Problem::wrong_key()) }
                }
            },
            Auth::KeylessLoopback => from_no_web_page(headers, uri),
        }
    }
}

/// The key a request shows, in either of the two usual headers.
pub(crate) fn presented(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok().map(str::trim)).filter(|key| !key.is_empty())
}

/// Refuses what a web page could have caused. A page elsewhere can make a browser send requests to 127.0.0.1 (then `Origin`
/// names the page), and can point its own name at 127.0.0.1 to be of the same origin (then `Host` is that name).
fn from_no_web_page(headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| uri.authority().map(|a| a.as_str()));
    let Some(host) = host.filter(|host| is_loopback(host)) else {
        return Err(Problem::strange_host(host.unwrap_or("none")));
    };
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let same = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.strip_prefix("http://"))
        .is_some_and(|from| from == host);
    if same { Ok(()) } else { Err(Problem::strange_origin()) }
}

/// Whether a `Host` header names this very machine by a name that no one else can give to it.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        // The last colon of `[::1]` is not a port's.
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What an operator asked for, turned into a rule; refuses a keyless service that others could reach.
///
/// # Errors
/// [`Failure`] when a keyless service is asked for on an address that is not loopback.
pub(crate) fn keyless(listen: SocketAddr) -> Result<Auth, Failure> {
    if listen.ip().is_loopback() {
        return Ok(Auth::KeylessLoopback);
    }
    Err(Failure::new(format!(
        "--no-key is refused on {listen}: everyone who reaches that address could run commands here"
    ))
    .next("listen on 127.0.0.1, or leave --no-key out and use the key"))
}

/// The file that keeps the service's key, hashed.
pub(crate) struct KeyFile(PathBuf);

impl KeyFile {
    pub(crate) fn of(data: &Path) -> KeyFile {
        KeyFile(data.join("key.sha256"))
    }

    /// The kept hash; nothing when there is no key yet.
    pub(crate) fn read(&self) -> Result<Option<KeyHash>, Failure> {
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Failure::new(format!("cannot read {}: {error}", self.0.display()))
                    .next("make it readable for this user, or run `saga up --new-key`"));
            }
        };
        match unhex(text.trim()) {
            Some(hash) => Ok(Some(KeyHash(hash))),
            None => Err(Failure::new(format!("{} does not hold a key's hash", self.0.display()))
                .next("run `saga up --new-key` to make a new key")),
        }
    }

    /// Makes a key and keeps its hash in place of the one before.
    pub(crate) fn make(&self) -> Result<Key, Failure> {
        let key = Key::new()?;
        let text = format!("{}\n", hex(&key.hash().0));
        write_private(&self.0, text.as_bytes()).map_err(|error| Failure::unwritable(&self.0, &error))?;
        Ok(key)
    }
}

/// Writes a file that only this user may read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let done = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&new, path));
    if done.is_err() {
        let _ = fs::remove_file(&new);
    }
    done
}

/// A name that no other request has.
pub(crate) fn random_id() -> Result<String, Failure> {
    Ok(hex(&random::<12>()?))
}

/// A secret as a file keeps it: 64 hexadecimal digits.
pub(crate) fn random_secret() -> Result<String, Failure> {
    Ok(format!("{}\n", hex(&random::<32>()?)))
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bits = [0u8; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bits[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::new(format!("the system gives no random bytes: {error}"))),
        }
    }
    Ok(bits)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0u8; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn status(auth: &Auth, pairs: &[(&'static str, &str)]) -> u16 {
        auth.check(&headers(pairs), &Uri::from_static("/v1/sessions"))
            .map_or_else(|problem| problem.status.as_u16(), |()| 200)
    }

    #[test]
    fn a_key_is_taken_from_either_header() {
        let key = Key::new().unwrap();
        let auth = Auth::Keys(vec![Key::new().unwrap().hash(), key.hash()]);
        let bearer = format!("Bearer {}", key.as_str());
        assert_eq!(status(&auth, &[("authorization", &bearer)]), 200);
        assert_eq!(status(&auth, &[("authorization", &bearer.to_lowercase())]), 200);
        assert_eq!(status(&auth, &[("x-api-key", key.as_str())]), 200);
        assert_eq!(status(&auth, &[]), 401);
        assert_eq!(status(&auth, &[("x-api-key", "")]), 401);
        assert_eq!(status(&auth, &[("x-api-key", "saga-0000")]), 401);
        assert_eq!(status(&auth, &[("authorization", "Basic Zm9vOmJhcg==")]), 401);
    }

    #[test]
    fn a_web_page_cannot_reach_a_keyless_service() {
        // DNS rebinding gives a page's own name our address; a form or a script names its page in Origin.
        let auth = Auth::KeylessLoopback;
        for host in ["127.0.0.1:7777", "localhost:7777", "LOCALHOST", "[::1]:7777", "127.0.0.1"] {
            assert_eq!(status(&auth, &[("host", host)]), 200, "{host}");
        }
        for host in
            ["evil.example:7777", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.7:7777", ""]
        {
            assert_eq!(status(&auth, &[("host", host)]), 403, "{host}");
        }
        assert_eq!(status(&auth, &[]), 403);
        assert_eq!(status(&auth, &[("host", "localhost:7777"), ("origin", "http://localhost:7777")]), 200);
        for origin in ["http://evil.example", "null", "https://localhost:7777", "http://localhost:8080"] {
            assert_eq!(status(&auth, &[("host", "localhost:7777"), ("origin", origin)]), 403, "{origin}");
        }
    }

    #[test]
    fn a_keyless_service_listens_on_loopback_only() {
        assert!(keyless("127.0.0.1:7777".parse().unwrap()).is_ok());
        assert!(keyless("[::1]:7777".parse().unwrap()).is_ok());
        let refused = keyless("0.0.0.0:7777".parse().unwrap()).unwrap_err().to_string();
        assert!(refused.contains("listen on 127.0.0.1"), "{refused}");
    }

    #[test]
    fn a_key_is_kept_hashed_in_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::of(dir.path());
        assert!(file.read().unwrap().is_none());
        let key = file.make().unwrap();
        assert_eq!(file.read().unwrap(), Some(key.hash()));
        let kept = fs::read_to_string(dir.path().join("key.sha256")).unwrap();
        assert!(!kept.contains(key.as_str().trim_start_matches("saga-")));
        let mode = fs::metadata(dir.path().join("key.sha256")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = file.make().unwrap();
        assert_ne!(second.as_str(), key.as_str());
        fs::write(dir.path().join("key.sha256"), "not a hash").unwrap();
        assert!(file.read().unwrap_err().to_string().contains("--new-key"));
    }
}
