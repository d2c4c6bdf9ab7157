//! A note: one remembered thing, with where it came from, whom it is for and when it holds.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Seq};

/// The longest text of a note, in bytes. Longer material belongs in a blob or a journal, with a note that points there.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;
/// The most tags a note may carry, and the longest a tag, a scope's or an author's name may be, in bytes.
const TAGS_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 256;

/// A note's number: 1, 2, 3 … over the whole store; never used again, even after the note is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NoteId(pub u64);

impl fmt::Display for NoteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// One remembered thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What sort of thing it is.
    pub kind: Kind,
    /// What is remembered, in words; at most [`NOTE_BYTES_MAX`].
    pub text: String,
    /// Who may recall it.
    pub scope: Scope,
    /// Where it came from.
    pub origin: Origin,
    /// When it was written down, in milliseconds since 1970.
    pub recorded_ms: u64,
    /// From when it holds, in milliseconds since 1970; `None` when that was not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from_ms: Option<u64>,
    /// Until when it holds; `None` while nothing says that it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_to_ms: Option<u64>,
    /// Free words to group notes by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// What sort of thing a note remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something that happened, as it happened.
    Episode,
    /// Something that is so.
    Fact,
    /// A command or a way of doing that worked.
    Procedure,
    /// Something that failed, and what mended it.
    Failure,
    /// A choice, and why it was made.
    Decision,
    /// How somebody likes it done.
    Preference,
    /// How it is done here.
    Convention,
    /// Where something is in the code.
    CodeLocation,
    /// A standing instruction.
    Instruction,
}

/// Who may recall a note. A recall names its scopes, and sees nothing outside them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One person, wherever they work.
    User(String),
    /// Everyone of a team.
    Team(String),
    /// Everyone who works in a repository.
    Repository(String),
    /// One session only.
    Session(String),
}

/// Where a note came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The journal it was drawn from, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<String>,
    /// The first and last record of that journal it rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<(Seq, Seq)>,
    /// Who said or found it.
    pub author: String,
    /// How far it can be trusted.
    pub trust: Trust,
}

/// How far a note can be trusted, highest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// A user said so.
    UserSaid,
    /// A tool's result shows it.
    ToolVerified,
    /// A model concluded it.
    ModelInferred,
    /// It was read in somebody else's text.
    ExternalText,
}

/// What to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Words, in no syntax: whatever is in it is looked for, nothing in it commands.
    pub text: String,
    /// Where to look. Notes of other scopes are never found; with no scope, nothing is.
    pub scopes: Vec<Scope>,
    /// The most notes to return; at most 1,000 are.
    pub limit: usize,
}

/// A note that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Its number.
    pub id: NoteId,
    /// The note.
    pub note: Note,
    /// How well it fits; only good for comparing hits of one recall. Hits come best first, the newer first among equals.
    pub score: f32,
    /// The words of the query that were found in it, as they were indexed.
    pub why: Vec<String>,
}

impl Note {
    /// Refuses what cannot be kept: an empty or too long text, too many tags, names out of bounds.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |what: String| Err(Error::BadInput(what));
        if self.text.trim().is_empty() {
            return bad("a note needs a text".into());
        }
        if self.text.len() > NOTE_BYTES_MAX {
            return bad(format!(
                "a note's text may have {NOTE_BYTES_MAX} bytes, this one has {}: keep the material in a blob and note where it is",
                self.text.len()
            ));
        }
        if self.tags.len() > TAGS_MAX {
            return bad(format!("a note may have {TAGS_MAX} tags, this one has {}", self.tags.len()));
        }
        let names = [self.scope.name(), &self.origin.author, self.origin.journal.as_deref().unwrap_or("")];
        if let Some(long) = names
            .into_iter()
            .chain(self.tags.iter().map(String::as_str))
            .find(|name| name.len() > NAME_BYTES_MAX)
        {
            return bad(format!(
                "tags, scopes and authors of a note may have {NAME_BYTES_MAX} bytes, one has {}",
                long.len()
            ));
        }
        if self.scope.name().is_empty() {
            return bad("a note's scope needs a name".into());
        }
        Ok(())
    }
}

impl Scope {
    /// The name of the user, team, repository or session.
    pub fn name(&self) -> &str {
        match self {
            Scope::User(name) | Scope::Team(name) | Scope::Repository(name) | Scope::Session(name) => name,
        }
    }

    /// One word that stands for this scope alone, for use as an index term.
    pub(crate) fn term(&self) -> String {
        let sort = match self {
            Scope::User(_) => 'u',
            Scope::Team(_) => 't',
            Scope::Repository(_) => 'r',
            Scope::Session(_) => 's',
        };
        format!("{sort}:{}", self.name())
    }
}
