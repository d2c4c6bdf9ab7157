//! What happens to notes after they were written down. A note itself is never edited: changes are records of a journal of
//! their own, and what a note's standing is now is their fold.

use serde::{Deserialize, Serialize};

use crate::memory::{Miss, Shared};
use crate::{Error, Memory, NoteId, Seq};

/// The journal of changes. Journals whose names begin with `_` are the store's own.
pub(crate) const JOURNAL: &str = "_notes";
/// Changes read together.
const PAGE: u64 = 4096;

/// Something that happened to notes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// One note took the place of another.
    Superseded {
        /// What holds now.
        new: NoteId,
        /// What held before.
        old: NoteId,
        /// Who says so.
        by: String,
    },
    /// A note holds no longer.
    Ended {
        /// The note.
        id: NoteId,
        /// Until when it held, in milliseconds since 1970.
        until_ms: u64,
        /// Who says so.
        by: String,
    },
    /// Somebody who may has accepted a proposal, or a note from external text.
    Accepted {
        /// The note.
        id: NoteId,
        /// Who.
        by: String,
    },
    /// Notes were taken back: they wait in the review inbox again, and what they had taken the place of holds as before.
    Withdrawn {
        /// The notes.
        ids: Vec<NoteId>,
        /// Who wanted it.
        by: String,
    },
    /// Notes were recalled and shown.
    Recalled {
        /// The notes, best first.
        ids: Vec<NoteId>,
        /// To whom.
        by: String,
    },
    /// What was done with recalled notes went well, or did not.
    Used {
        /// The notes.
        ids: Vec<NoteId>,
        /// Whether it went well.
        well: bool,
        /// Who says so.
        by: String,
    },
    /// The same was to be remembered once more.
    Repeated {
        /// The note that was there already.
        id: NoteId,
        /// Who wanted to.
        by: String,
    },
    /// Notes were forgotten. What they said is not told.
    Forgotten {
        /// The notes.
        ids: Vec<NoteId>,
        /// Who wanted it.
        by: String,
    },
}

impl Change {
    /// The notes it is about.
    pub fn ids(&self) -> Vec<NoteId> {
        match self {
            Change::Superseded { new, old, .. } => vec![*new, *old],
            Change::Ended { id, .. } | Change::Accepted { id, .. } | Change::Repeated { id, .. } => vec![*id],
            Change::Withdrawn { ids, .. }
            | Change::Recalled { ids, .. }
            | Change::Used { ids, .. }
            | Change::Forgotten { ids, .. } => ids.clone(),
        }
    }
}

/// A change with its place among the changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// 1, 2, 3 … over all changes of the store.
    pub seq: Seq,
    /// When it was written down, in milliseconds since 1970.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub change: Change,
}

/// A change as the journal has it.
#[derive(Serialize, Deserialize)]
struct Stored {
    at_ms: u64,
    #[serde(flatten)]
    change: Change,
}

impl Memory {
    /// Writes down what happened to notes; durable, and seen by recall, when it returns.
    pub fn change(&self, change: Change) -> Result<Seq, Error> {
        let stored = Stored { at_ms: crate::writer::now_ms(), change };
        let body = serde_json::to_vec(&stored).expect("numbers and strings serialise");
        // One at a time, so that the fold takes them in the order of the journal.
        let _order = self.inner.changing.lock().expect("no holder of this lock panics");
        let seq = self.changes_journal()?.append(&body)?;
        self.inner.shared.recall.changed(seq.0, &stored.change);
        Ok(seq)
    }

    /// What happened to notes from `from` on, at most `limit` changes; only what concerns `of`, if that is given.
    pub fn changes(&self, from: Seq, limit: usize, of: Option<NoteId>) -> Result<Vec<Changed>, Error> {
        let mut found = Vec::new();
        let journal = self.changes_journal()?;
        let mut next = Seq(from.0.max(1));
        while found.len() < limit {
            let page = match journal.read(next, PAGE as usize) {
                Ok(page) => page,
                // One damaged record takes no other change with it.
                Err(Error::Corrupt { seq, .. }) if seq == next => {
                    next = Seq(seq.0 + 1);
                    continue;
                }
                Err(Error::Corrupt { seq, .. }) => journal.read(next, (seq.0 - next.0) as usize)?,
                Err(error) => return Err(error),
            };
            let Some((last, _)) = page.last() else { break };
            next = Seq(last.0 + 1);
            for (seq, body) in &page {
                let Some(Stored { at_ms, change }) = understood(seq.0, body) else { continue };
                if of.is_none_or(|id| change.ids().contains(&id)) {
                    found.push(Changed { seq: *seq, at_ms, change });
                }
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    pub(crate) fn changes_journal(&self) -> Result<crate::Journal, Error> {
        self.open_journal(JOURNAL)
    }
}

/// Calls `each` with every change after `after`, in order: what the fold of a store is made of.
pub(crate) fn each_after(
    shared: &Shared,
    after: u64,
    mut each: impl FnMut(u64, &Change),
) -> Result<(), Error> {
    let last = shared.index.catalog().heads.get(JOURNAL).map_or(0, |head| head.last);
    let mut from = after + 1;
    while from <= last {
        let page =
            shared.read(JOURNAL, from, last.min(from + PAGE - 1), |frame| (frame.seq, frame.body.to_vec()));
        match page {
            Ok(page) => {
                for (seq, body) in page {
                    from = seq + 1;
                    if let Some(stored) = understood(seq, &body) {
                        each(seq, &stored.change);
                    }
                }
            }
            // One damaged record takes no other change with it.
            Err(Miss::Sure(Error::Corrupt { seq, .. })) if seq.0 > from => {
                let whole = shared.read(JOURNAL, from, seq.0 - 1, |frame| (frame.seq, frame.body.to_vec()));
                for (seq, body) in whole.map_err(missed)? {
                    if let Some(stored) = understood(seq, &body) {
                        each(seq, &stored.change);
                    }
                }
                from = seq.0 + 1;
            }
            Err(Miss::Sure(Error::Corrupt { seq, .. })) => from = seq.0 + 1,
            Err(miss) => return Err(missed(miss)),
        }
    }
    Ok(())
}

fn missed(miss: Miss) -> Error {
    match miss {
        Miss::Index(reason) => Error::Index(reason),
        Miss::Sure(error) => error,
    }
}

/// A change as it was written; `None` for what a newer version wrote and this one does not know.
fn understood(seq: u64, body: &[u8]) -> Option<Stored> {
    match serde_json::from_slice(body) {
        Ok(stored) => Some(stored),
        Err(e) => {
            tracing::debug!("change {seq} of the notes is not understood: {e}");
            None
        }
    }
}
