//! The one way out: a target is held against the list, its name resolved once, the address judged, and that address dialled.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::Egress;
use super::address;
use super::contacts::{Contact, Contacts, Way};
use super::rules::{Host, Target};
use super::secret::{Injected, Scheme};
use super::stream::{Bounded, Meter};

/// How long a name may take to resolve, and an address to answer.
const RESOLVE_WALL: Duration = Duration::from_secs(10);
const CONNECT_WALL: Duration = Duration::from_secs(10);

/// How many addresses of a name are tried.
pub(super) const ADDRESSES_MAX: usize = 4;

/// A session's way out.
#[derive(Debug)]
pub(crate) struct Gate {
    egress: Arc<Egress>,
    contacts: Contacts,
    meter: Arc<Meter>,
}

/// A target that may be reached, at these addresses and no others.
#[derive(Debug, Clone)]
pub(super) struct Passed {
    pub(super) target: Target,
    addresses: Vec<SocketAddr>,
}

/// Why something cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The operator's list does not let it through.
    Denied(String),
    /// It does, but nobody answers there.
    Unreachable(String),
    /// What was asked is no request that can be answered.
    Wrong(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Refusal::Denied(why) | Refusal::Unreachable(why) | Refusal::Wrong(why)) = self;
        f.write_str(why)
    }
}

impl Gate {
    pub(crate) fn new(egress: Arc<Egress>) -> Gate {
        let meter = Arc::new(Meter::new(egress.bytes_max));
        Gate { egress, contacts: Contacts::default(), meter }
    }

    pub(crate) fn contacts(&self) -> &Contacts {
        &self.contacts
    }

    pub(crate) fn egress(&self) -> &Egress {
        &self.egress
    }

    /// Decides whether a target may be reached, and notes the decision.
    pub(super) async fn judge(&self, target: &Target, scheme: Scheme, way: Way) -> Result<Passed, Refusal> {
        let decided = self.decide(target).await;
        let (address, allowed, rule) = match &decided {
            Ok((rule, addresses)) => (addresses.first().map(SocketAddr::ip), true, rule.clone()),
            Err((address, why)) => (*address, false, why.clone()),
        };
        self.contacts.note(Contact {
            host: target.host.to_string(),
            port: target.port,
            address,
            way,
            allowed,
            secret: allowed && !self.secrets(target, scheme).is_empty(),
            rule,
            times: 1,
        });
        match decided {
            Ok((_, addresses)) => Ok(Passed { target: target.clone(), addresses }),
            Err((_, why)) => Err(Refusal::Denied(format!("{target} is refused: {why}"))),
        }
    }

    /// The line that lets it through, and the addresses to dial; or the address that stands against it, and why.
    async fn decide(&self, target: &Target) -> Result<(String, Vec<SocketAddr>), (Option<IpAddr>, String)> {
        let Some(line) = self.egress.rules.line_for(target) else {
            return Err((None, "it is not on the allow-list".to_owned()));
        };
        if self.meter.is_full() {
            return Err((None, "the session has carried all that it may".to_owned()));
        }
        let found = match &target.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self.egress.names.resolve(name).await.map_err(|why| (None, why))?,
        };
        let (mut good, mut bad) = (Vec::new(), None);
        for address in found.into_iter().map(address::canonical) {
            match self.egress.rules.objection(line, address, is_own(address)) {
                None => good.push(SocketAddr::new(address, target.port)),
                Some(why) => bad = Some((Some(address), why)),
            }
        }
        // Twice the same address is one.
        good.dedup();
        good.truncate(ADDRESSES_MAX);
        match (good.is_empty(), bad) {
            (false, _) => Ok((line.text.clone(), good)),
            (true, Some(bad)) => Err(bad),
            (true, None) => Err((None, "its name has no address".to_owned())),
        }
    }

    /// Dials what has passed.
    pub(super) async fn dial(&self, passed: &Passed) -> Result<Bounded<TcpStream>, Refusal> {
        let stream = connect(&passed.addresses).await;
        let stream = stream
            .map_err(|why| Refusal::Unreachable(format!("{} cannot be reached: {why}", passed.target)))?;
        Ok(Bounded::new(stream, Some(self.meter.clone())))
    }

    /// The secrets that go along with what is spoken with a target.
    pub(super) fn secrets(&self, target: &Target, scheme: Scheme) -> Vec<&Injected> {
        self.egress.secrets.iter().filter(|secret| secret.is_for(target, scheme)).collect()
    }
}

/// Connects to the first of these that answers; or says why the last one does not.
pub(super) async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut why = String::new();
    for address in addresses {
        match tokio::time::timeout(CONNECT_WALL, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small requests go out at once; a socket that cannot do that is only slower.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = format!("no answer within {} s", CONNECT_WALL.as_secs()),
        }
    }
    Err(why)
}

/// Whether an address is one of this machine's. The kernel says by which address it would speak with it: a machine speaks
/// with itself by the very address. Nothing is sent.
pub(super) fn is_own(address: IpAddr) -> bool {
    let any: SocketAddr = match address {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let spoken_by = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind(any)?;
        // Port 9 is the one that throws away what comes.
        socket.connect((address, 9))?;
        Ok(socket.local_addr()?.ip())
    };
    spoken_by().is_ok_and(|own| own == address)
}

/// Which addresses a name has, as somebody makes it up.
type MadeUp = dyn Fn(&str) -> Vec<IpAddr> + Send + Sync;

/// Who says which addresses a name has.
pub(crate) enum Names {
    /// This machine, as for all its programs.
    System,
    /// Somebody who makes them up, to see what comes of it.
    Told(Box<MadeUp>),
}

impl Names {
    pub(super) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        match self {
            Names::Told(told) => Ok(told(name)),
            Names::System => {
                let found = tokio::time::timeout(RESOLVE_WALL, tokio::net::lookup_host((name, 0))).await;
                match found {
                    Ok(Ok(found)) => Ok(found.map(|found| found.ip()).collect()),
                    Ok(Err(_)) => Err("its name cannot be resolved".to_owned()),
                    Err(_) => Err("its name takes too long to resolve".to_owned()),
                }
            }
        }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Names::System => "System",
            Names::Told(_) => "Told",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::Settings;
    use std::net::TcpListener;
    use std::sync::Mutex;

    fn gate(allow: &[String], private: &[&str], names: Names) -> Gate {
        let settings = Settings {
            allow: allow.to_vec(),
            allow_private: private.iter().map(|range| (*range).to_owned()).collect(),
            ..Settings::default()
        };
        Gate::new(Arc::new(Egress::build(settings, names).unwrap()))
    }

    async fn tried(gate: &Gate, target: &str) -> Result<IpAddr, String> {
        let target = Target::read(target, None).unwrap();
        let passed = gate.judge(&target, Scheme::Tls, Way::Connect).await.map_err(|why| why.to_string())?;
        let stream = gate.dial(&passed).await.map_err(|why| why.to_string())?;
        drop(stream);
        Ok(passed.addresses[0].ip())
    }

    #[tokio::test]
    async fn a_name_is_resolved_once_and_what_was_judged_is_dialled() {
        // A name that answers with a harmless address first and with loopback afterwards must get nowhere by it.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(0));
        let count = asked.clone();
        let names = Names::Told(Box::new(move |_| {
            let mut asked = count.lock().unwrap();
            *asked += 1;
            // The first is opened below; only the second would be answered by what must not be reached.
            vec![if *asked == 1 { "127.0.0.7" } else { "127.0.0.1" }.parse().unwrap()]
        }));
        let gate = gate(&[format!("rebind.test:{port}")], &["127.0.0.7"], names);
        let said = tried(&gate, &format!("rebind.test:{port}")).await.unwrap_err();
        assert!(said.contains("cannot be reached"), "{said}");
        assert_eq!(*asked.lock().unwrap(), 1);
        let said = tried(&gate, &format!("rebind.test:{port}")).await.unwrap_err();
        assert!(said.contains("loopback"), "{said}");
        let (contacts, _) = gate.contacts().take();
        assert_eq!(contacts.iter().map(|contact| contact.allowed).collect::<Vec<_>>(), [true, false]);
        assert_eq!(contacts[0].address, Some("127.0.0.7".parse().unwrap()));
    }

    #[tokio::test]
    async fn of_a_names_addresses_only_those_that_may_be_are_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let names =
            || Names::Told(Box::new(|_| vec!["10.0.0.1".parse().unwrap(), "127.0.0.1".parse().unwrap()]));
        let allow = [format!("a.test:{port}")];
        let open = gate(&allow, &["127.0.0.1"], names());
        assert_eq!(tried(&open, &format!("a.test:{port}")).await, Ok("127.0.0.1".parse().unwrap()));
        let shut = gate(&allow, &[], names());
        assert!(tried(&shut, &format!("a.test:{port}")).await.is_err());
        let nobody = gate(&allow, &[], Names::Told(Box::new(|_| Vec::new())));
        assert!(tried(&nobody, &format!("a.test:{port}")).await.unwrap_err().contains("no address"));
    }

    #[test]
    fn a_machine_knows_its_own_addresses() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        assert!(!is_own("1.1.1.1".parse().unwrap()));
    }
}
