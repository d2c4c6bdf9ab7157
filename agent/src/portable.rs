//! A session as one file: its events and, where wanted, what its workspace held at its checkpoints.
//!
//! The file is compressed (gzip) lines of JSON. The first names the session, then comes a line for each event as the API sends it, then a
//! line for each piece of content that checkpoints are made of, and a last one that says how many lines there were. Every line but the
//! first carries a checksum of itself and all lines before it, so that damage is found in the line where it is.
//!
//! ```text
//! {"saga_session":1,"saga":"0.1.0","id":"s-…","exported_ms":1795000000000,"events":2,"pieces":1,"masked":false}
//! {"sum":"0c1d…","event":{"seq":1,"at_ms":1795000000001,"type":"created",…}}
//! {"sum":"77a0…","event":{"seq":2,"at_ms":1795000000002,"type":"input",…}}
//! {"sum":"e21b…","piece":{"name":"9f86…","base64":"dGVzdA=="}}
//! {"sum":"41f3…","end":4}
//! ```
//!
//! Secrets are blotted out unless they are asked for (`mask.rs`). What commands printed beyond what a model is shown ends with the session's
//! sandbox and is not in the file.

mod lines;
mod mask;

use std::io::{Read, Write};
use std::path::PathBuf;

use memory::{Journal, Memory};
use serde::{Deserialize, Serialize};
use tools::checkpoint::{Cargo, Checkpoints, Tree};

use crate::Error;
use crate::agent::{encode, read_journal};
use crate::event::{Created, Event, Recorded, SessionId};
use crate::state::State;

use lines::{Lines, Reader};
use mask::Masks;

/// The version of the form.
const FORM: u32 = 1;
/// What the checkpoints of one session may hold. Bytes. A repository with its history fits; a data set does not.
const PIECES_BYTES_MAX: u64 = 1 << 30;
/// Events that are written to a journal together.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 8 << 20;
/// The keys of the first and of the last record of a journal that came in a file: one that has the first and not the last was cut off.
const BEGUN: &str = "import";
const DONE: &str = "imported";

/// What a file is to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Export {
    /// What the workspace held at the session's checkpoints, too.
    pub workspace: bool,
    /// Everything as it is, with the secrets in it.
    pub secrets: bool,
}

/// The first line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Title {
    /// The version of the form.
    pub saga_session: u32,
    /// The version of the program that wrote it.
    pub saga: String,
    /// What the session was called there.
    pub id: SessionId,
    /// Milliseconds since 1970.
    pub exported_ms: u64,
    /// How many events there are …
    pub events: u64,
    /// … and how many pieces of content.
    pub pieces: u64,
    /// Whether secrets were blotted out: such a session can be read and gone on with, but its prompts are not what they were, because
    /// its replies are told by their text and not by their tokens.
    pub masked: bool,
}

/// Writes a session as a file. Blocking.
///
/// # Errors
/// [`Error::NoSession`]; [`Error::NotExported`] when the file cannot be written.
pub fn export(
    memory: &Memory,
    checkpoints: Option<&Checkpoints>,
    id: &SessionId,
    wish: Export,
    now_ms: u64,
    to: &mut dyn Write,
) -> Result<Title, Error> {
    let mut events = journal(memory, id)?;
    let mut masked = false;
    // That it was imported is news to nobody while nothing has happened since.
    while let Some(Event::Imported { masked: before, .. }) = events.last().map(|last| &last.event) {
        masked |= *before;
        events.pop();
    }
    masked |= events.iter().any(|event| matches!(event.event, Event::Imported { masked: true, .. }));
    let trees = trees(&events);
    let plain = |text: &str| text.to_string();
    let carried = |mask: &dyn Fn(&str) -> String| match checkpoints.filter(|_| wish.workspace) {
        Some(checkpoints) => {
            Ok::<_, Error>(Some((checkpoints, checkpoints.load(&trees, mask, PIECES_BYTES_MAX)?)))
        }
        None => Ok(None),
    };
    let mut masks = Masks::default();
    if !wish.secrets {
        events.iter().for_each(|event| masks.look_at(&value(event)));
        if let Some((checkpoints, cargo)) = carried(&plain)? {
            let found = std::cell::RefCell::new(&mut masks);
            checkpoints.unload(&cargo, &plain, &mut |_, content| {
                if let Ok(text) = std::str::from_utf8(content) {
                    found.borrow_mut().look_in(text);
                }
                Ok::<_, Error>(())
            })?;
        }
    }
    masked |= !masks.is_empty();
    let mask = |text: &str| masks.mask(text);
    let cargo = carried(&mask)?;
    let title = Title {
        saga_session: FORM,
        saga: env!("CARGO_PKG_VERSION").to_string(),
        id: id.clone(),
        exported_ms: now_ms,
        events: events.len() as u64,
        pieces: cargo.as_ref().map_or(0, |(_, cargo)| cargo.len() as u64),
        masked,
    };
    let mut lines = Lines::begin(to, &title)?;
    for recorded in events {
        let mut event = value(&recorded);
        if !masks.is_empty() {
            masks.apply(&mut event);
        }
        if let Some((_, cargo)) = &cargo {
            rename(&mut event, cargo);
        }
        lines.event(&event)?;
    }
    if let Some((checkpoints, cargo)) = &cargo {
        checkpoints.unload(cargo, &mask, &mut |name, content| lines.piece(name, content))?;
    }
    lines.end()?;
    Ok(title)
}

/// A session that has come in a file and is not there yet.
pub struct Arrival {
    /// What it will be called.
    pub id: SessionId,
    /// As it will be.
    pub created: Created,
    /// What its workspace held last, if the file tells.
    pub tree: Option<Tree>,
    /// The file's first line.
    pub title: Title,
    memory: Memory,
    journal: Journal,
    checkpoints: Option<Checkpoints>,
}

/// Reads a session from a file, under a new id. Every line is checked. Nothing of it runs, and it is not there before
/// [`Arrival::finish`]; on any error nothing of it is left. `settle` says what becomes of what it was made with. Blocking.
///
/// # Errors
/// [`Error::NotImported`] with the line where the file is damaged, and what `settle` fails with.
pub fn import(
    memory: &Memory,
    checkpoints: Option<&Checkpoints>,
    id: &SessionId,
    from: &mut dyn Read,
    settle: &mut dyn FnMut(&mut Created) -> Result<(), Error>,
) -> Result<Arrival, Error> {
    let mut reader = Reader::begin(from)?;
    let title = reader.title().clone();
    let first = reader.event(1)?;
    let Event::Created(mut created) = first.event else {
        return Err(reader.bad("the first event does not make a session"));
    };
    settle(&mut created)?;
    let name = id.as_str();
    let journal = memory.journal(name)?;
    // One that is there is not written to.
    if journal.last().is_some() {
        return Err(Error::Exists(id.clone()));
    }
    journal.append_once(BEGUN, &encode(first.at_ms, &Event::Created(created.clone())))?;
    let mut arrival = Arrival {
        id: id.clone(),
        created: *created,
        tree: None,
        title,
        memory: memory.clone(),
        journal,
        checkpoints: checkpoints.cloned(),
    };
    match arrival.read(&mut reader) {
        Ok(()) => Ok(arrival),
        Err(error) => {
            arrival.abandon()?;
            Err(error)
        }
    }
}

impl Arrival {
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let mut trees = Vec::new();
        let mut batch: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        for seq in 2..=self.title.events {
            let recorded = reader.event(seq)?;
            match &recorded.event {
                Event::Created(_) => return Err(reader.bad("a session is made only once")),
                Event::Checkpoint { tree: Some(tree), .. } => trees.push(*tree),
                _ => {}
            }
            let record = encode(recorded.at_ms, &recorded.event);
            bytes += record.len();
            batch.push(record);
            if batch.len() == BATCH || bytes > BATCH_BYTES {
                self.append(&mut batch)?;
                bytes = 0;
            }
        }
        self.append(&mut batch)?;
        for _ in 0..self.title.pieces {
            let (name, content) = reader.piece()?;
            // Without a place for them they are only checked.
            if let Some(checkpoints) = &self.checkpoints {
                checkpoints.take_in(&name, &content).map_err(|error| reader.bad(&error.to_string()))?;
            }
        }
        reader.end()?;
        if let Some(checkpoints) = self.checkpoints.as_ref().filter(|_| self.title.pieces > 0) {
            // A file need not have all that the events name: the oldest are let go of when there is no room.
            let mut whole = Vec::new();
            for tree in trees {
                if checkpoints.settle(self.id.as_str(), &[tree]).is_ok() {
                    whole.push(tree);
                }
            }
            self.tree = whole.last().copied();
        }
        Ok(())
    }

    fn append(&mut self, batch: &mut Vec<Vec<u8>>) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let records: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
        self.journal.append_all(&records)?;
        batch.clear();
        Ok(())
    }

    /// Makes it there. It rests: what was under way is not gone on with. Blocking.
    ///
    /// # Errors
    /// When it cannot be written; then nothing of it is left.
    pub fn finish(self, now_ms: u64) -> Result<SessionId, Error> {
        let Title { id: from, masked, .. } = &self.title;
        let event = Event::Imported { from: from.clone(), masked: *masked };
        match self.journal.append_once(DONE, &encode(now_ms, &event)) {
            Ok(_) => Ok(self.id),
            Err(error) => {
                self.abandon()?;
                Err(error.into())
            }
        }
    }

    /// Leaves nothing of it. Blocking.
    ///
    /// # Errors
    /// When the memory cannot be written; what is left is removed at the next start.
    pub fn abandon(&self) -> Result<(), Error> {
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.forget(self.id.as_str())?;
        }
        Ok(self.memory.delete_journal(self.id.as_str())?)
    }
}

/// Removes what is left of a session whose import was cut off by a crash; says whether it was one.
pub(crate) fn sweep(memory: &Memory, id: &SessionId) -> Result<bool, Error> {
    let cut_off = cut_off(memory, id)?;
    if cut_off {
        memory.delete_journal(id.as_str())?;
    }
    Ok(cut_off)
}

/// Whether a journal is what is left of an import that was cut off.
///
/// # Errors
/// When the memory cannot be read.
pub fn cut_off(memory: &Memory, id: &SessionId) -> Result<bool, Error> {
    let journal = memory.journal(id.as_str())?;
    Ok(journal.find(BEGUN)?.is_some() && journal.find(DONE)?.is_none())
}

/// The folder that an imported session works in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The one that it worked in.
    Same,
    /// Another one, as it is.
    In(PathBuf),
    /// One that is empty or not there: it gets the files that the workspace held last.
    Into(PathBuf),
}

/// Has a session work in another folder, which is told to its model as if it had always been that.
pub(crate) fn move_to(created: &mut Created, folder: PathBuf) {
    let (old, new) = (created.workspace.display().to_string(), folder.display().to_string());
    created.system = created.system.replace(&old, &new);
    created.workspace = folder;
}

fn journal(memory: &Memory, id: &SessionId) -> Result<Vec<Recorded>, Error> {
    // Asking for a journal would make it.
    if !memory.journals()?.iter().any(|journal| journal.name == id.as_str()) {
        return Err(Error::NoSession(id.clone()));
    }
    let events = read_journal(memory, id)?;
    match State::fold(&events).created() {
        Some(_) => Ok(events),
        None => Err(Error::NoSession(id.clone())),
    }
}

fn value(recorded: &Recorded) -> serde_json::Value {
    serde_json::to_value(recorded).expect("an event has only string keys and finite numbers")
}

/// What the workspace held, each once.
fn trees(events: &[Recorded]) -> Vec<Tree> {
    let mut trees: Vec<Tree> = events
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::Checkpoint { tree, .. } => *tree,
            _ => None,
        })
        .collect();
    trees.sort_unstable();
    trees.dedup();
    trees
}

/// Calls checkpoints by the names that they have with their secrets blotted out.
fn rename(event: &mut serde_json::Value, cargo: &Cargo) {
    let Some(named) = event.get_mut("tree") else { return };
    let there =
        named.as_str().and_then(|name| name.parse::<Tree>().ok()).and_then(|tree| cargo.names.get(&tree));
    if let Some(there) = there {
        *named = there.to_string().into();
    }
}
