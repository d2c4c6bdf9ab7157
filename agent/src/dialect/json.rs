//! JSON as chat formats write it, and grammars of calls whose arguments are one JSON object.

use serde_json::Value;
use tools::Spec;

use super::Quotes;

/// JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it, which is what models were trained on: a space
/// after each comma and colon, and Python's spelling of floating point numbers.
pub fn spaced(value: &Value) -> String {
    written(value, Python { comma: b", ", colon: b": " })
}

/// The same without spaces, as models write the arguments of a call by themselves.
pub(super) fn compact(value: &Value) -> String {
    written(value, Python { comma: b",", colon: b":" })
}

/// How Python writes JSON.
struct Python {
    comma: &'static [u8],
    colon: &'static [u8],
}

impl serde_json::ser::Formatter for Python {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        w.write_all(if first { b"" } else { self.comma })
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        w.write_all(if first { b"" } else { self.comma })
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(self.colon)
    }
    fn write_f64<W: ?Sized + std::io::Write>(&mut self, w: &mut W, number: f64) -> std::io::Result<()> {
        w.write_all(float(number).as_bytes())
    }
}

fn written(value: &Value, python: Python) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, python);
    serde::Serialize::serialize(value, &mut serializer)
        .expect("a JSON value is written to memory without fail");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

/// A number as Python's `repr` writes it: both languages find the same shortest digits, and differ in when they use an
/// exponent and in how it looks.
fn float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("Rust writes an exponent when asked for one");
    let exponent: i32 = exponent.parse().expect("the exponent is a small whole number");
    if (-4..16).contains(&exponent) {
        return format!("{number:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The rules of `%json` arguments that fit a tool's schema; `quotes` may bind them further. Gives what stands for the
/// arguments in a rule.
pub(super) fn arguments(tool: &Spec, quotes: &Quotes, lark: &mut String) -> String {
    match quoted(tool, quotes, lark) {
        true => "quoted".to_string(),
        false => format!("%json {}", schema(&tool.parameters)),
    }
}

/// Writes the rule `quoted` of a tool's arguments, when they are bound to what stands in files.
fn quoted(tool: &Spec, quotes: &Quotes, lark: &mut String) -> bool {
    if tool.name != quotes.tool || quotes.files.is_empty() {
        return false;
    }
    let literal = |text: &str| Value::from(text).to_string();
    let others = tool.parameters["properties"].as_object().into_iter().flatten();
    let others: Vec<String> = others
        .filter(|(name, _)| ![quotes.path, quotes.text].contains(&name.as_str()))
        .map(|(name, schema)| {
            let rule = format!("{} %json {schema}", literal(&format!(", \"{name}\": ")));
            let needed = tool.parameters["required"]
                .as_array()
                .is_some_and(|names| names.iter().any(|one| one == name));
            if needed { rule } else { format!("({rule})?") }
        })
        .collect();
    let names: Vec<String> = (0..quotes.files.len()).map(|i| format!("quote_{i}")).collect();
    lark.push_str(&format!("quoted: ({}) \"\\\"\" {} \"}}\"\n", names.join(" | "), others.join(" ")));
    let escaped = |text: &str| {
        let json = Value::from(text).to_string();
        json[1..json.len() - 1].to_string()
    };
    for (i, (path, text)) in quotes.files.iter().enumerate() {
        let head = format!("{{\"{}\": {}, \"{}\": \"", quotes.path, literal(path), quotes.text);
        let chunks: Vec<String> = chunks(text).into_iter().map(escaped).collect();
        let chunks = serde_json::json!({ "substring_chunks": chunks });
        // More than white space, which is spelled \n and \t here.
        lark.push_str(&format!(
            "quote_{i}: {} QUOTE_{i}\nQUOTE_{i}: %regex {chunks} & /(?s:.*)[^ nt\\\\](?s:.*)/\n",
            literal(&head)
        ));
    }
    true
}

/// A text in the pieces a quotation may begin and end with: a line's indentation, the rest of the line, its end.
pub(super) fn chunks(text: &str) -> Vec<&str> {
    let mut chunks = Vec::new();
    for line in text.split_inclusive('\n') {
        let (body, end) = match line.strip_suffix('\n') {
            Some(body) => (body, "\n"),
            None => (line, ""),
        };
        let bare = body.trim_start_matches([' ', '\t']);
        let pieces = [&body[..body.len() - bare.len()], bare, end];
        chunks.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
    }
    chunks
}

/// A schema, with the white space models write by themselves: Python's on one line, or a little more.
pub(super) fn schema(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(map) = &mut schema {
        map.insert("x-guidance".to_string(), serde_json::json!({ "whitespace_pattern": "[ \\n\\t]{0,8}" }));
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_strings_are_spelled_as_python_spells_them() {
        // A tool's schema is part of the prompt: 1e-07 and 1e-7 are other tokens.
        let value: Value = serde_json::from_str(
            r#"[1.0, 0.1, 1e16, 123456789012345.0, 1e15, 0.0001, 0.00001, 1.5e-7, -2.5e300, 0.0, 7, "a\"\\\n\u0001é"]"#,
        )
        .unwrap();
        assert_eq!(
            spaced(&value),
            r#"[1.0, 0.1, 1e+16, 123456789012345.0, 1000000000000000.0, 0.0001, 1e-05, 1.5e-07, -2.5e+300, 0.0, 7, "a\"\\\n\u0001é"]"#
        );
    }
}
