//! What was computed for lines, kept for other lines and for later: a line that begins as another did goes on from there.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::Token;
use crate::cache::{Cache, Chain, Layout, PAGE_TOKENS, Piece, Place, Prefix, states_bytes};
use crate::kv::Counts;
use crate::snapshot::{Contents, Secret, Slot, Snapshots};

/// All pages of one engine that are kept, in memory and on disk. Used by its worker only.
pub(crate) struct Shelf {
    prefix: Prefix,
    layout: Arc<Layout>,
    root: Chain,
    snapshots: Option<Snapshots>,
    counts: Arc<Counts>,
}

/// Where a line is on the shelf. A fork has a clone.
#[derive(Clone)]
pub(crate) struct Anchor {
    /// Its last whole page that is kept for others too.
    place: Place,
    /// Where it begins, and the secret that what it leaves is sealed with.
    root: Chain,
    secret: Option<Secret>,
    /// How far what it will go on from has been read from disk already, and how many tokens that was.
    ahead: Option<Place>,
    restored: usize,
}

impl Anchor {
    /// The name of the first page that is not kept for others yet of a line that says `tokens`, if it has a whole one.
    pub(crate) fn next_page(&self, tokens: &[Token]) -> Option<Chain> {
        let start = self.place.tokens();
        tokens.get(start..start + PAGE_TOKENS).map(|page| self.place.chain().then(page))
    }
}

/// What a line found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recalled {
    /// So many tokens need not be computed, if any.
    Tokens(usize),
    /// More is being read from disk: look again when others have had their turn.
    More,
}

/// Where a line could go on.
struct Way {
    tokens: usize,
    /// The node that has what is before it.
    chain: Chain,
    /// What of the way there is only on disk, in order.
    missing: Vec<Missing>,
    /// Whether the states at its end are.
    states_missing: bool,
}

/// A page, or an end of a line, that is only on disk.
struct Missing {
    after: Chain,
    chain: Chain,
    tokens: Range<usize>,
}

/// What is read from disk before others have their turn. A disk gives as much in the time of a few tokens.
const READ_BYTES_AT_ONCE: usize = 16 << 20;

/// States that are written besides those at a line's end take at most this share of what its pages take: should the line
/// be cut back after a restart, it goes on from one of them.
const STATES_SHARE: usize = 32;

impl Shelf {
    /// For lines with this layout that are computed with what `root` stands for. Keeps `bytes_max` bytes besides what lines
    /// hold that are at work, or nothing at all if that is none.
    pub(crate) fn new(
        layout: Arc<Layout>,
        root: Chain,
        bytes_max: u64,
        snapshots: Option<Snapshots>,
        counts: Arc<Counts>,
    ) -> Shelf {
        let shelf = Shelf { prefix: Prefix::new(bytes_max), layout, root, snapshots, counts };
        shelf.count();
        shelf
    }

    /// What lines keep.
    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Where a new line begins. Lines with different secrets share nothing.
    pub(crate) fn start(&mut self, secret: Option<Secret>) -> Anchor {
        let root = match &secret {
            None => self.root,
            Some(secret) => Chain::root(&[self.root.bytes(), secret.id()].concat()),
        };
        Anchor { place: self.prefix.root(root), root, secret, ahead: None, restored: 0 }
    }

    /// Lets a line that was to compute `tokens` go on from what is kept of them, if that spares it `least` of them. At least
    /// the last one is left to it, because the logits after it are not kept.
    pub(crate) fn recall(
        &mut self,
        anchor: &mut Anchor,
        cache: &mut Cache,
        tokens: &[Token],
        least: usize,
    ) -> Recalled {
        let (before, limit) = (cache.tokens(), tokens.len().saturating_sub(1));
        if self.is_off() || before >= limit {
            return Recalled::Tokens(0);
        }
        anchor.place = self.prefix.back(&anchor.place, before);
        let way = self.find(anchor, tokens, limit).filter(|way| way.tokens >= before + least);
        let Some(way) = way else {
            (anchor.ahead, anchor.restored) = (None, 0);
            return Recalled::Tokens(0);
        };
        if !way.missing.is_empty() || way.states_missing {
            // What cannot be read is forgotten, so that another way is found next time.
            self.read(anchor, tokens, &way);
            return Recalled::More;
        }
        let nodes = self.prefix.path(way.chain, anchor.place.tokens());
        let pieces: Vec<Piece<'_>> =
            nodes.iter().map(|node| Piece { page: node.page(), states: node.states() }).collect();
        cache.adopt(anchor.place.tokens(), &pieces, way.tokens);
        let last = nodes.last().map(|node| node.place().clone()).expect("the way to a place beyond this one");
        anchor.place = self.prefix.back(&last, way.tokens / PAGE_TOKENS * PAGE_TOKENS);
        self.prefix.meet(way.chain);
        let found = way.tokens - before;
        let restored = std::mem::take(&mut anchor.restored).min(found);
        anchor.ahead = None;
        self.counts.found(found - restored, restored);
        Recalled::Tokens(found)
    }

    /// The last place after which a line that says `tokens` could go on, no more than `limit` tokens from its beginning.
    fn find(&self, anchor: &Anchor, tokens: &[Token], limit: usize) -> Option<Way> {
        let (states, disk) = (self.layout.has_states(), self.snapshots.as_ref());
        let (mut at, mut end) = (anchor.place.chain(), anchor.place.tokens());
        let mut missing = Vec::new();
        // How many tokens, the chain, how much of the way is missing, and whether the states there are.
        let mut best = None;
        while let Some(page) = tokens.get(end..end + PAGE_TOKENS) {
            let (after, chain) = (at, at.then(page));
            let node = self.prefix.node(chain);
            if node.is_none() {
                if !disk.is_some_and(|disk| disk.has_page(chain)) {
                    break;
                }
                missing.push(Missing { after, chain, tokens: end..end + PAGE_TOKENS });
            }
            (at, end) = (chain, end + PAGE_TOKENS);
            if !states {
                best = Some((end.min(limit), at, missing.len(), false));
            } else if end <= limit {
                let known = node.is_some_and(|node| node.states().is_some());
                if known || disk.is_some_and(|disk| disk.has_states(at)) {
                    best = Some((end, at, missing.len(), !known));
                }
            }
        }
        let rest = tokens.get(end..limit).unwrap_or_default();
        if let Some((node, common)) = self.prefix.follow(at, rest, states) {
            best = Some((end + common, node.place().chain(), missing.len(), false));
        }
        let rest = tokens.get(end..).unwrap_or_default();
        if let Some((len, chain)) = self.tail(at, rest, limit.saturating_sub(end))
            && best.is_none_or(|(tokens, ..)| tokens < (end + len).min(limit))
        {
            if self.prefix.node(chain).is_none() {
                missing.push(Missing { after: at, chain, tokens: end..end + len });
            }
            best = Some(((end + len).min(limit), chain, missing.len(), states));
        }
        let (tokens, chain, count, states_missing) = best?;
        missing.truncate(count);
        Some(Way { tokens, chain, missing, states_missing })
    }

    /// The longest end of a line on disk that follows a place and says what `rest` begins with: how many tokens, and its
    /// chain. Where there are states it has to be taken whole, and `limit` is the most that is taken.
    fn tail(&self, place: Chain, rest: &[Token], limit: usize) -> Option<(usize, Chain)> {
        let (states, disk) = (self.layout.has_states(), self.snapshots.as_ref()?);
        let tails = disk.tails(place).into_iter().filter(|&(len, chain)| {
            rest.get(..len).is_some_and(|rest| place.then(rest) == chain)
                && disk.has_page(chain)
                && (!states || len <= limit && disk.has_states(chain))
        });
        tails.max()
    }

    /// Reads some of what is missing on a way.
    fn read(&mut self, anchor: &mut Anchor, tokens: &[Token], way: &Way) {
        let Some(disk) = &self.snapshots else { return };
        let (layout, secret) = (&*self.layout, anchor.secret.as_ref());
        let mut bytes = 0;
        for missing in &way.missing {
            let Some(after) = self.prefix.node(missing.after).map(|node| node.place().clone()) else {
                return;
            };
            let Some(page) = disk.page(layout, missing.chain, &missing.tokens, secret) else { return };
            bytes += page.bytes();
            anchor.restored += page.tokens();
            let said = &tokens[missing.tokens.clone()];
            anchor.ahead = Some(self.prefix.insert(&after, said, || page, None));
            if bytes >= READ_BYTES_AT_ONCE {
                return;
            }
        }
        if way.states_missing
            && let Some(states) = disk.states(layout, way.chain, secret)
        {
            self.prefix.learn(way.chain, &states);
        }
    }

    /// Keeps the pages that a line has completed.
    pub(crate) fn keep(&mut self, anchor: &mut Anchor, cache: &Cache, tokens: &[Token]) {
        if self.is_off() {
            return;
        }
        let place = &mut anchor.place;
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
    pub(crate) fn close(&mut self, mut anchor: Anchor, cache: &Cache, tokens: &[Token]) {
        if self.is_off() {
            return;
        }
        self.keep(&mut anchor, cache, tokens);
        let place = anchor.place;
        let (end, states) = cache.last_place(tokens.len());
        if end > place.tokens() {
            let rest = &tokens[place.tokens()..end];
            let known = self.prefix.follow(place.chain(), rest, cache.has_states());
            if known.is_none_or(|(_, common)| common < rest.len()) {
                let page = || cache.page(place.tokens()..end);
                self.prefix.insert(&place, rest, page, states.as_ref());
            }
        }
        drop((place, anchor.ahead));
        self.prefix.trim();
        self.count();
    }

    /// Has a line written to disk, as far as it is computed; `done` hears whether it was.
    pub(crate) fn snapshot(
        &mut self,
        anchor: &mut Anchor,
        cache: &Cache,
        tokens: &[Token],
        slot: &Slot,
        done: oneshot::Sender<bool>,
    ) {
        self.keep(anchor, cache, tokens);
        let place = &anchor.place;
        let nodes = self.prefix.path(place.chain(), 0);
        let (end, last_states) = cache.last_place(tokens.len());
        let tail = (end > place.tokens()).then(|| {
            let chain = place.chain().then(&tokens[place.tokens()..end]);
            (chain, cache.page(place.tokens()..end))
        });
        if nodes.is_empty() && tail.is_none() {
            // Nothing is computed or kept; dropping `done` says so.
            return;
        }
        let mut states = Vec::new();
        if let Some(last) = last_states.filter(|_| end >= place.tokens()) {
            states.push((tail.as_ref().map_or(place.chain(), |(chain, _)| *chain), last));
        }
        let mut room = nodes.iter().map(|node| node.page().bytes()).sum::<usize>() / STATES_SHARE;
        for node in nodes.iter().rev() {
            let Some(others) = node.states().filter(|_| node.place().tokens() < end) else { continue };
            let bytes = states_bytes(others);
            if bytes > room {
                break;
            }
            room -= bytes;
            states.push((node.place().chain(), others.clone()));
        }
        let pages = nodes.iter().map(|node| (node.place().chain(), Arc::clone(node.page()))).collect();
        let (root, secret) = (anchor.root, anchor.secret.clone());
        slot.write(Contents { root, secret, pages, tail, states }, done);
    }

    /// Bounds what is kept anew.
    pub(crate) fn set_bytes_max(&mut self, bytes_max: u64) {
        self.prefix.set_bytes_max(bytes_max);
        self.count();
    }

    /// Whether lines find nothing of each other.
    pub(crate) fn is_off(&self) -> bool {
        self.prefix.bytes_max() == 0
    }

    fn count(&self) {
        self.counts.held(self.prefix.bytes(), self.prefix.bytes_max());
    }
}

#[cfg(test)]
mod tests;
