//! How the tables of a model are used that are looked up by n-grams (Engram), and how much of them is kept in memory.

use serde::Serialize;

/// What was asked of tables since the model was opened, and what they keep (`Options::table_bytes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Rows that were in memory when they were asked for.
    pub hits: u64,
    /// Rows that had to be read from the file while somebody waited.
    pub misses: u64,
    /// Rows that were read beside the work, before they were asked for.
    pub ahead: u64,
    /// Bytes that rows take in memory now.
    pub held_bytes: u64,
    /// The most they may take.
    pub budget_bytes: u64,
    /// What all rows take on disk.
    pub stored_bytes: u64,
}

impl std::iter::Sum for Held {
    fn sum<I: Iterator<Item = Held>>(tables: I) -> Held {
        tables.fold(Held::default(), |all, table| Held {
            hits: all.hits + table.hits,
            misses: all.misses + table.misses,
            ahead: all.ahead + table.ahead,
            held_bytes: all.held_bytes + table.held_bytes,
            budget_bytes: all.budget_bytes + table.budget_bytes,
            stored_bytes: all.stored_bytes + table.stored_bytes,
        })
    }
}
