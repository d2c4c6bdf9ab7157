//! The shared vocabulary: the facts a session's journal is made of.
//!
//! An event is written once and never edited. Its JSON form is what the journal stores and what the API sends, so a
//! change here is a change of both: fields may be added with a default, never renamed or removed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use memory::{NoteId, Seq};
use serde::{Deserialize, Serialize};
use tools::checkpoint::Tree;
use tools::egress::Contact;
use tools::mcp::Equipment;
use tools::rules::Rule;
use tools::{Call, Exit, Outcome, Replay, Running, Spec};

use crate::Error;
use crate::child::{Child, Merged, Parent, Returned};
use crate::goal::{Checked, Goal};
use crate::guides::Guide;
use crate::recall::Recollection;

/// One fact in the life of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The session exists. Always the first event, and the only one of its kind.
    Created(Box<Created>),
    /// Somebody said something to the session.
    Input {
        /// The client's own id for this input: sending it again changes nothing.
        id: String,
        /// What was said.
        text: String,
    },
    /// Somebody has set what must be true before a turn may end.
    GoalSet {
        /// It.
        goal: Goal,
        /// The input that it comes with: it holds from there on. Nothing: from here on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<String>,
    },
    /// Somebody else's text comes with what is said next.
    Enclosed {
        /// The input that it comes with.
        input: String,
        /// Whose it is, in words.
        origin: String,
        /// It.
        text: String,
    },
    /// Somebody has taken the goal back.
    GoalDropped,
    /// The model has answered without a call, and the goal is about to be checked.
    GoalChecking {
        /// 1, 2, 3 … within the session.
        check: u32,
        /// The command that checks it, as a call: it starts and finishes as calls do. Nothing where the model judges.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<Call>,
    },
    /// The goal has been checked. What is missing is told to the model, and the turn goes on.
    GoalChecked(Checked),
    /// Servers that the operator has configured give tools from now on, or give others than before. Written before a turn, never
    /// within one.
    Equipped {
        /// Those that are new or have changed; of the others holds what was written last.
        servers: Vec<Equipment>,
    },
    /// The agent took up the inputs that were waiting.
    TurnStarted {
        /// 1, 2, 3 … within the session.
        turn: u32,
    },
    /// What was remembered of earlier work and bears on what people just said. The model is told it with their words.
    Recalled {
        /// The notes, best first. Empty when nothing fits.
        notes: Vec<Recollection>,
        /// Why nothing could be recalled, when that failed: the turn goes on without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<String>,
    },
    /// The model is about to be asked. What came before this event is in the prompt; what comes between it and the
    /// reply is told to the model at the next step.
    StepStarted {
        /// 1, 2, 3 … within the session. A step that was cut off by a crash is started again under a new number.
        step: u32,
    },
    /// The model answered.
    Reply {
        /// The step this answers.
        step: u32,
        /// What was sampled, exactly. The prompt is built from these and never from the text.
        tokens: Vec<engine::Token>,
        /// What the reply says outside its calls.
        text: String,
        /// The calls it asks for, in order.
        calls: Vec<Call>,
        /// Calls that could not be read, with the reason the model is told.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refused: Vec<Refused>,
        /// Why the reply ended.
        stop: Stop,
        /// What it cost.
        usage: Usage,
    },
    /// A call cannot be taken back, or reaches beyond the workspace while the session has text before it that nobody vouches for:
    /// somebody is asked first. The session rests until they have answered.
    ApprovalAsked {
        /// [`Call::id`].
        id: String,
        /// Why it is asked for.
        why: String,
        /// Until when somebody may answer: milliseconds since 1970. Without an answer by then the call does not run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_ms: Option<u64>,
    },
    /// Somebody has answered whether a call may run.
    ApprovalGiven {
        /// [`Call::id`].
        id: String,
        /// Whether it may.
        allowed: bool,
        /// Whether the same is allowed for the rest of the session, without asking again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        always: bool,
        /// Who has answered, as they were named; nothing where nobody answered in time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A rule forbids a call: it does not run, and the model is told why.
    CallDenied {
        /// [`Call::id`].
        id: String,
        /// The rule, whose it is, and why.
        why: String,
    },
    /// A call is about to run. Durable before the tool sees it.
    CallStarted {
        /// [`Call::id`].
        id: String,
        /// Whether it may be run again when its outcome is lost.
        replay: Replay,
        /// The file it is about to change, as it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Before>,
    },
    /// A call has run.
    CallFinished {
        /// [`Call::id`].
        id: String,
        /// What came of it.
        outcome: Outcome,
        /// SHA-256, in hexadecimal digits, of the file it may have changed, as it left it: what somebody else changes
        /// later is not undone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left: Option<String>,
        /// The notes that it showed, when it was a look into the memory.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        recalled: Vec<Recollection>,
    },
    /// A sub-agent is about to be begun, by a call that has started. Durable before it is there.
    ChildStarted(Box<Child>),
    /// A sub-agent has come to its end.
    ChildEnded(Box<Returned>),
    /// What a sub-agent has changed in its copy of the workspace was brought back, or could not be.
    ChildMerged {
        /// The sub-agent.
        child: SessionId,
        /// What came of it.
        #[serde(flatten)]
        merged: Merged,
    },
    /// A call came below folders that say how to work there, which the session was not told yet.
    Guided {
        /// [`Call::id`].
        id: String,
        /// What they say; it is told with the call's answer.
        guides: Vec<Guide>,
    },
    /// Commands or tools reached beyond the sandbox's network, or tried to: each target once, with how often.
    Egress {
        /// [`Call::id`] of the call that ran meanwhile; nothing for what commands in the background did between calls.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// What was reached for, and what was decided.
        contacts: Vec<Contact>,
        /// How many more such decisions there were than are told here.
        #[serde(default, skip_serializing_if = "is_zero")]
        more: u64,
    },
    /// A call was started, but the service stopped before its outcome was written. What it did is unknown.
    CallLost {
        /// [`Call::id`].
        id: String,
    },
    /// An attempt of a led model did not help: the files it changed are as they were, and the model has forgotten it.
    Undone {
        /// What was tried and what came of it, for people: the model is not shown it.
        note: String,
        /// Files that were changed by somebody else meanwhile. If there are any, no file was put back and nothing was
        /// forgotten: the session goes on from what there is.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        kept: Vec<String>,
    },
    /// What the workspace holds was kept: before the first step of a turn, and after calls that may have changed it. Here the session can
    /// be wound back to, and gone on with in another one.
    Checkpoint {
        /// Its name; nothing when it could not be taken.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tree: Option<Tree>,
        /// Why it could not: the turn goes on without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<String>,
    },
    /// Somebody has wound the session back: the workspace is what a checkpoint had, and for the model nothing that came after it has
    /// happened. All of it stays in the journal, and can be wound forward to.
    Rewound {
        /// The checkpoint's place in the journal.
        to: Seq,
        /// What the workspace holds now.
        tree: Tree,
    },
    /// The session goes on from where another one stood: the events before this are that one's, without those that were wound back.
    Forked {
        /// The other one.
        from: SessionId,
        /// The place in its journal.
        at: Seq,
    },
    /// The session has come in a file: the events before this are those of another one, elsewhere or at another time. It rests. What was
    /// allowed there is not allowed here, and nobody here vouches for what was said.
    Imported {
        /// What it was called there.
        from: SessionId,
        /// Whether secrets were blotted out of it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        masked: bool,
    },
    /// The model says or asks for the same again and again. It is only told: nothing is changed because of it.
    Looping {
        /// The step it was noticed in.
        step: u32,
        /// What is repeated.
        what: Loop,
    },
    /// The prompt does not fit the model's context: room is to be made before the model is asked again.
    Full {
        /// Tokens the prompt needs.
        asked: u64,
        /// Tokens the context holds.
        limit: u64,
    },
    /// Somebody wants room to be made.
    CompactionAsked {
        /// What they want to be kept most of all, in words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        focus: Option<String>,
    },
    /// Older messages are left out of the prompt from now on, and a digest stands for them. They stay in the journal.
    Compacted {
        /// How many: those that come first after the system prompt and an earlier digest.
        messages: usize,
        /// What the model is shown in their place, and in the place of an earlier digest.
        digest: String,
        /// Tokens of the prompt before …
        before_tokens: u64,
        /// … and after, counted when it was written.
        after_tokens: u64,
        /// What the model's own part of the digest has cost, where it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
    /// Room could not be made.
    NotCompacted {
        /// Why.
        why: String,
    },
    /// Somebody has taken the last compaction back: the model is shown the messages again.
    Uncompacted,
    /// Commands that a turn has left running in the background.
    Running {
        /// Them.
        commands: Vec<Running>,
    },
    /// A command in the background has ended while the session rested. The model is told, and goes on with it unless somebody has stopped it.
    Exited {
        /// What came of it.
        exit: Exit,
    },
    /// Somebody has set other limits: they hold from now on.
    Budgeted {
        /// All of them.
        budget: Budget,
    },
    /// Somebody asked the running turn to stop.
    Interrupted,
    /// The agent rests.
    TurnEnded {
        /// The turn that ended.
        turn: u32,
        /// Why.
        end: End,
    },
    /// While a turn runs: what people said was written down as notes. After it: what it has taught.
    Learned {
        /// The turn.
        turn: u32,
        /// The notes; those that said nothing new are among them under the numbers they had.
        notes: Vec<NoteId>,
    },
    /// The model was asked what of a turn is worth remembering.
    Reflected {
        /// The turn.
        turn: u32,
        /// What was written down of it: what could not be held against the session was not.
        notes: Vec<NoteId>,
        /// What it has cost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
}

impl Event {
    /// What the model has cost that was asked for it, for whatever it was asked.
    pub(crate) fn usage(&self) -> Option<Usage> {
        match self {
            Event::Reply { usage, .. } => Some(*usage),
            Event::Compacted { usage, .. } | Event::Reflected { usage, .. } => *usage,
            Event::GoalChecked(checked) => checked.usage,
            _ => None,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a session is, fixed when it is made. With the events that follow it is all the prompt is made of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Created {
    /// The folder the session works in.
    pub workspace: PathBuf,
    /// The model: an id of the catalog, an address of the hub, or the path of its file or folder.
    pub model: String,
    /// The chat format the model was trained on: the name of a folder in `dialect`.
    pub dialect: String,
    /// The system prompt, as rendered when the session was made.
    pub system: String,
    /// The tools the model may call, as described to it.
    pub tools: Vec<Spec>,
    /// Limits of each turn.
    pub budget: Budget,
    /// How replies are sampled.
    pub sampling: engine::Sampling,
    /// Whether the model is led, as small models need to be: one call a reply, and a call in the first reply of a turn and
    /// after a change or a failure.
    #[serde(default)]
    pub led: bool,
    /// The command that runs the project's tests, when its files tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// Whether earlier work is recalled at the begin of a turn, and what a turn taught is written down at its end.
    #[serde(default)]
    pub memory: bool,
    /// Whether the model is asked after a turn what of it is worth remembering.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reflects: bool,
    /// Whether the workspace is kept before each turn and after each step that may have changed it.
    #[serde(default)]
    pub checkpoints: bool,
    /// The notes that the system prompt tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<NoteId>,
    /// Tokens the model's context holds; nothing where that was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u64>,
    /// Which calls may run, by whoever made the session …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// … and by the repository, as its file said when the session was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repository_rules: Vec<Rule>,
    /// What must be true before a turn may end, from the first input on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Goal>,
    /// How many sub-agents may work at a time. 0: none can be begun.
    #[serde(default, skip_serializing_if = "is_none")]
    pub children_max: u32,
    /// Whose sub-agent it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_none(number: &u32) -> bool {
    *number == 0
}

/// A file before a call changed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Its path in the workspace.
    pub path: String,
    /// Its text: in the journal itself, so that it goes when the session is deleted.
    pub text: String,
}

/// A file to be put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// What it was.
    pub before: Before,
    /// [`digest`] of what it was changed to, when that is known.
    pub left: Option<String>,
}

impl Changed {
    /// Whether a file with this text (nothing: no text that could be read) is as the attempt left it or as it was, so that
    /// putting it back takes nothing from anybody.
    pub fn ours(&self, now: Option<&str>) -> bool {
        now.is_some_and(|now| now == self.before.text || self.left.as_ref() == Some(&digest(now)))
    }
}

/// SHA-256 of a text in hexadecimal digits.
pub fn digest(text: &str) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Limits of a turn, and of a session. A limit that is reached ends the turn cleanly; the next input starts a new one, unless it is the session's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Most steps (replies of the model) in a turn.
    pub steps_max: u32,
    /// Most tokens sampled in a turn.
    pub output_tokens_max: u64,
    /// Most tokens sampled in one reply.
    pub reply_tokens_max: u32,
    /// Most seconds that a turn takes, held against the clock before each step and each call. 0: as long as it likes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wall_secs_max: u64,
    /// Most tokens sampled in the whole session. 0: as many as it likes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub session_output_tokens_max: u64,
    /// Most seconds that the tools of a turn run, held against what they have run before each call. 0: as long as they like.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tool_secs_max: u64,
    /// Most that the replies of the whole session cost, in billionths of the currency that minds' prices are in. 0: as much as they like.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub session_cost_nanos_max: u64,
}

/// Billionths of a currency in one of it.
const NANOS: u64 = 1_000_000_000;

/// An amount of money, for people: with two decimals, or as many as it takes to be told from nothing.
pub fn money(nanos: u64) -> String {
    let (whole, rest) = (nanos / NANOS, nanos % NANOS);
    let decimals = format!("{rest:09}");
    let kept = if whole > 0 || rest >= NANOS / 100 { 2 } else { 6 };
    format!("{whole}.{}", &decimals[..kept])
}

impl Default for Budget {
    fn default() -> Budget {
        // A small model that mends a small fault was seen to need up to 46 steps, most of them attempts that are undone; a
        // reply of 4,096 tokens holds a 300-line file.
        Budget {
            steps_max: 100,
            output_tokens_max: 65_536,
            reply_tokens_max: 4_096,
            wall_secs_max: 0,
            session_output_tokens_max: 0,
            tool_secs_max: 0,
            session_cost_nanos_max: 0,
        }
    }
}

/// A call the agent could not read, as the model wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The text of the call.
    pub text: String,
    /// What is wrong with it, in words the model can act on.
    pub why: String,
}

/// What a model repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Loop {
    /// A stretch of its reply stands there many times in a row. Noticed while the reply was sampled, and again each time
    /// it stood there twice as often.
    Text {
        /// The stretch, shortened.
        text: String,
        /// How many tokens it is long.
        length: u32,
        /// Where the first one begins: tokens of the reply.
        start: u32,
        /// How often it stood there.
        times: u32,
    },
    /// It asked for the very same call in several steps in a row.
    Call {
        /// [`Call::id`] of the last one.
        id: String,
        /// Its tool.
        name: String,
        /// In how many steps.
        times: u32,
    },
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The model ended it.
    End,
    /// [`Budget::reply_tokens_max`] was reached.
    Length,
    /// Somebody interrupted the turn; what had been sampled is kept.
    Interrupted,
}

/// What a reply cost, counted exactly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens in the prompt.
    pub prompt_tokens: u64,
    /// Of those, tokens whose KV was already there.
    pub cached_tokens: u64,
    /// Tokens sampled.
    pub output_tokens: u64,
    /// Milliseconds spent on the prompt.
    pub prefill_ms: u64,
    /// Milliseconds spent sampling.
    pub decode_ms: u64,
    /// What it cost where its mind has a price: billionths of the currency that the price is in.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cost_nanos: u64,
}

impl Usage {
    /// The sum of two costs.
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            cached_tokens: self.cached_tokens + other.cached_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
            prefill_ms: self.prefill_ms + other.prefill_ms,
            decode_ms: self.decode_ms + other.decode_ms,
            cost_nanos: self.cost_nanos.saturating_add(other.cost_nanos),
        }
    }
}

/// Why a turn ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum End {
    /// The model replied without asking for a call.
    Done,
    /// Somebody interrupted it.
    Interrupted,
    /// A limit of [`Budget`] was reached.
    Budget {
        /// Which, in words.
        limit: String,
    },
    /// The goal is not reached, and the model has had all its tries; or it cannot be checked. The session asks how to go on.
    GoalUnmet {
        /// What it asks, in words.
        question: String,
    },
    /// The prompt no longer fits the model's context.
    ContextFull {
        /// Tokens the prompt needs.
        asked: u64,
        /// Tokens the context holds.
        limit: u64,
    },
    /// Something the agent cannot mend by itself.
    Failed {
        /// What, and what to do about it.
        error: String,
    },
}

/// An event with its place in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Its place: 1, 2, 3 … without gaps.
    pub seq: Seq,
    /// Milliseconds since 1970 when it was written.
    pub at_ms: u64,
    /// The fact.
    #[serde(flatten)]
    pub event: Event,
}

/// A session's name: short, sorted by the time it was made, and safe in a path and a URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(String);

impl SessionId {
    /// The longest id a caller may choose.
    pub const CHARS_MAX: usize = 48;

    /// A new id from a time in milliseconds and random bits: `s-` and 13 letters or digits, sorted by time.
    pub fn new(now_ms: u64, random: u64) -> SessionId {
        // 41 bits of milliseconds reach the year 2039 and keep sorting until then; 24 random bits tell apart what
        // was made in one millisecond. 65 bits are 13 digits of 5 bits.
        let bits = (u128::from(now_ms & ((1 << 41) - 1)) << 24) | u128::from(random & 0xff_ffff);
        let digits: String =
            (0..13).rev().map(|i| char::from(ALPHABET[((bits >> (5 * i)) & 31) as usize])).collect();
        SessionId(format!("s-{digits}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Crockford's base 32 in lower case: no letter is taken for a digit, and text order is number order.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl FromStr for SessionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<SessionId, Error> {
        let fits = !text.is_empty()
            && text.len() <= SessionId::CHARS_MAX
            // Such names are the store's own.
            && !text.starts_with('_')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if fits {
            Ok(SessionId(text.to_string()))
        } else {
            Err(Error::BadRequest(format!(
                "a session id has 1 to {} characters of a-z, 0-9, '-' and '_', and does not begin with '_'; got {text:?}",
                SessionId::CHARS_MAX
            )))
        }
    }
}

impl TryFrom<String> for SessionId {
    type Error = Error;

    fn try_from(text: String) -> Result<SessionId, Error> {
        text.parse()
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> String {
        id.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_the_time_they_were_made() {
        // The list of sessions is shown newest last without reading one of them.
        let early = SessionId::new(1_795_000_000_000, u64::MAX);
        let late = SessionId::new(1_795_000_000_001, 0);
        assert!(early < late, "{early} {late}");
        assert_eq!(early.as_str().len(), 15);
        assert_eq!(early.as_str().parse::<SessionId>().unwrap(), early);
    }

    #[test]
    fn journals_from_before_there_was_a_way_out_are_read_and_new_ones_stay_as_they_are() {
        // What a journal holds outlives the service that wrote it.
        let old = r#"{"type":"call_finished","id":"c1.1","outcome":{"ok":true,"text":"t","summary":"s","exit":0,"wall_ms":1,"bytes_total":1,"truncated":false,"missing_layers":[]}}"#;
        let event: Event = serde_json::from_str(old).unwrap();
        assert!(matches!(&event, Event::CallFinished { outcome, .. } if !outcome.external));
        assert_eq!(serde_json::to_string(&event).unwrap(), old);
        let new = r#"{"type":"egress","id":"c1.1","contacts":[{"host":"a.test","port":443,"address":"192.0.2.1","way":"connect","allowed":true,"rule":"*.test:443","secret":true,"times":2},{"host":"b.test","port":80,"way":"fetch","allowed":false,"rule":"it is not on the allow-list","times":1}],"more":3}"#;
        let event: Event = serde_json::from_str(new).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), new);
    }

    #[test]
    fn an_id_is_safe_in_a_path_and_a_url() {
        for bad in ["", "../x", "a/b", "A", "a b", "é", "_notes", &"x".repeat(49)] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad:?}");
        }
    }
}
