//! Weights turned for kernels that multiply sixteen rows at once.
//!
//! A file has a row's blocks one after the other. A kernel that takes a block of sixteen rows at once reads it in sixteen
//! places, and must bring together what belongs together before it can multiply: more work than the products of one token.
//! So where there is memory for it, matrices are turned once, when the model is opened. Sixteen rows' blocks then lie
//! together, and of these the same four bytes of every row, as one register takes them:
//!
//! ```text
//! file    row 0: block 0, block 1, …    row 1: block 0, …
//! turned  rows 0 to 15: block 0 (bytes 0 to 3 of row 0, of row 1, … of row 15, bytes 4 to 7 of row 0, …), block 1, …
//! ```
//!
//! A processor fetches ahead by itself what is read in the order in which it lies. A block of Q6_K says what a column is in
//! three places; these are put next to each other, in the order in which they are read (measured: 27 GB/s on a thread where it
//! was 10).
//!
//! Nothing is changed but the place of each byte, so a turned matrix is as large as it was, and its products are the same.

use super::Kind;
use crate::crew;

/// Rows that are turned together.
pub(crate) const GROUP_ROWS: usize = 16;

/// How many bytes at the beginning and at the end of a block lie by themselves and not in a four; nothing for kinds that
/// no kernel takes turned.
fn edges(kind: Kind) -> Option<[usize; 2]> {
    match kind {
        Kind::Q4_0 | Kind::Q8_0 => Some([2, 0]),
        Kind::Mxfp4 => Some([1, 0]),
        Kind::Q4K | Kind::Q5K | Kind::Iq4Xs => Some([0, 0]),
        Kind::Q6K => Some([0, 2]),
        _ => None,
    }
}

/// The pieces of sixteen bytes of a block of Q6_K, by where they begin, in the order in which they lie when it is turned: the
/// scales, and then for every 64 columns their low bits, twice, and their high ones.
const Q6_K: [usize; 13] = [192, 0, 32, 128, 16, 48, 144, 64, 96, 160, 80, 112, 176];

/// Where a piece of sixteen bytes of a Q6_K block, which begins at `at`, begins in each row of a turned one.
pub(crate) const fn place_in_q6_k(at: usize) -> usize {
    let mut i = 0;
    while Q6_K[i] != at {
        i += 1;
    }
    16 * i
}

/// Which four of a block's middle lies at place `i` when it is turned.
fn four(kind: Kind, i: usize) -> usize {
    if kind == Kind::Q6K { Q6_K[i / 4] / 4 + i % 4 } else { i }
}

/// Whether matrices of this kind can be turned.
pub(crate) fn knows(kind: Kind) -> bool {
    edges(kind).is_some()
}

/// Turns all rows of a matrix, which are a multiple of sixteen: from `rows` to as many bytes.
pub(crate) fn turn(kind: Kind, row_bytes: usize, rows: &[u8], to: &mut [u8]) {
    let edges = edges(kind).expect("only kinds that can be turned are turned");
    assert!(rows.len() == to.len() && to.len().is_multiple_of(GROUP_ROWS * row_bytes));
    crew::each_part(crew::chunks(to, GROUP_ROWS * row_bytes), 4, |group, to| {
        let rows = &rows[group * to.len()..][..to.len()];
        let size = kind.block_bytes();
        for (block, to) in to.chunks_exact_mut(GROUP_ROWS * size).enumerate() {
            let from = |row: usize| &rows[row * row_bytes + block * size..][..size];
            turn_block(kind, edges, size, from, to);
        }
    });
}

/// Turns one block of sixteen rows.
fn turn_block<'a>(
    kind: Kind,
    [first, last]: [usize; 2],
    size: usize,
    from: impl Fn(usize) -> &'a [u8],
    to: &mut [u8],
) {
    for row in 0..GROUP_ROWS {
        let from = from(row);
        to[first * row..first * (row + 1)].copy_from_slice(&from[..first]);
        let fours = &from[first..size - last];
        let places = to[GROUP_ROWS * first..GROUP_ROWS * (size - last)].chunks_exact_mut(4 * GROUP_ROWS);
        for (i, place) in places.enumerate() {
            place[4 * row..4 * row + 4].copy_from_slice(&fours[4 * four(kind, i)..][..4]);
        }
        to[GROUP_ROWS * (size - last) + last * row..][..last].copy_from_slice(&from[size - last..]);
    }
}

/// One row of a group of sixteen, as it was before it was turned.
pub(crate) fn row(kind: Kind, group: &[u8], row: usize) -> Vec<u8> {
    let [first, last] = edges(kind).expect("only kinds that can be turned are turned");
    let size = kind.block_bytes();
    let mut to = Vec::with_capacity(group.len() / GROUP_ROWS);
    for block in group.chunks_exact(GROUP_ROWS * size) {
        to.extend_from_slice(&block[first * row..first * (row + 1)]);
        let begin = to.len();
        to.resize(begin + size - first - last, 0);
        let places = block[GROUP_ROWS * first..GROUP_ROWS * (size - last)].chunks_exact(4 * GROUP_ROWS);
        for (i, place) in places.enumerate() {
            to[begin + 4 * four(kind, i)..][..4].copy_from_slice(&place[4 * row..4 * row + 4]);
        }
        to.extend_from_slice(&block[GROUP_ROWS * (size - last) + last * row..][..last]);
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_turned_lies_elsewhere_and_is_the_same() {
        for kind in Kind::ALL.into_iter().filter(|&kind| knows(kind)) {
            let row_bytes = 3 * kind.block_bytes();
            let rows: Vec<u8> =
                (0..48 * row_bytes as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let mut turned = vec![0; rows.len()];
            turn(kind, row_bytes, &rows, &mut turned);
            assert_ne!(turned, rows);
            let group = GROUP_ROWS * row_bytes;
            for (i, expected) in rows.chunks_exact(row_bytes).enumerate() {
                let group = &turned[i / GROUP_ROWS * group..][..group];
                assert_eq!(row(kind, group, i % GROUP_ROWS), expected, "{kind:?} row {i}");
            }
        }
    }
}
