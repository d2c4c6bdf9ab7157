//! Hosts that the operator names in a setting of their own, beside the list: a server of tools, and where it lets clients log in.
//!
//! They are reached by the service, never from inside a sandbox. What is judged is the same: a name is resolved once, each
//! address judged, that very address dialled, and the decision told as a [`Contact`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpStream;

use super::address::{self, Range, Special};
use super::contacts::{Contact, Contacts, Way};
use super::gate::{self, Names, Refusal};
use super::rules::{Host, Target};

/// The name that every machine has for itself (RFC 6761).
const LOCALHOST: &str = "localhost";

/// What one setting opens.
#[derive(Debug)]
pub(crate) struct Named {
    /// The setting, as it is told: `mcp.docs`.
    setting: String,
    /// The hosts that stand in it. Who names an address means it, whatever kind of address it is.
    hosts: Vec<Host>,
    /// Addresses that are not public and that names may lead to all the same.
    private: Vec<Range>,
    names: Names,
    contacts: Arc<Contacts>,
}

impl Named {
    /// Reads a setting. The error says what is wrong with it.
    pub(crate) fn new(
        setting: impl Into<String>,
        hosts: Vec<Host>,
        private: &[String],
        contacts: Arc<Contacts>,
    ) -> Result<Named, String> {
        Ok(Named {
            setting: setting.into(),
            hosts,
            private: private.iter().map(|range| Range::parse(range)).collect::<Result<_, _>>()?,
            names: Names::System,
            contacts,
        })
    }

    /// Whether the operator has written this very host into the setting.
    pub(crate) fn names(&self, host: &Host) -> bool {
        self.hosts.contains(host)
    }

    /// Dials a target, if its addresses may be. `what` says what for, after the setting's name; `secret`, whether a key of
    /// the operator's goes along.
    pub(crate) async fn dial(&self, target: &Target, what: &str, secret: bool) -> Result<TcpStream, Refusal> {
        match self.find(&target.host).await {
            Ok(found) => {
                let rule = format!("{}{what}", self.setting);
                self.note(target, found.first().copied(), Ok(rule), secret);
                let found: Vec<SocketAddr> =
                    found.into_iter().map(|address| (address, target.port).into()).collect();
                gate::connect(&found)
                    .await
                    .map_err(|why| Refusal::Unreachable(format!("{target} cannot be reached: {why}")))
            }
            Err((address, why)) => {
                self.note(target, address, Err(why.clone()), false);
                Err(Refusal::Denied(format!("{target} is refused: {why}")))
            }
        }
    }

    /// Tells that a target was refused, without a look at its addresses.
    pub(crate) fn refuse(&self, target: &Target, why: &str) {
        self.note(target, None, Err(why.to_owned()), false);
    }

    fn note(&self, target: &Target, address: Option<IpAddr>, decided: Result<String, String>, secret: bool) {
        let allowed = decided.is_ok();
        self.contacts.note(Contact {
            host: target.host.to_string(),
            port: target.port,
            address,
            way: Way::Mcp,
            allowed,
            rule: decided.unwrap_or_else(|why| why),
            secret: allowed && secret,
            times: 1,
        });
    }

    /// The addresses of a host that may be dialled; or one that may not, and why.
    async fn find(&self, host: &Host) -> Result<Vec<IpAddr>, (Option<IpAddr>, String)> {
        let found = match host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self.names.resolve(name).await.map_err(|why| (None, why))?,
        };
        let (mut good, mut bad) = (Vec::new(), None);
        for address in found.into_iter().map(address::canonical) {
            match self.objection(host, address) {
                None => good.push(address),
                Some(why) => bad = Some((Some(address), why)),
            }
        }
        good.dedup();
        good.truncate(gate::ADDRESSES_MAX);
        match (good.is_empty(), bad) {
            (false, _) => Ok(good),
            (true, Some(bad)) => Err(bad),
            (true, None) => Err((None, "its name has no address".to_owned())),
        }
    }

    fn objection(&self, host: &Host, address: IpAddr) -> Option<String> {
        let special = address::special(address);
        let name = match special {
            Some(special) => special.name(),
            None if gate::is_own(address) => "this machine's own",
            None => return None,
        };
        // Who writes an address, or the one name that can only mean this machine, means it. Any other name is its owner's to lead
        // wherever they like.
        let meant = match host {
            Host::Address(_) => self.names(host),
            Host::Name(name) => name == LOCALHOST && address.is_loopback() && self.names(host),
        };
        let opened = self
            .private
            .iter()
            .any(|range| range.contains(address) && (range.is_one() || special != Some(Special::Metadata)));
        let setting = &self.setting;
        (!meant && !opened).then(|| {
            format!("{address} is {name}; the operator has to name it in allow_private of {setting}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(hosts: &[&str], private: &[&str], leads_to: &[&str]) -> Named {
        let hosts = hosts.iter().map(|host| Host::read(host).unwrap()).collect();
        let private: Vec<String> = private.iter().map(|&range| range.to_owned()).collect();
        let addresses: Vec<IpAddr> = leads_to.iter().map(|address| address.parse().unwrap()).collect();
        let names = Names::Told(Box::new(move |_| addresses.clone()));
        Named { names, ..Named::new("mcp.docs", hosts, &private, Arc::default()).unwrap() }
    }

    async fn found(named: &Named, host: &str) -> Result<Vec<String>, String> {
        let found = named.find(&Host::read(host).unwrap()).await;
        found.map(|all| all.iter().map(ToString::to_string).collect()).map_err(|(_, why)| why)
    }

    #[tokio::test]
    async fn a_name_leads_to_nothing_private_unless_the_operator_says_so() {
        // The operator has written the name; whoever owns it decides where it leads, today and tomorrow.
        let docs = |private: &[&str], leads_to: &[&str]| named(&["docs.test"], private, leads_to);
        assert_eq!(found(&docs(&[], &["1.1.1.1"]), "docs.test").await, Ok(vec!["1.1.1.1".to_owned()]));
        for private in ["127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3", "169.254.169.254", "fd00:ec2::254", "::1"]
        {
            let said = found(&docs(&[], &[private]), "docs.test").await.unwrap_err();
            assert!(said.ends_with("allow_private of mcp.docs"), "{said}");
        }
        let of_both = docs(&[], &["10.1.2.3", "1.1.1.1"]);
        assert_eq!(found(&of_both, "docs.test").await, Ok(vec!["1.1.1.1".to_owned()]));
        assert!(found(&docs(&["10.1.0.0/16"], &["10.1.2.3"]), "docs.test").await.is_ok());
        assert!(found(&docs(&["10.1.0.0/16"], &["10.2.2.3"]), "docs.test").await.is_err());
        assert!(found(&docs(&["169.254.0.0/16"], &["169.254.169.254"]), "docs.test").await.is_err());
        assert!(found(&docs(&["169.254.169.254"], &["169.254.169.254"]), "docs.test").await.is_ok());
    }

    #[tokio::test]
    async fn an_address_that_is_written_down_is_meant() {
        // `http://127.0.0.1:8000/mcp` in the settings names the very thing; another address beside it does not.
        let here = named(&["127.0.0.1", "localhost"], &[], &["127.0.0.1"]);
        for host in ["127.0.0.1", "0x7f.1", "localhost"] {
            assert_eq!(found(&here, host).await, Ok(vec!["127.0.0.1".to_owned()]), "{host}");
        }
        assert!(found(&here, "127.0.0.2").await.is_err());
        // This machine's name for itself leads nowhere else, whatever its resolver says.
        let astray = named(&["localhost"], &[], &["10.0.0.1"]);
        assert!(found(&astray, "localhost").await.is_err());
        // And it has to have been named.
        let other = named(&["docs.test"], &[], &["127.0.0.1"]);
        assert!(found(&other, "localhost").await.is_err());
    }

    #[tokio::test]
    async fn each_decision_is_told() {
        let docs = named(&["docs.test"], &[], &["10.0.0.1"]);
        let target = Target::read("docs.test:443", None).unwrap();
        let said = docs.dial(&target, "", true).await.unwrap_err();
        assert!(matches!(said, Refusal::Denied(_)), "{said:?}");
        let (contacts, _) = docs.contacts.take();
        let told = |contact: &Contact| (contact.host.clone(), contact.way, contact.allowed, contact.secret);
        assert_eq!(
            contacts.iter().map(told).collect::<Vec<_>>(),
            [("docs.test".to_owned(), Way::Mcp, false, false)]
        );
        assert_eq!(contacts[0].address, Some("10.0.0.1".parse().unwrap()));
    }
}
