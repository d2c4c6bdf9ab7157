//! `saga memory`: what is remembered.

mod eval;
mod eval_code;
mod folder;

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use hyper::Method;
use memory::{Memory, moment};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::reach::Server;
use crate::client::Client;
use crate::config::Folders;
use crate::error::Problem;
use crate::failure::Failure;
use crate::host::bytes;
use crate::memories::{
    self, Forgotten, IMPORT_MAX, MemoryForget, MemoryHistory, MemoryImport, MemoryImported, MemoryNote,
    MemoryPage, MemoryQuery, MemoryRollback, MemorySearch, MemorySessions, MemoryStats, NewMemory,
};
use crate::models;
use crate::routes::BODY_BYTES_MAX;
use crate::server::open_memory;
use crate::term::{Ink, Screen, To, clean, one_line, say, table};

#[derive(clap::Subcommand)]
#[command(after_help = "\
Examples:
  saga memory add \"run the tests with `just test`\" --scope repository:saga --about \"test command\"
  saga memory search \"how are the tests run\"
  saga memory list --proposed
  saga memory forget --text hunter2 --dry-run
  saga memory export notes.jsonl
  saga memory eval conversations.jsonl
  saga memory eval-code src/")]
pub(crate) enum Args {
    /// Remember something. What is known already is not written again; secrets are blotted out.
    Add {
        /// What is remembered, in words.
        text: String,
        /// Whose it is: user:NAME, team:NAME, repository:NAME or session:ID.
        #[arg(long, default_value = "user:me")]
        scope: String,
        /// What sort of thing: fact, procedure, failure, decision, preference, convention, code_location, instruction or episode.
        #[arg(long, default_value = "fact")]
        kind: String,
        /// What it says something about: of notes of a scope about the same, the newest holds.
        #[arg(long)]
        about: Option<String>,
        /// A note that it takes the place of; may be given again.
        #[arg(long, value_name = "ID")]
        supersedes: Vec<u64>,
        /// A word to group notes by; may be given again.
        #[arg(long)]
        tag: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Find what fits some words, best first, with the reasons.
    Search {
        /// Words, in no syntax.
        text: String,
        /// Only in this scope; may be given again.
        #[arg(long)]
        scope: Vec<String>,
        /// The most hits.
        #[arg(long, default_value_t = 10)]
        limit: usize,
        /// Only what happened on this day or later.
        #[arg(long, value_name = "DATE")]
        since: Option<String>,
        /// Only what happened before this day.
        #[arg(long, value_name = "DATE")]
        until: Option<String>,
        /// What was known on this day.
        #[arg(long, value_name = "DATE")]
        as_of: Option<String>,
        /// Find the sessions in which it was said, each with what fits best there.
        #[arg(long)]
        sessions: bool,
        #[command(flatten)]
        common: Common,
    },
    /// List what is remembered, in the order it was written down.
    List {
        /// Only this scope.
        #[arg(long)]
        scope: Option<String>,
        /// Only what waits to be reviewed.
        #[arg(long)]
        proposed: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Show a note and what happened to it.
    Show {
        /// Its number.
        id: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Accept a note that waits to be reviewed, or that comes from somebody else's text.
    Accept {
        /// Its number.
        id: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Forget notes: afterwards no byte of them is left in the memory's files.
    Forget {
        /// Their numbers.
        ids: Vec<u64>,
        /// All that have these words, every one of them.
        #[arg(long)]
        text: Option<String>,
        /// All that come from this session.
        #[arg(long)]
        session: Option<String>,
        /// All that this author said.
        #[arg(long)]
        author: Option<String>,
        /// Only show what would be forgotten.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask before.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Take back what was written down since some time: it waits to be reviewed then, and is told to nobody before it is accepted.
    Rollback {
        /// The time, as 2026-01-31 or 2026-01-31T12:30.
        to: String,
        /// Only show what would be taken back.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Show what happened to notes: what was recalled, replaced, accepted and forgotten.
    History {
        /// Only this note.
        id: Option<u64>,
        #[command(flatten)]
        common: Common,
    },
    /// Write what is remembered as lines of JSON, or as a folder of Markdown files.
    Export {
        /// The file; a folder, if it ends with a slash or is one.
        to: PathBuf,
        /// Only this scope.
        #[arg(long)]
        scope: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Remember what was exported, from a file or a folder. What is known already is not written again.
    Import {
        /// The file or the folder.
        from: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Make all indexes of notes anew from the log. No service may be running.
    Rebuild,
    /// Say how much is remembered, whose it is, and whether anything was mended.
    Stats {
        #[command(flatten)]
        common: Common,
    },
    /// Measure how well recall finds: conversations are remembered as sessions would, and questions about them asked.
    ///
    /// Each line of the file is a conversation: {"id","messages":[{"id","session","time","speaker","role","text"}],
    /// "queries":[{"text","evidence":[ids],"supersedes":[[new,old]]}]}.
    Eval {
        /// The file.
        file: PathBuf,
        /// End with one JSON object.
        #[arg(long)]
        json: bool,
        /// Without vectors, as on a machine that has no embedder.
        #[arg(long)]
        words: bool,
    },
    /// Measure how well code search finds: functions of a source tree are looked for by what their documentation says.
    ///
    /// Asked is the first paragraph of a function's documentation, if it has three words or more, no other function has the same, and the
    /// function has a body and is no test. No function's documentation is in the index that is searched.
    EvalCode {
        /// The folder. What its .gitignore leaves out is left out.
        dir: PathBuf,
        /// End with one JSON object.
        #[arg(long)]
        json: bool,
        /// Without vectors, as on a machine that has no embedder.
        #[arg(long)]
        words: bool,
        /// Search among all functions, tests and those without documentation too, not just among those that are asked for.
        #[arg(long)]
        all: bool,
    },
}

/// What all commands that touch the memory take.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let (folders, _) = super::settings()?;
    match args {
        Args::Add { text, scope, kind, about, supersedes, tag, common } => {
            let new = NewMemory {
                text,
                scope,
                kind: Some(kind),
                about,
                supersedes,
                tags: tag,
                ..NewMemory::default()
            };
            let note: MemoryNote = Store::open(&common, &folders).await?.add(new).await?;
            show(&common, &[note]);
        }
        Args::Search { text, scope, limit, since, until, as_of, sessions, common } => {
            let wish = MemorySearch {
                text,
                scopes: scope,
                limit: Some(limit),
                since,
                until,
                as_of,
                ..MemorySearch::default()
            };
            let store = Store::open(&common, &folders).await?;
            if sessions {
                show_sessions(&common, &store.sessions(wish).await?);
                return Ok(0);
            }
            let found = store.search(wish).await?;
            if found.memories.is_empty() && !common.json {
                say(
                    "nothing is remembered that fits; other words may find it, and `saga memory list` shows all there is",
                );
            }
            show(&common, &found.memories);
        }
        Args::List { scope, proposed, common } => {
            let store = Store::open(&common, &folders).await?;
            let notes = store.all(scope, proposed).await?;
            if notes.is_empty() && !common.json {
                say(if proposed {
                    "nothing waits to be reviewed"
                } else {
                    "nothing is remembered yet; `saga memory add` does it"
                });
            }
            show(&common, &notes);
        }
        Args::Show { id, common } => {
            let store = Store::open(&common, &folders).await?;
            let note = store.look(id).await?;
            show(&common, &[note]);
            if !common.json {
                history(&common, &store.history(Some(id)).await?);
            }
        }
        Args::Accept { id, common } => {
            let note = Store::open(&common, &folders).await?.accept(id).await?;
            show(&common, &[note]);
        }
        Args::Forget { ids, text, session, author, dry_run, yes, common } => {
            let wish = MemoryForget { ids, text, session, author, dry_run };
            forget(&common, &folders, wish, yes).await?;
        }
        Args::Rollback { to, dry_run, common } => {
            let store = Store::open(&common, &folders).await?;
            let page = store.rollback(MemoryRollback { to, dry_run }).await?;
            show(&common, &page.memories);
            if !common.json {
                let how = if dry_run { "would wait" } else { "wait" };
                let count = page.memories.len();
                say(&format!("{count} notes {how} to be reviewed; `saga memory accept N` brings one back"));
            }
        }
        Args::History { id, common } => {
            let store = Store::open(&common, &folders).await?;
            history(&common, &store.history(id).await?);
        }
        Args::Export { to, scope, common } => {
            let notes = Store::open(&common, &folders).await?.all(scope, false).await?;
            export(&to, &notes)?;
            say(&format!("{} notes are in {}", notes.len(), to.display()));
        }
        Args::Import { from, common } => {
            let store = Store::open(&common, &folders).await?;
            let new = read(&from)?;
            let screen = Screen::new(To::Stderr);
            let count = new.len();
            let mut done = 0;
            for batch in batches(new) {
                screen.status(&format!("{done} of {count} notes"));
                let size = batch.len();
                store.import(MemoryImport { memories: batch }).await.map_err(|failure| {
                    let kept = format!(
                        "the {done} notes before are remembered, and what is known is not written again"
                    );
                    failure.next(format!("{kept}: mend what is wrong and import the whole once more"))
                })?;
                done += size;
            }
            screen.quiet();
            say(&format!("{count} notes of {} are remembered", from.display()));
        }
        Args::Rebuild => rebuild(&folders).await?,
        Args::Stats { common } => {
            let stats = Store::open(&common, &folders).await?.stats().await?;
            if common.json {
                print(&stats);
            } else {
                say(&stats_in_words(&stats));
            }
        }
        Args::Eval { file, json, words } => return eval::run(&file, json, words, &folders).await,
        Args::EvalCode { dir, json, words, all } => {
            return eval_code::run(&dir, json, words, all, &folders).await;
        }
    }
    Ok(0)
}

/// Where what is remembered is reached.
enum Store {
    Service(Client),
    Memory(Box<Memory>),
}

impl Store {
    async fn open(common: &Common, folders: &Folders) -> Result<Store, Failure> {
        if let Some(client) = common.server.running(folders).await? {
            return Ok(Store::Service(client));
        }
        let memory = open_memory(&folders.memory()).await?;
        // Where there is an embedder it is used, and where there is none words find much.
        if let Some(embedder) = models::embedder_if_there(folders).await {
            memory.embed_with(embedder).map_err(|error| Failure::of(&error))?;
        }
        Ok(Store::Memory(Box::new(memory)))
    }

    async fn ask<B: Serialize + Send + 'static, T: DeserializeOwned + Send + 'static>(
        &self,
        method: Method,
        path: &str,
        body: Option<B>,
        here: impl FnOnce(&Memory, Option<B>) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Failure> {
        match self {
            Store::Service(client) => Ok(client.memories(method, path, body.as_ref()).await?),
            Store::Memory(memory) => {
                let memory = memory.clone();
                let done = tokio::task::spawn_blocking(move || here(&memory, body)).await;
                let done = done.map_err(|error| Failure::new(format!("the memory failed: {error}")))?;
                done.map_err(|problem| Failure::new(problem.detail()))
            }
        }
    }

    async fn add(&self, new: NewMemory) -> Result<MemoryNote, Failure> {
        let here =
            |memory: &Memory, new: Option<NewMemory>| Ok(memories::add(memory, new.unwrap_or_default())?.1);
        self.ask(Method::POST, "", Some(new), here).await
    }

    async fn import(&self, new: MemoryImport) -> Result<MemoryImported, Failure> {
        let here =
            |memory: &Memory, new: Option<MemoryImport>| memories::import(memory, new.unwrap_or_default());
        self.ask(Method::POST, "/import", Some(new), here).await
    }

    async fn search(&self, wish: MemorySearch) -> Result<MemoryPage, Failure> {
        let here =
            |memory: &Memory, wish: Option<MemorySearch>| memories::search(memory, &wish.unwrap_or_default());
        self.ask(Method::POST, "/search", Some(wish), here).await
    }

    async fn sessions(&self, wish: MemorySearch) -> Result<MemorySessions, Failure> {
        let here = |memory: &Memory, wish: Option<MemorySearch>| {
            memories::sessions(memory, &wish.unwrap_or_default())
        };
        self.ask(Method::POST, "/sessions", Some(wish), here).await
    }

    async fn forget(&self, wish: MemoryForget) -> Result<Forgotten, Failure> {
        let here =
            |memory: &Memory, wish: Option<MemoryForget>| memories::forget(memory, &wish.unwrap_or_default());
        self.ask(Method::POST, "/forget", Some(wish), here).await
    }

    async fn rollback(&self, wish: MemoryRollback) -> Result<MemoryPage, Failure> {
        let here = |memory: &Memory, wish: Option<MemoryRollback>| {
            memories::rollback(memory, &wish.unwrap_or_default())
        };
        self.ask(Method::POST, "/rollback", Some(wish), here).await
    }

    async fn look(&self, id: u64) -> Result<MemoryNote, Failure> {
        self.ask(Method::GET, &format!("/{id}"), None::<()>, move |memory, _| memories::look(memory, id))
            .await
    }

    async fn accept(&self, id: u64) -> Result<MemoryNote, Failure> {
        let path = format!("/{id}/accept");
        self.ask(Method::POST, &path, None::<()>, move |memory, _| memories::accept(memory, id)).await
    }

    async fn history(&self, id: Option<u64>) -> Result<MemoryHistory, Failure> {
        let path = id.map_or("/history".to_string(), |id| format!("/{id}/history"));
        self.ask(Method::GET, &path, None::<()>, move |memory, _| memories::history(memory, id)).await
    }

    async fn stats(&self) -> Result<MemoryStats, Failure> {
        self.ask(Method::GET, "/stats", None::<()>, |memory, _| Ok(memories::stats(memory))).await
    }

    async fn all(&self, scope: Option<String>, proposed: bool) -> Result<Vec<MemoryNote>, Failure> {
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let query = MemoryQuery { after, limit: Some(1000), scope: scope.clone(), proposed };
            let scoped = scope.as_ref().map_or(String::new(), |scope| format!("&scope={}", in_url(scope)));
            let path = format!("?after={after}&limit=1000&proposed={proposed}{scoped}");
            let page: MemoryPage = self
                .ask(Method::GET, &path, None::<()>, move |memory, _| memories::list(memory, &query))
                .await?;
            all.extend(page.memories);
            match page.next {
                Some(next) => after = next,
                None => return Ok(all),
            }
        }
    }
}

/// A text as part of a URL.
fn in_url(text: &str) -> String {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if safe(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn print(of: &impl Serialize) {
    say(&serde_json::to_string(of).expect("what is told has only string keys"));
}

/// Shows sessions, each with what fits best of what was said there.
fn show_sessions(common: &Common, found: &MemorySessions) {
    if common.json {
        found.sessions.iter().for_each(print);
        return;
    }
    if found.sessions.is_empty() {
        say(
            "nothing that was said in a session fits; `saga memory search` without --sessions looks among all notes",
        );
    }
    let screen = Screen::new(To::Stdout);
    for hit in &found.sessions {
        let when = format!("n{}, {}, {}", hit.best.id, hit.best.author, moment(hit.best.happened_ms));
        let when = screen.ink(Ink::Dim, &one_line(&when, usize::MAX));
        say(&format!(
            "{:.2}  {}  {when}",
            hit.score,
            screen.ink(Ink::Bold, &one_line(&hit.session, usize::MAX))
        ));
        clean(&hit.best.text).lines().for_each(|line| say(&format!("    {line}")));
    }
}

/// Shows notes, each with what there is to know of it.
fn show(common: &Common, notes: &[MemoryNote]) {
    if common.json {
        notes.iter().for_each(print);
        return;
    }
    let screen = Screen::new(To::Stdout);
    for note in notes {
        let mut head = vec![
            note.kind.clone(),
            note.scope.clone(),
            format!("{}, {}", note.author, moment(note.happened_ms)),
        ];
        head.extend(note.about.as_ref().map(|about| format!("about {about}")));
        head.extend(note.superseded_by.map(|id| format!("replaced by n{id}")));
        head.extend(note.ended_ms.map(|ms| format!("held until {}", moment(ms))));
        if note.trust != "user_said" {
            head.push(note.trust.replace('_', " "));
        }
        if note.proposed {
            head.push("waits to be reviewed".into());
        }
        let score = note.score.map_or(String::new(), |score| format!("{score:.2}  "));
        let head = one_line(&head.join(" · "), usize::MAX);
        say(&format!(
            "{score}{}  {}",
            screen.ink(Ink::Bold, &format!("n{}", note.id)),
            screen.ink(Ink::Dim, &head)
        ));
        clean(&note.text).lines().for_each(|line| say(&format!("    {line}")));
        if let Some(why) = &note.why {
            say(&screen.ink(Ink::Dim, &format!("    because of {}", one_line(why, usize::MAX))));
        }
    }
}

fn history(common: &Common, history: &MemoryHistory) {
    if common.json {
        history.changes.iter().for_each(print);
        return;
    }
    for change in &history.changes {
        let at = change["at_ms"].as_u64().map_or(String::new(), moment);
        let rest = change.as_object().into_iter().flatten();
        let rest = rest.filter(|(key, _)| !["at_ms", "seq", "change"].contains(&key.as_str()));
        let rest: Vec<String> = rest.map(|(key, value)| format!("{key} {value}")).collect();
        let what = change["change"].as_str().unwrap_or("changed");
        say(&one_line(&format!("{at}  {what}  {}", rest.join(", ")), usize::MAX));
    }
}

async fn forget(common: &Common, folders: &Folders, wish: MemoryForget, yes: bool) -> Result<(), Failure> {
    let store = Store::open(common, folders).await?;
    let sure = wish.dry_run || yes || !std::io::stdin().is_terminal();
    let would = store.forget(MemoryForget { dry_run: true, ..wish.clone() }).await?;
    if wish.dry_run || !sure {
        show(common, &would.memories);
    }
    if would.ids.is_empty() {
        say("there is nothing like that to forget");
        return Ok(());
    }
    if wish.dry_run {
        say(&format!("{} notes would be forgotten", would.ids.len()));
        return Ok(());
    }
    if !sure {
        say(&format!("forget these {} notes? Nobody can bring them back. [y/N]", would.ids.len()));
        let mut answer = String::new();
        let _ = std::io::stdin().lock().read_line(&mut answer);
        if !answer.trim().eq_ignore_ascii_case("y") {
            say("nothing was forgotten");
            return Ok(());
        }
    }
    // Just those that were shown.
    let ids = would.ids.clone();
    let gone = store.forget(MemoryForget { ids, ..MemoryForget::default() }).await?;
    if common.json {
        print(&gone);
        return Ok(());
    }
    say(&format!("{} notes are forgotten", gone.ids.len()));
    if !gone.sessions.is_empty() {
        say(&format!(
            "they were drawn from {}; what was said there is in its journal until `saga sessions delete`",
            gone.sessions.join(", ")
        ));
    }
    Ok(())
}

fn export(to: &Path, notes: &[MemoryNote]) -> Result<(), Failure> {
    if to.is_dir() || to.as_os_str().to_string_lossy().ends_with('/') {
        return folder::write(to, notes);
    }
    let mut text = String::new();
    for note in notes {
        text += &serde_json::to_string(note).expect("a note has only string keys");
        text.push('\n');
    }
    std::fs::write(to, text).map_err(|error| Failure::unwritable(to, &error))
}

fn read(from: &Path) -> Result<Vec<NewMemory>, Failure> {
    if from.is_dir() {
        return folder::read(from);
    }
    let text = std::fs::read_to_string(from)
        .map_err(|error| Failure::new(format!("{} cannot be read: {error}", from.display())))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parsed = lines.map(|(n, line)| {
        let note: MemoryNote = serde_json::from_str(line).map_err(|error| {
            Failure::new(format!("line {} of {} is no note: {error}", n + 1, from.display()))
                .next("`saga memory export` shows the form")
        })?;
        Ok(as_new(note))
    });
    parsed.collect()
}

/// Notes in parts that a request may bring.
fn batches(notes: Vec<NewMemory>) -> Vec<Vec<NewMemory>> {
    let mut batches: Vec<Vec<NewMemory>> = Vec::new();
    let mut bytes = 0;
    for note in notes {
        let size = serde_json::to_vec(&note).map_or(0, |json| json.len());
        bytes += size;
        match batches.last_mut() {
            Some(batch) if batch.len() < IMPORT_MAX && bytes <= BODY_BYTES_MAX / 2 => batch.push(note),
            _ => {
                bytes = size;
                batches.push(vec![note]);
            }
        }
    }
    batches
}

/// A note as it is remembered again: numbers are the store's, and so are links between them.
fn as_new(note: MemoryNote) -> NewMemory {
    NewMemory {
        text: note.text,
        kind: Some(note.kind),
        scope: note.scope,
        author: Some(note.author),
        trust: Some(note.trust),
        about: note.about,
        session: note.session,
        supersedes: Vec::new(),
        tags: note.tags,
        happened: Some(note.happened_ms.to_string()),
        proposed: note.proposed,
    }
}

async fn rebuild(folders: &Folders) -> Result<(), Failure> {
    let dir = folders.memory();
    // Opened first, so that nobody else has it.
    drop(open_memory(&dir).await?);
    let work = move || {
        let index = dir.join("index");
        std::fs::remove_dir_all(&index).map_err(|error| Failure::unwritable(&index, &error))?;
        let screen = Screen::new(To::Stderr);
        let begun = std::time::Instant::now();
        let opened =
            Memory::open_telling(&dir, &mut |done, total| screen.status(&format!("{done} of {total} notes")));
        screen.quiet();
        let memory = opened.map_err(|error| Failure::of(&error))?;
        Ok::<_, Failure>((memory.health(), begun.elapsed()))
    };
    let done = tokio::task::spawn_blocking(work).await;
    let (health, took) = done.map_err(|error| Failure::new(format!("the rebuild failed: {error}")))??;
    say(&format!(
        "the indexes of {} notes and {} journals were made anew in {took:.1?}",
        health.notes, health.journals
    ));
    health.damaged.iter().for_each(|damage| say(&format!("damaged: {damage}")));
    Ok(())
}

fn stats_in_words(stats: &MemoryStats) -> String {
    let rows: Vec<Vec<String>> =
        stats.scopes.iter().map(|(scope, count)| vec![scope.clone(), count.to_string()]).collect();
    let mut text = format!(
        "{} notes, {} of them with vectors, {} waiting for them; the log has {}",
        stats.notes,
        stats.embedded,
        stats.waiting,
        bytes(stats.log_bytes)
    );
    if !rows.is_empty() {
        text += &format!("\n{}", table(&["scope", "notes"], &rows));
    }
    stats.rebuilt.iter().for_each(|reason| text += &format!("\nmade anew: {reason}"));
    stats.damaged.iter().for_each(|damage| text += &format!("\ndamaged: {damage}"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_cut_into_parts_that_a_request_may_bring() {
        // A store of a hundred thousand notes is moved in minutes, and no part of it is refused for its size.
        let note = |bytes: usize| NewMemory {
            // A control character takes six bytes in JSON.
            text: "\u{1}".repeat(bytes),
            scope: "user:ada".into(),
            ..NewMemory::default()
        };
        let sizes = |notes: Vec<NewMemory>| {
            let batches = batches(notes);
            for batch in &batches {
                let body = serde_json::to_vec(&MemoryImport { memories: batch.clone() }).expect("it is JSON");
                assert!(body.len() <= BODY_BYTES_MAX && batch.len() <= IMPORT_MAX, "{}", body.len());
            }
            batches.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(vec![note(1); 2 * IMPORT_MAX + 1]), [IMPORT_MAX, IMPORT_MAX, 1]);
        assert_eq!(sizes(vec![note(64 * 1024); 5]), [2, 2, 1]);
        assert!(sizes(Vec::new()).is_empty());
    }
}
