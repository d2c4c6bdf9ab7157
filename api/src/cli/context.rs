//! `saga sessions context` and `compact`: what fills a prompt, and making room in it.

use std::time::Duration;

use agent::Event;

use crate::client::Client;
use crate::context::{Context, NewCompaction, Segment, SegmentKind};
use crate::failure::{EXIT_NO, Failure};
use crate::host::count;
use crate::show::compacted_in_words;
use crate::term::{one_line, say, table};

/// How many parts of a prompt are shown one by one: its first, and its last.
const FIRST: usize = 4;
const LAST: usize = 16;
/// How many marks a full bar has.
const BAR: u64 = 40;

pub(super) fn show(context: &Context, json: bool) {
    if json {
        say(&serde_json::to_string(context).expect("a context has only string keys"));
        return;
    }
    let about = if context.counted { "" } else { "about " };
    let of = match context.window.filter(|window| *window > 0) {
        Some(window) => {
            let marks = usize::try_from((context.tokens * BAR).div_ceil(window).min(BAR)).unwrap_or_default();
            let bar = format!("{}{}", "█".repeat(marks), "░".repeat(BAR as usize - marks));
            format!(" of {} · {bar} {} %", count(window), context.tokens * 100 / window)
        }
        None => String::new(),
    };
    say(&format!(
        "{about}{} tokens{of}\n{} of them were there already when the model was asked last\n",
        count(context.tokens),
        count(context.cached_tokens)
    ));
    let row = |segment: &Segment| {
        let kind = match segment.kind {
            SegmentKind::System => "system",
            SegmentKind::Digest => "digest",
            SegmentKind::User => "user",
            SegmentKind::Reply => "reply",
            SegmentKind::Results => "results",
        };
        vec![count(segment.tokens), kind.to_string(), one_line(&segment.about, 80)]
    };
    let all = &context.segments;
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (n, segment) in all.iter().enumerate() {
        let skipped = all.len().saturating_sub(LAST);
        if n < FIRST || n >= skipped {
            rows.push(row(segment));
        } else if n == FIRST {
            let between: u64 = all[FIRST..skipped].iter().map(|segment| segment.tokens).sum();
            rows.push(vec![count(between), "…".to_string(), format!("{} more", skipped - FIRST)]);
        }
    }
    say(&table(&["TOKENS", "PART", "ABOUT"], &rows));
    for compaction in &context.compactions {
        let what = compacted_in_words(compaction.messages, compaction.before_tokens, compaction.after_tokens);
        say(&format!("event {}: {what}", compaction.seq));
    }
    if !context.left_out.is_empty() {
        let tokens: u64 = context.left_out.iter().map(|segment| segment.tokens).sum();
        say(&format!(
            "{} messages of about {} tokens are left out; `saga sessions uncompact` takes the last time back",
            context.left_out.len(),
            count(tokens)
        ));
    }
}

pub(super) async fn compact(client: &Client, id: &str, focus: Option<String>) -> Result<u8, Failure> {
    let mut after = client.compact(id, &NewCompaction { focus }).await?.seq;
    loop {
        let page = client.events(id, after).await?;
        for recorded in page.events {
            after = recorded.seq.0;
            match recorded.event {
                Event::Compacted { messages, before_tokens, after_tokens, .. } => {
                    say(&compacted_in_words(messages, before_tokens, after_tokens));
                    return Ok(0);
                }
                Event::NotCompacted { why } => {
                    say(&format!("no room was made: {why}"));
                    return Ok(EXIT_NO);
                }
                _ => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
