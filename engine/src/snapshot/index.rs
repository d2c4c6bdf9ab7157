//! What lies on disk: which files there are, which lines need them, and which line was written least recently.

use std::collections::{BTreeMap, BTreeSet};

use super::frame::Kind;
use crate::cache::{Chain, PAGE_TOKENS};

/// A file that lines can share.
pub(super) type Part = (Kind, Chain);

/// What is known of a line on disk: its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// What it is kept under.
    pub(super) name: String,
    /// What it was computed with.
    pub(super) root: Chain,
    /// Its whole pages, in order.
    pub(super) pages: Vec<Chain>,
    /// What follows them, and how many tokens that is.
    pub(super) tail: Option<(Chain, usize)>,
    /// The places whose states are kept.
    pub(super) states: Vec<Chain>,
}

impl Manifest {
    /// All files it needs.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part> {
        let pages = self.pages.iter().copied().chain(self.tail.map(|(tail, _)| tail));
        pages.map(|chain| (Kind::Page, chain)).chain(self.states.iter().map(|&chain| (Kind::States, chain)))
    }

    /// What is left of it when only some files are there: the pages up to the first that is missing.
    pub(super) fn reduced(mut self, there: impl Fn(&Part) -> bool) -> Manifest {
        let whole = self.pages.iter().take_while(|&&chain| there(&(Kind::Page, chain))).count();
        if whole < self.pages.len() {
            self.pages.truncate(whole);
            self.tail = None;
        }
        self.tail.take_if(|(chain, _)| !there(&(Kind::Page, *chain)));
        let pages: BTreeSet<Chain> =
            self.pages.iter().copied().chain(self.tail.map(|(tail, _)| tail)).collect();
        self.states.retain(|&chain| pages.contains(&chain) && there(&(Kind::States, chain)));
        self
    }

    /// Its bytes on disk, without the root, which the frame holds.
    pub(super) fn put(&self, to: &mut Vec<u8>) {
        let count = |n: usize| u32::try_from(n).expect("a line has fewer than 2³² pages").to_le_bytes();
        to.extend_from_slice(&count(self.name.len()));
        to.extend_from_slice(self.name.as_bytes());
        to.extend_from_slice(&count(self.tail.map_or(0, |(_, tokens)| tokens)));
        let tail = self.tail.iter().map(|(chain, _)| chain);
        to.extend(tail.flat_map(Chain::bytes));
        for chains in [&self.pages, &self.states] {
            to.extend_from_slice(&count(chains.len()));
            to.extend(chains.iter().flat_map(Chain::bytes));
        }
    }

    /// Reads what [`Manifest::put`] wrote; none if it is something else.
    pub(super) fn take(root: Chain, mut from: &[u8]) -> Option<Manifest> {
        fn count(from: &mut &[u8]) -> Option<usize> {
            let (bytes, rest) = from.split_first_chunk()?;
            *from = rest;
            usize::try_from(u32::from_le_bytes(*bytes)).ok()
        }
        fn chain(from: &mut &[u8]) -> Option<Chain> {
            let (bytes, rest) = from.split_first_chunk()?;
            *from = rest;
            Some(Chain::from_bytes(*bytes))
        }
        let len = count(&mut from)?;
        let (name, rest) = from.split_at_checked(len)?;
        from = rest;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        let tokens = count(&mut from).filter(|&tokens| tokens < PAGE_TOKENS)?;
        let tail = if tokens > 0 { Some((chain(&mut from)?, tokens)) } else { None };
        let mut lists = [Vec::new(), Vec::new()];
        for list in &mut lists {
            // As many as there are bytes for, whatever the number says.
            for _ in 0..count(&mut from)? {
                list.push(chain(&mut from)?);
            }
        }
        let [pages, states] = lists;
        from.is_empty().then_some(Manifest { name, root, pages, tail, states })
    }
}

/// What lies on disk.
#[derive(Default)]
pub(super) struct Index {
    lines: BTreeMap<String, Line>,
    files: BTreeMap<Part, File>,
    /// Files that no line needs.
    unused: BTreeSet<Part>,
    /// By the place they follow: ends of lines, and how many tokens they are.
    tails: BTreeMap<Chain, BTreeMap<Chain, usize>>,
    bytes: u64,
    /// Counts writings.
    clock: u64,
}

struct Line {
    manifest: Manifest,
    bytes: u64,
    written: u64,
}

struct File {
    bytes: u64,
    lines: usize,
}

impl Index {
    /// What everything takes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many lines there are.
    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn has(&self, part: Part) -> bool {
        self.files.contains_key(&part)
    }

    /// Ends of lines that follow a place: how many tokens each is, and its chain.
    pub(super) fn tails(&self, place: Chain) -> Vec<(usize, Chain)> {
        self.tails.get(&place).into_iter().flatten().map(|(&chain, &tokens)| (tokens, chain)).collect()
    }

    /// Takes in a file that was written, and that no line needs yet.
    pub(super) fn add(&mut self, part: Part, bytes: u64) {
        let lines = self.files.get(&part).map_or(0, |file| file.lines);
        self.lose(part);
        self.bytes += bytes;
        self.files.insert(part, File { bytes, lines });
        if lines == 0 {
            self.unused.insert(part);
        }
    }

    /// Forgets a file that is gone or of no use. Its lines still name it, should it come back.
    pub(super) fn lose(&mut self, part: Part) {
        if let Some(file) = self.files.remove(&part) {
            self.bytes -= file.bytes;
            self.unused.remove(&part);
        }
    }

    /// Takes in a line that was written, in place of what was there under its name.
    pub(super) fn put(&mut self, manifest: Manifest, bytes: u64) {
        self.remove(&manifest.name);
        for part in manifest.parts() {
            if let Some(file) = self.files.get_mut(&part) {
                file.lines += 1;
                self.unused.remove(&part);
            }
        }
        if let Some((tail, tokens)) = manifest.tail {
            let place = manifest.pages.last().copied().unwrap_or(manifest.root);
            self.tails.entry(place).or_default().insert(tail, tokens);
        }
        self.clock += 1;
        self.bytes += bytes;
        self.lines.insert(manifest.name.clone(), Line { manifest, bytes, written: self.clock });
    }

    /// Forgets a line; whether there was one.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some(line) = self.lines.remove(name) else { return false };
        self.bytes -= line.bytes;
        for part in line.manifest.parts() {
            if let Some(file) = self.files.get_mut(&part) {
                // A file that was lost and written again is needed by fewer lines than name it.
                file.lines = file.lines.saturating_sub(1);
                if file.lines == 0 {
                    self.unused.insert(part);
                }
            }
        }
        if let Some((tail, _)) = line.manifest.tail {
            let place = line.manifest.pages.last().copied().unwrap_or(line.manifest.root);
            let others =
                self.lines.values().any(|other| other.manifest.tail.is_some_and(|(chain, _)| chain == tail));
            if !others && let Some(tails) = self.tails.get_mut(&place) {
                tails.remove(&tail);
                if tails.is_empty() {
                    self.tails.remove(&place);
                }
            }
        }
        true
    }

    /// Files that no line needs, except some.
    pub(super) fn unused(&self, except: &BTreeSet<Part>) -> Vec<Part> {
        self.unused.difference(except).copied().collect()
    }

    /// The line that was written least recently, other than `except`.
    pub(super) fn oldest(&self, except: &str) -> Option<String> {
        let lines = self.lines.iter().filter(|(name, _)| *name != except);
        lines.min_by_key(|(_, line)| line.written).map(|(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chains(names: &[u32]) -> Vec<Chain> {
        names.iter().map(|&name| Chain::root(b"test").then(&[name])).collect()
    }

    fn manifest(name: &str, pages: &[u32], tail: Option<u32>) -> Manifest {
        let tail = tail.map(|tail| (chains(&[tail])[0], 9));
        let states = tail.iter().map(|&(chain, _)| chain).collect();
        Manifest { name: name.into(), root: Chain::root(b"test"), pages: chains(pages), tail, states }
    }

    fn index(lines: &[Manifest]) -> Index {
        let mut index = Index::default();
        for line in lines {
            line.parts().for_each(|part| index.add(part, 100));
            index.put(line.clone(), 1);
        }
        index
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_no_bytes_make_it_panic() {
        for manifest in [manifest("s-1", &[1, 2, 3], Some(4)), manifest("", &[], None)] {
            let mut bytes = Vec::new();
            manifest.put(&mut bytes);
            assert_eq!(Manifest::take(manifest.root, &bytes), Some(manifest.clone()));
            for cut in 0..bytes.len() {
                assert_eq!(Manifest::take(manifest.root, &bytes[..cut]), None);
                let mut bad = bytes.clone();
                bad[cut] = 0xff;
                let _ = Manifest::take(manifest.root, &bad);
            }
        }
    }

    #[test]
    fn what_lines_share_stays_until_the_last_of_them_goes() {
        let mut index = index(&[manifest("a", &[1, 2], Some(3)), manifest("b", &[1, 4], None)]);
        assert_eq!(index.bytes(), 5 * 100 + 2);
        assert!(index.unused(&BTreeSet::new()).is_empty());
        assert_eq!(index.oldest(""), Some("a".into()));
        assert_eq!(index.oldest("a"), Some("b".into()));
        assert_eq!(index.tails(chains(&[2])[0]), [(9, chains(&[3])[0])]);
        assert!(index.remove("a") && !index.remove("a"));
        assert!(index.tails(chains(&[2])[0]).is_empty());
        let unused = index.unused(&BTreeSet::new());
        let expected = chains(&[2, 3]).into_iter().map(|chain| (Kind::Page, chain));
        let mut expected: Vec<Part> = expected.chain([(Kind::States, chains(&[3])[0])]).collect();
        expected.sort();
        assert_eq!(unused, expected);
        unused.into_iter().for_each(|part| index.lose(part));
        assert_eq!(index.bytes(), 2 * 100 + 1);
    }

    #[test]
    fn a_line_that_is_written_again_keeps_what_it_still_needs() {
        let mut index = index(&[manifest("a", &[1], Some(2)), manifest("a", &[1, 3], None)]);
        let unused = index.unused(&BTreeSet::new());
        assert_eq!(unused, [(Kind::Page, chains(&[2])[0]), (Kind::States, chains(&[2])[0])]);
        let kept: BTreeSet<Part> = [(Kind::Page, chains(&[2])[0])].into();
        assert_eq!(index.unused(&kept).len(), 1);
        assert_eq!(index.lines(), 1);
        // A file that was found to be damaged is written again, and then needed once more.
        let one = (Kind::Page, chains(&[1])[0]);
        index.lose(one);
        assert!(!index.has(one));
        index.add(one, 100);
        index.put(manifest("a", &[1, 3], None), 1);
        assert!(!index.unused(&BTreeSet::new()).contains(&one));
        assert!(index.remove("a") && index.unused(&BTreeSet::new()).contains(&one));
    }

    #[test]
    fn a_line_ends_where_its_first_file_is_missing() {
        let line = manifest("a", &[1, 2, 3], Some(4));
        let without = |missing: Part| line.clone().reduced(|part| *part != missing);
        let [one, three, four] = [1, 3, 4].map(|name| chains(&[name])[0]);
        assert_eq!(without((Kind::Page, three)), manifest("a", &[1, 2], None));
        assert_eq!(without((Kind::Page, four)), manifest("a", &[1, 2, 3], None));
        assert!(without((Kind::Page, one)).pages.is_empty());
        let no_states = without((Kind::States, four));
        assert_eq!((no_states.tail, no_states.states.len()), (line.tail, 0));
    }
}
