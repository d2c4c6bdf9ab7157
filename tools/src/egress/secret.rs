//! Secrets that go along with requests to hosts the operator named, and are never inside.

use std::fmt;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::rules::{Host, Target};

/// A secret, as the operator sets it.
#[derive(Clone)]
pub struct Secret {
    /// The host whose requests carry it: `api.example.org` (HTTPS at port 443), `api.example.org:8443` (HTTPS), or
    /// `http://10.1.2.3:8080` (plain HTTP). One host, not a pattern.
    pub host: String,
    /// The header that it is the value of.
    pub header: String,
    /// The value.
    pub value: String,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is printed for whoever looks for a fault must not hold the secret.
        f.debug_struct("Secret")
            .field("host", &self.host)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// Whether what is spoken with a target is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Plain,
    Tls,
}

/// A secret, read.
#[derive(Clone)]
pub(super) struct Injected {
    pub(super) target: Target,
    pub(super) scheme: Scheme,
    header: HeaderName,
    value: HeaderValue,
    /// What of it is masked where it is said again.
    words: Vec<Vec<u8>>,
}

/// Shorter words of a secret stand in too many texts to be masked: `Bearer`, `Basic`.
const WORD_BYTES_MIN: usize = 8;

/// Headers that say where a request goes or where it ends; a secret in one of them would change that.
const FRAMING: [&str; 6] = ["host", "content-length", "transfer-encoding", "connection", "upgrade", "te"];

impl Injected {
    /// The error says what is wrong, without the value.
    pub(super) fn read(secret: &Secret) -> Result<Injected, String> {
        let wrong = |why: String| format!("the secret for {:?}: {why}", secret.host);
        let (scheme, host) = match secret.host.split_once("://") {
            Some(("http", host)) => (Scheme::Plain, host),
            Some(("https", host)) => (Scheme::Tls, host),
            Some(_) => return Err(wrong("it begins with neither https:// nor http://".to_owned())),
            None => (Scheme::Tls, secret.host.as_str()),
        };
        let usual = match scheme {
            Scheme::Plain => 80,
            Scheme::Tls => 443,
        };
        let target = Target::read(host, Some(usual)).map_err(wrong)?;
        let header: HeaderName = secret
            .header
            .parse()
            .map_err(|_| wrong(format!("{:?} is no name of a header", secret.header)))?;
        if FRAMING.contains(&header.as_str()) {
            return Err(wrong(format!("the header {header} says where a request goes; choose another")));
        }
        let trimmed = secret.value.trim();
        let mut value = HeaderValue::from_str(trimmed)
            .map_err(|_| wrong("its value has characters that no header may have".to_owned()))?;
        if trimmed.is_empty() {
            return Err(wrong("its value is empty".to_owned()));
        }
        value.set_sensitive(true);
        let mut words: Vec<Vec<u8>> = std::iter::once(trimmed)
            .chain(trimmed.split_whitespace())
            .map(|word| word.as_bytes().to_vec())
            .collect();
        words.retain(|word| word.len() >= WORD_BYTES_MIN || word.len() == trimmed.len());
        words.dedup();
        Ok(Injected { target, scheme, header, value, words })
    }

    /// Whether it goes along with what is spoken with a target.
    pub(super) fn is_for(&self, target: &Target, scheme: Scheme) -> bool {
        self.target == *target && self.scheme == scheme
    }

    /// The name its certificate is made out for.
    pub(super) fn host(&self) -> &Host {
        &self.target.host
    }

    /// Puts it into a request, in place of whatever stood there.
    pub(super) fn put(&self, headers: &mut HeaderMap) {
        headers.insert(self.header.clone(), self.value.clone());
        // An answer that is compressed, or comes in the pieces that were asked for, could hold it where it is not seen.
        for name in [hyper::header::RANGE, hyper::header::IF_RANGE] {
            headers.remove(name);
        }
        headers.insert(hyper::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }

    /// For people: `authorization for https://api.example.org:443`.
    pub(super) fn told(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Plain => "http",
            Scheme::Tls => "https",
        };
        format!("{} for {scheme}://{}", self.header, self.target)
    }
}

/// Replaces each place where a secret stands by as many stars, in a text that comes in pieces. The length stays, so that
/// what was said about it beforehand stays true.
#[derive(Debug, Clone)]
pub(super) struct Mask {
    words: Vec<Vec<u8>>,
    /// The end of what came, which may be the beginning of a secret.
    held: Vec<u8>,
}

impl Mask {
    /// What takes some secrets out of an answer; nothing when there are none.
    pub(super) fn of(secrets: &[&Injected]) -> Option<Mask> {
        let words: Vec<Vec<u8>> = secrets.iter().flat_map(|secret| secret.words.clone()).collect();
        (!words.is_empty()).then(|| Mask { words, held: Vec::new() })
    }

    /// Takes a piece and gives what can be let go of.
    pub(super) fn pass(&mut self, piece: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        self.blot();
        let longest = self.words.iter().map(Vec::len).max().unwrap_or(1);
        let keep = self.held.len().min(longest - 1);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// What is left when nothing more comes.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        self.blot();
        std::mem::take(&mut self.held)
    }

    fn blot(&mut self) {
        for word in &self.words {
            let mut from = 0;
            while let Some(at) = find(&self.held[from..], word) {
                let at = from + at;
                self.held[at..at + word.len()].fill(b'*');
                from = at + word.len();
            }
        }
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(host: &str, header: &str, value: &str) -> Result<Injected, String> {
        Injected::read(&Secret { host: host.to_owned(), header: header.to_owned(), value: value.to_owned() })
    }

    #[test]
    fn a_secret_goes_to_one_host_one_port_and_one_scheme() {
        let token = secret("API.example.org", "authorization", "Bearer abcdefgh12345678").unwrap();
        let target = |text: &str| Target::read(text, None).unwrap();
        assert!(token.is_for(&target("api.example.org:443"), Scheme::Tls));
        assert!(
            !token.is_for(&target("api.example.org:443"), Scheme::Plain),
            "never in the clear unless it is said"
        );
        assert!(!token.is_for(&target("api.example.org:8443"), Scheme::Tls));
        assert!(!token.is_for(&target("x.api.example.org:443"), Scheme::Tls));
        let plain = secret("http://10.1.2.3:8080", "x-key", "abcdefgh").unwrap();
        assert!(plain.is_for(&target("10.1.2.3:8080"), Scheme::Plain));
        assert!(!plain.is_for(&target("10.1.2.3:8080"), Scheme::Tls));
        for (host, header, value) in [
            ("*.example.org", "x", "v"),
            ("ftp://example.org", "x", "v"),
            ("example.org", "host", "v"),
            ("example.org", "x y", "v"),
            ("example.org", "x", ""),
            ("example.org", "x", "a\nb: c"),
        ] {
            let said = secret(host, header, value).err().unwrap();
            assert!(value.is_empty() || value.len() == 1 || !said.contains(value), "{said}");
        }
        assert!(
            !format!("{:?}", Secret { host: String::new(), header: String::new(), value: "hunter2".into() })
                .contains("hunter2")
        );
    }

    #[test]
    fn what_says_the_secret_again_says_stars() {
        // However the answer is cut into pieces.
        let token = secret("a.test", "authorization", "Bearer abcdefgh12345678").unwrap();
        let text = b"you sent Bearer abcdefgh12345678, that is abcdefgh12345678; abcdefgh1234567 is not";
        for size in 1..text.len() {
            let mut mask = Mask::of(&[&token]).unwrap();
            let mut out: Vec<u8> = text.chunks(size).flat_map(|piece| mask.pass(piece)).collect();
            out.extend(mask.finish());
            let out = String::from_utf8(out).unwrap();
            assert_eq!(out.len(), text.len());
            assert!(
                !out.contains("abcdefgh12345678") && out.ends_with("; abcdefgh1234567 is not"),
                "{size}: {out}"
            );
        }
    }
}
