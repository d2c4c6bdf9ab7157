//! Logging in to a server behind a URL, as the protocol's authorization says (OAuth 2.1).
//! <https://modelcontextprotocol.io/specification/2025-11-25/basic/authorization>
//!
//! ```text
//! challenge  what a server says when it turns a request away
//! discover   where it lets clients log in, by what it and its authorization server say of themselves
//! client     whom the service is there, and how it proves that (assertion)
//! token      requests for a token
//! vault      where what was given lies
//! keys       what a connection does about it
//! visit      a person's part of it
//! ```
//!
//! Every request goes the way that all requests to servers go (`mcp/dial.rs`). A server chooses where clients log in unless the
//! settings do, so that place has to be public and encrypted, or named by the operator.

mod assertion;
mod challenge;
mod client;
mod discover;
mod keys;
mod token;
mod vault;
mod visit;

pub(super) use challenge::Challenge;
pub(super) use keys::Keys;
pub use visit::Visit;

use std::fmt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::dial::Place;

/// What the operator says of a server's login. All of it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// Who logs in.
    pub who: Who,
    /// The client that the operator has registered where clients log in. Without one the service registers itself.
    pub client: Option<Client>,
    /// The URL of a document that says who the service is, for where such are taken (client ID metadata documents).
    pub document: Option<String>,
    /// Where clients log in. Left out, the server says so.
    pub issuer: Option<String>,
    /// What is asked for, and nothing else. Left out, the server says so.
    pub scopes: Vec<String>,
    /// The port at this machine's loopback that a person is sent back to. Left out, any that is free.
    pub redirect_port: Option<u16>,
    /// The folder that what was given lies in. Without one there are no logins.
    pub folder: Option<PathBuf>,
}

/// Who logs in to a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Who {
    /// A person, once, with a browser.
    #[default]
    Person,
    /// The service itself (client credentials).
    Client,
    /// The service, by a company's word for one of its people (enterprise-managed authorization).
    Company(Box<Company>),
}

/// Where a company says who its people are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Company {
    /// Where its identity provider exchanges tokens.
    pub token_endpoint: String,
    /// The client that the operator has registered there.
    pub client: Client,
    /// Who the person is, as the identity provider has signed it.
    pub id_token: Hidden,
}

/// A client that the operator has registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its name.
    pub id: String,
    /// What it proves itself with.
    pub proof: Proof,
}

/// What a client proves itself with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: it is a public one.
    Nothing,
    /// A secret.
    Secret(Hidden),
    /// A file with a private key (PKCS #8, PEM), which signs what it says.
    Key(PathBuf),
}

/// Where something secret is. It is read when it is needed, so that it can be changed, and is in no settings.
#[derive(Clone, PartialEq, Eq)]
pub enum Hidden {
    /// A variable of the service's environment.
    Env(String),
    /// A file.
    File(PathBuf),
}

/// How it stands with a server's login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// There is none, and none was asked for.
    Unasked,
    /// The server wants somebody to log in, or one who is in to ask for more.
    Wanted {
        /// What it asks for, if it says so.
        scopes: Vec<String>,
    },
    /// There is one.
    In {
        /// Where.
        issuer: String,
        /// What it is good for.
        scopes: Vec<String>,
        /// How long its token still holds, if that is known. Seconds.
        left_s: Option<u64>,
        /// Whether it is renewed then without anybody.
        renews: bool,
    },
}

/// The longest scope, and the most of them, that settings may name.
const SCOPE_CHARS_MAX: usize = 256;
const SCOPES_MAX: usize = 64;

impl Login {
    /// Whether this can work. The error says what is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("login: {what}"));
        if let Some(issuer) = &self.issuer {
            Place::of(issuer).map_err(|why| format!("login: issuer: {why}"))?;
        }
        if self.document.as_ref().is_some_and(|document| !document.starts_with("https://")) {
            return wrong(
                "client_document must begin with https://, and others must be able to read it there",
            );
        }
        if self.redirect_port == Some(0) {
            return wrong("redirect_port must be 1 to 65535");
        }
        let fits = |scope: &String| {
            // RFC 6749, 3.3.
            let plain = scope.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b'"' && b != b'\\');
            !scope.is_empty() && scope.len() <= SCOPE_CHARS_MAX && plain
        };
        if self.scopes.len() > SCOPES_MAX || !self.scopes.iter().all(fits) {
            return wrong("each of scopes must be one word");
        }
        if self.who != Who::Person && self.client.is_none() {
            return wrong("a service that logs in by itself needs a client_id");
        }
        match (&self.who, self.client.as_ref().map(|client| &client.proof)) {
            (Who::Client, Some(Proof::Nothing)) => wrong(
                "a service that logs in by itself needs a client_secret_env, client_secret_file or client_key_file",
            ),
            (Who::Company(company), _) => Place::of(&company.token_endpoint)
                .map(drop)
                .map_err(|why| format!("login: company: token_endpoint: {why}")),
            (Who::Person | Who::Client, _) => Ok(()),
        }
    }
}

impl Who {
    /// As it is written down with a login.
    fn name(&self) -> &'static str {
        match self {
            Who::Person => "person",
            Who::Client => "client",
            Who::Company(_) => "company",
        }
    }
}

impl Hidden {
    /// What is there, without the white space around it.
    fn read(&self) -> Result<String, String> {
        let found = match self {
            Hidden::Env(name) => std::env::var(name).map_err(|_| {
                format!("the service's environment has no {name}; set it where saga is started")
            })?,
            Hidden::File(file) => std::fs::read_to_string(file)
                .map_err(|error| format!("{} cannot be read: {error}", file.display()))?,
        };
        match found.trim() {
            "" => Err(format!("{self:?} is empty")),
            found => Ok(found.to_owned()),
        }
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hidden::Env(name) => write!(f, "the variable {name}"),
            Hidden::File(file) => write!(f, "the file {}", file.display()),
        }
    }
}

/// Something that nobody can guess, in the letters of URLs.
fn random() -> Result<String, String> {
    let mut bytes = [0; 32];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(n) if n == bytes.len() => Ok(URL_SAFE_NO_PAD.encode(bytes)),
        Ok(_) | Err(_) => Err("the system gives no random numbers".to_owned()),
    }
}

/// What shows that somebody knows a text, without the text (RFC 7636, S256).
fn digest(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(text))
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_the_digest_that_the_standard_gives() {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(digest(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert_ne!(random().unwrap(), random().unwrap());
        assert_eq!(random().unwrap().len(), 43);
    }
}
