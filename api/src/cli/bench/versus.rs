//! Our measurement and llama-bench in turns: pairs, and what one is of the other in each of them.

use engine::Engine;
use engine::bench::{self, Floor, Run, Work};
use serde::Serialize;
use serde_json::json;

use super::llama::Llama;
use crate::failure::Failure;
use crate::term::{Screen, To, say, table};

/// What both measured, one shortly after the other.
#[derive(Clone, Copy, Serialize)]
struct Pair {
    saga: Run,
    llama: Run,
    /// Ours by theirs.
    ratio: Run,
}

/// From this share of one core on that our threads take, what they were to rest beside is disturbed.
const DISTURBED: f64 = 0.05;

pub(super) async fn run(
    engine: &Engine,
    llama: &Llama,
    work: Work,
    floor: Option<Floor>,
    json: bool,
) -> Result<u8, Failure> {
    let once = Work { repetitions: 1, ..work };
    let screen = Screen::new(To::Stderr);
    let (mut pairs, mut build, mut disturbed) =
        (Vec::with_capacity(work.repetitions), String::new(), 0.0_f64);
    for turn in 0..work.repetitions {
        let status = |who| screen.status(&format!("pair {} of {}: {who}", turn + 1, work.repetitions));
        let ours = async || {
            status("saga");
            bench::run(engine, once, |_| {}).await.map(|report| report.median)
        };
        let theirs = async || {
            status("llama-bench");
            llama.measure(&once).await
        };
        let measured = async {
            if turn.is_multiple_of(2) {
                let saga = ours().await?;
                Ok::<_, Failure>((saga, theirs().await?))
            } else {
                let theirs = theirs().await?;
                Ok((ours().await?, theirs))
            }
        };
        let measured = measured.await;
        screen.quiet();
        let (saga, theirs) = measured?;
        disturbed = disturbed.max(theirs.disturbed.unwrap_or(0.0));
        build = theirs.build;
        let pair = Pair { saga, llama: theirs.run, ratio: over(saga, theirs.run) };
        if json {
            let mut object = serde_json::to_value(pair).expect("a pair has only string keys and numbers");
            object["pair"] = json!(turn + 1);
            say(&object.to_string());
        } else {
            say(&line(turn + 1, &pair));
        }
        pairs.push(pair);
    }
    let Some(median) = median(&pairs) else {
        return Err(Failure::new("nothing to compare").next("give at least one repetition with -r"));
    };
    if disturbed > DISTURBED {
        let share = 100.0 * disturbed;
        screen.line(&format!(
            "saga's own threads took {share:.0}% of a core beside llama-bench, which may be slower for it"
        ));
    }
    if json {
        let model = engine.model();
        let mut object = json!({
            "model": model.name, "quantisation": model.quantisation, "threads": llama.threads(), "prompt": work.prompt,
            "generate": work.generate, "depth": work.depth, "pairs": pairs, "saga": median.saga, "llama": median.llama,
            "ratio": median.ratio, "llama_build": build, "disturbed": disturbed, "floor": floor,
        });
        if let Some(floor) = floor {
            object["floor"]["saga_reached"] = json!(floor.reached(median.saga.decode_tokens_per_s));
            object["floor"]["llama_reached"] = json!(floor.reached(median.llama.decode_tokens_per_s));
        }
        say(&object.to_string());
        return Ok(0);
    }
    say("");
    say(&summary(&median, &work));
    say(&format!("medians of {} pairs with {} threads; llama.cpp {build}", pairs.len(), llama.threads()));
    if let Some(floor) = floor.filter(|_| work.generate > 0) {
        let share = |run: Run| 100.0 * floor.reached(run.decode_tokens_per_s);
        let (saga, llama) = (share(median.saga), share(median.llama));
        say(&format!("{}; saga reaches {saga:.0}% of it, llama.cpp {llama:.0}%", super::floor_line(&floor)));
    }
    Ok(0)
}

/// One by the other; 0 for what was not done.
fn over(a: Run, b: Run) -> Run {
    let over = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    Run {
        prefill_tokens_per_s: over(a.prefill_tokens_per_s, b.prefill_tokens_per_s),
        decode_tokens_per_s: over(a.decode_tokens_per_s, b.decode_tokens_per_s),
    }
}

/// The median of each figure, ratios included: each is measured within a pair.
fn median(pairs: &[Pair]) -> Option<Pair> {
    let of = |run: fn(&Pair) -> Run| bench::median_run(&pairs.iter().map(run).collect::<Vec<_>>());
    Some(Pair { saga: of(|pair| pair.saga)?, llama: of(|pair| pair.llama)?, ratio: of(|pair| pair.ratio)? })
}

fn line(number: usize, pair: &Pair) -> String {
    let figure = |of: fn(&Run) -> f64| {
        let Pair { saga, llama, ratio } = pair;
        format!("{:>8.2} : {:>8.2} ({:>5.3})", of(saga), of(llama), of(ratio))
    };
    let (prefill, decode) = (figure(|run| run.prefill_tokens_per_s), figure(|run| run.decode_tokens_per_s));
    format!("pair {number:<3} prefill {prefill}   decode {decode}   saga : llama.cpp, tokens/s")
}

fn summary(median: &Pair, work: &Work) -> String {
    let Pair { saga, llama, ratio } = median;
    let after = if work.depth > 0 { format!(" after {}", work.depth) } else { String::new() };
    let row = |name: String, of: fn(&Run) -> f64| {
        vec![name, format!("{:.2}", of(saga)), format!("{:.2}", of(llama)), format!("{:.3}", of(ratio))]
    };
    let mut rows = Vec::new();
    if work.prompt > 0 {
        rows.push(row(format!("prefill {}{after}", work.prompt), |run| run.prefill_tokens_per_s));
    }
    if work.generate > 0 {
        rows.push(row(format!("decode {}{after}", work.generate), |run| run.decode_tokens_per_s));
    }
    table(&["TOKENS/S", "SAGA", "LLAMA.CPP", "RATIO"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(saga: f64, llama: f64) -> Pair {
        let run = |speed| Run { prefill_tokens_per_s: 10.0 * speed, decode_tokens_per_s: speed };
        Pair { saga: run(saga), llama: run(llama), ratio: over(run(saga), run(llama)) }
    }

    #[test]
    fn ratios_are_compared_within_pairs() {
        // The machine was half as fast during the second pair: the medians of both are moved, the ratio is not.
        let median = median(&[pair(8.0, 10.0), pair(4.0, 5.0), pair(9.0, 10.0)]).unwrap();
        assert_eq!((median.saga.decode_tokens_per_s, median.llama.decode_tokens_per_s), (8.0, 10.0));
        assert!((median.ratio.prefill_tokens_per_s - 0.8).abs() < 1e-12);
        assert!(super::median(&[]).is_none());
        let work = Work { prompt: 0, generate: 4, after: bench::After::Depth, depth: 64, repetitions: 3 };
        expect_test::expect![[r#"
            TOKENS/S           SAGA  LLAMA.CPP  RATIO
            decode 4 after 64  8.00  10.00      0.800"#]]
        .assert_eq(&summary(&median, &work));
    }
}
