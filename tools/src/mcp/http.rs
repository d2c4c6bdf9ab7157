//! The protocol's streamable HTTP, over the same HTTP library that serves ours. One connection for each request; redirections
//! are followed within the very place that the operator has configured.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http::header::{self, HeaderMap};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use rmcp::model::{ClientJsonRpcMessage, JsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::{
    AuthRequiredError, SseError, StreamableHttpClient, StreamableHttpClientTransportConfig,
    StreamableHttpError, StreamableHttpPostResponse,
};
use sse_stream::{Sse, SseStream};

use super::dial::{self, Road};
use super::login::{Challenge, Keys};
use super::server::Address;

/// The most that is read of one answer: a stream that goes on is taken up again. Bytes.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// How much of an answer that is an error is told. Bytes.
const ERROR_BYTES_MAX: usize = 1 << 10;

/// How often a server may say that it is at another path of its own.
const HOPS_MAX: u32 = 3;

/// How often a single request makes the service log in: once for a token that has ended, and once more for one that is good for more.
const LOGINS_MAX: u32 = 2;

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const SESSION: &str = "mcp-session-id";

/// A transport to the server at a URL.
pub(super) fn transport(
    name: &str,
    address: &Address,
    road: Arc<Road>,
) -> Result<StreamableHttpClientTransport<Http>, String> {
    let headers = dial::headers(&address.headers)?;
    let secret = !headers.is_empty();
    let keys =
        if address.has_key() { None } else { Keys::new(name, &address.url, &address.login, road.clone()) };
    let config = StreamableHttpClientTransportConfig::with_uri(address.url.as_str()).custom_headers(headers);
    Ok(StreamableHttpClientTransport::with_client(Http { road, secret, keys: keys.map(Arc::new) }, config))
}

/// A way to one server.
#[derive(Debug, Clone)]
pub(super) struct Http {
    road: Arc<Road>,
    /// Whether the operator's headers go along with each request.
    secret: bool,
    /// What there is of a login.
    keys: Option<Arc<Keys>>,
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unanswered(String);

type Trouble = StreamableHttpError<Unanswered>;

fn unanswered(error: impl std::error::Error) -> Trouble {
    refused(error.to_string())
}

fn refused(why: String) -> Trouble {
    StreamableHttpError::Client(Unanswered(why))
}

impl Http {
    async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HashMap<HeaderName, HeaderValue>,
        more: &[(&'static str, Option<&str>)],
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, Trouble> {
        let mut url = url.to_owned();
        let (mut hops, mut logins) = (0, 0);
        let mut token = self.token().await?;
        loop {
            let at: Uri = url.parse().map_err(unanswered)?;
            let path = at.path_and_query().map_or("/", |path| path.as_str());
            let mut request = Request::builder().method(method.clone()).uri(path);
            for (name, value) in &headers {
                request = request.header(name, value);
            }
            for (name, value) in more {
                if let Some(value) = value {
                    request = request.header(*name, *value);
                }
            }
            if let Some(token) = &token {
                request = request.header(header::AUTHORIZATION, bearer(token).map_err(refused)?);
            }
            let request = request.body(Full::new(Bytes::from(body.clone()))).map_err(unanswered)?;
            let secret = self.secret || token.is_some();
            let response = self.road.ask(request, secret).await.map_err(refused)?;
            match response.status() {
                status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                    self.turned_away(status, response.headers(), token.as_deref(), logins).await?;
                    token = self.token().await?;
                    logins += 1;
                }
                // The others turn a message into a question for a page.
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                    url = self.road.onward(response.headers(), &url).map_err(refused)?;
                    hops += 1;
                    if hops > HOPS_MAX {
                        return Err(refused(format!("it leads on more than {HOPS_MAX} times")));
                    }
                }
                status if status.is_redirection() && status != StatusCode::NOT_MODIFIED => {
                    let onward = self.road.onward(response.headers(), &url).map_err(refused)?;
                    let why =
                        format!("HTTP {status}: it is at {onward}; write that into the settings as its url");
                    return Err(refused(why));
                }
                _ => return Ok(response),
            }
        }
    }

    async fn token(&self) -> Result<Option<String>, Trouble> {
        match &self.keys {
            Some(keys) => keys.token().await.map_err(refused),
            None => Ok(None),
        }
    }

    /// Does what there is to do about a request that was turned away. The error says why another try would end the same way.
    async fn turned_away(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        token: Option<&str>,
        logins: u32,
    ) -> Result<(), Trouble> {
        let no = |why: String| Err(StreamableHttpError::AuthRequired(AuthRequiredError::new(why)));
        let asks = word(headers, header::WWW_AUTHENTICATE).unwrap_or("it does not say how");
        let Some(keys) = &self.keys else {
            return no(format!("HTTP {status}; put its key into `headers` ({asks})"));
        };
        let challenge = Challenge::of(headers);
        if status == StatusCode::FORBIDDEN && !challenge.wants_more() {
            return no(format!("HTTP {status}: it does not let whoever is logged in do that"));
        }
        if logins >= LOGINS_MAX {
            return no(format!("HTTP {status}, also with a new login ({asks})"));
        }
        keys.challenged(&challenge, token).await.or_else(no)
    }
}

/// The value of `Authorization` with a token, which is shown nowhere.
fn bearer(token: &str) -> Result<HeaderValue, String> {
    let value = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value = value.map_err(|_| "its login gave a token that no header can hold".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Why a login does not help, without the words that the protocol's crate has for it. Only a stream has to know that it is that.
fn plainly(trouble: Trouble) -> Trouble {
    match trouble {
        StreamableHttpError::AuthRequired(error) => refused(error.www_authenticate_header),
        other => other,
    }
}

impl StreamableHttpClient for Http {
    type Error = Unanswered;

    async fn post_message(
        &self,
        url: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        _: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, Trouble> {
        let body = serde_json::to_vec(&message)?;
        let both = format!("{JSON}, {EVENTS}");
        let more = [
            (header::CONTENT_TYPE.as_str(), Some(JSON)),
            (header::ACCEPT.as_str(), Some(both.as_str())),
            (SESSION, session.as_deref()),
        ];
        let response = self.send(Method::POST, &url, headers, &more, body).await.map_err(plainly)?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND && session.is_some() {
            return Err(StreamableHttpError::SessionExpired);
        }
        let asks = matches!(message, JsonRpcMessage::Request(_));
        if status.is_success() && !asks {
            return Ok(StreamableHttpPostResponse::Accepted);
        }
        let given = word(response.headers(), SESSION).map(str::to_owned);
        let kind = kind(response.headers());
        if status.is_success() && kind.as_deref() == Some(EVENTS) {
            return Ok(StreamableHttpPostResponse::Sse(events(response), given));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body =
            body.map_err(|error| StreamableHttpError::Client(Unanswered(error.to_string())))?.to_bytes();
        if kind.as_deref() == Some(JSON) {
            match serde_json::from_slice::<ServerJsonRpcMessage>(&body) {
                // A server may say no with a status and in its own words as well.
                Ok(said) if status.is_success() || matches!(said, JsonRpcMessage::Error(_)) => {
                    return Ok(StreamableHttpPostResponse::Json(said, given));
                }
                Ok(_) | Err(_) => {}
            }
        }
        let told = String::from_utf8_lossy(&body[..body.len().min(ERROR_BYTES_MAX)]).into_owned();
        match status.is_success() {
            true => Err(StreamableHttpError::UnexpectedContentType(kind)),
            false => Err(StreamableHttpError::UnexpectedServerResponse(Cow::Owned(format!(
                "HTTP {status}: {told}"
            )))),
        }
    }

    async fn delete_session(
        &self,
        url: Arc<str>,
        session: Arc<str>,
        _: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<(), Trouble> {
        let more = [(SESSION, Some(&*session))];
        // A server that keeps it, or has forgotten it, is no trouble to somebody who leaves.
        self.send(Method::DELETE, &url, headers, &more, Vec::new()).await.map(drop)
    }

    async fn get_stream(
        &self,
        url: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        _: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, Trouble> {
        let more = [
            (header::ACCEPT.as_str(), Some(EVENTS)),
            (SESSION, session.as_deref()),
            ("last-event-id", last_event.as_deref()),
        ];
        let response = self.send(Method::GET, &url, headers, &more, Vec::new()).await?;
        match response.status() {
            StatusCode::METHOD_NOT_ALLOWED => Err(StreamableHttpError::ServerDoesNotSupportSse),
            status if !status.is_success() => {
                Err(StreamableHttpError::UnexpectedServerResponse(Cow::Owned(format!("HTTP {status}"))))
            }
            _ => match kind(response.headers()) {
                Some(kind) if kind == EVENTS => Ok(events(response)),
                kind => Err(StreamableHttpError::UnexpectedContentType(kind)),
            },
        }
    }
}

fn events(response: Response<Incoming>) -> BoxStream<'static, Result<Sse, SseError>> {
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).into_data_stream();
    SseStream::from_bytes_stream(body.map(|piece| piece.map_err(|error| Unanswered(error.to_string()))))
        .boxed()
}

fn word(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The kind of an answer, without its parameters.
fn kind(headers: &HeaderMap) -> Option<String> {
    let kind = word(headers, header::CONTENT_TYPE)?;
    Some(kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}
