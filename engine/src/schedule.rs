//! Which of the lines that wait are computed together, and how much of each.
//!
//! A matrix that is read from memory for one token serves others at little more cost, so all lines that have a token or two
//! to compute go together. Prompts are cut into chunks that go along: a long one delays no reply by more than a chunk, and is
//! itself not kept waiting by replies. Lines of the background take part where nobody else waits, and now and then where
//! somebody does, so that they too get on.

/// What waits on one line, in the order in which it was asked for or last served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// How many tokens are to be computed, at least one.
    pub(crate) due: usize,
    /// How many may be computed before the line must be looked at again.
    pub(crate) most: usize,
    pub(crate) background: bool,
}

/// Tokens that are computed between two looks at what else there is to do. Larger chunks use unpacked weights for more
/// tokens; smaller ones answer sooner. Beyond 256 the gain is lost in the noise.
pub(crate) const CHUNK_TOKENS: usize = 256;
/// The same where somebody waits for the next token of a reply.
const CHUNK_BESIDE_REPLIES: usize = 64;
/// Up to so many tokens are no prompt but the next step of a reply: what was sampled, what a grammar forced, a short
/// answer of a tool.
pub(crate) const STEP_TOKENS: usize = 16;
/// A prompt is not begun with fewer tokens than this.
const PIECE_MIN: usize = 16;
/// Lines that are computed together at most. By then the products are bound by arithmetic, and more lines would only wait
/// longer for each other.
pub(crate) const LINES_MAX: usize = 64;
/// So often the background takes part although others wait.
const BACKGROUND_EVERY: u64 = 4;

/// The numbers of those that are computed together in pass number `pass`, in order, and how many tokens of each.
pub(crate) fn together(waiting: &[Waiting], pass: u64) -> Vec<(usize, usize)> {
    let somebody = waiting.iter().any(|waiting| !waiting.background);
    let everybody = !somebody || pass.is_multiple_of(BACKGROUND_EVERY);
    let eligible = || waiting.iter().enumerate().filter(|(_, waiting)| everybody || !waiting.background);
    let (steps, prompts): (Vec<_>, Vec<_>) = eligible().partition(|(_, waiting)| waiting.due <= STEP_TOKENS);
    let mut chosen: Vec<(usize, usize)> =
        steps.iter().take(LINES_MAX).map(|&(i, waiting)| (i, waiting.due.min(waiting.most))).collect();
    let mut room = if steps.is_empty() { CHUNK_TOKENS } else { CHUNK_BESIDE_REPLIES };
    for (i, waiting) in prompts {
        let count = waiting.due.min(waiting.most).min(room);
        // The end of a prompt may be short, and so may the way to a mark.
        let whole = count == waiting.due.min(waiting.most);
        if chosen.len() == LINES_MAX || count == 0 || (count < PIECE_MIN && !whole) {
            break;
        }
        room -= count;
        chosen.push((i, count));
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(waiting: &[(usize, bool)], pass: u64, expected: &[(usize, usize)]) {
        let of = |&(due, background)| Waiting { due, most: 256, background };
        let waiting: Vec<Waiting> = waiting.iter().map(of).collect();
        assert_eq!(together(&waiting, pass), expected, "{waiting:?} in pass {pass}");
    }

    #[test]
    fn replies_go_together_and_prompts_go_along_in_chunks() {
        check(&[], 1, &[]);
        check(&[(1, false)], 1, &[(0, 1)]);
        check(&[(1, false), (3, false), (1, false)], 1, &[(0, 1), (1, 3), (2, 1)]);
        check(&[(5000, false)], 1, &[(0, 256)]);
        check(&[(5000, false), (1, false)], 1, &[(0, 64), (1, 1)]);
        // Short prompts share a chunk; one that would only get a few tokens of it waits.
        check(&[(100, false), (100, false), (100, false)], 1, &[(0, 100), (1, 100), (2, 56)]);
        check(&[(100, false), (150, false), (100, false)], 1, &[(0, 100), (1, 150)]);
    }

    #[test]
    fn the_background_waits_but_not_for_ever() {
        check(&[(1, true), (1, false), (900, true)], 1, &[(1, 1)]);
        check(&[(1, true), (900, false)], 3, &[(1, 256)]);
        check(&[(1, true), (1, false), (900, true)], 4, &[(0, 1), (1, 1), (2, 64)]);
        check(&[(1, true), (900, true)], 1, &[(0, 1), (1, 64)]);
    }

    #[test]
    fn nobody_waits_for_ever() {
        // Whoever was served and has more to do goes to the end; the queue is served in order.
        let mut chance = 9_u64;
        let mut below = |n: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) % n
        };
        for _ in 0..200 {
            let count = 1 + below(120) as usize;
            let mut queue: Vec<(usize, Waiting)> = (0..count)
                .map(|name| {
                    let due = if below(2) == 0 { 1 + below(20) } else { 1 + below(3000) } as usize;
                    (name, Waiting { due, most: 1 + below(256) as usize, background: below(3) == 0 })
                })
                .collect();
            let total: usize = queue.iter().map(|(_, waiting)| waiting.due).sum();
            let mut passes = 0;
            while !queue.is_empty() {
                let waiting: Vec<Waiting> = queue.iter().map(|&(_, waiting)| waiting).collect();
                let chosen = together(&waiting, passes);
                let computed: usize = chosen.iter().map(|&(_, count)| count).sum();
                assert!(computed <= LINES_MAX * STEP_TOKENS + CHUNK_TOKENS);
                assert!(
                    !chosen.is_empty()
                        && chosen
                            .iter()
                            .all(|&(i, count)| { 0 < count && count <= waiting[i].due.min(waiting[i].most) })
                );
                let mut served = Vec::new();
                for &(i, count) in chosen.iter().rev() {
                    let (name, mut waiting) = queue.remove(i);
                    waiting.due -= count;
                    waiting.most = 256;
                    if waiting.due > 0 {
                        served.push((name, waiting));
                    }
                }
                queue.extend(served.into_iter().rev());
                passes += 1;
                assert!(passes as usize <= 10 * (total + count), "somebody waits for ever");
            }
        }
    }
}
