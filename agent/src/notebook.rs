//! The memory as a session's model uses it: what it is told, what it asks for, what it keeps.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use memory::{
    Change, Cite, Digest, Hit, Kind, Memory, Note, NoteId, Origin, Query, Scope, Trust, parse_time,
};
use serde_json::{Value, json};
use tools::{Call, Outcome, Reach, Replay, Spec};

use crate::agent::blocking;
use crate::learn::{Lessons, quoted, restates, words};
use crate::recall::{self, Recollection};
use crate::{Error, SessionId};

const RECALL: &str = "recall";
const REMEMBER: &str = "remember";
const FORGET: &str = "forget";

/// Notes that an answer to `recall` holds.
const ANSWERED_MAX: usize = 10;
/// How well a note has to fit that was asked for: less than one that is told unasked.
const ANSWERED_FLOOR: f32 = 0.15;
/// The longest text that a model may keep in a note. Characters.
const KEPT_CHARS_MAX: usize = 1_000;
/// Of a new note's words, the share that an old one has when the new one says nothing new.
const SAYS_SO_ALREADY: f32 = 0.9;

/// What a model may write down. Standing instructions are the user's to give.
const KINDS: [(&str, Kind); 7] = [
    ("fact", Kind::Fact),
    ("decision", Kind::Decision),
    ("procedure", Kind::Procedure),
    ("failure", Kind::Failure),
    ("convention", Kind::Convention),
    ("preference", Kind::Preference),
    ("code_location", Kind::CodeLocation),
];

/// The memory of one session.
#[derive(Clone)]
pub struct Notebook {
    memory: Memory,
    session: SessionId,
    workspace: PathBuf,
}

/// The files of a workspace, as what notes cite is compared with them.
#[async_trait]
pub trait Files: Send + Sync {
    /// A file's text as it is now; nothing when there is none, or none that can be read.
    async fn text(&self, path: &str) -> Result<Option<String>, Error>;
}

/// A note that was found, and the places it rests on.
struct Found {
    shown: Recollection,
    cites: Vec<Cite>,
}

impl Found {
    fn of(hit: Hit) -> Found {
        Found { shown: Recollection::of(&hit), cites: hit.note.cites }
    }
}

impl Notebook {
    /// The memory of the session that works in a folder.
    pub fn new(memory: Memory, session: &SessionId, workspace: &Path) -> Notebook {
        Notebook { memory, session: session.clone(), workspace: workspace.to_path_buf() }
    }

    /// The tools a model has for it.
    pub fn specs() -> [Spec; 3] {
        let spec = |name: &str, description: &str, properties: Value, required: &[&str], reach| Spec {
            name: name.to_string(),
            description: description.trim().to_string(),
            parameters: json!({
                "type": "object", "properties": properties, "required": required, "additionalProperties": false,
            }),
            replay: Replay::Safe,
            bounds: Vec::new(),
            reach,
        };
        let kinds: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        [
            spec(
                RECALL,
                include_str!("prompts/recall.md"),
                json!({
                    "query": {"type": "string", "description": "what to look for, in words"},
                    "since": {"type": "string", "description": "only what happened at this day or later, as 2026-01-31"},
                    "until": {"type": "string", "description": "only what happened before this day"},
                }),
                &["query"],
                Reach::Workspace,
            ),
            spec(
                REMEMBER,
                include_str!("prompts/remember.md"),
                json!({
                    "text": {"type": "string", "description": "what to keep"},
                    "kind": {"type": "string", "enum": kinds, "description": "what sort of thing it is"},
                    "about": {"type": "string", "description": "what it tells of, such as test command: it takes the place of what was kept about the same"},
                    "path": {"type": "string", "description": "the file it rests on, if any"},
                }),
                &["text", "kind"],
                // What a model keeps has no effect by itself: it is told as what it is, and what it rests on holds others back.
                Reach::Workspace,
            ),
            spec(
                FORGET,
                include_str!("prompts/forget.md"),
                json!({"note": {"type": "string", "description": "its number, such as n12"}}),
                &["note"],
                Reach::Final,
            ),
        ]
    }

    /// Whether a tool is one of these.
    pub fn has(tool: &str) -> bool {
        [RECALL, REMEMBER, FORGET].contains(&tool)
    }

    /// What bears on what was said, without the notes the session was shown already. That it was told is written down.
    pub async fn recall(
        &self,
        said: &str,
        shown: &BTreeSet<NoteId>,
        files: &dyn Files,
    ) -> Result<Vec<Recollection>, Error> {
        let (book, said, shown) = (self.clone(), said.to_string(), shown.clone());
        let found = blocking(move || {
            let hits =
                recall::bearing_on(&book.memory, &said, &book.workspace, book.session.as_str(), &shown)?;
            Ok(hits.into_iter().map(Found::of).collect())
        })
        .await?;
        self.told(found, files).await
    }

    /// Compares what notes cite with the files as they are, puts those whose place says something else now behind the others, and
    /// writes down that they were shown to this session.
    async fn told(&self, mut found: Vec<Found>, files: &dyn Files) -> Result<Vec<Recollection>, Error> {
        for Found { shown, cites } in &mut found {
            for cite in cites.iter() {
                let now = files.text(&cite.path).await?;
                if let Some(but) = against(cite, now.as_deref()) {
                    shown.but.get_or_insert(but);
                }
            }
        }
        found.sort_by_key(|found| !found.cites.is_empty() && found.shown.but.is_some());
        let ids: Vec<NoteId> = found.iter().map(|found| found.shown.id).collect();
        if !ids.is_empty() {
            let (memory, by) = (self.memory.clone(), format!("session {}", self.session));
            blocking(move || Ok(memory.change(Change::Recalled { ids, by }).map(drop)?)).await?;
        }
        Ok(found.into_iter().map(|found| found.shown).collect())
    }

    /// Writes down what a turn taught.
    pub async fn learn(&self, lessons: Lessons) -> Result<Vec<NoteId>, Error> {
        let book = self.clone();
        blocking(move || {
            let Lessons { mut notes, used } = lessons;
            let mut known = book.procedures()?;
            known.extend(notes.iter().cloned());
            notes.retain(|note| !known.iter().any(|known| covers(known, note)));
            let ids = book.memory.remember_all(notes)?;
            for well in [true, false] {
                let ids: Vec<NoteId> =
                    used.iter().filter(|(_, how)| *how == well).map(|(id, _)| *id).collect();
                if !ids.is_empty() {
                    book.memory.change(Change::Used {
                        ids,
                        well,
                        by: format!("session {}", book.session),
                    })?;
                }
            }
            Ok(ids)
        })
        .await
    }

    /// The ways of doing that are known of this repository and hold.
    fn procedures(&self) -> Result<Vec<Note>, Error> {
        let query = Query {
            scopes: recall::scopes(&self.workspace),
            kinds: vec![Kind::Procedure],
            limit: 1_000,
            ..Query::default()
        };
        let hits = self.memory.recall(&query)?;
        let holds = |hit: &Hit| hit.standing.superseded_by.is_none() && hit.standing.ended_ms.is_none();
        Ok(hits.into_iter().filter(holds).map(|hit| hit.note).collect())
    }

    /// Runs a call, and tells which notes it showed. `external` says whether somebody else's text was recalled in the session.
    pub async fn consult(
        &self,
        call: &Call,
        external: bool,
        files: &dyn Files,
    ) -> Result<(Outcome, Vec<Recollection>), Error> {
        let file = match text_of(&call.arguments, &["path"]).filter(|_| call.name == REMEMBER) {
            Some(path) => files.text(path).await?,
            None => None,
        };
        let (book, call) = (self.clone(), call.clone());
        let (outcome, found) = blocking(move || {
            let done = match call.name.as_str() {
                RECALL => return book.asked(&call.arguments),
                REMEMBER => book.remember(&call.arguments, external, file),
                _ => book.forget(&call.arguments),
            };
            Ok((done?, Vec::new()))
        })
        .await?;
        if found.is_empty() {
            return Ok((outcome, Vec::new()));
        }
        let shown = self.told(found, files).await?;
        let count = match shown.len() {
            1 => "1 note".to_string(),
            n => format!("{n} notes"),
        };
        Ok((Outcome { ok: true, summary: count, ..Outcome::refused(recall::beneath(&shown)) }, shown))
    }

    fn asked(&self, arguments: &Value) -> Result<(Outcome, Vec<Found>), Error> {
        let refused = |text: String| Ok((Outcome::refused(text), Vec::new()));
        let Some(text) = text_of(arguments, &["query", "text", "q"]) else {
            return refused("\"query\" is missing: say in words what to look for".into());
        };
        let mut bounds = [None, None];
        for (bound, name) in bounds.iter_mut().zip(["since", "until"]) {
            let Some(day) = text_of(arguments, &[name]) else { continue };
            match parse_time(day) {
                Some(ms) => *bound = Some(ms),
                None => return refused(format!("\"{name}\" is no day: write it as 2026-01-31")),
            }
        }
        let [since_ms, until_ms] = bounds;
        let query = Query {
            text: text.to_string(),
            scopes: recall::scopes(&self.workspace),
            limit: ANSWERED_MAX,
            floor: ANSWERED_FLOOR,
            since_ms,
            until_ms,
            ..Query::default()
        };
        let hits = self.memory.recall(&query)?;
        let nothing = Outcome { ok: true, ..Outcome::refused("Nothing that fits is remembered.") };
        Ok((nothing, hits.into_iter().map(Found::of).collect()))
    }

    fn remember(&self, arguments: &Value, external: bool, file: Option<String>) -> Result<Outcome, Error> {
        let Some(text) = text_of(arguments, &["text", "content", "note"]) else {
            return Ok(Outcome::refused("\"text\" is missing: what is to be kept?"));
        };
        if text.chars().count() > KEPT_CHARS_MAX {
            return Ok(Outcome::refused(format!(
                "not kept: a note has at most {KEPT_CHARS_MAX} characters, and says one thing; this has {}",
                text.chars().count()
            )));
        }
        let kind = arguments["kind"].as_str().unwrap_or("fact").trim().to_lowercase();
        let Some((_, kind)) = KINDS.iter().find(|(name, _)| *name == kind) else {
            let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
            return Ok(Outcome::refused(format!("not kept: \"kind\" is one of {}", names.join(", "))));
        };
        let scopes = recall::scopes(&self.workspace);
        let near = Query { text: text.to_string(), scopes, limit: 5, ..Query::default() };
        let said = words(text);
        let says_so = |hit: &&Hit| {
            hit.standing.superseded_by.is_none()
                && hit.note.kind != Kind::Episode
                && restates(&said, &words(&hit.note.text), SAYS_SO_ALREADY)
        };
        if let Some(hit) = self.memory.recall(&near)?.iter().find(says_so) {
            return Ok(done(format!("Nothing new: {} says so already.", hit.id)));
        }
        let cites = match (text_of(arguments, &["path"]), file) {
            (Some(path), Some(now)) => {
                let path = crate::known::relative(&self.workspace, path);
                vec![Cite { path, lines: None, digest: Some(Digest::of(now.trim().as_bytes())) }]
            }
            (Some(path), None) => {
                return Ok(Outcome::refused(format!(
                    "not kept: {path} cannot be read; name a file of the workspace, or leave \"path\" out"
                )));
            }
            (None, _) => Vec::new(),
        };
        let trust = if external { Trust::ExternalText } else { Trust::ModelInferred };
        let place = Scope::Repository(self.workspace.display().to_string());
        let note = Note::new(*kind, text, place, "saga", trust);
        let origin = Origin { journal: Some(self.session.to_string()), ..note.origin.clone() };
        let about = text_of(arguments, &["about"]).map(str::to_string);
        let id = self.memory.remember(Note { origin, about, cites, ..note })?;
        Ok(done(match external {
            true => format!(
                "Kept as {id}. It was concluded beside somebody else's text, so it is not recalled before a person accepts it."
            ),
            false => format!("Kept as {id}."),
        }))
    }

    fn forget(&self, arguments: &Value) -> Result<Outcome, Error> {
        let given = &arguments["note"];
        let number = given.as_u64().or_else(|| {
            let text = given.as_str().or_else(|| arguments["id"].as_str())?;
            text.trim().trim_start_matches('n').parse().ok()
        });
        let Some(id) = number.map(NoteId) else {
            return Ok(Outcome::refused("\"note\" is the number of a note, such as n12"));
        };
        // A number that was guessed must not reach into what this session may not even see.
        let scopes = recall::scopes(&self.workspace);
        let own = self.memory.note(id)?.is_some_and(|note| scopes.contains(&note.scope));
        if !own {
            return Ok(Outcome::refused(format!("There is no note {id} here.")));
        }
        self.memory.forget(id, &format!("session {}", self.session))?;
        Ok(done(format!("{id} is erased.")))
    }
}

fn done(text: String) -> Outcome {
    Outcome { ok: true, ..Outcome::refused(text) }
}

/// The first of these arguments that is a text with something in it.
pub(crate) fn text_of<'a>(arguments: &'a Value, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| arguments[*name].as_str()).map(str::trim).filter(|text| !text.is_empty())
}

/// Whether a way of doing is known already: by a person's word, or by a wider command than this one.
fn covers(known: &Note, new: &Note) -> bool {
    if new.kind != Kind::Procedure || new.about.is_none() || known.about != new.about {
        return false;
    }
    if new.origin.trust == Trust::UserSaid {
        return false;
    }
    let (knows, news) = (quoted(&known.text), quoted(&new.text));
    let wider = |command: &&str| news.iter().any(|new| new.starts_with(*command) && new != command);
    known.origin.trust == Trust::UserSaid && known.text != new.text || knows.iter().any(wider)
}

/// What speaks against a cited place, given its file as it is now.
fn against(cite: &Cite, now: Option<&str>) -> Option<String> {
    let digest = cite.digest.as_ref()?;
    let place = match cite.lines {
        Some((first, last)) => format!("{} lines {first}-{last}", cite.path),
        None => cite.path.clone(),
    };
    let Some(text) = now else { return Some(format!("{} is gone", cite.path)) };
    let says = match cite.lines {
        None => text.trim().to_string(),
        Some((first, last)) => {
            let (first, last) = (first.max(1) as usize, last as usize);
            let lines = text.lines().skip(first - 1).take((last + 1).saturating_sub(first));
            lines.collect::<Vec<_>>().join("\n").trim().to_string()
        }
    };
    (Digest::of(says.as_bytes()) != *digest).then(|| format!("{place} has changed since"))
}
