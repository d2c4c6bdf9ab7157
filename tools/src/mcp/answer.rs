//! What a server answers to a call, as a model reads it: texts as they are, everything else by its name.

use std::fmt::Write as _;
use std::time::Duration;

use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};
use serde_json::Value;

use crate::output::size;
use crate::{Outcome, Sandbox};

use super::schema::shortened;

/// A text of one line that is longer than this is laid out, if it is JSON: what is shown of a line has a cap. Bytes.
const LINE_BYTES: usize = 1500;

/// How much of an address or a title is shown. Characters.
const NAME_CHARS: usize = 200;

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) ok: bool,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn of(result: CallToolResult) -> Answer {
        let mut text = String::new();
        for block in &result.content {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            told(block, &mut text);
        }
        // Servers give the same as text besides; one that does not means this.
        if let Some(value) = result.structured_content.filter(|_| text.trim().is_empty()) {
            text = laid_out(&value);
        }
        if text.trim().is_empty() {
            text = "(no output)".to_owned();
        }
        Answer { ok: !result.is_error.unwrap_or(false), text }
    }

    /// With what the server asked meanwhile.
    pub(super) fn noting(mut self, questions: &[String]) -> Answer {
        for question in questions {
            let _ = write!(self.text, "\n(note: {question})");
        }
        self
    }

    /// As an outcome: harmless and capped, with what is left out kept by an id.
    pub(super) fn outcome(self, sandbox: &Sandbox, wall: Duration) -> Outcome {
        let bytes_total = self.text.len() as u64;
        let (mut text, truncated, output_id) = sandbox.shown(self.text.as_bytes());
        if let Some(id) = output_id {
            let _ =
                write!(text, "\n(note: all {} are kept: use read or grep with path {id})", size(bytes_total));
        }
        let brief = if self.ok { "done" } else { "failed" };
        Outcome {
            ok: self.ok,
            text,
            summary: format!("{brief} · {:.1} s · {}", wall.as_secs_f32(), size(bytes_total)),
            exit: None,
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            bytes_total,
            truncated,
            missing_layers: sandbox.missing().iter().map(|layer| layer.name.clone()).collect(),
            // Whatever a server answers, somebody else wrote it.
            external: true,
        }
    }
}

fn told(block: &ContentBlock, text: &mut String) {
    let named = |name: &str| shortened(name, NAME_CHARS);
    let _ = match block {
        ContentBlock::Text(content) => {
            text.push_str(&in_lines(&content.text));
            Ok(())
        }
        ContentBlock::Image(image) => {
            write!(
                text,
                "[an image, {}, {}: it cannot be shown here]",
                named(&image.mime_type),
                decoded(&image.data)
            )
        }
        ContentBlock::Audio(audio) => {
            write!(
                text,
                "[a sound, {}, {}: it cannot be played here]",
                named(&audio.mime_type),
                decoded(&audio.data)
            )
        }
        ContentBlock::Resource(resource) => match &resource.resource {
            ResourceContents::TextResourceContents { uri, text: content, .. } => {
                write!(text, "[the resource {}]\n{}", named(uri), in_lines(content))
            }
            ResourceContents::BlobResourceContents { uri, mime_type, blob, .. } => write!(
                text,
                "[the resource {}, {}, {}: it is no text and is not shown]",
                named(uri),
                named(mime_type.as_deref().unwrap_or("of an unknown kind")),
                decoded(blob)
            ),
            _ => write!(text, "[a resource of a kind that is not known here]"),
        },
        ContentBlock::ResourceLink(link) => {
            let about = link.description.as_deref().map(|about| format!(": {}", named(about)));
            write!(
                text,
                "[a link to {}, {}{}]",
                named(&link.uri),
                named(&link.name),
                about.unwrap_or_default()
            )
        }
        _ => write!(text, "[content of a kind that is not known here]"),
    };
}

/// JSON on one long line, laid out; any other text as it is.
fn in_lines(text: &str) -> String {
    let trimmed = text.trim();
    if trimmed.len() <= LINE_BYTES || trimmed.contains('\n') || !trimmed.starts_with(['{', '[']) {
        return text.to_owned();
    }
    serde_json::from_str(trimmed).map_or_else(|_| text.to_owned(), |value| laid_out(&value))
}

fn laid_out(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("a value that was read can be written")
}

/// How much there is behind base 64.
fn decoded(data: &str) -> String {
    size(data.len() as u64 / 4 * 3)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(result: Value, expected: &str) {
        let answer = Answer::of(serde_json::from_value(result).unwrap());
        assert_eq!(format!("{} {}", answer.ok, answer.text), expected);
    }

    #[test]
    fn texts_are_told_and_everything_else_is_named() {
        // A model that is shown nothing of an image must know that there was one.
        check(
            json!({"content": [
                {"type": "text", "text": "one"},
                {"type": "image", "data": "AAAAAAAA", "mimeType": "image/png"},
                {"type": "resource", "resource": {"uri": "file:///a", "text": "two"}},
                {"type": "resource", "resource": {"uri": "file:///b", "mimeType": "x/y", "blob": "AAAA"}},
                {"type": "resource_link", "uri": "file:///c", "name": "c", "description": "the\nthird"},
            ]}),
            "true one\n[an image, image/png, 6 B: it cannot be shown here]\n[the resource file:///a]\ntwo\n\
             [the resource file:///b, x/y, 3 B: it is no text and is not shown]\n[a link to file:///c, c: the third]",
        );
        check(json!({"content": [{"type": "text", "text": "no"}], "isError": true}), "false no");
        check(json!({"content": [], "structuredContent": {"a": 1}}), "true {\n  \"a\": 1\n}");
        check(json!({"content": []}), "true (no output)");
    }

    #[test]
    fn json_on_one_long_line_is_laid_out() {
        // A line is cut where it is shown, and most servers answer with one.
        let rows: Vec<Value> = (0..200).map(|n| json!({"number": n})).collect();
        let text = json!(rows).to_string();
        let answer =
            Answer::of(serde_json::from_value(json!({"content": [{"type": "text", "text": text}]})).unwrap());
        assert!(answer.text.lines().count() > 600 && answer.text.lines().all(|line| line.len() < 40));
    }
}
