//! A file cut into pieces that are searched one by one.

use std::ops::Range;

use super::{Kind, Outline};

/// A piece with more lines is cut into several.
const LINES_MAX: usize = 120;
/// Lines of a piece that belongs to no definition.
const WINDOW_LINES: usize = 40;
/// The longest line that is kept whole. Bytes: what is longer was made by a program.
const LINE_BYTES: usize = 1_000;

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The definition it is, or is a part of: its place in [`Outline::symbols`].
    pub symbol: Option<usize>,
    /// Its first and last line, counted from 1.
    pub lines: (u32, u32),
    /// What it says, without the definition's documentation and without definitions in it that are pieces themselves.
    pub text: String,
}

/// The pieces of a text: one for each definition, several for a long one, and windows of lines over what is left. A function keeps
/// what is defined in it; of other things only what is their own is in their piece.
pub fn chunks(outline: &Outline, text: &str) -> Vec<Chunk> {
    let symbols = &outline.symbols;
    let mut cutter = Cutter::new(text);
    // What lies within nothing that is a piece.
    let mut rest: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for (n, symbol) in symbols.iter().enumerate() {
        if symbol.range.start >= at {
            rest.push(at..symbol.range.start);
        }
        at = at.max(symbol.range.end);
        let mut without: Vec<Range<usize>> = symbol.doc_ranges.clone();
        if !symbol.kind.is_callable() && symbol.kind != Kind::Macro {
            let mut end = symbol.range.start;
            for inner in symbols[n + 1..].iter().take_while(|inner| inner.range.start < symbol.range.end) {
                // Only the outermost: they hold the others.
                if inner.range.start >= end {
                    without.push(inner.range.clone());
                    end = inner.range.end;
                }
            }
        }
        cutter.cut(Some(n), symbol.range.clone(), without, LINES_MAX);
    }
    rest.push(at..text.len());
    for range in rest {
        cutter.cut(None, range, Vec::new(), WINDOW_LINES);
    }
    cutter.pieces.sort_by_key(|piece| piece.lines);
    cutter.pieces
}

/// The pieces of a text in no language that is known: windows of lines.
pub fn windows(text: &str) -> Vec<Chunk> {
    let mut cutter = Cutter::new(text);
    cutter.cut(None, 0..text.len(), Vec::new(), WINDOW_LINES);
    cutter.pieces
}

struct Cutter<'a> {
    text: &'a str,
    /// Where lines begin.
    lines: Vec<usize>,
    pieces: Vec<Chunk>,
}

impl<'a> Cutter<'a> {
    fn new(text: &'a str) -> Cutter<'a> {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        Cutter { text, lines, pieces: Vec::new() }
    }

    /// Cuts a range into pieces of so many lines and leaves some of it out.
    fn cut(
        &mut self,
        symbol: Option<usize>,
        range: Range<usize>,
        mut without: Vec<Range<usize>>,
        lines_max: usize,
    ) {
        without.sort_by_key(|range| range.start);
        let text = self.text;
        let first = self.lines.partition_point(|start| *start <= range.start) as u32;
        let mut kept = String::new();
        let mut at = range.start;
        for gap in without {
            kept += text.get(at..gap.start.min(range.end)).unwrap_or_default();
            // The lines that are left out still count.
            let gone = text.get(gap.start.max(at)..gap.end.min(range.end)).unwrap_or_default();
            kept.extend(gone.chars().filter(|c| *c == '\n'));
            at = at.max(gap.end);
        }
        kept += text.get(at..range.end).unwrap_or_default();
        let lines: Vec<&str> = kept.lines().collect();
        // A symbol without a word of its own is still there, by its name.
        if symbol.is_some() && lines.iter().all(|line| line.trim().is_empty()) {
            let last = first + (lines.len() as u32).saturating_sub(1);
            self.pieces.push(Chunk { symbol, lines: (first, last), text: String::new() });
            return;
        }
        // Equal parts, so that no part is a few lines that say nothing.
        let parts = lines.len().div_ceil(lines_max).max(1);
        let size = lines.len().div_ceil(parts).max(1);
        for (n, part) in lines.chunks(size).enumerate() {
            if !part.iter().any(|line| line.chars().any(char::is_alphanumeric)) {
                continue;
            }
            let first = first + (n * size) as u32;
            let text: Vec<&str> =
                part.iter().filter(|line| !line.trim().is_empty()).map(|line| short(line)).collect();
            let lines = (first, first + part.len() as u32 - 1);
            self.pieces.push(Chunk { symbol, lines, text: text.join("\n") });
        }
    }
}

fn short(line: &str) -> &str {
    let end = (0..=LINE_BYTES.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    line[..end].trim_end()
}
