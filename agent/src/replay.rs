//! A journal gone through again: with what was sampled and what came of calls as they were written, every prompt must be the one that
//! was shown then, and every reply must read as it read then.

use engine::Token;
use serde::{Deserialize, Serialize};
use tools::Call;

use crate::context::Message;
use crate::event::{Created, Event, Recorded, Stop, digest};
use crate::state::State;

/// What a session's model made of messages and tokens: what a replay compares the journal with.
pub trait Model {
    /// What can go wrong.
    type Error;

    /// How many tokens the prompt of a conversation has; nothing where that is not known here.
    fn prompt_tokens(&self, conversation: &[Message]) -> Result<Option<u64>, Self::Error>;

    /// How a reply of these tokens reads: its text, and its calls without their ids. Nothing where that is not known here. `whole` is
    /// false for one that was cut off.
    fn read(&self, created: &Created, tokens: &[Token], whole: bool) -> Option<(String, Vec<Call>)>;
}

/// What going through a journal again has shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replayed {
    /// How many events there are.
    pub events: usize,
    /// Every step that was answered, in order.
    pub steps: Vec<ReplayedStep>,
    /// SHA-256 of the conversation as it stands at the end.
    pub conversation: String,
}

/// A step that was gone through again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayedStep {
    /// Its number.
    pub step: u32,
    /// The place of its reply.
    pub seq: u64,
    /// Tokens of the prompt now; nothing for a session that thought on another machine.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the prompt as they were counted then.
    pub counted: u64,
    /// What is not as it was, in words; nothing when all is.
    pub trouble: Option<String>,
}

impl Replayed {
    /// Steps that are not as they were.
    pub fn differing(&self) -> impl Iterator<Item = &ReplayedStep> {
        self.steps.iter().filter(|step| step.trouble.is_some())
    }

    /// Tokens of all prompts together, as they are now.
    pub fn prompt_tokens(&self) -> u64 {
        self.steps.iter().filter_map(|step| step.prompt_tokens).sum()
    }
}

/// Goes through a session's events again.
///
/// # Errors
/// What the model's own counting fails with.
pub fn replay<M: Model>(events: &[Recorded], model: &M) -> Result<Replayed, M::Error> {
    let mut state = State::default();
    let mut steps = Vec::new();
    let mut shown = None;
    for (n, recorded) in events.iter().enumerate() {
        let before =
            matches!(recorded.event, Event::Reply { .. }).then(|| state.created().cloned()).flatten();
        match &recorded.event {
            // What holds from here on is told by all that came before.
            Event::Rewound { .. } => state = State::fold(&events[..=n]),
            _ => state.apply(recorded),
        }
        match &recorded.event {
            Event::StepStarted { .. } => shown = model.prompt_tokens(state.conversation())?,
            Event::Reply { step, tokens, text, calls, stop, usage, .. } => {
                let counted = usage.prompt_tokens;
                let read = before.and_then(|created| model.read(&created, tokens, *stop == Stop::End));
                let alike = |(now, asked): &(String, Vec<Call>)| {
                    let told = |call: &Call| (call.name.clone(), call.arguments.clone());
                    now == text && asked.iter().map(told).eq(calls.iter().map(told))
                };
                let trouble = match (shown, read) {
                    // A reply that was cut off before its prompt was made counted nothing.
                    (Some(shown), _) if shown != counted && counted != 0 => {
                        Some(format!("the prompt has {shown} tokens, then it had {counted}"))
                    }
                    // The token that ends a reply is counted and not kept.
                    (Some(_), _) if !(0..=1).contains(&spare(usage.output_tokens, tokens.len())) => {
                        Some(format!(
                            "the reply has {} tokens, then {} were sampled",
                            tokens.len(),
                            usage.output_tokens
                        ))
                    }
                    (_, Some(read)) if !tokens.is_empty() && !alike(&read) => {
                        Some("the reply's tokens read otherwise than its text and calls".to_string())
                    }
                    _ => None,
                };
                steps.push(ReplayedStep {
                    step: *step,
                    seq: recorded.seq.0,
                    prompt_tokens: shown,
                    counted,
                    trouble,
                });
            }
            _ => {}
        }
    }
    let conversation =
        serde_json::to_string(&**state.conversation()).expect("messages have only string keys");
    Ok(Replayed { events: events.len(), steps, conversation: digest(&conversation) })
}

/// How many tokens were sampled beyond those that were kept.
fn spare(sampled: u64, kept: usize) -> i128 {
    i128::from(sampled) - kept as i128
}
