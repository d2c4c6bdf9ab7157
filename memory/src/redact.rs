//! Secrets are blotted out of what is to be remembered, before anything of it is written.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// Beginnings of tokens that say whose they are, and how many characters of the usual sort follow at least.
const PREFIXES: [(&str, usize); 26] = [
    ("AKIA", 16),
    ("ASIA", 16),
    ("AIza", 35),
    ("ghp_", 30),
    ("gho_", 30),
    ("ghu_", 30),
    ("ghs_", 30),
    ("ghr_", 30),
    ("github_pat_", 30),
    ("glpat-", 20),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("xoxa-", 20),
    ("xapp-", 20),
    ("sk-", 20),
    ("sk_live_", 16),
    ("sk_test_", 16),
    ("rk_live_", 16),
    ("hf_", 30),
    ("npm_", 30),
    ("pypi-", 30),
    ("dop_v1_", 30),
    ("SG.", 30),
    ("eyJ", 30),
    ("saga-", 40),
    ("AGE-SECRET-KEY-", 30),
];

/// Names of settings whose values are secret.
const NAMES: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "access_key",
    "private_key",
    "client_secret",
    "authorization",
];

/// A value after such a name is a secret from this many characters on.
const VALUE_MIN: usize = 6;
/// A run of characters that looks drawn by lot is a secret from this many on, with so many bits a character.
const RANDOM_MIN: usize = 32;
const RANDOM_BITS: f32 = 4.2;

/// The text with its secrets blotted out: keys in armour, tokens by their beginnings, values of settings named like secrets,
/// passwords in addresses, and long runs that look drawn by lot. In place of each stands a mark with the first digits of its hash
/// under a word of its own, so that two marks of one secret can be told to be the same and nothing can be read from them.
pub fn redact(text: &str) -> String {
    let spans = spans(text);
    if spans.is_empty() {
        return text.to_string();
    }
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for (from, to) in spans {
        out.push_str(&text[at..from]);
        out.push_str(&mark(&text[from..to]));
        at = to;
    }
    out.push_str(&text[at..]);
    out
}

/// What [`redact`] would blot out of a text, in the order it stands there: for those who have to find it elsewhere as well.
pub fn secrets(text: &str) -> Vec<&str> {
    spans(text).into_iter().map(|(from, to)| &text[from..to]).collect()
}

/// What stands in a secret's place.
pub fn mark(secret: &str) -> String {
    let digest = Sha256::digest([b"saga redaction", secret.as_bytes()].concat());
    let mut out = String::new();
    let _ = write!(out, "[secret {:02x}{:02x}{:02x}]", digest[0], digest[1], digest[2]);
    out
}

/// Where secrets stand, in order and apart from each other.
fn spans(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    armoured(text, &mut found);
    addresses(text, &mut found);
    named(text, &mut found);
    runs(text, &mut found);
    found.sort_unstable();
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for (from, to) in found {
        if from < to && spans.last().is_none_or(|(_, before)| from >= *before) {
            spans.push((from, to));
        }
    }
    spans
}

/// `-----BEGIN … PRIVATE KEY-----` to its end, or the text's.
fn armoured(text: &str, spans: &mut Vec<(usize, usize)>) {
    let mut from = 0;
    while let Some(at) = text[from..].find("-----BEGIN ").map(|at| from + at) {
        let line = text[at..].lines().next().unwrap_or_default();
        let end = text[at..].find("-----END ").map(|end| {
            let end = at + end;
            text[end..].find('\n').map_or(text.len(), |line| end + line)
        });
        let end = end.unwrap_or(text.len());
        if line.contains("PRIVATE KEY") {
            spans.push((at, end));
        }
        from = end.max(at + 1);
        while !text.is_char_boundary(from) {
            from += 1;
        }
    }
}

/// The password in `scheme://user:password@host`.
fn addresses(text: &str, spans: &mut Vec<(usize, usize)>) {
    for (at, _) in text.match_indices("://") {
        let rest = &text[at + 3..];
        let end = rest.find(|c: char| c.is_whitespace() || "/\"'`<>".contains(c)).unwrap_or(rest.len());
        if let Some(host) = rest[..end].rfind('@')
            && let Some(colon) = rest[..host].find(':')
            && colon + 1 < host
        {
            spans.push((at + 3 + colon + 1, at + 3 + host));
        }
    }
}

/// The value after a name such as `password`, `=` or `:`.
fn named(text: &str, spans: &mut Vec<(usize, usize)>) {
    let lower = text.to_ascii_lowercase();
    for name in NAMES {
        for (at, _) in lower.match_indices(name) {
            let after = at + name.len();
            let rest =
                text[after..].trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "_-\"'".contains(c));
            let rest_at = text.len() - rest.len();
            let value = rest.trim_start_matches([' ', '\t']);
            let Some(value) = value.strip_prefix('=').or_else(|| value.strip_prefix(':')) else { continue };
            let value = value.trim_start_matches([' ', '\t', '"', '\'', '`', '=']);
            let value =
                value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("Basic ")).unwrap_or(value);
            let from = text.len() - value.len();
            let end =
                value.find(|c: char| c.is_whitespace() || "\"'`,;)]}".contains(c)).unwrap_or(value.len());
            let secret = &value[..end];
            // `password: required` and `token: &str` are talk about secrets; a value of nothing but letters is a word.
            let telling = secret.chars().any(|c| c.is_ascii_digit())
                || secret.chars().any(|c| c.is_ascii_punctuation() && !"_.-:&<>*$({[".contains(c));
            if from > rest_at
                && secret.chars().count() >= VALUE_MIN
                && telling
                && !secret.starts_with(['$', '<', '{'])
            {
                spans.push((from, from + end));
            }
        }
    }
}

/// Tokens by their beginnings, and runs that look drawn by lot.
fn runs(text: &str, spans: &mut Vec<(usize, usize)>) {
    let belongs = |c: char| c.is_ascii_alphanumeric() || "_-+/=.".contains(c);
    let mut from = 0;
    for run in text.split(|c: char| !belongs(c)) {
        let at = from;
        from += run.len();
        from += text[from..].chars().next().map_or(0, char::len_utf8);
        for (prefix, least) in PREFIXES {
            // A key may be glued to what is before it: `KEY=ghp_…`.
            for (start, _) in run.match_indices(prefix) {
                let free = start == 0 || !run.as_bytes()[start - 1].is_ascii_alphanumeric();
                let rest = &run[start + prefix.len()..];
                let len = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c)))
                    .unwrap_or(rest.len());
                if free && len >= least {
                    spans.push((at + start, at + start + prefix.len() + len));
                }
            }
        }
        for piece in run.split(['/', '.', '=']) {
            if looks_random(piece) {
                let start = at + (piece.as_ptr() as usize - run.as_ptr() as usize);
                spans.push((start, start + piece.len()));
            }
        }
    }
}

/// Whether a run has letters of both sizes and digits, as mixed as chance mixes them. Hashes in hexadecimal digits are no secrets:
/// commits and checksums are what developers speak of.
fn looks_random(run: &str) -> bool {
    let has = |sort: fn(&u8) -> bool| run.as_bytes().iter().any(sort);
    if run.len() < RANDOM_MIN
        || !has(u8::is_ascii_digit)
        || !has(u8::is_ascii_lowercase)
        || !has(u8::is_ascii_uppercase)
    {
        return false;
    }
    let mut counts = [0_u32; 128];
    run.bytes().for_each(|byte| counts[usize::from(byte & 127)] += 1);
    let len = run.len() as f32;
    let bits: f32 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| *count as f32 / len)
        .map(|share| -share * share.log2())
        .sum();
    bits >= RANDOM_BITS.min(len.log2() * 0.85)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Joined here, so that no scanner takes a test for a leak.
    fn joined(parts: &[&str]) -> String {
        parts.concat()
    }

    #[test]
    fn secrets_are_blotted_out_and_the_same_one_the_same_way() {
        let letters = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7d";
        let tokens = [
            joined(&["gh", "p_", letters]),
            joined(&["AK", "IA", "IOSFODNN7EXAMPLE"]),
            joined(&["sk", "-proj-", letters]),
            joined(&["xo", "xb-1234567890-abcdefghijkl"]),
            letters.to_string(),
        ];
        for token in &tokens {
            for text in [
                format!("use {token} for now"),
                format!("export KEY={token}"),
                token.clone(),
                format!("\"{token}\""),
            ] {
                let out = redact(&text);
                assert!(!out.contains(token.as_str()), "{text} gave {out}");
                assert!(out.contains("[secret "), "{text} gave {out}");
            }
        }
        let twice = redact(&format!("{0} and {0}", tokens[0]));
        let marks: Vec<&str> = twice.split(" and ").collect();
        assert_eq!(marks[0], marks[1]);
        for (text, gone) in [
            ("the password is: hunter2!x", None),
            ("DB_PASSWORD=hunter2!x", Some("hunter2!x")),
            ("password: \"correct-horse7\"", Some("correct-horse7")),
            ("postgres://app:s3cr3t@db/main", Some("s3cr3t")),
            ("Authorization: Bearer abc123def456", Some("abc123def456")),
            ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----\nrest", Some("MIIEow")),
        ] {
            let out = redact(text);
            if let Some(gone) = gone {
                assert!(!out.contains(gone), "{out}");
            }
        }
    }

    #[test]
    fn what_developers_speak_of_is_no_secret() {
        for text in [
            "fixed in 8ae9ecb1f2c3d4e5f60718293a4b5c6d7e8f9012",
            "sha256 cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            "the token: &str argument of parse_token",
            "password: required, token: optional",
            "see src/recall/lexical.rs and target/release/deps/libengine-0123456789abcdef.rlib",
            "a_very_long_snake_case_identifier_that_goes_on_and_on_and_on",
            "aVeryLongCamelCaseIdentifierThatGoesOnAndOnAndOnAndOn",
            "https://example.org:8080/path@2x.png",
            "größer als 数据库 🙂",
            "secret = $SECRET, token = <your token>",
        ] {
            assert_eq!(redact(text), text);
        }
    }
}
