//! Code search as a session's model uses it: the files of the workspace, read inside the sandbox, in an index of the memory.
//!
//! A search brings the index level first. What is new is found by its words at once; its vectors are made beside other work.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use memory::code::{CodeHit, CodeIndex, CodeQuery, Commit};
use memory::{Digest, Memory};
use serde_json::json;
use tokio::sync::Mutex;
use tools::outline::{Kind, Outline, chunks};
use tools::sources::{Source, Stamp, is_aside};
use tools::{Call, Command, Ended, Outcome, Reach, Replay, Sandbox, Spec};

use crate::Error;
use crate::agent::blocking;
use crate::known::relative;
use crate::notebook::text_of;

const SEARCH: &str = "search_code";
/// Places that an answer holds, and what of each is shown. Lines.
const HITS: usize = 10;
const SHOWN_LINES: usize = 6;
const LINE_CHARS: usize = 160;
/// The largest file that a place is shown of. Bytes.
const FILE_BYTES: u64 = 1 << 20;
/// Commits that are asked for at once: what a command prints has a cap.
const PAGE_COMMITS: usize = 40;
/// How they are printed. What a command prints has no control characters left, so the marks are their pictures.
const COMMIT_FORMAT: &str = "--format=␞%H␟%ct␟%B␟";
const COMMIT_MARK: char = '␞';
const FIELD_MARK: char = '␟';
/// The most commits that are taken in by one search, and the most files of one that are looked at.
const COMMITS_MAX: usize = 2_000;
const COMMIT_FILES_MAX: usize = 40;
/// How long the sandbox may take to tell of commits.
const LOG_WALL: Duration = Duration::from_secs(20);
/// Pause between batches of vectors, so that a model that thinks meanwhile has most of the machine.
const PAUSE: Duration = Duration::from_millis(200);

/// The tool a model has for it.
pub(crate) fn spec() -> Spec {
    Spec {
        name: SEARCH.to_string(),
        description: include_str!("prompts/search_code.md").trim().to_string(),
        parameters: json!({
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "what the code does, in words"},
                "path": {"type": "string", "description": "only below this folder"},
            },
            "required": ["query"],
            "additionalProperties": false,
        }),
        replay: Replay::Safe,
        bounds: Vec::new(),
        reach: Reach::Workspace,
    }
}

/// Whether a tool is this one.
pub(crate) fn has(tool: &str) -> bool {
    tool == SEARCH
}

/// The code of all workspaces that sessions of one memory work in.
pub struct Code {
    memory: Memory,
    repositories: std::sync::Mutex<BTreeMap<PathBuf, Arc<Mutex<Option<Repository>>>>>,
}

/// What is known of one workspace.
#[derive(Debug)]
struct Repository {
    index: CodeIndex,
    /// By what the files were known when they were read, and what they held.
    files: HashMap<String, (Stamp, Digest)>,
    /// The newest commit that is in.
    head: Option<String>,
    /// Whether vectors are being made.
    embedding: bool,
}

impl Code {
    /// The code of workspaces, in indexes among those of a memory.
    pub fn new(memory: Memory) -> Code {
        Code { memory, repositories: std::sync::Mutex::default() }
    }

    /// Answers a call of `search_code` from the files as they are now.
    ///
    /// # Errors
    /// When the sandbox failed or the index cannot be read or written.
    pub async fn search(&self, sandbox: &Arc<Sandbox>, call: &Call) -> Result<Outcome, Error> {
        let Some(text) = text_of(&call.arguments, &["query", "text", "q"]) else {
            return Ok(Outcome::refused("\"query\" is missing: say in words what the code does"));
        };
        let workspace = PathBuf::from(sandbox.workspace());
        let below = match text_of(&call.arguments, &["path", "below"]) {
            Some(path) => relative(&workspace, path.trim_end_matches('/')),
            None => String::new(),
        };
        let below = if below == "." { String::new() } else { below };
        let place = {
            let mut places = self.repositories.lock().unwrap_or_else(PoisonError::into_inner);
            places.entry(workspace).or_default().clone()
        };
        let query = CodeQuery { text: text.to_string(), below: folder(&below), limit: HITS };
        // A task of its own: an index that nobody waits for any more is brought to a good end all the same.
        let found = tokio::spawn(find(self.memory.clone(), place, sandbox.clone(), query)).await;
        let hits = found.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Stopping),
        })?;
        told(&hits, sandbox).await
    }
}

/// What fits a question, with the index brought level first.
async fn find(
    memory: Memory,
    place: Arc<Mutex<Option<Repository>>>,
    sandbox: Arc<Sandbox>,
    query: CodeQuery,
) -> Result<Vec<CodeHit>, Error> {
    let mut kept = place.clone().lock_owned().await;
    // After an error nothing is left here, and the next search opens it again.
    let repository = match kept.take() {
        Some(repository) => repository,
        None => {
            let name = sandbox.workspace().to_string();
            let index = blocking(move || Ok(memory.code(&name)?)).await?;
            Repository { index, files: HashMap::new(), head: None, embedding: false }
        }
    };
    let repository = repository.level(&sandbox).await?.take_in_commits(&sandbox).await?;
    let (mut repository, hits) = blocking(move || {
        let hits = repository.index.search(&query)?;
        Ok((repository, hits))
    })
    .await?;
    if !repository.embedding {
        repository.embedding = true;
        tokio::task::spawn_blocking(move || embed(&place));
    }
    *kept = Some(repository);
    Ok(hits)
}

/// A folder as the index compares paths with it.
fn folder(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}/") }
}

impl Repository {
    /// Brings it level with the workspace.
    async fn level(mut self, sandbox: &Sandbox) -> Result<Repository, Error> {
        let mut read: HashMap<String, (Stamp, Digest, Source)> = HashMap::new();
        let mut take = |source: Source| {
            let digest = Digest::of(source.text.as_bytes());
            read.insert(source.path.clone(), (source.stamp, digest, source));
        };
        let known = |path: &str| self.files.get(path).map(|(stamp, _)| *stamp);
        let surveyed = sandbox.sources(known, true, &mut take).await?;
        blocking(move || {
            let mut now = Vec::with_capacity(surveyed.files.len());
            let mut files = HashMap::with_capacity(surveyed.files.len());
            for (path, _) in surveyed.files {
                let known = read.get(&path).map(|(stamp, digest, _)| (*stamp, *digest));
                // What could not be read is not there.
                let Some(known) = known.or_else(|| self.files.get(&path).copied()) else { continue };
                now.push((path.clone(), known.1));
                files.insert(path, known);
            }
            let mut missing = BTreeSet::new();
            self.index.update(&now, &mut |path| match read.get(path) {
                Some((_, _, source)) => {
                    let chunks = chunks_of(path, &source.outline, &source.text);
                    chunks.into_iter().map(|(_, chunk)| chunk).collect()
                }
                None => {
                    missing.insert(path.to_string());
                    Vec::new()
                }
            })?;
            if !missing.is_empty() {
                // The index has lost what it knew of them. They are read again by the next search.
                now.retain(|(path, _)| !missing.contains(path));
                files.retain(|path, _| !missing.contains(path));
                self.index.update(&now, &mut |_| Vec::new())?;
            }
            self.files = files;
            Ok(self)
        })
        .await
    }

    /// Takes in the commits since the last that is known. A folder without a repository has none.
    async fn take_in_commits(mut self, sandbox: &Sandbox) -> Result<Repository, Error> {
        let Printed::Text(head) = git(sandbox, &["rev-parse", "--verify", "-q", "HEAD"]).await? else {
            return Ok(self);
        };
        let head = head.trim().to_string();
        if self.head.as_deref() == Some(head.as_str()) {
            return Ok(self);
        }
        let range = match &self.head {
            Some(known) => format!("{known}..{head}"),
            None => head.clone(),
        };
        let mut commits: Vec<Commit> = Vec::new();
        let (mut skip, mut page) = (0, PAGE_COMMITS);
        while skip < COMMITS_MAX {
            let (count, from) = (format!("-n{page}"), format!("--skip={skip}"));
            let asked = [
                "log",
                "--no-color",
                "--no-renames",
                "--no-show-signature",
                "--name-only",
                &count,
                &from,
                COMMIT_FORMAT,
                &range,
                "--",
            ];
            let text = match git(sandbox, &asked).await? {
                Printed::Text(text) => text,
                Printed::TooMuch if page > 1 => {
                    page = (page / 4).max(1);
                    continue;
                }
                // One that touches thousands of files says little about each.
                Printed::TooMuch => {
                    skip += 1;
                    continue;
                }
                Printed::Failed => break,
            };
            let told: Vec<Commit> = text.split(COMMIT_MARK).filter_map(commit).collect();
            if told.is_empty() {
                break;
            }
            skip += page;
            page = PAGE_COMMITS;
            commits.extend(told);
        }
        blocking(move || {
            self.index.add_commits(commits)?;
            self.head = Some(head);
            Ok(self)
        })
        .await
    }
}

/// What a command printed.
enum Printed {
    Text(String),
    TooMuch,
    Failed,
}

/// Runs git inside the sandbox, where the settings of a repository can do no harm.
async fn git(sandbox: &Sandbox, arguments: &[&str]) -> Result<Printed, Error> {
    let mut command = Command::new(std::iter::once("git").chain(arguments.iter().copied()));
    command.timeout = Some(LOG_WALL);
    let ran = sandbox.run(command).await?;
    Ok(match ran.ended {
        Ended::Exited(0) if ran.truncated => Printed::TooMuch,
        Ended::Exited(0) => Printed::Text(ran.output),
        Ended::Exited(_)
        | Ended::Signalled(_)
        | Ended::TimedOut(_)
        | Ended::Flooded
        | Ended::WorkspaceFull
        | Ended::OutOfMemory
        | Ended::NotStarted(_) => Printed::Failed,
    })
}

/// A commit as it was printed.
fn commit(text: &str) -> Option<Commit> {
    let mut parts = text.splitn(4, FIELD_MARK);
    let (id, at, message, paths) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let seconds: u64 = at.trim().parse().ok()?;
    let paths = paths.lines().map(str::trim).filter(|path| !path.is_empty());
    Some(Commit {
        id: id.trim().to_string(),
        at_ms: seconds.saturating_mul(1000),
        message: message.trim().to_string(),
        paths: paths.take(COMMIT_FILES_MAX).map(str::to_string).collect(),
    })
}

/// Makes the vectors that are missing, a batch at a time. Ends when all are there.
fn embed(place: &Mutex<Option<Repository>>) {
    loop {
        let mut kept = place.blocking_lock();
        let Some(repository) = kept.as_mut() else { return };
        let mut left = 0;
        let mut tell = |done: usize, total: usize| {
            left = total - done;
            ControlFlow::Break(())
        };
        if let Err(error) = repository.index.embed(&mut tell) {
            // Found by its words all the same.
            tracing::warn!(%error, "source files could not be embedded");
            left = 0;
        }
        if left == 0 {
            repository.embedding = false;
            return;
        }
        drop(kept);
        std::thread::sleep(PAUSE);
    }
}

/// What was found, as the model reads it.
async fn told(hits: &[CodeHit], sandbox: &Sandbox) -> Result<Outcome, Error> {
    if hits.is_empty() {
        let nothing = "No code of the workspace fits. Use other words, or grep for text.";
        return Ok(Outcome { ok: true, ..Outcome::refused(nothing) });
    }
    let mut text = String::new();
    for hit in hits {
        let name: Vec<&str> =
            hit.containers.iter().map(String::as_str).chain([hit.symbol.as_str()]).collect();
        let name = name.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join("::");
        let (first, last) = hit.lines;
        let _ = write!(text, "{}:{first}-{last}", hit.path);
        if !name.is_empty() {
            let _ = write!(text, " {name}");
        }
        text.push('\n');
        let Some(file) = sandbox.text(&hit.path, FILE_BYTES).await? else { continue };
        let many = (last.saturating_sub(first) as usize + 1).min(SHOWN_LINES);
        let lines = file.lines().skip(first.saturating_sub(1) as usize).take(many);
        for line in lines {
            let shown: String =
                line.chars().filter(|c| !c.is_control() || *c == '\t').take(LINE_CHARS).collect();
            let _ = writeln!(text, "    {shown}");
        }
    }
    let count = match hits.len() {
        1 => "1 place".to_string(),
        n => format!("{n} places"),
    };
    let text = text.trim_end().to_string();
    Ok(Outcome { ok: true, bytes_total: text.len() as u64, summary: count, ..Outcome::refused(text) })
}

/// The chunks of a file, each with the place of its definition among the symbols.
pub fn chunks_of(path: &str, outline: &Outline, text: &str) -> Vec<(Option<usize>, memory::code::Chunk)> {
    let aside = is_aside(path);
    let head = first_paragraph(&outline.doc);
    let whole = |chunk: tools::outline::Chunk| {
        let Some(symbol) = chunk.symbol.map(|n| &outline.symbols[n]) else {
            let (text, lines) = (chunk.text, chunk.lines);
            let context = head.to_owned();
            return (
                None,
                memory::code::Chunk { context, text, lines, test: aside, ..memory::code::Chunk::default() },
            );
        };
        let mut containers = symbol.containers.clone();
        containers.extend(symbol.implements.clone());
        // What is said of the types and modules around it.
        let around = outline.symbols.iter().filter(|outer| match outer.kind {
            Kind::Function | Kind::Method | Kind::Constant | Kind::Macro => false,
            Kind::Class | Kind::Struct | Kind::Enum | Kind::Trait | Kind::Type | Kind::Module => {
                symbol.containers.contains(&outer.name)
            }
        });
        let around = around.map(|outer| first_paragraph(&outer.doc));
        let found = memory::code::Chunk {
            symbol: symbol.name.clone(),
            context: std::iter::once(head).chain(around).collect::<Vec<_>>().join(" "),
            containers,
            signature: symbol.signature.clone(),
            doc: symbol.doc.clone(),
            text: chunk.text,
            lines: chunk.lines,
            test: symbol.test || aside,
            implements: symbol.implements.is_some(),
        };
        (chunk.symbol, found)
    };
    chunks(outline, text).into_iter().map(whole).collect()
}

fn first_paragraph(doc: &str) -> &str {
    doc.split("\n\n").next().unwrap_or_default()
}
