//! What a reply may say, judged by the grammar itself over a tiny vocabulary.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use agent::dialect::{Dialect, Quotes, Shape};
use engine::testing::TinyModel;
use tools::{Spec, Toolbox};

const FILE: &str = "def f(a):\n    x = \"1\\n\"\n\n    return a // 2\n";

/// A token that stands for the mark before a call: the tiny vocabulary has none of its own.
const MARK: &str = "<|endoftext|>";

/// Whether a reply of this shape may be `text`, to its end.
fn admits(shape: Shape, files: &[(&str, &str)], text: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel::new("qwen2").write(&path);
    let engine = engine::Engine::open(
        &path,
        engine::Options { threads: 1, ..engine::Options::default() },
        &mut |_| (),
    )
    .unwrap();
    let toolbox = Toolbox::builtin();
    let mut edit: Spec = toolbox.spec("edit").unwrap().clone();
    edit.parameters["properties"].as_object_mut().unwrap().remove("all");
    let files = files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
    let quotes = Quotes { tool: "edit", path: "path", text: "old", files };
    let tools = [&edit, toolbox.spec("exec").unwrap()];
    let tokenizer = engine.tokenizer().clone();
    let mark = tokenizer.special(MARK).unwrap();
    let special = |name: &str| (name == "<tool_call>").then_some(mark);
    let source = Dialect::Hermes.grammar(&tools, shape, &quotes, special);
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
