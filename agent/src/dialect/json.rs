//! JSON as chat formats write it, and grammars of calls whose arguments are one JSON object.

use serde_json::Value;
use tools::Spec;

use super::bounds::{self, Bound, Bounded};
use super::lark::{literal, regex};

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

/// The rules of arguments that fit a tool's schema and lie within its bounds. Gives what stands for the arguments in a
/// rule. `number` keeps the names of rules apart.
pub(super) fn arguments(tool: &Spec, number: usize, bounds: &[Bound], lark: &mut String) -> String {
    let bounds = bounds::of(bounds, tool);
    let properties = tool.parameters["properties"].as_object().filter(|_| !bounds.is_empty());
    let Some(properties) = properties else { return format!("%json {}", schema(&tool.parameters)) };
    let ways = bounds::ways(&bounds, tool, &format!("T{number}_"), bounds::escaped, "", lark);
    let mut names = Vec::new();
    for (n, way) in ways.iter().enumerate() {
        let name = format!("bound_{number}_{n}");
        let mut members = Vec::new();
        for (key, property) in properties {
            let required = tool.parameters["required"].as_array();
            let needed = required.is_some_and(|names| names.iter().any(|name| name == key.as_str()));
            let (value, always) = match way.of(key) {
                Some(Bounded::Exactly(text)) => (literal(&Value::from(text).to_string()), true),
                Some(Bounded::Flag(on)) => (literal(&on.to_string()), on),
                Some(Bounded::Terminal(terminal)) => (format!("\"\\\"\" {terminal} \"\\\"\""), false),
                None => (format!("%json {}", part(property, &tool.parameters)), false),
            };
            // Written as Python writes it, or without blanks.
            let key = regex(&Value::from(key.as_str()).to_string());
            members.push((format!("/{key}: ?/ {value}"), needed || always));
        }
        // What may come after a member, and what may come first, from the last to the first.
        for (m, (member, needed)) in members.iter().enumerate().rev() {
            let rest = |after: bool| match (m + 1 < members.len(), after) {
                (true, true) => format!("{name}_{}", m + 1),
                (true, false) => format!("{name}_{}_first", m + 1),
                (false, _) => "\"\"".to_string(),
            };
            let (skip, more) = if *needed {
                (String::new(), String::new())
            } else {
                (format!(" | {}", rest(false)), format!(" | {}", rest(true)))
            };
            lark.push_str(&format!("{name}_{m}_first: {member} {}{skip}\n", rest(true)));
            lark.push_str(&format!("{name}_{m}: /, ?/ {member} {}{more}\n", rest(true)));
        }
        lark.push_str(&format!("{name}: /\\{{ ?/ {name}_0_first /\\n?\\}}/\n"));
        names.push(name);
    }
    format!("({})", names.join(" | "))
}

/// The schema of a part, which may refer to definitions of the whole.
pub(super) fn part(part: &Value, whole: &Value) -> Value {
    let mut part = part.clone();
    for defs in ["$defs", "definitions"] {
        if let (Some(map), Some(defs_of_whole)) = (part.as_object_mut(), whole.get(defs)) {
            map.insert(defs.to_string(), defs_of_whole.clone());
        }
    }
    schema(&part)
}

/// A schema, with the white space models write by themselves: Python's on one line, or a little more. One that refers to
/// itself ends somewhere.
pub(super) fn schema(schema: &Value) -> Value {
    let mut schema = engine::finite(schema);
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
