//! How several lines that decode at the same time fare: together, against one alone, and while a prompt is read beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Serialize;
use tokio::task::JoinSet;

use super::{Work, median, others};
use crate::{Engine, Error, Sampling, Timeline, Token};

/// The speeds of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct BatchRun {
    /// Generated tokens per second of one line while the others rest.
    pub alone_tokens_per_s: f64,
    /// Of all lines together.
    pub together_tokens_per_s: f64,
    /// The second over the first.
    pub gain: f64,
    /// Prompt tokens per second of a further line while all others decode.
    pub beside_prefill_tokens_per_s: f64,
    /// Generated tokens per second of all lines together meanwhile.
    pub beside_decode_tokens_per_s: f64,
    /// The longest that one of them waited for a token meanwhile, in milliseconds.
    pub longest_wait_ms: f64,
}

/// All runs, and the median of each figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Batch {
    /// Lines that decode together.
    pub lines: usize,
    /// One entry per repetition, in order.
    pub runs: Vec<BatchRun>,
    /// The median of each figure, ratios included: a gain is measured within a run.
    #[serde(flatten)]
    pub median: BatchRun,
}

/// Lets `lines` lines, each after a prompt of its own of `work.depth + work.prompt` tokens, sample `work.generate` tokens: one
/// alone and all together, in turns, so that a disturbance meets both. Then they go on while a further prompt is read.
///
/// # Errors
/// [`Error::ContextFull`] before any work if a line does not fit, with the one token more that each samples first;
/// [`Error::Option`] if there is nothing to do.
pub async fn batch(
    engine: &Engine,
    lines: usize,
    work: Work,
    mut on: impl FnMut(&BatchRun),
) -> Result<Batch, Error> {
    let Work { prompt, generate, depth, repetitions, .. } = work;
    if lines == 0 || prompt == 0 || generate == 0 || repetitions == 0 {
        return Err(Error::Option(
            "nothing to time: lines that decode together need a prompt, tokens to generate and repetitions"
                .into(),
        ));
    }
    let vocabulary = engine.model().vocabulary;
    let ids = |line: usize| others(1 + line as u64, depth + prompt, vocabulary);
    let longest = others(0, depth + prompt + 1 + generate, vocabulary);
    engine.timeline().check(&longest)?;
    let read_beside = ids(lines);
    let mut lines: Vec<Line> = (0..lines)
        .map(|line| Line { timeline: engine.timeline(), prompt: ids(line).into(), generate })
        .collect();
    let mut runs = Vec::with_capacity(repetitions);
    for turn in 0..repetitions {
        let mut run = BatchRun::default();
        for alone in if turn % 2 == 0 { [true, false] } else { [false, true] } {
            let rest = if alone { lines.split_off(1) } else { Vec::new() };
            for line in &mut lines {
                line.begin().await?;
            }
            let count = (lines.len() * generate) as f64;
            let start = Instant::now();
            lines = together(lines, move |mut line| async move {
                for _ in 0..generate {
                    line.next().await?;
                }
                Ok(line)
            })
            .await?;
            let speed = count / start.elapsed().as_secs_f64();
            if alone {
                run.alone_tokens_per_s = speed;
            } else {
                run.together_tokens_per_s = speed;
            }
            lines.extend(rest);
        }
        run.gain = run.together_tokens_per_s / run.alone_tokens_per_s;
        for line in &mut lines {
            line.begin().await?;
        }
        lines = beside(engine, lines, &read_beside, &mut run).await?;
        on(&run);
        runs.push(run);
    }
    let of = |figure: fn(&BatchRun) -> f64| median(runs.iter().map(figure));
    let median = BatchRun {
        alone_tokens_per_s: of(|run| run.alone_tokens_per_s),
        together_tokens_per_s: of(|run| run.together_tokens_per_s),
        gain: of(|run| run.gain),
        beside_prefill_tokens_per_s: of(|run| run.beside_prefill_tokens_per_s),
        beside_decode_tokens_per_s: of(|run| run.beside_decode_tokens_per_s),
        longest_wait_ms: of(|run| run.longest_wait_ms),
    };
    Ok(Batch { lines: lines.len(), runs, median })
}

/// A line that decodes, as one that somebody waits for does: each token is asked for when the last one is there.
struct Line {
    timeline: Timeline,
    prompt: Arc<[Token]>,
    /// How many tokens follow the prompt and the first one after it before the line begins anew.
    generate: usize,
}

impl Line {
    /// Goes to the prompt's end, and has its first token sampled: the others then cost one computed token each.
    async fn begin(&mut self) -> Result<(), Error> {
        self.timeline.sync(&self.prompt, |_| {}).await?;
        self.next().await
    }

    async fn next(&mut self) -> Result<(), Error> {
        self.timeline.next(&Sampling::default(), None).await?;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.timeline.tokens().len() > self.prompt.len() + self.generate
    }
}

/// Has all lines do something at the same time.
async fn together<T: Send + 'static, W>(lines: Vec<Line>, work: impl Fn(Line) -> W) -> Result<Vec<T>, Error>
where
    W: Future<Output = Result<T, Error>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for line in lines {
        tasks.spawn(work(line));
    }
    let mut done = Vec::with_capacity(tasks.len());
    while let Some(joined) = tasks.join_next().await {
        done.push(joined.map_err(|_| Error::Stopped)??);
    }
    Ok(done)
}

/// Reads a prompt while all lines decode.
async fn beside(
    engine: &Engine,
    lines: Vec<Line>,
    prompt: &[Token],
    run: &mut BatchRun,
) -> Result<Vec<Line>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let decoding = together(lines, |mut line| {
        let stop = Arc::clone(&stop);
        async move {
            let (mut count, mut longest) = (0_usize, 0.0_f64);
            while !stop.load(Ordering::Relaxed) {
                if line.is_full() {
                    line.begin().await?;
                }
                let start = Instant::now();
                line.next().await?;
                longest = longest.max(start.elapsed().as_secs_f64());
                count += 1;
            }
            Ok((line, count, longest))
        }
    });
    let reading = async {
        let mut timeline = engine.timeline();
        let start = Instant::now();
        let read = timeline.sync(prompt, |_| {}).await;
        // Whether it was read or not: the others must end.
        stop.store(true, Ordering::Relaxed);
        read.map(|_| start.elapsed().as_secs_f64())
    };
    let start = Instant::now();
    let (decoded, read) = tokio::join!(decoding, reading);
    let (seconds, decoded) = (start.elapsed().as_secs_f64(), decoded?);
    run.beside_prefill_tokens_per_s = prompt.len() as f64 / read?;
    run.beside_decode_tokens_per_s =
        decoded.iter().map(|(_, count, _)| count).sum::<usize>() as f64 / seconds;
    run.longest_wait_ms = 1e3 * decoded.iter().map(|(_, _, longest)| *longest).fold(0.0, f64::max);
    Ok(decoded.into_iter().map(|(line, ..)| line).collect())
}
