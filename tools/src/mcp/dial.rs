//! Where a server's URL leads, whether it may be dialled, and one request over a connection of its own.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::header::{self, HeaderMap};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use crate::egress::{Contacts, Host, Named, Target, server_name, trusting};

use super::login::{Login, Who};
use super::schema::shortened;
use super::server::Address;

/// How long it may take to agree upon encryption.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a request about a login may take, and how much of its answer is read. Bytes: what servers say of themselves is a page.
const LOGIN_WALL: Duration = Duration::from_secs(20);
const LOGIN_BYTES_MAX: usize = 256 << 10;

/// What stands after a setting's name where it is told that a login was the reason.
const LOGIN: &str = ", login";

/// What the protocol says itself in its headers.
const RESERVED: [&str; 8] = [
    "accept",
    "host",
    "content-type",
    "content-length",
    "last-event-id",
    "mcp-session-id",
    "mcp-protocol-version",
    "transfer-encoding",
];

/// Where a URL leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) target: Target,
    /// Host and port as the URL has them.
    pub(super) authority: String,
    pub(super) encrypted: bool,
}

impl Place {
    pub(super) fn of(url: &str) -> Result<Place, String> {
        let wrong = |why: &str| format!("the URL {url:?} {why}; write it like https://example.org/mcp");
        let uri: Uri = url.parse().map_err(|_| wrong("is none"))?;
        let encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("does not begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err("its URL must not hold a user or password; put a key into its headers".to_owned());
        }
        let host = Host::read(authority.host()).map_err(|_| wrong("names no host that there can be"))?;
        let port = authority.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        Ok(Place { target: Target { host, port }, authority: authority.to_string(), encrypted })
    }

    /// Whether a URL leads to the same place: what is said there may be said here.
    pub(super) fn holds(&self, other: &Place) -> bool {
        (&self.target, self.encrypted) == (&other.target, other.encrypted)
    }
}

/// The ways out that the settings of one server open: to its URL, and to where it lets clients log in, if that is public and
/// encrypted or the settings name it.
#[derive(Debug)]
pub(super) struct Road {
    named: Named,
    tls: Arc<ClientConfig>,
    /// What the operator has configured.
    pub(super) place: Place,
    /// The hosts that the operator has written with `http://`.
    plain: Vec<Host>,
}

/// A connection, encrypted or not.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Road {
    /// Reads the settings of the server `name`. The error says what is wrong with them.
    pub(super) fn new(name: &str, address: &Address, contacts: Arc<Contacts>) -> Result<Road, String> {
        let place = Place::of(&address.url)?;
        let mut written = vec![place.clone()];
        for url in named_by(&address.login) {
            written.push(Place::of(url)?);
        }
        let plain = written.iter().filter(|place| !place.encrypted);
        let plain = plain.map(|place| place.target.host.clone()).collect();
        let hosts = written.into_iter().map(|place| place.target.host).collect();
        let named = Named::new(format!("mcp.{name}"), hosts, &address.allow_private, contacts)?;
        let tls = match &address.ca_file {
            None => USUAL.clone()?,
            own => trusting(own.as_deref())?,
        };
        Ok(Road { named, tls, place, plain })
    }

    /// Sends a request to the server itself. Its URI is the path; `secret` says whether a key goes along.
    pub(super) async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        secret: bool,
    ) -> Result<Response<Incoming>, String> {
        self.carry(&self.place, request, "", secret).await
    }

    /// Says something to the server before there is a login.
    pub(super) async fn say(
        &self,
        url: &str,
        headers: HashMap<HeaderName, HeaderValue>,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, String> {
        let secret = !headers.is_empty();
        let mut request = request(Method::POST, url, body)?;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let both = HeaderValue::from_static("application/json, text/event-stream");
        request.headers_mut().insert(header::ACCEPT, both);
        request.headers_mut().extend(headers);
        bounded(self.carry(&self.place, request, LOGIN, secret)).await
    }

    /// What stands at a URL where a server, or where it lets clients log in, says something of itself; nothing when there is nothing.
    pub(super) async fn document(&self, url: &str) -> Result<Option<Bytes>, String> {
        let place = self.leads_to_a_login(url)?;
        let mut request = request(Method::GET, url, Vec::new())?;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        bounded(async {
            let response = self.carry(&place, request, LOGIN, false).await?;
            match response.status() {
                StatusCode::OK => whole(&place, response).await.map(Some),
                _ => Ok(None),
            }
        })
        .await
    }

    /// Asks for a registration or for a token.
    pub(super) async fn post(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), String> {
        let place = self.leads_to_a_login(url)?;
        let mut request = request(Method::POST, url, body)?;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            let mut value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            request.headers_mut().insert(*name, value);
        }
        bounded(async {
            let response = self.carry(&place, request, LOGIN, true).await?;
            let status = response.status();
            Ok((status, whole(&place, response).await?))
        })
        .await
    }

    /// The place of a URL that a server gives for logging in. In the clear only where nobody listens, or where the operator says so.
    pub(super) fn leads_to_a_login(&self, url: &str) -> Result<Place, String> {
        let wrong = |why: &str| format!("the place to log in, {:?}, {why}", shortened(url, 200));
        let place = Place::of(url).map_err(|_| wrong("is no URL to go to"))?;
        let host = &place.target.host;
        let here = match host {
            Host::Address(address) => address.is_loopback(),
            Host::Name(name) => name == "localhost",
        };
        if !place.encrypted && !here && !self.plain.contains(host) {
            self.named.refuse(&place.target, "a login in the clear");
            return Err(wrong("is not encrypted (https)"));
        }
        Ok(place)
    }

    async fn carry(
        &self,
        place: &Place,
        mut request: Request<Full<Bytes>>,
        what: &str,
        secret: bool,
    ) -> Result<Response<Incoming>, String> {
        let host = HeaderValue::from_str(&place.authority).map_err(|error| error.to_string())?;
        request.headers_mut().insert(header::HOST, host);
        let stream = self.named.dial(&place.target, what, secret).await.map_err(|why| why.to_string())?;
        let wire: Box<dyn Wire> = match place.encrypted {
            false => Box::new(stream),
            true => {
                let shaken =
                    TlsConnector::from(self.tls.clone()).connect(server_name(&place.target.host)?, stream);
                let trusted = |why: String| format!("{} cannot be trusted: {why}", place.target);
                match tokio::time::timeout(HANDSHAKE, shaken).await {
                    Ok(Ok(stream)) => Box::new(stream),
                    Ok(Err(error)) => return Err(trusted(error.to_string())),
                    Err(_) => {
                        return Err(trusted(format!(
                            "nothing was agreed upon within {} s",
                            HANDSHAKE.as_secs()
                        )));
                    }
                }
            }
        };
        let failed = |error: hyper::Error| format!("{}: {error}", place.target);
        let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await.map_err(failed)?;
        // Ends with the answer's body or when it is dropped; what goes wrong in it is seen by the reader too.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        sender.send_request(request).await.map_err(failed)
    }

    /// Where the server leads on to, if that is another path of its own. Anywhere else is refused, and told so.
    pub(super) fn onward(&self, headers: &HeaderMap, url: &str) -> Result<String, String> {
        let location =
            headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let joined = url::Url::parse(url).and_then(|base| base.join(location));
        let joined = joined.map_err(|_| format!("it leads elsewhere, to {location:?}, which is no URL"))?;
        let place = Place::of(joined.as_str())?;
        if self.place.holds(&place) {
            return Ok(joined.into());
        }
        self.named.refuse(&place.target, "a server leads there that the settings name at another place");
        Err(format!(
            "it leads on to {joined}, which is refused; if that is right, write it into the settings as its url"
        ))
    }
}

/// The URLs that the settings name for a login.
fn named_by(login: &Login) -> impl Iterator<Item = &str> {
    let company = match &login.who {
        Who::Company(company) => Some(company.token_endpoint.as_str()),
        Who::Person | Who::Client => None,
    };
    login.issuer.as_deref().into_iter().chain(company)
}

/// A request for what a URL has after its host.
fn request(method: Method, url: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>, String> {
    let uri: Uri = url.parse().map_err(|_| format!("{:?} is no URL", shortened(url, 200)))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder().method(method).uri(path).body(Full::new(Bytes::from(body)));
    request.map_err(|error| error.to_string())
}

async fn whole(place: &Place, response: Response<Incoming>) -> Result<Bytes, String> {
    let body = Limited::new(response.into_body(), LOGIN_BYTES_MAX).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| format!("{}: {error}", place.target))
}

async fn bounded<T>(asking: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| Err(format!("no answer about a login within {} s", LOGIN_WALL.as_secs()));
    tokio::time::timeout(LOGIN_WALL, asking).await.unwrap_or_else(late)
}

/// What is trusted when the settings name no certificates of their own.
static USUAL: LazyLock<Result<Arc<ClientConfig>, String>> = LazyLock::new(|| trusting(None));

/// Whether these are ranges of addresses.
pub(super) fn private(ranges: &[String]) -> Result<(), String> {
    Named::new("", Vec::new(), ranges, Arc::default()).map(drop)
}

/// An operator's headers. Their values may be keys, and are shown nowhere.
pub(super) fn headers(given: &[(String, String)]) -> Result<HashMap<HeaderName, HeaderValue>, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let wrong = |why: &str| format!("the header {name:?} {why}");
        let header = HeaderName::try_from(name.as_str()).map_err(|_| wrong("is no name of one"))?;
        if RESERVED.contains(&header.as_str()) {
            return Err(wrong("is the protocol's own"));
        }
        let mut value =
            HeaderValue::from_str(value).map_err(|_| wrong("has a value that no header can have"))?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers.into_iter().filter_map(|(name, value)| Some((name?, value))).collect())
}
