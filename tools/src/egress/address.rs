//! Addresses that are not the public internet: where a proxy must never lead by mistake.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is named when an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
    /// What clouds hand out credentials at.
    Metadata,
    /// Any other that is not the public internet, in a word.
    Reserved(&'static str),
}

impl Special {
    pub(super) fn name(self) -> &'static str {
        match self {
            Special::Metadata => "cloud metadata",
            Special::Reserved(name) => name,
        }
    }
}

/// IPv4 ranges that no public host has: the special-purpose registry, multicast and what is reserved (RFC 6890, 5771, 1112).
const V4: [(Ipv4Addr, u8, &str); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this host"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "carrier-grade NAT"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "protocol assignments"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation"),
    (Ipv4Addr::new(192, 31, 196, 0), 24, "name-server anycast"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relay"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// IPv6 ranges within 2000::/3 that lead elsewhere than they say, or nowhere. What lies outside of 2000::/3 is no public
/// host (RFC 4291), with one exception: see [`embedded`].
const V6: [(Ipv6Addr, u8, &str); 5] = [
    // Teredo, ORCHID and other protocols' own.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "protocol assignments"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "documentation"),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "6to4"),
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48, "name-server anycast"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "documentation"),
];

const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// One spelling for each address: IPv4 in IPv6 is the IPv4 address that would be dialled.
pub(super) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Why an address is no public host; nothing when it is one.
pub(super) fn special(address: IpAddr) -> Option<Special> {
    let address = canonical(address);
    if METADATA.contains(&address) {
        return Some(Special::Metadata);
    }
    let found = match address {
        IpAddr::V4(v4) => V4
            .iter()
            .find(|(base, bits, _)| Range::of((*base).into(), *bits).contains(v4.into()))
            .map(|r| r.2),
        IpAddr::V6(v6) => match embedded(v6) {
            // A translator dials the address inside, so that is what counts.
            Some(inside) => return special(inside.into()),
            None if v6.segments()[0] & 0xe000 != 0x2000 => Some(beyond_global(v6)),
            None => V6
                .iter()
                .find(|(base, bits, _)| Range::of((*base).into(), *bits).contains(v6.into()))
                .map(|r| r.2),
        },
    };
    found.map(Special::Reserved)
}

fn beyond_global(address: Ipv6Addr) -> &'static str {
    match address.segments()[0] {
        0 if address.is_loopback() => "loopback",
        0xfc00..=0xfdff => "private",
        0xfe80..=0xfebf => "link-local",
        0xff00..=0xffff => "multicast",
        _ => "reserved",
    }
}

/// The IPv4 address in one of the well-known prefix for translation (64:ff9b::/96, RFC 6052): networks without IPv4 reach
/// the public IPv4 internet by it, and with the same ease everything else.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, 0, 0, 0, 0, high, low] = address.segments() else { return None };
    let [[w, x], [y, z]] = [high.to_be_bytes(), low.to_be_bytes()];
    ((a, b) == (0x64, 0xff9b)).then(|| Ipv4Addr::new(w, x, y, z))
}

/// A range of addresses, as an operator names it: `10.1.0.0/16`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    base: IpAddr,
    bits: u8,
}

impl Range {
    fn of(base: IpAddr, bits: u8) -> Range {
        Range { base, bits }
    }

    /// Reads one. The error says what is expected.
    pub(super) fn parse(text: &str) -> Result<Range, String> {
        let wrong = |why: &str| format!("{text:?} is no range of addresses such as 10.1.0.0/16: {why}");
        let (base, bits) = text.split_once('/').map_or((text, None), |(base, bits)| (base, Some(bits)));
        let base: IpAddr = base.parse().map_err(|_| wrong("it has no IP address"))?;
        let whole = if base.is_ipv4() { 32 } else { 128 };
        let bits =
            bits.map_or(Ok(whole), |bits| bits.parse::<u8>().map_err(|_| wrong("it has no length")))?;
        if bits > whole {
            return Err(wrong("its length is more than an address has"));
        }
        if base != canonical(base) {
            return Err(wrong("write IPv4 addresses as such"));
        }
        if masked(base, bits) != bits_of(base) {
            return Err(wrong("it has bits beyond its length"));
        }
        Ok(Range { base, bits })
    }

    pub(super) fn contains(self, address: IpAddr) -> bool {
        self.base.is_ipv4() == address.is_ipv4() && masked(address, self.bits) == bits_of(self.base)
    }

    /// Whether it is one address and no more.
    pub(super) fn is_one(self) -> bool {
        self.bits == if self.base.is_ipv4() { 32 } else { 128 }
    }
}

/// An address as a number, from the top: of 32 bits or of 128.
fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn masked(address: IpAddr, bits: u8) -> u128 {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    bits_of(address) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(address: &str) -> Option<&'static str> {
        special(address.parse().unwrap()).map(Special::name)
    }

    #[test]
    fn what_is_not_the_public_internet_is_known_in_every_spelling() {
        // Each of these has been a way around somebody's filter.
        for (address, name) in [
            ("0.0.0.0", "this host"),
            ("0.1.2.3", "this host"),
            ("10.0.0.1", "private"),
            ("10.255.255.255", "private"),
            ("100.64.0.1", "carrier-grade NAT"),
            ("100.127.255.255", "carrier-grade NAT"),
            ("127.0.0.1", "loopback"),
            ("127.255.1.1", "loopback"),
            ("169.254.1.1", "link-local"),
            ("169.254.169.254", "cloud metadata"),
            ("100.100.100.200", "cloud metadata"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("198.19.0.1", "benchmarking"),
            ("203.0.113.9", "documentation"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.250", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("::", "reserved"),
            ("::1", "loopback"),
            ("::7f00:1", "reserved"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:a9fe:a9fe", "cloud metadata"),
            ("::ffff:0:7f00:1", "reserved"),
            ("64:ff9b::127.0.0.1", "loopback"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b::169.254.169.254", "cloud metadata"),
            ("64:ff9b:1::1", "reserved"),
            ("100::1", "reserved"),
            ("2001::1", "protocol assignments"),
            ("2001:db8::1", "documentation"),
            ("2002:7f00:1::", "6to4"),
            ("3fff::1", "documentation"),
            ("5f00::1", "reserved"),
            ("fc00::1", "private"),
            ("fd00:ec2::254", "cloud metadata"),
            ("fd00:ec2::253", "private"),
            ("fe80::1", "link-local"),
            ("fec0::1", "reserved"),
            ("ff02::1", "multicast"),
        ] {
            assert_eq!(named(address), Some(name), "{address}");
        }
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert_eq!(named(public), None, "{public}");
        }
    }

    #[test]
    fn a_range_is_read_exactly_or_not_at_all() {
        // A typing error in a range opens more than was meant.
        let contains = |range: &str, address: &str| {
            Range::parse(range).unwrap().contains(canonical(address.parse().unwrap()))
        };
        assert!(contains("10.1.0.0/16", "10.1.255.255") && !contains("10.1.0.0/16", "10.2.0.0"));
        assert!(contains("10.1.0.0/16", "::ffff:10.1.0.1"));
        assert!(contains("10.1.2.3", "10.1.2.3") && !contains("10.1.2.3", "10.1.2.4"));
        assert!(contains("fd00::/8", "fdff::1") && !contains("fd00::/8", "fc00::1"));
        assert!(contains("0.0.0.0/0", "1.2.3.4") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "::1") && !contains("::/0", "1.2.3.4"));
        for wrong in ["10.1.0.0/33", "10.1.0.1/16", "10.1/16", "::ffff:10.0.0.0/104", "x", "10.0.0.0/", ""] {
            assert!(Range::parse(wrong).is_err(), "{wrong}");
        }
    }
}
