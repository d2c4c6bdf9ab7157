//! The index of words on disk. The only file that names tantivy.
//!
//! Each note is indexed twice: as English words, stemmed, and as code, with identifiers whole and in their parts. The
//! text itself is not stored; what a hit says is read from the log.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use tantivy::collector::TopDocs;
use tantivy::indexer::NoMergePolicy;
use tantivy::query::{BooleanQuery, BoostQuery, ConstScoreQuery, Occur, Query, TermQuery};
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, STRING, Schema, TextFieldIndexing, TextOptions,
};
use tantivy::tokenizer::{
    Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer, Token,
    TokenStream, Tokenizer,
};
use tantivy::{Index, IndexReader, IndexWriter, ReloadPolicy, TantivyDocument, TantivyError, Term};

/// Raised when fields or tokenizers change: an index of another version is made anew.
const VERSION: u32 = 1;
/// Memory for documents that are not committed yet.
const WRITER_BYTES: usize = 32 * 1024 * 1024;
/// The longest word that is indexed, in bytes: a longer run of letters is data, not a word.
const WORD_BYTES_MAX: usize = 64;

/// How a note's text is cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cut {
    /// English: lower case, no stop words, stemmed.
    Words,
    /// Code: identifiers whole, and their parts.
    Code,
}

impl Cut {
    pub(crate) const ALL: [Cut; 2] = [Cut::Words, Cut::Code];

    /// How much a match counts. Words of prose match both ways and identifiers only one, so code counts less.
    pub(crate) fn weight(self) -> f32 {
        match self {
            Cut::Words => 1.0,
            Cut::Code => 0.5,
        }
    }
}

/// The index.
pub(crate) struct Lexical {
    index: Index,
    reader: IndexReader,
    fields: Fields,
    /// Made at the first write: it starts threads, which a store that is only read does not need.
    writer: Mutex<Option<IndexWriter>>,
}

#[derive(Clone, Copy)]
struct Fields {
    id: Field,
    scope: Field,
    words: Field,
    code: Field,
}

impl Fields {
    fn of(self, cut: Cut) -> Field {
        match cut {
            Cut::Words => self.words,
            Cut::Code => self.code,
        }
    }
}

/// What there is to know of a field for scoring.
pub(crate) struct Statistics {
    /// Notes in the index.
    pub(crate) notes: u64,
    /// Words in all of them.
    pub(crate) words: u64,
}

/// A note as it goes into the index.
pub(crate) struct Entry<'a> {
    pub(crate) id: u64,
    pub(crate) scope: String,
    pub(crate) text: &'a str,
}

impl Lexical {
    /// Opens what is there. Answers with the number of the last note that is in.
    pub(crate) fn open(dir: &Path) -> Result<(Lexical, u64), String> {
        // Damaged files are told by their checksums; should one get past them, a panic is no more than that.
        std::panic::catch_unwind(|| Lexical::open_checked(dir)).unwrap_or_else(|_| Err("it panicked".into()))
    }

    fn open_checked(dir: &Path) -> Result<(Lexical, u64), String> {
        let index = Index::open_in_dir(dir).map_err(say)?;
        let payload = index.load_metas().map_err(say)?.payload.unwrap_or_default();
        let through = payload
            .strip_prefix(&format!("v{VERSION} through "))
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| format!("it is not of version {VERSION}"))?;
        let damaged = index.validate_checksum().map_err(say)?;
        if !damaged.is_empty() {
            return Err(format!("{} of its files are damaged", damaged.len()));
        }
        Ok((Lexical::over(index)?, through))
    }

    /// Deletes what is there and makes an empty index.
    pub(crate) fn create(dir: &Path) -> Result<Lexical, String> {
        if dir.exists() {
            fs::remove_dir_all(dir).or_else(|_| fs::remove_file(dir)).map_err(|e| e.to_string())?;
        }
        fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        let text = |tokenizer| {
            TextOptions::default().set_indexing_options(
                TextFieldIndexing::default()
                    .set_tokenizer(tokenizer)
                    .set_index_option(IndexRecordOption::WithFreqs),
            )
        };
        let mut schema = Schema::builder();
        schema.add_u64_field("id", INDEXED | FAST);
        schema.add_text_field("scope", STRING);
        schema.add_text_field("words", text("words"));
        schema.add_text_field("code", text("code"));
        let lexical = Lexical::over(Index::create_in_dir(dir, schema.build()).map_err(say)?)?;
        lexical.commit(&[], &[], 0)?;
        Ok(lexical)
    }

    fn over(index: Index) -> Result<Lexical, String> {
        let schema = index.schema();
        let field = |name| schema.get_field(name).map_err(say);
        let fields =
            Fields { id: field("id")?, scope: field("scope")?, words: field("words")?, code: field("code")? };
        index.tokenizers().register("words", analyzer(Cut::Words));
        index.tokenizers().register("code", analyzer(Cut::Code));
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into().map_err(say)?;
        Ok(Lexical { index, reader, fields, writer: Mutex::new(None) })
    }

    /// How many notes are in.
    pub(crate) fn count(&self) -> u64 {
        self.reader.searcher().num_docs()
    }

    /// Puts notes in and takes others out; both are durable, and searches see them, when this returns. `through` is
    /// the number of the last note that is in.
    pub(crate) fn commit(&self, put: &[Entry<'_>], gone: &[u64], through: u64) -> Result<(), String> {
        self.writing(|writer| {
            for entry in put {
                self.put(writer, entry)?;
            }
            for id in gone {
                writer.delete_term(Term::from_field_u64(self.fields.id, *id));
            }
            self.seal(writer, through)
        })
    }

    /// Puts many notes in with one commit at the end. `entries` calls what it is given with each.
    pub(crate) fn fill(
        &self,
        entries: impl FnOnce(&mut dyn FnMut(Entry<'_>) -> Result<(), String>) -> Result<(), String>,
        through: u64,
    ) -> Result<(), String> {
        self.writing(|writer| {
            entries(&mut |entry| self.put(writer, &entry).map_err(say))
                .map_err(TantivyError::InternalError)?;
            self.seal(writer, through)
        })
    }

    /// Rewrites every segment that holds something deleted, so that no byte of it is left in the index's files.
    pub(crate) fn expunge(&self) -> Result<(), String> {
        self.writing(|writer| {
            // No other merge may take the segments meanwhile.
            let policy = writer.get_merge_policy();
            writer.set_merge_policy(Box::new(NoMergePolicy));
            let expunged = self.expunge_with(writer);
            writer.set_merge_policy(Box::new(Shared(policy)));
            expunged
        })
    }

    fn expunge_with(&self, writer: &mut IndexWriter) -> Result<(), TantivyError> {
        for _ in 0..100 {
            let metas = self.index.searchable_segment_metas()?;
            let Some(meta) = metas.iter().find(|meta| meta.has_deletes()) else {
                self.reader.reload()?;
                writer.garbage_collect_files().wait()?;
                return Ok(());
            };
            if writer.merge(&[meta.id()]).wait().is_err() {
                // A merge that had begun before has the segment; it takes the deleted out as well.
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
        Err(TantivyError::InternalError("a merge did not come to its end".into()))
    }

    /// The notes that fit best: number and score.
    pub(crate) fn search(
        &self,
        terms: &[(Cut, String)],
        scopes: &[String],
        limit: usize,
    ) -> Result<Vec<(u64, f32)>, String> {
        let should = |query: Box<dyn Query>| (Occur::Should, query);
        let of = |field, text: &str, option| {
            Box::new(TermQuery::new(Term::from_field_text(field, text), option)) as Box<dyn Query>
        };
        let words = terms.iter().map(|(cut, term)| {
            let query = of(self.fields.of(*cut), term, IndexRecordOption::WithFreqs);
            should(Box::new(BoostQuery::new(query, cut.weight())))
        });
        let places =
            scopes.iter().map(|scope| should(of(self.fields.scope, scope, IndexRecordOption::Basic)));
        let places = BooleanQuery::new(places.collect());
        let query = BooleanQuery::new(vec![
            (Occur::Must, Box::new(BooleanQuery::new(words.collect())) as Box<dyn Query>),
            (Occur::Must, Box::new(ConstScoreQuery::new(Box::new(places), 0.0))),
        ]);
        let searcher = self.reader.searcher();
        let found =
            searcher.search(&query, &TopDocs::with_limit(limit.max(1)).order_by_score()).map_err(say)?;
        let mut hits = Vec::with_capacity(found.len());
        for (score, address) in found {
            let ids = searcher.segment_reader(address.segment_ord).fast_fields().u64("id").map_err(say)?;
            let id =
                ids.first(address.doc_id).ok_or_else(|| "a note in the index has no number".to_string())?;
            hits.push((id, score));
        }
        Ok(hits)
    }

    /// Size of the index, for scoring what is not in it yet.
    pub(crate) fn statistics(&self, cut: Cut) -> Result<Statistics, String> {
        let searcher = self.reader.searcher();
        let mut words = 0;
        for segment in searcher.segment_readers() {
            words += segment.inverted_index(self.fields.of(cut)).map_err(say)?.total_num_tokens();
        }
        Ok(Statistics { notes: searcher.num_docs(), words })
    }

    /// In how many notes a term is.
    pub(crate) fn frequency(&self, cut: Cut, term: &str) -> Result<u64, String> {
        self.reader.searcher().doc_freq(&Term::from_field_text(self.fields.of(cut), term)).map_err(say)
    }

    fn put(&self, writer: &IndexWriter, entry: &Entry<'_>) -> Result<(), TantivyError> {
        let mut document = TantivyDocument::default();
        document.add_u64(self.fields.id, entry.id);
        document.add_text(self.fields.scope, &entry.scope);
        document.add_text(self.fields.words, entry.text);
        document.add_text(self.fields.code, entry.text);
        // A note that was put in before, by a process that ended before it could say so, is put in once.
        writer.delete_term(Term::from_field_u64(self.fields.id, entry.id));
        writer.add_document(document).map(|_| ())
    }

    fn seal(&self, writer: &mut IndexWriter, through: u64) -> Result<(), TantivyError> {
        let mut commit = writer.prepare_commit()?;
        commit.set_payload(&format!("v{VERSION} through {through}"));
        commit.commit()?;
        self.reader.reload()
    }

    /// Works with the writer. After an error it is thrown away, with all it had not committed.
    fn writing(&self, work: impl FnOnce(&mut IndexWriter) -> Result<(), TantivyError>) -> Result<(), String> {
        let mut kept = self.writer.lock().map_err(|_| "a thread of the index panicked".to_string())?;
        let mut writer = match kept.take() {
            Some(writer) => writer,
            None => self.index.writer_with_num_threads(1, WRITER_BYTES).map_err(say)?,
        };
        work(&mut writer).map_err(say)?;
        *kept = Some(writer);
        Ok(())
    }

    /// Waits until no thread of the index works any more.
    pub(crate) fn close(&self) {
        let writer = self.writer.lock().ok().and_then(|mut kept| kept.take());
        if let Some(Err(e)) = writer.map(IndexWriter::wait_merging_threads) {
            tracing::warn!("a merge of the notes' index failed: {e}");
        }
    }
}

/// Puts a merge policy back that was taken off.
#[derive(Debug)]
struct Shared(std::sync::Arc<dyn tantivy::merge_policy::MergePolicy>);

impl tantivy::merge_policy::MergePolicy for Shared {
    fn compute_merge_candidates(
        &self,
        segments: &[tantivy::SegmentMeta],
    ) -> Vec<tantivy::merge_policy::MergeCandidate> {
        self.0.compute_merge_candidates(segments)
    }
}

fn say(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Cuts a text into the terms it is indexed under, in order.
pub(crate) fn terms(cut: Cut, text: &str) -> Vec<String> {
    let mut analyzer = analyzer(cut);
    let mut stream = analyzer.token_stream(text);
    let mut terms = Vec::new();
    while stream.advance() {
        terms.push(stream.token().text.clone());
    }
    terms
}

fn analyzer(cut: Cut) -> TextAnalyzer {
    match cut {
        Cut::Words => TextAnalyzer::builder(SimpleTokenizer::default())
            .filter(RemoveLongFilter::limit(WORD_BYTES_MAX))
            .filter(LowerCaser)
            .filter(StopWordFilter::new(Language::English).expect("tantivy has English stop words"))
            .filter(Stemmer::new(Language::English))
            .build(),
        Cut::Code => TextAnalyzer::builder(CodeTokenizer).build(),
    }
}

/// Identifiers whole and in their parts, in lower case: `parseHttpRequest2` gives `parsehttprequest2`, `parse`,
/// `http`, `request`, `2`; `max_len` gives `max_len`, `max`, `len`.
#[derive(Clone)]
struct CodeTokenizer;

struct CodeStream {
    tokens: std::vec::IntoIter<Token>,
    token: Token,
}

impl Tokenizer for CodeTokenizer {
    type TokenStream<'a> = CodeStream;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> CodeStream {
        let mut tokens = Vec::new();
        let mut push = |from: usize, to: usize| {
            if from < to && to - from <= WORD_BYTES_MAX {
                let position = tokens.len();
                let text = text[from..to].to_lowercase();
                tokens.push(Token { offset_from: from, offset_to: to, position, text, position_length: 1 });
            }
        };
        for (from, to) in identifiers(text) {
            push(from, to);
            let parts = parts(&text[from..to]);
            if parts.len() > 1 || parts.first().is_some_and(|part| part.1 - part.0 < to - from) {
                parts.into_iter().for_each(|(start, end)| push(from + start, from + end));
            }
        }
        CodeStream { tokens: tokens.into_iter(), token: Token::default() }
    }
}

impl TokenStream for CodeStream {
    fn advance(&mut self) -> bool {
        match self.tokens.next() {
            Some(token) => {
                self.token = token;
                true
            }
            None => false,
        }
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

/// The runs of letters, digits and `_` in a text.
fn identifiers(text: &str) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (at, c) in text.char_indices().filter(|(_, c)| c.is_alphanumeric() || *c == '_') {
        match runs.last_mut() {
            Some(run) if run.1 == at => run.1 = at + c.len_utf8(),
            _ => runs.push((at, at + c.len_utf8())),
        }
    }
    runs.retain(|(from, to)| text[*from..*to].chars().any(|c| c != '_'));
    runs
}

/// Where an identifier's parts are: it is cut at `_`, where a capital begins a word, and between letters and digits.
fn parts(identifier: &str) -> Vec<(usize, usize)> {
    #[derive(PartialEq, Clone, Copy)]
    enum Sort {
        Lower,
        Upper,
        Digit,
        Bar,
    }
    let sort = |c: char| match c {
        '_' => Sort::Bar,
        c if c.is_numeric() => Sort::Digit,
        c if c.is_uppercase() => Sort::Upper,
        _ => Sort::Lower,
    };
    let chars: Vec<(usize, Sort)> = identifier.char_indices().map(|(at, c)| (at, sort(c))).collect();
    let mut cuts = vec![0];
    for (n, pair) in chars.windows(2).enumerate() {
        let next_is_lower = chars.get(n + 2).is_some_and(|(_, sort)| *sort == Sort::Lower);
        let cut = match (pair[0].1, pair[1].1) {
            (Sort::Upper, Sort::Lower) => false,
            // The last capital of a run begins the next word: HTTPServer is HTTP and Server.
            (Sort::Upper, Sort::Upper) => next_is_lower,
            (before, after) => before != after,
        };
        if cut {
            cuts.push(pair[1].0);
        }
    }
    cuts.push(identifier.len());
    let parts = cuts.windows(2).map(|pair| (pair[0], pair[1]));
    parts.filter(|(from, to)| !identifier[*from..*to].starts_with('_')).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(cut: Cut, text: &str, expect: Expect) {
        expect.assert_eq(&terms(cut, text).join(" "));
    }

    #[test]
    fn identifiers_are_found_whole_and_in_their_parts() {
        // Measured on documentation → function search: splitting while keeping the whole is worth 5 to 12 points.
        check(
            Cut::Code,
            "parseHttpRequest2(max_len)",
            expect!["parsehttprequest2 parse http request 2 max_len max len"],
        );
        check(Cut::Code, "HTTPServer __init__ x", expect!["httpserver http server __init__ init x"]);
        check(Cut::Code, "größeÄndern 数据库 _ __", expect!["größeändern größe ändern 数据库"]);
    }

    #[test]
    fn words_are_stemmed_and_stop_words_are_not_indexed() {
        // A question is seldom asked in the form in which the answer was written.
        check(Cut::Words, "The tests were running, and failed!", expect!["test were run fail"]);
    }
}
