//! What is remembered, over HTTP: add, look, search, forget, accept, and what happened to notes.

use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::{Json, response::IntoResponse, response::Response};
use memory::{Change, Kind, Memory, Note, NoteId, Query, Scope, Seq, Standing, Trust, parse_time};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::error::{Problem, ProblemBody};
use crate::service::Service;
use crate::wire::{Asked, Body};

/// Notes on a page, and hits, that may be asked for.
const LIMIT_MAX: usize = 1000;
/// Hits that fit less than this say nothing about what was asked: nothing is a better answer.
const FLOOR: f32 = 0.1;
/// Things to remember that one request may bring.
pub(crate) const IMPORT_MAX: usize = 500;
/// Notes that are looked at for a forgetting by author or session.
const FORGET_PAGE: usize = 1000;

/// Something to remember.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct NewMemory {
    /// What is remembered, in words. Secrets in it are blotted out before it is written.
    pub(crate) text: String,
    /// What sort of thing it is: `episode`, `fact`, `procedure`, `failure`, `decision`, `preference`, `convention`,
    /// `code_location` or `instruction`; a fact when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    /// Whose it is: `user:NAME`, `team:NAME`, `repository:NAME` or `session:ID`.
    #[schema(example = "repository:saga")]
    pub(crate) scope: String,
    /// Who says so; the service's user when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) author: Option<String>,
    /// How far it can be trusted: `user_said`, `tool_verified`, `model_inferred` or `external_text`; `user_said` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trust: Option<String>,
    /// What it says something about: of notes of a scope about the same, the newest holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) about: Option<String>,
    /// The notes it takes the place of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) supersedes: Vec<u64>,
    /// The session it comes from: what was said in one session belongs together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<String>,
    /// Words to group notes by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tags: Vec<String>,
    /// When it happened, as a date or milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) happened: Option<String>,
    /// Whether it waits in the review inbox.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) proposed: bool,
}

/// Many things to remember.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct MemoryImport {
    /// At most 500; they are kept in this order.
    pub(crate) memories: Vec<NewMemory>,
}

/// What many things to remember became.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct MemoryImported {
    /// The number of each one's note. What was known already has the number of the note that says so.
    pub(crate) ids: Vec<u64>,
}

/// A note, and what has become of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct MemoryNote {
    /// Its number.
    pub(crate) id: u64,
    /// What sort of thing it is.
    pub(crate) kind: String,
    /// What is remembered.
    pub(crate) text: String,
    /// Whose it is, as in a new note.
    pub(crate) scope: String,
    /// Who said so.
    pub(crate) author: String,
    /// How far it can be trusted.
    pub(crate) trust: String,
    /// The session it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<String>,
    /// When it was written down, in milliseconds since 1970.
    pub(crate) recorded_ms: u64,
    /// When it happened, in milliseconds since 1970.
    pub(crate) happened_ms: u64,
    /// What it says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) about: Option<String>,
    /// Words to group notes by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tags: Vec<String>,
    /// The note that took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) superseded_by: Option<u64>,
    /// Until when it held, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended_ms: Option<u64>,
    /// Whether it waits in the review inbox.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) proposed: bool,
    /// How often it was recalled.
    pub(crate) recalled: u32,
    /// How well it fits, in an answer to a search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) score: Option<f32>,
    /// Why it was found, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// Notes.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct MemoryPage {
    /// The notes.
    pub(crate) memories: Vec<MemoryNote>,
    /// What to ask for next as `after`; nothing at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<u64>,
}

/// Sessions that were found.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct MemorySessions {
    /// The sessions, best first.
    pub(crate) sessions: Vec<MemorySession>,
}

/// A session in which something was said that fits a search.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct MemorySession {
    /// The session.
    pub(crate) session: String,
    /// How well it fits.
    pub(crate) score: f32,
    /// What was said there that fits best.
    pub(crate) best: MemoryNote,
}

/// Which notes to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MemoryQuery {
    /// Only notes with greater numbers.
    #[serde(default)]
    pub(crate) after: u64,
    /// The most notes; 100 when left out.
    #[serde(default)]
    pub(crate) limit: Option<usize>,
    /// Only notes of this scope.
    #[serde(default)]
    pub(crate) scope: Option<String>,
    /// Only the review inbox.
    #[serde(default)]
    pub(crate) proposed: bool,
}

/// What to look for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct MemorySearch {
    /// Words, in no syntax.
    pub(crate) text: String,
    /// Where to look; in every scope when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) scopes: Vec<String>,
    /// The most hits; 10 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<usize>,
    /// Only these kinds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) kinds: Vec<String>,
    /// Only what happened then or later, as a date or milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    /// Only what happened before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    /// What was known then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) as_of: Option<String>,
}

/// What to forget: all notes that one of these means.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct MemoryForget {
    /// By number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ids: Vec<u64>,
    /// All that have these words, every one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// All that come from this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<String>,
    /// All that this author said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) author: Option<String>,
    /// Only tell what would be forgotten.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

/// To what time the memory is to be put back.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct MemoryRollback {
    /// A day as 2026-01-31, a time as 2026-01-31T12:30, or milliseconds since 1970.
    pub(crate) to: String,
    /// Only tell what would be taken back.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

/// What was forgotten, or would be.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct Forgotten {
    /// The notes. What they said is told before they are forgotten, and not afterwards.
    pub(crate) ids: Vec<u64>,
    /// In a dry run, what they say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) memories: Vec<MemoryNote>,
    /// Sessions whose journals these notes were drawn from: what was said there is still there until the session is deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sessions: Vec<String>,
}

/// What happened to notes.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct MemoryHistory {
    /// Each change as an object: `seq`, `at_ms`, `change`, and what belongs to it.
    #[schema(value_type = Vec<Object>)]
    pub(crate) changes: Vec<serde_json::Value>,
}

/// How the memory is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct MemoryStats {
    /// Living notes.
    pub(crate) notes: u64,
    /// Notes that have vectors.
    pub(crate) embedded: u64,
    /// Notes that wait for vectors.
    pub(crate) waiting: u64,
    /// Bytes of the log.
    pub(crate) log_bytes: u64,
    /// Living notes by scope.
    pub(crate) scopes: std::collections::BTreeMap<String, u64>,
    /// Indexes that were made anew since the start, with the reason.
    pub(crate) rebuilt: Vec<String>,
    /// Damage that is known of.
    pub(crate) damaged: Vec<String>,
}

/// A name as JSON spells it.
fn spelt<T: Serialize>(of: &T) -> String {
    match serde_json::to_value(of) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(_) | Err(_) => String::new(),
    }
}

fn named<T: serde::de::DeserializeOwned>(name: &str, what: &str, among: &str) -> Result<T, Problem> {
    serde_json::from_value(serde_json::Value::String(name.into()))
        .map_err(|_| Problem::bad_request(format!("{name:?} is no {what}; there are {among}")))
}

pub(crate) fn kind(name: &str) -> Result<Kind, Problem> {
    const KINDS: &str =
        "episode, fact, procedure, failure, decision, preference, convention, code_location and instruction";
    named(name, "kind of memory", KINDS)
}

pub(crate) fn scope(text: &str) -> Result<Scope, Problem> {
    Scope::of_term(text).ok_or_else(|| {
        Problem::bad_request(format!(
            "{text:?} is no scope; write it as user:NAME, team:NAME, repository:NAME or session:ID"
        ))
    })
}

fn time(text: &str) -> Result<u64, Problem> {
    parse_time(text).ok_or_else(|| {
        Problem::bad_request(format!(
            "{text:?} is no date; write it as 2026-11-29, or in milliseconds since 1970"
        ))
    })
}

fn scope_in_words(scope: &Scope) -> String {
    let sort = match scope {
        Scope::User(_) => "user",
        Scope::Team(_) => "team",
        Scope::Repository(_) => "repository",
        Scope::Session(_) => "session",
    };
    format!("{sort}:{}", scope.name())
}

impl MemoryNote {
    fn of(id: NoteId, note: Note, standing: Standing) -> MemoryNote {
        MemoryNote {
            id: id.0,
            kind: spelt(&note.kind),
            scope: scope_in_words(&note.scope),
            trust: spelt(&note.origin.trust),
            recorded_ms: note.recorded_ms,
            happened_ms: note.at_ms(),
            text: note.text,
            author: note.origin.author,
            session: note.origin.journal,
            about: note.about,
            tags: note.tags,
            superseded_by: standing.superseded_by.map(|id| id.0),
            ended_ms: standing.ended_ms,
            proposed: standing.proposed,
            recalled: standing.recalled,
            score: None,
            why: None,
        }
    }
}

/// What the store's owner is called where nobody else is named.
const OWNER: &str = "user";

impl NewMemory {
    fn into_note(self) -> Result<Note, Problem> {
        const TRUSTS: &str = "user_said, tool_verified, model_inferred and external_text";
        let sort = self.kind.as_deref().map_or(Ok(Kind::Fact), kind)?;
        let trust: Trust =
            self.trust.as_deref().map_or(Ok(Trust::UserSaid), |name| named(name, "trust", TRUSTS))?;
        let author = self.author.unwrap_or_else(|| OWNER.into());
        let mut note = Note::new(sort, self.text, scope(&self.scope)?, author, trust);
        note.about = self.about;
        note.origin.journal = self.session;
        note.supersedes = self.supersedes.into_iter().map(NoteId).collect();
        note.tags = self.tags;
        note.happened_ms = self.happened.as_deref().map(time).transpose()?;
        note.proposed = self.proposed;
        Ok(note)
    }
}

/// Remembers. Whether it is new, and the note.
pub(crate) fn add(memory: &Memory, new: NewMemory) -> Result<(bool, MemoryNote), Problem> {
    let note = new.into_note()?;
    let before = memory.health().notes;
    let id = memory.remember(note)?;
    let fresh = memory.health().notes > before;
    Ok((fresh, look(memory, id.0)?))
}

/// Remembers many with one write: all of them, or none.
pub(crate) fn import(memory: &Memory, new: MemoryImport) -> Result<MemoryImported, Problem> {
    let count = new.memories.len();
    if count > IMPORT_MAX {
        return Err(Problem::bad_request(format!(
            "one request may bring {IMPORT_MAX} memories, and this one has {count}: send them in parts"
        )));
    }
    let notes = new.memories.into_iter().enumerate().map(|(n, new)| {
        let into = new.into_note();
        into.map_err(|problem| {
            Problem::bad_request(format!("memory {} of {count}: {}", n + 1, problem.detail()))
        })
    });
    let notes = notes.collect::<Result<Vec<Note>, Problem>>()?;
    let ids = if notes.is_empty() { Vec::new() } else { memory.remember_all(notes)? };
    Ok(MemoryImported { ids: ids.into_iter().map(|id| id.0).collect() })
}

/// One note.
pub(crate) fn look(memory: &Memory, id: u64) -> Result<MemoryNote, Problem> {
    let note = memory.note(NoteId(id))?.ok_or_else(|| Problem::no_memory(id))?;
    Ok(MemoryNote::of(NoteId(id), note, memory.standing(NoteId(id))))
}

/// A page of notes.
pub(crate) fn list(memory: &Memory, query: &MemoryQuery) -> Result<MemoryPage, Problem> {
    let limit = query.limit.unwrap_or(100).clamp(1, LIMIT_MAX);
    let scopes: Vec<Scope> = query.scope.as_deref().map(scope).transpose()?.into_iter().collect();
    let fits = |standing: &Standing| !query.proposed || standing.proposed;
    let mut notes = memory.notes(NoteId(query.after), limit + 1, &scopes, fits)?;
    let more = notes.len() > limit;
    notes.truncate(limit);
    let next = notes.last().filter(|_| more).map(|(id, _)| id.0);
    let memories =
        notes.into_iter().map(|(id, note)| MemoryNote::of(id, note, memory.standing(id))).collect();
    Ok(MemoryPage { memories, next })
}

/// The scopes to look in: those that are named, or all there are.
fn scopes(memory: &Memory, named: &[String]) -> Result<Vec<Scope>, Problem> {
    match named {
        [] => Ok(memory.scopes().keys().filter_map(|term| Scope::of_term(term)).collect()),
        named => named.iter().map(|name| scope(name)).collect(),
    }
}

/// A search as the memory takes it.
fn query(memory: &Memory, search: &MemorySearch) -> Result<Query, Problem> {
    Ok(Query {
        text: search.text.clone(),
        scopes: scopes(memory, &search.scopes)?,
        limit: search.limit.unwrap_or(10).clamp(1, LIMIT_MAX),
        kinds: search.kinds.iter().map(|name| kind(name)).collect::<Result<_, _>>()?,
        since_ms: search.since.as_deref().map(time).transpose()?,
        until_ms: search.until.as_deref().map(time).transpose()?,
        as_of_ms: search.as_of.as_deref().map(time).transpose()?,
        floor: FLOOR,
        ..Query::default()
    })
}

/// The sessions in which what fits a search best was said.
pub(crate) fn sessions(memory: &Memory, search: &MemorySearch) -> Result<MemorySessions, Problem> {
    let mut sessions = Vec::new();
    for hit in memory.recall_sessions(&query(memory, search)?)? {
        // Nothing, if it was forgotten this very moment.
        if let Some(note) = memory.note(hit.best)? {
            let best = MemoryNote::of(hit.best, note, memory.standing(hit.best));
            sessions.push(MemorySession { session: hit.session, score: hit.score, best });
        }
    }
    Ok(MemorySessions { sessions })
}

/// What fits a search best.
pub(crate) fn search(memory: &Memory, search: &MemorySearch) -> Result<MemoryPage, Problem> {
    let hits = memory.recall(&query(memory, search)?)?;
    let memories = hits.into_iter().map(|hit| {
        let mut why = Vec::new();
        if !hit.why.words.is_empty() {
            why.push(format!("words: {}", hit.why.words.join(", ")));
        }
        if hit.why.lexical > 0.0 {
            why.push(format!("with its neighbours {:.2}", hit.why.lexical));
        }
        if let Some(cosine) = hit.why.cosine {
            why.push(format!("meaning {cosine:.2}"));
        }
        why.extend(hit.why.moved);
        let mut note = MemoryNote::of(hit.id, hit.note, hit.standing);
        (note.score, note.why) = (Some(hit.score), Some(why.join("; ")));
        note
    });
    Ok(MemoryPage { memories: memories.collect(), next: None })
}

/// Forgets, or tells what would be forgotten.
pub(crate) fn forget(memory: &Memory, wish: &MemoryForget) -> Result<Forgotten, Problem> {
    if wish.ids.is_empty() && wish.text.is_none() && wish.session.is_none() && wish.author.is_none() {
        return Err(Problem::bad_request("say what to forget: ids, text, session or author"));
    }
    let mut found: std::collections::BTreeMap<NoteId, Note> = std::collections::BTreeMap::new();
    for id in wish.ids.iter().map(|id| NoteId(*id)) {
        if let Some(note) = memory.note(id)? {
            found.insert(id, note);
        }
    }
    let words: Option<Vec<String>> =
        wish.text.as_ref().map(|text| text.to_lowercase().split_whitespace().map(str::to_string).collect());
    if wish.session.is_some() || wish.author.is_some() || words.is_some() {
        let mut after = NoteId(0);
        loop {
            let page = memory.notes(after, FORGET_PAGE, &[], |_| true)?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            for (id, note) in page {
                let text = note.text.to_lowercase();
                let fits = wish
                    .session
                    .as_ref()
                    .is_some_and(|session| note.origin.journal.as_ref() == Some(session))
                    || wish.author.as_ref().is_some_and(|author| note.origin.author == *author)
                    || words.as_ref().is_some_and(|words| {
                        !words.is_empty() && words.iter().all(|word| text.contains(word.as_str()))
                    });
                if fits {
                    found.insert(id, note);
                }
            }
        }
    }
    let sessions: std::collections::BTreeSet<String> =
        found.values().filter_map(|note| note.origin.journal.clone()).collect();
    let ids: Vec<NoteId> = found.keys().copied().collect();
    let mut forgotten = Forgotten { sessions: sessions.into_iter().collect(), ..Forgotten::default() };
    if wish.dry_run {
        forgotten.ids = ids.iter().map(|id| id.0).collect();
        forgotten.memories =
            found.into_iter().map(|(id, note)| MemoryNote::of(id, note, memory.standing(id))).collect();
    } else {
        forgotten.ids = memory.forget_all(&ids, OWNER)?.into_iter().map(|id| id.0).collect();
    }
    Ok(forgotten)
}

/// Accepts a note that waits in the review inbox, or comes from external text.
pub(crate) fn accept(memory: &Memory, id: u64) -> Result<MemoryNote, Problem> {
    let note = memory.note(NoteId(id))?.ok_or_else(|| Problem::no_memory(id))?;
    memory.change(Change::Accepted { id: NoteId(id), by: OWNER.into() })?;
    // What it was to take the place of makes way now that somebody stands for it.
    let about = note.about.as_ref().and_then(|about| memory.about(&note.scope, about));
    let old: std::collections::BTreeSet<NoteId> = note.supersedes.iter().copied().chain(about).collect();
    for old in old.into_iter().filter(|old| *old < NoteId(id)) {
        memory.change(Change::Superseded { new: NoteId(id), old, by: OWNER.into() })?;
    }
    look(memory, id)
}

/// Takes back what was written down since some time, or tells what would be: it waits in the review inbox then, and what it had
/// taken the place of holds as before. Nothing is lost; accepting a note brings it back.
pub(crate) fn rollback(memory: &Memory, wish: &MemoryRollback) -> Result<MemoryPage, Problem> {
    let to_ms = time(&wish.to)?;
    let (mut after, mut since) = (NoteId(0), Vec::new());
    loop {
        let page = memory.notes(after, FORGET_PAGE, &[], |standing| !standing.proposed)?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        since.extend(page.into_iter().filter(|(_, note)| note.recorded_ms >= to_ms));
    }
    if !wish.dry_run && !since.is_empty() {
        let ids = since.iter().map(|(id, _)| *id).collect();
        memory.change(Change::Withdrawn { ids, by: OWNER.into() })?;
    }
    let memories = since.into_iter().map(|(id, note)| MemoryNote::of(id, note, memory.standing(id)));
    Ok(MemoryPage { memories: memories.collect(), next: None })
}

/// What happened to a note, or to all.
pub(crate) fn history(memory: &Memory, of: Option<u64>) -> Result<MemoryHistory, Problem> {
    let changes = memory.changes(Seq(1), LIMIT_MAX, of.map(NoteId))?;
    let changes = changes.iter().map(|changed| serde_json::to_value(changed).unwrap_or_default());
    Ok(MemoryHistory { changes: changes.collect() })
}

/// How the memory is.
pub(crate) fn stats(memory: &Memory) -> MemoryStats {
    let health = memory.health();
    let scopes = memory.scopes().into_iter();
    MemoryStats {
        notes: health.notes,
        embedded: health.notes_embedded,
        waiting: health.notes_waiting,
        log_bytes: health.bytes,
        scopes: scopes
            .map(|(term, count)| (Scope::of_term(&term).map_or(term, |scope| scope_in_words(&scope)), count))
            .collect(),
        rebuilt: health.rebuilt,
        damaged: health.damaged,
    }
}

/// A note's number from the path, checked.
pub(crate) struct Number(u64);

impl<S: Send + Sync> FromRequestParts<S> for Number {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await?;
        match id.strip_prefix('n').unwrap_or(&id).parse() {
            Ok(id) => Ok(Number(id)),
            Err(_) => Err(Problem::bad_request(format!("{id:?} is no note; notes are numbered 1, 2, 3 …"))),
        }
    }
}

/// Does something with the memory on a thread that may wait.
async fn with<T: Send + 'static>(
    service: &Service,
    work: impl FnOnce(&Memory) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let memory = service.agent().memory().clone();
    let done = tokio::task::spawn_blocking(move || work(&memory)).await;
    done.unwrap_or_else(|error| Err(Problem::internal(error.to_string())))
}

/// Remember something. What is known already is answered with the note that says so.
#[utoipa::path(post, path = "/v1/memories", tag = "memories", request_body = NewMemory, operation_id = "add_memory",
    responses((status = 201, description = "It is durable", body = MemoryNote),
              (status = 200, description = "It was known", body = MemoryNote),
              (status = 400, description = "It cannot be kept", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn create(
    State(service): State<Service>,
    Body(new): Body<NewMemory>,
) -> Result<Response, Problem> {
    let (fresh, note) = with(&service, |memory| add(memory, new)).await?;
    let status = if fresh { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(note)).into_response())
}

/// Remember many things with one write: all of them, or none.
#[utoipa::path(post, path = "/v1/memories/import", tag = "memories", request_body = MemoryImport, operation_id = "import_memories",
    responses((status = 200, description = "They are durable", body = MemoryImported),
              (status = 400, description = "One of them cannot be kept, so none was", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn bring(
    State(service): State<Service>,
    Body(new): Body<MemoryImport>,
) -> Result<Json<MemoryImported>, Problem> {
    with(&service, |memory| import(memory, new)).await.map(Json)
}

/// List what is remembered, in the order it was written down.
#[utoipa::path(get, path = "/v1/memories", tag = "memories", params(MemoryQuery), operation_id = "list_memories",
    responses((status = 200, description = "A page of notes", body = MemoryPage),
              (status = 400, description = "A parameter cannot be used", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn page(
    State(service): State<Service>,
    Asked(query): Asked<MemoryQuery>,
) -> Result<Json<MemoryPage>, Problem> {
    with(&service, move |memory| list(memory, &query)).await.map(Json)
}

/// Search what is remembered. Each hit tells why it was found.
#[utoipa::path(post, path = "/v1/memories/search", tag = "memories", request_body = MemorySearch, operation_id = "search_memories",
    responses((status = 200, description = "The notes that fit best, best first", body = MemoryPage),
              (status = 400, description = "The search makes no sense", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn find(
    State(service): State<Service>,
    Body(wish): Body<MemorySearch>,
) -> Result<Json<MemoryPage>, Problem> {
    with(&service, move |memory| search(memory, &wish)).await.map(Json)
}

/// Find the sessions in which what fits a search was said.
#[utoipa::path(post, path = "/v1/memories/sessions", tag = "memories", request_body = MemorySearch, operation_id = "search_sessions",
    responses((status = 200, description = "The sessions that fit best, best first", body = MemorySessions),
              (status = 400, description = "The search makes no sense", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn where_said(
    State(service): State<Service>,
    Body(wish): Body<MemorySearch>,
) -> Result<Json<MemorySessions>, Problem> {
    with(&service, move |memory| sessions(memory, &wish)).await.map(Json)
}

/// Forget. When this is answered no byte of the notes' texts is left in the memory's files.
#[utoipa::path(post, path = "/v1/memories/forget", tag = "memories", request_body = MemoryForget, operation_id = "forget_memories",
    responses((status = 200, description = "What was forgotten, or would be", body = Forgotten),
              (status = 400, description = "Nothing is named", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn erase(
    State(service): State<Service>,
    Body(wish): Body<MemoryForget>,
) -> Result<Json<Forgotten>, Problem> {
    with(&service, move |memory| forget(memory, &wish)).await.map(Json)
}

/// Take back what was written down since some time. It waits in the review inbox then, from where it can be accepted again.
#[utoipa::path(post, path = "/v1/memories/rollback", tag = "memories", request_body = MemoryRollback, operation_id = "rollback_memories",
    responses((status = 200, description = "What was taken back, or would be", body = MemoryPage),
              (status = 400, description = "The time is none", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn take_back(
    State(service): State<Service>,
    Body(wish): Body<MemoryRollback>,
) -> Result<Json<MemoryPage>, Problem> {
    with(&service, move |memory| rollback(memory, &wish)).await.map(Json)
}

/// What happened to all notes: changes, recalls, and forgettings without what was forgotten.
#[utoipa::path(get, path = "/v1/memories/history", tag = "memories", operation_id = "memory_history",
    responses((status = 200, description = "The changes, oldest first", body = MemoryHistory),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn changes(State(service): State<Service>) -> Result<Json<MemoryHistory>, Problem> {
    with(&service, |memory| history(memory, None)).await.map(Json)
}

/// How the memory is.
#[utoipa::path(get, path = "/v1/memories/stats", tag = "memories", operation_id = "memory_stats",
    responses((status = 200, description = "Counts, scopes, and what was mended", body = MemoryStats),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn counts(State(service): State<Service>) -> Result<Json<MemoryStats>, Problem> {
    with(&service, |memory| Ok(stats(memory))).await.map(Json)
}

/// Look at a note.
#[utoipa::path(get, path = "/v1/memories/{id}", tag = "memories", params(("id" = u64, Path, description = "The note")), operation_id = "get_memory",
    responses((status = 200, description = "The note", body = MemoryNote),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
              (status = 404, description = "There is no such note", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn get(
    State(service): State<Service>,
    Number(id): Number,
) -> Result<Json<MemoryNote>, Problem> {
    with(&service, move |memory| look(memory, id)).await.map(Json)
}

/// What happened to a note.
#[utoipa::path(get, path = "/v1/memories/{id}/history", tag = "memories", params(("id" = u64, Path, description = "The note")), operation_id = "note_history",
    responses((status = 200, description = "The changes, oldest first", body = MemoryHistory),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn changes_of(
    State(service): State<Service>,
    Number(id): Number,
) -> Result<Json<MemoryHistory>, Problem> {
    with(&service, move |memory| history(memory, Some(id))).await.map(Json)
}

/// Accept a note that waits in the review inbox, or that comes from somebody else's text.
#[utoipa::path(post, path = "/v1/memories/{id}/accept", tag = "memories", params(("id" = u64, Path, description = "The note")), operation_id = "accept_memory",
    responses((status = 200, description = "It may be recalled from now on", body = MemoryNote),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
              (status = 404, description = "There is no such note", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn admit(
    State(service): State<Service>,
    Number(id): Number,
) -> Result<Json<MemoryNote>, Problem> {
    with(&service, move |memory| accept(memory, id)).await.map(Json)
}

/// Forget a note. When this is answered no byte of its text is left in the memory's files.
#[utoipa::path(delete, path = "/v1/memories/{id}", tag = "memories", params(("id" = u64, Path, description = "The note")), operation_id = "delete_memory",
    responses((status = 204, description = "It is gone"),
              (status = 400, description = "The number is none", body = ProblemBody, content_type = "application/problem+json"),
              (status = 401, description = "No key, or not the right one", body = ProblemBody, content_type = "application/problem+json"),
              (status = 404, description = "There is no such note", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    State(service): State<Service>,
    Number(id): Number,
) -> Result<StatusCode, Problem> {
    let gone = with(&service, move |memory| Ok(memory.forget(NoteId(id), OWNER)?)).await?;
    if gone { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::no_memory(id)) }
}
