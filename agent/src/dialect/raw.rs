//! Calls whose arguments are raw text between tags: their grammar, and the values that were meant.
//!
//! A text argument stands as it is, anything else as JSON. Nothing is escaped, so a text cannot hold the tag that ends
//! it; the grammar admits no such text.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tools::Spec;

use super::bounds::{self, Bound, Bounded};
use super::json::{part, schema};
use super::lark::{Body, Lark, literal};

/// How a format writes an argument.
pub(super) struct Tags<'a> {
    /// What stands before a value: by the argument's name, and whether the value is a text.
    pub(super) open: &'a dyn Fn(&str, bool) -> String,
    /// What ends a value.
    pub(super) close: &'a str,
    /// What stands between an argument and what follows it.
    pub(super) after: &'a str,
    /// Whether the tag tells a text from JSON.
    pub(super) typed: bool,
    /// Whether truth may be spelled as Python spells it.
    pub(super) python: bool,
}

/// Adds the rules of the arguments of the tool with this number and gives what stands for them in a rule. Arguments come
/// in the order of the schema, the required ones always.
pub(super) fn arguments(
    lark: &mut Lark,
    tool: &Spec,
    number: usize,
    bounds: &[Bound],
    tags: &Tags,
) -> String {
    let root = &tool.parameters;
    let Some(properties) = root["properties"].as_object().filter(|properties| !properties.is_empty()) else {
        return any_arguments(lark, root, number, tags);
    };
    let required = root["required"].as_array();
    let needed = |key: &str| required.is_some_and(|names| names.iter().any(|name| name == key));
    let bounds = bounds::of(bounds, tool);
    let prefix = format!("T{number}_");
    let ways = bounds::ways(&bounds, tool, &prefix, bounds::plain, tags.close, lark.lines());
    let mut usual = Vec::new();
    for (i, (key, property)) in properties.iter().enumerate() {
        let rule = format!("arg_{number}_{i}");
        if ways.iter().any(|way| way.of(key).is_none()) {
            argument(lark, &rule, key, property, root, tags);
        }
        usual.push(if needed(key) { rule } else { format!("{rule}?") });
    }
    if bounds.is_empty() {
        return usual.join(" ");
    }
    let mut ended: BTreeMap<String, String> = BTreeMap::new();
    let mut written = Vec::new();
    for way in &ways {
        let members = properties.iter().zip(&usual).map(|((key, _), usual)| {
            let open = |text: bool| (tags.open)(key, text);
            let tail = format!("{}{}", tags.close, tags.after);
            let (rule, always) = match way.of(key) {
                Some(Bounded::Exactly(text)) => (lark.seq(&format!("{}{text}{tail}", open(true))), true),
                Some(Bounded::Flag(on)) => {
                    let word = |word: String| lark.seq(&format!("{}{word}{tail}", open(false)));
                    let mut words = vec![word(on.to_string())];
                    if tags.python {
                        words.push(word(if on { "True" } else { "False" }.to_string()));
                    }
                    (format!("({})", words.join(" | ")), on)
                }
                Some(Bounded::Terminal(terminal)) => {
                    let value = match ended.get(terminal) {
                        Some(value) => value.clone(),
                        None => lark.ended(terminal, tags.close),
                    };
                    ended.insert(terminal.to_string(), value.clone());
                    let after = match tags.after {
                        "" => String::new(),
                        after => lark.seq(after),
                    };
                    (format!("{} {value} {after}", lark.seq(&open(true))), false)
                }
                None => return usual.clone(),
            };
            if always || needed(key) { rule } else { format!("({rule})?") }
        });
        let members: Vec<String> = members.collect();
        written.push(members.join(" "));
    }
    let rule = format!("bound_{number}");
    lark.line(&format!("{rule}: {}", written.join(" | ")));
    rule
}

/// Arguments of a tool that does not say which it has.
fn any_arguments(lark: &mut Lark, root: &Value, number: usize, tags: &Tags) -> String {
    if root["additionalProperties"] == Value::Bool(false) || root.get("properties").is_some() {
        return "\"\"".to_string();
    }
    let rule = format!("arg_{number}");
    // The name is cut out of the tag where it would stand.
    const NAME: &str = "\u{1}";
    let mut forms = Vec::new();
    for text in if tags.typed { [true, false].as_slice() } else { [true].as_slice() } {
        let open = (tags.open)(NAME, *text);
        let (before, after) = open.split_once(NAME).expect("an argument's tag holds its name");
        let value = match text {
            true => {
                lark.until(&format!("{rule}_text"), Body::any(), tags.close, &[]);
                format!("{rule}_text")
            }
            false => format!("%json {} {}", schema(&Value::Object(Map::new())), lark.seq(tags.close)),
        };
        forms.push(format!(
            "{} KEY_{number} {} {value} {}",
            lark.seq(before),
            lark.seq(after),
            lark.seq(tags.after)
        ));
    }
    lark.line(&format!("KEY_{number}: /[A-Za-z_][A-Za-z0-9_.\\-]*/"));
    lark.line(&format!("{rule}: {}", forms.join(" | ")));
    format!("{rule}*")
}

/// Adds the rule of one argument.
fn argument(lark: &mut Lark, rule: &str, key: &str, property: &Value, root: &Value, tags: &Tags) {
    let property = &resolved(property, root);
    let (close, after) = (lark.seq(tags.close), lark.seq(tags.after));
    let mut forms = Vec::new();
    let open = |lark: &Lark, text| lark.seq(&(tags.open)(key, text));
    let kinds = Kinds::of(property);
    if let Some(values) = chosen(property) {
        let (texts, others): (Vec<&Value>, Vec<&Value>) = values.iter().partition(|value| value.is_string());
        if !texts.is_empty() {
            let texts: Vec<String> = texts.iter().filter_map(|text| text.as_str()).map(literal).collect();
            forms.push(format!("{} ({}) {close} {after}", open(lark, true), texts.join(" | ")));
        }
        if !others.is_empty() {
            let others: Vec<String> =
                others.iter().map(|other| literal(&super::json::spaced(other))).collect();
            forms.push(format!("{} ({}) {close} {after}", open(lark, false), others.join(" | ")));
        }
    } else {
        if kinds.text {
            let text = format!("{rule}_text");
            lark.until(&text, body(property), tags.close, &[]);
            forms.push(format!("{} {text} {after}", open(lark, true)));
        }
        if tags.python && property["type"] == "boolean" {
            let words = ["true", "false", "True", "False"].map(literal).join(" | ");
            forms.push(format!("{} ({words}) {close} {after}", open(lark, false)));
        }
        // Where the tag does not tell them apart, a text may be anything, and so also the other kinds.
        else if kinds.other && (tags.typed || !kinds.text) {
            let bound = part(property, root);
            forms.push(format!("{} %json {bound} {close} {after}", open(lark, false)));
        }
    }
    lark.line(&format!("{rule}: {}", forms.join(" | ")));
}

/// Which kinds of values a schema admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kinds {
    text: bool,
    other: bool,
}

impl Kinds {
    fn of(schema: &Value) -> Kinds {
        if let Some(values) = chosen(schema) {
            return Kinds {
                text: values.iter().any(Value::is_string),
                other: !values.iter().all(Value::is_string),
            };
        }
        match &schema["type"] {
            Value::String(kind) => Kinds { text: kind == "string", other: kind != "string" },
            Value::Array(kinds) => Kinds {
                text: kinds.iter().any(|kind| kind == "string"),
                other: kinds.iter().any(|kind| kind != "string"),
            },
            _ => {
                let branches: Vec<&Value> =
                    ["anyOf", "oneOf"].iter().filter_map(|key| schema[*key].as_array()).flatten().collect();
                if branches.is_empty() {
                    return Kinds { text: true, other: true };
                }
                branches.into_iter().map(Kinds::of).fold(Kinds { text: false, other: false }, |a, b| Kinds {
                    text: a.text || b.text,
                    other: a.other || b.other,
                })
            }
        }
    }
}

/// The values a schema lists.
fn chosen(schema: &Value) -> Option<Vec<Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(vec![value.clone()]),
        (None, Some(Value::Array(values))) if !values.is_empty() => Some(values.clone()),
        _ => None,
    }
}

/// A schema without a reference at its top.
fn resolved(schema: &Value, root: &Value) -> Value {
    let mut schema = schema;
    // A chain of references that is longer leads round in a circle.
    for _ in 0..8 {
        let Some(target) = schema.get("$ref").and_then(Value::as_str) else { break };
        let Some(found) = target.strip_prefix('#').and_then(|path| root.pointer(path)) else { break };
        schema = found;
    }
    schema.clone()
}

/// What a text that fits `schema` looks like.
fn body(schema: &Value) -> Body {
    let least = schema["minLength"].as_u64().unwrap_or(0);
    let most = schema["maxLength"].as_u64();
    if let Some(pattern) = schema["pattern"].as_str() {
        let (start, rest) = match pattern.strip_prefix('^') {
            Some(rest) => ("", rest),
            None => ("(?s:.*)", pattern),
        };
        let (inner, end) = match rest.strip_suffix('$') {
            Some(inner) if !inner.ends_with('\\') => (inner, ""),
            _ => (rest, "(?s:.*)"),
        };
        let inner = inner.replace("\\/", "/").replace('/', "\\/");
        return Body { pattern: format!("{start}(?:{inner}){end}"), empty: false };
    }
    match (least, most) {
        (0, None) => Body::any(),
        (least, None) => Body { pattern: format!("(?s:.{{{least},}})"), empty: false },
        (least, Some(most)) => {
            Body { pattern: format!("(?s:.{{{least},{}}})", most.max(least)), empty: least == 0 }
        }
    }
}

/// The value that `text` stands for as the argument `key` of a tool. A format that does not tell texts from JSON leaves it
/// to the schema; without one, what reads as JSON and is no text is that.
pub(super) fn value(tools: &[Spec], tool: &str, key: &str, text: &str) -> Value {
    let spec = tools.iter().find(|spec| spec.name == tool);
    let property =
        spec.and_then(|spec| Some(resolved(spec.parameters["properties"].get(key)?, &spec.parameters)));
    let kinds = property.as_ref().map_or(Kinds { text: true, other: true }, Kinds::of);
    if !kinds.other {
        return Value::from(text);
    }
    let read = match text.trim() {
        // Python's spelling: templates show earlier calls in it.
        "True" => Some(Value::Bool(true)),
        "False" => Some(Value::Bool(false)),
        "None" => Some(Value::Null),
        json => serde_json::from_str(json).ok(),
    };
    match read {
        Some(read) if !kinds.text => read,
        Some(read) if !read.is_string() && property.as_ref().is_none_or(|schema| admits(schema, &read)) => {
            read
        }
        _ => Value::from(text),
    }
}

/// Where `close` ends the value that `text` begins with. What stands in the strings of JSON is no end.
pub(super) fn end(text: &str, close: &str, json: bool) -> Option<usize> {
    let mut from = 0;
    if json {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
        if matches!(values.next(), Some(Ok(_))) {
            from = values.byte_offset();
        }
    }
    text[from..].find(close).map(|at| from + at)
}

/// Whether the argument `key` of a tool is never a text.
pub(super) fn is_json(tools: &[Spec], tool: &str, key: &str) -> bool {
    let spec = tools.iter().find(|spec| spec.name == tool);
    let property =
        spec.and_then(|spec| Some(resolved(spec.parameters["properties"].get(key)?, &spec.parameters)));
    property.is_some_and(|property| !Kinds::of(&property).text)
}

/// Whether a schema names the kind of `value`, or no kind at all.
fn admits(schema: &Value, value: &Value) -> bool {
    if let Some(values) = chosen(schema) {
        return values.contains(value);
    }
    let named = |kind: &Value| match kind.as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    };
    match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(named),
        Value::Null => {
            let mut branches =
                ["anyOf", "oneOf"].iter().filter_map(|key| schema[*key].as_array()).flatten().peekable();
            branches.peek().is_none() || branches.any(|branch| admits(branch, value))
        }
        kind => named(kind),
    }
}
