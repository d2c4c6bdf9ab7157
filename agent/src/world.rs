//! The one seam: every effect the agent has goes through [`World`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use memory::{NoteId, Seq};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tools::checkpoint::{Checkpoints, Difference, Tree};
use tools::egress::Contact;
use tools::mcp::Equipment;
use tools::rules::Verdict;
use tools::{Call, Exit, Outcome, Running};

use crate::Error;
use crate::agent::NewSession;
use crate::allowance::Left;
use crate::child::Merged;
use crate::context::Message;
use crate::dialect::{Bound, Shape};
use crate::event::{Before, Changed, Created, Event, Loop, Recorded, Refused, SessionId, Stop, Usage};
use crate::guides::Guide;
use crate::learn::Lessons;
use crate::recall::Recollection;

/// Everything outside the agent, as one session meets it: its journal, its mind, its tools and its clock.
///
/// Dropping the future of an effect abandons the effect: a thought leaves nothing behind, a call's processes are killed.
#[async_trait]
pub trait World: Send + Sync {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;

    /// Writes an event at the end of the journal. Durable when it returns.
    async fn append(&self, at_ms: u64, event: &Event) -> Result<Seq, Error>;

    /// Whether a call of this tool may be run again when its outcome is lost.
    fn replay(&self, tool: &str) -> tools::Replay;

    /// What the rules say of a call that is about to run; nothing when none speaks of it.
    fn judge(&self, call: &Call) -> Option<Verdict> {
        let _ = call;
        None
    }

    /// How long somebody may take to approve of a call. Milliseconds; nothing: as long as they like.
    fn approval_ms(&self) -> Option<u64> {
        None
    }

    /// What the servers of tools give now, where that is something else than is known of them. A server that cannot be asked
    /// says so in its equipment.
    async fn equip(&self, known: &BTreeMap<String, Equipment>, out: &Sink) -> Result<Vec<Equipment>, Error> {
        let _ = (known, out);
        Ok(Vec::new())
    }

    /// Lets the model reply to the conversation. Ends early, with what there is and [`Stop::Interrupted`], once `cancel` is set.
    async fn think(
        &self,
        conversation: &[Message],
        created: &Created,
        manner: &Manner,
        cancel: &Cancel,
        out: &Sink,
    ) -> Result<Thought, Error>;

    /// Counts the tokens of each message of a conversation.
    async fn weigh(&self, conversation: &[Message], created: &Created) -> Result<Weights, Error> {
        Ok(Weights::guessed(conversation, created.context_tokens))
    }

    /// Runs one call. Ends early, with an outcome that says so, once `cancel` is set.
    async fn act(&self, call: &Call, cancel: &Cancel, out: &Sink) -> Result<Outcome, Error>;

    /// What is left of what all sessions of this one's tenant may use; nothing where they may use what they like.
    fn allowance(&self) -> Option<Left> {
        None
    }

    /// What folders that a call has come below say about working there, where it is not what is known of them: digests by path.
    async fn guides(&self, call: &Call, known: &BTreeMap<String, String>) -> Result<Vec<Guide>, Error> {
        let _ = (call, known);
        Ok(Vec::new())
    }

    /// Keeps what a call is about to change, durably. Nothing when it changes no file that can be put back.
    async fn before(&self, call: &Call) -> Result<Option<Before>, Error> {
        let _ = call;
        Ok(None)
    }

    /// The [`digest`](crate::digest) of the file that a call may have changed, as it is now.
    async fn left(&self, call: &Call) -> Result<Option<String>, Error> {
        Ok(self.before(call).await?.map(|now| crate::event::digest(&now.text)))
    }

    /// Puts files back as they were, unless somebody else has changed one of them meanwhile: then none is touched, and
    /// the paths of those that were are returned. Doing so again after it was cut off does no harm.
    async fn restore(&self, files: &[Changed]) -> Result<Vec<String>, Error> {
        let _ = files;
        Ok(Vec::new())
    }

    /// Keeps what the workspace holds, durably. Nothing where that is not done.
    async fn checkpoint(&self) -> Result<Option<Tree>, Error> {
        Ok(None)
    }

    /// What would have to change in the workspace, which is as `now` says, for it to be what a checkpoint has.
    async fn differences(&self, now: &Tree, to: &Tree) -> Result<Vec<Difference>, Error> {
        let _ = (now, to);
        Ok(Vec::new())
    }

    /// Makes the workspace what a checkpoint has, unless it no longer is what `now` says: then nothing is touched, and the paths that
    /// have changed are returned. Doing so again after it was cut off does no harm.
    async fn put_back(&self, to: &Tree, now: &Tree) -> Result<Vec<String>, Error> {
        let _ = (to, now);
        Ok(Vec::new())
    }

    /// Brings what was done to a copy of the workspace, which was `base` and is `theirs`, into it. What was changed here as well, in ways
    /// that do not go together, stays as it is. Doing so again after it was cut off changes nothing more.
    async fn merge(&self, base: &Tree, theirs: &Tree) -> Result<Merged, Error> {
        let _ = (base, theirs);
        Err(Error::BadRequest("workspaces are not kept here".to_string()))
    }

    /// Keeps checkpoints of another session for this one as well.
    async fn adopt(&self, trees: &[Tree]) -> Result<(), Error> {
        let _ = trees;
        Ok(())
    }

    /// Finds what was remembered of earlier work and bears on what people said, without the notes the session was shown already.
    async fn recall(&self, said: &str, shown: &BTreeSet<NoteId>) -> Result<Vec<Recollection>, Error> {
        let _ = (said, shown);
        Ok(Vec::new())
    }

    /// Writes down what a turn taught. Doing so again after it was cut off does no harm, but that episodes may stand there twice.
    async fn learn(&self, lessons: Lessons) -> Result<Vec<NoteId>, Error> {
        let _ = lessons;
        Ok(Vec::new())
    }

    /// Whether a call is one into the memory, which [`World::consult`] runs.
    fn consults(&self, tool: &str) -> bool {
        let _ = tool;
        false
    }

    /// Runs a call into the memory, and tells which notes it showed. `external` says whether somebody else's text was recalled in
    /// this session: what is remembered then is no better than that.
    async fn consult(&self, call: &Call, external: bool) -> Result<(Outcome, Vec<Recollection>), Error> {
        let _ = external;
        Ok((Outcome::refused(format!("there is no memory to ask with {}", call.name)), Vec::new()))
    }

    /// What was reached for beyond the sandbox's network since this was asked last, and how many more such decisions there
    /// were than are told one by one.
    async fn contacts(&self) -> (Vec<Contact>, u64) {
        (Vec::new(), 0)
    }

    /// Waits until a command in the background ends that nobody was told of.
    async fn exited(&self) -> Exit {
        std::future::pending().await
    }

    /// The commands that run in the background.
    fn commands(&self) -> Vec<Running> {
        Vec::new()
    }

    /// The session rests: what it holds only for speed may be let go.
    async fn rest(&self) {}
}

/// How the next reply is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Manner {
    /// How it is sampled.
    pub sampling: engine::Sampling,
    /// What it may be.
    pub shape: Shape,
    /// Tools it may not call.
    pub without: BTreeSet<String>,
    /// What the arguments of its calls are bound to besides the tools' schemas.
    pub bounds: Vec<Bound>,
}

/// What a conversation takes of a model's context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// Tokens of each message, with the marks around it.
    pub tokens: Vec<u64>,
    /// Tokens the context holds; nothing where that is not known.
    pub window: Option<u64>,
    /// Whether they were counted, and not guessed from the length of the text.
    pub counted: bool,
}

impl Weights {
    /// Guessed weights, corrected by what the whole prompt is known to take.
    pub fn scaled(mut self, prompt_tokens: u64) -> Weights {
        let guessed: u64 = self.tokens.iter().sum();
        if !self.counted && prompt_tokens > guessed && guessed > 0 {
            self.tokens.iter_mut().for_each(|tokens| *tokens = (*tokens * prompt_tokens).div_ceil(guessed));
        }
        self
    }

    /// Weights by the length of the text: a reply's tokens are known, of anything else four bytes are about one.
    pub fn guessed(conversation: &[Message], window: Option<u64>) -> Weights {
        let tokens = conversation.iter().map(|message| {
            let (tokens, bytes) = match message {
                Message::System { text, tools } => (
                    0,
                    text.len()
                        + tools
                            .iter()
                            .map(|tool| tool.description.len() + tool.parameters.to_string().len())
                            .sum::<usize>(),
                ),
                Message::User { text } => (0, text.len()),
                Message::Assistant { tokens, .. } => (tokens.len(), 0),
                Message::Results { answers } => (0, answers.iter().map(|answer| answer.text.len()).sum()),
            };
            // A mark before a message and one after it.
            (tokens + bytes / 4 + 5) as u64
        });
        Weights { tokens: tokens.collect(), window, counted: false }
    }
}

/// Makes the [`World`] of each session.
#[async_trait]
pub trait Worlds: Send + Sync {
    /// Checks what is asked for and settles what the session will be.
    async fn plan(&self, new: &NewSession) -> Result<Created, Error>;

    /// Makes an empty folder ready to be worked in, and answers with its real path.
    async fn empty(&self, folder: &std::path::Path) -> Result<std::path::PathBuf, Error> {
        Err(Error::BadRequest(format!("{} cannot be made here", folder.display())))
    }

    /// Makes the folder that a child works in which has a copy of its parent's workspace: what a checkpoint has. Doing so again after it was
    /// cut off does no harm.
    async fn branch(&self, child: &SessionId, base: &Tree) -> Result<std::path::PathBuf, Error> {
        let _ = base;
        Err(Error::BadRequest(format!("there can be no copy of the workspace for {child} here")))
    }

    /// Counts what a session has used up before: of each, once, when the service starts.
    fn count(&self, events: &[Recorded]) {
        let _ = events;
    }

    /// A folder that a session is to work in, with every link followed.
    fn folder(&self, folder: &std::path::Path) -> Result<std::path::PathBuf, Error> {
        Ok(folder.to_path_buf())
    }

    /// Puts right what a session from elsewhere says of the tools there are here: how far they reach, and whether they may be run again.
    fn vet(&self, created: &mut Created) {
        let _ = created;
    }

    /// Where workspaces are kept, if they are.
    fn checkpoints(&self) -> Option<Checkpoints> {
        None
    }

    /// Opens the world of one session.
    async fn open(&self, id: &SessionId, created: &Created) -> Result<Arc<dyn World>, Error>;

    /// Lets go of everything that is kept of a session beside its journal, which is about to be deleted.
    async fn forget(&self, id: &SessionId);

    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
}

/// One reply of the model, before it is an event.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Thought {
    /// What was sampled, exactly.
    pub tokens: Vec<engine::Token>,
    /// What it says outside its calls.
    pub text: String,
    /// The calls it asks for. Their ids are set by the driver.
    pub calls: Vec<Call>,
    /// Calls that could not be read.
    pub refused: Vec<Refused>,
    /// Why it ended.
    pub stop: Option<Stop>,
    /// What it cost.
    pub usage: Usage,
}

/// What happens between two events: shown live and, with one exception, never written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Progress {
    /// The model's file is being read.
    Loading {
        /// Bytes read so far.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// The prompt is being computed.
    Prefilling {
        /// Tokens computed so far in this step.
        done_tokens: u64,
        /// Tokens to compute in this step.
        total_tokens: u64,
    },
    /// The model thinks before it speaks.
    Thought {
        /// The new text of its thought.
        text: String,
    },
    /// The model wrote some text.
    Text {
        /// The new text.
        text: String,
    },
    /// The model is writing a call.
    Calling {
        /// The new text of the call, in the dialect's syntax.
        text: String,
    },
    /// A running call printed something.
    Output {
        /// [`Call::id`].
        call: String,
        /// The new text.
        text: String,
    },
    /// The reply says the same again and again. Unlike the others this is written down, as [`Event::Looping`], and
    /// reaches watchers as that event.
    Looping {
        /// What is repeated.
        what: Loop,
    },
    /// How the step is going.
    Speed {
        /// Tokens sampled so far in this step.
        output_tokens: u64,
        /// Milliseconds since the first of them.
        decode_ms: u64,
    },
}

/// Where progress goes. Never blocks; a slow reader misses some of it.
#[derive(Clone)]
pub struct Sink(Arc<dyn Fn(Progress) + Send + Sync>);

impl Sink {
    /// A sink that hands each piece to `f`.
    pub fn new(f: impl Fn(Progress) + Send + Sync + 'static) -> Sink {
        Sink(Arc::new(f))
    }

    /// A sink nobody reads.
    pub fn none() -> Sink {
        Sink(Arc::new(|_| ()))
    }

    /// Says what is happening.
    pub fn say(&self, progress: Progress) {
        (self.0)(progress);
    }
}

/// A request to end an effect early. Once set it stays set.
#[derive(Debug, Clone)]
pub struct Cancel(watch::Receiver<bool>);

impl Cancel {
    /// A pair: the switch, and what listens to it.
    pub fn pair() -> (watch::Sender<bool>, Cancel) {
        let (set, get) = watch::channel(false);
        (set, Cancel(get))
    }

    /// Whether it is set now.
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends once it is set; never, if its switch is gone without having been set.
    pub async fn set(&self) {
        let mut get = self.0.clone();
        if get.wait_for(|set| *set).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What watchers of a session receive, in order.
#[derive(Debug, Clone)]
pub enum Said {
    /// An event was written.
    Recorded(Arc<Recorded>),
    /// Something is happening.
    Progress(Progress),
    /// The watcher was too slow and missed something: it reads the journal to catch up.
    Lagged,
    /// The session stopped in the middle, for this reason, and no event could say so. It goes on with its next input, or
    /// when the service starts again.
    Stopped(String),
}
