//! Thinking on another machine: any server that speaks OpenAI's chat completions, such as vLLM, SGLang or llama-server.
//!
//! <https://platform.openai.com/docs/api-reference/chat>. Such a server takes messages and gives text and calls; there are no tokens to
//! keep, no grammar of ours and no KV. Calls that it writes wrongly are refused in words, and a reply that breaks off is thought again.

mod stream;
mod wire;

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::Error;
use crate::context::Message;
use crate::event::{Budget, Created, Stop, Usage};
use crate::world::{Cancel, Manner, Sink, Thought};
use stream::Assembly;

/// A model somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// What it is called here: sessions name it as `remote:NAME`.
    pub name: String,
    /// Where its API is, up to and with `/v1`.
    pub url: String,
    /// The model, as the server calls it.
    pub model: String,
    /// The key that is sent as a bearer token.
    pub key: Option<Key>,
    /// Tokens its context holds.
    pub context_tokens: u64,
    /// Whether it is led, as small models need to be.
    pub led: bool,
    /// What its tokens cost, if that is to be counted.
    pub price: Price,
    /// A file of certificates (PEM) that the server's is held against, in place of the usual ones.
    pub ca_file: Option<PathBuf>,
}

/// What tokens cost: billionths of a currency for each. 0: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    /// A token of a prompt.
    pub input_nanos: u64,
    /// One that the server had computed before.
    pub cached_nanos: u64,
    /// A sampled one.
    pub output_nanos: u64,
}

impl Price {
    /// What a reply has cost.
    pub fn of(self, usage: Usage) -> u64 {
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let parts = [
            (usage.prompt_tokens - cached, self.input_nanos),
            (cached, self.cached_nanos),
            (usage.output_tokens, self.output_nanos),
        ];
        parts.into_iter().fold(0, |sum, (tokens, nanos)| sum.saturating_add(tokens.saturating_mul(nanos)))
    }

    /// How many tokens may be sampled for so much, at least one; 0 is as much as it likes.
    pub fn affords(self, nanos: u64, most: u32) -> u32 {
        match (nanos, self.output_nanos) {
            (0, _) | (_, 0) => most,
            (nanos, each) => u32::try_from(nanos / each).unwrap_or(most).clamp(1, most.max(1)),
        }
    }
}

/// A key that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// A key, without what an editor leaves around it.
    pub fn new(key: &str) -> Key {
        Key(key.trim().to_string())
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// How a session names a remote model.
pub const PREFIX: &str = "remote:";

/// The name that journals store for the format of such sessions: messages, of which the server makes its own prompt.
pub const DIALECT: &str = "messages";

/// How long a server may take to accept a connection, to answer, and between two pieces of its answer. A large prompt on a busy cluster
/// takes minutes before its first token.
const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(600);
/// How often a thought is tried before its turn ends.
const TRIES: u32 = 6;
/// The wait after the first try, which doubles with each, and the longest. A server's own wish may be longer, up to its own longest.
const WAIT: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);
const WISH_MAX: Duration = Duration::from_secs(300);
/// The longest line of an answer, and the longest answer of an error. Bytes.
const LINE_BYTES_MAX: u64 = 4 << 20;
const ERROR_BYTES_MAX: u64 = 64 << 10;
/// Pieces of an answer that may wait to be read.
const PIECES: usize = 256;

/// One session's mind on another machine.
pub struct RemoteMind {
    remote: Remote,
    agent: ureq::Agent,
}

/// What came of asking once.
enum Answer {
    Thought(Box<Thought>),
    /// It may go well the next time, perhaps not before some time.
    Again {
        why: String,
        after: Option<Duration>,
    },
    Failed(Error),
}

/// What the thread that reads an answer tells.
enum Piece {
    /// A line of its stream.
    Line(String),
    /// The server refuses, with a status, how long to wait, and why.
    Refused(u16, Option<Duration>, String),
    /// There is no connection, or no more.
    Broken(String),
    /// The stream has come to its end.
    End,
}

impl RemoteMind {
    /// A mind that asks `remote`.
    pub fn new(remote: Remote) -> Result<RemoteMind, Error> {
        let agent = agent(&remote)?;
        Ok(RemoteMind { remote, agent })
    }

    /// The models that the server says it has.
    ///
    /// # Errors
    /// [`Error::Remote`] when it does not answer. Blocking.
    pub fn models(&self) -> Result<Vec<String>, Error> {
        let url = format!("{}/models", self.remote.url.trim_end_matches('/'));
        let mut request = self.agent.get(&url);
        if let Some(Key(key)) = &self.remote.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let asked = request.config().timeout_global(Some(CONNECT)).build().call();
        let mut response = asked.map_err(|error| self.trouble(&error.to_string()))?;
        if !response.status().is_success() {
            return Err(self.refused(response.status().as_u16(), ""));
        }
        let text = response.body_mut().read_to_string().map_err(|error| self.trouble(&error.to_string()))?;
        Ok(wire::models(&text))
    }

    /// Replies to a conversation.
    pub async fn think(
        &mut self,
        conversation: &[Message],
        created: &Created,
        manner: &Manner,
        cancel: &Cancel,
        out: &Sink,
    ) -> Result<Thought, Error> {
        let price = self.remote.price;
        let mut created = created.clone();
        let Budget { session_cost_nanos_max, reply_tokens_max, .. } = created.budget;
        created.budget.reply_tokens_max = price.affords(session_cost_nanos_max, reply_tokens_max);
        let created = &created;
        let body = wire::request(&self.remote.model, conversation, created, manner).to_string();
        let mut wait = WAIT;
        for attempt in 1.. {
            let (why, after) = match self.ask(&body, created, cancel, out).await {
                Answer::Thought(mut thought) => {
                    thought.usage.cost_nanos = price.of(thought.usage);
                    return Ok(*thought);
                }
                Answer::Failed(error) => return Err(error),
                Answer::Again { why, .. } if attempt >= TRIES => return Err(self.trouble(&why)),
                Answer::Again { why, after } => (why, after),
            };
            // Many sessions that were refused at once do not come back at once.
            let pause = after.unwrap_or(wait).mul_f64(0.5 + f64::from(chance() % 1000) / 1000.0);
            tracing::warn!(
                mind = self.remote.name,
                attempt,
                why,
                pause_ms = pause.as_millis() as u64,
                "asking again"
            );
            tokio::select! {
                () = cancel.set() => return Ok(Thought { stop: Some(Stop::Interrupted), ..Thought::default() }),
                () = tokio::time::sleep(pause) => {}
            }
            wait = (wait * 2).min(WAIT_MAX);
        }
        unreachable!("the loop ends with the last try")
    }

    /// Asks once.
    async fn ask(&self, body: &str, created: &Created, cancel: &Cancel, out: &Sink) -> Answer {
        let (pieces, mut told) = mpsc::channel(PIECES);
        let gone = Gone(Arc::new(AtomicBool::new(false)));
        let stop = gone.0.clone();
        let (agent, remote, body) = (self.agent.clone(), self.remote.clone(), body.to_string());
        tokio::task::spawn_blocking(move || read(&agent, &remote, body, &stop, &pieces));
        let began = Instant::now();
        let mut assembly = Assembly::new(out);
        loop {
            let piece = tokio::select! {
                biased;
                () = cancel.set() => return Answer::Thought(Box::new(assembly.interrupted())),
                piece = told.recv() => piece.unwrap_or_else(|| Piece::Broken("its answer was not read to the end".to_string())),
            };
            match piece {
                Piece::Line(line) => match assembly.line(&line, began) {
                    Ok(()) => {}
                    Err(why) => return self.refusal(0, None, &why),
                },
                Piece::Refused(status, after, why) => return self.refusal(status, after, &why),
                Piece::Broken(why) => return Answer::Again { why, after: None },
                Piece::End => {
                    return match assembly.finish(&created.tools) {
                        Some(thought) => Answer::Thought(Box::new(thought)),
                        None => Answer::Again { why: "its answer broke off".to_string(), after: None },
                    };
                }
            }
        }
    }

    /// What a refusal means.
    fn refusal(&self, status: u16, after: Option<Duration>, why: &str) -> Answer {
        if let Some(asked) = wire::too_long(why) {
            let limit = self.remote.context_tokens;
            return Answer::Failed(Error::ContextFull { asked: asked.unwrap_or(limit + 1), limit });
        }
        match status {
            // Too many requests, a gateway that waits, a server that starts or stops.
            0 | 408 | 425 | 429 | 500 | 502..=504 => {
                let status = if status == 0 { String::new() } else { format!("status {status}: ") };
                Answer::Again { why: format!("{status}{why}"), after }
            }
            _ => Answer::Failed(self.refused(status, why)),
        }
    }

    fn refused(&self, status: u16, why: &str) -> Error {
        let next = match status {
            401 | 403 => "; check the key that the settings name for it",
            404 => "; check its url, which ends with /v1, and its model",
            _ => "",
        };
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        self.trouble(&format!("it refuses with status {status}{why}{next}"))
    }

    fn trouble(&self, why: &str) -> Error {
        Error::Remote { name: self.remote.name.clone(), url: self.remote.url.clone(), why: why.to_string() }
    }
}

/// Tells the thread that reads when nobody waits for it any more.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn agent(remote: &Remote) -> Result<ureq::Agent, Error> {
    let mut tls = TlsConfig::builder();
    if let Some(file) = &remote.ca_file {
        tls = tls.root_certs(RootCerts::new_with_certs(&certificates(file)?));
    }
    Ok(ureq::Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .user_agent(concat!("saga/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent())
}

fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let bad = |why: String| {
        Error::BadRequest(format!("the certificates in {} cannot be used: {why}", file.display()))
    };
    let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let ureq::tls::PemItem::Certificate(certificate) = item.map_err(|error| bad(error.to_string()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(bad("there is none in it".to_string()));
    }
    Ok(found)
}

/// Asks and reads, on a thread that may wait. What nobody takes any more is not read on.
fn read(agent: &ureq::Agent, remote: &Remote, body: String, stop: &AtomicBool, pieces: &mpsc::Sender<Piece>) {
    let tell = |piece| !stop.load(Ordering::Relaxed) && pieces.blocking_send(piece).is_ok();
    let url = format!("{}/chat/completions", remote.url.trim_end_matches('/'));
    let mut request =
        agent.post(&url).header("content-type", "application/json").header("accept", "text/event-stream");
    if let Some(Key(key)) = &remote.key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let mut response = match request.send(body) {
        Ok(response) => response,
        Err(error) => {
            tell(Piece::Broken(error.to_string()));
            return;
        }
    };
    let status = response.status().as_u16();
    if !response.status().is_success() {
        let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let after = header.and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
        let text =
            response.body_mut().with_config().limit(ERROR_BYTES_MAX).read_to_string().unwrap_or_default();
        tell(Piece::Refused(status, after.map(|after| after.min(WISH_MAX)), wire::complaint(&text)));
        return;
    }
    let mut reader = std::io::BufReader::new(response.body_mut().with_config().limit(u64::MAX).reader());
    loop {
        let mut line = Vec::new();
        match std::io::Read::take(&mut reader, LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) => {
                tell(Piece::End);
                return;
            }
            Ok(read) if read as u64 == LINE_BYTES_MAX && line.last() != Some(&b'\n') => {
                tell(Piece::Broken("a line of its answer is longer than 4 MiB".to_string()));
                return;
            }
            Ok(_) => {
                if !tell(Piece::Line(String::from_utf8_lossy(&line).into_owned())) {
                    return;
                }
            }
            Err(error) => {
                tell(Piece::Broken(error.to_string()));
                return;
            }
        }
    }
}

/// A number by chance: nothing but a pause depends on it.
fn chance() -> u16 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() as u16
}

impl Thought {
    /// What was said until somebody interrupted it.
    fn cut(text: String, usage: Usage) -> Thought {
        Thought { text, stop: Some(Stop::Interrupted), usage, ..Thought::default() }
    }
}

#[cfg(test)]
mod tests;
