//! What was computed for lines, kept for other lines and for later: a line that begins as another did goes on from there.

use std::sync::Arc;

use crate::Token;
use crate::cache::{Cache, Chain, PAGE_TOKENS, Piece, Place, Prefix};
use crate::kv::Counts;

/// All pages of one engine that are kept. Used by its worker only.
pub(crate) struct Shelf {
    prefix: Prefix,
    root: Chain,
    counts: Arc<Counts>,
}

impl Shelf {
    /// For lines that are computed with what `root` stands for. Keeps `bytes_max` bytes besides what lines hold that are
    /// at work, or nothing at all if that is none.
    pub(crate) fn new(root: Chain, bytes_max: u64, counts: Arc<Counts>) -> Shelf {
        let shelf = Shelf { prefix: Prefix::new(bytes_max), root, counts };
        shelf.count();
        shelf
    }

    /// Where a new line begins.
    pub(crate) fn start(&mut self) -> Place {
        self.prefix.root(self.root)
    }

    /// Lets a line that was to compute `tokens` go on from what is kept of them, and returns how many it need not compute
    /// now. At least the last one is left to it, because the logits after it are not kept.
    pub(crate) fn recall(&mut self, place: &mut Place, cache: &mut Cache, tokens: &[Token]) -> usize {
        let (before, limit) = (cache.tokens(), tokens.len().saturating_sub(1));
        if self.is_off() || before >= limit {
            return 0;
        }
        *place = self.prefix.back(place, before);
        let Some((end, chain)) = self.find(place, tokens, limit, cache.has_states()) else { return 0 };
        if end <= before {
            return 0;
        }
        let nodes = self.prefix.path(chain, place.tokens());
        let pieces: Vec<Piece<'_>> =
            nodes.iter().map(|node| Piece { page: node.page(), states: node.states() }).collect();
        cache.adopt(place.tokens(), &pieces, end);
        let last = nodes.last().map(|node| node.place().clone()).expect("the way to a place beyond this one");
        *place = self.prefix.back(&last, end / PAGE_TOKENS * PAGE_TOKENS);
        self.prefix.meet(chain);
        self.counts.shared(end - before);
        end - before
    }

    /// The last place after which a line that says `tokens` could go on, no more than `limit` tokens from its beginning,
    /// and the node that has what is before it.
    fn find(&self, from: &Place, tokens: &[Token], limit: usize, states: bool) -> Option<(usize, Chain)> {
        let (mut best, mut at, mut end) = (None, from.chain(), from.tokens());
        while let Some(page) = tokens.get(end..end + PAGE_TOKENS)
            && let Some(node) = self.prefix.node(at.then(page))
        {
            (at, end) = (node.place().chain(), end + PAGE_TOKENS);
            if !states {
                best = Some((end.min(limit), at));
            } else if end <= limit && node.states().is_some() {
                best = Some((end, at));
            }
        }
        let rest = tokens.get(end..limit).unwrap_or_default();
        let part = self.prefix.follow(at, rest, states);
        part.map(|(node, common)| (end + common, node.place().chain())).or(best)
    }

    /// Keeps the pages that a line has completed.
    pub(crate) fn keep(&mut self, place: &mut Place, cache: &Cache, tokens: &[Token]) {
        if self.is_off() {
            return;
        }
        // The cache may hold guesses that the line does not say yet.
        let settled = cache.tokens().min(tokens.len());
        *place = self.prefix.back(place, settled);
        let mut grown = false;
        while place.tokens() + PAGE_TOKENS <= settled {
            let page = place.tokens()..place.tokens() + PAGE_TOKENS;
            let states = cache.states_at(page.end);
            *place = self.prefix.insert(place, &tokens[page.clone()], || cache.page(page), states);
            grown = true;
        }
        if grown {
            if cache.has_states() {
                self.prefix.thin(place, |tokens| cache.states_at(tokens).is_some());
            }
            self.prefix.trim();
            self.count();
        }
    }

    /// Keeps all of a line that nobody goes on with for now.
    pub(crate) fn close(&mut self, mut place: Place, cache: &Cache, tokens: &[Token]) {
        if self.is_off() {
            return;
        }
        self.keep(&mut place, cache, tokens);
        let (end, states) = cache.last_place(tokens.len());
        if end > place.tokens() {
            let rest = &tokens[place.tokens()..end];
            let known = self.prefix.follow(place.chain(), rest, cache.has_states());
            if known.is_none_or(|(_, common)| common < rest.len()) {
                let page = || cache.page(place.tokens()..end);
                self.prefix.insert(&place, rest, page, states.as_ref());
            }
        }
        drop(place);
        self.prefix.trim();
        self.count();
    }

    /// Bounds what is kept anew.
    pub(crate) fn set_bytes_max(&mut self, bytes_max: u64) {
        self.prefix.set_bytes_max(bytes_max);
        self.count();
    }

    fn is_off(&self) -> bool {
        self.prefix.bytes_max() == 0
    }

    fn count(&self) {
        self.counts.held(self.prefix.bytes(), self.prefix.bytes_max());
    }
}

#[cfg(test)]
mod tests;
