//! How often a real model's edits miss: `old` has to stand in the file exactly once. Asked for with and without what binds it to
//! the text that was read.
//!
//! ```text
//! edits MODEL FOLDER COUNT > edits.jsonl
//! ```
//!
//! Each task shows some forty lines of a Rust file of the folder around a function, and asks for a change of it.

use std::path::{Path, PathBuf};

use agent::Message;
use agent::dialect::{Bound, Dialect, Known, Quoted, Shape, To, tokens_of};
use engine::{Engine, Options, Sampling};
use serde_json::json;
use tools::{Spec, Toolbox};

/// Lines shown before the function and from it on.
const BEFORE: usize = 10;
const AFTER: usize = 30;
/// The longest `old` that is waited for. Tokens.
const TOKENS_MAX: usize = 400;

/// A function, the lines around it, and the file they stand in.
struct Task {
    path: String,
    whole: String,
    shown: String,
    asked: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, folder, count] = &arguments[..] else { return Err("edits MODEL FOLDER COUNT".into()) };
    let tasks = tasks(Path::new(folder), count.parse()?)?;
    let engine = Engine::open(Path::new(model), Options::default(), &mut |_| {})?;
    let toolbox = Toolbox::builtin();
    let edit = toolbox.spec("edit").ok_or("there is no tool named edit")?;
    let mut missed = [0, 0];
    for (n, task) in tasks.iter().enumerate() {
        for (bound, missed) in [false, true].into_iter().zip(&mut missed) {
            let (text, free, old) = ask(&engine, edit, task, bound).await?;
            let places = |within: &str| old.as_ref().map_or(0, |old| within.matches(old.as_str()).count());
            let (read, file) = (places(&task.shown), places(&task.whole));
            *missed += usize::from(file != 1);
            println!(
                "{}",
                json!({"task": n, "bound": bound, "asked": task.asked, "path": task.path, "free": free, "old": old,
                       "places_read": read, "places_file": file, "text": text})
            );
        }
        eprintln!(
            "{} tasks; missed without {}, with {}; {}",
            n + 1,
            missed[0],
            missed[1],
            json!(engine.activity())
        );
    }
    Ok(())
}

/// What the model replies up to the end of `old`, whether it left that free, and `old`.
async fn ask(
    engine: &Engine,
    edit: &Spec,
    task: &Task,
    bound: bool,
) -> Result<(String, bool, Option<String>), Box<dyn std::error::Error>> {
    let system = "You edit files by calls of edit.".to_string();
    let text = format!(
        "{}, lines 1-{} of {}:\n{}\n\n{}",
        task.path,
        task.shown.lines().count(),
        task.whole.lines().count(),
        task.shown,
        task.asked
    );
    let conversation = [Message::System { text: system, tools: vec![edit.clone()] }, Message::User { text }];
    let tokenizer = engine.tokenizer();
    let prompt = tokens_of(&Dialect::Hermes.render(&conversation), tokenizer)?;
    let file = Known { path: task.path.clone(), pieces: vec![task.shown.clone()], whole: task.shown.clone() };
    let quoted = Quoted {
        of: "path".into(),
        files: vec![file],
        lines: false,
        all: Some("all".into()),
        free: Some("unread".into()),
        others: true,
    };
    let bounds = match bound {
        true => vec![Bound { tool: "edit".into(), argument: "old".into(), to: To::Piece(quoted) }],
        false => Vec::new(),
    };
    let source = Dialect::Hermes.grammar(&[edit], Shape::CallNow, &bounds, |name| tokenizer.special(name));
    let mut grammar = engine.grammar(&source)?;
    let mut timeline = engine.timeline();
    timeline.sync(&prompt, |_| {}).await?;
    let mut reply = Vec::new();
    let mut text = String::new();
    while reply.len() < TOKENS_MAX && !grammar.ended() && !text.contains("\"new\"") {
        let token = timeline.next(&Sampling::default(), Some(&mut grammar)).await?;
        if tokenizer.ends().contains(&token) {
            break;
        }
        reply.push(token);
        text = tokenizer.decode(&reply);
    }
    // What comes before `new`, closed, is a call without it.
    let call = text.split_once("\"new\"").map(|(before, _)| before.trim_end().trim_end_matches(','));
    let call = call.and_then(|before| before.split_once("\"arguments\":")).map(|(_, arguments)| arguments);
    let arguments =
        call.and_then(|call| serde_json::from_str::<serde_json::Value>(&format!("{call}}}")).ok());
    let old = arguments.as_ref().and_then(|arguments| Some(arguments["old"].as_str()?.to_string()));
    let free = arguments
        .is_some_and(|arguments| arguments["unread"] == true || arguments["path"] != task.path.as_str());
    Ok((text, free, old))
}

/// Tasks over the Rust files of a folder: functions evenly spread over all there are.
fn tasks(folder: &Path, count: usize) -> Result<Vec<Task>, Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    rust_files(folder, &mut files)?;
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let whole = std::fs::read_to_string(&path)?;
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        let name = path.strip_prefix(folder)?.display().to_string();
        for (at, line) in lines.iter().enumerate() {
            let head = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            let Some((function, _)) = head.strip_prefix("fn ").and_then(|rest| rest.split_once('(')) else {
                continue;
            };
            let shown = lines[at.saturating_sub(BEFORE)..lines.len().min(at + AFTER)].concat();
            all.push((name.clone(), whole.clone(), shown, function.to_string()));
        }
    }
    let step = (all.len() / count.max(1)).max(1);
    let chosen = all.into_iter().step_by(step).take(count).enumerate();
    Ok(chosen
        .map(|(n, (path, whole, shown, name))| {
            let asked = match n % 4 {
                0 => {
                    format!("Let the function `{name}` print its name with eprintln! as its first statement.")
                }
                1 => format!("Rename the function `{name}` to `{name}_now`, where it is defined."),
                2 => format!(
                    "Rewrite the last expression of the function `{name}` without changing what it does."
                ),
                _ => format!("Delete the function `{name}`."),
            };
            Task { path, whole, shown, asked }
        })
        .collect())
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "target" || name.starts_with('.') {
            // What is built or hidden was not written by people.
            continue;
        }
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
