//! The other end of the API, for `saga run`, `resume`, `sessions` and the demo.
//!
//! It speaks plain HTTP over one connection per request with the same library that serves it: the service is on this
//! machine, or at the end of a tunnel that does the encrypting. Within the service itself it asks the routes directly.

mod sse;

use std::io::Write;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::auth::Key;
use crate::carrying::{ExportWish, ImportWish, SESSION_FILE};
use crate::context::{Context, NewCompaction};
use crate::error::ProblemBody;
use crate::failure::Failure;
use crate::schedules::{NewSchedule, Run, Schedule, Schedules};
use crate::wire;

pub(crate) use sse::{Heard, Stream};

/// How long a service on this machine or behind a tunnel may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a request may take. Making a session may wait until a large model is loaded.
const ANSWER: Duration = Duration::from_secs(600);
/// The largest answer that is read. A page of events holds the replies' tokens too.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A way to one service.
#[derive(Clone)]
pub(crate) struct Client {
    way: Way,
    key: Option<Key>,
}

#[derive(Clone)]
enum Way {
    /// Over the network.
    Net {
        /// `host:port`, as it stands in the URL.
        authority: String,
        host: String,
        port: u16,
    },
    /// In this very process.
    Within(Router),
}

/// Why a request was not answered as hoped.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The service said no.
    Problem(ProblemBody),
    /// There is no service, or the connection was lost.
    Lost(Failure),
}

impl Refusal {
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Refusal::Problem(problem) => Some(&problem.code),
            Refusal::Lost(_) => None,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        match refusal {
            Refusal::Lost(failure) => failure,
            Refusal::Problem(problem) if problem.status == 401 => {
                Failure::new(problem.detail).next("set SAGA_KEY to the service's key")
            }
            Refusal::Problem(problem) => Failure::new(problem.detail),
        }
    }
}

impl Client {
    /// A client of the service at `url`.
    pub(crate) fn new(url: &str, key: Option<Key>) -> Result<Client, Failure> {
        let wrong = |why: &str| {
            Failure::new(format!("the server address {url:?} {why}"))
                .next("write it like http://127.0.0.1:7777")
        };
        if url.starts_with("https://") {
            return Err(Failure::new(format!(
                "{url} asks for encryption, which this client leaves to others"
            ))
            .next("open a tunnel (ssh -L 7777:127.0.0.1:7777 HOST) and use http://127.0.0.1:7777"));
        }
        let text = if url.contains("://") { url.to_string() } else { format!("http://{url}") };
        let uri: Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("does not begin with http://"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("must not hold a user or password; the key goes into SAGA_KEY"));
        }
        if !matches!(uri.path(), "" | "/") {
            return Err(wrong("has a path, and services are at the root"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_string();
        let port = authority.port_u16().unwrap_or(80);
        Ok(Client { way: Way::Net { authority: authority.to_string(), host, port }, key })
    }

    /// A client of these routes, which ask for a key as they do of everybody.
    pub(crate) fn within(routes: Router, key: Option<Key>) -> Client {
        Client { way: Way::Within(routes), key }
    }

    /// The service's address as a URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.authority())
    }

    fn authority(&self) -> &str {
        match &self.way {
            Way::Net { authority, .. } => authority,
            Way::Within(_) => "localhost",
        }
    }

    /// Whether the service can think.
    pub(crate) async fn ready(&self) -> Result<wire::Readiness, Refusal> {
        let response = self.send(Method::GET, "/ready", None, &[]).await?;
        // Both answers, 200 and 503, have the same body.
        self.body(response).await
    }

    pub(crate) async fn create(&self, new: &wire::NewSession) -> Result<wire::Session, Refusal> {
        self.ask(Method::POST, "/v1/sessions", Some(json(new))).await
    }

    pub(crate) async fn sessions(&self, cursor: Option<&str>) -> Result<wire::SessionPage, Refusal> {
        let path = match cursor {
            Some(cursor) => format!("/v1/sessions?limit=200&cursor={cursor}"),
            None => "/v1/sessions?limit=200".to_string(),
        };
        self.ask(Method::GET, &path, None).await
    }

    pub(crate) async fn session(&self, id: &str) -> Result<wire::Session, Refusal> {
        self.ask(Method::GET, &session_path(id, ""), None).await
    }

    pub(crate) async fn delete(&self, id: &str) -> Result<(), Refusal> {
        let response = self.send(Method::DELETE, &session_path(id, ""), None, &[]).await?;
        self.good(response).await.map(|_| ())
    }

    pub(crate) async fn input(&self, id: &str, input: &wire::NewInput) -> Result<wire::Admitted, Refusal> {
        self.ask(Method::POST, &session_path(id, "/inputs"), Some(json(input))).await
    }

    /// Answers whether a call may run.
    pub(crate) async fn approve(
        &self,
        id: &str,
        approval: &wire::Approval,
    ) -> Result<wire::Admitted, Refusal> {
        self.ask(Method::POST, &session_path(id, "/approvals"), Some(json(approval))).await
    }

    /// Takes a session's goal back.
    pub(crate) async fn drop_goal(&self, id: &str) -> Result<wire::Admitted, Refusal> {
        self.ask(Method::DELETE, &session_path(id, "/goal"), None).await
    }

    /// Sets a session's limits.
    pub(crate) async fn budget(&self, id: &str, budget: &wire::Budget) -> Result<wire::Admitted, Refusal> {
        self.ask(Method::POST, &session_path(id, "/budget"), Some(json(budget))).await
    }

    /// Winds a session back, or tells what that would mean.
    pub(crate) async fn rewind(
        &self,
        id: &str,
        wish: &wire::NewRewinding,
    ) -> Result<wire::Rewinding, Refusal> {
        self.ask(Method::POST, &session_path(id, "/rewind"), Some(json(wish))).await
    }

    /// Makes a session that goes on from where another one stood.
    pub(crate) async fn fork(&self, id: &str, wish: &wire::NewFork) -> Result<wire::Session, Refusal> {
        self.ask(Method::POST, &session_path(id, "/fork"), Some(json(wish))).await
    }

    /// What a fork at a place would have of a session.
    pub(crate) async fn look_at_fork(&self, id: &str, at: Option<u64>) -> Result<wire::Forking, Refusal> {
        let at = at.map(|at| format!("?at={at}")).unwrap_or_default();
        self.ask(Method::GET, &session_path(id, &format!("/fork{at}")), None).await
    }

    /// Writes a session's file.
    pub(crate) async fn export(
        &self,
        id: &str,
        wish: ExportWish,
        mut to: &std::fs::File,
    ) -> Result<(), Refusal> {
        let path =
            session_path(id, &format!("/export?workspace={}&secrets={}", wish.workspace, wish.secrets));
        let response = self.send(Method::GET, &path, None, &[]).await?;
        let mut body = self.good(response).await?.into_body();
        loop {
            let frame =
                timeout(ANSWER, body.frame()).await.map_err(|_| self.lost("no more of the file came"))?;
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.map_err(|error| self.lost(&error.to_string()))?;
            if let Ok(piece) = frame.into_data() {
                to.write_all(&piece).map_err(|error| {
                    Refusal::Lost(Failure::new(format!("the file cannot be written: {error}")))
                })?;
            }
        }
    }

    /// Makes a session of a file.
    pub(crate) async fn import(&self, wish: &ImportWish, file: Vec<u8>) -> Result<wire::Session, Refusal> {
        let named = [("workspace", &wish.workspace), ("into", &wish.into)];
        let query = named.into_iter().filter_map(|(name, folder)| {
            Some(format!("{name}={}", escaped(folder.as_ref()?.as_os_str().as_encoded_bytes())))
        });
        let path = format!("/v1/sessions/import?{}", query.collect::<Vec<_>>().join("&"));
        let kind = [(header::CONTENT_TYPE, SESSION_FILE)];
        let response = self.send(Method::POST, &path, Some(file.into()), &kind).await?;
        let response = self.good(response).await?;
        self.body(response).await
    }

    /// The service's figures, in the text format of Prometheus.
    pub(crate) async fn metrics(&self) -> Result<String, Refusal> {
        let response = self.send(Method::GET, "/metrics", None, &[]).await?;
        let response = self.good(response).await?;
        Ok(String::from_utf8_lossy(&self.bytes(response).await?).into_owned())
    }

    /// What fills a session's prompt.
    pub(crate) async fn context(&self, id: &str) -> Result<Context, Refusal> {
        self.ask(Method::GET, &session_path(id, "/context"), None).await
    }

    /// Has older messages left out of the prompt.
    pub(crate) async fn compact(&self, id: &str, wish: &NewCompaction) -> Result<wire::Admitted, Refusal> {
        self.ask(Method::POST, &session_path(id, "/compact"), Some(json(wish))).await
    }

    /// Has the model shown again what was left out last.
    pub(crate) async fn uncompact(&self, id: &str) -> Result<wire::Admitted, Refusal> {
        self.ask(Method::POST, &session_path(id, "/uncompact"), None).await
    }

    /// What changed in a session's workspace.
    pub(crate) async fn changes(
        &self,
        id: &str,
        from: Option<u64>,
        to: Option<u64>,
    ) -> Result<wire::FileChanges, Refusal> {
        let bound = |name: &str, at: Option<u64>| at.map(|at| format!("{name}={at}"));
        let bounds: Vec<String> = [bound("from", from), bound("to", to)].into_iter().flatten().collect();
        self.ask(Method::GET, &session_path(id, &format!("/changes?{}", bounds.join("&"))), None).await
    }

    pub(crate) async fn interrupt(&self, id: &str) -> Result<wire::Admitted, Refusal> {
        self.ask(Method::POST, &session_path(id, "/interrupt"), None).await
    }

    /// A page of the events after `after`.
    pub(crate) async fn events(&self, id: &str, after: u64) -> Result<wire::EventPage, Refusal> {
        self.ask(
            Method::GET,
            &session_path(id, &format!("/events?format=json&limit=500&after={after}")),
            None,
        )
        .await
    }

    /// The events after `after`, then those that come.
    pub(crate) async fn follow(&self, id: &str, after: u64) -> Result<Stream, Refusal> {
        let path = session_path(id, &format!("/events?after={after}"));
        let response = self.send(Method::GET, &path, None, &[(header::ACCEPT, "text/event-stream")]).await?;
        Ok(Stream::new(self.good(response).await?.into_body()))
    }

    /// Asks for what is remembered, at `path` below `/v1/memories`.
    pub(crate) async fn memories<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Refusal> {
        self.ask(method, &format!("/v1/memories{path}"), body.map(json)).await
    }

    /// Keeps a schedule.
    pub(crate) async fn schedule(&self, new: &NewSchedule) -> Result<Schedule, Refusal> {
        self.ask(Method::POST, "/v1/schedules", Some(json(new))).await
    }

    pub(crate) async fn schedules(&self) -> Result<Schedules, Refusal> {
        self.ask(Method::GET, "/v1/schedules", None).await
    }

    pub(crate) async fn unschedule(&self, id: &str) -> Result<(), Refusal> {
        let response = self.send(Method::DELETE, &schedule_path(id, ""), None, &[]).await?;
        self.good(response).await.map(|_| ())
    }

    pub(crate) async fn run_schedule(&self, id: &str) -> Result<Run, Refusal> {
        self.ask(Method::POST, &schedule_path(id, "/run"), None).await
    }

    /// Finds code by what it does.
    pub(crate) async fn search_code(&self, wish: &wire::CodeSearch) -> Result<wire::CodeFound, Refusal> {
        self.ask(Method::POST, "/v1/code/search", Some(json(wish))).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<T, Refusal> {
        let response = self.send(method, path, body, &[]).await?;
        let response = self.good(response).await?;
        self.body(response).await
    }

    /// The response if it is a success, else what the service says about it.
    async fn good(&self, response: Response<Body>) -> Result<Response<Body>, Refusal> {
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = self.bytes(response).await?;
        match serde_json::from_slice::<ProblemBody>(&bytes) {
            Ok(problem) => Err(Refusal::Problem(problem)),
            Err(_) => Err(self.strange(status)),
        }
    }

    async fn body<T: DeserializeOwned>(&self, response: Response<Body>) -> Result<T, Refusal> {
        let status = response.status();
        let bytes = self.bytes(response).await?;
        serde_json::from_slice(&bytes).map_err(|_| self.strange(status))
    }

    async fn bytes(&self, response: Response<Body>) -> Result<Bytes, Refusal> {
        let whole = timeout(ANSWER, Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect()).await;
        match whole {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(self.lost(&error.to_string())),
            Err(_) => Err(self.lost("no answer came")),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        headers: &[(header::HeaderName, &'static str)],
    ) -> Result<Response<Body>, Refusal> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, self.authority());
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if let Some(key) = &self.key {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.as_str())).map_err(|_| {
                Refusal::Lost(Failure::new("the key holds characters that no key has").next("check SAGA_KEY"))
            })?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if body.is_some() && headers.iter().all(|(name, _)| *name != header::CONTENT_TYPE) {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| Refusal::Lost(Failure::new(format!("{path} cannot be asked for: {error}"))))?;
        let answer = async {
            match &self.way {
                Way::Net { host, port, .. } => self.dial(host, *port, request).await,
                Way::Within(routes) => match routes.clone().oneshot(request.map(Body::new)).await {
                    Ok(response) => Ok(response),
                    Err(never) => match never {},
                },
            }
        };
        timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(self.lost("no answer came")))
    }

    async fn dial(
        &self,
        host: &str,
        port: u16,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Body>, Refusal> {
        let connect = timeout(CONNECT, TcpStream::connect((host, port))).await;
        let stream = match connect {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.lost(&error.to_string())),
            Err(_) => return Err(self.lost("no connection within 10 s")),
        };
        // Small requests and answers go back and forth: waiting to fill packets would only slow them. If it cannot be
        // set, they are slower.
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.lost(&error.to_string()))?;
        // Ends with the response's body or when it is dropped; what goes wrong in it is seen by the reader too.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let response = sender.send_request(request).await.map_err(|error| self.lost(&error.to_string()))?;
        Ok(response.map(Body::new))
    }

    fn lost(&self, why: &str) -> Refusal {
        Refusal::Lost(
            Failure::new(format!("the service at {} cannot be reached: {why}", self.url()))
                .next("start it with `saga up`, or leave --server and SAGA_SERVER out"),
        )
    }

    fn strange(&self, status: StatusCode) -> Refusal {
        Refusal::Lost(
            Failure::new(format!("what is at {} answered {status} and is no saga service", self.url()))
                .next("check the address"),
        )
    }
}

fn json<T: Serialize>(body: &T) -> Bytes {
    serde_json::to_vec(body).expect("requests have only string keys").into()
}

/// The path of a session.
fn session_path(id: &str, rest: &str) -> String {
    path_below("/v1/sessions", id, rest)
}

fn schedule_path(id: &str, rest: &str) -> String {
    path_below("/v1/schedules", id, rest)
}

/// The path of something by its id. An id that is none is left for the service to refuse, but must not change the path.
fn path_below(above: &str, id: &str, rest: &str) -> String {
    format!("{above}/{}{rest}", escaped(id.as_bytes()))
}

/// Bytes as they may stand in a path or a query.
fn escaped(bytes: &[u8]) -> String {
    let letter = |b: &u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(*b).to_string(),
        b => format!("%{b:02X}"),
    };
    bytes.iter().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_checked_before_it_is_used() {
        let url = |text: &str| {
            Client::new(text, None).map(|client| client.url()).map_err(|failure| failure.to_string())
        };
        assert_eq!(url("http://127.0.0.1:7777/").unwrap(), "http://127.0.0.1:7777");
        assert_eq!(url("localhost:7777").unwrap(), "http://localhost:7777");
        assert_eq!(url("http://[::1]:7777").unwrap(), "http://[::1]:7777");
        assert!(url("https://host").unwrap_err().contains("ssh -L"));
        for wrong in ["http://", "ftp://host", "http://host/v1", "http://me:secret@host"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_id_cannot_leave_its_path() {
        assert_eq!(session_path("s-1", "/inputs"), "/v1/sessions/s-1/inputs");
        assert_eq!(session_path("../x?y", ""), "/v1/sessions/%2E%2E%2Fx%3Fy");
    }
}
