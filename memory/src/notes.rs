//! A note: one remembered thing, with where it came from, whom it is for and when it holds.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Seq};

/// The longest text of a note, in bytes. Longer material belongs in a blob or a journal, with a note that points there.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;
/// The most tags a note may carry, and the longest a tag, a scope's or an author's name may be, in bytes.
const TAGS_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 256;
/// The most places a note may cite, and the most notes it may supersede.
const CITES_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 4096;

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
    /// When what it tells of happened, in milliseconds since 1970; `None` when that is when it was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_ms: Option<u64>,
    /// From when it holds, in milliseconds since 1970; `None` when that was not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from_ms: Option<u64>,
    /// Until when it holds; `None` while nothing says that it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_to_ms: Option<u64>,
    /// Free words to group notes by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What it says something about, such as `test command`. Of the notes of a scope that are about the same, the newest
    /// holds and the others are what was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// The notes it takes the place of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<NoteId>,
    /// How sure its author is, in per cent; `None` when that was not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<u8>,
    /// The places in files that bear it out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cites: Vec<Cite>,
    /// Whether it waits in the review inbox: it is not recalled until somebody accepts it ([`crate::Change::Accepted`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proposed: bool,
}

/// A place in a file that a note rests on, with what is needed to see whether the file still says so. It is kept; comparing it with
/// the file is left to whoever has the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cite {
    /// The file's path in the workspace.
    pub path: String,
    /// The first and last line, counted from 1; `None` for the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<(u32, u32)>,
    /// The digest of these lines, without the white space around them, when the note was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<crate::Digest>,
}

/// What sort of thing a note remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    /// Words, in no syntax: whatever is in it is looked for, nothing in it commands. With no word in it, the notes that pass
    /// the other bounds are found, the newest first.
    pub text: String,
    /// Where to look. Notes of other scopes are never found; with no scope, nothing is.
    pub scopes: Vec<Scope>,
    /// The most notes to return; at most 1,000 are.
    pub limit: usize,
    /// Only notes of these kinds; of all, if it is empty.
    pub kinds: Vec<Kind>,
    /// Only what happened at this time or later, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Only what happened before this time.
    pub until_ms: Option<u64>,
    /// What was known at this time: as if nothing had been written down later.
    pub as_of_ms: Option<u64>,
    /// Only notes that fit at least so well ([`Hit::score`]).
    pub floor: f32,
    /// Also what came from external text and nobody has accepted.
    pub quarantined: bool,
}

/// A note that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Its number.
    pub id: NoteId,
    /// The note.
    pub note: Note,
    /// How well it fits: 0 not at all, about 1 as well as a note of just these words would.
    /// Hits come best first, the newer first among equals.
    pub score: f32,
    /// Why it was found.
    pub why: Why,
    /// What has become of it since it was written down.
    pub standing: Standing,
}

/// A session that was found: one whose episodes, taken together, bear on a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionHit {
    /// Its journal.
    pub session: String,
    /// How well it fits: what its nearest note scores, and a little more if that speaks of the same as the best hits.
    pub score: f32,
    /// The note by which it was found.
    pub best: NoteId,
}

/// Why a note was found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Why {
    /// The words of the query that stand in it, as they were indexed.
    pub words: Vec<String>,
    /// How much its words and those around it count, 0 to 1 …
    pub lexical: f32,
    /// … and how near its vector is to the query's, as a cosine; `None` while it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f32>,
    /// What else moved it, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<String>,
}

/// What has become of a note since it was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standing {
    /// The note that took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<NoteId>,
    /// Until when it held, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Whether it waits in the review inbox.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proposed: bool,
    /// Whether somebody accepted it who may.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
    /// How often it was recalled …
    pub recalled: u32,
    /// … how often what was done with it went well …
    pub helped: u32,
    /// … and how often not.
    pub misled: u32,
}

impl Note {
    /// A note of this text that says nothing else: of a kind, in a scope, by an author, written down now.
    pub fn new(
        kind: Kind,
        text: impl Into<String>,
        scope: Scope,
        author: impl Into<String>,
        trust: Trust,
    ) -> Note {
        Note {
            kind,
            text: text.into(),
            scope,
            origin: Origin { journal: None, span: None, author: author.into(), trust },
            recorded_ms: crate::writer::now_ms(),
            happened_ms: None,
            valid_from_ms: None,
            valid_to_ms: None,
            tags: Vec::new(),
            about: None,
            supersedes: Vec::new(),
            confidence: None,
            cites: Vec::new(),
            proposed: false,
        }
    }

    /// When what it tells of happened, in milliseconds since 1970.
    pub fn at_ms(&self) -> u64 {
        self.happened_ms.unwrap_or(self.recorded_ms)
    }

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
        let names = [
            self.scope.name(),
            &self.origin.author,
            self.origin.journal.as_deref().unwrap_or(""),
            self.about.as_deref().unwrap_or(""),
        ];
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
        if self.cites.len() > CITES_MAX || self.supersedes.len() > CITES_MAX {
            return bad(format!("a note may cite {CITES_MAX} places and supersede {CITES_MAX} notes"));
        }
        if let Some(long) = self.cites.iter().find(|cite| cite.path.len() > PATH_BYTES_MAX) {
            return bad(format!("a cited path may have {PATH_BYTES_MAX} bytes, one has {}", long.path.len()));
        }
        if self.confidence.is_some_and(|confidence| confidence > 100) {
            return bad("a confidence is 0 to 100 per cent".into());
        }
        if self.kind == Kind::Instruction && self.origin.trust == Trust::ExternalText {
            return bad("what was read in somebody else's text cannot be a standing instruction".into());
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

    /// One word that stands for this scope alone: its sort's first letter, a colon and its name.
    pub fn term(&self) -> String {
        let sort = match self {
            Scope::User(_) => 'u',
            Scope::Team(_) => 't',
            Scope::Repository(_) => 'r',
            Scope::Session(_) => 's',
        };
        format!("{sort}:{}", self.name())
    }

    /// The scope a term stands for.
    pub fn of_term(term: &str) -> Option<Scope> {
        let (sort, name) = term.split_once(':').filter(|(_, name)| !name.is_empty())?;
        let name = name.to_string();
        match sort {
            "u" | "user" => Some(Scope::User(name)),
            "t" | "team" => Some(Scope::Team(name)),
            "r" | "repository" => Some(Scope::Repository(name)),
            "s" | "session" => Some(Scope::Session(name)),
            _ => None,
        }
    }
}
