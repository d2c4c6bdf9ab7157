//! A small world for the tests of the API: the mind says what it is told to, calls go well, the journal is real.

use std::sync::Arc;
use std::time::Duration;

use agent::{
    Cancel, Created, Error, Event, Manner, Message, NewSession, Progress, SessionId, Sink, Stop, Thought,
    Usage, World, Worlds,
};
use async_trait::async_trait;
use memory::{Journal, Memory, Seq};
use tools::{Call, Outcome, Replay};

/// How the mind of this world behaves.
#[derive(Clone)]
pub(super) struct Echo {
    pub(super) memory: Memory,
    /// How long a thought takes.
    pub(super) takes: Duration,
    /// Pieces of progress that a thought shows.
    pub(super) chatter: usize,
}

struct Seat {
    echo: Echo,
    journal: Journal,
}

#[async_trait]
impl World for Seat {
    fn now_ms(&self) -> u64 {
        1_795_000_000_000
    }

    async fn append(&self, at_ms: u64, event: &Event) -> Result<Seq, Error> {
        Ok(self.journal.append(&agent::encode(at_ms, event))?)
    }

    fn replay(&self, _: &str) -> Replay {
        Replay::Safe
    }

    /// Says what it was told last, after one call.
    async fn think(
        &self,
        conversation: &[Message],
        _: &Created,
        _: &Manner,
        cancel: &Cancel,
        out: &Sink,
    ) -> Result<Thought, Error> {
        for n in 0..self.echo.chatter {
            out.say(Progress::Text { text: format!("{n} ") });
        }
        tokio::select! {
            () = tokio::time::sleep(self.echo.takes) => {}
            () = cancel.set() => return Ok(Thought { stop: Some(Stop::Interrupted), ..Thought::default() }),
        }
        let asked_for_a_call = matches!(conversation.last(), Some(Message::User { .. }));
        let calls = if asked_for_a_call {
            vec![Call {
                id: String::new(),
                name: "look".to_string(),
                arguments: serde_json::json!({"path": "."}),
            }]
        } else {
            Vec::new()
        };
        Ok(Thought {
            tokens: vec![1, 2, 3],
            text: "heard".to_string(),
            calls,
            refused: Vec::new(),
            stop: Some(Stop::End),
            usage: Usage {
                prompt_tokens: 10,
                cached_tokens: 4,
                output_tokens: 3,
                prefill_ms: 1,
                decode_ms: 1,
                cost_nanos: 2_000_000,
            },
        })
    }

    async fn act(&self, _: &Call, _: &Cancel, _: &Sink) -> Result<Outcome, Error> {
        Ok(Outcome { ok: true, ..Outcome::refused("went well") })
    }
}

#[async_trait]
impl Worlds for Echo {
    async fn plan(&self, new: &NewSession) -> Result<Created, Error> {
        if new.workspace.starts_with("/outside") {
            return Err(Error::OutsideRoots { path: new.workspace.clone(), roots: "/srv".to_string() });
        }
        Ok(Created {
            workspace: new.workspace.clone(),
            model: new.model.clone().unwrap_or_else(|| "echo".to_string()),
            dialect: "hermes".to_string(),
            system: String::new(),
            tools: Vec::new(),
            budget: new.budget.unwrap_or_default(),
            sampling: engine::Sampling::default(),
            led: false,
            check: None,
            memory: false,
            checkpoints: false,
            told: Vec::new(),
            context_tokens: None,
            until: new.until.clone(),
            ..Created::default()
        })
    }

    async fn open(&self, id: &SessionId, _: &Created) -> Result<Arc<dyn World>, Error> {
        Ok(Arc::new(Seat { echo: self.clone(), journal: self.memory.journal(id.as_str())? }))
    }

    async fn forget(&self, _: &SessionId) {}

    fn now_ms(&self) -> u64 {
        use std::time::{SystemTime, UNIX_EPOCH};
        SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_millis() as u64).unwrap_or_default()
    }
}
