//! Prefill and decode timing on a timeline, as `saga bench` prints it.

mod batch;
mod floor;
mod reuse;

use std::time::Instant;

use serde::Serialize;

use crate::{Engine, Error, Guesses, Progress, Sampling, Token};

pub use batch::{Batch, BatchRun, batch};
pub use floor::Floor;
pub use reuse::{Kept, Reuse, ReuseRun, keep, restore};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Tokens that are prefilled, after `depth` others.
    pub prompt: usize,
    /// Tokens that are decoded one by one.
    pub generate: usize,
    /// What these are decoded after.
    pub after: After,
    /// Tokens that are in the cache before the clock starts.
    pub depth: usize,
    /// How often everything is done.
    pub repetitions: usize,
}

/// Where in the line tokens are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum After {
    /// After the prompt, as in a session.
    #[default]
    Prompt,
    /// Where the prompt began, which is forgotten before that: as llama-bench does it.
    Depth,
}

/// The speeds of one run; 0 for what it did not do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Run {
    /// Prompt tokens per second.
    pub prefill_tokens_per_s: f64,
    /// Generated tokens per second.
    pub decode_tokens_per_s: f64,
}

/// All runs, and their medians, which one disturbed run does not move.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// One entry per repetition, in order.
    pub runs: Vec<Run>,
    /// The median of each speed.
    #[serde(flatten)]
    pub median: Run,
    /// Tokens that were guessed before they were sampled, in all runs.
    pub guesses: Guesses,
}

/// Times `work` on a timeline of its own. `on` hears each run as it ends.
///
/// # Errors
/// [`Error::ContextFull`] before any work if it does not fit, [`Error::Option`] if there is nothing to do.
pub async fn run(engine: &Engine, work: Work, mut on: impl FnMut(&Run)) -> Result<Report, Error> {
    let Work { prompt, generate, after, depth, repetitions } = work;
    if repetitions == 0 || prompt + generate == 0 {
        return Err(Error::Option(
            "nothing to time: give repetitions, and a prompt or tokens to generate".into(),
        ));
    }
    let ids = ids(depth + prompt + generate, engine.model().vocabulary);
    let mut timeline = engine.timeline();
    timeline.check(&ids)?;
    // Pages, buffers and clocks settle in a first short run that is not counted.
    timeline.sync(&ids[..ids.len().min(8)], |_| {}).await?;
    let mut runs = Vec::with_capacity(repetitions);
    for _ in 0..repetitions {
        timeline.sync(&ids[..depth], |_| {}).await?;
        let mut run = Run::default();
        let start = Instant::now();
        timeline.sync(&ids[..depth + prompt], |_| {}).await?;
        if prompt > 0 {
            run.prefill_tokens_per_s = prompt as f64 / start.elapsed().as_secs_f64();
        }
        let at = match after {
            After::Prompt => depth + prompt,
            After::Depth => depth,
        };
        timeline.sync(&ids[..at], |_| {}).await?;
        let start = Instant::now();
        for n in 1..=generate {
            timeline.sync(&ids[..at + n], |_| {}).await?;
        }
        if generate > 0 {
            run.decode_tokens_per_s = generate as f64 / start.elapsed().as_secs_f64();
        }
        on(&run);
        runs.push(run);
    }
    let median = median_run(&runs).expect("there is at least one repetition");
    Ok(Report { runs, median, guesses: Guesses::default() })
}

/// Times how `prompt` is read and `generate` tokens are sampled after it, the likeliest each time. Unlike [`run`], whose
/// tokens mean nothing, this shows what guessing them does.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    engine: &Engine,
    prompt: &[Token],
    generate: usize,
    repetitions: usize,
    mut on: impl FnMut(&Run),
) -> Result<Report, Error> {
    if repetitions == 0 || prompt.is_empty() {
        return Err(Error::Option("nothing to time: give repetitions and a text".into()));
    }
    let before = engine.guesses();
    let mut runs = Vec::with_capacity(repetitions);
    // Pages, buffers and clocks settle in a first short run that is not counted.
    engine.timeline().sync(&prompt[..prompt.len().min(8)], |_| {}).await?;
    for _ in 0..repetitions {
        // A line of its own, which knows nothing of how the others went.
        let mut timeline = engine.timeline();
        let mut run = Run::default();
        let start = Instant::now();
        timeline.sync(prompt, |_| {}).await?;
        run.prefill_tokens_per_s = prompt.len() as f64 / start.elapsed().as_secs_f64();
        let start = Instant::now();
        for _ in 0..generate {
            timeline.next(&Sampling::default(), None).await?;
        }
        if generate > 0 {
            run.decode_tokens_per_s = generate as f64 / start.elapsed().as_secs_f64();
        }
        on(&run);
        runs.push(run);
    }
    let guesses = engine.guesses().since(&before);
    let median = median_run(&runs).expect("there is at least one repetition");
    Ok(Report { runs, median, guesses })
}

/// The median of each speed; none of no runs.
pub fn median_run(runs: &[Run]) -> Option<Run> {
    (!runs.is_empty()).then(|| Run {
        prefill_tokens_per_s: median(runs.iter().map(|run| run.prefill_tokens_per_s)),
        decode_tokens_per_s: median(runs.iter().map(|run| run.decode_tokens_per_s)),
    })
}

/// How fast one line goes on at one of its lengths.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Frontier {
    /// Tokens in the line.
    pub depth: usize,
    /// Prompt tokens per second on the way from the frontier before.
    pub prefill_tokens_per_s: f64,
    /// The median time of one token after it, in milliseconds.
    pub decode_ms: f64,
}

/// Lets one line grow through these lengths, in order, and times `generate` tokens at each. `on` hears how far the
/// prompts are, `at` each frontier as it is reached. The tokens that are timed stay in the line.
///
/// # Errors
/// [`Error::ContextFull`] before any work if the line does not fit, [`Error::Option`] if there is nothing to time or a
/// length does not grow by more than `generate`.
pub async fn frontiers(
    engine: &Engine,
    depths: &[usize],
    generate: usize,
    mut on: impl FnMut(Progress) + Send,
    mut at: impl FnMut(&Frontier),
) -> Result<Vec<Frontier>, Error> {
    let Some(&last) = depths.last().filter(|_| generate > 0) else {
        return Err(Error::Option("nothing to time: give lengths, and tokens to generate at each".into()));
    };
    let grows = depths.windows(2).all(|pair| pair[0].saturating_add(generate) < pair[1]);
    if depths[0] == 0 || !grows {
        return Err(Error::Option(format!("the lengths {depths:?} must grow by more than {generate} each")));
    }
    // The longest line ends with the tokens that are timed there.
    let ids = ids(last, engine.model().vocabulary);
    let mut timeline = engine.timeline();
    timeline.check(&ids)?;
    let (mut frontiers, mut before) = (Vec::with_capacity(depths.len()), 0);
    for &depth in depths {
        let prompt = if depth == last { depth - generate.min(depth - 1) } else { depth };
        let start = Instant::now();
        timeline.sync(&ids[..prompt], &mut on).await?;
        let seconds = start.elapsed().as_secs_f64();
        let mut times = Vec::with_capacity(generate);
        for n in 1..=generate.min(last - prompt) {
            let start = Instant::now();
            timeline.sync(&ids[..prompt + n], |_| {}).await?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let frontier = Frontier {
            depth: prompt + times.len(),
            prefill_tokens_per_s: (prompt - before) as f64 / seconds,
            decode_ms: median(times.into_iter()),
        };
        before = frontier.depth;
        at(&frontier);
        frontiers.push(frontier);
    }
    Ok(frontiers)
}

/// How many threads compute if `asked` is 0, else as many as that: what [`crate::Options::threads`] means.
pub fn threads(asked: usize) -> usize {
    if asked == 0 { crate::engine::physical_cores() } else { asked }
}

/// Tokens that are the same in every run and stand all over the vocabulary.
fn ids(count: usize, vocabulary: usize) -> Vec<Token> {
    others(0, count, vocabulary)
}

/// The same for a line that is not to begin as others do.
fn others(which: u64, count: usize, vocabulary: usize) -> Vec<Token> {
    // Neighbours would draw alike first numbers.
    let mut state = 1 ^ which.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocabulary as u64) as Token
        })
        .collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 100.0].into_iter()), 3.0);
        assert_eq!(median([4.0, 1.0, 100.0, 2.0].into_iter()), 3.0);
    }
}
