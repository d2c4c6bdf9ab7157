//! Whom the service is to an authorization server, and how it proves that: a client that the operator has registered, a document
//! that says who it is, or one that is registered right now (RFC 7591).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::form_urlencoded::byte_serialize;

use super::assertion::Key;
use super::discover::{Authority, same, shown};
use super::vault::Registered;
use super::{Client, Login, Proof, now_ms, random};
use crate::mcp::dial::Road;

/// How a client proves itself where tokens are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Method {
    /// Not at all: anybody can say that they are it, and what it is given goes to its redirect only.
    #[serde(rename = "none")]
    None,
    #[serde(rename = "client_secret_basic")]
    Basic,
    #[serde(rename = "client_secret_post")]
    Post,
    #[serde(rename = "private_key_jwt")]
    Key,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Method::None => "none",
            Method::Basic => "client_secret_basic",
            Method::Post => "client_secret_post",
            Method::Key => "private_key_jwt",
        }
    }
}

/// A client, ready to prove itself.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) method: Method,
    proof: Proven,
}

/// What it takes, without telling it to anybody who prints this.
#[derive(Clone)]
enum Proven {
    Nothing,
    Secret(String),
    Key(std::path::PathBuf),
}

impl Identity {
    /// The client that the operator has registered, at an authority that takes one of these ways to prove itself.
    pub(super) fn of(client: &Client, authority: &Authority) -> Result<Identity, String> {
        let takes = |method: Method| takes(authority, method);
        let (method, proof) = match &client.proof {
            Proof::Nothing => (Method::None, Proven::Nothing),
            Proof::Secret(hidden) => {
                // One of the two there is; a server that names neither knows its clients by the first (RFC 8414, 2).
                let method =
                    if !takes(Method::Basic) && takes(Method::Post) { Method::Post } else { Method::Basic };
                (method, Proven::Secret(hidden.read()?))
            }
            Proof::Key(file) => {
                let algorithm = Key::read(file)?.algorithm();
                let taken = &authority.token_endpoint_auth_signing_alg_values_supported;
                if taken.as_ref().is_some_and(|taken| taken.iter().all(|taken| taken != algorithm)) {
                    let taken = shown(&taken.clone().unwrap_or_default().join(", "));
                    return Err(format!(
                        "where clients log in takes signatures by {taken}, and the key makes {algorithm}"
                    ));
                }
                (Method::Key, Proven::Key(file.clone()))
            }
        };
        Ok(Identity { id: client.id.clone(), method, proof })
    }

    /// The client that the operator has registered, at an authority that nothing more is known of.
    pub(super) fn configured(client: &Client) -> Result<Identity, String> {
        let (method, proof) = match &client.proof {
            Proof::Nothing => (Method::None, Proven::Nothing),
            Proof::Secret(hidden) => (Method::Basic, Proven::Secret(hidden.read()?)),
            Proof::Key(file) => (Method::Key, Proven::Key(file.clone())),
        };
        Ok(Identity { id: client.id.clone(), method, proof })
    }

    /// A client by this name, as it proved itself when its login was made.
    pub(super) fn again(
        login: &Login,
        registered: Option<&Registered>,
        id: &str,
        method: Method,
    ) -> Result<Identity, String> {
        let configured = login.client.as_ref().filter(|client| client.id == id);
        let proof = match (method, configured.map(|client| &client.proof)) {
            (Method::None, _) => Proven::Nothing,
            (_, Some(Proof::Secret(hidden))) => Proven::Secret(hidden.read()?),
            (_, Some(Proof::Key(file))) => Proven::Key(file.clone()),
            (_, Some(Proof::Nothing) | None) => {
                let secret = registered.filter(|known| known.id == id).and_then(|known| known.secret.clone());
                Proven::Secret(secret.ok_or("what its client proves itself with is gone")?)
            }
        };
        Ok(Identity { id: id.to_owned(), method, proof })
    }

    /// Adds the proof to a request for a token of `issuer`: fields of its form, and the value of `Authorization` if it is that.
    pub(super) fn prove(
        &self,
        issuer: &str,
        form: &mut Vec<(&'static str, String)>,
    ) -> Result<Option<String>, String> {
        match (&self.proof, self.method) {
            (Proven::Secret(secret), Method::Basic) => {
                let part = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let both = format!("{}:{}", part(&self.id), part(secret));
                return Ok(Some(format!("Basic {}", STANDARD.encode(both))));
            }
            (Proven::Secret(secret), _) => form.push(("client_secret", secret.clone())),
            (Proven::Key(file), _) => {
                let assertion = Key::read(file)?.assert(&self.id, issuer, now_ms() / 1000, &random()?)?;
                form.push(("client_assertion", assertion));
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                form.push(("client_assertion_type", kind.to_owned()));
            }
            (Proven::Nothing, _) => {}
        }
        form.push(("client_id", self.id.clone()));
        Ok(None)
    }
}

/// Whom the service is when a person logs in, by redirect to `redirect`. What was registered before is used again.
pub(super) async fn identify(
    road: &Road,
    login: &Login,
    known: Option<&Registered>,
    authority: &Authority,
    redirect: &str,
) -> Result<(Identity, Option<Registered>), String> {
    if let Some(client) = &login.client {
        return Ok((Identity::of(client, authority)?, None));
    }
    if let Some(document) =
        login.document.as_ref().filter(|_| authority.client_id_metadata_document_supported)
    {
        let (method, proof) = (Method::None, Proven::Nothing);
        return Ok((Identity { id: document.clone(), method, proof }, None));
    }
    let usable = |known: &&Registered| same(&known.issuer, &authority.issuer) && known.redirect == redirect;
    let registered = match known.filter(usable) {
        Some(known) => known.clone(),
        None => register(road, authority, redirect).await?,
    };
    let proof = registered.secret.clone().map_or(Proven::Nothing, Proven::Secret);
    let identity = Identity { id: registered.id.clone(), method: registered.method, proof };
    Ok((identity, Some(registered)))
}

/// What a registration answers.
#[derive(Deserialize)]
struct Answer {
    client_id: String,
    client_secret: Option<String>,
    token_endpoint_auth_method: Option<String>,
}

async fn register(road: &Road, authority: &Authority, redirect: &str) -> Result<Registered, String> {
    let Some(endpoint) = &authority.registration_endpoint else {
        return Err(format!(
            "{} registers no clients by itself; register one there, for the redirect {redirect}, and name it in the settings as client_id of the login",
            shown(&authority.issuer)
        ));
    };
    // Nothing to keep secret is the least that can get lost.
    let wanted =
        [Method::None, Method::Basic, Method::Post].into_iter().find(|method| takes(authority, *method));
    let wanted = wanted.unwrap_or(Method::Basic);
    let body = json!({
        "client_name": "saga",
        "redirect_uris": [redirect],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": wanted.name(),
        "application_type": "native",
    });
    let headers = [("content-type", "application/json".to_owned())];
    let (status, text) = road.post(endpoint, &headers, body.to_string().into_bytes()).await?;
    if !status.is_success() {
        return Err(format!(
            "{} does not register the service: {}",
            shown(&authority.issuer),
            super::token::said(status, &text)
        ));
    }
    let answer: Answer = serde_json::from_slice(&text)
        .map_err(|_| format!("what {} answers to a registration cannot be read", shown(&authority.issuer)))?;
    let said = answer.token_endpoint_auth_method.as_deref();
    let method = match said {
        None => wanted,
        Some(said) => [Method::None, Method::Basic, Method::Post]
            .into_iter()
            .find(|method| method.name() == said)
            .ok_or_else(|| {
                format!("it registers the service as a client that proves itself by {:?}", shown(said))
            })?,
    };
    // A secret that nobody asks for is none.
    let secret = answer.client_secret.filter(|_| method != Method::None);
    if method != Method::None && secret.is_none() {
        return Err("it registers the service as a client with a secret, and gives none".to_owned());
    }
    let (issuer, redirect) = (authority.issuer.clone(), redirect.to_owned());
    Ok(Registered { issuer, id: answer.client_id, secret, method, redirect })
}

/// Whether clients may prove themselves so. An authority that says nothing means the first way that there was.
fn takes(authority: &Authority, method: Method) -> bool {
    match &authority.token_endpoint_auth_methods_supported {
        None => method == Method::Basic,
        Some(methods) => methods.iter().any(|taken| taken == method.name()),
    }
}
