//! What going on from what was computed costs, against computing it again: for a second line, for a fork, and after a restart.

use std::time::Instant;

use serde::Serialize;

use super::{median, others};
use crate::snapshot::Snapshots;
use crate::{Engine, Error, Token};

/// The times of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ReuseRun {
    /// How long the line took that computed all its tokens.
    pub cold_s: f64,
    /// Tokens that a second line with the same tokens did not compute.
    pub hit_tokens: usize,
    /// How long that line took.
    pub hit_s: f64,
    /// The same as a part of `cold_s`.
    pub hit_share: f64,
    /// How long a fork took, in milliseconds.
    pub fork_ms: f64,
    /// The first token of the fork, in milliseconds: what is written to is copied then.
    pub fork_first_token_ms: f64,
    /// The second one, which copies nothing.
    pub fork_next_token_ms: f64,
    /// What the line takes in the cache.
    pub kv_bytes: u64,
    /// What its snapshot takes on disk.
    pub snapshot_bytes: u64,
    /// The second over the first.
    pub snapshot_ratio: f64,
    /// How long it took until the snapshot was safe.
    pub snapshot_s: f64,
    /// Tokens that another engine read from the snapshot.
    pub restored_tokens: usize,
    /// How long a line with the same tokens took there.
    pub restore_s: f64,
    /// The same as a part of `cold_s`.
    pub restore_share: f64,
}

/// All runs, and the median of each figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reuse {
    /// Tokens of each line.
    pub tokens: usize,
    /// One entry per repetition, in order.
    pub runs: Vec<ReuseRun>,
    /// The median of each figure, ratios included.
    #[serde(flatten)]
    pub median: ReuseRun,
}

/// Lines that lie in snapshots, and how they came there.
#[derive(Debug)]
pub struct Kept {
    lines: Vec<(Vec<Token>, ReuseRun)>,
}

/// Room for what is shared beside the line itself: states, and the pages of the line before it.
const SLACK_BYTES: u64 = 256 << 20;

/// Computes `repetitions` lines of `tokens` tokens that begin differently; has a second one say the same, forks it, and has it
/// written to `snapshots`, which the engine was opened with. What the engine keeps for other lines is bounded anew for that:
/// see [`Engine::set_kv_bytes`].
///
/// # Errors
/// [`Error::ContextFull`] before any work if a line does not fit with the two tokens of its fork, [`Error::Option`] if there is
/// nothing to do or a snapshot is not written.
pub async fn keep(
    engine: &Engine,
    snapshots: &Snapshots,
    tokens: usize,
    repetitions: usize,
) -> Result<Kept, Error> {
    if tokens == 0 || repetitions == 0 {
        return Err(Error::Option("nothing to time: give a prompt and repetitions".into()));
    }
    let vocabulary = engine.model().vocabulary;
    engine.timeline().check(&others(0, tokens + 2, vocabulary))?;
    warm_up(engine, tokens).await?;
    let mut lines = Vec::with_capacity(repetitions);
    for number in 0..repetitions {
        let ids = others(ids_of(number), tokens + 2, vocabulary);
        let said = &ids[..tokens];
        let mut run = ReuseRun::default();

        let mut line = engine.timeline();
        let start = Instant::now();
        line.sync(said, |_| {}).await?;
        run.cold_s = start.elapsed().as_secs_f64();

        let mut second = engine.timeline();
        let start = Instant::now();
        run.hit_tokens = second.sync(said, |_| {}).await?.cached;
        run.hit_s = start.elapsed().as_secs_f64();
        run.hit_share = run.hit_s / run.cold_s;
        drop(second);

        let start = Instant::now();
        let mut fork = line.fork().await?;
        run.fork_ms = 1e3 * start.elapsed().as_secs_f64();
        for (n, time) in [&mut run.fork_first_token_ms, &mut run.fork_next_token_ms].into_iter().enumerate() {
            let start = Instant::now();
            fork.sync(&ids[..tokens + 1 + n], |_| {}).await?;
            *time = 1e3 * start.elapsed().as_secs_f64();
        }
        drop(fork);

        let before = snapshots.held().written_bytes;
        let slot = snapshots.slot(&format!("bench-{number}"));
        let start = Instant::now();
        if !line.snapshot(&slot)?.is_kept().await {
            return Err(Error::Option(
                "a snapshot was not written; see whether the disk has room for it".into(),
            ));
        }
        run.snapshot_s = start.elapsed().as_secs_f64();
        run.snapshot_bytes = snapshots.held().written_bytes - before;
        run.kv_bytes = (tokens * engine.model().kv_bytes_per_token) as u64;
        run.snapshot_ratio = run.snapshot_bytes as f64 / run.kv_bytes.max(1) as f64;
        lines.push((said.to_vec(), run));
    }
    Ok(Kept { lines })
}

/// Has the same lines said in an engine that never computed them and was opened with the same snapshots. `on` hears each run
/// as it ends.
///
/// # Errors
/// As [`keep`].
pub async fn restore(engine: &Engine, kept: Kept, mut on: impl FnMut(&ReuseRun)) -> Result<Reuse, Error> {
    let tokens = kept.lines.first().map_or(0, |(said, _)| said.len());
    warm_up(engine, tokens).await?;
    let mut runs = Vec::with_capacity(kept.lines.len());
    for (said, mut run) in kept.lines {
        let before = engine.kv_held().restored_tokens;
        let mut line = engine.timeline();
        let start = Instant::now();
        line.sync(&said, |_| {}).await?;
        run.restore_s = start.elapsed().as_secs_f64();
        run.restore_share = run.restore_s / run.cold_s;
        run.restored_tokens =
            usize::try_from(engine.kv_held().restored_tokens - before).unwrap_or(usize::MAX);
        on(&run);
        runs.push(run);
    }
    let of = |figure: fn(&ReuseRun) -> f64| median(runs.iter().map(figure));
    // Counts are the same in every run, or nearly so; the middle one is one of them.
    let count = |figure: fn(&ReuseRun) -> u64| {
        let mut counts: Vec<u64> = runs.iter().map(figure).collect();
        counts.sort_unstable();
        counts.get(counts.len() / 2).copied().unwrap_or(0)
    };
    let median = ReuseRun {
        cold_s: of(|run| run.cold_s),
        hit_tokens: count(|run| run.hit_tokens as u64) as usize,
        hit_s: of(|run| run.hit_s),
        hit_share: of(|run| run.hit_share),
        fork_ms: of(|run| run.fork_ms),
        fork_first_token_ms: of(|run| run.fork_first_token_ms),
        fork_next_token_ms: of(|run| run.fork_next_token_ms),
        kv_bytes: count(|run| run.kv_bytes),
        snapshot_bytes: count(|run| run.snapshot_bytes),
        snapshot_ratio: of(|run| run.snapshot_ratio),
        snapshot_s: of(|run| run.snapshot_s),
        restored_tokens: count(|run| run.restored_tokens as u64) as usize,
        restore_s: of(|run| run.restore_s),
        restore_share: of(|run| run.restore_share),
    };
    Ok(Reuse { tokens, runs, median })
}

/// Lets lines of so many tokens find each other, and pages, buffers and clocks settle in a short run that is not counted.
async fn warm_up(engine: &Engine, tokens: usize) -> Result<(), Error> {
    let line = (tokens * engine.model().kv_bytes_per_token) as u64;
    engine.set_kv_bytes(line.saturating_mul(2).saturating_add(SLACK_BYTES))?;
    engine.timeline().sync(&others(0, tokens.min(8), engine.model().vocabulary), |_| {}).await?;
    Ok(())
}

/// Which tokens line `number` has: none that other measurements use.
fn ids_of(number: usize) -> u64 {
    (1 << 32) + number as u64
}
