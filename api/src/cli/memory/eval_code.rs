//! `saga memory eval-code`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use agent::code::chunks_of;
use memory::Embedder;
use memory::code::eval::{At, Function, Report, evaluate, question};
use memory::eval::Scores;
use tools::outline::{Language, TEXT_BYTES_MAX, outline};

use crate::config::Folders;
use crate::failure::Failure;
use crate::host::bytes;
use crate::models;
use crate::term::{Screen, To, say, table};

pub(super) async fn run(
    dir: &Path,
    json: bool,
    words: bool,
    all: bool,
    folders: &Folders,
) -> Result<u8, Failure> {
    let screen = Screen::new(To::Stderr);
    let functions = {
        let (tree, screen) = (dir.to_path_buf(), Screen::new(To::Stderr));
        let read = move || {
            let functions = functions(&tree, &screen);
            screen.quiet();
            functions
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| Failure::new(format!("reading {} failed: {error}", dir.display())))??
    };
    let embedder = if words { None } else { Some(models::embedder(folders, &screen).await?) };
    let report = measure(functions, all, embedder, screen).await?;
    if json {
        say(&serde_json::to_string(&report).expect("a report has only string keys"));
    } else {
        say(&in_words(&report));
    }
    Ok(0)
}

/// All functions of the files below a folder, in the order of their paths.
fn functions(dir: &Path, screen: &Screen) -> Result<Vec<Function>, Failure> {
    if !dir.is_dir() {
        return Err(Failure::new(format!("{} is no folder", dir.display()))
            .next("give the folder of a source tree, such as `saga memory eval-code src/`"));
    }
    let mut all = Vec::new();
    let mut walk = ignore::WalkBuilder::new(dir);
    walk.sort_by_file_name(Ord::cmp);
    for (n, entry) in walk.build().enumerate() {
        let entry =
            entry.map_err(|error| Failure::new(format!("{} cannot be walked: {error}", dir.display())))?;
        let path = entry.path();
        let Some(language) = Language::of(path).filter(|_| entry.file_type().is_some_and(|t| t.is_file()))
        else {
            continue;
        };
        screen.status(&format!("read {n} files, {} functions", all.len()));
        let small = entry.metadata().is_ok_and(|meta| meta.len() <= TEXT_BYTES_MAX as u64);
        // What is no text is no source either.
        if let Some(text) = small.then(|| std::fs::read_to_string(path).ok()).flatten() {
            let shown = path.strip_prefix(dir).unwrap_or(path).to_string_lossy().into_owned();
            all.extend(functions_of(language, &shown, &text));
        }
    }
    if all.iter().all(|function| question(&function.doc).is_empty()) {
        return Err(Failure::new(format!("no function below {} has documentation", dir.display()))
            .next("choose a tree in Rust, Python, JavaScript, TypeScript, Go, Java, C or C++ with documented functions"));
    }
    Ok(all)
}

fn functions_of(language: Language, path: &str, text: &str) -> Vec<Function> {
    let outline = outline(language, text);
    let mut functions: Vec<Function> = Vec::new();
    // By its place among the symbols, where a function is among the functions.
    let mut places: HashMap<usize, usize> = HashMap::new();
    for (symbol, chunk) in chunks_of(path, &outline, text) {
        let Some(n) = symbol.filter(|n| outline.symbols[*n].kind.is_callable()) else { continue };
        let symbol = &outline.symbols[n];
        let place = *places.entry(n).or_insert(functions.len());
        if place == functions.len() {
            functions.push(Function {
                path: path.to_owned(),
                chunks: Vec::new(),
                doc: symbol.doc.clone(),
                asked: symbol.body.is_some() && !chunk.test,
            });
        }
        functions[place].chunks.push(chunk);
    }
    functions
}

async fn measure(
    functions: Vec<Function>,
    all: bool,
    embedder: Option<Arc<dyn Embedder>>,
    screen: Screen,
) -> Result<Report, Failure> {
    let work = move || {
        // Beside nothing that is kept: the folder goes when this ends.
        let dir = tempfile::Builder::new().prefix("saga-eval-").tempdir();
        let dir = dir.map_err(|error| Failure::new(format!("there is no room for an index: {error}")))?;
        let report = evaluate(functions, all, dir.path(), embedder.as_ref(), &mut |at| match at {
            At::Embedding(done, total) => screen.status(&format!("made {done} of {total} vectors")),
            At::Asking(done, total) => screen.status(&format!("asked {done} of {total} questions")),
        });
        screen.quiet();
        report.map_err(|error| Failure::of(&error))
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::new(format!("the evaluation failed: {error}")))?
}

fn in_words(report: &Report) -> String {
    let row = |name: &str, scores: &Scores| {
        let shares = [
            scores.recall_1,
            scores.recall_5,
            scores.recall_10,
            scores.recall_20,
            scores.mrr,
            scores.ndcg_10,
        ];
        let shares = shares.map(|share| format!("{:.1}", share * 100.0));
        [vec![name.to_string()], shares.to_vec()].concat()
    };
    let mut rows = vec![row("saga", &report.ours), row("BM25", &report.bm25)];
    rows.extend(report.dense.as_ref().map(|scores| row("vectors", scores)));
    rows.extend(report.rrf.as_ref().map(|scores| row("BM25 and vectors by rank", scores)));
    let table = table(&["%", "R@1", "R@5", "R@10", "R@20", "MRR", "NDCG@10"], &rows);
    let cost = &report.cost;
    format!(
        "{table}\n{} functions were looked for by their documentation, among {}\nindex: words in {:.1} s, vectors in {:.1} s, {} \
         on disk\nsearch: p50 {:.1} ms, p95 {:.1} ms; without the question's vector p50 {:.1} ms, p95 {:.1} ms",
        report.questions,
        report.functions,
        cost.index_seconds,
        cost.embed_seconds,
        bytes(cost.index_bytes),
        cost.search_p50_ms,
        cost.search_p95_ms,
        cost.scan_p50_ms,
        cost.scan_p95_ms
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_functions_documentation_is_no_part_of_what_is_searched() {
        // Otherwise an evaluation would find what it asks for by its own words.
        let text = "/// Deletes the oldest page.\n///\n/// More words.\npub fn evict(&mut self) { self.pages.pop(); }\n\
                    #[test]\nfn works() {}\n";
        let functions = functions_of(Language::Rust, "cache.rs", text);
        assert_eq!(functions.len(), 2);
        assert_eq!(question(&functions[0].doc), "Deletes the oldest page.");
        assert!(!functions[0].chunks[0].text.contains("oldest"), "{:?}", functions[0].chunks);
        assert!(functions[0].asked && !functions[1].asked);
    }
}
