//! What has happened: the fold of a session's journal.
//!
//! State is never stored. Any prefix of any journal folds, in any order of events: what does not fit is ignored
//! rather than believed, because a journal may have been written by a version with other habits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use memory::Seq;
use tools::{Call, Replay};

use crate::context::{Answer, Message};
use crate::dialect::Shape;
use crate::event::{Created, End, Event, Recorded, Refused, Stop, Usage};

/// A session as its journal tells it.
#[derive(Debug, Clone, Default)]
pub struct State {
    created: Option<Arc<Created>>,
    last: Option<Seq>,
    created_ms: u64,
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
    /// Calls of this turn and their answers, to notice when the model goes in circles.
    tried: Vec<(String, String)>,
    /// How many calls in a row were made before in this turn with the same answer.
    circles: u32,
    /// The tools it went in circles with since it last changed something.
    worn: BTreeSet<String>,
    /// Calls in a row that failed.
    failures: u32,
    /// Whether a file was read in this session.
    read: bool,
    /// Whether a command was run in this turn.
    ran: bool,
    /// Whether the last call changed a file, so that nobody has looked yet whether that was right.
    unchecked: bool,
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
                    self.created_ms = recorded.at_ms;
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
                self.tried.clear();
                self.circles = 0;
                self.worn.clear();
                self.failures = 0;
                self.ran = false;
                self.unchecked = false;
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
                self.failures = if outcome.ok { 0 } else { self.failures + 1 };
                let name =
                    self.calls.iter().find(|(call, _)| call.id == *id).map(|(call, _)| call.name.as_str());
                self.ran |= name == Some(RUNS);
                self.read |= outcome.ok && name == Some(READS);
                self.unchecked = outcome.ok && name.is_some_and(|name| CHANGES.contains(&name));
                if self.unchecked {
                    self.worn.clear();
                }
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
        let mut answers = Vec::new();
        for (call, settled) in std::mem::take(&mut self.calls) {
            let mut answer = match settled {
                Settled::Answered(answer) => answer,
                Settled::Waiting => Answer::skipped(&call),
                Settled::Started(_) => Answer::lost(&call),
            };
            let made = format!("{} {}", call.name, call.arguments);
            let before =
                self.tried.iter().filter(|(other, text)| *other == made && *text == answer.text).count();
            self.tried.push((made, answer.text.clone()));
            self.circles = if before == 0 { 0 } else { self.circles + 1 };
            if before > 0 {
                self.worn.insert(call.name.clone());
                answer.text.push_str(&format!(
                    "\n(You have made this very call {} times, with the same answer each time. Do something else now.)",
                    before + 1
                ));
            }
            answers.push(answer);
        }
        answers.extend(self.refused.drain(..).map(|refused| Answer::refused(&refused)));
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

    /// Milliseconds since 1970 when it was made.
    pub fn created_ms(&self) -> u64 {
        self.created_ms
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

    /// How many calls in a row were made before in this turn and answered the same: above nothing, the model goes in
    /// circles, and sampling greedily would keep it there.
    pub fn circles(&self) -> u32 {
        self.circles
    }

    /// What the next reply may be. A small model left to itself tells what it would do, invents what files say, and gives
    /// up at the first failure. It is led to read before it changes and to run something before it answers, to look
    /// again after a change, and to go on after a failure, a few times.
    pub fn shape(&self) -> Shape {
        let Some(created) = self.created.as_ref().filter(|created| created.led) else { return Shape::Free };
        let looked = self.ran || self.tried.len() >= LOOKS_LED;
        if created.tools.is_empty() {
            Shape::OneCall
        } else if !self.read {
            Shape::MustLook
        } else if !looked || self.unchecked || (1..=FAILURES_LED).contains(&self.failures) {
            Shape::MustCall
        } else {
            Shape::OneCall
        }
    }

    /// The tools that a led model went in circles with since it last changed something: its next reply has to do
    /// something else. None, once too few would be left.
    pub fn without(&self) -> &BTreeSet<String> {
        const NONE: &BTreeSet<String> = &BTreeSet::new();
        match &self.created {
            Some(created) if created.led && self.worn.len() + 2 <= created.tools.len() => &self.worn,
            _ => NONE,
        }
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

/// The tools whose success is a changed file.
const CHANGES: [&str; 2] = ["edit", "write"];
/// The tool that runs commands, and the one that reads files.
const RUNS: &str = "exec";
const READS: &str = "read";
/// Calls after which a led model may answer without having run a command.
const LOOKS_LED: usize = 8;
/// Failures in a row after which a led model may say that it gives up.
const FAILURES_LED: u32 = 5;

/// A session's title from its first input.
fn title(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    match line.char_indices().nth(CHARS_MAX) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line.to_string(),
    }
}
