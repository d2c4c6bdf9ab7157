//! Logits, greedy continuations and timings of a model file, for comparing the engine with others:
//!
//! ```text
//! judge logits MODEL IDS.json OUT.safetensors [DECODE_FROM]
//! judge greedy MODEL IDS.json COUNT
//! judge bench MODEL PROMPT GENERATE REPETITIONS [DEPTH]
//! ```

use std::path::Path;

use engine::{Engine, Error, Options, Sampling, Token, bench, logits};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let open = |model: &str| Engine::open(Path::new(model), Options::default(), &mut |_| {});
    let number = |text: &str| text.parse::<usize>().map_err(|e| Error::Option(format!("{text}: {e}")));
    let ids = |path: &str| -> Result<Vec<Token>, Box<dyn std::error::Error>> {
        Ok(serde_json::from_reader(std::fs::File::open(path)?)?)
    };
    match arguments[..] {
        ["logits", model, path, out, ref rest @ ..] => {
            let decode_from = rest.first().map(|from| number(from)).transpose()?;
            logits::write(&open(model)?, &ids(path)?, decode_from, Path::new(out), |_| {}).await?;
        }
        ["greedy", model, path, count] => {
            let engine = open(model)?;
            let prompt = ids(path)?;
            let mut timeline = engine.timeline();
            timeline.sync(&prompt, |_| {}).await?;
            for _ in 0..number(count)? {
                timeline.next(&Sampling::default(), None).await?;
            }
            println!("{}", serde_json::to_string(&timeline.tokens()[prompt.len()..])?);
        }
        ["bench", model, prompt, generate, repetitions, ref rest @ ..] => {
            let work = bench::Work {
                prompt: number(prompt)?,
                generate: number(generate)?,
                after: bench::After::Prompt,
                repetitions: number(repetitions)?,
                depth: rest.first().map_or(Ok(0), |depth| number(depth))?,
            };
            let report = bench::run(&open(model)?, work, |run| eprintln!("{run:?}")).await?;
            println!("{}", serde_json::to_string(&report)?);
        }
        _ => return Err("see the top of examples/judge.rs for what it takes".into()),
    }
    Ok(())
}
