//! What a reply may say, judged by the grammar itself over a tiny vocabulary.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use agent::dialect::{Bound, Dialect, Known, Quoted, Shape, To, Whole};
use engine::testing::TinyModel;
use tools::{Spec, Toolbox};

const FILE: &str = "def f(a):\n    x = \"1\\n\"\n\n    return a // 2\n";

/// A token that stands for the mark before a call: the tiny vocabulary has none of its own.
const MARK: &str = "<|endoftext|>";

fn tiny() -> engine::Engine {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel::new("qwen2").write(&path);
    let options = engine::Options { threads: 1, ..engine::Options::default() };
    engine::Engine::open(&path, options, &mut |_| ()).unwrap()
}

/// Whether a reply of this shape may be `text`, to its end, where whole files are known.
fn admits(shape: Shape, files: &[(&str, &str)], text: &str) -> bool {
    let known = |(path, text): &(&str, &str)| Known {
        path: path.to_string(),
        pieces: vec![text.to_string()],
        whole: text.to_string(),
    };
    admits_of(shape, files.iter().map(known).collect(), text)
}

/// Whether a reply of this shape may be `text`, to its end.
fn admits_of(shape: Shape, files: Vec<Known>, text: &str) -> bool {
    let engine = tiny();
    let toolbox = Toolbox::builtin();
    let mut edit: Spec = toolbox.spec("edit").unwrap().clone();
    edit.parameters["properties"]
        .as_object_mut()
        .unwrap()
        .retain(|name, _| !["all", "unread"].contains(&name.as_str()));
    let files_are_known = !files.is_empty();
    let quoted = Quoted { of: "path".into(), files, lines: true, all: None, free: None, others: false };
    let bound = Bound { tool: "edit".into(), argument: "old".into(), to: To::Piece(quoted) };
    // Where nothing was read nothing is bound.
    let bounds = if files_are_known { vec![bound] } else { Vec::new() };
    let tools = [&edit, toolbox.spec("exec").unwrap()];
    let tokenizer = engine.tokenizer().clone();
    let mark = tokenizer.special(MARK).unwrap();
    let special = |name: &str| (name == "<tool_call>").then_some(mark);
    let source = Dialect::Hermes.grammar(&tools, shape, &bounds, special);
    let mut grammar = engine.grammar(&source).unwrap();
    let mut tokens = Vec::new();
    for (i, piece) in text.split(MARK).enumerate() {
        tokens.extend((i > 0).then_some(mark));
        tokens.extend(tokenizer.encode_after(&tokens, piece).unwrap());
    }
    grammar.advance(&tokens).is_ok() && grammar.may_end()
}

fn edit(path: &str, old: &str) -> String {
    let arguments = serde_json::json!({"path": path, "old": old, "new": "y = {\"z\": '``'}\n"}).to_string();
    // One space after each comma and colon between the arguments, as models write it.
    let arguments = arguments.replacen("\":\"", "\": \"", 3).replacen("\",\"", "\", \"", 2);
    format!("{MARK}\n{{\"name\": \"edit\", \"arguments\": {arguments}}}\n</tool_call>")
}

#[test]
fn an_edit_replaces_lines_that_stand_in_the_file() {
    let files = [("a.py", FILE), ("b.py", "other = 1\n")];
    let may = |path, old| admits(Shape::CallNow, &files, &edit(path, old));
    assert!(may("a.py", "    return a // 2"));
    assert!(may("a.py", "return a // 2"), "the indentation may be left out");
    assert!(may("a.py", "x = \"1\\n\"\n\n    return a // 2\n"), "escapes and several lines");
    assert!(may("b.py", "other = 1"));
    for (path, old) in [
        ("a.py", "return a / 2"),
        ("a.py", "a // 2"),
        ("a.py", "other = 1"),
        ("a.py", ""),
        ("a.py", "\n\n"),
        ("c.py", "other = 1"),
    ] {
        assert!(!may(path, old), "{path} {old:?}");
    }
    // Nothing was read: nothing is bound.
    assert!(admits(Shape::CallNow, &[], &edit("c.py", "anything")));
}

#[test]
fn where_every_piece_stands_twice_an_edit_stays_possible() {
    // What is left of a file when places are avoided may be its repetitions alone. A terminal that nothing fits would leave no
    // token, and end the turn.
    let whole = "def f():\n    pass\n\ndef g():\n    pass\n".to_string();
    let known = |pieces: &[&str]| Known {
        path: "a.py".into(),
        pieces: pieces.iter().map(|piece| piece.to_string()).collect(),
        whole: whole.clone(),
    };
    let may = |pieces: &[&str], old: &str| admits_of(Shape::CallNow, vec![known(pieces)], &edit("a.py", old));
    assert!(may(&["    pass\n", "    pass\n"], "    pass\n"), "the tool says that it stands there twice");
    assert!(may(&["    pass\n", "def g():\n"], "def g():\n"));
    assert!(!may(&["    pass\n", "def g():\n"], "    pass\n"), "there is something better");
    assert!(may(&["n\n"], "anything"), "what may be blanks alone bounds nothing");
}

#[test]
fn a_whole_file_begins_at_the_margin_and_holds_what_it_has_to() {
    let engine = tiny();
    let tokenizer = engine.tokenizer().clone();
    let toolbox = Toolbox::builtin();
    let holds = vec!["def f".to_string(), "class \"A".to_string()];
    let never = vec!["def f():\n    pass".to_string()];
    let bounds =
        [Bound { tool: "write".into(), argument: "content".into(), to: To::Whole(Whole { holds, never }) }];
    let tools = [toolbox.spec("write").unwrap()];
    for dialect in [Dialect::Hermes, Dialect::Qwen3Coder, Dialect::DsmlV4] {
        let source = dialect.grammar(&tools, Shape::CallNow, &bounds, |name| tokenizer.special(name));
        let start = engine.grammar(&source).unwrap();
        let may = |content: &str| {
            let arguments = serde_json::json!({"path": "a.py", "content": content});
            let call = tools::Call { id: String::new(), name: "write".into(), arguments };
            let tokens = agent::dialect::tokens_of(&dialect.reply("", "", &[call]), &tokenizer).unwrap();
            let mut grammar = start.clone();
            grammar.advance(&tokens).is_ok() && grammar.may_end()
        };
        assert!(may("def f():\n\n    class \"A\\: 'é'\n"), "{dialect:?}");
        assert!(may("\"\"\"Says.\"\"\"\nclass \"A\n    pass\ndef f\n"), "{dialect:?}");
        for content in [
            "  def f():\n  class \"A\n",
            "def f():\n",
            "class A\n",
            "",
            "\ndef f class \"A\n",
            "class \"A\ndef f():\n    pass\n",
        ] {
            assert!(!may(content), "{dialect:?} {content:?}");
        }
    }
}

#[test]
fn no_bound_leaves_a_reply_without_a_next_token() {
    // Whatever files hold, and whatever is left of them: a model that says things at random never comes to a place where nothing
    // may follow.
    let engine = tiny();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut chance = 5_u32;
    let mut roll = |sides: u32| {
        chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (chance >> 8) % sides
    };
    let toolbox = Toolbox::builtin();
    let (edit, write) = (toolbox.spec("edit").unwrap(), toolbox.spec("write").unwrap());
    let lines = [
        "    pass\n",
        "def f():\n",
        "\n",
        "nt\n",
        "  <tool_call>\n",
        "</parameter>\n",
        "x = \"\\n\"\n",
        "</arg_value>é\n",
        "\t\n",
    ];
    for round in 0..40_u32 {
        let mut stretch = |longest: u32| {
            (0..roll(longest)).map(|_| lines[roll(lines.len() as u32) as usize]).collect::<String>()
        };
        let (before, between, after) = (stretch(4), stretch(4), stretch(4));
        let (one, other) = (stretch(5), stretch(3));
        let whole = format!("{before}{one}{between}{other}{after}");
        let known = Known { path: "a.py".into(), pieces: vec![one, other], whole: whole.clone() };
        let (all, free) = (Some("all".into()), Some("unread".into()));
        let led = round % 2 == 0;
        let quoted = Quoted {
            of: "path".into(),
            files: vec![known],
            lines: led,
            all: all.filter(|_| !led),
            free: free.filter(|_| !led),
            others: false,
        };
        let written = Whole { holds: vec![stretch(3)], never: vec![format!("{}.", stretch(2))] };
        let bounds = [
            Bound { tool: "edit".into(), argument: "old".into(), to: To::Piece(quoted) },
            Bound { tool: "write".into(), argument: "content".into(), to: To::Whole(written) },
        ];
        let tool = if round % 4 < 3 { edit } else { write };
        for dialect in Dialect::ALL {
            let source =
                dialect.grammar(&[tool], Shape::CallNow, &bounds, |name| engine.tokenizer().special(name));
            let mut grammar = engine.grammar(&source).unwrap();
            let mut timeline = engine.timeline();
            let sampling =
                engine::Sampling { temperature: 1.0, seed: u64::from(round), ..engine::Sampling::default() };
            runtime.block_on(async {
                let start = engine.tokenizer().encode("x").unwrap();
                timeline.sync(&start, |_| ()).await.unwrap();
                for at in 0..120 {
                    if grammar.ended() {
                        break;
                    }
                    let next = timeline.next(&sampling, Some(&mut grammar)).await;
                    let said = || engine.tokenizer().decode(timeline.tokens());
                    assert!(
                        next.is_ok(),
                        "{dialect:?}, token {at}: {next:?}\n{whole:?} {bounds:?}\n{}",
                        said()
                    );
                }
            });
        }
    }
}

#[test]
fn a_thought_comes_before_a_call_and_is_no_call_and_no_code() {
    let files = [("a.py", FILE)];
    let exec =
        format!("{MARK}\n{{\"name\": \"exec\", \"arguments\": {{\"command\": \"ls\"}}}}\n</tool_call>");
    let may = |text: &str| admits(Shape::MustCall, &files, text);
    assert!(may(&format!("It rounds {{down}} in `f`.\n{exec}")));
    assert!(!may("It rounds down."), "a call has to follow");
    assert!(!may(&exec), "a thought has to come first");
    assert!(!may(&format!("It is {{\"name\": \"x\"}}\n{exec}")));
    assert!(!may(&format!("So:\n```python\nx\n```\n{exec}")));
    assert!(!admits(Shape::CallNow, &files, &format!("It rounds down.\n{exec}")));
    assert!(admits(Shape::CallNow, &files, &exec));
}

#[test]
#[ignore = "needs a real model, which SAGA_TEST_MODEL names; run by `just long-file`"]
fn a_long_file_bounds_an_edit_within_a_real_vocabulary() {
    // Compiling is felt before a reply, and masks at every token; the library gives up beyond limits of its own.
    let path = std::env::var("SAGA_TEST_MODEL").expect("SAGA_TEST_MODEL names a model's file");
    let engine = engine::Engine::open(path.as_ref(), engine::Options::default(), &mut |_| ()).unwrap();
    let tokenizer = engine.tokenizer().clone();
    let source = include_str!("dialects.rs");
    let lines = source.split_inclusive('\n').cycle().take(2000).enumerate();
    let file: String =
        lines.map(|(n, line)| if n % 3 == 0 { format!("// {n}\n") } else { line.to_string() }).collect();
    let file = file[..file.floor_char_boundary(64 << 10)].to_string();
    let toolbox = Toolbox::builtin();
    let edit = toolbox.spec("edit").unwrap();
    let known = Known { path: "a.rs".into(), pieces: vec![file.clone()], whole: file.clone() };
    let (all, free) = (Some("all".into()), Some("unread".into()));
    let quoted = Quoted { of: "path".into(), files: vec![known], lines: false, all, free, others: true };
    let bounds = [Bound { tool: "edit".into(), argument: "old".into(), to: To::Piece(quoted) }];
    engine.grammar(&engine::GrammarSource::Lark("start: \"a\"".into())).unwrap();
    let began = std::time::Instant::now();
    let source = Dialect::Hermes.grammar(&[edit], Shape::Free, &bounds, |name| tokenizer.special(name));
    let written = began.elapsed();
    let start = engine.grammar(&source).unwrap();
    eprintln!("{} bytes: written in {written:?}, all in {:?}", file.len(), began.elapsed());
    let old: String = file.split_inclusive('\n').skip(900).take(12).collect();
    let arguments = serde_json::json!({"path": "a.rs", "old": old, "new": "x"});
    let call = tools::Call { id: String::new(), name: "edit".into(), arguments };
    let reply = Dialect::Hermes.reply("", "I look.", &[call]);
    let tokens = agent::dialect::tokens_of(&reply, &tokenizer).unwrap();
    let mut timeline = engine.timeline();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Masks are made where tokens are sampled: in the middle of the text, where most of it is still possible.
    for take in [tokens.len() / 4, tokens.len() / 2, tokens.len() * 3 / 4, tokens.len()] {
        let mut grammar = start.clone();
        grammar.advance(&tokens[..take]).unwrap();
        runtime.block_on(async {
            timeline.sync(&tokens[..1], |_| ()).await.unwrap();
            timeline.next(&engine::Sampling::default(), Some(&mut grammar)).await.unwrap();
        });
    }
    let activity = engine.activity();
    eprintln!("masks of 4 places took {:.1} ms", 1e3 * activity.mask_seconds);
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
}
