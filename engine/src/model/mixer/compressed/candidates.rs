//! Blocks of rows: one indexer judges all rows and leaves the best blocks to those of later layers, which judge no
//! others (DeepSeek-V4.1).

use std::ops::Range;

use super::best::Best;
use super::indexer::{Questions, choose, judge, units};
use crate::cache::{BLOCK_ROWS, Rows};
use crate::crew;
use crate::kernels::{Kernels, TILE};

/// For each token the blocks that are left of the rows, in order.
pub(crate) type Blocks = Vec<Vec<u32>>;

/// The rows that each token sees, as [`choose`] gives them, and the best `kept` blocks of `size` rows each, judged by
/// their best row; nothing if all are kept. The block that holds a token's last row is always among its best.
pub(crate) fn choose_and_leave(
    kernels: Kernels,
    keys: &Rows,
    questions: &Questions<'_>,
    kept: usize,
    size: usize,
) -> (Option<Vec<Vec<u32>>>, Option<Blocks>) {
    let visible = questions.visible;
    let most = visible.last().copied().unwrap_or(0);
    if most.div_ceil(size) <= kept {
        return (choose(kernels, keys, questions), None);
    }
    let units = units(questions, BLOCK_ROWS * size);
    let found: Vec<Vec<Found>> = crew::map(units.len(), |i| {
        let (tokens, rows) = &units[i];
        look_through(kernels, keys, questions, kept, size, tokens.clone(), rows.clone())
    });
    let mut all: Vec<Found> = visible.iter().map(|_| Found::new(questions.wanted, kept, size)).collect();
    for ((tokens, _), found) in units.iter().zip(found) {
        for (token, found) in tokens.clone().zip(found) {
            all[token].rows.append(found.rows);
            all[token].blocks.append(found.blocks);
        }
    }
    let (mut rows, mut blocks) = (Vec::with_capacity(all.len()), Vec::with_capacity(all.len()));
    for (found, &visible) in all.into_iter().zip(visible) {
        rows.push(found.rows.into_rows());
        let mut best = if kept > 1 { found.blocks.into_rows() } else { Vec::new() };
        best.extend(visible.checked_sub(1).map(|last| (last / size) as u32));
        blocks.push(best);
    }
    ((most > questions.wanted).then_some(rows), Some(blocks))
}

/// The rows that each token sees of those in its blocks, in order; nothing if it sees all it could.
pub(crate) fn choose_among(
    kernels: Kernels,
    keys: &Rows,
    questions: &Questions<'_>,
    blocks: Option<&Blocks>,
    size: usize,
) -> Option<Vec<Vec<u32>>> {
    let Some(blocks) = blocks else { return choose(kernels, keys, questions) };
    let rows: Vec<Vec<u32>> = blocks
        .iter()
        .zip(questions.visible)
        .map(|(blocks, &visible)| {
            let rows = |&block: &u32| {
                (block as usize * size..(block as usize + 1) * size).take_while(move |&row| row < visible)
            };
            blocks.iter().flat_map(rows).map(|row| row as u32).collect()
        })
        .collect();
    // A token's rows are shared out as well, so that one token keeps all threads busy.
    let units: Vec<(usize, &[u32])> = rows
        .iter()
        .enumerate()
        .filter(|(_, rows)| rows.len() > questions.wanted)
        .flat_map(|(token, rows)| rows.chunks(ROWS_AT_ONCE).map(move |rows| (token, rows)))
        .collect();
    let found: Vec<Best> = crew::map(units.len(), |i| {
        let (token, rows) = units[i];
        best_of(kernels, keys, questions, token, rows)
    });
    let mut best: Vec<Option<Best>> = rows.iter().map(|_| None).collect();
    for ((token, _), found) in units.iter().zip(found) {
        best[*token].get_or_insert_with(|| Best::new(questions.wanted)).append(found);
    }
    let chosen = best.into_iter().zip(rows.iter()).map(|(best, rows)| match best {
        None => rows.clone(),
        Some(best) => best.into_rows(),
    });
    Some(chosen.collect())
}

/// Rows that one thread judges at once: turning a tile of them costs little beside handing them out.
const ROWS_AT_ONCE: usize = 64 * TILE;

/// What one token has found of some rows.
struct Found {
    rows: Best,
    /// Of those before the token's last block.
    blocks: Best,
    size: usize,
    /// The block that is at hand, and its best row's score so far.
    open: Option<(u32, f32)>,
}

impl Found {
    fn new(wanted: usize, kept: usize, size: usize) -> Found {
        // One place is the last block's.
        let blocks = Best::new((kept - 1).max(1));
        Found { rows: Best::new(wanted), blocks, size, open: None }
    }

    /// The score that a row has to beat to be of any use.
    fn bar(&self) -> f32 {
        if self.rows.bar() < self.blocks.bar() { self.rows.bar() } else { self.blocks.bar() }
    }

    /// Takes in the scores of rows that come after all others.
    fn take(&mut self, first: usize, scores: &[f32]) {
        for (row, &score) in (first..).zip(scores) {
            let block = (row / self.size) as u32;
            match &mut self.open {
                Some((open, most)) if *open == block => *most = if score > *most { score } else { *most },
                _ => {
                    self.close();
                    self.open = Some((block, score));
                }
            }
        }
    }

    fn close(&mut self) {
        if let Some((block, most)) = self.open.take() {
            self.blocks.offer(most, block);
        }
    }
}

/// What some tokens find among some rows.
fn look_through(
    kernels: Kernels,
    keys: &Rows,
    questions: &Questions<'_>,
    kept: usize,
    size: usize,
    tokens: Range<usize>,
    rows: Range<usize>,
) -> Vec<Found> {
    let mut found: Vec<Found> = tokens.clone().map(|_| Found::new(questions.wanted, kept, size)).collect();
    judge(kernels, keys, questions, tokens, rows, &mut found, Found::bar, |found, seen| {
        for (row, &score) in (seen.first..).zip(seen.scores) {
            found.rows.offer(score, row as u32);
        }
        let before_last = (seen.visible - 1) / size * size;
        let whole = before_last.saturating_sub(seen.first).min(seen.scores.len());
        found.take(seen.first, &seen.scores[..whole]);
    });
    found.iter_mut().for_each(Found::close);
    found
}

/// The best of some rows for one token.
fn best_of(kernels: Kernels, keys: &Rows, questions: &Questions<'_>, token: usize, rows: &[u32]) -> Best {
    let width = keys.width();
    let (query, weights) = questions.of(token);
    let mut best = Best::new(questions.wanted);
    let (mut block, mut turned) = (vec![0.0; TILE * width], vec![0.0; TILE * width]);
    let mut scores = [0.0; TILE];
    for rows in rows.chunks(TILE) {
        for (&row, to) in rows.iter().zip(block.chunks_exact_mut(width)) {
            keys.read(kernels, row as usize, 1, to);
        }
        kernels.turn(&block, &mut turned);
        if kernels.judge(&turned, query, weights, best.bar(), &mut scores) {
            for (&row, &score) in rows.iter().zip(&scores) {
                best.offer(score, row);
            }
        }
    }
    best
}
