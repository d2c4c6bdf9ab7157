//! Calls of twenty tools by a real model, bound by their schemas: whether each can be read and fits, and what the masks cost.
//!
//! ```text
//! calls MODEL COUNT [LINES] > calls.jsonl
//! ```
//!
//! Each line of the output is one call: the tool, what was sampled, and whether it came to its end. `check.py` judges them by
//! another implementation of JSON Schema.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use engine::{Engine, Error, GrammarSource, Options, Sampling};
use serde_json::{Value, json};

/// The longest call that is waited for. Strings are bounded by their schemas, and so is what holds itself.
const TOKENS_MAX: usize = 1500;

/// How many calls of one tool are made before the next one's turn.
const BLOCK: usize = 25;

/// What calls are to be about, so that they differ.
const ABOUT: [&str; 10] = [
    "a bakery",
    "a space telescope",
    "a school library",
    "a bank",
    "a chess club",
    "a farm",
    "a hospital",
    "a harbour",
    "a game studio",
    "a museum of 日本 & \"Übersee\"",
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, count, lines) = match &arguments[..] {
        [model, count] => (model, count.parse::<usize>()?, 4),
        [model, count, lines] => (model, count.parse()?, lines.parse::<usize>()?),
        _ => return Err("calls MODEL COUNT [LINES]".into()),
    };
    let tools: Vec<Value> = serde_json::from_str(include_str!("tools.json"))?;
    let engine = Engine::open(Path::new(model), Options::default(), &mut |_| {})?;
    let began = Instant::now();
    for first in (0..count).step_by(BLOCK) {
        // Calls of one tool follow each other, and begin from what was computed of its description.
        let tool = Arc::new(tools[first / BLOCK % tools.len()].clone());
        let mut base = engine.timeline();
        base.sync(&engine.tokenizer().encode_with_special(&described(&tool))?, |_| {}).await?;
        let next = Arc::new(AtomicUsize::new(first));
        let last = count.min(first + BLOCK);
        let mut running = Vec::new();
        for _ in 0..lines {
            let (engine, tool, next, mut timeline) =
                (engine.clone(), tool.clone(), next.clone(), base.fork().await?);
            running.push(tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= last {
                        return Ok::<(), Error>(());
                    }
                    let (text, tokens, whole) = call(&engine, &mut timeline, &tool, n).await?;
                    println!(
                        "{}",
                        json!({"tool": tool["name"], "text": text, "tokens": tokens, "whole": whole})
                    );
                }
            }));
        }
        for line in running {
            line.await??;
        }
        eprintln!("{last} calls in {:.0} s {}", began.elapsed().as_secs_f64(), json!(engine.activity()));
    }
    let activity = engine.activity();
    eprintln!(
        "{count} calls in {:.0} s; masks took {:.2} % of the time of decoding",
        began.elapsed().as_secs_f64(),
        100.0 * activity.mask_seconds / activity.decode_seconds
    );
    Ok(())
}

/// What the model is told of a tool, up to what its call is to be about.
fn described(tool: &Value) -> String {
    format!(
        "<|im_start|>system\nYou call tools. The tool:\n{tool}<|im_end|>\n<|im_start|>user\nShow a short example of a call, for "
    )
}

/// One call of a tool: its text, how many tokens that is, and whether it came to its end.
async fn call(
    engine: &Engine,
    timeline: &mut engine::Timeline,
    tool: &Value,
    n: usize,
) -> Result<(String, usize, bool), Error> {
    let tokenizer = engine.tokenizer();
    let about = ABOUT[n % ABOUT.len()];
    let prompt = tokenizer.encode_with_special(&format!(
        "{}{about}, number {n}.<|im_end|>\n<|im_start|>assistant\n",
        described(tool)
    ))?;
    let mut grammar = engine.grammar(&source(tool))?;
    timeline.sync(&prompt, |_| {}).await?;
    let sampling = Sampling { temperature: 0.8, top_p: 0.95, seed: n as u64, ..Sampling::default() };
    let mut tokens = Vec::new();
    while !grammar.ended() && tokens.len() < TOKENS_MAX {
        let token = timeline.next(&sampling, Some(&mut grammar)).await?;
        if tokenizer.ends().contains(&token) {
            break;
        }
        tokens.push(token);
    }
    Ok((tokenizer.decode(&tokens), tokens.len(), grammar.ended()))
}

/// The grammar of a call.
fn source(tool: &Value) -> GrammarSource {
    let literal = |text: &str| Value::from(text).to_string();
    let mut schema = engine::finite(&tool["parameters"]);
    schema["x-guidance"] =
        json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
    let head = literal(&format!("{{\"name\": {}, \"arguments\": ", tool["name"]));
    GrammarSource::Lark(format!("start: {head} arguments \"}}\"\narguments: %json {schema}\n"))
}
