//! Where a session may reach: the operator's list, and how a target is held against it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::address::{self, Range, Special};

/// The longest name of a host (RFC 1035).
const NAME_BYTES_MAX: usize = 253;

/// A host as somebody wants to reach it, in one spelling: names in lower case, ASCII, without the dot at the end; addresses
/// as such, however they were written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    Name(String),
    Address(IpAddr),
}

/// What somebody wants to reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl Host {
    /// Reads a host by the rules of URLs, so that `0x7f.1`, `2130706433` and `127.0.0.1` are one and the same, as they are
    /// to what dials them.
    pub(crate) fn read(text: &str) -> Result<Host, String> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(v6) = bare.parse::<Ipv6Addr>() {
            return Ok(Host::Address(address::canonical(v6.into())));
        }
        let shown: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
        let wrong = || format!("{shown:?} is no name of a host");
        match url::Host::parse(text).map_err(|_| wrong())? {
            url::Host::Ipv4(v4) => Ok(Host::Address(v4.into())),
            url::Host::Ipv6(v6) => Ok(Host::Address(address::canonical(v6.into()))),
            url::Host::Domain(name) => {
                let name = name.strip_suffix('.').unwrap_or(&name);
                let plain = |part: &str| {
                    !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
                };
                if name.len() > NAME_BYTES_MAX || !name.split('.').all(plain) {
                    return Err(wrong());
                }
                Ok(Host::Name(name.to_ascii_lowercase()))
            }
        }
    }
}

impl Target {
    /// Reads `host:port`, `[v6]:port`; without a port it has `usual`, or is wrong.
    pub(crate) fn read(text: &str, usual: Option<u16>) -> Result<Target, String> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            Some(_) | None => (text, None),
        };
        let shown: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
        let port = match port {
            Some(port) => read_port(port).ok_or_else(|| format!("{shown:?} has no port from 1 to 65535"))?,
            None => usual.ok_or_else(|| format!("{shown:?} has no port; write host:port"))?,
        };
        // Without its brackets an IPv6 address and a port cannot be told apart.
        if host.contains(':') && !host.starts_with('[') {
            return Err(format!("{shown:?} is ambiguous; write [address]:port"));
        }
        Ok(Target { host: Host::read(host)?, port })
    }
}

fn read_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(IpAddr::V4(v4)) => write!(f, "{v4}"),
            Host::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The operator's list, read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    entries: Vec<Entry>,
    private: Vec<Range>,
}

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As the operator wrote it.
    pub(crate) text: String,
    host: Pattern,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// `*`: every public host.
    Any,
    /// `*.example.org`: everything below that name, and not the name itself.
    Below(String),
    /// This very host.
    Exact(Host),
}

impl Rules {
    /// Reads the list and the ranges of addresses that are opened beside the public ones. The error says which line is wrong.
    pub(super) fn read(allow: &[String], private: &[String]) -> Result<Rules, String> {
        Ok(Rules {
            entries: allow.iter().map(|line| Entry::read(line)).collect::<Result<_, _>>()?,
            private: private.iter().map(|range| Range::parse(range)).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a line opens hosts that nobody has named.
    pub(super) fn is_wide(&self) -> bool {
        self.entries.iter().any(|entry| entry.host == Pattern::Any)
    }

    /// The lines as the operator wrote them.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.text.as_str())
    }

    /// Whether the list names this address with some port.
    pub(super) fn names(&self, address: IpAddr) -> bool {
        self.entries.iter().any(|entry| entry.host == Pattern::Exact(Host::Address(address)))
    }

    /// The line that a target fits by its name and port. One that names it comes before one that names many.
    pub(super) fn line_for(&self, target: &Target) -> Option<&Entry> {
        let fits = |entry: &&Entry| entry.port == target.port && entry.host.fits(&target.host);
        let exact = |entry: &&Entry| matches!(entry.host, Pattern::Exact(_));
        let exactly = self.entries.iter().filter(exact).find(fits);
        exactly.or_else(|| self.entries.iter().find(fits))
    }

    /// Why an address may not be dialled for a target that fits a line; nothing when it may.
    ///
    /// `own` says whether it is one of this machine's: what listens there is as private as what listens at loopback.
    pub(super) fn objection(&self, line: &Entry, address: IpAddr, own: bool) -> Option<String> {
        let address = address::canonical(address);
        let special = address::special(address);
        let name = match special {
            Some(special) => special.name(),
            None if own => "this machine's own",
            None => return None,
        };
        // A line that gives the address itself means it.
        let meant = line.host == Pattern::Exact(Host::Address(address));
        let opened = self.private.iter().any(|range| {
            // What hands out credentials is opened by its own address, never by a range it happens to lie in.
            range.contains(address) && (range.is_one() || special != Some(Special::Metadata))
        });
        let what = if special == Some(Special::Metadata) { "that address" } else { "it" };
        (!meant && !opened)
            .then(|| format!("{address} is {name}; the operator has to name {what} in allow_private"))
    }
}

impl Entry {
    fn read(line: &str) -> Result<Entry, String> {
        let wrong = |why: String| {
            format!("the line {line:?} of the allow-list: {why} (host:port, *.domain:port, or an address)")
        };
        let text = line.trim();
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("it has no port".to_owned()))?;
        let port = read_port(port).ok_or_else(|| wrong(format!("{port:?} is no port")))?;
        let host = if host == "*" {
            Pattern::Any
        } else if let Some(domain) = host.strip_prefix("*.") {
            match Host::read(domain).map_err(wrong)? {
                Host::Name(name) => Pattern::Below(name),
                Host::Address(_) => return Err(wrong("there is nothing below an address".to_owned())),
            }
        } else {
            Pattern::Exact(Target::read(text, None).map_err(wrong)?.host)
        };
        Ok(Entry { text: text.to_owned(), host, port })
    }
}

impl Pattern {
    fn fits(&self, host: &Host) -> bool {
        match (self, host) {
            (Pattern::Any, _) => true,
            (Pattern::Exact(exact), host) => exact == host,
            (Pattern::Below(domain), Host::Name(name)) => {
                name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Pattern::Below(_), Host::Address(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], private: &[&str]) -> Rules {
        let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        Rules::read(&owned(allow), &owned(private)).unwrap()
    }

    fn fits<'a>(rules: &'a Rules, target: &str) -> Option<&'a str> {
        rules.line_for(&Target::read(target, None).unwrap()).map(|entry| entry.text.as_str())
    }

    #[test]
    fn a_host_has_one_spelling() {
        // A check of one spelling and a dial of another is a way around the check.
        for (written, one) in [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("EXAMPLE。org", "example.org"),
            ("ex%61mple.org", "example.org"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("0177.0.0.1", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0x7f000001", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("①②⑦.0.0.1", "127.0.0.1"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("[::ffff:127.0.0.1]", "127.0.0.1"),
            ("::FFFF:a9fe:a9fe", "169.254.169.254"),
        ] {
            assert_eq!(Host::read(written).unwrap().to_string(), one, "{written}");
        }
        for wrong in [
            "",
            ".",
            "a..b",
            "a b",
            "a\0b",
            "example.org\0.evil.org",
            "a/b",
            "a@b",
            "a:1",
            "[::1",
            "fe80::1%eth0",
            "256.1.1.1",
            "1.2.3.4.5",
            "a#b",
            "a?b",
            "a\\b",
            "*",
            "*.org",
            "a\nb",
            "example.org..",
        ] {
            assert!(Host::read(wrong).is_err(), "{wrong:?}");
        }
        assert!(Host::read(&"a.".repeat(127)).is_ok() && Host::read(&"a.".repeat(128)).is_err());
    }

    #[test]
    fn a_target_has_a_port_that_is_a_number() {
        for (written, one) in [("a.b:80", "a.b:80"), ("[::1]:443", "[::1]:443"), ("A.b.:080", "a.b:80")] {
            assert_eq!(Target::read(written, None).unwrap().to_string(), one);
        }
        assert_eq!(Target::read("a.b", Some(443)).unwrap().port, 443);
        assert_eq!(Target::read("[::1]", Some(443)).unwrap().to_string(), "[::1]:443");
        for wrong in ["a.b", "a.b:", "a.b:0", "a.b:65536", "a.b:+80", "a.b:8 0", "::1:80", "a.b:80:80", ":80"]
        {
            assert!(Target::read(wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_target_fits_a_line_by_name_and_port_and_no_other_way() {
        // Each of these has been somebody's hole: prefixes, suffixes, an empty list.
        let rules = rules(&["Example.org.:443", "*.crates.test:443", "127.0.0.1:8080", "[::1]:80"], &[]);
        assert_eq!(fits(&rules, "example.org:443"), Some("Example.org.:443"));
        assert_eq!(fits(&rules, "static.crates.test:443"), Some("*.crates.test:443"));
        assert_eq!(fits(&rules, "a.b.crates.test:443"), Some("*.crates.test:443"));
        assert_eq!(fits(&rules, "0x7f.1:8080"), Some("127.0.0.1:8080"));
        assert_eq!(fits(&rules, "[0::1]:80"), Some("[::1]:80"));
        for other in [
            "example.org:80",
            "example.org.evil.test:443",
            "evilexample.org:443",
            "www.example.org:443",
            "crates.test:443",
            "evilcrates.test:443",
            "crates.test.evil:443",
            "localhost:8080",
            "127.0.0.2:8080",
        ] {
            assert_eq!(fits(&rules, other), None, "{other}");
        }
        assert_eq!(fits(&super::Rules::default(), "example.org:443"), None, "an empty list opens nothing");
    }

    #[test]
    fn an_address_that_is_not_public_is_opened_by_its_own_name_alone() {
        // A name on the list may resolve to anything: whoever owns it decides.
        let objection = |allow: &str, private: &[&str], target: &str, address: &str, own: bool| {
            let rules = rules(&[allow], private);
            let target = Target::read(target, None).unwrap();
            let line = rules.line_for(&target).expect("the target fits").clone();
            rules.objection(&line, address.parse().unwrap(), own)
        };
        let named = |private: &[&str], address| objection("a.test:80", private, "a.test:80", address, false);
        assert_eq!(named(&[], "1.1.1.1"), None);
        for private in ["127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3", "169.254.169.254", "fd00:ec2::254", "::1"]
        {
            assert!(named(&[], private).is_some(), "{private}");
        }
        assert_eq!(named(&["10.1.0.0/16"], "10.1.2.3"), None);
        assert_eq!(named(&["10.1.0.0/16"], "::ffff:10.1.2.3"), None);
        assert!(named(&["10.1.0.0/16"], "10.2.2.3").is_some());
        assert!(named(&["169.254.0.0/16"], "169.254.169.254").is_some(), "a range opens no metadata");
        assert!(named(&["fd00::/8"], "fd00:ec2::254").is_some());
        assert_eq!(named(&["169.254.169.254"], "169.254.169.254"), None);
        assert!(objection("a.test:80", &[], "a.test:80", "1.1.1.1", true).is_some(), "this machine's own");
        assert_eq!(objection("127.0.0.1:80", &[], "127.0.0.1:80", "127.0.0.1", false), None);
        assert!(objection("*:80", &[], "127.0.0.1:80", "127.0.0.1", false).is_some());
        assert_eq!(objection("*:80", &[], "1.1.1.1:80", "1.1.1.1", false), None);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_refused_at_once() {
        for wrong in [
            "example.org",
            "example.org:https",
            "*.*.org:1",
            "a*.org:1",
            "*.1.2.3.4:1",
            "http://a:1",
            ":1",
            "",
        ] {
            let said = Rules::read(&[wrong.to_owned()], &[]).unwrap_err();
            assert!(said.contains("allow-list"), "{said}");
        }
        assert!(Rules::read(&[], &["10.0.0.0/99".to_owned()]).is_err());
        assert!(rules(&["*:443"], &[]).is_wide() && !rules(&["*.a:443"], &[]).is_wide());
    }
}
