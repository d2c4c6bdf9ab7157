//! A person's part of a login: a page that they visit, and the URL that it sends them back to.

use std::sync::Arc;

use serde_json::json;
use url::Url;

use crate::mcp::dial::{self, Road};
use crate::mcp::{Address, Server, Way};

use super::challenge::Challenge;
use super::client::{Identity, identify};
use super::discover::{Found, discover, shown};
use super::keys::{holds, select, with};
use super::token::{Desk, Grant, Refused};
use super::vault::{Granted, Registered, Vault};
use super::{Standing, Who, digest, now_ms, random};

/// The longest URL that somebody may come back with. Bytes.
const BACK_BYTES_MAX: usize = 16 << 10;

/// A login under way: somebody is to visit its URL.
pub struct Visit {
    url: String,
    server: Server,
    road: Road,
    vault: Vault,
    found: Found,
    identity: Identity,
    registered: Option<Registered>,
    redirect: String,
    state: String,
    verifier: String,
    asked: Vec<String>,
}

impl Visit {
    /// The page that a person has to visit.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whom the login is at.
    pub fn issuer(&self) -> String {
        shown(&self.found.authority.issuer)
    }

    /// What is asked for. Empty: what that place gives unasked.
    pub fn scopes(&self) -> &[String] {
        &self.asked
    }

    /// Whether a URL is the end of this login, well or not: browsers ask for other things too, and anybody can knock.
    pub fn is_answered_by(&self, back: &str) -> bool {
        given(back, &self.redirect).is_ok_and(|url| value(&url, "state").as_deref() == Some(&self.state))
    }

    /// Ends the login with the URL that the page has sent the person back to, and keeps what it gives.
    ///
    /// # Errors
    /// In words, for that person. The login then has to be begun anew.
    pub async fn finish(self, back: &str) -> Result<(), String> {
        let issuer = &self.found.authority;
        let must_say = issuer.authorization_response_iss_parameter_supported;
        let code = code(back, &self.redirect, &self.state, &issuer.issuer, must_say)?;
        let desk = Desk {
            road: &self.road,
            endpoint: &issuer.token_endpoint,
            issuer: &issuer.issuer,
            identity: &self.identity,
            resource: &self.found.resource,
        };
        let grant = Grant::Code { code: &code, verifier: &self.verifier, redirect: &self.redirect };
        let token = desk.ask(grant, &[]).await.map_err(Refused::why)?;
        let held = self.vault.lock().await?;
        let mut kept = self.vault.read()?;
        let granted = Granted {
            who: Who::Person.name().to_owned(),
            client: self.identity.id.clone(),
            method: self.identity.method,
            issuer: issuer.issuer.clone(),
            token_endpoint: issuer.token_endpoint.clone(),
            resource: self.found.resource.clone(),
            access_token: String::new(),
            refresh_token: None,
            expires_at_ms: None,
            scopes: self.asked.clone(),
            asked: self.asked.clone(),
        };
        kept.granted = Some(with(granted, token));
        kept.registered = self.registered.clone().or(kept.registered);
        kept.wanted = None;
        self.vault.write(&held, &kept)
    }
}

/// The code that somebody came back with, if it is the answer to what was asked.
fn code(back: &str, redirect: &str, state: &str, issuer: &str, must_say: bool) -> Result<String, String> {
    let url = given(back, redirect)?;
    let given = |name: &str| value(&url, name);
    // First of all: an answer to somebody else's question is not even read.
    if given("state").as_deref() != Some(state) {
        return Err(
            "that is no answer to this login; visit the URL above and take the address it ends at".to_owned()
        );
    }
    // Whoever answers for another authorization server would get the code (RFC 9207).
    match given("iss") {
        Some(said) if said != issuer => {
            return Err(format!("the answer is from {:?}, and not from {issuer}", shown(&said)));
        }
        None if must_say => return Err("the answer does not say whom it is from, which it should".to_owned()),
        Some(_) | None => {}
    }
    if let Some(error) = given("error") {
        let more = given("error_description").map(|more| format!(" ({})", shown(&more))).unwrap_or_default();
        return Err(format!("the login was refused: {}{more}", shown(&error)));
    }
    given("code").ok_or_else(|| "the answer holds no code".to_owned())
}

/// The URL that somebody came back with, whole or without what it has in common with the redirect.
fn given(back: &str, redirect: &str) -> Result<Url, String> {
    let back = back.trim();
    let base = Url::parse(redirect).map_err(|error| error.to_string())?;
    let url = base.join(back).ok().filter(|_| back.len() <= BACK_BYTES_MAX);
    url.ok_or_else(|| {
        "that is no URL; paste the whole address of the page that the login ended at".to_owned()
    })
}

fn value(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

impl Server {
    /// Begins a login: finds out where, registers the service if need be, and says which page a person has to visit, who is then
    /// sent back to `redirect`, at this machine's loopback.
    ///
    /// # Errors
    /// In words, for whoever wants to log in.
    pub async fn log_in(&self, redirect: &str) -> Result<Visit, String> {
        let address = self.with_login()?;
        if address.login.who != Who::Person {
            return Err("its login needs nobody: the service logs in by itself".to_owned());
        }
        let vault = self.vault(address)?;
        let road = Road::new(&self.name, address, Arc::default())?;
        let kept = vault.read()?;
        let challenge = match kept.wanted.clone() {
            Some(wanted) => Challenge { metadata: wanted.metadata, scopes: wanted.scopes, error: None },
            None => probe(&road, address).await?,
        };
        let found = discover(&road, &address.url, &address.login, &challenge).await?;
        let authority = &found.authority;
        let at = shown(&authority.issuer);
        let Some(endpoint) = &authority.authorization_endpoint else {
            return Err(format!(
                "{at} lets no people log in; if a client can by itself, set as = \"client\""
            ));
        };
        if !authority.has_pkce() {
            return Err(format!(
                "{at} does not protect the codes that it gives (PKCE with S256), so nobody is sent there"
            ));
        }
        road.leads_to_a_login(endpoint)?;
        let (identity, registered) =
            identify(&road, &address.login, kept.registered.as_ref(), authority, redirect).await?;
        let asked = select(&address.login, &challenge, &found, &[])?;
        let (state, verifier) = (random()?, random()?);
        let mut url = Url::parse(endpoint)
            .map_err(|_| format!("the page to log in, {:?}, is no URL", shown(endpoint)))?;
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("response_type", "code");
            query.append_pair("client_id", &identity.id);
            query.append_pair("redirect_uri", redirect);
            query.append_pair("state", &state);
            query.append_pair("code_challenge", &digest(&verifier));
            query.append_pair("code_challenge_method", "S256");
            query.append_pair("resource", &found.resource);
            if !asked.is_empty() {
                query.append_pair("scope", &asked.join(" "));
            }
        }
        Ok(Visit {
            url: url.into(),
            server: self.clone(),
            road,
            vault,
            found,
            identity,
            registered,
            redirect: redirect.to_owned(),
            state,
            verifier,
            asked,
        })
    }

    /// How it stands with its login; nothing for a server that is not at a URL, or has nowhere to keep one.
    ///
    /// # Errors
    /// What is kept cannot be read.
    pub fn standing(&self) -> Result<Standing, String> {
        let Ok(address) = self.with_login() else { return Ok(Standing::Unasked) };
        let kept = self.vault(address)?.read()?;
        if let Some(wanted) = kept.wanted {
            return Ok(Standing::Wanted { scopes: wanted.scopes });
        }
        match kept.granted.filter(|granted| holds(&address.login, granted)) {
            None => Ok(Standing::Unasked),
            Some(granted) => {
                let left = granted.expires_at_ms.map(|at| at.saturating_sub(now_ms()) / 1000);
                let renews = granted.refresh_token.is_some() || address.login.who != Who::Person;
                Ok(Standing::In { issuer: granted.issuer, scopes: granted.scopes, left_s: left, renews })
            }
        }
    }

    /// The port of this machine's loopback that somebody who logs in has to come back to, by the settings.
    pub fn redirect_port(&self) -> Option<u16> {
        self.with_login().ok()?.login.redirect_port
    }

    /// The port that the service has registered itself with: with another one it registers itself anew.
    pub fn registered_port(&self) -> Option<u16> {
        let kept = self.vault(self.with_login().ok()?).ok()?.read().ok()?;
        Url::parse(&kept.registered?.redirect).ok()?.port()
    }

    /// Forgets its login. Whether there was one.
    ///
    /// # Errors
    /// What is kept cannot be removed.
    pub async fn log_out(&self) -> Result<bool, String> {
        let vault = self.vault(self.with_login()?)?;
        let held = vault.lock().await?;
        vault.clear(&held)
    }

    fn with_login(&self) -> Result<&Address, String> {
        match &self.way {
            Way::Command { .. } => Err("it is a command in the sandbox, and needs no login".to_owned()),
            Way::Url(address) if address.has_key() => {
                Err("its settings give it a key, in the header Authorization".to_owned())
            }
            Way::Url(address) => Ok(address),
        }
    }

    fn vault(&self, address: &Address) -> Result<Vault, String> {
        let folder = address.login.folder.as_deref().ok_or("there is no folder to keep a login in")?;
        Ok(Vault::new(folder, &self.name, &address.url))
    }
}

/// What a server says to somebody who comes without a login.
async fn probe(road: &Road, address: &Address) -> Result<Challenge, String> {
    let hello = json!({
        "jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {},
                   "clientInfo": {"name": "saga", "version": env!("CARGO_PKG_VERSION")}},
    });
    let headers = dial::headers(&address.headers)?;
    let response = road.say(&address.url, headers, hello.to_string().into_bytes()).await?;
    Ok(Challenge::of(response.headers()))
}

impl std::fmt::Debug for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the state nor the verifier: with them, somebody else could end it.
        f.debug_struct("Visit").field("server", &self.server.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_this_very_login_is_taken() {
        // Anybody can send a browser to the loopback, with a code of their own.
        let redirect = "http://127.0.0.1:7/callback";
        let take = |back: &str, must_say| code(back, redirect, "s1", "https://a.test", must_say);
        assert_eq!(take("http://127.0.0.1:7/callback?code=c%20d&state=s1", false), Ok("c d".to_owned()));
        assert_eq!(take("  /callback?state=s1&code=c\n", false), Ok("c".to_owned()));
        assert_eq!(take("?state=s1&code=c&iss=https%3A%2F%2Fa.test", true), Ok("c".to_owned()));
        let no = |back: &str, must_say, why: &str| {
            let said = take(back, must_say).unwrap_err();
            assert!(said.contains(why), "{said}");
        };
        no("?code=c", false, "no answer to this login");
        no("?code=c&state=other", false, "no answer to this login");
        no("?error=access_denied&state=other", false, "no answer to this login");
        no("?state=s1&code=c&iss=https%3A%2F%2Fevil.test", false, "evil.test");
        no("?state=s1&code=c", true, "does not say whom");
        no("?state=s1&error=access_denied&error_description=no%1b[31m", false, "refused: access_denied");
        no("?state=s1", false, "no code");
        no("http://[", false, "paste the whole address");
    }
}
