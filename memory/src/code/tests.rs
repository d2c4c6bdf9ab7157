use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use expect_test::{Expect, expect};

use super::*;

/// An embedder that has a number for each of some letters, and counts the texts it was given.
#[derive(Debug)]
struct Letters {
    name: &'static str,
    asked: AtomicUsize,
}

impl Letters {
    fn new() -> Arc<Letters> {
        Arc::new(Letters { name: "letters", asked: AtomicUsize::new(0) })
    }

    /// How many texts it was given since the last time.
    fn taken(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }
}

impl Embedder for Letters {
    fn name(&self) -> &str {
        self.name
    }

    fn dimensions(&self) -> usize {
        8
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        self.asked.fetch_add(texts.len(), Ordering::Relaxed);
        let vector = |text: &&str| {
            let mut vector = vec![0.01_f32; 8];
            text.bytes().for_each(|byte| vector[usize::from(byte) % 8] += 1.0);
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.into_iter().map(|x| x / length).collect()
        };
        Ok(texts.iter().map(vector).collect())
    }
}

/// Files of a small project: each line is a function and its text.
type Project<'a> = [(&'a str, &'a str)];

fn update(index: &mut CodeIndex, project: &Project<'_>) -> (Changes, Vec<String>) {
    let files: Vec<(String, Digest)> =
        project.iter().map(|(path, text)| ((*path).to_owned(), Digest::of(text.as_bytes()))).collect();
    let cut = Mutex::new(Vec::new());
    let changes = index.update(&files, &mut |path| {
        cut.lock().unwrap().push(path.to_owned());
        let text = project.iter().find(|(other, _)| *other == path).unwrap().1;
        let chunk = |(n, line): (usize, &str)| Chunk {
            symbol: line.split(' ').next().unwrap().to_owned(),
            text: line.to_owned(),
            lines: (n as u32 + 1, n as u32 + 1),
            ..Chunk::default()
        };
        text.lines().enumerate().map(chunk).collect()
    });
    (changes.unwrap(), cut.into_inner().unwrap())
}

fn embed(index: &mut CodeIndex) {
    index.embed(&mut |_, _| ControlFlow::Continue(())).unwrap();
}

fn found(index: &CodeIndex, text: &str) -> Vec<String> {
    let hits = index.search(&CodeQuery { text: text.into(), ..CodeQuery::default() }).unwrap();
    hits.into_iter().map(|hit| format!("{}:{} {}", hit.path, hit.lines.0, hit.symbol)).collect()
}

const PROJECT: &Project<'_> = &[
    ("src/cache.rs", "evict_oldest self.pages.pop_front()\ninsert_page self.pages.push_back(page)"),
    ("src/http.rs", "parse_header split the line at a colon\nwrite_body chunked encoding"),
];

#[test]
fn what_has_not_changed_is_neither_cut_nor_embedded_again() {
    // Embedding is by far the most of the work: an edit must cost no more than what was edited.
    let dir = tempfile::tempdir().unwrap();
    let letters = Letters::new();
    let mut index = CodeIndex::open(dir.path(), Some(letters.clone())).unwrap();
    assert_eq!(update(&mut index, PROJECT).0, Changes { cut: 2, ..Changes::default() });
    embed(&mut index);
    let texts = letters.taken();
    assert!(texts >= 4, "{texts}");
    // One function of four is another.
    let edited = PROJECT[0].1.replace("push_back", "push_front");
    let project = [("src/cache.rs", edited.as_str()), PROJECT[1]];
    for mut index in [index, CodeIndex::open(dir.path(), Some(letters.clone())).unwrap()] {
        let (changes, cut) = update(&mut index, &project);
        assert_eq!(changes, Changes { kept: 1, cut: 1, ..Changes::default() });
        assert_eq!(cut, ["src/cache.rs"]);
        embed(&mut index);
        assert!(letters.taken() <= texts / 4);
        let (changes, cut) = update(&mut index, PROJECT);
        assert_eq!((changes.kept, changes.cut, cut.len()), (1, 1, 1));
        embed(&mut index);
        assert_eq!(letters.taken(), 0, "what was there before is still known");
    }
}

#[test]
fn a_file_that_moves_takes_what_is_known_along() {
    let dir = tempfile::tempdir().unwrap();
    let letters = Letters::new();
    let mut index = CodeIndex::open(dir.path(), Some(letters.clone())).unwrap();
    update(&mut index, PROJECT);
    embed(&mut index);
    letters.taken();
    let moved = [("src/storage/cache.rs", PROJECT[0].1), PROJECT[1]];
    let (changes, cut) = update(&mut index, &moved);
    assert_eq!(changes, Changes { kept: 1, moved: 1, ..Changes::default() });
    assert!(cut.is_empty());
    embed(&mut index);
    assert_eq!(letters.taken(), 0);
    // Its path is a part of what it is found by.
    for index in [index, CodeIndex::open(dir.path(), None).unwrap()] {
        assert_eq!(found(&index, "oldest in storage")[0], "src/storage/cache.rs:1 evict_oldest");
    }
}

#[test]
fn what_is_gone_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = CodeIndex::open(dir.path(), None).unwrap();
    update(&mut index, PROJECT);
    assert_eq!(found(&index, "parse the header")[0], "src/http.rs:1 parse_header");
    let (changes, _) = update(&mut index, &PROJECT[..1]);
    assert_eq!(changes, Changes { kept: 1, gone: 1, ..Changes::default() });
    for index in [index, CodeIndex::open(dir.path(), None).unwrap()] {
        assert!(found(&index, "parse the header").is_empty());
        assert_eq!(index.len(), 2);
    }
}

#[test]
fn vectors_are_of_one_embedder_and_come_when_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    update(&mut CodeIndex::open(dir.path(), None).unwrap(), PROJECT);
    let first = Letters::new();
    let mut index = CodeIndex::open(dir.path(), Some(first.clone())).unwrap();
    // The texts are not kept, so the files are asked for once more.
    assert_eq!(update(&mut index, PROJECT).0.cut, 2);
    embed(&mut index);
    let texts = first.taken();
    assert!(texts > 0);
    drop(index);
    let other = Arc::new(Letters { name: "others", asked: AtomicUsize::new(0) });
    let mut index = CodeIndex::open(dir.path(), Some(other.clone())).unwrap();
    update(&mut index, PROJECT);
    embed(&mut index);
    assert_eq!(other.taken(), texts);
}

#[test]
fn embedding_that_was_stopped_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let letters = Letters::new();
    let lines: Vec<String> = (0..200).map(|n| format!("function_{n} does {n}")).collect();
    let text = lines.join("\n");
    let project = [("many.rs", text.as_str())];
    let mut index = CodeIndex::open(dir.path(), Some(letters.clone())).unwrap();
    update(&mut index, &project);
    let mut total = 0;
    index
        .embed(&mut |_, of| {
            total = of;
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(letters.taken(), EMBED_TEXTS);
    drop(index);
    let mut index = CodeIndex::open(dir.path(), Some(letters.clone())).unwrap();
    update(&mut index, &project);
    embed(&mut index);
    assert_eq!(letters.taken(), total - EMBED_TEXTS);
}

#[test]
fn damage_costs_time_and_nothing_else() {
    // An index can always be made anew; what it must not do is panic, or answer from bytes that were changed.
    let dir = tempfile::tempdir().unwrap();
    let open = || CodeIndex::open(dir.path(), Some(Letters::new())).unwrap();
    let mut index = open();
    update(&mut index, PROJECT);
    embed(&mut index);
    let before = found(&index, "parse the header");
    drop(index);
    for name in ["known", "vectors"] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        let damages = (0..whole.len()).step_by(7).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x41;
            bytes
        });
        let cuts = [0, 1, whole.len() / 2, whole.len() - 1].map(|end| whole[..end].to_vec());
        for bytes in damages.chain(cuts) {
            fs::write(&path, bytes).unwrap();
            let mut index = open();
            assert!(name != "known" || index.rebuilt().is_some() && index.is_empty());
            update(&mut index, PROJECT);
            embed(&mut index);
            assert_eq!(found(&index, "parse the header"), before);
        }
        fs::remove_file(&path).unwrap();
        let mut index = open();
        update(&mut index, PROJECT);
        embed(&mut index);
        assert_eq!(found(&index, "parse the header"), before);
    }
}

#[test]
fn a_commit_speaks_for_the_files_it_touched() {
    // A question is often asked in the words of whoever changed the code, and not in the code's.
    let dir = tempfile::tempdir().unwrap();
    let mut index = CodeIndex::open(dir.path(), None).unwrap();
    update(&mut index, PROJECT);
    let commit = |id: &str, message: &str, paths: &[&str]| Commit {
        id: id.into(),
        at_ms: 1,
        message: message.into(),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    };
    let commits = vec![
        commit("c1", "Fix the request smuggling bug", &["src/http.rs"]),
        commit("c2", "Format", &["src/http.rs", "src/cache.rs"]),
    ];
    assert_eq!(index.add_commits(commits.clone()).unwrap(), 2);
    assert_eq!(index.add_commits(commits).unwrap(), 0);
    for index in [index, CodeIndex::open(dir.path(), None).unwrap()] {
        let query = CodeQuery { text: "smuggled requests".into(), ..CodeQuery::default() };
        let hits = index.search(&query).unwrap();
        assert!(hits.iter().all(|hit| hit.path == "src/http.rs"), "{hits:?}");
        assert_eq!(hits[0].why.commit.as_deref(), Some("c1"));
    }
}

#[test]
fn a_search_stays_below_a_path_and_within_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = CodeIndex::open(dir.path(), None).unwrap();
    update(&mut index, PROJECT);
    let search = |text: &str, below: &str, limit| {
        index.search(&CodeQuery { text: text.into(), below: below.into(), limit }).unwrap()
    };
    assert!(search("pages header", "src/cache", 10).iter().all(|hit| hit.path == "src/cache.rs"));
    assert_eq!(search("pages header body", "", 2).len(), 2);
    assert!(
        search("pages", "", 0).is_empty() && search("?!", "", 10).is_empty() && search("", "", 10).is_empty()
    );
}

fn check_asked(text: &str, expect: Expect) {
    let cutter = Cutter::new();
    let asked = Meanings::new(&cutter).asked(&cutter, text);
    let line = |word: &Asked| format!("{} {:?}\n", word.term, word.meanings);
    expect.assert_eq(&asked.iter().map(line).collect::<String>());
}

#[test]
fn a_word_stands_for_what_programmers_write_for_it() {
    check_asked(
        "Returns the number of messages",
        expect![[r#"
            return ["get"]
            number ["len", "count", "num", "n", "size"]
            messag ["msg"]
        "#]],
    );
}

#[test]
fn an_evaluation_asks_for_what_is_said_of_one_function_alone() {
    let function = |name: &str, doc: &str, asked| eval::Function {
        path: "a.rs".into(),
        chunks: vec![Chunk { symbol: name.into(), text: format!("fn {name}() {{}}"), ..Chunk::default() }],
        doc: doc.into(),
        asked,
    };
    let functions = vec![
        function("evict_oldest", "Evicts the oldest page.\n\nA second paragraph.", true),
        function("insert_page", "Inserts a page.", true),
        function("short", "Two words.", true),
        function("twice", "Said of two.", true),
        function("again", "Said of two.", true),
        function("test_page", "Tests a page here.", false),
    ];
    for (all, count) in [(false, 2), (true, 6)] {
        let dir = tempfile::tempdir().unwrap();
        let letters: Arc<dyn Embedder> = Letters::new();
        let report = eval::evaluate(functions.clone(), all, dir.path(), Some(&letters), &mut |_| ()).unwrap();
        assert_eq!((report.questions, report.functions), (2, count));
        assert!(report.ours.recall_1 > 0.99 && report.rrf.is_some(), "{report:?}");
    }
}
