//! What of a chunk is searched: its words by field, and the texts its vectors are made of; and which words of code stand for a word
//! of a question.

use std::collections::{BTreeMap, HashMap};

use std::sync::Arc;

use super::Chunk;
use crate::recall::{Bag, Cutter};

/// Where a word stands. A file's index keeps these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// The symbol's own name.
    Name = 0,
    /// What it lies in and what it implements.
    Of = 1,
    /// Its documentation.
    Doc = 2,
    /// Its text, signature and all.
    Text = 3,
    /// The file's path.
    Path = 4,
    /// What is said of the things it lies in.
    Context = 5,
}

/// How many fields there are in a file's index.
pub(super) const FIELDS: usize = 6;

/// A word in a field of a chunk, and how often it stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    /// Its number in the dictionary.
    pub(super) term: u32,
    /// A [`Field`].
    pub(super) field: u8,
    pub(super) count: u16,
}

/// All words there are, by number.
#[derive(Default)]
pub(super) struct Dictionary {
    ids: HashMap<Arc<str>, u32>,
    terms: Vec<Arc<str>>,
}

impl Dictionary {
    /// The number of a word, which is put in if it is new.
    pub(super) fn id(&mut self, term: &str) -> u32 {
        if let Some(id) = self.ids.get(term) {
            return *id;
        }
        let (id, term) = (self.terms.len() as u32, Arc::<str>::from(term));
        self.terms.push(Arc::clone(&term));
        self.ids.insert(term, id);
        id
    }

    pub(super) fn find(&self, term: &str) -> Option<u32> {
        self.ids.get(term).copied()
    }

    pub(super) fn term(&self, id: u32) -> &str {
        &self.terms[id as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.terms.len()
    }

    /// Bags as words, by field and by term.
    pub(super) fn words(&mut self, bags: &[Bag]) -> Box<[Word]> {
        let mut words = Vec::new();
        for (field, bag) in bags.iter().enumerate() {
            for (term, count) in &bag.counts {
                let count = (*count).min(u32::from(u16::MAX)) as u16;
                words.push(Word { term: self.id(term), field: field as u8, count });
            }
        }
        words.into()
    }
}

/// The words of a chunk.
pub(super) fn bags(cutter: &Cutter, path: &str, chunk: &Chunk) -> [Bag; FIELDS] {
    let mut bags = <[Bag; FIELDS]>::default();
    let mut put = |field: Field, text: &str| bags[field as usize].put(&cutter.terms(text), 1);
    put(Field::Name, &chunk.symbol);
    chunk.containers.iter().for_each(|name| put(Field::Of, name));
    put(Field::Doc, &chunk.doc);
    put(Field::Text, &chunk.text);
    put(Field::Path, path);
    put(Field::Context, &chunk.context);
    bags
}

/// Words that are embedded of a definition's documentation, and of the text of what is no definition.
const DOC_WORDS: usize = 60;
const TEXT_WORDS: usize = 80;

/// The text that a chunk's vector is made of: what it lies in, its name, what it takes and what is said of it. A body's words are left to
/// the other channel: in a vector they were worth nothing, and took most of the time.
pub(super) fn embedded(chunk: &Chunk) -> String {
    let words = |text: &str, count| text.split_whitespace().take(count).collect::<Vec<_>>().join(" ");
    if chunk.symbol.is_empty() {
        return words(&chunk.text, TEXT_WORDS);
    }
    let of: Vec<String> = chunk.containers.iter().rev().take(2).rev().map(|name| spaced(name)).collect();
    let (name, doc) = (spaced(&chunk.symbol), words(&chunk.doc, DOC_WORDS));
    format!("{} {name}. {} {doc}", of.join(" "), plain(&chunk.signature)).trim().to_owned()
}

/// A signature without the words every signature has.
fn plain(signature: &str) -> String {
    const COMMON: [&str; 9] = ["pub", "fn", "async", "unsafe", "const", "def", "func", "function", "static"];
    signature.split_whitespace().filter(|word| !COMMON.contains(word)).collect::<Vec<_>>().join(" ")
}

/// An identifier's parts with spaces between them: `parseHttp_request` as `parse http request`.
fn spaced(name: &str) -> String {
    crate::recall::parts_of(name).map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

/// What programmers write for a word: the verbs, adjectives and nouns that documentation is made of, and the short forms that names are
/// made of. Both sides are stemmed before they are compared.
const MEANINGS: &[(&str, &str)] = &[
    ("create", "new build make init from"),
    ("construct", "new build make from"),
    ("build", "new make builder"),
    ("make", "new build create"),
    ("initialize", "init new setup"),
    ("return", "get"),
    ("get", "fetch"),
    ("retrieve", "get fetch load"),
    ("fetch", "get load"),
    ("obtain", "get"),
    ("access", "get"),
    ("whether", "is has can contains"),
    ("true", "is has bool"),
    ("check", "is has contains verify validate ensure"),
    ("determine", "is has"),
    ("test", "is"),
    ("verify", "check validate"),
    ("validate", "check verify"),
    ("ensure", "check assert"),
    ("number", "len count num n size"),
    ("count", "len num"),
    ("length", "len size"),
    ("size", "len bytes"),
    ("amount", "len count size"),
    ("convert", "into to from as"),
    ("transform", "map into convert"),
    ("turn", "into to"),
    ("change", "set update"),
    ("configure", "set with"),
    ("specify", "set with"),
    ("set", "with"),
    ("assign", "set"),
    ("modify", "mut set update"),
    ("mutable", "mut"),
    ("update", "set"),
    ("remove", "pop delete take drain erase"),
    ("delete", "remove drop unlink"),
    ("discard", "drop clear remove"),
    ("empty", "clear is_empty"),
    ("reset", "clear"),
    ("add", "push insert append"),
    ("append", "push extend add"),
    ("insert", "push add put"),
    ("store", "put set save write insert"),
    ("iterate", "iter next each"),
    ("iterator", "iter"),
    ("loop", "iter each"),
    ("search", "find seek lookup"),
    ("find", "search seek locate lookup get"),
    ("locate", "find position"),
    ("look", "find get peek"),
    ("reference", "ref as borrow"),
    ("borrow", "ref as"),
    ("copy", "clone dup"),
    ("duplicate", "clone dup copy"),
    ("equal", "eq"),
    ("compare", "cmp eq ord"),
    ("print", "fmt display write"),
    ("format", "fmt display"),
    ("display", "fmt show"),
    ("string", "str"),
    ("text", "str"),
    ("character", "char ch c"),
    ("integer", "int i32 u32 i64 u64"),
    ("boolean", "bool"),
    ("floating", "float f32 f64"),
    ("error", "err"),
    ("fail", "err error"),
    ("failure", "err error"),
    ("maximum", "max limit"),
    ("minimum", "min"),
    ("largest", "max"),
    ("smallest", "min"),
    ("message", "msg"),
    ("index", "idx i pos"),
    ("position", "pos idx offset"),
    ("pointer", "ptr"),
    ("temporary", "tmp temp"),
    ("directory", "dir"),
    ("folder", "dir"),
    ("request", "req"),
    ("response", "resp res"),
    ("context", "ctx cx"),
    ("buffer", "buf"),
    ("previous", "prev"),
    ("argument", "arg"),
    ("parameter", "param arg"),
    ("configuration", "config cfg conf opts"),
    ("option", "opt opts"),
    ("command", "cmd"),
    ("source", "src"),
    ("destination", "dst dest"),
    ("connection", "conn"),
    ("environment", "env"),
    ("address", "addr"),
    ("expression", "expr"),
    ("statement", "stmt"),
    ("function", "fn func"),
    ("variable", "var"),
    ("value", "val"),
    ("implementation", "impl"),
    ("identifier", "id ident"),
    ("reader", "read"),
    ("writer", "write"),
    ("receive", "recv"),
    ("send", "tx"),
    ("channel", "chan"),
    ("synchronous", "sync"),
    ("asynchronous", "async poll"),
    ("asynchronously", "async poll"),
    ("execute", "exec run call"),
    ("run", "exec call spawn"),
    ("invoke", "call run"),
    ("call", "invoke"),
    ("start", "begin spawn open launch"),
    ("begin", "start"),
    ("stop", "shutdown close cancel"),
    ("end", "finish close"),
    ("close", "shutdown"),
    ("wait", "await block join"),
    ("block", "wait"),
    ("allocate", "alloc"),
    ("memory", "mem"),
    ("table", "tbl"),
    ("document", "doc"),
    ("segment", "seg"),
    ("column", "col"),
    ("sequence", "seq"),
    ("default", "def"),
    ("own", "into"),
    ("consume", "into"),
    ("inner", "into get"),
    ("underlying", "inner get as"),
    ("wrap", "new"),
    ("list", "vec all"),
    ("array", "vec slice"),
    ("multiple", "many all"),
    ("multiply", "mul"),
    ("divide", "div"),
    ("subtract", "sub"),
    ("without", "no un"),
    ("specific", "with"),
    ("given", "with by for"),
    ("using", "with by"),
];

/// The shortest word that may be short for one of a question, as `buf` is for `buffer`. Bytes.
const PREFIX_BYTES_MIN: usize = 3;

/// Words of code that stand for words of questions.
pub(super) struct Meanings {
    by_word: BTreeMap<String, Vec<String>>,
}

/// A word of a question.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    pub(super) term: String,
    /// Words that are shorter forms of it, should they exist.
    pub(super) prefixes: Vec<String>,
    /// Words that may stand for it.
    pub(super) meanings: Vec<String>,
}

impl Meanings {
    pub(super) fn new(cutter: &Cutter) -> Meanings {
        let mut by_word: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (word, means) in MEANINGS {
            let key = cutter.stemmed(word);
            by_word.entry(key).or_default().extend(means.split(' ').map(|word| cutter.stemmed(word)));
        }
        Meanings { by_word }
    }

    /// The words of a question, each once, in order.
    pub(super) fn asked(&self, cutter: &Cutter, text: &str) -> Vec<Asked> {
        let mut asked: Vec<Asked> = Vec::new();
        for term in cutter.terms(text) {
            if asked.iter().any(|other| other.term == term) {
                continue;
            }
            let ends = (PREFIX_BYTES_MIN..term.len()).filter(|end| term.is_char_boundary(*end));
            let prefixes = ends.map(|end| term[..end].to_owned()).collect();
            let meanings = self.by_word.get(&term).cloned().unwrap_or_default();
            asked.push(Asked { term, prefixes, meanings });
        }
        asked
    }
}
