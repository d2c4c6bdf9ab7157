//! Source files as code search takes them: what a file defines, as chunks with what is known of each.

use tools::outline::{Kind, Outline, chunks};

/// The chunks of a file, each with the place of its definition among the symbols.
pub(crate) fn chunks_of(
    path: &str,
    outline: &Outline,
    text: &str,
) -> Vec<(Option<usize>, memory::code::Chunk)> {
    let aside = is_aside(path);
    let head = first_paragraph(&outline.doc);
    let whole = |chunk: tools::outline::Chunk| {
        let Some(symbol) = chunk.symbol.map(|n| &outline.symbols[n]) else {
            let (text, lines) = (chunk.text, chunk.lines);
            let context = head.to_owned();
            return (
                None,
                memory::code::Chunk { context, text, lines, test: aside, ..memory::code::Chunk::default() },
            );
        };
        let mut containers = symbol.containers.clone();
        containers.extend(symbol.implements.clone());
        // What is said of the types and modules around it.
        let around = outline.symbols.iter().filter(|outer| match outer.kind {
            Kind::Function | Kind::Method | Kind::Constant | Kind::Macro => false,
            Kind::Class | Kind::Struct | Kind::Enum | Kind::Trait | Kind::Type | Kind::Module => {
                symbol.containers.contains(&outer.name)
            }
        });
        let around = around.map(|outer| first_paragraph(&outer.doc));
        let found = memory::code::Chunk {
            symbol: symbol.name.clone(),
            context: std::iter::once(head).chain(around).collect::<Vec<_>>().join(" "),
            containers,
            signature: symbol.signature.clone(),
            doc: symbol.doc.clone(),
            text: chunk.text,
            lines: chunk.lines,
            test: symbol.test || aside,
            implements: symbol.implements.is_some(),
        };
        (chunk.symbol, found)
    };
    chunks(outline, text).into_iter().map(whole).collect()
}

/// Whether a file is beside the program: a test, an example, a benchmark.
fn is_aside(path: &str) -> bool {
    path.split('/').rev().skip(1).any(|folder| {
        ["test", "tests", "testing", "__tests__", "testdata", "bench", "benches", "example", "examples"]
            .contains(&folder)
    })
}

fn first_paragraph(doc: &str) -> &str {
    doc.split("\n\n").next().unwrap_or_default()
}
