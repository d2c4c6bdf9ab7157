//! Figures for whoever watches the service, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use crate::service::Service;

/// What the service has done since it started, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "service",
    responses((status = 200, description = "Figures in the text format of Prometheus", body = String,
               content_type = "text/plain")))]
pub(crate) async fn metrics(State(service): State<Service>) -> Response {
    let mut page = Page::default();
    page.put("saga_info", "gauge", "Which version is running.", "version", env!("CARGO_PKG_VERSION"), 1.0);
    let ready = f64::from(u8::from(service.readiness().ready));
    page.put(
        "saga_ready",
        "gauge",
        "Whether the service can think.",
        "model",
        &service.readiness().model,
        ready,
    );
    let mut of_process = |name, help, value: Option<u64>| {
        // What this system does not tell is left out.
        if let Some(value) = value {
            page.put(name, "gauge", help, "of", "service", value as f64);
        }
    };
    of_process(
        "saga_memory_bytes",
        "Memory of the service that is in use, its maps of models included.",
        crate::host::resident_bytes(),
    );
    of_process("saga_processes", "Processes of sandboxes and their commands.", crate::host::descendants());
    if let Some(counts) = service.telemetry() {
        let mut put = |name, help, value: u64| page.put(name, "counter", help, "to", "otlp", value as f64);
        put("saga_spans_sent_total", "Spans that the collector has taken.", counts.sent());
        put("saga_spans_dropped_total", "Spans that it has not taken in time.", counts.dropped());
        put("saga_spans_missed_events_total", "Events that came too fast to make spans of.", counts.missed());
    }
    if let Some(live) = service.live() {
        live.engines().iter().for_each(|engine| of_engine(&mut page, engine));
        if let Some(snapshots) = live.snapshots() {
            of_snapshots(&mut page, &snapshots.held());
        }
    }
    let text = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (text, page.to_string()).into_response()
}

fn of_snapshots(page: &mut Page, held: &engine::snapshot::Held) {
    let mut put = |name, kind, help, value: u64| page.put(name, kind, help, "of", "snapshots", value as f64);
    put("saga_snapshot_lines", "gauge", "Sessions whose timelines lie on disk.", held.lines);
    put("saga_snapshot_bytes", "gauge", "What these take on disk.", held.held_bytes);
    put("saga_snapshot_budget_bytes", "gauge", "The most that they may take.", held.budget_bytes);
    put(
        "saga_snapshot_written_bytes_total",
        "counter",
        "Bytes of them that were written.",
        held.written_bytes,
    );
    put("saga_snapshot_refused_total", "counter", "Files that were damaged, and removed.", held.refused);
}

fn of_engine(page: &mut Page, engine: &engine::Engine) {
    let model = &engine.model().name;
    let mut count = |name, help, value: u64| page.put(name, "counter", help, "model", model, value as f64);
    let activity = engine.activity();
    let guesses = engine.guesses();
    count("saga_prefilled_tokens_total", "Tokens of prompts that were computed.", activity.prefilled_tokens);
    count("saga_cached_tokens_total", "Tokens of prompts that were there already.", activity.cached_tokens);
    count("saga_sampled_tokens_total", "Tokens that were sampled.", activity.sampled_tokens);
    count("saga_forced_tokens_total", "Tokens that a grammar left no choice about.", activity.forced_tokens);
    count(
        "saga_guessed_tokens_total",
        "Tokens that were guessed before they were sampled.",
        guesses.guessed(),
    );
    count("saga_accepted_tokens_total", "Guesses that were right.", guesses.accepted());
    count("saga_predicted_tokens_total", "Guesses that the model's own predictor made.", guesses.predicted);
    count("saga_accepted_predictions_total", "Those of them that were right.", guesses.predicted_rightly);
    let kv = engine.kv_held();
    count("saga_shared_tokens_total", "Cached tokens that another session had computed.", kv.shared_tokens);
    count("saga_restored_tokens_total", "Cached tokens that were read from disk.", kv.restored_tokens);
    if let Some(held) = engine.experts_held() {
        count("saga_expert_hits_total", "Experts that were in memory when they were asked for.", held.hits);
        count("saga_expert_misses_total", "Experts that had to be read from disk.", held.misses);
    }
    if let Some(held) = engine.tables_held() {
        count(
            "saga_table_hits_total",
            "Rows of Engram tables that were in memory when they were asked for.",
            held.hits,
        );
        count("saga_table_misses_total", "Rows of Engram tables that had to be read from disk.", held.misses);
    }
    let mut gauge = |name, help, value| page.put(name, "gauge", help, "model", model, value);
    gauge(
        "saga_kv_bytes",
        "Bytes of KV that are kept, for sessions at work and for later.",
        kv.held_bytes as f64,
    );
    gauge(
        "saga_kv_budget_bytes",
        "The most that are kept besides those of sessions at work.",
        kv.budget_bytes as f64,
    );
    // Nothing was done in no time.
    let per_second = |tokens: u64, seconds: f64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
    gauge(
        "saga_prefill_tokens_per_second",
        "Tokens of prompts that were computed, by the time spent on them, since the model was opened.",
        per_second(activity.prefilled_tokens, activity.prefill_seconds),
    );
    gauge(
        "saga_decode_tokens_per_second",
        "Tokens that were sampled, by the time spent on logits, since the model was opened.",
        per_second(activity.sampled_tokens, activity.decode_seconds),
    );
    let mut seconds = |name, help, value| page.put(name, "counter", help, "model", model, value);
    seconds("saga_prefill_seconds_total", "Time spent on prompts.", activity.prefill_seconds);
    seconds("saga_decode_seconds_total", "Time spent on logits to sample from.", activity.decode_seconds);
    seconds(
        "saga_mask_seconds_total",
        "Time spent on grammars' masks, beside the logits.",
        activity.mask_seconds,
    );
}

/// Figures by name, each with its lines: the format wants those of one name together.
#[derive(Default)]
struct Page(BTreeMap<&'static str, String>);

impl Page {
    fn put(&mut self, name: &'static str, kind: &str, help: &str, label: &str, of: &str, value: f64) {
        let lines =
            self.0.entry(name).or_insert_with(|| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        let of = of.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        // Writing to a text does not fail.
        let _ = writeln!(lines, "{name}{{{label}=\"{of}\"}} {value}");
    }
}

impl std::fmt::Display for Page {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.values().try_for_each(|lines| to.write_str(lines))
    }
}

#[cfg(test)]
mod tests {
    use engine::testing::TinyModel;
    use engine::{Engine, Options, Sampling};

    use super::{Page, of_engine};

    #[tokio::test]
    async fn an_engine_tells_all_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        TinyModel::new("qwen2").write(&path);
        let options = Options { threads: 1, ..Options::default() };
        let engine = Engine::open(&path, options, &mut |_| {}).unwrap();
        let figure = |name: &str| {
            let mut page = Page::default();
            of_engine(&mut page, &engine);
            let name = format!("{name}{{model=\"Tiny\"}} ");
            let page = page.to_string();
            let found = page.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok());
            found.unwrap_or_else(|| panic!("{name} is missing from {page}"))
        };
        let speeds = ["saga_prefill_tokens_per_second", "saga_decode_tokens_per_second"];
        assert_eq!(speeds.map(figure), [0.0; 2], "nothing was done yet");
        let prompt: Vec<u32> = (0..600).map(|i| i % 200).collect();
        let mut line = engine.timeline();
        line.sync(&prompt, |_| {}).await.unwrap();
        for _ in 0..3 {
            line.next(&Sampling::default(), None).await.unwrap();
        }
        engine.timeline().sync(&prompt, |_| {}).await.unwrap();
        // Two pages are shared while the first line is at work. The second line is let go of beside it, and on a busy machine its last page
        // is still there when this is read.
        let shared = (2 * 256 * engine.model().kv_bytes_per_token) as f64;
        let page = (256 * engine.model().kv_bytes_per_token) as f64;
        assert_eq!(figure("saga_prefilled_tokens_total"), 600.0 + 88.0);
        assert_eq!(figure("saga_cached_tokens_total"), 512.0);
        assert_eq!(figure("saga_sampled_tokens_total"), 3.0);
        assert!((shared..shared + page).contains(&figure("saga_kv_bytes")), "{}", figure("saga_kv_bytes"));
        assert_eq!(figure("saga_kv_budget_bytes"), f64::from(1 << 30));
        assert!(speeds.into_iter().all(|name| figure(name) > 0.0));
        let speed = figure("saga_sampled_tokens_total") / figure("saga_decode_seconds_total");
        assert!((figure(speeds[1]) / speed - 1.0).abs() < 1e-9);
        for name in ["saga_mask_seconds_total", "saga_accepted_tokens_total", "saga_guessed_tokens_total"] {
            assert!(figure(name) >= 0.0);
        }
    }

    #[test]
    fn figures_of_one_name_stand_together_and_labels_are_escaped() {
        let mut page = Page::default();
        page.put("b_total", "counter", "Bees.", "model", "one", 3.0);
        page.put("a", "gauge", "Ays.", "model", "x", 0.5);
        page.put("b_total", "counter", "Bees.", "model", "a \"b\\c\"\nd", 4.0);
        expect_test::expect![[r#"
            # HELP a Ays.
            # TYPE a gauge
            a{model="x"} 0.5
            # HELP b_total Bees.
            # TYPE b_total counter
            b_total{model="one"} 3
            b_total{model="a \"b\\c\"\nd"} 4
        "#]]
        .assert_eq(&page.to_string());
    }
}
