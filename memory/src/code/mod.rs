//! Code search: the files of a folder and its commits, found by words and by what they mean.
//!
//! The index has a folder of its own and is made of nothing but what it is given: it can be deleted at any time and is then made
//! anew. It knows nothing of languages: somebody else cuts files into chunks. A file whose content is as it was is neither cut
//! nor embedded again, wherever it lies by now.
//!
//! ```
//! use memory::code::{Chunk, CodeIndex, CodeQuery};
//! # fn main() -> Result<(), memory::Error> {
//! # let dir = tempfile::tempdir().expect("a folder for the example");
//! let mut index = CodeIndex::open(dir.path(), None)?;
//! let text = "fn evict_oldest(&mut self) { self.pages.pop_front(); }";
//! let files = [("cache.rs".to_string(), memory::Digest::of(text.as_bytes()))];
//! let changes = index.update(&files, &mut |_path| {
//!     vec![Chunk { symbol: "evict_oldest".into(), lines: (1, 1), text: text.into(), ..Chunk::default() }]
//! })?;
//! assert_eq!(changes.cut, 1);
//! let hits = index.search(&CodeQuery { text: "throw out the oldest page".into(), ..CodeQuery::default() })?;
//! assert_eq!((hits[0].path.as_str(), hits[0].symbol.as_str()), ("cache.rs", "evict_oldest"));
//! # Ok(())
//! # }
//! ```

pub mod eval;
mod search;
mod store;
mod words;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::recall::Cutter;
use crate::{Digest, Embedder, Error};
use search::{FORMULA, Formula, Postings};
use store::{Key, Known, Vectors};
use words::{Asked, Meanings, Word};

/// Texts embedded at once, and saved at once.
const EMBED_TEXTS: usize = 32;
/// The most hits of a search.
const HITS_MAX: usize = 1_000;
/// Words of a question that are looked at.
const TERMS_MAX: usize = 64;
/// Commits that are kept: the newest.
const COMMITS_MAX: usize = 20_000;

/// A piece of a file. What is not known of it is left empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    /// The name of the definition it is or belongs to.
    pub symbol: String,
    /// The names of what that lies in and what it implements, the outermost first.
    pub containers: Vec<String>,
    /// What stands before the definition's body.
    pub signature: String,
    /// The definition's documentation.
    pub doc: String,
    /// What is said of the things it lies in.
    pub context: String,
    /// Its text, without the documentation.
    pub text: String,
    /// Its first and last line, counted from 1.
    pub lines: (u32, u32),
    /// Whether it is part of a test or an example.
    pub test: bool,
    /// Whether it does what was declared, and documented, elsewhere.
    pub implements: bool,
}

/// A change that was made to files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// What names it.
    pub id: String,
    /// When it was made, in milliseconds since 1970.
    pub at_ms: u64,
    /// What its author says of it.
    pub message: String,
    /// The files it touched.
    pub paths: Vec<String>,
}

/// What is looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeQuery {
    /// Words, in no syntax.
    pub text: String,
    /// Only in files whose path begins with this.
    pub below: String,
    /// The most hits.
    pub limit: usize,
}

impl Default for CodeQuery {
    fn default() -> CodeQuery {
        CodeQuery { text: String::new(), below: String::new(), limit: 10 }
    }
}

/// Something that fits.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeHit {
    /// The file.
    pub path: String,
    /// Its first and last line, counted from 1, as they were when the file was cut.
    pub lines: (u32, u32),
    /// The definition's name; empty for what is none.
    pub symbol: String,
    /// What it lies in, the outermost first.
    pub containers: Vec<String>,
    /// How well it fits; more is better. Scores of one index can be compared.
    pub score: f32,
    /// Why it was found.
    pub why: CodeWhy,
}

/// Why something was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CodeWhy {
    /// The question's words that it has.
    pub words: Vec<String>,
    /// What its words count: 1 would be all of the question's words, each very often.
    pub lexical: f32,
    /// The cosine of the question and what it is; nothing when it has no vector yet.
    pub cosine: Option<f32>,
    /// The commit that touched its file and fits best.
    pub commit: Option<String>,
}

/// What an update did, in files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// They are as they were.
    pub kept: usize,
    /// They lie elsewhere now, and are otherwise as they were.
    pub moved: usize,
    /// They were cut.
    pub cut: usize,
    /// They are there no more.
    pub gone: usize,
}

/// The index of a folder's files and commits.
pub struct CodeIndex {
    dir: PathBuf,
    embedder: Option<Arc<dyn Embedder>>,
    cutter: Cutter,
    meanings: Meanings,
    known: Known,
    /// Texts that have no vectors yet, by key.
    waiting: BTreeMap<Key, String>,
    vectors: Option<Vectors>,
    postings: Postings,
    rebuilt: Option<String>,
    formula: Formula,
}

struct KnownFile {
    path: String,
    digest: Digest,
    chunks: Vec<KnownChunk>,
}

struct KnownChunk {
    symbol: String,
    containers: Vec<String>,
    lines: (u32, u32),
    flags: u8,
    key: Key,
    words: Box<[Word]>,
}

struct KnownCommit {
    id: String,
    at_ms: u64,
    paths: Vec<String>,
    words: Box<[Word]>,
}

const TEST: u8 = 1;
const IMPLEMENTS: u8 = 2;

impl CodeIndex {
    /// Opens the index in a folder, which is made if it is not there. A damaged index is empty, and [`rebuilt`](Self::rebuilt)
    /// says why; the next update fills it again. Without an embedder it goes by words alone.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn open(dir: &Path, embedder: Option<Arc<dyn Embedder>>) -> Result<CodeIndex, Error> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let (known, rebuilt) = match store::load(&dir.join("known"))? {
            Ok(known) => (known, None),
            Err(reason) => (Known::default(), Some(reason)),
        };
        let vectors = embedder
            .as_ref()
            .map(|embedder| Vectors::open(&dir.join("vectors"), embedder.name(), embedder.dimensions()));
        let vectors = vectors.transpose()?;
        let cutter = Cutter::new();
        let meanings = Meanings::new(&cutter);
        let mut index = CodeIndex {
            dir: dir.to_path_buf(),
            embedder,
            cutter,
            meanings,
            known,
            waiting: BTreeMap::new(),
            vectors,
            postings: Postings::default(),
            rebuilt,
            formula: FORMULA,
        };
        index.index();
        Ok(index)
    }

    /// Why the index was not as it should be when it was opened, if so: it was made anew, empty.
    pub fn rebuilt(&self) -> Option<&str> {
        self.rebuilt.as_deref()
    }

    /// How many chunks are in.
    pub fn len(&self) -> usize {
        self.known.files.iter().map(|file| file.chunks.len()).sum()
    }

    /// Whether nothing is in.
    pub fn is_empty(&self) -> bool {
        self.known.files.is_empty()
    }

    /// Brings the index level with the files there are, each with its path and the digest of its content. `cut` is asked for the
    /// chunks of those that are new or changed. What is new is found by its words from now on; [`embed`](Self::embed) does the rest.
    ///
    /// # Errors
    /// When the index cannot be written. What is known in memory is level all the same.
    pub fn update(
        &mut self,
        files: &[(String, Digest)],
        cut: &mut dyn FnMut(&str) -> Vec<Chunk>,
    ) -> Result<Changes, Error> {
        let mut changes = Changes::default();
        let there: HashSet<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
        let old = std::mem::take(&mut self.known.files);
        let (mut left, mut gone): (HashMap<String, KnownFile>, HashMap<Digest, KnownFile>) =
            Default::default();
        let mut lost = 0;
        for file in old {
            if there.contains(file.path.as_str()) {
                left.insert(file.path.clone(), file);
            } else {
                lost += 1;
                gone.insert(file.digest, file);
            }
        }
        let mut known = Vec::with_capacity(files.len());
        for (path, digest) in files {
            let file = match left.remove(path).filter(|file| file.digest == *digest && self.is_embedded(file))
            {
                Some(file) => {
                    changes.kept += 1;
                    file
                }
                None => match gone.remove(digest).filter(|file| self.is_embedded(file)) {
                    Some(file) => {
                        changes.moved += 1;
                        self.moved(file, path)
                    }
                    None => {
                        changes.cut += 1;
                        self.cut(path, *digest, cut(path))
                    }
                },
            };
            known.push(file);
        }
        changes.gone = lost - changes.moved;
        known.sort_by(|a: &KnownFile, b| a.path.cmp(&b.path));
        known.dedup_by(|a, b| a.path == b.path);
        self.known.files = known;
        self.index();
        if changes.kept < files.len() || lost > 0 {
            self.save()?;
        }
        Ok(changes)
    }

    /// Whether a file's chunks have their vectors, or are waiting for them: if not, their texts are needed again.
    fn is_embedded(&self, file: &KnownFile) -> bool {
        let Some(vectors) = &self.vectors else { return true };
        file.chunks.iter().all(|chunk| vectors.has(&chunk.key) || self.waiting.contains_key(&chunk.key))
    }

    fn cut(&mut self, path: &str, digest: Digest, chunks: Vec<Chunk>) -> KnownFile {
        let mut known = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let words = self.known.words.words(&words::bags(&self.cutter, path, &chunk));
            let text = words::embedded(&chunk);
            let key = store::key(&text);
            if self.vectors.as_ref().is_some_and(|vectors| !vectors.has(&key)) {
                self.waiting.insert(key, text);
            }
            let flag = |is: bool, flag: u8| if is { flag } else { 0 };
            known.push(KnownChunk {
                flags: flag(chunk.test, TEST) | flag(chunk.implements, IMPLEMENTS),
                symbol: chunk.symbol,
                containers: chunk.containers,
                lines: chunk.lines,
                key,
                words,
            });
        }
        KnownFile { path: path.to_owned(), digest, chunks: known }
    }

    /// A file under its new path.
    fn moved(&mut self, file: KnownFile, path: &str) -> KnownFile {
        let of_path = words::bags(&self.cutter, path, &Chunk::default());
        let of_path = self.known.words.words(&of_path);
        let mut file = KnownFile { path: path.to_owned(), ..file };
        for chunk in &mut file.chunks {
            let rest = chunk.words.iter().filter(|word| word.field != words::Field::Path as u8);
            let mut all: Vec<Word> = rest.chain(&*of_path).copied().collect();
            all.sort_by_key(|word| word.field);
            chunk.words = all.into();
        }
        file
    }

    fn index(&mut self) {
        let chunks = self.known.files.iter().flat_map(|file| &file.chunks);
        self.postings = Postings::new(&self.known.words, chunks.map(|chunk| &*chunk.words));
    }

    fn save(&self) -> Result<(), Error> {
        store::save(&self.dir.join("known"), &self.known)
    }

    /// Makes the vectors that are missing, some at a time, and keeps them as they come. `tell` hears how many were made, of how
    /// many, and may stop the work; what is missing then is made the next time.
    ///
    /// # Errors
    /// What the embedder says, or when the index cannot be written.
    pub fn embed(&mut self, tell: &mut dyn FnMut(usize, usize) -> ControlFlow<()>) -> Result<(), Error> {
        let (Some(embedder), Some(vectors)) = (&self.embedder, &mut self.vectors) else { return Ok(()) };
        let used: HashSet<Key> =
            self.known.files.iter().flat_map(|file| &file.chunks).map(|chunk| chunk.key).collect();
        self.waiting.retain(|key, _| used.contains(key) && !vectors.has(key));
        // Texts of the same length together.
        let mut order: Vec<(usize, Key)> =
            self.waiting.iter().map(|(key, text)| (text.len(), *key)).collect();
        order.sort_unstable();
        let total = order.len();
        for (n, batch) in order.chunks(EMBED_TEXTS).enumerate() {
            let keys: Vec<Key> = batch.iter().map(|(_, key)| *key).collect();
            let texts: Vec<&str> = keys.iter().map(|key| self.waiting[key].as_str()).collect();
            let made = embedder.embed(&texts)?;
            vectors.add(&keys, &made)?;
            keys.iter().for_each(|key| {
                self.waiting.remove(key);
            });
            if tell((n * EMBED_TEXTS + keys.len()).min(total), total).is_break() {
                return Ok(());
            }
        }
        vectors.squeeze(&used)
    }

    /// Takes in commits that are not known yet. Of more than there is room for, the newest stay.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn add_commits(&mut self, commits: Vec<Commit>) -> Result<usize, Error> {
        let mut ids: HashSet<String> = self.known.commits.iter().map(|commit| commit.id.clone()).collect();
        let mut added = 0;
        for commit in commits {
            if !ids.insert(commit.id.clone()) {
                continue;
            }
            let mut bag = crate::recall::Bag::default();
            bag.put(&self.cutter.terms(&commit.message), 1);
            let words = self.known.words.words(&[bag]);
            let Commit { id, at_ms, paths, .. } = commit;
            self.known.commits.push(KnownCommit { id, at_ms, paths, words });
            added += 1;
        }
        if added > 0 {
            self.known.commits.sort_by(|a, b| a.at_ms.cmp(&b.at_ms).then(a.id.cmp(&b.id)));
            let many = self.known.commits.len().saturating_sub(COMMITS_MAX);
            self.known.commits.drain(..many);
            self.index();
            self.save()?;
        }
        Ok(added)
    }

    /// What fits a question, best first.
    ///
    /// # Errors
    /// What the embedder says.
    pub fn search(&self, query: &CodeQuery) -> Result<Vec<CodeHit>, Error> {
        let mut asked = self.meanings.asked(&self.cutter, &query.text);
        asked.truncate(TERMS_MAX);
        if asked.is_empty() && !query.text.chars().any(char::is_alphanumeric) {
            return Ok(Vec::new());
        }
        let lexical = self.postings.scores(&self.known.words, &asked, &self.formula);
        let cosines = match (&self.embedder, &self.vectors) {
            (Some(embedder), Some(vectors)) => {
                let vector = embedder.embed(&[query.text.as_str()])?.pop().unwrap_or_default();
                vectors.cosines(&vector)
            }
            _ => Vec::new(),
        };
        let commits = self.fitting_commits(&asked);
        let mut hits: Vec<Scored<'_>> = Vec::new();
        let chunks =
            self.known.files.iter().flat_map(|file| file.chunks.iter().map(move |chunk| (file, chunk)));
        for (n, (file, chunk)) in chunks.enumerate() {
            if !file.path.starts_with(&query.below) {
                continue;
            }
            let row = self.vectors.as_ref().and_then(|vectors| vectors.row(&chunk.key));
            let cosine = row.and_then(|row| cosines.get(row as usize).copied());
            let commit = commits.get(file.path.as_str()).copied();
            let lexical = lexical[n];
            let score =
                self.formula.score(lexical, cosine, chunk.flags, commit.map_or(0.0, |(share, _)| share));
            if score > 0.0 {
                hits.push(Scored { n, score, file, chunk, lexical, cosine, commit });
            }
        }
        let limit = query.limit.min(HITS_MAX);
        let best_first = |a: &Scored<'_>, b: &Scored<'_>| b.score.total_cmp(&a.score).then(a.n.cmp(&b.n));
        if hits.len() > limit && limit > 0 {
            hits.select_nth_unstable_by(limit - 1, best_first);
        }
        hits.truncate(limit);
        hits.sort_by(best_first);
        Ok(hits.into_iter().map(|hit| self.told(hit, &asked)).collect())
    }

    fn told(&self, hit: Scored<'_>, asked: &[Asked]) -> CodeHit {
        let has = |word: &&Asked| {
            let id = self.known.words.find(&word.term);
            id.is_some_and(|id| hit.chunk.words.iter().any(|word| word.term == id))
        };
        CodeHit {
            path: hit.file.path.clone(),
            lines: hit.chunk.lines,
            symbol: hit.chunk.symbol.clone(),
            containers: hit.chunk.containers.clone(),
            score: hit.score,
            why: CodeWhy {
                words: asked.iter().filter(has).map(|word| word.term.clone()).collect(),
                lexical: hit.lexical,
                cosine: hit.cosine,
                commit: hit.commit.map(|(_, n)| self.known.commits[n].id.clone()),
            },
        }
    }

    /// By path: what the best of the commits that touched it has of the question's words, and which one it is.
    fn fitting_commits(&self, asked: &[Asked]) -> HashMap<&str, (f32, usize)> {
        let mut fitting: HashMap<&str, (f32, usize)> = HashMap::new();
        for (n, share) in search::commits(&self.known, asked) {
            let commit = &self.known.commits[n];
            // Who touches everything says little about each.
            let share = share / (1.0 + (commit.paths.len().max(1) as f32).ln());
            for path in &commit.paths {
                let best = fitting.entry(path).or_insert((0.0, n));
                if share >= best.0 {
                    *best = (share, n);
                }
            }
        }
        fitting
    }
}

/// A chunk that may be a hit.
struct Scored<'a> {
    n: usize,
    score: f32,
    file: &'a KnownFile,
    chunk: &'a KnownChunk,
    lexical: f32,
    cosine: Option<f32>,
    commit: Option<(f32, usize)>,
}

impl fmt::Debug for CodeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeIndex").field("dir", &self.dir).field("files", &self.known.files.len()).finish()
    }
}

#[cfg(test)]
mod tests;
