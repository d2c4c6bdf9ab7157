//! Notes: found by their words within their scope, kept, forgotten without a trace.

use std::fs;
use std::time::Duration;

use memory::{Error, Kind, Memory, Note, NoteId, Origin, Query, Scope, Seq, Trust};

use crate::{files, open, store};

pub(crate) fn scope() -> Scope {
    Scope::Repository("saga".into())
}

pub(crate) fn note(text: &str) -> Note {
    let mut note = Note::new(Kind::Fact, text, scope(), "ada", Trust::UserSaid);
    note.origin = Origin { journal: Some("s-1".into()), span: Some((Seq(3), Seq(5))), ..note.origin };
    note.recorded_ms = 1_795_000_000_000;
    note
}

pub(crate) fn query(text: &str, limit: usize) -> Query {
    Query { text: text.into(), scopes: vec![scope()], limit, ..Query::default() }
}

fn found(memory: &Memory, text: &str) -> Vec<NoteId> {
    memory.recall(&query(text, 10)).unwrap().into_iter().map(|hit| hit.id).collect()
}

#[test]
fn a_note_is_found_at_once_and_still_found_when_it_is_in_the_index() {
    // What was just said must be known in the next step, though the index is written later.
    let (dir, memory) = store();
    let tests = memory.remember(note("run the tests with `cargo nextest run`")).unwrap();
    let parse = memory.remember(note("parseHttpRequest lives in src/wire.rs")).unwrap();
    let check = |memory: &Memory| {
        assert_eq!(found(memory, "How is a test run?"), [tests], "stemmed words");
        assert_eq!(found(memory, "http request"), [parse], "parts of an identifier");
        assert_eq!(found(memory, "parsehttprequest"), [parse], "the whole identifier");
        assert_eq!(found(memory, "nothing of this"), []);
        assert_eq!(found(memory, ""), [parse, tests], "without words, the newest first");
        assert_eq!(found(memory, "\"unbalanced AND (text:"), [], "a query has no syntax");
        assert_eq!(memory.note(parse).unwrap(), Some(note("parseHttpRequest lives in src/wire.rs")));
    };
    check(&memory);
    std::thread::sleep(Duration::from_millis(1500));
    check(&memory);
    let hits = memory.recall(&query("testing", 1)).unwrap();
    assert_eq!((hits[0].why.words.clone(), hits.len()), (vec!["test".to_string()], 1));
    drop(memory);
    let memory = open(dir.path());
    check(&memory);
    assert_eq!((memory.health().notes, memory.health().rebuilt.len()), (2, 0));
}

#[test]
fn fresh_and_indexed_notes_are_ranked_by_one_measure() {
    // A note must not jump in rank when it goes from the overlay into the index.
    let (dir, memory) = store();
    let texts = [
        "the build needs clang",
        "clang clang clang",
        "the linker is mold, never clang or gcc or lld",
        "build",
    ];
    for text in texts {
        memory.remember(note(text)).unwrap();
    }
    let query = query("clang build", 10);
    let fresh = memory.recall(&query).unwrap();
    drop(memory);
    let indexed = open(dir.path()).recall(&query).unwrap();
    assert_eq!(fresh.len(), 4);
    for (a, b) in fresh.iter().zip(&indexed) {
        assert_eq!(a.id, b.id);
        assert!((a.score - b.score).abs() < 0.02 * b.score, "{} and {}", a.score, b.score);
    }
}

#[test]
fn a_recall_sees_its_scopes_and_nothing_else() {
    // What one user said must not turn up in another's session.
    let (_dir, memory) = store();
    let scopes = [Scope::User("ada".into()), Scope::User("bob".into()), Scope::Team("ada".into()), scope()];
    for scope in &scopes {
        memory.remember(Note { scope: scope.clone(), ..note("a secret word") }).unwrap();
    }
    for indexed in [false, true] {
        if indexed {
            std::thread::sleep(Duration::from_millis(1500));
        }
        for (n, scope) in scopes.iter().enumerate() {
            let query = Query { scopes: vec![scope.clone()], ..query("secret", 10) };
            let ids: Vec<_> = memory.recall(&query).unwrap().into_iter().map(|hit| hit.id.0).collect();
            assert_eq!(ids, [n as u64 + 1], "indexed {indexed}");
        }
        let none = Query { scopes: vec![], ..query("secret", 10) };
        assert_eq!(memory.recall(&none).unwrap(), []);
        let two = Query { scopes: scopes[..2].to_vec(), ..query("secret", 10) };
        assert_eq!(memory.recall(&two).unwrap().len(), 2);
    }
}

#[test]
fn a_forgotten_note_is_in_no_file_and_its_number_is_never_used_again() {
    // A person who has something forgotten must be able to rely on it.
    let (dir, memory) = store();
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(memory.remember(note(&format!("zanzibar{n} is word {n}"))).unwrap());
    }
    std::thread::sleep(Duration::from_millis(1300));
    ids.push(memory.remember(note("zanzibar100 is fresh")).unwrap());
    memory.journal("j").unwrap().append(b"between").unwrap();
    for n in [0, 50, 99, 100] {
        assert!(memory.forget(ids[n], "ada").unwrap());
        assert!(!memory.forget(ids[n], "ada").unwrap(), "it is forgotten already");
        assert_eq!(memory.note(ids[n]).unwrap(), None);
        assert!(!found(&memory, &format!("zanzibar{n}")).contains(&ids[n]));
    }
    let nowhere = |n: usize| {
        let text = format!("zanzibar{n} is");
        for file in files(dir.path()) {
            let bytes = fs::read(&file).unwrap();
            let there = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!there, "{text:?} is in {}", file.display());
        }
    };
    [0, 50, 99, 100].into_iter().for_each(nowhere);
    drop(memory);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let memory = open(dir.path());
    [0, 50, 99, 100].into_iter().for_each(nowhere);
    assert_eq!((memory.health().notes, memory.health().damaged), (97, vec![]));
    assert!(!found(&memory, "zanzibar50").contains(&ids[50]));
    assert_eq!(found(&memory, "zanzibar51")[0], ids[51]);
    assert_eq!(memory.remember(note("new")).unwrap().0, 102);
}

#[test]
fn a_note_out_of_bounds_is_refused() {
    // Everything that is kept has a bound.
    let (_dir, memory) = store();
    let refused = |note: Note| assert!(matches!(memory.remember(note), Err(Error::BadInput(_))));
    refused(note("  "));
    refused(note(&"x".repeat(memory::NOTE_BYTES_MAX + 1)));
    refused(Note { scope: Scope::User(String::new()), ..note("x") });
    refused(Note { tags: vec![String::new(); 33], ..note("x") });
    refused(Note { tags: vec!["x".repeat(257)], ..note("x") });
    assert_eq!(memory.health().notes, 0);
}
