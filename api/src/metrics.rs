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
    use super::Page;

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
