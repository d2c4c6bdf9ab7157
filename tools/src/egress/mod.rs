//! The way out of a sandbox: only where the operator says, and only through here.
//!
//! ```text
//! command ── 127.0.0.1:3128, inside ── proxy ─┐
//!                                             ├─ gate: list → name, once → address → dial
//! the tool fetch ── page ─────────────────────┘
//! a server of tools ── named: the setting that names it → name, once → address → dial
//! ```
//!
//! A sandbox has a network of its own with nothing in it but loopback. Where the operator opens something, the session's
//! anchor makes a listener inside that network and hands it to the service, which answers there. So a command reaches a
//! process that judges what it asks for, and nothing else: no route, no name server, no socket of the host.
//!
//! Everything that is asked for is judged by the gate and told as a [`Contact`].

mod address;
mod contacts;
mod forward;
mod gate;
mod html;
mod inside;
mod named;
mod page;
mod proxy;
mod rules;
mod secret;
mod socks;
mod stream;
mod tls;

pub(crate) use contacts::Contacts;
pub use contacts::{Contact, Way};
pub(crate) use gate::{Gate, Names, Refusal};
pub(crate) use inside::{BUNDLE, Inside, PORT};
pub(crate) use named::Named;
pub(crate) use page::{NoPage, PAGE_BYTES, PAGE_BYTES_MAX, Page, get, host_of};
pub(crate) use proxy::Proxy;
pub(crate) use rules::{Host, Target};
pub use secret::Secret;
pub(crate) use tls::{server_name, trusting};

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use rules::Rules;
use secret::{Injected, Scheme};
use tls::{Authority, Roots};

/// What a session may carry through the proxy when the operator does not say. Bytes.
pub const BYTES_MAX: u64 = 4 << 30;

/// What the operator opens.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Lines such as `example.org:443`, `*.example.org:443` (what is below it), `10.1.2.3:5432`, `[fd00::1]:80` and `*:443`
    /// (every public host). None open nothing.
    pub allow: Vec<String>,
    /// Ranges of addresses that names on the list may lead to although they are not public: `10.1.0.0/16`. An address that
    /// stands on the list itself needs none.
    pub allow_private: Vec<String>,
    /// What goes along with requests to some hosts.
    pub secrets: Vec<Secret>,
    /// A file of certificates (PEM) that are trusted besides this machine's.
    pub ca_file: Option<PathBuf>,
    /// What a session may carry to and fro. Bytes.
    pub bytes_max: u64,
    /// Whether calls that can reach out wait for somebody's word, as what reaches beyond the workspace does. With a line
    /// `*:port` they do in any case: it names nobody.
    pub ask: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            allow: Vec::new(),
            allow_private: Vec::new(),
            secrets: Vec::new(),
            ca_file: None,
            bytes_max: BYTES_MAX,
            ask: false,
        }
    }
}

/// What the operator opens, read and ready: made once for a service and shared by its sessions.
pub struct Egress {
    rules: Rules,
    names: Names,
    secrets: Vec<Injected>,
    /// What it takes to be each host whose requests carry a secret.
    standing: Vec<(Target, Arc<rustls::ServerConfig>)>,
    roots: Roots,
    inside: Inside,
    bytes_max: u64,
    ask: bool,
}

impl Egress {
    /// Reads what the operator opens. An empty list is one that refuses everything.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn new(settings: Settings) -> Result<Arc<Egress>, String> {
        Egress::build(settings, Names::System).map(Arc::new)
    }

    pub(crate) fn build(settings: Settings, names: Names) -> Result<Egress, String> {
        let rules = Rules::read(&settings.allow, &settings.allow_private)?;
        let secrets: Vec<Injected> = settings.secrets.iter().map(Injected::read).collect::<Result<_, _>>()?;
        for secret in &secrets {
            if rules.line_for(&secret.target).is_none() {
                return Err(format!("{}: that host is not on the allow-list", secret.told()));
            }
        }
        let roots = Roots::read(settings.ca_file.as_deref())?;
        let encrypted: Vec<&Injected> =
            secrets.iter().filter(|secret| secret.scheme == Scheme::Tls).collect();
        let authority = (!encrypted.is_empty()).then(Authority::new).transpose()?;
        let standing = encrypted.iter().map(|secret| {
            let authority = authority.as_ref().expect("there is one when a secret is encrypted");
            Ok((secret.target.clone(), authority.stand_for(secret.host())?))
        });
        let standing = standing.collect::<Result<_, String>>()?;
        let needed = authority.is_some() || settings.ca_file.is_some();
        let bundle = needed.then(|| roots.bundle(authority.as_ref()));
        let inside = Inside::new(bundle, rules.names(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let Settings { bytes_max, ask, .. } = settings;
        Ok(Egress { rules, names, secrets, standing, roots, inside, bytes_max, ask })
    }

    /// Whether anything can be reached at all.
    pub fn is_open(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Whether hosts are open that the operator has not named.
    pub fn is_wide(&self) -> bool {
        self.rules.is_wide()
    }

    /// Whether calls that can reach out reach beyond what the operator has vouched for.
    pub(crate) fn asks(&self) -> bool {
        self.ask || self.is_wide()
    }

    /// The lines of the list, as they were written.
    pub fn lines(&self) -> Vec<&str> {
        self.rules.lines().collect()
    }

    /// Which secrets go where, without them.
    pub fn secrets(&self) -> Vec<String> {
        self.secrets.iter().map(Injected::told).collect()
    }

    pub(crate) fn inside(&self) -> &Inside {
        &self.inside
    }

    /// What it takes to be a host, when its requests carry a secret.
    fn standing_for(&self, target: &Target) -> Option<Arc<rustls::ServerConfig>> {
        self.standing.iter().find(|(standing, _)| standing == target).map(|(_, server)| server.clone())
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither keys nor secrets.
        f.debug_struct("Egress").field("lines", &self.lines()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_for_a_host_that_is_not_open_is_a_mistake() {
        // It would never be used, and its owner would look for the reason elsewhere.
        let settings = |allow: &str| Settings {
            allow: vec![allow.to_owned()],
            secrets: vec![Secret {
                host: "api.example.org".to_owned(),
                header: "authorization".to_owned(),
                value: "Bearer hunter2hunter2".to_owned(),
            }],
            ..Settings::default()
        };
        let said = Egress::new(settings("example.org:443")).unwrap_err();
        assert!(said.contains("not on the allow-list") && !said.contains("hunter2"), "{said}");
        let open = Egress::new(settings("*.example.org:443")).unwrap();
        assert_eq!(open.secrets(), ["authorization for https://api.example.org:443"]);
        assert!(!format!("{open:?}").contains("hunter2"));
        let bundle = open.inside().bundle.as_deref().unwrap();
        assert!(bundle.contains("BEGIN CERTIFICATE") && !bundle.contains("PRIVATE"));
        assert!(!Egress::new(Settings::default()).unwrap().is_open());
    }
}
