//! What a connection does about a login: which token goes along with a request, and what to do when it is turned away.

use std::sync::Arc;
use std::time::Duration;

use crate::mcp::dial::Road;

use super::challenge::Challenge;
use super::client::Identity;
use super::discover::{Found, discover, same};
use super::token::{Desk, Grant, Refused, Token};
use super::vault::{Granted, Held, Kept, Vault, Wanted};
use super::{Company, Login, Who, now_ms};

/// A token that ends sooner than this is renewed before it is used.
const NEARLY: Duration = Duration::from_secs(60);

/// The keys to one server.
#[derive(Debug)]
pub(crate) struct Keys {
    /// What the server is called in the settings.
    name: String,
    url: String,
    road: Arc<Road>,
    login: Login,
    vault: Vault,
}

impl Keys {
    /// The keys to the server `name`; none when there is no place to keep them.
    pub(crate) fn new(name: &str, url: &str, login: &Login, road: Arc<Road>) -> Option<Keys> {
        let vault = Vault::new(login.folder.as_deref()?, name, url);
        Some(Keys { name: name.to_owned(), url: url.to_owned(), road, login: login.clone(), vault })
    }

    /// The token that goes along with the next request, if there is one.
    pub(crate) async fn token(&self) -> Result<Option<String>, String> {
        let Some(granted) = self.granted(&self.vault.read()?) else { return Ok(None) };
        let nearly = u64::try_from(NEARLY.as_millis()).unwrap_or(u64::MAX);
        let left = granted.expires_at_ms.map(|at| at.saturating_sub(now_ms()));
        let renews = granted.refresh_token.is_some() || self.login.who != Who::Person;
        if !renews || left.is_none_or(|left| left > nearly) {
            return Ok(Some(granted.access_token));
        }
        match self.renew(&granted.access_token, &Challenge::default()).await {
            Ok(()) => Ok(self.granted(&self.vault.read()?).map(|granted| granted.access_token)),
            // It still is good for what is left of it.
            Err(_) if left != Some(0) => Ok(Some(granted.access_token)),
            Err(why) => Err(why),
        }
    }

    /// A request was turned away, with this token or none. When it is worth another try, there is nothing more to say.
    pub(crate) async fn challenged(&self, challenge: &Challenge, used: Option<&str>) -> Result<(), String> {
        match used {
            Some(used) if challenge.wants_more() => self.widen(used, challenge).await,
            used => self.renew(used.unwrap_or_default(), challenge).await,
        }
    }

    /// Gets a token in place of one that is not taken any more.
    async fn renew(&self, used: &str, challenge: &Challenge) -> Result<(), String> {
        let held = self.vault.lock().await?;
        let mut kept = self.vault.read()?;
        let granted = self.granted(&kept);
        // Somebody else has got one meanwhile.
        if granted.as_ref().is_some_and(|granted| granted.access_token != used) {
            return Ok(());
        }
        if self.login.who != Who::Person {
            let before = granted.map(|granted| granted.asked).unwrap_or_default();
            return self.obtain(&held, kept, challenge, before).await;
        }
        if let Some((granted, refresh)) =
            granted.and_then(|granted| Some((granted.clone(), granted.refresh_token?)))
        {
            let identity =
                Identity::again(&self.login, kept.registered.as_ref(), &granted.client, granted.method)?;
            let desk = Desk {
                road: &self.road,
                endpoint: &granted.token_endpoint,
                issuer: &granted.issuer,
                identity: &identity,
                resource: &granted.resource,
            };
            match desk.ask(Grant::Refresh(&refresh), &[]).await {
                Ok(token) => {
                    let next = Granted { refresh_token: Some(refresh), ..granted };
                    kept.granted = Some(with(next, token));
                    kept.wanted = None;
                    return self.vault.write(&held, &kept);
                }
                Err(Refused::Now(why)) => return Err(format!("its login could not be renewed: {why}")),
                Err(Refused::For(why)) => {
                    tracing::info!(server = self.name, why, "a login is not renewed any more")
                }
            }
        }
        kept.granted = None;
        self.want(&held, kept, challenge, &[])
    }

    /// Gets a token that is good for more.
    async fn widen(&self, used: &str, challenge: &Challenge) -> Result<(), String> {
        let held = self.vault.lock().await?;
        let kept = self.vault.read()?;
        let Some(granted) = self.granted(&kept) else { return self.want(&held, kept, challenge, &[]) };
        if granted.access_token != used {
            return Ok(());
        }
        let lacks: Vec<&str> = challenge.scopes.iter().map(String::as_str).collect();
        if challenge.scopes.iter().all(|scope| granted.asked.contains(scope)) {
            // To ask again would end the same way, for as often as it is tried.
            return Err(format!(
                "its login is not good for this, and to log in again would not change that ({})",
                super::discover::shown(&lacks.join(" "))
            ));
        }
        if self.login.who != Who::Person {
            return self.obtain(&held, kept, challenge, granted.asked).await;
        }
        self.want(&held, kept, challenge, &granted.asked)
    }

    /// Writes down what the server wants, for whoever logs in next; the error says that somebody has to.
    fn want(
        &self,
        held: &Held,
        mut kept: Kept,
        challenge: &Challenge,
        before: &[String],
    ) -> Result<(), String> {
        let scopes = both(before, &challenge.scopes);
        let told = match challenge.wants_more() {
            true => format!(
                "its login is not good for this (it asks for {})",
                super::discover::shown(&scopes.join(" "))
            ),
            false => "it wants somebody to log in".to_owned(),
        };
        kept.wanted = Some(Wanted { metadata: challenge.metadata.clone(), scopes });
        self.vault.write(held, &kept)?;
        Err(format!("{told}: run `saga mcp login {}` where this service runs", self.name))
    }

    /// Gets a token for which no person is needed.
    async fn obtain(
        &self,
        held: &Held,
        mut kept: Kept,
        challenge: &Challenge,
        before: Vec<String>,
    ) -> Result<(), String> {
        let found = discover(&self.road, &self.url, &self.login, challenge).await?;
        let Found { resource, authority, .. } = &found;
        let issuer_before = kept.granted.as_ref().map(|granted| granted.issuer.as_str());
        if self.login.issuer.is_none() && issuer_before.is_some_and(|before| !same(before, &authority.issuer))
        {
            return Err(format!(
                "it now lets clients log in at {}; if that is right, name it in the settings as issuer of the login",
                super::discover::shown(&authority.issuer)
            ));
        }
        let Some(client) = &self.login.client else {
            return Err("its login needs a client_id in the settings".to_owned());
        };
        let identity = Identity::of(client, authority)?;
        let asked = select(&self.login, challenge, &found, &before)?;
        let desk = Desk {
            road: &self.road,
            endpoint: &authority.token_endpoint,
            issuer: &authority.issuer,
            identity: &identity,
            resource,
        };
        let token = match &self.login.who {
            Who::Company(company) => {
                let word = self.word_of(company, &found, &asked).await?;
                desk.ask(Grant::Assertion(&word), &asked).await
            }
            Who::Client | Who::Person => desk.ask(Grant::Client, &asked).await,
        };
        let token = token.map_err(Refused::why)?;
        let granted = Granted {
            who: self.login.who.name().to_owned(),
            client: identity.id.clone(),
            method: identity.method,
            issuer: authority.issuer.clone(),
            token_endpoint: authority.token_endpoint.clone(),
            resource: resource.clone(),
            access_token: String::new(),
            refresh_token: None,
            expires_at_ms: None,
            scopes: asked.clone(),
            asked,
        };
        kept.granted = Some(with(granted, token));
        kept.wanted = None;
        self.vault.write(held, &kept)
    }

    /// The company's word that one of its people may use the server.
    async fn word_of(&self, company: &Company, found: &Found, scopes: &[String]) -> Result<String, String> {
        let issuer = &company.token_endpoint;
        let identity = Identity::configured(&company.client)?;
        let desk = Desk {
            road: &self.road,
            endpoint: issuer,
            issuer,
            identity: &identity,
            resource: &found.resource,
        };
        let id_token = company.id_token.read()?;
        let grant = Grant::Exchange { id_token: &id_token, audience: &found.authority.issuer };
        desk.ask(grant, scopes).await.map(|token| token.access_token).map_err(Refused::why)
    }

    /// What was granted, if it is what the settings still ask for.
    fn granted(&self, kept: &Kept) -> Option<Granted> {
        let granted = kept.granted.as_ref()?;
        holds(&self.login, granted).then(|| granted.clone())
    }
}

/// Whether a login is the one that the settings ask for: they may have been changed since.
pub(super) fn holds(login: &Login, granted: &Granted) -> bool {
    granted.who == login.who.name()
        && login.issuer.as_ref().is_none_or(|issuer| same(issuer, &granted.issuer))
        && login.client.as_ref().is_none_or(|client| client.id == granted.client)
}

/// A login with a new token. What is not said of the new one holds as it did of the one before.
pub(super) fn with(granted: Granted, token: Token) -> Granted {
    Granted {
        scopes: token.scopes(&granted.scopes),
        expires_at_ms: token.lasts_ms().map(|ms| now_ms().saturating_add(ms)),
        refresh_token: token.refresh_token.or(granted.refresh_token),
        access_token: token.access_token,
        ..granted
    }
}

/// What to ask for: what the settings say and nothing else; or what the server asks for right now, else all it has, and what
/// there was before.
pub(super) fn select(
    login: &Login,
    challenge: &Challenge,
    found: &Found,
    before: &[String],
) -> Result<Vec<String>, String> {
    if !login.scopes.is_empty() {
        let beyond =
            challenge.scopes.iter().find(|scope| challenge.wants_more() && !login.scopes.contains(scope));
        return match beyond {
            Some(scope) => Err(format!(
                "it asks for {:?}, which is not among the scopes of its login in the settings",
                super::discover::shown(scope)
            )),
            None => Ok(login.scopes.clone()),
        };
    }
    let now = if challenge.scopes.is_empty() { &found.scopes } else { &challenge.scopes };
    let mut asked = both(before, now);
    let offline = "offline_access";
    let offers =
        found.authority.scopes_supported.as_ref().is_some_and(|all| all.iter().any(|one| one == offline));
    // So that the login can be renewed when nobody is there (SEP-2207).
    if login.who == Who::Person && offers && !asked.iter().any(|scope| scope == offline) {
        asked.push(offline.to_owned());
    }
    Ok(asked)
}

fn both(before: &[String], now: &[String]) -> Vec<String> {
    let mut all = before.to_vec();
    all.extend(now.iter().filter(|scope| !before.contains(scope)).cloned());
    all
}
