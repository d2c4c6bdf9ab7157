use serde_json::json;
use tools::Call;

use super::*;
use crate::context::Answer;
use crate::event::Stop;
use crate::plan::TaskState;

fn user(text: &str) -> Message {
    Message::User { text: text.into() }
}

fn reply(text: &str, calls: &[(&str, &str, &str, &str)]) -> Message {
    let call = |(id, name, argument, value): &(&str, &str, &str, &str)| Call {
        id: (*id).into(),
        name: (*name).into(),
        arguments: json!({ *argument: value }),
    };
    Message::Assistant {
        tokens: Vec::new(),
        text: text.into(),
        calls: calls.iter().map(call).collect(),
        stop: Stop::End,
    }
}

fn results(texts: &[&str]) -> Message {
    let answer = |text: &&str| Answer { call: None, name: None, text: (*text).into() };
    Message::Results { answers: texts.iter().map(answer).collect() }
}

fn system() -> Message {
    Message::System { text: "s".into(), tools: Vec::new() }
}

/// A session of two turns, and what came of its calls.
fn past() -> (Vec<Message>, BTreeMap<String, (bool, String)>) {
    let messages = vec![
        user("The port is 7117. Mend the parser."),
        reply(
            "Let me look.",
            &[("a", "exec", "command", "cargo test"), ("b", "read", "path", "src/parse.rs")],
        ),
        results(&["exit code 101\nboom", "fn parse() {}"]),
        reply("", &[("c", "edit", "path", "src/parse.rs")]),
        results(&["Edited."]),
        reply("", &[("d", "exec", "command", "cargo test"), ("e", "exec", "command", "cargo clippy")]),
        results(&["ok", "warning: unused in src/lex.rs"]),
        reply("The parser took `<=` for `<`; it is mended.", &[]),
        user("Now the same for floats."),
        reply("", &[("f", "edit", "path", "src/float.rs"), ("g", "edit", "path", "src/float.rs")]),
        results(&["Edited.", "Edited."]),
    ];
    let outcome = |id: &str, ok, summary: &str| (id.to_string(), (ok, summary.to_string()));
    let outcomes = BTreeMap::from([
        outcome("a", false, "exit 101"),
        outcome("b", true, "3 lines"),
        outcome("c", true, "1 place"),
        outcome("d", true, "exit 0"),
        outcome("e", false, "exit 1"),
        outcome("f", true, "1 place"),
        outcome("g", true, "1 place"),
    ]);
    (messages, outcomes)
}

#[test]
fn a_digest_keeps_what_people_said_and_what_was_done() {
    // What a model needs to go on after an hour's work, without the hour.
    let (messages, outcomes) = past();
    let plan = [
        Task { text: "floats".into(), state: TaskState::Doing },
        Task { text: "docs".into(), state: TaskState::Open },
    ];
    let past = Past { left_out: &messages, outcomes: &outcomes, plan: &plan };
    let digest = digest(&past, Some("Floats are read in src/float.rs."), 4_000);
    expect_test::expect![[r#"
        ## What the user said, oldest first
        1. The port is 7117. Mend the parser.
        2. Now the same for floats.

        ## The plan
        [>] floats
        [ ] docs

        ## Files that were changed
        - src/parse.rs
        - src/float.rs (2 times)

        ## Commands, and what came of them last
        - cargo test: exit 0
        - cargo clippy: FAILED, exit 1

        ## Files that were read
        - src/parse.rs

        ## What you answered
        - The parser took `<=` for `<`; it is mended.

        ## In your own words
        Floats are read in src/float.rs."#]]
    .assert_eq(digest.split_once("\n\n").unwrap().1);
    assert!(digest.starts_with(HEAD));
    assert_eq!(missing(&past, &digest, &[]), None);
    for part in ["The port is 7117", "Now the same", "[ ] docs", "src/float.rs", "cargo clippy"] {
        assert!(missing(&past, &digest.replace(part, ""), &[]).is_some(), "{part} is not missed");
    }
    // What is still shown is not lost.
    let shorter = digest.replace("Now the same", "");
    assert_eq!(missing(&past, &shorter, &[user("Now the same for floats.")]), None);
}

#[test]
fn very_much_said_is_shortened_and_nothing_of_the_last_is_lost() {
    let mut messages: Vec<Message> =
        (0..500).map(|n| user(&format!("wish {n}: {}", "x".repeat(200)))).collect();
    messages.push(user("the open ask"));
    let past = Past { left_out: &messages, outcomes: &BTreeMap::new(), plan: &[] };
    let digest = digest(&past, None, 12_000);
    assert!(digest.len() < 12_000, "{}", digest.len());
    assert_eq!(missing(&past, &digest, &[]), None);
    assert!(
        digest.contains("1. wish 0: xxx") && digest.contains("501. the open ask") && digest.contains("more)")
    );
}

#[test]
fn a_cut_leaves_whole_steps_and_only_where_it_pays() {
    let (mut messages, _) = past();
    messages.insert(0, system());
    let tokens = |system: u64, each: u64| {
        std::iter::once(system).chain(std::iter::repeat_n(each, messages.len() - 1)).collect::<Vec<_>>()
    };
    // The last 30 % of 4,000 hold three messages of 400; the first of them is somebody's words.
    let at = cut(&messages, &tokens(100, 400), 4_000, 1, false).unwrap();
    assert_eq!((at.messages, at.before, at.kept), (8, 4_500, 100 + 1_200));
    assert!(matches!(messages[1 + at.messages], Message::User { .. }));
    // Next to nothing is gained where the system prompt is nearly all there is.
    assert_eq!(cut(&messages, &tokens(3_000, 20), 4_000, 1, false), None);
    assert_eq!(cut(&messages, &tokens(3_000, 20), 4_000, 1, true), None);
    // Even if the last step alone is too long, it stays: the model has just asked for it.
    let mut long = tokens(100, 100);
    *long.last_mut().unwrap() = 3_000;
    let at = cut(&messages, &long, 4_000, 1, true).unwrap();
    assert!(matches!(messages[1 + at.messages..], [Message::Assistant { .. }, Message::Results { .. }]));
}

#[test]
fn a_line_that_names_what_never_occurred_is_dropped() {
    let (messages, _) = past();
    let summary = "The bug was in src/parse.rs.\nAlso see src/made_up.rs.\nThe user wants floats, e.g. 1.5.\nUse Parser::new there.";
    assert_eq!(
        honest(summary, &messages).as_deref(),
        Some("The bug was in src/parse.rs.\nThe user wants floats, e.g. 1.5.")
    );
    assert_eq!(honest("see a/b.rs", &messages), None);
}

#[test]
fn room_is_made_earlier_where_nobody_waits() {
    assert!(due(600, 1_000, false) && !due(600, 1_000, true) && due(850, 1_000, true));
    assert!(!due(599, 1_000, false) && !due(u64::MAX, 0, true));
}
