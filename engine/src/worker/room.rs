//! Who may begin: a line is let in when there is memory for all that its job will need.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Drafter, Line, LineId, Worker};
use crate::Error;
use crate::cache::Layout;
use crate::guess::GUESSES_MAX;

/// A line that nobody asks anything of for so long is in no reply: what is computed of it may go when there is no room.
pub(super) const REST: Duration = Duration::from_secs(10);

/// What is counted for lines, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Price {
    token: u64,
    line: u64,
    /// What the draft model keeps, if there is one: of a token, and of a line at most.
    draft: (u64, u64),
}

impl Price {
    pub(super) fn of(layout: &Layout, drafter: Option<&Drafter>) -> Price {
        let draft = drafter.map_or((0, 0), Drafter::bytes);
        Price { token: layout.bytes(1) - layout.bytes(0), line: layout.bytes(0), draft }
    }

    /// What a line holds.
    fn held(self, line: &Line) -> u64 {
        let drafted = line.draft.as_ref().map_or(0, |draft| self.draft.0 * draft.held() as u64);
        self.line + self.token * line.cache.tokens() as u64 + drafted
    }

    /// What it holds when all it says is computed, and guesses after that.
    fn needed(self, line: &Line) -> u64 {
        let tokens = (line.tokens.len() + 1 + GUESSES_MAX) as u64;
        self.line + self.token * tokens + (self.draft.0 * tokens).min(self.draft.1)
    }
}

impl Worker {
    /// Lets in those for whom there is room, in order. A line has room for all that its job needs before it is worked on,
    /// so that no two lines ever take it from each other.
    pub(super) fn admit(&mut self) {
        let Worker { settings, shelf, price, lines, queue, .. } = self;
        let limit = settings.lines_bytes;
        let waits: BTreeSet<LineId> = queue.iter().map(|task| task.line).collect();
        let (need, held) = (|line: &Line| price.needed(line), |line: &Line| price.held(line));
        let admitted: BTreeSet<LineId> =
            queue.iter().filter(|task| task.admitted).map(|task| task.line).collect();
        // Lines at work count with all that they will need, others with what they hold.
        let mut bytes: u64 = lines
            .iter()
            .map(|(id, line)| if admitted.contains(id) { need(line).max(held(line)) } else { held(line) })
            .sum();
        let now = Instant::now();
        let (mut somebody_waits, mut i) = (false, 0);
        while let Some(task) = queue.get_mut(i) {
            i += 1;
            let Some(line) = lines.get(&task.line).filter(|_| !task.admitted) else { continue };
            let (needed, more) = (need(line), need(line).saturating_sub(held(line)));
            if needed > limit {
                task.job.fail(Error::NoRoom { asked: needed, limit });
                i -= 1;
                queue.remove(i);
                continue;
            }
            // Whoever comes later does not overtake, or a long line might wait for ever; but one that is in the middle of a
            // reply goes on, for what it holds is in the way until it is done.
            if somebody_waits && line.cache.tokens() == 0 {
                continue;
            }
            if bytes + more > limit {
                // What rests longest goes first. It is found again if it is kept or on disk, and computed again if not.
                let mut resting: Vec<(Instant, LineId)> = lines
                    .iter()
                    .filter(|(id, line)| {
                        let rests = now.saturating_duration_since(line.used) > REST;
                        !waits.contains(id) && rests && line.cache.tokens() > 0
                    })
                    .map(|(&id, line)| (line.used, id))
                    .collect();
                resting.sort_unstable();
                for (_, id) in resting {
                    if let Some(line) = lines.get_mut(&id).filter(|_| bytes + more > limit) {
                        bytes -= held(line) - price.line;
                        shelf.keep(&mut line.anchor, &line.cache, &line.tokens);
                        line.drop_computed();
                    }
                }
            }
            if bytes + more <= limit {
                bytes += more;
                task.admitted = true;
            } else {
                somebody_waits = true;
            }
        }
        // If all who are there wait for each other, those who came last start over.
        if somebody_waits && !queue.iter().any(|task| task.admitted) {
            let first = queue.front().map(|task| task.line);
            let last =
                queue.iter().rev().map(|task| task.line).find(|&id| {
                    Some(id) != first && lines.get(&id).is_some_and(|line| line.cache.tokens() > 0)
                });
            if let Some(line) = last.and_then(|id| lines.get_mut(&id)) {
                shelf.keep(&mut line.anchor, &line.cache, &line.tokens);
                line.drop_computed();
            }
        }
    }
}
