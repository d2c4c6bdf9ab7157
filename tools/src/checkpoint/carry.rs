//! Checkpoints carried elsewhere: all the content that they are made of, each piece once and named by its hash.
//!
//! What git keeps of its own stays behind and is not taken in: settings and hooks of a repository are programs that the next `git status`
//! of a person would run.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::pack::Hash;
use super::tree::{self, Folder, Kind};
use super::{Checkpoints, DEPTH_MAX, Root, State, Tree, gone, now};
use crate::Error;

/// What becomes of a text that is carried. Content that is no text stays as it is.
pub type Mask<'a> = &'a dyn Fn(&str) -> String;

/// What is done with each piece, by its name.
type Each<'a, E> = &'a mut dyn FnMut(&str, &[u8]) -> Result<(), E>;

/// Checkpoints that are to be carried elsewhere.
pub struct Cargo {
    /// What each of them is called there: something else where its text was changed.
    pub names: BTreeMap<Tree, Tree>,
    /// The pieces by their names there: what they are called here, and whether they are folders.
    pieces: BTreeMap<Hash, (Hash, bool)>,
    /// What everything is called there, by what it is called here.
    there: HashMap<Hash, Hash>,
}

impl Cargo {
    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there is nothing to carry.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

/// The name of a piece of content: its SHA-256.
pub fn name_of(content: &[u8]) -> String {
    Tree(Hash::of(content)).to_string()
}

impl Checkpoints {
    /// Looks through checkpoints that are to be carried elsewhere. Those that are no longer kept, or only in part, stay behind.
    ///
    /// # Errors
    /// [`Error::Uncovered`] when they hold more than `bytes_max`.
    pub fn load(&self, trees: &[Tree], mask: Mask<'_>, bytes_max: u64) -> Result<Cargo, Error> {
        let state = self.state();
        let (mut pieces, mut there) = (BTreeMap::new(), HashMap::new());
        let mut names = BTreeMap::new();
        let mut bytes = 0;
        for tree in trees.iter().collect::<BTreeSet<_>>() {
            let mut loading =
                Loading { state: &state, mask, known: &there, new: HashMap::new(), pieces: Vec::new() };
            // Of a tree that is not whole nothing is carried.
            let Some(name) = loading.folder(tree.0, 0)? else { continue };
            let Loading { new, pieces: found, .. } = loading;
            names.insert(*tree, Tree(name));
            there.extend(new);
            for (name, piece, length) in found {
                if pieces.insert(name, piece).is_none() {
                    bytes += length;
                }
            }
            if bytes > bytes_max {
                return Err(Error::Uncovered(format!(
                    "the checkpoints of its workspace hold more than {} MiB: export it without them",
                    bytes_max >> 20
                )));
            }
        }
        Ok(Cargo { names, pieces, there })
    }

    /// Hands out every piece of a cargo with its name.
    ///
    /// # Errors
    /// [`Error::Uncovered`] when one is gone meanwhile, and what `each` fails with.
    pub fn unload<E: From<Error>>(&self, cargo: &Cargo, mask: Mask<'_>, each: Each<'_, E>) -> Result<(), E> {
        for (there, (here, folder)) in &cargo.pieces {
            let content = {
                let state = self.state();
                state.packs.get(here).map_err(Error::io("reading a checkpoint"))?
            };
            let content = content.ok_or_else(|| gone(&Tree(*here)))?;
            let content = match folder {
                true => renamed(&content, |hash| cargo.there.get(hash).copied())
                    .ok_or_else(|| gone(&Tree(*here)))?,
                false => masked(content, mask),
            };
            each(&Tree(*there).to_string(), &content)?;
        }
        Ok(())
    }

    /// Takes a piece of content in.
    ///
    /// # Errors
    /// [`Error::Uncovered`] when it is not what its name says; otherwise when the folder cannot be written.
    pub fn take_in(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        if name_of(content) != name {
            return Err(Error::Uncovered("its content is not what its name says".to_owned()));
        }
        let put = self.state().packs.put(content);
        put.map(drop).map_err(Error::io("writing a checkpoint"))
    }

    /// Keeps checkpoints whose pieces were taken in for `owner`. Durable when it returns.
    ///
    /// # Errors
    /// [`Error::Uncovered`] when one of them lacks a piece, and then none is kept; otherwise when the folder cannot be written.
    pub fn settle(&self, owner: &str, trees: &[Tree]) -> Result<(), Error> {
        let mut state = self.state();
        for tree in trees {
            state.whole(&tree.0, 0).then_some(()).ok_or_else(|| gone(tree))?;
        }
        state.packs.sync().map_err(Error::io("writing a checkpoint"))?;
        for tree in trees {
            let root = Root { at_ms: now().as_millis() as u64, owner: owner.to_owned(), tree: *tree };
            self.write_down(&mut state, root)?;
        }
        Ok(())
    }
}

impl State {
    /// Whether everything that a folder holds is there.
    fn whole(&self, hash: &Hash, depth: usize) -> bool {
        let Some(folder) = self.folder(hash).filter(|_| depth < DEPTH_MAX) else { return false };
        !folder.contains_key(GIT)
            && folder.into_values().all(|entry| match entry.kind {
                Kind::Folder => self.whole(&entry.hash, depth + 1),
                Kind::File | Kind::Program | Kind::Link => self.packs.has(&entry.hash),
            })
    }
}

struct Loading<'a> {
    state: &'a State,
    mask: Mask<'a>,
    /// By their hashes here the hashes there: of earlier trees, and of this one.
    known: &'a HashMap<Hash, Hash>,
    new: HashMap<Hash, Hash>,
    /// The name there, the name here and whether it is a folder, the bytes.
    pieces: Vec<(Hash, (Hash, bool), u64)>,
}

impl Loading<'_> {
    /// What a folder is called there; nothing when it is not whole.
    fn folder(&mut self, hash: Hash, depth: usize) -> Result<Option<Hash>, Error> {
        if let Some(known) = self.known.get(&hash).or(self.new.get(&hash)) {
            return Ok(Some(*known));
        }
        let Some(mut folder) = self.state.folder(&hash).filter(|_| depth < DEPTH_MAX) else {
            return Ok(None);
        };
        without_git(&mut folder);
        for entry in folder.values_mut() {
            let there = match entry.kind {
                Kind::Folder => self.folder(entry.hash, depth + 1)?,
                Kind::File | Kind::Program | Kind::Link => self.file(entry.hash)?,
            };
            let Some(there) = there else { return Ok(None) };
            entry.hash = there;
        }
        Ok(Some(self.add(hash, &tree::encode(&folder), true)))
    }

    fn file(&mut self, hash: Hash) -> Result<Option<Hash>, Error> {
        if let Some(known) = self.known.get(&hash).or(self.new.get(&hash)) {
            return Ok(Some(*known));
        }
        let content = self.state.packs.get(&hash).map_err(Error::io("reading a checkpoint"))?;
        let Some(content) = content else { return Ok(None) };
        Ok(Some(self.add(hash, &masked(content, self.mask), false)))
    }

    fn add(&mut self, here: Hash, content: &[u8], folder: bool) -> Hash {
        let there = Hash::of(content);
        self.new.insert(here, there);
        self.pieces.push((there, (here, folder), content.len() as u64));
        there
    }
}

/// What git keeps of its own in a folder.
const GIT: &str = ".git";

fn without_git(folder: &mut Folder) {
    folder.remove(GIT);
}

/// A folder's content with other names for what it holds.
fn renamed(content: &[u8], there: impl Fn(&Hash) -> Option<Hash>) -> Option<Vec<u8>> {
    let mut folder = tree::decode(content)?;
    without_git(&mut folder);
    for entry in folder.values_mut() {
        entry.hash = there(&entry.hash)?;
    }
    Some(tree::encode(&folder))
}

fn masked(content: Vec<u8>, mask: Mask<'_>) -> Vec<u8> {
    match String::from_utf8(content) {
        Ok(text) => mask(&text).into_bytes(),
        Err(no_text) => no_text.into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Entry;
    use super::*;

    type Pieces = Vec<(String, Vec<u8>)>;

    /// A tree of one file below a folder, and another beside it.
    fn kept(checkpoints: &Checkpoints, deep: &str, top: &[u8]) -> Tree {
        let mut state = checkpoints.state();
        let mut put = |content: &[u8]| state.packs.put(content).unwrap();
        let (deep, top) = (put(deep.as_bytes()), put(top));
        let inner = BTreeMap::from([("a".to_owned(), Entry { kind: Kind::Program, mode: None, hash: deep })]);
        let inner = put(&tree::encode(&inner));
        let outer = BTreeMap::from([
            ("in".to_owned(), Entry { kind: Kind::Folder, mode: None, hash: inner }),
            ("top".to_owned(), Entry { kind: Kind::File, mode: None, hash: top }),
        ]);
        Tree(put(&tree::encode(&outer)))
    }

    fn carry(from: &Checkpoints, trees: &[Tree], mask: Mask<'_>) -> (BTreeMap<Tree, Tree>, Pieces) {
        let cargo = from.load(trees, mask, 1 << 20).unwrap();
        let mut pieces = Vec::new();
        let each = &mut |name: &str, content: &[u8]| {
            pieces.push((name.to_owned(), content.to_owned()));
            Ok::<_, Error>(())
        };
        from.unload(&cargo, mask, each).unwrap();
        assert_eq!(pieces.len(), cargo.len());
        (cargo.names, pieces)
    }

    #[test]
    fn what_git_keeps_of_its_own_is_neither_carried_nor_taken_in() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Checkpoints::open(&dir.path().join(name), 1 << 20).unwrap();
        let (here, there) = (open("here"), open("there"));
        let with_git = {
            let mut state = here.state();
            let mut put = |content: &[u8]| state.packs.put(content).unwrap();
            let entry = |kind, hash| Entry { kind, mode: None, hash };
            let hook = BTreeMap::from([("hook".to_owned(), entry(Kind::Program, put(b"#!/bin/sh")))]);
            let git = put(&tree::encode(&hook));
            let file = put(b"text");
            let folder = |names: [(&str, Entry); 2]| {
                tree::encode(&names.map(|(name, entry)| (name.to_owned(), entry)).into_iter().collect())
            };
            let inner = [(GIT, entry(Kind::Folder, git)), ("a", entry(Kind::File, file))];
            let inner = put(&folder(inner));
            let outer = [(GIT, entry(Kind::Folder, git)), ("in", entry(Kind::Folder, inner))];
            Tree(put(&folder(outer)))
        };
        let (names, pieces) = carry(&here, &[with_git], &|text| text.to_owned());
        assert!(!pieces.iter().any(|(_, content)| content.starts_with(b"#!")), "no hook leaves");
        for (name, content) in &pieces {
            there.take_in(name, content).unwrap();
        }
        there.settle("s", &[names[&with_git]]).unwrap();
        // Somebody else's file may be made by hand.
        let everything: Vec<Vec<u8>> = {
            let state = here.state();
            let names = [with_git.0]
                .into_iter()
                .chain(state.folder(&with_git.0).unwrap().into_values().map(|e| e.hash));
            let all: Vec<Hash> = names.collect();
            let deeper =
                all.iter().skip(1).flat_map(|hash| state.folder(hash).unwrap().into_values().map(|e| e.hash));
            let all: Vec<Hash> = all.iter().copied().chain(deeper.collect::<Vec<_>>()).collect();
            all.iter().map(|hash| state.packs.get(hash).unwrap().unwrap()).collect()
        };
        for content in everything {
            there.take_in(&name_of(&content), &content).unwrap();
        }
        assert!(there.settle("s", &[with_git]).is_err(), "a tree with what git keeps is refused");
    }

    #[test]
    fn checkpoints_are_the_same_elsewhere_and_only_whole_ones_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Checkpoints::open(&dir.path().join(name), 1 << 20).unwrap();
        let (here, there) = (open("here"), open("there"));
        let (one, two) = (kept(&here, "deep", b"\xff\x00"), kept(&here, "deep", b"else"));
        let same = |text: &str| text.to_owned();
        let (names, pieces) = carry(&here, &[two, one, one], &same);
        assert_eq!(names, BTreeMap::from([(one, one), (two, two)]));
        assert_eq!(pieces.len(), 6, "what both have is carried once");
        assert!(here.load(&[one], &same, 4).is_err(), "there is a bound");
        for (name, content) in &pieces[1..] {
            there.take_in(name, content).unwrap();
        }
        let whole = |tree: &Tree| there.settle("s", &[*tree]).is_ok();
        assert!(!whole(&one) || !whole(&two), "a piece is missing");
        assert!(there.take_in(&pieces[0].0, b"other").is_err());
        there.take_in(&pieces[0].0, &pieces[0].1).unwrap();
        there.settle("s", &[one, two]).unwrap();
        assert_eq!(there.content(&one, "in/a").unwrap().unwrap(), b"deep");
        assert_eq!(there.content(&one, "top").unwrap().unwrap(), b"\xff\x00");
        assert_eq!(carry(&there, &[one, two], &same).1, pieces);
        // One that is not kept stays behind, and takes nothing along.
        let nowhere = Tree(Hash::of(b"nothing"));
        assert!(carry(&here, &[nowhere], &same).1.is_empty());
    }

    #[test]
    fn texts_that_are_changed_have_other_names_all_the_way_up() {
        let dir = tempfile::tempdir().unwrap();
        let here = Checkpoints::open(&dir.path().join("here"), 1 << 20).unwrap();
        let there = Checkpoints::open(&dir.path().join("there"), 1 << 20).unwrap();
        let (one, two) = (kept(&here, "the word is hush", b"1"), kept(&here, "nothing", b"hush \xff"));
        let mask = |text: &str| text.replace("hush", "***");
        let (names, pieces) = carry(&here, &[one, two], &mask);
        assert!(names[&one] != one && names[&two] == two, "what is no text stays as it is");
        for (name, content) in &pieces {
            there.take_in(name, content).unwrap();
        }
        there.settle("s", &[names[&one], two]).unwrap();
        assert_eq!(there.content(&names[&one], "in/a").unwrap().unwrap(), b"the word is ***");
        assert_eq!(carry(&there, &[names[&one], two], &mask).1, pieces);
    }
}
