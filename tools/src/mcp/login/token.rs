//! What it takes to get a token, and to get a new one for an old: requests to the place where tokens are given out (OAuth 2.1, 3.2;
//! RFC 8693, 7523 for a company's own logins).

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use url::form_urlencoded::Serializer;

use super::challenge;
use super::client::Identity;
use super::discover::shown;
use crate::mcp::dial::Road;

/// A token, as it is given out.
#[derive(Deserialize)]
pub(super) struct Token {
    pub(super) access_token: String,
    #[serde(default)]
    token_type: String,
    #[serde(default)]
    issued_token_type: String,
    pub(super) refresh_token: Option<String>,
    expires_in: Option<Value>,
    scope: Option<String>,
}

/// Why there is none.
pub(super) enum Refused {
    /// It was said no, and it will be said again: somebody has to log in.
    For(String),
    /// It could not be asked, or said nothing that can be read; another time may be better.
    Now(String),
}

impl Refused {
    pub(super) fn why(self) -> String {
        let (Refused::For(why) | Refused::Now(why)) = self;
        why
    }
}

/// What is asked with.
pub(super) enum Grant<'a> {
    /// A person was there, and this is the code that they came back with.
    Code { code: &'a str, verifier: &'a str, redirect: &'a str },
    /// An older token.
    Refresh(&'a str),
    /// The client is asked for itself.
    Client,
    /// A company's word that one of its people may (an identity assertion).
    Assertion(&'a str),
    /// Who somebody is, in exchange for such a word: for this authorization server.
    Exchange { id_token: &'a str, audience: &'a str },
}

/// What all requests of one login have in common.
pub(super) struct Desk<'a> {
    pub(super) road: &'a Road,
    pub(super) endpoint: &'a str,
    pub(super) issuer: &'a str,
    pub(super) identity: &'a Identity,
    /// What the token is for.
    pub(super) resource: &'a str,
}

const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const ASSERTION: &str = "urn:ietf:params:oauth:token-type:id-jag";

impl Desk<'_> {
    /// Asks for a token that is good for `scopes`, as far as the grant leaves a choice.
    pub(super) async fn ask(&self, grant: Grant<'_>, scopes: &[String]) -> Result<Token, Refused> {
        let mut form: Vec<(&'static str, String)> = vec![("resource", self.resource.to_owned())];
        let mut add = |name, value: &str| form.push((name, value.to_owned()));
        // A code has its scopes already, and a new token for an old has those of the old one.
        let mut choice = true;
        let exchanged = matches!(grant, Grant::Exchange { .. });
        match grant {
            Grant::Code { code, verifier, redirect } => {
                choice = false;
                add("grant_type", "authorization_code");
                add("code", code);
                add("code_verifier", verifier);
                add("redirect_uri", redirect);
            }
            Grant::Refresh(token) => {
                choice = false;
                add("grant_type", "refresh_token");
                add("refresh_token", token);
            }
            Grant::Client => add("grant_type", "client_credentials"),
            Grant::Assertion(assertion) => {
                add("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
                add("assertion", assertion);
            }
            Grant::Exchange { id_token, audience } => {
                add("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
                add("requested_token_type", ASSERTION);
                add("subject_token", id_token);
                add("subject_token_type", ID_TOKEN);
                add("audience", audience);
            }
        }
        if choice && !scopes.is_empty() {
            add("scope", &scopes.join(" "));
        }
        let proof = self.identity.prove(self.issuer, &mut form).map_err(Refused::Now)?;
        let mut headers = vec![("content-type", "application/x-www-form-urlencoded".to_owned())];
        headers.extend(proof.map(|proof| ("authorization", proof)));
        let body = Serializer::new(String::new()).extend_pairs(&form).finish();
        let (status, text) =
            self.road.post(self.endpoint, &headers, body.into_bytes()).await.map_err(Refused::Now)?;
        let at = shown(self.issuer);
        if !status.is_success() {
            let why = format!("{at} gives no token: {}", said(status, &text));
            let lasting = status.is_client_error()
                && status != StatusCode::TOO_MANY_REQUESTS
                && status != StatusCode::REQUEST_TIMEOUT;
            return Err(if lasting { Refused::For(why) } else { Refused::Now(why) });
        }
        // What serde says of a value would hold the token.
        let token: Token = serde_json::from_slice(&text)
            .map_err(|_| Refused::Now(format!("what {at} gives as a token cannot be read")))?;
        let kind = if exchanged { token.issued_token_type == ASSERTION } else { token.is_for_bearers() };
        if !kind || token.access_token.is_empty() {
            return Err(Refused::Now(format!("{at} gives a token of a kind that is not known here")));
        }
        Ok(token)
    }
}

impl Token {
    fn is_for_bearers(&self) -> bool {
        // It has to be said (RFC 6749, 5.1); that it is left out has been seen, and means the same.
        self.token_type.is_empty() || self.token_type.eq_ignore_ascii_case("bearer")
    }

    /// How long it holds, if that is said. Milliseconds: some write the number of seconds as a text.
    pub(super) fn lasts_ms(&self) -> Option<u64> {
        let said = self.expires_in.as_ref()?;
        let secs = said.as_f64().or_else(|| said.as_str()?.trim().parse().ok())?;
        (secs.is_finite() && secs >= 0.0).then_some((secs * 1000.0) as u64)
    }

    /// What it is good for: what was asked, unless something else is said.
    pub(super) fn scopes(&self, asked: &[String]) -> Vec<String> {
        self.scope.as_deref().map_or_else(|| asked.to_vec(), challenge::scopes)
    }
}

/// An answer that is no, in words: a stranger's, so short and harmless.
pub(super) fn said(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct No {
        error: String,
        error_description: Option<String>,
    }
    match serde_json::from_slice::<No>(body) {
        Ok(No { error, error_description: Some(more) }) => format!("{} ({})", shown(&error), shown(&more)),
        Ok(No { error, error_description: None }) => shown(&error),
        Err(_) => format!("HTTP {status}"),
    }
}
