//! What was reached for: every decision, told once for each target however often it was asked for.

use std::net::IpAddr;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// How many targets are told one by one between two times somebody asks; of more there is only the number.
const CONTACTS_MAX: usize = 64;

/// A target that something in a session reached for, and what was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// The host, in one spelling.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The address that was judged, when it came to that; the same one was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// How it was asked for.
    pub way: Way,
    /// Whether it was let through.
    pub allowed: bool,
    /// The line of the allow-list it fits, or the setting that names it; or why it was refused.
    pub rule: String,
    /// Whether a secret of the operator's went along.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
    /// How often.
    pub times: u32,
}

/// How something reaches out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// A tunnel through the proxy (CONNECT).
    Connect,
    /// A plain HTTP request through the proxy.
    Http,
    /// A tunnel through the proxy (SOCKS 5).
    Socks,
    /// The tool `fetch`.
    Fetch,
    /// The service itself, for a server of tools that the settings name: what it is asked, and where it lets clients log in.
    Mcp,
}

/// The contacts of a session that nobody has asked for yet.
#[derive(Debug, Default)]
pub(crate) struct Contacts {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    contacts: Vec<Contact>,
    /// For each, the number of its latest decision.
    latest: Vec<u64>,
    decisions: u64,
    more: u64,
}

impl Contacts {
    /// Notes a decision.
    pub(super) fn note(&self, contact: Contact) {
        let mut kept = lock(&self.kept);
        kept.decisions += 1;
        let (number, same) =
            (kept.decisions, |known: &Contact| Contact { times: contact.times, ..known.clone() } == contact);
        if let Some(at) = kept.contacts.iter().position(same) {
            kept.contacts[at].times = kept.contacts[at].times.saturating_add(contact.times);
            kept.latest[at] = number;
        } else if kept.contacts.len() < CONTACTS_MAX {
            // Once each, like the event: a loop must not fill the log either.
            tracing::info!(
                host = contact.host,
                port = contact.port,
                address = contact.address.map(tracing::field::display),
                way = ?contact.way,
                allowed = contact.allowed,
                rule = contact.rule,
                "egress"
            );
            kept.contacts.push(contact);
            kept.latest.push(number);
        } else {
            kept.more += 1;
        }
    }

    /// All of them, and how many decisions were made beyond those; afterwards there are none.
    pub(crate) fn take(&self) -> (Vec<Contact>, u64) {
        let mut kept = lock(&self.kept);
        kept.latest.clear();
        (std::mem::take(&mut kept.contacts), std::mem::take(&mut kept.more))
    }

    /// A place to ask for what came after it.
    pub(crate) fn now(&self) -> u64 {
        lock(&self.kept).decisions
    }

    /// What was refused since then, in words for a model: `example.org:443 (it is not on the list)`.
    pub(crate) fn refused_since(&self, place: u64) -> Vec<String> {
        let kept = lock(&self.kept);
        let refused = kept
            .contacts
            .iter()
            .zip(&kept.latest)
            .filter(|(contact, latest)| !contact.allowed && **latest > place);
        let mut told: Vec<String> = refused
            .map(|(contact, _)| format!("{}:{} ({})", contact.host, contact.port, contact.rule))
            .collect();
        told.dedup();
        told
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(host: &str, allowed: bool) -> Contact {
        Contact {
            host: host.to_owned(),
            port: 443,
            address: None,
            way: Way::Connect,
            allowed,
            rule: "r".to_owned(),
            secret: false,
            times: 1,
        }
    }

    #[test]
    fn a_flood_of_attempts_is_a_few_lines() {
        // A loop that knocks a million times must not write a million events.
        let contacts = Contacts::default();
        for n in 0..10_000 {
            contacts.note(contact("a.test", n % 2 == 0));
            contacts.note(contact(&format!("{n}.test"), false));
        }
        let (told, more) = contacts.take();
        assert_eq!(told.len(), CONTACTS_MAX);
        assert_eq!((told[0].times, told[0].allowed), (5_000, true));
        let all: u64 = told.iter().map(|contact| u64::from(contact.times)).sum::<u64>() + more;
        assert_eq!(all, 20_000);
        assert_eq!(contacts.take(), (Vec::new(), 0));
    }

    #[test]
    fn a_command_is_told_what_it_was_refused_and_nothing_older() {
        let contacts = Contacts::default();
        contacts.note(contact("old.test", false));
        let place = contacts.now();
        contacts.note(contact("fine.test", true));
        contacts.note(contact("new.test", false));
        assert_eq!(contacts.refused_since(place), ["new.test:443 (r)"]);
        contacts.note(contact("old.test", false));
        assert_eq!(contacts.refused_since(place).len(), 2);
    }
}
