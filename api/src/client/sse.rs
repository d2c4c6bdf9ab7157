//! Server-sent events, read as they come.

use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;

/// Silence after which a stream counts as dead: three heartbeats of the service.
const SILENCE: Duration = Duration::from_secs(45);
/// The longest event that is read; a reply's tokens and text stay far below.
const EVENT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Its `id:`.
    pub(crate) id: Option<u64>,
    /// Its `event:`.
    pub(crate) kind: String,
    /// Its `data:`.
    pub(crate) data: String,
}

/// The events of one response.
pub(crate) struct Stream {
    body: Body,
    parser: Parser,
}

impl Stream {
    pub(crate) fn new(body: Body) -> Stream {
        Stream { body, parser: Parser::default() }
    }

    /// The next event; nothing once the connection has ended, is dead or talks nonsense. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some(heard) = self.parser.next() {
                return Some(heard);
            }
            if self.parser.bytes.len() > EVENT_BYTES_MAX {
                return None;
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await.ok()??.ok()?;
            if let Ok(data) = frame.into_data() {
                self.parser.feed(&data);
            }
        }
    }
}

/// Bytes in, events out. Takes line ends as the service writes them (`\n`) and as proxies may (`\r\n`).
#[derive(Default)]
struct Parser {
    bytes: Vec<u8>,
    searched: usize,
    id: Option<u64>,
    kind: String,
    data: Option<String>,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<Heard> {
        let mut from = 0;
        let mut heard = None;
        while heard.is_none() {
            let start = from.max(self.searched);
            let Some(end) = self.bytes[start..].iter().position(|b| *b == b'\n') else {
                self.searched = self.bytes.len();
                break;
            };
            let end = start + end;
            let line = String::from_utf8_lossy(&self.bytes[from..end]).into_owned();
            from = end + 1;
            self.searched = from;
            heard = self.line(line.trim_end_matches('\r'));
        }
        self.bytes.drain(..from);
        self.searched -= from;
        heard
    }

    /// Takes one line; an empty one ends the event.
    fn line(&mut self, line: &str) -> Option<Heard> {
        if line.is_empty() {
            let kind = std::mem::take(&mut self.kind);
            let id = self.id.take();
            return self.data.take().map(|data| Heard { id, kind, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = value.parse().ok(),
            "event" => self.kind = value.to_string(),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_string()),
            },
            // Comments have an empty field; `retry` is for browsers.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(chunks: &[&str]) -> Vec<(Option<u64>, String, String)> {
        let mut parser = Parser::default();
        let mut all = Vec::new();
        for chunk in chunks {
            parser.feed(chunk.as_bytes());
            while let Some(Heard { id, kind, data }) = parser.next() {
                all.push((id, kind, data));
            }
        }
        all
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        // The network cuts where it likes, also inside of a character.
        let text = "retry: 2000\n\n: hello\n\nid: 1\nevent: input\ndata: {\"text\":\"héllo\"}\n\nevent: progress\r\ndata: a\r\ndata: b\r\n\r\nid: 2\n";
        let whole = parse(&[text]);
        assert_eq!(
            whole,
            vec![
                (Some(1), "input".to_string(), "{\"text\":\"héllo\"}".to_string()),
                (None, "progress".to_string(), "a\nb".to_string()),
            ]
        );
        let mut parser = Parser::default();
        let mut bytewise = Vec::new();
        for byte in text.as_bytes() {
            parser.feed(&[*byte]);
            bytewise.extend(parser.next().map(|heard| (heard.id, heard.kind, heard.data)));
        }
        assert_eq!(bytewise, whole);
    }
}
