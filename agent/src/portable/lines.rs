//! The lines of a session's file, written and read: each with a checksum of itself and of all before it.

use std::io::{BufRead, BufReader, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{FORM, Title};
use crate::Error;
use crate::event::Recorded;

/// The longest line: a journal's longest record, and a file that a checkpoint holds, in base64 and with room for the rest.
const LINE_BYTES_MAX: u64 = memory::RECORD_BYTES_MAX as u64 + (1 << 20);
/// The most that a file unpacks to. Bytes. A file that unpacks to far more than it is was made to fill a disk.
const UNPACKED_BYTES_MAX: u64 = 4 << 30;
/// Events that a file may have.
const EVENTS_MAX: u64 = 2_000_000;
/// What checksums begin with.
const SEED: &[u8] = b"saga session 1";
/// How much of a digest is enough to find damage. Bytes.
const SUM_BYTES: usize = 8;

/// Writes the lines of a file.
pub(super) struct Lines<'a> {
    to: GzEncoder<&'a mut dyn Write>,
    sum: Sum,
    count: u64,
}

impl<'a> Lines<'a> {
    pub(super) fn begin(to: &'a mut dyn Write, title: &Title) -> Result<Lines<'a>, Error> {
        let mut lines =
            Lines { to: GzEncoder::new(to, Compression::default()), sum: Sum::default(), count: 0 };
        lines.put(&serde_json::to_string(title).expect("a title has only string keys"))?;
        Ok(lines)
    }

    pub(super) fn event(&mut self, event: &Value) -> Result<(), Error> {
        self.body("event", &event.to_string())
    }

    pub(super) fn piece(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        let piece = Piece { name: name.to_string(), base64: STANDARD.encode(content) };
        self.body("piece", &serde_json::to_string(&piece).expect("a piece has only string keys"))
    }

    pub(super) fn end(mut self) -> Result<(), Error> {
        let lines = self.count + 1;
        self.body("end", &lines.to_string())?;
        self.to.finish().and_then(Write::flush).map_err(cannot)
    }

    fn body(&mut self, kind: &str, body: &str) -> Result<(), Error> {
        let sum = self.sum.over(kind, body);
        self.put(&format!("{{\"sum\":\"{sum}\",\"{kind}\":{body}}}"))
    }

    fn put(&mut self, line: &str) -> Result<(), Error> {
        self.count += 1;
        self.to.write_all(line.as_bytes()).and_then(|()| self.to.write_all(b"\n")).map_err(cannot)
    }
}

fn cannot(error: std::io::Error) -> Error {
    Error::NotExported(error.to_string())
}

/// The checksum of all lines so far.
#[derive(Default)]
struct Sum(Vec<u8>);

impl Sum {
    fn over(&mut self, kind: &str, body: &str) -> String {
        let before = if self.0.is_empty() { SEED } else { &self.0 };
        self.0 = Sha256::new().chain_update(before).chain_update(kind).chain_update(body).finalize().to_vec();
        self.0[..SUM_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Piece {
    name: String,
    base64: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    sum: String,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(borrow, default)]
    piece: Option<&'a RawValue>,
    #[serde(borrow, default)]
    end: Option<&'a RawValue>,
}

/// Reads the lines of a file.
pub(super) struct Reader<'a> {
    from: BufReader<MultiGzDecoder<BufReader<&'a mut dyn Read>>>,
    title: Title,
    sum: Sum,
    line: u64,
    unpacked: u64,
    text: String,
}

impl<'a> Reader<'a> {
    pub(super) fn begin(from: &'a mut dyn Read) -> Result<Reader<'a>, Error> {
        let title = Title {
            saga_session: 0,
            saga: String::new(),
            id: crate::SessionId::new(0, 0),
            exported_ms: 0,
            events: 0,
            pieces: 0,
            masked: false,
        };
        let mut reader = Reader {
            from: BufReader::new(MultiGzDecoder::new(BufReader::new(from))),
            title,
            sum: Sum::default(),
            line: 0,
            unpacked: 0,
            text: String::new(),
        };
        reader.next()?;
        let value: Value =
            serde_json::from_str(&reader.text).map_err(|error| reader.bad(&error.to_string()))?;
        match value["saga_session"].as_u64() {
            Some(form) if form == u64::from(FORM) => {}
            Some(form) => {
                return Err(reader.bad(&format!(
                    "it has form {form}, and form {FORM} is known here: use the version that wrote it, or a newer one"
                )));
            }
            None => return Err(reader.bad("this is no session that saga exported")),
        }
        reader.title = serde_json::from_value(value).map_err(|error| reader.bad(&error.to_string()))?;
        if !(1..=EVENTS_MAX).contains(&reader.title.events) {
            return Err(reader.bad(&format!("a session has 1 to {EVENTS_MAX} events")));
        }
        Ok(reader)
    }

    pub(super) fn title(&self) -> &Title {
        &self.title
    }

    /// The next event, which has to stand at this place.
    pub(super) fn event(&mut self, seq: u64) -> Result<Recorded, Error> {
        let body = self.body("event")?;
        let recorded: Recorded = serde_json::from_str(&body).map_err(|error| self.bad(&error.to_string()))?;
        if recorded.seq.0 != seq {
            return Err(self.bad(&format!("event {} stands where {seq} should be", recorded.seq.0)));
        }
        let (was, is): (Option<Value>, _) =
            (serde_json::from_str(&body).ok(), serde_json::to_value(&recorded).ok());
        // What is not understood would be lost without a word.
        if let Some(lost) = was.zip(is).and_then(|(was, is)| lost(&was, &is)) {
            return Err(self.bad(&format!(
                "its {lost:?} is not known to this version; saga {} wrote it",
                self.title.saga
            )));
        }
        Ok(recorded)
    }

    /// The next piece of content: its name and what it is.
    pub(super) fn piece(&mut self) -> Result<(String, Vec<u8>), Error> {
        let body = self.body("piece")?;
        let Piece { name, base64 } =
            serde_json::from_str(&body).map_err(|error| self.bad(&error.to_string()))?;
        let content = STANDARD.decode(base64).map_err(|error| self.bad(&error.to_string()))?;
        if tools::checkpoint::name_of(&content) != name {
            return Err(self.bad("the content is not what its name says"));
        }
        Ok((name, content))
    }

    /// The last line, after which nothing comes.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        let body = self.body("end")?;
        if body.parse() != Ok(self.line) {
            return Err(self.bad(&format!("it says that there are {body} lines")));
        }
        let mut more = [0];
        match self.from.read(&mut more) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.bad("more comes after the last line")),
            Err(error) => Err(self.bad(&format!("it cannot be unpacked: {error}"))),
        }
    }

    /// What is wrong with the line that was read last.
    pub(super) fn bad(&self, why: &str) -> Error {
        Error::NotImported { line: self.line, why: why.to_string() }
    }

    fn body(&mut self, kind: &str) -> Result<String, Error> {
        self.next()?;
        let line: Line<'_> =
            serde_json::from_str(&self.text).map_err(|error| self.bad(&error.to_string()))?;
        let body = match (kind, line.event, line.piece, line.end) {
            ("event", Some(body), None, None)
            | ("piece", None, Some(body), None)
            | ("end", None, None, Some(body)) => body.get(),
            _ => return Err(self.bad(&format!("no {kind} stands here"))),
        };
        if self.sum.over(kind, body) != line.sum {
            return Err(
                self.bad("it is damaged, or a line before it is missing: its checksum is another one")
            );
        }
        Ok(body.to_string())
    }

    fn next(&mut self) -> Result<(), Error> {
        self.line += 1;
        self.text.clear();
        let read = (&mut self.from).take(LINE_BYTES_MAX).read_line(&mut self.text);
        let read = read.map_err(|error| match self.line {
            1 => self.bad(&format!("this is no session that saga exported: {error}")),
            _ => self.bad(&format!("it cannot be unpacked: {error}")),
        })?;
        self.unpacked += read as u64;
        match self.text.pop() {
            Some('\n') if self.unpacked <= UNPACKED_BYTES_MAX => Ok(()),
            Some('\n') => Err(self.bad("the file holds more than a session may")),
            None => Err(self.bad("the file ends before this line: it is cut off")),
            Some(_) if read as u64 == LINE_BYTES_MAX => Err(self.bad("it is longer than a line may be")),
            Some(_) => Err(self.bad("the file ends within this line: it is cut off")),
        }
    }
}

/// The name of a field that is in the one value and not in the other.
fn lost(was: &Value, is: &Value) -> Option<String> {
    match (was, is) {
        (Value::Object(was), Value::Object(is)) => was.iter().find_map(|(name, was)| match is.get(name) {
            Some(is) => lost(was, is),
            // What has its default is not written.
            None if matches!(was, Value::Null | Value::Bool(false)) => None,
            None => Some(name.clone()),
        }),
        (Value::Array(was), Value::Array(is)) => was.iter().zip(is).find_map(|(was, is)| lost(was, is)),
        _ => None,
    }
}
