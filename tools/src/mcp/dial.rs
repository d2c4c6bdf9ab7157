//! Where a server's URL leads, whether it may be dialled, and the connection itself.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::header::HeaderMap;
use http::{HeaderName, HeaderValue, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

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
    pub(super) host: String,
    pub(super) port: u16,
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
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        Ok(Place { host, port, authority: authority.to_string(), encrypted })
    }
}

/// Whether a place may be dialled; the error says why not. That the operator has configured the URL is the permission:
/// no model and no server chooses where to, and redirections are not followed. A rule for what may leave the machine goes here.
fn permitted(_: &Place) -> Result<(), String> {
    Ok(())
}

/// A connection, encrypted or not.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Dials a place.
pub(super) async fn dial(place: &Place) -> io::Result<Box<dyn Wire>> {
    permitted(place).map_err(io::Error::other)?;
    let dialled = tokio::time::timeout(CONNECT, async {
        let stream = TcpStream::connect((place.host.as_str(), place.port)).await?;
        // Small requests go back and forth; if it cannot be set, they are slower.
        let _ = stream.set_nodelay(true);
        if !place.encrypted {
            return Ok(Box::new(stream) as Box<dyn Wire>);
        }
        let name = ServerName::try_from(place.host.clone()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(TLS.clone()).connect(name, stream).await?;
        Ok(Box::new(stream) as Box<dyn Wire>)
    });
    match dialled.await {
        Ok(dialled) => dialled,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no connection within {} s", CONNECT.as_secs()),
        )),
    }
}

/// The usual certificate authorities.
static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the usual cipher suites");
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
});

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
