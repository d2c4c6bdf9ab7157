//! The logits of every position, written to a file: what `saga logits` does, and the judge of every other way
//! of computing them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::{Engine, Error, Progress, Token};

/// Writes the f32 logits [tokens, vocabulary] of `ids` into a safetensors file, as a tensor named `logits`: row
/// `i` is what follows the first `i + 1` ids. With `decode_from`, the ids from there on are fed one at a time,
/// as in generation; the others as a prompt.
///
/// # Errors
/// [`Error::Empty`] without ids, [`Error::ContextFull`] and [`Error::NoSuchToken`] before any work,
/// [`Error::Io`] if the file cannot be written.
pub async fn write(
    engine: &Engine,
    ids: &[Token],
    decode_from: Option<usize>,
    path: &Path,
    mut on: impl FnMut(Progress),
) -> Result<(), Error> {
    if ids.is_empty() {
        return Err(Error::Empty);
    }
    // Before the file is made, so that a prompt that does not fit leaves nothing behind.
    let mut timeline = engine.timeline();
    timeline.check(ids)?;
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut file = BufWriter::new(File::create(path).map_err(io)?);
    file.write_all(&header(ids.len(), engine.model().vocabulary)).map_err(io)?;

    let (vocabulary, total_tokens) = (engine.model().vocabulary, ids.len());
    let prompt = decode_from.unwrap_or(ids.len()).min(ids.len());
    let mut done_tokens = 0;
    let mut put = |logits: &[f32]| {
        for x in logits {
            file.write_all(&x.to_le_bytes()).map_err(io)?;
        }
        done_tokens += logits.len() / vocabulary;
        on(Progress::Prefilling { done_tokens, total_tokens });
        Ok(())
    };
    timeline.all_logits(&ids[..prompt], &mut put).await?;
    for end in prompt + 1..=ids.len() {
        timeline.sync(&ids[..end], |_| {}).await?;
        put(&timeline.logits().await?)?;
    }
    file.flush().map_err(io)
}

/// The format's header for one tensor: its length in eight bytes, then JSON, padded so that the numbers are
/// aligned. The numbers follow piece by piece, because a long prompt's logits would fill the memory.
fn header(tokens: usize, vocabulary: usize) -> Vec<u8> {
    let bytes = tokens * vocabulary * 4;
    let json = serde_json::json!({
        "logits": { "dtype": "F32", "shape": [tokens, vocabulary], "data_offsets": [0, bytes] }
    });
    let mut json = json.to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    header
}
