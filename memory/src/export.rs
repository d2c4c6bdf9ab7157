//! A journal as lines of JSON, which a person can read and keep in git, and back again, byte for byte.
//!
//! The first line names the journal, every further line is one record. A body that is JSON on one line stands there as
//! such (`"json"`), other text as a string (`"text"`), anything else in hex (`"hex"`).
//!
//! ```text
//! {"saga_journal":1,"name":"s-1","created_ms":1795000000000}
//! {"seq":1,"at_ms":1795000000001,"key":"client-7","json":{"type":"input","text":"hello"}}
//! ```

use std::fmt::Write as _;
use std::io::{BufRead, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::memory::check_name;
use crate::writer::{Ask, New};
use crate::{Error, Journal, JournalInfo, KEY_BYTES_MAX, Memory, Seq};

/// The version of this form.
const FORM: u32 = 1;
/// Records read and written together.
const PAGE: usize = 256;

#[derive(Serialize, Deserialize)]
struct Title {
    saga_journal: u32,
    name: String,
    created_ms: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    seq: Seq,
    at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
}

#[derive(Deserialize)]
struct Parsed<'a> {
    seq: Seq,
    at_ms: u64,
    #[serde(default)]
    key: Option<String>,
    #[serde(borrow, default)]
    json: Option<&'a RawValue>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    hex: Option<String>,
}

impl Memory {
    /// Writes a journal as lines of JSON. A damaged record ends it with the error that names it.
    pub fn export(&self, journal: &str, to: &mut dyn Write) -> Result<(), Error> {
        check_name(journal)?;
        let birth = self.inner.shared.birth(journal)?;
        let source = Journal { inner: self.inner.clone(), name: journal.into(), birth };
        let info = self.journals()?.into_iter().find(|info| info.name == journal);
        let created_ms = info.map_or(0, |info| info.created_ms);
        let title = Title { saga_journal: FORM, name: journal.into(), created_ms };
        put_line(to, &title)?;
        let mut from = 1;
        loop {
            let last = self.inner.healing(|_| source.last_now())?;
            let to_seq = last.min(from + PAGE as u64 - 1);
            if from > to_seq {
                return to.flush().map_err(|e| Error::io(Path::new("the export"), e));
            }
            let lines = self.inner.healing(|shared| {
                shared.read(journal, from, to_seq, |frame| {
                    (frame.seq, frame.at_ms, frame.key.to_vec(), frame.body.to_vec())
                })
            })?;
            for (seq, at_ms, key, body) in lines {
                put_record(to, seq, at_ms, &key, &body)?;
                from = seq + 1;
            }
        }
    }

    /// Reads an exported journal into a new one of the same name. On any error no journal of that name is left.
    pub fn import(&self, from: &mut dyn BufRead) -> Result<JournalInfo, Error> {
        let mut line = String::new();
        read_line(from, &mut line)?;
        let title: Title = serde_json::from_str(&line).map_err(|e| bad(1, &e))?;
        if title.saga_journal != FORM {
            return Err(Error::BadInput(format!(
                "this export has form {}, and form {FORM} is known here: use a newer version",
                title.saga_journal
            )));
        }
        check_name(&title.name)?;
        let (name, at_ms) = (title.name.clone(), Some(title.created_ms));
        let birth = self.inner.ask(|reply| Ask::Make { journal: name, at_ms, fresh: true, reply })?;
        let journal = Journal { inner: self.inner.clone(), name: title.name.as_str().into(), birth };
        if let Err(e) = import_records(&journal, from) {
            self.delete_journal(&title.name)?;
            return Err(e);
        }
        let info = self.journals()?.into_iter().find(|info| info.name == title.name);
        info.ok_or(Error::NoJournal { name: title.name })
    }
}

fn put_record(to: &mut dyn Write, seq: u64, at_ms: u64, key: &[u8], body: &[u8]) -> Result<(), Error> {
    let key = std::str::from_utf8(key).ok().filter(|key| !key.is_empty());
    let mut line = Line { seq: Seq(seq), at_ms, key, json: None, text: None, hex: None };
    match std::str::from_utf8(body) {
        Ok(text) => match serde_json::from_str::<&RawValue>(text) {
            // A raw value keeps its bytes, but white space around it would be lost, and a line end would end the line.
            // `null` would be taken for no body at all.
            Ok(raw) if raw.get() == text && !text.contains(['\n', '\r']) && text != "null" => {
                line.json = Some(raw)
            }
            Ok(_) | Err(_) => line.text = Some(text),
        },
        Err(_) => {
            let mut hex = String::with_capacity(body.len() * 2);
            for byte in body {
                write!(hex, "{byte:02x}").expect("writing to a string does not fail");
            }
            line.hex = Some(hex);
        }
    }
    put_line(to, &line)
}

fn put_line(to: &mut dyn Write, line: &impl Serialize) -> Result<(), Error> {
    let mut bytes = serde_json::to_vec(line).expect("strings and numbers serialise");
    bytes.push(b'\n');
    to.write_all(&bytes).map_err(|e| Error::io(Path::new("the export"), e))
}

fn import_records(journal: &Journal, from: &mut dyn BufRead) -> Result<(), Error> {
    let mut line = String::new();
    let mut page = Vec::new();
    let mut bytes = 0;
    for seq in 1.. {
        let end = !read_line(from, &mut line)?;
        if end || page.len() == PAGE || bytes > crate::RECORD_BYTES_MAX {
            bytes = 0;
            if !page.is_empty() {
                journal.write(std::mem::take(&mut page), false)?;
            }
        }
        if end {
            break;
        }
        let record = parse_record(seq, &line)?;
        bytes += record.body.len();
        page.push(record);
    }
    Ok(())
}

fn parse_record(seq: u64, line: &str) -> Result<New, Error> {
    let number = seq + 1;
    let parsed: Parsed<'_> = serde_json::from_str(line).map_err(|e| bad(number, &e))?;
    if parsed.seq.0 != seq {
        return Err(bad(number, &format!("record {} stands where {seq} should be", parsed.seq)));
    }
    let body = match (parsed.json, parsed.text, parsed.hex) {
        (Some(json), None, None) => json.get().as_bytes().to_vec(),
        (None, Some(text), None) => text.into_bytes(),
        (None, None, Some(hex)) => from_hex(&hex).ok_or_else(|| bad(number, &"this is not hex"))?,
        _ => return Err(bad(number, &"a record has one of json, text and hex")),
    };
    if parsed.key.as_ref().is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
        return Err(bad(number, &format!("a key has 1 to {KEY_BYTES_MAX} bytes")));
    }
    Ok(New { key: parsed.key, body, at_ms: Some(parsed.at_ms) })
}

fn from_hex(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

/// Reads the next line that says something; `false` at the end.
fn read_line(from: &mut dyn BufRead, line: &mut String) -> Result<bool, Error> {
    loop {
        line.clear();
        // A record in hex takes twice its bytes, in JSON text up to six times.
        let most = crate::RECORD_BYTES_MAX as u64 * 6 + 4096;
        let read = std::io::Read::take(&mut *from, most).read_line(line);
        let read = read.map_err(|e| Error::BadInput(format!("the export cannot be read: {e}")))?;
        if read as u64 == most {
            return Err(Error::BadInput("a line of the export is longer than any record".into()));
        }
        if read == 0 || !line.trim().is_empty() {
            return Ok(read > 0);
        }
    }
}

fn bad(line: u64, what: &dyn std::fmt::Display) -> Error {
    Error::BadInput(format!("line {line} of the export: {what}"))
}
