//! One HTTP request, written anew and sent to where it may go, and its answer.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::gate::{Gate, Passed, Refusal};
use super::rules::Target;
use super::secret::{Mask, Scheme};
use super::tls;

/// The longest head of a request or an answer. Bytes.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;

/// What concerns one connection and not what is said over it (RFC 9110, 7.6.1), and what would frame the message twice.
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Sends a request to what has passed, over a connection of its own. Only its method, path, headers and body are taken over;
/// where it goes and how it is framed is said anew, so that nobody can be made to read it in two ways.
pub(super) async fn send<B>(
    gate: &Gate,
    passed: &Passed,
    scheme: Scheme,
    mut request: Request<B>,
) -> Result<Response<Answer>, Refusal>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if request.method() == Method::TRACE || request.method() == Method::CONNECT {
        // The first says a secret again; the second would open a tunnel that nobody has judged.
        return Err(Refusal::Wrong(format!("{} is not forwarded", request.method())));
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    *request.uri_mut() = path.parse::<Uri>().map_err(|error| Refusal::Wrong(format!("the path: {error}")))?;
    *request.version_mut() = hyper::Version::HTTP_11;
    keep_end_to_end(request.headers_mut());
    let host = HeaderValue::try_from(authority(&passed.target, scheme))
        .map_err(|_| Refusal::Wrong("the host".to_owned()))?;
    request.headers_mut().insert(header::HOST, host);
    let secrets = gate.secrets(&passed.target, scheme);
    secrets.iter().for_each(|secret| secret.put(request.headers_mut()));
    let mask = Mask::of(&secrets);

    let stream = gate.dial(passed).await?;
    let (answer, driver) = match scheme {
        Scheme::Plain => exchange(stream, request, &passed.target).await?,
        Scheme::Tls => {
            let name = tls::server_name(&passed.target.host).map_err(Refusal::Wrong)?;
            let connector = TlsConnector::from(gate.egress().roots.client.clone());
            let stream = connector.connect(name, stream).await.map_err(|error| {
                Refusal::Unreachable(format!("{} cannot be trusted: {error}", passed.target))
            })?;
            exchange(stream, request, &passed.target).await?
        }
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::Unreachable(format!("{} answers in another protocol", passed.target)));
    }
    let (mut parts, body) = answer.into_parts();
    // How long it is may stay: it is what the body is, and says so of one that is not sent (HEAD).
    let length = parts.headers.get(header::CONTENT_LENGTH).cloned();
    keep_end_to_end(&mut parts.headers);
    if let Some(length) = length {
        parts.headers.insert(header::CONTENT_LENGTH, length);
    }
    if let Some(mask) = &mask {
        mask_headers(&mut parts.headers, mask);
    }
    Ok(Response::from_parts(parts, Answer { body, mask, ended: false, _driver: driver }))
}

/// Speaks HTTP over a connection.
async fn exchange<S, B>(
    stream: S,
    request: Request<B>,
    target: &Target,
) -> Result<(Response<Incoming>, Driver), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let failed = |error: hyper::Error| Refusal::Unreachable(format!("{target}: {error}"));
    let mut http = hyper::client::conn::http1::Builder::new();
    http.max_buf_size(HEAD_BYTES_MAX);
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // It ends with the answer, whose owner holds it.
    let driver = Driver(tokio::spawn(async move {
        // What goes wrong on it, the request or the body says.
        let _ = pin!(connection).await;
    }));
    let answer = sender.send_request(request).await.map_err(failed)?;
    Ok((answer, driver))
}

/// Whatever drives a connection, for as long as somebody wants what comes over it.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The host as a request names it: without the port that everybody expects.
fn authority(target: &Target, scheme: Scheme) -> String {
    match (scheme, target.port) {
        (Scheme::Plain, 80) | (Scheme::Tls, 443) => target.host.to_string(),
        _ => target.to_string(),
    }
}

/// Takes out what concerns one connection only, also what the message itself says is of that kind.
fn keep_end_to_end(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn mask_headers(headers: &mut HeaderMap, mask: &Mask) {
    for value in headers.values_mut() {
        let mut mask = mask.clone();
        let mut masked = mask.pass(value.as_bytes());
        masked.extend(mask.finish());
        if masked != value.as_bytes()
            && let Ok(stars) = HeaderValue::from_bytes(&masked)
        {
            *value = stars;
        }
    }
}

/// The body of an answer as it comes, without the secret that went along with its request.
pub(super) struct Answer {
    body: Incoming,
    mask: Option<Mask>,
    ended: bool,
    _driver: Driver,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            let frame = match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(frame) => frame,
                Poll::Pending => return Poll::Pending,
            };
            let Some(mask) = &mut this.mask else { return Poll::Ready(frame) };
            let let_go = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => mask.pass(&piece),
                    // Trailers of an answer to a secret are of no use that would be worth looking through them.
                    Err(_) => continue,
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    this.ended = true;
                    mask.finish()
                }
            };
            if !let_go.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(let_go.into()))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // With a mask the end of the body may still be held.
        self.ended || self.mask.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // What the mask holds is of what came already.
        if self.mask.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_one_connection_goes_no_further() {
        // A header that one side obeys and the other passes on is how requests are smuggled.
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("connection", "x-other"),
            ("x-mine", "1"),
            ("x-other", "1"),
            ("proxy-authorization", "Basic x"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("upgrade", "websocket"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        keep_end_to_end(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn a_request_names_its_host_as_everybody_expects() {
        let named = |target: &str, scheme| authority(&Target::read(target, None).unwrap(), scheme);
        assert_eq!(named("a.test:80", Scheme::Plain), "a.test");
        assert_eq!(named("a.test:443", Scheme::Plain), "a.test:443");
        assert_eq!(named("a.test:443", Scheme::Tls), "a.test");
        assert_eq!(named("[::1]:8443", Scheme::Tls), "[::1]:8443");
    }
}
