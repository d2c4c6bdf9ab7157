//! What the model is told: the conversation as messages, built from events and nothing else.

use serde::{Deserialize, Serialize};
use tools::{Call, Spec};

use crate::event::{Refused, Stop};

/// One message of the conversation. A conversation only grows at its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Message {
    /// How the model is to behave, and the tools it has.
    System {
        /// The system prompt.
        text: String,
        /// The tools, in the order they are described.
        tools: Vec<Spec>,
    },
    /// What a person said.
    User {
        /// Their words.
        text: String,
    },
    /// What the model said.
    Assistant {
        /// As sampled. A dialect shows these to the model again and never the text.
        tokens: Vec<engine::Token>,
        /// The text outside its calls, for minds that take text.
        text: String,
        /// Its calls, for minds that take text.
        calls: Vec<Call>,
        /// Why it ended: a reply that was cut off is closed by the dialect.
        stop: Stop,
    },
    /// What came of the calls of the reply before, one answer for each call, in order.
    Results {
        /// The answers.
        answers: Vec<Answer>,
    },
}

/// What the model is told about one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`Call::id`], or nothing for a call that could not be read.
    pub call: Option<String>,
    /// The tool's name, or nothing for a call that could not be read.
    pub name: Option<String>,
    /// What the model reads.
    pub text: String,
}

impl Answer {
    /// The answer to a call that was never started.
    pub(crate) fn skipped(call: &Call) -> Answer {
        Answer::to(call, "not run: the turn ended before this call was started".to_string())
    }

    /// The answer to a call that somebody did not approve of.
    pub(crate) fn denied(call: &Call) -> Answer {
        Answer::to(
            call,
            "not run: the user was asked and said no. Go on without it, or ask them what to do.".to_string(),
        )
    }

    /// The answer to a call that a rule forbids.
    pub(crate) fn forbidden(call: &Call, why: &str) -> Answer {
        Answer::to(
            call,
            format!(
                "not run: {why}. No other way around it is wanted either: go on without it, or say what you would need."
            ),
        )
    }

    /// The answer to a call whose outcome nobody knows.
    pub(crate) fn lost(call: &Call) -> Answer {
        Answer::to(
            call,
            "outcome unknown: the service stopped while this call was running. It may have run fully, partly or not at \
             all. Look at the files and decide whether to do it again."
                .to_string(),
        )
    }

    /// The answer to a call that could not be read.
    pub(crate) fn refused(refused: &Refused) -> Answer {
        Answer { call: None, name: None, text: format!("not run: {}", refused.why) }
    }

    /// An answer to a call.
    pub(crate) fn to(call: &Call, text: String) -> Answer {
        Answer { call: Some(call.id.clone()), name: Some(call.name.clone()), text }
    }
}
