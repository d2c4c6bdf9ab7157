//! What recall must know of every living note without reading it: whose it is, when it was, what has become of it, and
//! which notes lie beside it. It is a fold of the notes and their changes, kept in a file so that opening a store of a million notes
//! does not read them all.
//!
//! ```text
//! file:  "SAGATAB" 1  head's length: u32  head (JSON)  rows of 80 bytes  crc32c of all before: u32
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::rows::Rows;
use crate::change::Change;
use crate::{Kind, Note, NoteId, Query, Standing, Trust};

const MAGIC: &[u8; 8] = b"SAGATAB\x01";
/// Raised when what is kept changes its form or meaning.
const VERSION: u32 = 2;
const ROW_BYTES: usize = 80;

/// One living note.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: u64,
    /// Places in the table's lists of names.
    pub(crate) scope: u32,
    /// 0: it stands alone.
    pub(crate) thread: u32,
    pub(crate) author: u32,
    /// How many words it has of its own.
    pub(crate) words: u32,
    pub(crate) at_ms: u64,
    pub(crate) recorded_ms: u64,
    /// Until when it holds; `u64::MAX` while nothing says that it ended.
    pub(crate) ends_ms: u64,
    /// The note that took its place, or 0.
    pub(crate) superseded_by: u64,
    /// What tells equal texts apart from others.
    pub(crate) hash: u64,
    pub(crate) recalled: u32,
    pub(crate) helped: u32,
    pub(crate) misled: u32,
    pub(crate) kind: Kind,
    pub(crate) trust: Trust,
    pub(crate) proposed: bool,
    pub(crate) accepted: bool,
}

/// All living notes.
#[derive(Default)]
pub(crate) struct Table {
    /// By number.
    rows: Rows,
    /// Scopes and threads, by their place.
    names: Names,
    /// The notes of each thread, in order.
    threads: HashMap<(u32, u32), Vec<u64>>,
    /// The newest note about something: (scope, about).
    about: HashMap<(u32, String), u64>,
    /// Notes by what they say: (scope, kind, hash).
    same: HashMap<(u32, Kind, u64), u64>,
    /// Authors by each word of their names, in lower case.
    authors: HashMap<String, Vec<u32>>,
    known_authors: HashSet<u32>,
    /// The last note and the last change that are in.
    pub(crate) through: u64,
    pub(crate) changes: u64,
}

#[derive(Default)]
struct Names {
    list: Vec<String>,
    places: HashMap<String, u32>,
}

impl Names {
    fn place(&mut self, name: &str) -> u32 {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        // Place 0 is nobody's.
        let place = self.list.len() as u32 + 1;
        self.list.push(name.into());
        self.places.insert(name.into(), place);
        place
    }
}

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    rows: usize,
    names: Vec<String>,
    about: Vec<(u32, String, u64)>,
    through: u64,
    changes: u64,
}

impl Table {
    /// Reads the file. `Err` says why it is of no use.
    pub(crate) fn open(path: &Path) -> Result<Table, String> {
        let bytes = fs::read(path).map_err(|e| e.to_string())?;
        let body = bytes.len().checked_sub(4).ok_or("it is cut off")?;
        if !bytes.starts_with(MAGIC) || crc32c::crc32c(&bytes[..body]).to_le_bytes() != bytes[body..] {
            return Err("it is damaged".into());
        }
        let len = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes")) as usize;
        let head = bytes.get(12..12 + len).ok_or("it is damaged")?;
        let head: Head = serde_json::from_slice(head).map_err(|e| e.to_string())?;
        let rows = &bytes[12 + len..body];
        if head.version != VERSION || rows.len() != head.rows * ROW_BYTES {
            return Err(format!("it is not of version {VERSION}"));
        }
        let mut table = Table { through: head.through, changes: head.changes, ..Table::default() };
        for name in head.names {
            table.names.place(&name);
        }
        for row in rows.chunks_exact(ROW_BYTES) {
            let row = Row::read(row).ok_or("a row is damaged")?;
            table.index(&row);
            table.rows.put(row);
        }
        table.about = head.about.into_iter().map(|(scope, about, id)| ((scope, about), id)).collect();
        Ok(table)
    }

    /// Writes the file anew.
    pub(crate) fn save(&self, path: &Path) -> Result<(), String> {
        let about = self.about.iter().map(|((scope, about), id)| (*scope, about.clone(), *id));
        let head = Head {
            version: VERSION,
            rows: self.rows.len(),
            names: self.names.list.clone(),
            about: about.collect(),
            through: self.through,
            changes: self.changes,
        };
        let head = serde_json::to_vec(&head).expect("numbers and strings serialise");
        let mut bytes = Vec::with_capacity(16 + head.len() + self.rows.len() * ROW_BYTES);
        bytes.extend(MAGIC);
        bytes.extend((head.len() as u32).to_le_bytes());
        bytes.extend(head);
        self.rows.iter().for_each(|row| row.write(&mut bytes));
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        let aside = path.with_extension("aside");
        fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, path)).map_err(|e| e.to_string())
    }

    /// How many notes live.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// All rows, by number.
    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// A note's row.
    pub(crate) fn row(&self, id: u64) -> Option<&Row> {
        self.rows.get(id)
    }

    fn row_mut(&mut self, id: u64) -> Option<&mut Row> {
        self.rows.get_mut(id)
    }

    fn index(&mut self, row: &Row) {
        if row.thread > 0 {
            let thread = self.threads.entry((row.scope, row.thread)).or_default();
            if let Err(at) = thread.binary_search(&row.id) {
                thread.insert(at, row.id);
            }
        }
        if self.known_authors.insert(row.author) {
            let name = self.name(row.author).to_lowercase();
            if !super::ROLES.contains(&name.as_str()) {
                for word in name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
                    self.authors.entry(word.to_string()).or_default().push(row.author);
                }
            }
        }
        if row.kind != Kind::Episode {
            self.same.insert((row.scope, row.kind, row.hash), row.id);
        }
    }

    /// Takes in a note. Notes come in the order of their numbers.
    pub(crate) fn put(&mut self, id: u64, note: &Note, words: u32) {
        self.through = self.through.max(id);
        if self.rows.get(id).is_some() {
            return;
        }
        let scope = self.names.place(&note.scope.term());
        // What was said in one conversation belongs together; what was concluded from it stands alone.
        let thread = match (&note.origin.journal, note.kind) {
            (Some(journal), Kind::Episode) => self.names.place(journal),
            _ => 0,
        };
        let row = Row {
            id,
            scope,
            thread,
            author: self.names.place(&note.origin.author),
            words,
            at_ms: note.at_ms(),
            recorded_ms: note.recorded_ms,
            ends_ms: note.valid_to_ms.unwrap_or(u64::MAX),
            superseded_by: 0,
            hash: hash(&note.text),
            recalled: 0,
            helped: 0,
            misled: 0,
            kind: note.kind,
            trust: note.origin.trust,
            proposed: note.proposed,
            accepted: false,
        };
        self.index(&row);
        self.rows.put(row);
        // What only waits to be accepted, or comes from elsewhere, takes nobody's place; nor does what a model concluded take that of what
        // a person said: else whoever leads a model astray could unsay it.
        let takes_place = !note.proposed && note.origin.trust != Trust::ExternalText;
        let outranked = |table: &Table, old: u64| table.row(old).is_some_and(|old| old.trust < row.trust);
        for old in &note.supersedes {
            if takes_place && !outranked(self, old.0) {
                self.supersede(id, old.0);
            }
        }
        if let Some(about) = note.about.clone().filter(|_| takes_place) {
            let key = (scope, about);
            match self.about.get(&key).copied() {
                Some(old) if outranked(self, old) => {}
                Some(old) => {
                    self.about.insert(key, id);
                    self.supersede(id, old);
                }
                None => drop(self.about.insert(key, id)),
            }
        }
    }

    fn supersede(&mut self, new: u64, old: u64) {
        let same_scope = match (self.row(new), self.row(old)) {
            (Some(new), Some(old)) => new.scope == old.scope,
            _ => false,
        };
        if same_scope
            && new != old
            && let Some(row) = self.row_mut(old)
        {
            row.superseded_by = new;
        }
    }

    /// Takes in a change.
    pub(crate) fn change(&mut self, seq: u64, change: &Change) {
        self.changes = self.changes.max(seq);
        match change {
            Change::Superseded { new, old, .. } => {
                self.supersede(new.0, old.0);
                self.about.values_mut().filter(|holds| **holds == old.0).for_each(|holds| *holds = new.0);
            }
            Change::Ended { id, until_ms, .. } => self.at(*id, |row| row.ends_ms = *until_ms),
            Change::Accepted { id, .. } => self.at(*id, |row| (row.accepted, row.proposed) = (true, false)),
            Change::Withdrawn { ids, .. } => ids.iter().for_each(|id| {
                self.at(*id, |row| (row.accepted, row.proposed) = (false, true));
                self.makes_way(id.0);
            }),
            Change::Recalled { ids, .. } => {
                ids.iter().for_each(|id| self.at(*id, |row| row.recalled = row.recalled.saturating_add(1)));
            }
            Change::Used { ids, well, .. } => ids.iter().for_each(|id| {
                self.at(*id, |row| match well {
                    true => row.helped = row.helped.saturating_add(1),
                    false => row.misled = row.misled.saturating_add(1),
                });
            }),
            Change::Repeated { .. } | Change::Forgotten { .. } => {}
        }
    }

    fn at(&mut self, id: NoteId, change: impl FnOnce(&mut Row)) {
        if let Some(row) = self.row_mut(id.0) {
            change(row);
        }
    }

    /// The note that holds about something.
    pub(crate) fn about(&self, scope: &str, about: &str) -> Option<u64> {
        let scope = *self.names.places.get(scope)?;
        self.about.get(&(scope, about.to_string())).copied()
    }

    /// Takes a note out. What it had taken the place of holds again.
    pub(crate) fn remove(&mut self, id: u64) {
        let Some(row) = self.rows.remove(id) else { return };
        if let Some(thread) = self.threads.get_mut(&(row.scope, row.thread)) {
            thread.retain(|other| *other != id);
        }
        if self.same.get(&(row.scope, row.kind, row.hash)) == Some(&id) {
            self.same.remove(&(row.scope, row.kind, row.hash));
        }
        self.makes_way(id);
    }

    /// What a note had taken the place of holds again.
    fn makes_way(&mut self, id: u64) {
        let before = self.rows.iter().rev().find(|row| row.superseded_by == id).map(|row| row.id);
        for key in self
            .about
            .iter()
            .filter(|(_, holds)| **holds == id)
            .map(|(key, _)| key.clone())
            .collect::<Vec<_>>()
        {
            match before {
                Some(before) => self.about.insert(key, before),
                None => self.about.remove(&key),
            };
        }
        self.rows.change(|row| row.superseded_by == id, |row| row.superseded_by = 0);
    }

    /// The living note that says the same, for kinds of which one is enough.
    pub(crate) fn same(&self, note: &Note) -> Option<u64> {
        let scope = self.names.places.get(&note.scope.term())?;
        self.same.get(&(*scope, note.kind, hash(&note.text))).copied()
    }

    /// Up to `reach` notes before and after this one in its thread, the nearest first.
    pub(crate) fn beside(&self, id: u64, reach: usize) -> (Vec<u64>, Vec<u64>) {
        let thread = self.row(id).and_then(|row| self.threads.get(&(row.scope, row.thread)));
        let Some((thread, at)) = thread.and_then(|thread| Some((thread, thread.binary_search(&id).ok()?)))
        else {
            return (Vec::new(), Vec::new());
        };
        let before = thread[at.saturating_sub(reach)..at].iter().rev().copied().collect();
        let after = thread[at + 1..].iter().take(reach).copied().collect();
        (before, after)
    }

    /// What has become of a note.
    pub(crate) fn standing(&self, id: u64) -> Standing {
        let Some(row) = self.row(id) else { return Standing::default() };
        Standing {
            superseded_by: (row.superseded_by > 0).then_some(NoteId(row.superseded_by)),
            ended_ms: (row.ends_ms < u64::MAX).then_some(row.ends_ms),
            proposed: row.proposed,
            accepted: row.accepted,
            recalled: row.recalled,
            helped: row.helped,
            misled: row.misled,
        }
    }

    /// A name by its place.
    pub(crate) fn name(&self, place: u32) -> &str {
        self.names.list.get((place as usize).wrapping_sub(1)).map_or("", String::as_str)
    }

    /// The authors who have this word, in lower case, in their names.
    pub(crate) fn authors(&self, word: &str) -> &[u32] {
        self.authors.get(word).map_or(&[], Vec::as_slice)
    }

    /// The bounds of a query, ready to be asked of many notes.
    pub(crate) fn gate<'q>(&self, query: &'q Query) -> Gate<'q> {
        let scopes = query.scopes.iter().filter_map(|scope| self.names.places.get(&scope.term()).copied());
        Gate { rows: self.rows.clone(), query, scopes: scopes.collect() }
    }

    /// How many notes each scope has.
    pub(crate) fn scopes(&self) -> BTreeMap<String, u64> {
        let mut scopes = BTreeMap::new();
        for row in self.rows.iter() {
            *scopes.entry(self.names.list[row.scope as usize - 1].clone()).or_default() += 1;
        }
        scopes
    }
}

/// The bounds of a query, and the notes as they were when it was asked: it holds no lock.
pub(crate) struct Gate<'q> {
    rows: Rows,
    query: &'q Query,
    scopes: Vec<u32>,
}

impl Gate<'_> {
    /// All rows.
    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The row of a note that the query may find.
    pub(crate) fn row(&self, id: u64) -> Option<&Row> {
        self.rows.get(id).filter(|row| self.admits(row))
    }

    /// What each note that the query may find weighs.
    pub(crate) fn weights(&self, weigh: impl Fn(&Row) -> f32) -> Weights {
        let mut by_id = vec![0.0; self.rows.end() as usize];
        self.rows.of_scopes(&self.scopes, |row| {
            if self.admits(row) {
                by_id[row.id as usize] = weigh(row);
            }
        });
        Weights { by_id }
    }

    /// Whether the query may find a note.
    pub(crate) fn admits(&self, row: &Row) -> bool {
        let query = self.query;
        self.scopes.contains(&row.scope)
            && !row.proposed
            && (query.kinds.is_empty() || query.kinds.contains(&row.kind))
            && (query.quarantined || row.accepted || row.trust != Trust::ExternalText)
            && query.since_ms.is_none_or(|since| row.at_ms >= since)
            && query.until_ms.is_none_or(|until| row.at_ms < until)
            && query.as_of_ms.is_none_or(|as_of| row.recorded_ms <= as_of)
    }
}

/// What notes weigh in a search, by their numbers. A search asks for nearly every note, and for many twice: an array answers
/// faster than their rows.
pub(crate) struct Weights {
    /// 0: it is not looked for.
    by_id: Vec<f32>,
}

impl Weights {
    /// What a note weighs, if it is looked for.
    pub(crate) fn of(&self, id: u64) -> Option<f32> {
        self.by_id.get(id as usize).copied().filter(|weight| *weight > 0.0)
    }
}

/// What tells texts apart: their words in lower case, whatever lies between them.
fn hash(text: &str) -> u64 {
    let mut digest = Sha256::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        digest.update(word.to_lowercase());
        digest.update([0]);
    }
    u64::from_le_bytes(digest.finalize()[..8].try_into().expect("eight bytes"))
}

const KINDS: [Kind; 9] = [
    Kind::Episode,
    Kind::Fact,
    Kind::Procedure,
    Kind::Failure,
    Kind::Decision,
    Kind::Preference,
    Kind::Convention,
    Kind::CodeLocation,
    Kind::Instruction,
];
const TRUSTS: [Trust; 4] = [Trust::UserSaid, Trust::ToolVerified, Trust::ModelInferred, Trust::ExternalText];

impl Row {
    fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.id.to_le_bytes());
        to.extend(self.at_ms.to_le_bytes());
        to.extend(self.recorded_ms.to_le_bytes());
        to.extend(self.ends_ms.to_le_bytes());
        to.extend(self.superseded_by.to_le_bytes());
        to.extend(self.hash.to_le_bytes());
        for number in
            [self.scope, self.thread, self.recalled, self.helped, self.misled, self.author, self.words]
        {
            to.extend(number.to_le_bytes());
        }
        let place = |at: Option<usize>| at.expect("every kind is in the list") as u8;
        to.push(place(KINDS.iter().position(|kind| *kind == self.kind)));
        to.push(place(TRUSTS.iter().position(|trust| *trust == self.trust)));
        to.push(self.proposed.into());
        to.push(self.accepted.into());
    }

    fn read(bytes: &[u8]) -> Option<Row> {
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Some(Row {
            id: long(0),
            at_ms: long(8),
            recorded_ms: long(16),
            ends_ms: long(24),
            superseded_by: long(32),
            hash: long(40),
            scope: short(48),
            thread: short(52),
            recalled: short(56),
            helped: short(60),
            misled: short(64),
            author: short(68),
            words: short(72),
            kind: *KINDS.get(bytes[76] as usize)?,
            trust: *TRUSTS.get(bytes[77] as usize)?,
            proposed: bytes[78] != 0,
            accepted: bytes[79] != 0,
        })
    }
}
