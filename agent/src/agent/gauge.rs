//! What fills a session's prompt.

use serde::{Deserialize, Serialize};

use super::Agent;
use crate::Error;
use crate::context::Message;
use crate::event::{Event, SessionId};
use crate::state::{Compaction, State};

/// What fills a session's prompt, and what was left out of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gauge {
    /// Tokens the model's context holds; nothing where that is not known.
    pub window: Option<u64>,
    /// Tokens of the prompt.
    pub tokens: u64,
    /// Whether they were counted, and not guessed because the model is not open.
    pub counted: bool,
    /// How many of them were there already when the model was asked last.
    pub cached_tokens: u64,
    /// What it is made of, in order.
    pub segments: Vec<Segment>,
    /// The times that messages were left out and that hold, oldest first.
    pub compactions: Vec<Compaction>,
    /// What is left out, oldest first, shortened.
    pub left_out: Vec<Segment>,
}

/// One part of a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// What it is.
    pub kind: SegmentKind,
    /// Its first words, for people.
    pub about: String,
    /// Tokens, with the marks around it.
    pub tokens: u64,
}

/// What a part of a prompt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentKind {
    /// How the model is to behave, with its tools, the project's guide and notes.
    System,
    /// What stands for messages that were left out.
    Digest,
    /// What a person said, with what was recalled to it.
    User,
    /// What the model said and asked for.
    Reply,
    /// What came of its calls.
    Results,
}

/// Enough to see what a part is about. Characters.
const ABOUT_CHARS: usize = 80;

impl Agent {
    /// What fills a session's prompt.
    pub async fn gauge(&self, id: &SessionId) -> Result<Gauge, Error> {
        self.slot(id)?;
        let events = self.journal(id).await?;
        let state = State::fold(&events);
        let created = state.created().ok_or_else(|| Error::NoSession(id.clone()))?.clone();
        let world = self.0.worlds.open(id, &created).await?;
        let weights = world.weigh(state.conversation(), &created).await?;
        let lost = crate::world::Weights::guessed(state.left_out(), None);
        let cached_tokens = events
            .iter()
            .rev()
            .find_map(|recorded| match &recorded.event {
                Event::Reply { usage, .. } => Some(usage.cached_tokens),
                _ => None,
            })
            .unwrap_or_default();
        let digests = 1..state.head();
        let segment = |(n, (message, tokens)): (usize, (&Message, &u64))| Segment {
            kind: if digests.contains(&n) { SegmentKind::Digest } else { kind(message) },
            about: about(message),
            tokens: *tokens,
        };
        Ok(Gauge {
            window: weights.window.or(state.window()),
            tokens: weights.tokens.iter().sum(),
            counted: weights.counted,
            cached_tokens,
            segments: state.conversation().iter().zip(&weights.tokens).enumerate().map(segment).collect(),
            compactions: state.compactions().to_vec(),
            left_out: state
                .left_out()
                .iter()
                .zip(&lost.tokens)
                .map(|(message, tokens)| Segment {
                    kind: kind(message),
                    about: about(message),
                    tokens: *tokens,
                })
                .collect(),
        })
    }
}

fn kind(message: &Message) -> SegmentKind {
    match message {
        Message::System { .. } => SegmentKind::System,
        Message::User { .. } => SegmentKind::User,
        Message::Assistant { .. } => SegmentKind::Reply,
        Message::Results { .. } => SegmentKind::Results,
    }
}

fn about(message: &Message) -> String {
    let text = match message {
        Message::System { text, tools } => format!("{} tools; {text}", tools.len()),
        Message::User { text } => text.clone(),
        Message::Assistant { text, calls, .. } => {
            let calls = calls.iter().map(|call| call.name.as_str()).collect::<Vec<_>>().join(", ");
            if calls.is_empty() { text.clone() } else { format!("[{calls}] {text}") }
        }
        Message::Results { answers } => answers
            .iter()
            .map(|answer| answer.text.lines().next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join(" · "),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(ABOUT_CHARS).collect()
}
