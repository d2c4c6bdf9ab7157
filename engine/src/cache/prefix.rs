//! What lines have computed, by what they say: a tree of pages that all lines of an engine share.
//!
//! A page is known by its *chain*, a hash of all tokens up to its end, so two lines meet in the tree exactly as far as
//! they say the same. A line holds the place it has come to; nobody's places are let go of when the tree has more than
//! its bytes, those nobody has used for longest first, and the end of a line before its beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::page::{PAGE_TOKENS, Page, States, states_bytes};
use crate::Token;

/// A hash of all tokens of a line up to some place, and of what they were computed with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Chain([u8; 32]);

impl Chain {
    /// Of no tokens, for lines that are computed with `what`.
    pub(crate) fn root(what: &[u8]) -> Chain {
        Chain(Sha256::digest(what).into())
    }

    pub(crate) fn bytes(&self) -> [u8; 32] {
        self.0
    }

    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Chain {
        Chain(bytes)
    }

    /// With these tokens after it.
    pub(crate) fn then(&self, tokens: &[Token]) -> Chain {
        let mut hash = Sha256::new_with_prefix(self.0);
        for token in tokens {
            hash.update(token.to_le_bytes());
        }
        Chain(hash.finalize().into())
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A place in the tree where a line is. Nothing up to there is let go of while somebody has it.
#[derive(Clone)]
pub(crate) struct Place(Arc<Spot>);

struct Spot {
    chain: Chain,
    tokens: usize,
}

impl Place {
    fn new(chain: Chain, tokens: usize) -> Place {
        Place(Arc::new(Spot { chain, tokens }))
    }

    pub(crate) fn chain(&self) -> Chain {
        self.0.chain
    }

    /// How many tokens lie before it.
    pub(crate) fn tokens(&self) -> usize {
        self.0.tokens
    }
}

/// The tree.
pub(crate) struct Prefix {
    nodes: BTreeMap<Chain, Node>,
    /// Nodes that nothing follows, by when they were used.
    leaves: BTreeSet<(u64, Chain)>,
    bytes: u64,
    bytes_max: u64,
    /// Counts uses.
    clock: u64,
}

/// One page, or the end of a line that is shorter than one. Beginnings of lines have nodes of no tokens.
pub(crate) struct Node {
    place: Place,
    /// None for the beginning of lines.
    parent: Option<Chain>,
    tokens: Box<[Token]>,
    page: Arc<Page>,
    states: Option<States>,
    children: BTreeSet<Chain>,
    used: u64,
    /// Whether a line has gone on from the states here.
    met: bool,
}

impl Node {
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn page(&self) -> &Arc<Page> {
        &self.page
    }

    pub(crate) fn states(&self) -> Option<&States> {
        self.states.as_ref()
    }

    fn bytes(&self) -> u64 {
        (self.page.bytes() + self.states.as_ref().map_or(0, states_bytes)) as u64
    }

    fn is_whole(&self) -> bool {
        self.tokens.len() == PAGE_TOKENS
    }
}

impl Prefix {
    pub(crate) fn new(bytes_max: u64) -> Prefix {
        Prefix { nodes: BTreeMap::new(), leaves: BTreeSet::new(), bytes: 0, bytes_max, clock: 0 }
    }

    /// What its numbers take. Lines that are at work may hold some of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where lines begin that are computed with what `root` stands for.
    pub(crate) fn root(&mut self, root: Chain) -> Place {
        let node = self.nodes.entry(root).or_insert_with(|| Node {
            place: Place::new(root, 0),
            parent: None,
            tokens: Box::default(),
            page: Arc::new(Page::empty()),
            states: None,
            children: BTreeSet::new(),
            used: 0,
            met: false,
        });
        node.place.clone()
    }

    /// What is at a place, if there is something.
    pub(crate) fn node(&self, chain: Chain) -> Option<&Node> {
        self.nodes.get(&chain)
    }

    /// The place before this one; none at the beginning of a line.
    pub(crate) fn parent(&self, place: &Place) -> Option<Place> {
        let parent = self.nodes.get(&place.chain())?.parent?;
        self.nodes.get(&parent).map(|node| node.place.clone())
    }

    /// The last place up to `tokens` on the way to `place`.
    pub(crate) fn back(&self, place: &Place, tokens: usize) -> Place {
        let mut place = place.clone();
        while place.tokens() > tokens {
            place = self.parent(&place).expect("what a line holds is not let go of, nor what is before it");
        }
        place
    }

    /// All nodes after the first `tokens` tokens up to a place, in order.
    pub(crate) fn path(&self, to: Chain, tokens: usize) -> Vec<&Node> {
        let mut nodes = Vec::new();
        let mut at = self.nodes.get(&to);
        while let Some(node) = at.filter(|node| node.place.tokens() > tokens) {
            nodes.push(node);
            at = node.parent.and_then(|parent| self.nodes.get(&parent));
        }
        nodes.reverse();
        nodes
    }

    /// What follows a place and begins as `rest` does for longest: the node, and how many tokens they have in common.
    /// With `whole` only what `rest` has all of, and that has states.
    pub(crate) fn follow(&self, place: Chain, rest: &[Token], whole: bool) -> Option<(&Node, usize)> {
        let children = self.nodes.get(&place)?.children.iter().filter_map(|child| self.nodes.get(child));
        let common = |node: &Node| node.tokens.iter().zip(rest).take_while(|(a, b)| a == b).count();
        let children = children.map(|node| (node, common(node)));
        let children = children.filter(|&(node, common)| {
            common > 0 && (!whole || common == node.tokens.len() && node.states.is_some())
        });
        children.max_by_key(|&(_, common)| common)
    }

    /// Adds what follows a place, unless it is there already, and marks it as used.
    pub(crate) fn insert(
        &mut self,
        after: &Place,
        tokens: &[Token],
        page: impl FnOnce() -> Page,
        states: Option<&States>,
    ) -> Place {
        assert!(!tokens.is_empty() && tokens.len() <= PAGE_TOKENS);
        let chain = after.chain().then(tokens);
        if !self.nodes.contains_key(&chain) {
            self.remove_beginnings(after.chain(), tokens);
            let parent = self.nodes.get_mut(&after.chain()).expect("a line's place is in the tree");
            assert!(parent.is_whole() || parent.parent.is_none(), "nothing follows a page that is not whole");
            parent.children.insert(chain);
            self.leaves.remove(&(parent.used, after.chain()));
            let node = Node {
                place: Place::new(chain, after.tokens() + tokens.len()),
                parent: Some(after.chain()),
                tokens: tokens.into(),
                page: Arc::new(page()),
                states: None,
                children: BTreeSet::new(),
                used: 0,
                met: false,
            };
            assert_eq!(node.page.tokens(), tokens.len());
            self.bytes += node.bytes();
            self.leaves.insert((0, chain));
            self.nodes.insert(chain, node);
        }
        self.touch(chain);
        if let Some(states) = states {
            self.learn(chain, states);
        }
        self.nodes.get(&chain).map(|node| node.place.clone()).expect("it was there or has been added")
    }

    /// Takes in the states at a place.
    pub(crate) fn learn(&mut self, chain: Chain, states: &States) {
        if let Some(node) = self.nodes.get_mut(&chain)
            && node.states.is_none()
        {
            self.bytes += states_bytes(states) as u64;
            node.states = Some(states.clone());
        }
    }

    /// Says that a place was used just now.
    pub(crate) fn touch(&mut self, chain: Chain) {
        self.clock += 1;
        let Some(node) = self.nodes.get_mut(&chain) else { return };
        if self.leaves.remove(&(node.used, chain)) {
            self.leaves.insert((self.clock, chain));
        }
        node.used = self.clock;
    }

    /// Says that a line goes on from a place.
    pub(crate) fn meet(&mut self, chain: Chain) {
        self.touch(chain);
        if let Some(node) = self.nodes.get_mut(&chain) {
            node.met = true;
        }
    }

    /// Lets go of the states on the way to a place that its line has no use for, except where another line may come by:
    /// where it did before, or where two ways part.
    pub(crate) fn thin(&mut self, place: &Place, useful: impl Fn(usize) -> bool) {
        let mut at = Some(place.chain());
        while let Some(node) = at.and_then(|chain| self.nodes.get_mut(&chain)) {
            if !node.met && node.children.len() < 2 && !useful(node.place.tokens()) {
                let states = node.states.take();
                self.bytes -= states.as_ref().map_or(0, states_bytes) as u64;
            }
            at = node.parent;
        }
    }

    /// Lets go of what is too much, as far as no line is there.
    pub(crate) fn trim(&mut self) {
        while self.bytes > self.bytes_max {
            let idle = |chain: &Chain| {
                self.nodes.get(chain).is_some_and(|node| Arc::strong_count(&node.place.0) == 1)
            };
            let Some(&(_, chain)) = self.leaves.iter().find(|(_, chain)| idle(chain)) else { return };
            self.remove(chain);
        }
    }

    /// Bounds the tree anew.
    pub(crate) fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
        self.trim();
    }

    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Removes ends of lines after a place that say no more than the beginning of `tokens`.
    fn remove_beginnings(&mut self, place: Chain, tokens: &[Token]) {
        let Some(node) = self.nodes.get(&place) else { return };
        let short = node.children.iter().filter(|child| {
            let node = self.nodes.get(child);
            node.is_some_and(|node| !node.is_whole() && tokens.starts_with(&node.tokens))
        });
        for chain in short.copied().collect::<Vec<_>>() {
            self.remove(chain);
        }
    }

    fn remove(&mut self, chain: Chain) {
        let Some(node) = self.nodes.remove(&chain) else { return };
        assert!(node.children.is_empty(), "only leaves are removed");
        self.leaves.remove(&(node.used, chain));
        self.bytes -= node.bytes();
        if let Some(parent) = node.parent.and_then(|parent| Some((parent, self.nodes.get_mut(&parent)?))) {
            let (chain_of_parent, parent) = parent;
            parent.children.remove(&chain);
            if parent.children.is_empty() && parent.parent.is_some() {
                self.leaves.insert((parent.used, chain_of_parent));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::page::Piece;
    use crate::cache::{Cache, HeadsLayout, KvKind, LayerLayout, Layout, RowsLayout};

    /// A line that says these tokens; nothing is computed, because the tree does not look at numbers.
    struct Line {
        tokens: Vec<Token>,
        cache: Cache,
        place: Place,
    }

    impl Line {
        fn new(prefix: &mut Prefix, state: usize, tokens: impl IntoIterator<Item = Token>) -> Line {
            let heads = HeadsLayout { heads: 1, key: 4, value: 4, shared: false };
            let rows = [4, 16, 3].map(|ratio| RowsLayout { width: 2, ratio });
            let layer = LayerLayout { heads: Some(heads), rows: rows.to_vec(), state };
            let cache = Cache::new(Arc::new(Layout { kind: KvKind::F16, layers: vec![layer] }));
            let place = prefix.root(Chain::root(b"test"));
            let mut line = Line { tokens: tokens.into_iter().collect(), cache, place };
            line.compute(prefix);
            line
        }

        fn compute(&mut self, prefix: &mut Prefix) {
            for position in self.cache.tokens()..self.tokens.len() {
                self.cache.grow(1);
                let memory = self.cache.layer_mut(0);
                let heads = memory.heads.as_mut().unwrap();
                heads.write(position, &[position as f32; 4], &[self.tokens[position] as f32; 4]);
                for (rows, ratio) in memory.rows.iter_mut().zip([4, 16, 3]) {
                    if (position + 1).is_multiple_of(ratio) {
                        rows.push(&[position as f32; 2]);
                    }
                }
                memory.state_mut().iter_mut().for_each(|state| *state += 1.0);
                self.cache.commit(1);
                let whole = self.cache.tokens();
                if whole.is_multiple_of(PAGE_TOKENS) {
                    let page = whole - PAGE_TOKENS..whole;
                    let states = self.cache.states_at(whole).cloned();
                    let tokens = &self.tokens[page.clone()];
                    self.place =
                        prefix.insert(&self.place, tokens, || self.cache.page(page), states.as_ref());
                }
            }
        }

        fn nodes<'a>(&self, prefix: &'a Prefix) -> Vec<&'a Node> {
            prefix.path(self.place.chain(), 0)
        }
    }

    #[test]
    fn two_lines_meet_as_far_as_they_say_the_same() {
        let mut prefix = Prefix::new(u64::MAX);
        let a = Line::new(&mut prefix, 0, 0..700);
        let b = Line::new(&mut prefix, 0, (0..300).chain(900..1400));
        let (a, b) = (a.nodes(&prefix), b.nodes(&prefix));
        assert_eq!((a.len(), b.len()), (2, 3));
        assert!(Arc::ptr_eq(a[0].page(), b[0].page()));
        assert_ne!(a[1].place().chain(), b[1].place().chain());
        let rest: Vec<Token> = (256..400).collect();
        let (node, common) = prefix.follow(a[0].place().chain(), &rest, false).unwrap();
        assert_eq!((node.place().chain(), common), (a[1].place().chain(), 144));
        assert!(
            prefix.follow(a[0].place().chain(), &rest, true).is_none(),
            "there are no states to go on from"
        );
        let alien = Chain::root(b"another model").then(&a[0].tokens);
        assert!(prefix.node(alien).is_none());
    }

    #[test]
    fn a_page_is_the_lines_own_numbers_and_goes_on_as_they_do() {
        let mut prefix = Prefix::new(u64::MAX);
        for state in [0, 5] {
            let line = Line::new(&mut prefix, state, 0..600);
            let mut other = Line::new(&mut prefix, state, []);
            let nodes = line.nodes(&prefix);
            let pieces = nodes.iter().map(|node| Piece { page: node.page(), states: node.states() });
            let pieces: Vec<_> = pieces.collect();
            other.cache.adopt(0, &pieces, 512);
            for (i, node) in line.nodes(&prefix).into_iter().enumerate() {
                let page = i * PAGE_TOKENS..(i + 1) * PAGE_TOKENS;
                assert!(other.cache.page(page).shares_all(node.page()), "no copies");
            }
            other.tokens = line.tokens.clone();
            other.compute(&mut prefix);
            let read = |line: &Line, list: usize| {
                let rows = &line.cache.layer(0).rows[list];
                let mut all = vec![0.0; 2 * rows.len()];
                for (row, to) in all.chunks_exact_mut(2).enumerate() {
                    rows.read(crate::kernels::Kernels::PLAIN, row, 1, to);
                }
                all
            };
            for list in 0..3 {
                assert_eq!(read(&line, list), read(&other, list));
            }
            assert_eq!(line.cache.layer(0).state(), other.cache.layer(0).state());
        }
    }

    #[test]
    fn what_nobody_used_for_longest_goes_first_and_what_a_line_holds_stays() {
        let mut prefix = Prefix::new(u64::MAX);
        let first = Line::new(&mut prefix, 0, 0..1024);
        let line = prefix.bytes();
        let second = Line::new(&mut prefix, 0, 5000..6024);
        assert_eq!(prefix.bytes(), 2 * line);
        let (old, held) = (first.place.clone(), second.place.clone());
        let beginning = first.nodes(&prefix)[1].place().chain();
        let end = old.chain();
        drop((first, second, old));
        prefix.set_bytes_max(line + line / 2);
        assert!(prefix.bytes() <= line + line / 2 && prefix.bytes() > line);
        assert!(
            prefix.node(end).is_none() && prefix.node(beginning).is_some(),
            "the older one loses its end"
        );
        assert_eq!(prefix.path(held.chain(), 0).len(), 4);
        prefix.set_bytes_max(1);
        assert_eq!(prefix.bytes(), line, "what is held stays");
        drop(held);
        prefix.trim();
        assert_eq!((prefix.bytes(), prefix.leaves.len(), prefix.nodes.len()), (0, 0, 1));
    }

    #[test]
    fn states_stay_where_lines_part_or_came_by() {
        let mut prefix = Prefix::new(u64::MAX);
        let a = Line::new(&mut prefix, 3, 0..2560);
        let b = Line::new(&mut prefix, 3, (0..512).chain(9000..9600));
        let with_states = |prefix: &Prefix, line: &Line| {
            let nodes = line.nodes(prefix).into_iter().filter(|node| node.states().is_some());
            nodes.map(|node| node.place().tokens()).collect::<Vec<_>>()
        };
        assert_eq!(with_states(&prefix, &a).len(), 10);
        prefix.meet(a.nodes(&prefix)[4].place().chain());
        let bytes = prefix.bytes();
        prefix.thin(&a.place, |tokens| tokens > 2000);
        assert_eq!(with_states(&prefix, &a), [512, 1280, 2048, 2304, 2560]);
        assert_eq!(with_states(&prefix, &b), [512, 768, 1024]);
        assert_eq!(bytes - prefix.bytes(), 5 * 12);
    }
}
