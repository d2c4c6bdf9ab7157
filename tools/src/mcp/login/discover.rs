//! Where a server lets clients log in: what it says of itself (RFC 9728), and what its authorization server says of itself
//! (RFC 8414, OpenID Connect Discovery). Servers of the revision of March 2025 say nothing of themselves; then it is their own origin.

use serde::Deserialize;
use url::Url;

use super::Login;
use super::challenge::Challenge;
use crate::mcp::dial::Road;

/// The way of PKCE that there has to be.
const S256: &str = "S256";

/// How many names of a list in a document are looked at.
const LIST_MAX: usize = 64;

/// What there is to know before somebody logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// What a token is for (RFC 8707).
    pub(super) resource: String,
    /// What the server says tokens can be good for.
    pub(super) scopes: Vec<String>,
    pub(super) authority: Authority,
}

/// An authorization server, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Authority {
    pub(super) issuer: String,
    pub(super) authorization_endpoint: Option<String>,
    pub(super) token_endpoint: String,
    pub(super) registration_endpoint: Option<String>,
    pub(super) scopes_supported: Option<Vec<String>>,
    pub(super) token_endpoint_auth_methods_supported: Option<Vec<String>>,
    pub(super) token_endpoint_auth_signing_alg_values_supported: Option<Vec<String>>,
    pub(super) code_challenge_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    pub(super) client_id_metadata_document_supported: bool,
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
}

/// What a server says of itself.
#[derive(Debug, Deserialize)]
struct Resource {
    resource: String,
    #[serde(default)]
    authorization_servers: Vec<String>,
    #[serde(default)]
    scopes_supported: Vec<String>,
}

impl Authority {
    /// The endpoints that were usual before servers described themselves.
    fn usual(origin: &str) -> Authority {
        let at = |path: &str| format!("{origin}/{path}");
        Authority {
            issuer: origin.to_owned(),
            authorization_endpoint: Some(at("authorize")),
            token_endpoint: at("token"),
            registration_endpoint: Some(at("register")),
            scopes_supported: None,
            token_endpoint_auth_methods_supported: None,
            token_endpoint_auth_signing_alg_values_supported: None,
            code_challenge_methods_supported: Some(vec![S256.to_owned()]),
            client_id_metadata_document_supported: false,
            authorization_response_iss_parameter_supported: false,
        }
    }

    /// Whether a code that somebody else gets hold of is of no use to them here. Without that nobody is sent there.
    pub(super) fn has_pkce(&self) -> bool {
        self.code_challenge_methods_supported.as_ref().is_some_and(|ways| ways.iter().any(|way| way == S256))
    }
}

/// Finds out. The error says what is in the way, in words for the operator.
pub(super) async fn discover(
    road: &Road,
    url: &str,
    login: &Login,
    challenge: &Challenge,
) -> Result<Found, String> {
    let server = Url::parse(url).map_err(|error| format!("its URL: {error}"))?;
    let Some(resource) = describe(road, &server, challenge).await? else {
        let origin = server.origin().ascii_serialization();
        let authority = of_origin(road, &origin, login).await?;
        return Ok(Found { resource: canonical(&server), scopes: Vec::new(), authority });
    };
    if !covers(&resource.resource, &server) {
        return Err(format!(
            "it says of itself that it is {:?}, which is not its URL; a token for that is not asked for",
            shown(&resource.resource)
        ));
    }
    let named = resource.authorization_servers.iter().take(LIST_MAX);
    let issuer = match &login.issuer {
        None => named.map(String::as_str).next().ok_or("it names no place where clients log in")?,
        Some(issuer) => named.map(String::as_str).find(|named| same(named, issuer)).ok_or_else(|| {
            let named: Vec<String> =
                resource.authorization_servers.iter().map(|named| shown(named)).collect();
            format!("it lets clients log in at {}, and its settings say {issuer}", named.join(", "))
        })?,
    };
    let mut scopes = resource.scopes_supported;
    scopes.truncate(LIST_MAX);
    Ok(Found { resource: resource.resource, scopes, authority: of_issuer(road, issuer).await? })
}

/// What the server says of itself, if it does.
async fn describe(road: &Road, server: &Url, challenge: &Challenge) -> Result<Option<Resource>, String> {
    let (urls, told) = match &challenge.metadata {
        Some(url) => (vec![url.clone()], true),
        None => (resource_urls(server), false),
    };
    for url in urls {
        // A server speaks for itself; it cannot send us to ask somebody else who it is.
        let own = Url::parse(&url).is_ok_and(|url| url.origin() == server.origin());
        if !own {
            return Err(format!(
                "it says that what it is stands at {:?}, which is another host",
                shown(&url)
            ));
        }
        if let Some(text) = road.document(&url).await? {
            match serde_json::from_slice(&text) {
                Ok(resource) => return Ok(Some(resource)),
                Err(error) if told => return Err(format!("what it says of itself cannot be read: {error}")),
                Err(_) => {}
            }
        } else if told {
            return Err(format!("it says that what it is stands at {:?}, and there is nothing", shown(&url)));
        }
    }
    Ok(None)
}

async fn of_issuer(road: &Road, issuer: &str) -> Result<Authority, String> {
    let named = shown(issuer);
    let url = Url::parse(issuer).map_err(|_| format!("{named:?}, where clients log in, is no URL"))?;
    for url in authority_urls(&url) {
        let Some(text) = road.document(&url).await? else { continue };
        let Ok(authority) = serde_json::from_slice::<Authority>(&text) else { continue };
        if !same(&authority.issuer, issuer) {
            let other = shown(&authority.issuer);
            return Err(format!("{named}, where clients log in, says that it is {other}"));
        }
        return Ok(authority);
    }
    Err(format!("{named}, where clients log in, does not say how"))
}

/// A server that says nothing of itself is, by the revision of March 2025, its own authorization server.
async fn of_origin(road: &Road, origin: &str, login: &Login) -> Result<Authority, String> {
    if let Some(issuer) = login.issuer.as_ref().filter(|issuer| !same(issuer, origin)) {
        return Err(format!("it does not say that clients log in at {issuer}, which its settings name"));
    }
    let url = Url::parse(origin).map_err(|error| format!("its URL: {error}"))?;
    for at in authority_urls(&url) {
        let Some(text) = road.document(&at).await? else { continue };
        let Ok(authority) = serde_json::from_slice::<Authority>(&text) else { continue };
        // Its path may be another one in that revision; its host may not.
        if !Url::parse(&authority.issuer).is_ok_and(|issuer| issuer.origin() == url.origin()) {
            return Err(format!("it lets clients log in as {}, another host", shown(&authority.issuer)));
        }
        return Ok(authority);
    }
    Ok(Authority::usual(origin))
}

/// Where a server may describe itself when it does not say where (RFC 9728, 3.1).
fn resource_urls(server: &Url) -> Vec<String> {
    let origin = server.origin().ascii_serialization();
    let path = server.path().trim_end_matches('/');
    let root = format!("{origin}/.well-known/oauth-protected-resource");
    match path {
        "" => vec![root],
        path => vec![format!("{root}{path}"), root],
    }
}

/// Where an authorization server may describe itself (RFC 8414, 3.1; OpenID Connect Discovery, 4).
fn authority_urls(issuer: &Url) -> Vec<String> {
    let origin = issuer.origin().ascii_serialization();
    let (oauth, openid) = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration");
    match issuer.path().trim_end_matches('/') {
        "" => vec![format!("{origin}{oauth}"), format!("{origin}{openid}")],
        path => {
            vec![
                format!("{origin}{oauth}{path}"),
                format!("{origin}{openid}{path}"),
                format!("{origin}{path}{openid}"),
            ]
        }
    }
}

/// Whether a token for `resource` is one for this server: it is the server's own URL, or what that lies below.
fn covers(resource: &str, server: &Url) -> bool {
    let Ok(resource) = Url::parse(resource) else { return false };
    let path = resource.path().trim_end_matches('/');
    let below = server.path().strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    resource.origin() == server.origin() && below && resource.fragment().is_none()
}

/// A server's URL as the name of what tokens are for.
fn canonical(server: &Url) -> String {
    let mut url = server.clone();
    url.set_fragment(None);
    url.to_string()
}

/// Issuers are compared letter for letter; but a slash at the end is written and left out so often that it makes no difference.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.strip_suffix('/').unwrap_or(one) == other.strip_suffix('/').unwrap_or(other)
}

/// Words of a stranger's, short and harmless enough for a sentence.
pub(super) fn shown(text: &str) -> String {
    crate::mcp::schema::shortened(text, 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn documents_are_looked_for_where_the_standards_put_them_and_in_their_order() {
        // Another order would believe the wrong one of two that there are.
        assert_eq!(
            resource_urls(&url("https://a.test:8443/x/mcp?y=1")),
            [
                "https://a.test:8443/.well-known/oauth-protected-resource/x/mcp",
                "https://a.test:8443/.well-known/oauth-protected-resource"
            ]
        );
        assert_eq!(
            resource_urls(&url("https://a.test")),
            ["https://a.test/.well-known/oauth-protected-resource"]
        );
        assert_eq!(
            authority_urls(&url("https://a.test/tenant1/")),
            [
                "https://a.test/.well-known/oauth-authorization-server/tenant1",
                "https://a.test/.well-known/openid-configuration/tenant1",
                "https://a.test/tenant1/.well-known/openid-configuration"
            ]
        );
        assert_eq!(
            authority_urls(&url("https://a.test/")),
            [
                "https://a.test/.well-known/oauth-authorization-server",
                "https://a.test/.well-known/openid-configuration"
            ]
        );
    }

    #[test]
    fn a_token_is_asked_for_this_server_and_no_other() {
        // A server that has itself called by another's name would get tokens that open the other.
        let server = url("https://a.test/x/mcp");
        for good in [
            "https://a.test/x/mcp",
            "https://a.test/x/mcp/",
            "https://A.test/x",
            "https://a.test",
            "https://a.test:443/",
        ] {
            assert!(covers(good, &server), "{good}");
        }
        for other in [
            "https://evil.test/x/mcp",
            "http://a.test/x/mcp",
            "https://a.test:8443/x/mcp",
            "https://a.test/x/m",
            "https://a.test/x/mcp/more",
            "https://a.test/y",
            "https://a.test/x#f",
            "a.test",
            "",
        ] {
            assert!(!covers(other, &server), "{other}");
        }
        assert!(same("https://a.test/", "https://a.test") && !same("https://a.test//", "https://a.test"));
    }

    #[test]
    fn nobody_is_sent_where_a_stolen_code_is_worth_something() {
        let authority = |methods: Option<&[&str]>| Authority {
            code_challenge_methods_supported: methods
                .map(|methods| methods.iter().map(|&method| method.to_owned()).collect()),
            ..Authority::usual("https://a.test")
        };
        assert!(authority(Some(&["plain", "S256"])).has_pkce());
        for none in [None, Some(&[][..]), Some(&["plain"][..])] {
            assert!(!authority(none).has_pkce(), "{none:?}");
        }
    }
}
