//! Following a turn to its end, with the keyboard at hand.

use std::collections::BTreeMap;
use std::time::Duration;

use agent::{End, Event};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::{Client, Heard, Refusal};
use crate::failure::Failure;
use crate::goals::Goal;
use crate::show::Show;
use crate::term::{Ink, Screen, say};
use crate::wire;

/// How a command follows a session.
pub(crate) struct Follower<'a> {
    pub(crate) client: &'a Client,
    pub(crate) id: &'a str,
    pub(crate) screen: &'a Screen,
    /// Prints each event as one JSON object instead of showing it.
    pub(crate) json: bool,
    /// Whether the service ends when the person leaves.
    pub(crate) inside: bool,
    interrupts: Signal,
    /// Its sub-agents that are at work, and which of their calls somebody here was told of.
    children: BTreeMap<String, Option<String>>,
    /// The session that asks: this one or a sub-agent.
    asks: String,
}

/// How following a turn ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Followed {
    /// The session rests.
    Ended(End),
    /// A call waits for an approval that nobody here can give.
    Asks,
    /// The person left.
    Left,
}

/// How often a lost stream is taken up again before giving up.
const RETRIES: u32 = 5;
/// How long to wait before it is.
const RETRY: Duration = Duration::from_millis(500);
/// How long to wait for what a turn taught.
const LEARNING: Duration = Duration::from_secs(3);
/// How often is looked whether a sub-agent asks something.
const LOOK: Duration = Duration::from_secs(2);
/// How often the line at the bottom moves.
const TICK: Duration = Duration::from_millis(120);

impl<'a> Follower<'a> {
    pub(crate) fn new(
        client: &'a Client,
        id: &'a str,
        screen: &'a Screen,
        json: bool,
        inside: bool,
    ) -> Result<Follower<'a>, Failure> {
        let interrupts = signal(SignalKind::interrupt())
            .map_err(|error| Failure::new(format!("cannot listen for Ctrl-C: {error}")))?;
        let (children, asks) = (BTreeMap::new(), id.to_string());
        Ok(Follower { client, id, screen, json, inside, interrupts, children, asks })
    }

    /// Says something to the session, perhaps with a goal; gives back the place of it.
    pub(crate) async fn say(&self, text: &str, until: Option<Goal>) -> Result<u64, Failure> {
        let input = wire::NewInput { id: Some(crate::auth::random_id()?), text: text.to_string(), until };
        // The id makes asking again harmless when an answer was lost.
        for _ in 0..2 {
            match self.client.input(self.id, &input).await {
                Ok(admitted) => return Ok(admitted.seq),
                Err(Refusal::Lost(_)) => tokio::time::sleep(RETRY).await,
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Ok(self.client.input(self.id, &input).await?.seq)
    }

    /// Follows the session from the event after `after` until it rests, past the event `until` at least.
    pub(crate) async fn follow(&mut self, mut after: u64, until: u64) -> Result<Followed, Failure> {
        let mut show = Show::new(self.screen.clone());
        let mut retries = 0;
        let mut interrupted = false;
        let mut ticks = tokio::time::interval(TICK);
        let mut looks = tokio::time::interval(LOOK);
        let session = self.client.session(self.id).await?;
        if matches!(session.status, wire::Status::Running | wire::Status::Asking) {
            self.find_children().await?;
        }
        if let Some(ask) = session.asks.filter(|_| session.last <= after) {
            // The stream begins behind the question.
            if !self.answer(self.id, &ask).await? {
                self.asks = self.id.to_string();
                return Ok(Followed::Asks);
            }
        }
        // A turn that has ended is still learned from.
        let mut ended: Option<(End, tokio::time::Instant)> = None;
        loop {
            let mut stream = match self.client.follow(self.id, after).await {
                Ok(stream) => stream,
                Err(Refusal::Lost(failure)) if retries >= RETRIES => {
                    return Err(failure.next(self.how_to_go_on()));
                }
                Err(Refusal::Lost(_)) => {
                    retries += 1;
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Err(refusal) => return Err(refusal.into()),
            };
            loop {
                let heard = tokio::select! {
                    heard = stream.next() => heard,
                    _ = self.interrupts.recv() => {
                        if interrupted {
                            self.screen.quiet();
                            self.screen.end_text();
                            return Ok(Followed::Left);
                        }
                        interrupted = true;
                        self.interrupt().await;
                        continue;
                    }
                    _ = looks.tick(), if !self.children.is_empty() => {
                        if !self.answer_children().await? {
                            return Ok(Followed::Asks);
                        }
                        continue;
                    }
                    _ = ticks.tick() => {
                        match ended.take_if(|(_, since)| since.elapsed() > LEARNING) {
                            Some((end, _)) => return Ok(Followed::Ended(end)),
                            None => show.tick(),
                        }
                        continue;
                    }
                };
                let Some(heard) = heard else { break };
                if heard.kind == "end" {
                    self.screen.quiet();
                    return Err(self.ended(&heard));
                }
                retries = 0;
                let recorded = if self.json { self.print(&heard) } else { show.hear(&heard) };
                let Some(seq) = heard.id else { continue };
                after = seq;
                match recorded.map(|recorded| recorded.event) {
                    Some(Event::TurnEnded { end, .. }) => {
                        // Inputs that came too late for this turn begin another one.
                        let now = self.client.session(self.id).await?;
                        if seq > until && now.status != wire::Status::Running {
                            if !now.memory {
                                return Ok(Followed::Ended(end));
                            }
                            ended = Some((end, tokio::time::Instant::now()));
                        }
                    }
                    Some(Event::Learned { .. }) => {
                        if let Some((end, _)) = ended {
                            return Ok(Followed::Ended(end));
                        }
                    }
                    Some(Event::ApprovalAsked { .. }) => {
                        let asks = self.client.session(self.id).await?.asks;
                        if let Some(ask) = asks
                            && !self.answer(self.id, &ask).await?
                        {
                            self.asks = self.id.to_string();
                            return Ok(Followed::Asks);
                        }
                    }
                    Some(Event::ChildStarted(child)) => {
                        self.children.insert(child.child.to_string(), None);
                    }
                    Some(Event::ChildEnded(returned)) => {
                        self.children.remove(&returned.child.to_string());
                    }
                    _ => {}
                }
            }
        }
    }

    /// Finds the sub-agents that are at work already.
    async fn find_children(&mut self) -> Result<(), Failure> {
        let mut cursor = None;
        loop {
            let page = self.client.sessions(cursor.as_deref()).await?;
            for session in page.sessions {
                let works = matches!(session.status, wire::Status::Running | wire::Status::Asking);
                if works && session.parent.as_deref() == Some(self.id) {
                    self.children.entry(session.id).or_default();
                }
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Asks for the sub-agents what they ask, since nobody sees them but those who follow this session. False when nobody is
    /// there to be asked, nor could be elsewhere.
    async fn answer_children(&mut self) -> Result<bool, Failure> {
        for child in self.children.keys().cloned().collect::<Vec<_>>() {
            // One that is gone asks nothing any more; the session will say so.
            let Ok(session) = self.client.session(&child).await else { continue };
            let Some(ask) = session.asks else { continue };
            if self.children.get(&child).is_some_and(|told| told.as_ref() == Some(&ask.call)) {
                continue;
            }
            self.children.insert(child.clone(), Some(ask.call.clone()));
            if self.answer(&child, &ask).await? {
                continue;
            }
            self.asks = child;
            if self.inside {
                return Ok(false);
            }
            if !self.json {
                self.say_asks();
            }
        }
        Ok(true)
    }

    /// Prints a recorded event as it came; gives it back.
    fn print(&self, heard: &Heard) -> Option<agent::Recorded> {
        heard.id?;
        say(&heard.data);
        serde_json::from_str(&heard.data).ok()
    }

    /// Asks the person whether a call may run, and tells the session. False when nobody is there to be asked.
    async fn answer(&self, session: &str, ask: &wire::Ask) -> Result<bool, Failure> {
        use std::io::IsTerminal;
        if self.json || !std::io::stdin().is_terminal() {
            return Ok(false);
        }
        self.screen.quiet();
        let wire::Ask { tool, why, .. } = ask;
        let whose = if session == self.id { String::new() } else { format!(" for the sub-agent {session}") };
        let question = format!("? let {tool} run{whose}? {why} [y/N/always] ");
        self.screen.text(&self.screen.ink(Ink::Warn, &question));
        let mut line = String::new();
        let read = tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut line).map(|_| line));
        let said = read.await.ok().and_then(Result::ok).unwrap_or_default();
        let said = said.trim().to_lowercase();
        let always = matches!(said.as_str(), "a" | "always");
        let allowed = always || matches!(said.as_str(), "y" | "yes");
        let approval = wire::Approval { call: ask.call.clone(), allowed, always, by: super::who() };
        self.client.approve(session, &approval).await?;
        Ok(true)
    }

    /// Says how the question is answered that the session rests for.
    pub(crate) fn say_asks(&self) {
        let (id, asks, screen) = (self.id, &self.asks, self.screen);
        let who = if asks == id { "it".to_string() } else { format!("its sub-agent {asks}") };
        screen.line(&screen.ink(
            Ink::Warn,
            &format!(
                "{who} waits for your approval: `saga sessions approve {asks}` or `saga sessions deny {asks}`, then `saga resume {id}`"
            ),
        ));
    }

    async fn interrupt(&self) {
        self.screen.line(&self.screen.ink(Ink::Warn, "interrupting; once more to leave"));
        if let Err(refusal) = self.client.interrupt(self.id).await {
            self.screen
                .line(&self.screen.ink(Ink::Bad, &format!("not interrupted: {}", Failure::from(refusal))));
        }
    }

    fn ended(&self, heard: &Heard) -> Failure {
        let said: serde_json::Value = serde_json::from_str(&heard.data).unwrap_or_default();
        match said["reason"].as_str() {
            Some("deleted") => Failure::new(format!("the session {} was deleted", self.id)),
            Some("stopping") => Failure::new("the service is stopping").next(self.how_to_go_on()),
            _ => Failure::new(format!(
                "the stream ended: {}",
                said["detail"].as_str().unwrap_or("no reason was given")
            ))
            .next(self.how_to_go_on()),
        }
    }

    /// What leads back to this session.
    pub(crate) fn how_to_go_on(&self) -> String {
        format!("`saga resume {}` goes on with it", self.id)
    }

    /// Says that the person has left, and what happens now.
    pub(crate) fn say_left(&self) {
        let now = if self.inside { "the session rests" } else { "the session goes on in the service" };
        self.screen.line(&format!("{now}; {}", self.how_to_go_on()));
    }
}

/// What a turn has cost, as one line.
pub(crate) fn usage_line(before: &wire::Session, now: &wire::Session, wall: Duration) -> String {
    use crate::host::{count, seconds};
    let (a, b) = (before.usage, now.usage);
    let prompt = b.prompt_tokens - a.prompt_tokens;
    let cached = b.cached_tokens - a.cached_tokens;
    let percent = (cached * 100).checked_div(prompt).unwrap_or(0);
    let calls = now.tool_calls - before.tool_calls;
    let errors = now.tool_errors - before.tool_errors;
    let plural = |n: u64, one: &str| if n == 1 { format!("1 {one}") } else { format!("{} {one}s", count(n)) };
    let failed = if errors > 0 { format!(" ({errors} failed)") } else { String::new() };
    format!(
        "{} · {}{failed} · {} prompt tokens ({percent} % cached) · {} output tokens · {}",
        plural(u64::from(now.steps - before.steps), "step"),
        plural(u64::from(calls), "call"),
        count(prompt),
        count(b.output_tokens - a.output_tokens),
        seconds(wall.as_secs_f64()),
    )
}

/// What a turn has come to, as one JSON object.
pub(crate) fn summary(
    session: &wire::Session,
    end: Option<&End>,
    diff: Option<&str>,
    wall: Duration,
) -> serde_json::Value {
    json!({
        "type": "summary",
        "session": session.id,
        "end": end,
        "steps": session.steps,
        "tool_calls": session.tool_calls,
        "tool_errors": session.tool_errors,
        "prompt_tokens": session.usage.prompt_tokens,
        "cached_tokens": session.usage.cached_tokens,
        "output_tokens": session.usage.output_tokens,
        "seconds": (wall.as_secs_f64() * 1000.0).round() / 1000.0,
        "diff": diff,
    })
}
