//! The rows of a table, in chunks that are shared with whoever looks at them.
//!
//! A search goes over all rows and takes milliseconds; a note is written in one. So a search holds no lock: it takes the chunks as
//! they are, and a change copies a chunk that somebody still looks at.

use std::sync::Arc;

use super::table::Row;

/// Numbers of notes that a chunk spans: a copy of one takes some ten microseconds.
const SPAN: u64 = 512;

/// Rows by the numbers of their notes. A cheap copy sees what there is now, whatever is changed later.
#[derive(Clone, Default)]
pub(crate) struct Rows {
    /// Chunk `n` has those of the numbers from `n · SPAN` on.
    chunks: Vec<Arc<Chunk>>,
    len: usize,
}

#[derive(Clone, Default)]
struct Chunk {
    rows: Vec<Row>,
    /// Their scopes once more: who looks for one reads a twentieth of what the rows are.
    scopes: Vec<u32>,
}

impl Rows {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The row of a note.
    pub(crate) fn get(&self, id: u64) -> Option<&Row> {
        let chunk = &self.chunks.get((id / SPAN) as usize)?.rows;
        // Numbers only grow and few are missing: most rows are where they would be if none were.
        match chunk.get((id - chunk.first()?.id.min(id)) as usize) {
            Some(row) if row.id == id => Some(row),
            _ => chunk.binary_search_by_key(&id, |row| row.id).ok().map(|at| &chunk[at]),
        }
    }

    /// The row of a note, to be changed.
    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Row> {
        let chunk = self.chunks.get_mut((id / SPAN) as usize)?;
        let at = chunk.rows.binary_search_by_key(&id, |row| row.id).ok()?;
        Some(&mut Arc::make_mut(chunk).rows[at])
    }

    /// Puts a row in; false when its note has one.
    pub(crate) fn put(&mut self, row: Row) -> bool {
        let n = (row.id / SPAN) as usize;
        if self.chunks.len() <= n {
            self.chunks.resize_with(n + 1, Arc::default);
        }
        let chunk = &mut self.chunks[n];
        let Err(at) = chunk.rows.binary_search_by_key(&row.id, |row| row.id) else { return false };
        let chunk = Arc::make_mut(chunk);
        chunk.scopes.insert(at, row.scope);
        chunk.rows.insert(at, row);
        self.len += 1;
        true
    }

    /// Takes a row out.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Row> {
        let chunk = self.chunks.get_mut((id / SPAN) as usize)?;
        let at = chunk.rows.binary_search_by_key(&id, |row| row.id).ok()?;
        self.len -= 1;
        let chunk = Arc::make_mut(chunk);
        chunk.scopes.remove(at);
        Some(chunk.rows.remove(at))
    }

    /// Changes the rows of which `is` says so; their scopes stay.
    pub(crate) fn change(&mut self, is: impl Fn(&Row) -> bool, change: impl Fn(&mut Row)) {
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.rows.iter().any(&is)) {
            Arc::make_mut(chunk).rows.iter_mut().filter(|row| is(row)).for_each(&change);
        }
    }

    /// All rows, by number.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Row> {
        self.chunks.iter().flat_map(|chunk| chunk.rows.iter())
    }

    /// Those of the notes after `after`, by number.
    pub(crate) fn after(&self, after: u64) -> impl Iterator<Item = &Row> {
        let chunks = self.chunks.iter().skip((after / SPAN) as usize);
        chunks.flat_map(|chunk| chunk.rows.iter()).filter(move |row| row.id > after)
    }

    /// Calls `each` with the rows of some scopes, by number.
    pub(crate) fn of_scopes(&self, scopes: &[u32], mut each: impl FnMut(&Row)) {
        for chunk in &self.chunks {
            let of = chunk.rows.iter().zip(&chunk.scopes).filter(|(_, scope)| scopes.contains(scope));
            of.for_each(|(row, _)| each(row));
        }
    }

    /// A number that no row's reaches.
    pub(crate) fn end(&self) -> u64 {
        self.chunks.len() as u64 * SPAN
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Kind, Trust};

    fn row(id: u64, words: u32) -> Row {
        Row {
            id,
            scope: (id % 2) as u32,
            thread: 0,
            author: 1,
            words,
            at_ms: 0,
            recorded_ms: 0,
            ends_ms: u64::MAX,
            superseded_by: 0,
            hash: 0,
            recalled: 0,
            helped: 0,
            misled: 0,
            kind: Kind::Fact,
            trust: Trust::UserSaid,
            proposed: false,
            accepted: false,
        }
    }

    proptest! {
        #[test]
        fn rows_are_a_map_and_a_copy_stays_what_it_was(
            steps in prop::collection::vec((0_u8..4, 1_u64..2000, 0_u32..9), 1..200),
        ) {
            let (mut rows, mut map) = (Rows::default(), BTreeMap::new());
            let mut kept: Option<(Rows, BTreeMap<u64, u32>)> = None;
            for (n, (what, id, words)) in steps.into_iter().enumerate() {
                match what {
                    0 | 1 => prop_assert_eq!(rows.put(row(id, words)), !map.contains_key(&id)),
                    2 => prop_assert_eq!(rows.remove(id).map(|row| row.words), map.get(&id).copied()),
                    _ => {
                        if let Some(row) = rows.get_mut(id) {
                            row.words = words;
                        }
                    }
                }
                match what {
                    0 | 1 => drop(map.entry(id).or_insert(words)),
                    2 => drop(map.remove(&id)),
                    _ => drop(map.get_mut(&id).map(|kept| *kept = words)),
                }
                if n == 50 {
                    kept = Some((rows.clone(), map.clone()));
                }
            }
            for (rows, map) in kept.into_iter().chain([(rows, map)]) {
                let all: Vec<(u64, u32)> = rows.iter().map(|row| (row.id, row.words)).collect();
                let expected: Vec<(u64, u32)> = map.iter().map(|(id, words)| (*id, *words)).collect();
                prop_assert_eq!(rows.len(), map.len());
                prop_assert_eq!(&all, &expected);
                for id in 0..2001 {
                    prop_assert_eq!(rows.get(id).map(|row| row.words), map.get(&id).copied());
                }
                let mut odd = Vec::new();
                rows.of_scopes(&[1, 7], |row| odd.push(row.id));
                prop_assert_eq!(odd, map.keys().copied().filter(|id| id % 2 == 1).collect::<Vec<_>>());
                prop_assert!(map.keys().all(|id| *id < rows.end()));
                let after: Vec<u64> = rows.after(700).map(|row| row.id).collect();
                prop_assert_eq!(after, map.range(701..).map(|(id, _)| *id).collect::<Vec<_>>());
            }
        }
    }
}
