//! A connection to a server: made, asked what there is, called. The protocol itself is `rmcp`'s.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult,
    ElicitationCapability, FormElicitationCapability, Implementation, PaginatedRequestParams,
    ProgressNotificationParam, ProtocolVersion, Tool,
};
use rmcp::service::{
    ClientInitializeError, ClientLifecycleMode, NotificationContext, RequestContext, RunningService,
    ServiceError, serve_client_with_lifecycle,
};
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::{ClientHandler, ErrorData, RoleClient};
use serde_json::{Map, Value};
use tokio::sync::{Mutex, broadcast};

use crate::egress::Contacts;
use crate::output::harmless;
use crate::sandbox::{Ends, Wired};
use crate::{Command, Error, Sandbox};

use super::answer::Answer;
use super::dial::Road;
use super::offer::{Listed, Offered, offer};
use super::schema::shortened;
use super::{Server, Way, http, question};

/// How long a server may take to start and to say hello, and then to list its tools. A runtime that starts cold takes seconds.
const START: Duration = Duration::from_secs(20);
const LIST: Duration = Duration::from_secs(20);

/// How many pages of tools are asked for, and how many tools are looked at: a list need not end.
const PAGES_MAX: usize = 16;
const LISTED_MAX: usize = 512;

/// A call that shows progress may take this many times as long as one that does not.
const PATIENCE: u32 = 10;

/// Progress that waits to be shown. What there is no room for is not shown.
const PROGRESS_MAX: usize = 32;

/// How many questions of a server are told of one call. Those beyond are answered all the same.
const QUESTIONS_MAX: usize = 8;

/// How long the end of a server that has closed its output is waited for, so that it can be told.
const ENDING: Duration = Duration::from_millis(500);

/// The longest message of a server that is passed on as it is. Characters.
const SAID_CHARS_MAX: usize = 2_000;

/// A server that is there.
pub(super) struct Link {
    running: RunningService<RoleClient, Listener>,
    heard: Arc<Heard>,
    /// What it listed last; nothing before the first time.
    listed: Mutex<Option<Arc<Listing>>>,
    /// The command it is, if it is one. It ends with this.
    wired: Option<Wired>,
}

/// What a server lists.
pub(super) struct Listing {
    pub(super) tools: Vec<Offered>,
    pub(super) notes: Vec<String>,
}

/// Why there is no answer, in words.
pub(super) enum Failed {
    /// The server is there and said no, or took too long.
    Refused(String),
    /// It is gone.
    Lost(String),
}

/// What a server says unasked.
struct Heard {
    /// Whether its tools have changed since they were listed.
    changed: AtomicBool,
    progress: broadcast::Sender<String>,
    /// What it has asked since the call began that runs now, and how it was answered.
    questions: std::sync::Mutex<Vec<String>>,
    /// Whether it is answered with the defaults of its own questions.
    answer_defaults: bool,
}

impl Heard {
    /// What it has asked since this was called last.
    fn questions(&self) -> Vec<String> {
        std::mem::take(&mut *self.questions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Hears it. What a server may ask of a client is refused, but for what it answers itself: there is no model here for it, no files
/// and nobody to ask.
#[derive(Clone)]
struct Listener(Arc<Heard>);

impl ClientHandler for Listener {
    async fn create_elicitation(
        &self,
        asked: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let answered = question::answer(&asked, self.0.answer_defaults);
        // As with progress, nobody may be there to see it.
        let _ = self.0.progress.send(format!("{}\n", answered.told));
        let mut questions = self.0.questions.lock().unwrap_or_else(PoisonError::into_inner);
        if questions.len() < QUESTIONS_MAX {
            questions.push(answered.told);
        }
        Ok(answered.result)
    }

    async fn on_progress(&self, said: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        let share = match said.total {
            Some(total) => format!("{} of {total}", said.progress),
            None => said.progress.to_string(),
        };
        let text = match said.message {
            Some(message) => format!("{share}: {}\n", shortened(&message, 200)),
            None => format!("{share}\n"),
        };
        // Nobody listens when no call is under way.
        let _ = self.0.progress.send(text);
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.0.changed.store(true, Ordering::SeqCst);
    }

    fn get_info(&self) -> ClientConfig {
        let mut can = ClientCapabilities::default();
        // A server that is told of it asks; one whose questions are all declined is better off without.
        can.elicitation = self.0.answer_defaults.then(|| {
            let mut elicitation = ElicitationCapability::new();
            elicitation.form = Some(FormElicitationCapability::new());
            elicitation
        });
        ClientConfig::new(can, Implementation::new("saga", env!("CARGO_PKG_VERSION")))
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
    }
}

impl Link {
    /// Starts or reaches a server. The inner error says why it cannot be used.
    pub(super) async fn connect(
        server: &Server,
        sandbox: &Sandbox,
        contacts: &Arc<Contacts>,
    ) -> Result<Result<Link, String>, Error> {
        let usual = ClientLifecycleMode::Initialize;
        let refused = match Link::try_connect(server, sandbox, contacts, usual).await? {
            Err(NotMade { refused: true, why }) => why,
            Err(NotMade { refused: false, why }) => return Ok(Err(why)),
            Ok(link) => return Ok(Ok(link)),
        };
        // Since the revision of July 2026 there are servers that know no handshake. All others know it, and those that
        // were first asked in the new way would be kept waiting by servers that leave it unanswered.
        let new = ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] };
        Ok(Link::try_connect(server, sandbox, contacts, new).await?.map_err(|_| refused))
    }

    async fn try_connect(
        server: &Server,
        sandbox: &Sandbox,
        contacts: &Arc<Contacts>,
        mode: ClientLifecycleMode,
    ) -> Result<Result<Link, NotMade>, Error> {
        let (progress, _) = broadcast::channel(PROGRESS_MAX);
        let (changed, questions) = (AtomicBool::new(true), std::sync::Mutex::default());
        let answer_defaults = server.answer_defaults;
        let heard = Arc::new(Heard { changed, progress, questions, answer_defaults });
        let listener = Listener(heard.clone());
        let (made, wired) = match &server.way {
            Way::Command { argv, env } => {
                let command = Command { env: env.clone(), ..Command::new(argv.iter().cloned()) };
                let (wired, Ends { output, input }) = sandbox.wire(command).await?;
                let transport = AsyncRwTransport::new(output, input);
                let made = serve_client_with_lifecycle(listener, transport, mode);
                (tokio::time::timeout(START, made).await, Some(wired))
            }
            Way::Url(address) => {
                let road = Road::new(&server.name, address, contacts.clone());
                let transport =
                    match road.and_then(|road| http::transport(&server.name, address, Arc::new(road))) {
                        Ok(transport) => transport,
                        Err(why) => return Ok(Err(NotMade { refused: false, why })),
                    };
                let made = serve_client_with_lifecycle(listener, transport, mode);
                (tokio::time::timeout(START, made).await, None)
            }
        };
        let (refused, why) = match made {
            Ok(Ok(running)) => return Ok(Ok(Link { running, heard, listed: Mutex::default(), wired })),
            Ok(Err(ClientInitializeError::TransportError { error, .. })) => (false, in_words(&*error.error)),
            Ok(Err(error)) => (matches!(error, ClientInitializeError::JsonRpcError(_)), in_words(&error)),
            Err(_) => (false, format!("it did not say hello within {} s", START.as_secs())),
        };
        let why = match &wired {
            Some(wired) => ended(wired, why).await,
            None => why,
        };
        Ok(Err(NotMade { refused, why }))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.running.is_closed() || self.running.is_transport_closed()
    }

    /// How it ended, once it is closed.
    pub(super) async fn ending(&self) -> String {
        let closed = "it closed the connection".to_owned();
        match &self.wired {
            Some(wired) => ended(wired, closed).await,
            None => closed,
        }
    }

    /// Its tools: asked for the first time, and when it has said that they changed.
    pub(super) async fn listed(&self, server: &Server) -> Result<Arc<Listing>, Failed> {
        // Held while they are asked for: two that want them ask once.
        let mut listed = self.listed.lock().await;
        // Servers of the newer revision say so only to those who subscribe; to ask again costs less than to keep listening.
        let tells = self.running.peer_info().is_some_and(|info| info.protocol_version.has_initialize());
        // Before it is asked: what changes meanwhile is asked for again.
        let changed = self.heard.changed.swap(false, Ordering::SeqCst);
        if let Some(listed) = listed.as_ref().filter(|_| tells && !changed) {
            return Ok(listed.clone());
        }
        let tools = match tokio::time::timeout(LIST, self.list()).await {
            Ok(Ok(tools)) => tools,
            Ok(Err(error)) => {
                self.heard.changed.store(true, Ordering::SeqCst);
                return Err(self.failed(error).await);
            }
            Err(_) => {
                self.heard.changed.store(true, Ordering::SeqCst);
                let why = format!("it did not list its tools within {} s", LIST.as_secs());
                return Err(Failed::Refused(why));
            }
        };
        let (tools, notes) = offer(server, tools.into_iter().map(listing).collect());
        let now = Arc::new(Listing { tools, notes });
        *listed = Some(now.clone());
        Ok(now)
    }

    async fn list(&self) -> Result<Vec<Tool>, ServiceError> {
        let (mut tools, mut cursor) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let asked = PaginatedRequestParams::default().with_cursor(cursor);
            let page = self.running.list_tools(Some(asked)).await?;
            tools.extend(page.tools);
            cursor = page.next_cursor;
            if cursor.is_none() || tools.len() >= LISTED_MAX {
                break;
            }
        }
        tools.truncate(LISTED_MAX);
        Ok(tools)
    }

    /// Calls a tool by our name for it. Progress goes to `out`.
    pub(super) async fn call(
        &self,
        server: &Server,
        name: &str,
        arguments: Map<String, Value>,
        out: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Answer, Failed> {
        // What was listed last is what the model was told; only a connection made since has to ask.
        let known = self.listed.lock().await.clone();
        let listed = match known {
            Some(listed) => listed,
            None => self.listed(server).await?,
        };
        let Some(offered) = listed.tools.iter().find(|offered| offered.spec.name == name) else {
            return Err(Failed::Refused(format!(
                "not run: the server {} has no tool {name} any more, or it may not be used",
                server.name
            )));
        };
        let mut progress = self.heard.progress.subscribe();
        // What it asked when nobody called belongs to no call.
        self.heard.questions();
        let asked = CallToolRequestParams::new(offered.own.clone()).with_arguments(arguments);
        // Dropped, it tells the server that nobody waits any more.
        let answer = self.running.call_tool(asked);
        tokio::pin!(answer);
        let last = tokio::time::Instant::now() + server.timeout * PATIENCE;
        let mut quiet = tokio::time::Instant::now() + server.timeout;
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return match answer {
                    Ok(result) => {
                        // What it asked was written down before it could go on.
                        while let Ok(text) = progress.try_recv() {
                            out(&text);
                        }
                        Ok(Answer::of(result).noting(&self.heard.questions()))
                    }
                    Err(error) => Err(self.failed(error).await),
                },
                said = progress.recv() => {
                    if let Ok(text) = said {
                        out(&text);
                    }
                    quiet = tokio::time::Instant::now() + server.timeout;
                }
                () = tokio::time::sleep_until(quiet.min(last)) => {
                    return Err(Failed::Refused(format!(
                        "stopped: the server {} did not answer within {} s. What it has done up to then is not known.",
                        server.name,
                        server.timeout.as_secs()
                    )));
                }
            }
        }
    }

    async fn failed(&self, error: ServiceError) -> Failed {
        match error {
            ServiceError::McpError(error) => {
                Failed::Refused(format!("the server refused it: {}", said(&error.message)))
            }
            ServiceError::TransportClosed => Failed::Lost(self.ending().await),
            ServiceError::TransportSend(_) if self.wired.is_some() => Failed::Lost(self.ending().await),
            // A single request that came to nothing over HTTP; the next may do better.
            ServiceError::TransportSend(error) => {
                Failed::Refused(format!("the server cannot be used: {}", in_words(&*error.error)))
            }
            other => Failed::Refused(format!("the server did not answer as it should: {}", in_words(&other))),
        }
    }
}

struct NotMade {
    /// Whether it is there, and wants to be spoken to in another way.
    refused: bool,
    why: String,
}

fn listing(tool: Tool) -> Listed {
    let annotations = tool.annotations.unwrap_or_default();
    let description = tool.description.map(|text| text.into_owned()).or(tool.title).unwrap_or_default();
    Listed {
        name: tool.name.into_owned(),
        description,
        schema: Arc::unwrap_or_clone(tool.input_schema),
        read_only: annotations.read_only_hint.unwrap_or(false),
        destructive: annotations.destructive_hint.unwrap_or(false),
    }
}

/// What went wrong with a command: how it ended, if it has, and what it complained of.
async fn ended(wired: &Wired, why: String) -> String {
    let mut told = wired.ended(ENDING).await.unwrap_or(why);
    let log = wired.log();
    if !log.is_empty() {
        let tail: Vec<&str> = log.lines().rev().take(10).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        told = format!("{told}. It said: {}", said(&tail.join("\n")));
    }
    told
}

/// A server's words, harmless and capped.
fn said(text: &str) -> String {
    let text = harmless(text.as_bytes()).0;
    match text.char_indices().nth(SAID_CHARS_MAX) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    // What a transport puts before its own words says nothing.
    said(text.strip_prefix("Client error: ").unwrap_or(&text))
}
