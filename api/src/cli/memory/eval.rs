//! `saga memory eval`.

use std::path::Path;
use std::sync::Arc;

use memory::Embedder;
use memory::eval::{Conversation, Report, Scores, evaluate};

use crate::config::Folders;
use crate::failure::Failure;
use crate::host::bytes;
use crate::models;
use crate::term::{Screen, To, say, table};

pub(super) async fn run(file: &Path, json: bool, words: bool, folders: &Folders) -> Result<u8, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(format!("{} cannot be read: {error}", file.display())))?;
    let conversations = parse(&text, file)?;
    let screen = Screen::new(To::Stderr);
    let embedder = if words { None } else { Some(models::embedder(folders, &screen).await?) };
    let report = measure(conversations, embedder, screen).await?;
    if json {
        say(&serde_json::to_string(&report).expect("a report has only string keys"));
    } else {
        say(&in_words(&report));
    }
    Ok(0)
}

fn parse(text: &str, file: &Path) -> Result<Vec<Conversation>, Failure> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parsed = lines.map(|(n, line)| {
        serde_json::from_str(line).map_err(|error| {
            Failure::new(format!("line {} of {} is no conversation: {error}", n + 1, file.display()))
                .next("`saga memory eval --help` shows the form")
        })
    });
    let conversations: Vec<Conversation> = parsed.collect::<Result<_, _>>()?;
    if conversations.is_empty() {
        return Err(Failure::new(format!("{} has no conversation in it", file.display())));
    }
    Ok(conversations)
}

async fn measure(
    conversations: Vec<Conversation>,
    embedder: Option<Arc<dyn Embedder>>,
    screen: Screen,
) -> Result<Report, Failure> {
    let work = move || {
        // Beside nothing that is kept: the folder goes when this ends.
        let dir = tempfile::Builder::new().prefix("saga-eval-").tempdir();
        let dir = dir.map_err(|error| Failure::new(format!("there is no room for a store: {error}")))?;
        let messages: usize = conversations.iter().map(|conversation| conversation.messages.len()).sum();
        screen.status(&format!("remembering {messages} messages of {} conversations", conversations.len()));
        let report = evaluate(&conversations, dir.path(), embedder.as_ref(), &mut |done, total| {
            screen.status(&format!("asked {done} of {total} questions"));
        });
        screen.quiet();
        report.map_err(|error| Failure::of(&error))
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::new(format!("the evaluation failed: {error}")))?
}

fn in_words(report: &Report) -> String {
    let percent = |share: f64| format!("{:.1}", share * 100.0);
    let row = |name: &str, scores: &Scores| {
        let shares = [
            scores.recall_1,
            scores.recall_5,
            scores.recall_10,
            scores.recall_20,
            scores.mrr,
            scores.ndcg_10,
        ];
        let mut row = vec![name.to_string()];
        row.extend(shares.map(percent));
        row.push(scores.questions.to_string());
        row
    };
    let mut rows = vec![row("saga", &report.ours), row("BM25", &report.bm25)];
    rows.extend(report.dense.as_ref().map(|scores| row("vectors", scores)));
    rows.extend(report.rrf.as_ref().map(|scores| row("BM25 and vectors by rank", scores)));
    rows.push(row("saga, sessions", &report.sessions));
    rows.extend(
        report.categories.iter().map(|(name, scores)| row(&format!("  saga, category {name}"), scores)),
    );
    let mut text = table(&["%", "R@1", "R@5", "R@10", "R@20", "MRR", "NDCG@10", "questions"], &rows);
    if let Some(pairs) = &report.supersession {
        text += &format!(
            "\nof {} changed facts the new stands above the old in {} % (BM25: {} %)",
            pairs.pairs,
            percent(pairs.new_above_old),
            percent(pairs.bm25_new_above_old)
        );
    }
    let cost = &report.cost;
    text += &format!(
        "\n{} messages: {:.0} written a second, {:.0} indexed a second, {} on disk\nrecall: p50 {:.1} ms, p95 {:.1} ms; without \
         the question's vector p50 {:.1} ms, p95 {:.1} ms",
        cost.messages,
        cost.written_per_second,
        cost.indexed_per_second,
        bytes(cost.store_bytes),
        cost.recall_p50_ms,
        cost.recall_p95_ms,
        cost.search_p50_ms,
        cost.search_p95_ms
    );
    text
}
