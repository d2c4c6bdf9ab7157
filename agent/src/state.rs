//! What has happened: the fold of a session's journal.
//!
//! State is never stored. Any prefix of any journal folds, in any order of events: what does not fit is ignored
//! rather than believed, because a journal may have been written by a version with other habits.

use std::collections::BTreeMap;
use std::sync::Arc;

use memory::Seq;
use tools::{Call, Replay};

use crate::context::{Answer, Message};
use crate::event::{Created, End, Event, Recorded, Refused, Stop, Usage};

/// A session as its journal tells it.
#[derive(Debug, Clone, Default)]
pub struct State {
    created: Option<Arc<Created>>,
    last: Option<Seq>,
    updated_ms: u64,
    /// What clients have sent, by their id, with the place it was written.
    inputs: BTreeMap<String, (Seq, Arc<str>)>,
    title: Option<String>,
    turn: u32,
    running: bool,
    interrupted: bool,
    /// Whether the last reply of this turn left nothing to do.
    answered: bool,
    step: u32,
    turn_steps: u32,
    turn_output_tokens: u64,
    /// Inputs the model has not been shown.
    waiting: Vec<Arc<str>>,
    /// Calls of the last reply that the model has not been given the answers of.
    calls: Vec<(Call, Settled)>,
    refused: Vec<Refused>,
    conversation: Arc<Vec<Message>>,
    usage: Usage,
    calls_done: u32,
    calls_failed: u32,
    ended: Option<End>,
}

/// How far a call has got.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Settled {
    Waiting,
    Started(Replay),
    Answered(Answer),
}

impl State {
    /// The state after all of `events`.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a Recorded>) -> State {
        let mut state = State::default();
        for event in events {
            state.apply(event);
        }
        state
    }

    /// One event further.
    pub fn apply(&mut self, recorded: &Recorded) {
        self.last = Some(recorded.seq);
        self.updated_ms = recorded.at_ms;
        match &recorded.event {
            Event::Created(created) => {
                if self.created.is_none() {
                    let system =
                        Message::System { text: created.system.clone(), tools: created.tools.clone() };
                    Arc::make_mut(&mut self.conversation).push(system);
                    self.created = Some(Arc::from(created.clone()));
                }
            }
            Event::Input { id, text } => {
                let text: Arc<str> = text.as_str().into();
                self.title.get_or_insert_with(|| title(&text));
                self.inputs.insert(id.clone(), (recorded.seq, text.clone()));
                self.waiting.push(text);
                self.answered = false;
            }
            Event::TurnStarted { turn } => {
                self.turn = *turn;
                self.running = true;
                self.interrupted = false;
                self.answered = false;
                self.turn_steps = 0;
                self.turn_output_tokens = 0;
                self.ended = None;
            }
            Event::StepStarted { step } => {
                self.step = *step;
                self.turn_steps += 1;
                self.tell();
            }
            Event::Reply { step, tokens, text, calls, refused, stop, usage } => {
                self.step = *step;
                self.turn_output_tokens += usage.output_tokens;
                self.usage = self.usage.plus(*usage);
                self.calls = calls.iter().map(|call| (call.clone(), Settled::Waiting)).collect();
                self.refused = refused.clone();
                self.answered = calls.is_empty() && refused.is_empty() && self.waiting.is_empty();
                Arc::make_mut(&mut self.conversation).push(Message::Assistant {
                    tokens: tokens.clone(),
                    text: text.clone(),
                    calls: calls.clone(),
                    stop: *stop,
                });
                if *stop == Stop::Interrupted {
                    self.answered = false;
                }
            }
            Event::CallStarted { id, replay } => self.settle(id, |_| Settled::Started(*replay)),
            Event::CallFinished { id, outcome } => {
                self.calls_done += 1;
                self.calls_failed += u32::from(!outcome.ok);
                self.settle(id, |call| Settled::Answered(Answer::to(call, outcome.text.clone())));
            }
            Event::CallLost { id } => {
                self.calls_done += 1;
                self.calls_failed += 1;
                self.settle(id, |call| Settled::Answered(Answer::lost(call)));
            }
            Event::Interrupted => self.interrupted = self.running,
            Event::TurnEnded { turn, end } => {
                self.turn = *turn;
                self.running = false;
                self.interrupted = false;
                self.ended = Some(end.clone());
                for (call, settled) in &mut self.calls {
                    match settled {
                        Settled::Waiting => *settled = Settled::Answered(Answer::skipped(call)),
                        Settled::Started(_) => *settled = Settled::Answered(Answer::lost(call)),
                        Settled::Answered(_) => {}
                    }
                }
            }
        }
    }

    /// Moves what the model has not been shown into the conversation: first the answers to its calls, then the inputs.
    fn tell(&mut self) {
        let mut told = Vec::new();
        let answers: Vec<Answer> = self
            .calls
            .drain(..)
            .map(|(call, settled)| match settled {
                Settled::Answered(answer) => answer,
                Settled::Waiting => Answer::skipped(&call),
                Settled::Started(_) => Answer::lost(&call),
            })
            .chain(self.refused.drain(..).map(|refused| Answer::refused(&refused)))
            .collect();
        if !answers.is_empty() {
            told.push(Message::Results { answers });
        }
        told.extend(self.waiting.drain(..).map(|text| Message::User { text: text.to_string() }));
        Arc::make_mut(&mut self.conversation).extend(told);
    }

    fn settle(&mut self, id: &str, how: impl Fn(&Call) -> Settled) {
        for (call, settled) in &mut self.calls {
            if call.id == id && !matches!(settled, Settled::Answered(_)) {
                *settled = how(call);
            }
        }
    }

    /// What the session is, once it has been created.
    pub fn created(&self) -> Option<&Arc<Created>> {
        self.created.as_ref()
    }

    /// What the model is shown at the step that has started last.
    pub fn conversation(&self) -> &Arc<Vec<Message>> {
        &self.conversation
    }

    /// The place of the last event.
    pub fn last(&self) -> Option<Seq> {
        self.last
    }

    /// Milliseconds since 1970 of the last event.
    pub fn updated_ms(&self) -> u64 {
        self.updated_ms
    }

    /// The first line of the first input, shortened: what a list of sessions shows.
    pub fn title(&self) -> Option<&str> {
        self.title.as_deref()
    }

    /// Where an input with this id was written, and its text.
    pub fn input(&self, id: &str) -> Option<(Seq, &str)> {
        self.inputs.get(id).map(|(seq, text)| (*seq, &**text))
    }

    /// How many inputs the model has not been shown.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a turn is running.
    pub fn running(&self) -> bool {
        self.running
    }

    /// Whether the running turn has been asked to stop.
    pub fn interrupted(&self) -> bool {
        self.interrupted
    }

    /// The number of the turn that runs or ran last.
    pub fn turn(&self) -> u32 {
        self.turn
    }

    /// The number of the step that started last.
    pub fn step(&self) -> u32 {
        self.step
    }

    /// What all replies together have cost.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Calls that have come to an end, and how many of those failed.
    pub fn calls_done(&self) -> (u32, u32) {
        (self.calls_done, self.calls_failed)
    }

    /// How the last turn ended; nothing while one runs.
    pub fn ended(&self) -> Option<&End> {
        self.ended.as_ref()
    }

    pub(crate) fn answered(&self) -> bool {
        self.answered
    }

    pub(crate) fn calls(&self) -> &[(Call, Settled)] {
        &self.calls
    }

    pub(crate) fn turn_steps(&self) -> u32 {
        self.turn_steps
    }

    pub(crate) fn turn_output_tokens(&self) -> u64 {
        self.turn_output_tokens
    }
}

/// A session's title from its first input.
fn title(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    match line.char_indices().nth(CHARS_MAX) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line.to_string(),
    }
}
