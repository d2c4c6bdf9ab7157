//! The words between a model and its tools: what a tool is, a call of it, and what came of the call.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a model is told about a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The name a call uses: `[a-z_]+`.
    pub name: String,
    /// What the model reads: the `.md` beside the tool's file.
    pub description: String,
    /// JSON Schema of the arguments: one flat object, few fields, no additional ones.
    pub parameters: Value,
    /// Whether a call that was started and never finished may simply be run again.
    pub replay: Replay,
    /// What its text arguments are bound to besides: whoever asks for a call knows what there is to choose from. Nothing here
    /// is told to the model but by the description.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<Bound>,
    /// How far what it does reaches.
    #[serde(default, skip_serializing_if = "Reach::stays")]
    pub reach: Reach,
}

/// How far the effects of a tool reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// The workspace, which can be put back.
    #[default]
    Workspace,
    /// Beyond it: what it does is seen by others, or by later sessions.
    Outside,
    /// Beyond it, and it cannot be taken back: somebody is always asked first.
    Final,
}

impl Reach {
    fn stays(&self) -> bool {
        *self == Reach::Workspace
    }
}

/// An argument that may not be just any text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The argument.
    pub argument: String,
    /// What it is bound to.
    pub to: To,
}

/// What an argument is bound to, as far as a session knows it. What it does not know bounds nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum To {
    /// A path of the workspace that has been seen, or one in a folder that has not been listed. The way out: `./` before a
    /// path leaves it free.
    Path,
    /// A piece of a file's text, as it was seen last, that stands there only once.
    Piece {
        /// The argument before this one that names the file. A file that has not been read bounds nothing.
        of: String,
        /// The flag before this one that asks for every place: then it may stand there more than once.
        all: Option<String>,
        /// The way out: the flag before this one that leaves the text free.
        free: Option<String>,
    },
}

/// Whether a call can be run twice without harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replay {
    /// It only looks: run it again.
    Safe,
    /// It may have changed something: the model is told that its outcome is unknown.
    Unsafe,
}

/// One call as the model made it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the caller; names the call in the journal.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments: an object that fits the tool's schema, or nearly.
    pub arguments: Value,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether the tool did what was asked. A command that ended with another exit code than 0 is not ok.
    pub ok: bool,
    /// What the model reads: valid text without control characters, capped at about 33 KiB.
    pub text: String,
    /// One line for people, such as `exit 1 · 0.4 s · 3.2 KB`.
    pub summary: String,
    /// The exit code, when a command ran to its end.
    pub exit: Option<i32>,
    /// How long it took. Milliseconds of wall time.
    pub wall_ms: u64,
    /// How much there was before the cap. Bytes.
    pub bytes_total: u64,
    /// Whether `text` leaves part of it out.
    pub truncated: bool,
    /// Sandbox layers that did not hold while it ran, by name. Empty in a whole sandbox.
    pub missing_layers: Vec<String>,
    /// Whether `text` is somebody's out there: nobody here vouches for what it says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
}

impl Outcome {
    /// An outcome that says in words why nothing was done: what is wrong and what is expected.
    pub fn refused(text: impl Into<String>) -> Outcome {
        let text = text.into();
        let summary = text.lines().next().unwrap_or_default().chars().take(100).collect();
        let bytes_total = text.len() as u64;
        Outcome {
            ok: false,
            text,
            summary,
            exit: None,
            wall_ms: 0,
            bytes_total,
            truncated: false,
            missing_layers: Vec::new(),
            external: false,
        }
    }
}
