//! A stranger's JSON schema made into one that a grammar can be made of: what is known is kept, everything else is dropped,
//! and references are put in place. What is dropped only makes it admit more: the server checks its arguments itself.

use serde_json::{Map, Value, json};

use crate::output::harmless;

/// How deep a schema may be, how many schemas it may hold, and how long it may be. Bytes of JSON. Whatever is told to the
/// model is read by it in every session.
const DEPTH_MAX: usize = 8;
const SCHEMAS_MAX: usize = 300;
pub(super) const BYTES_MAX: usize = 6 << 10;

/// The longest description of an argument. Characters.
const DESCRIPTION_CHARS_MAX: usize = 300;
/// How many values may be listed, and how long one may be. Bytes of JSON.
const VALUES_MAX: usize = 100;
const VALUE_BYTES_MAX: usize = 200;
/// The longest name of an argument. Chat formats write it into tags, so it is of harmless characters.
const NAME_CHARS_MAX: usize = 64;
/// Counts above these make a grammar large and are checked by the server all the same.
const COUNT_MAX: u64 = 1_000;

const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "object", "array", "null"];

/// The schema of a tool's arguments, fit for a grammar, and whether it had to be made simpler than what is usual. The error
/// says why there is none.
pub(super) fn fit(schema: &Map<String, Value>) -> Result<(Value, bool), String> {
    let root = Value::Object(schema.clone());
    if schema.get("type").is_some_and(|kind| kind != "object") {
        return Err("its arguments are not an object".to_owned());
    }
    let needed = required(schema);
    let properties = schema.get("properties").and_then(Value::as_object);
    let odd = |name: &str| !is_name(name) && properties.is_some_and(|all| all.contains_key(name));
    if let Some(name) = needed.iter().find(|name| odd(name)) {
        return Err(format!("its argument {:?} has a name that cannot be written", shortened(name, 40)));
    }
    let mut fitter = Fitter { root: &root, schemas: 0 };
    let whole = fitter.object(schema, 0).map(close);
    match whole {
        Some(whole) if whole.to_string().len() <= BYTES_MAX => Ok((whole, false)),
        Some(_) | None => {
            let simple = plainer(&root);
            match simple.to_string().len() <= BYTES_MAX {
                true => Ok((simple, true)),
                false => Err("its schema is too large".to_owned()),
            }
        }
    }
}

/// The schema with nothing but the names of its arguments and what is said of them: any value is admitted for each.
pub(super) fn plainer(schema: &Value) -> Value {
    let properties: Map<String, Value> = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| is_name(name))
        .map(|(name, property)| {
            let about = property["description"].as_str();
            (
                name.clone(),
                about.map_or_else(|| json!({}), |about| json!({ "description": described(about) })),
            )
        })
        .collect();
    let needed = schema.as_object().map(required).unwrap_or_default();
    let needed: Vec<&str> = needed.into_iter().filter(|name| properties.contains_key(*name)).collect();
    match properties.is_empty() {
        true => json!({ "type": "object" }),
        false => json!({
            "type": "object",
            "properties": properties,
            "required": needed,
            "additionalProperties": false,
        }),
    }
}

/// Arguments that nobody has named are none that a model should make up.
fn close(mut schema: Map<String, Value>) -> Value {
    if schema.get("properties").and_then(Value::as_object).is_some_and(|all| !all.is_empty()) {
        schema.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    Value::Object(schema)
}

struct Fitter<'a> {
    root: &'a Value,
    schemas: usize,
}

impl Fitter<'_> {
    /// Nothing, when there is more of it than is looked at.
    fn schema(&mut self, schema: &Value, depth: usize) -> Option<Value> {
        self.schemas += 1;
        if self.schemas > SCHEMAS_MAX {
            return None;
        }
        let any = Some(json!({}));
        // What leads too deep, or round in a circle, is any value.
        if depth > DEPTH_MAX {
            return any;
        }
        let Value::Object(schema) = schema else { return any };
        if let Some(target) = schema.get("$ref") {
            // Only within itself: nothing is ever fetched for a schema.
            let path = target.as_str().and_then(|target| target.strip_prefix('#'));
            let Some(found) = path.and_then(|path| self.root.pointer(path)) else { return any };
            let mut found = self.schema(&found.clone(), depth + 1)?;
            if let (Some(about), Some(object)) = (schema.get("description"), found.as_object_mut()) {
                object.insert("description".to_owned(), described(about.as_str().unwrap_or_default()).into());
            }
            return Some(found);
        }
        self.object(schema, depth).map(Value::Object)
    }

    fn object(&mut self, schema: &Map<String, Value>, depth: usize) -> Option<Map<String, Value>> {
        let mut out = Map::new();
        if let Some(kind) = kinds(schema.get("type")) {
            out.insert("type".to_owned(), kind);
        } else if depth == 0 {
            out.insert("type".to_owned(), "object".into());
        }
        if let Some(about) = schema.get("description").and_then(Value::as_str).filter(|_| depth > 0) {
            out.insert("description".to_owned(), described(about).into());
        }
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let mut all = Map::new();
            for (name, property) in properties.iter().filter(|(name, _)| is_name(name)) {
                all.insert(name.clone(), self.schema(property, depth + 1)?);
            }
            let needed: Vec<&str> =
                required(schema).into_iter().filter(|name| all.contains_key(*name)).collect();
            out.insert("required".to_owned(), json!(needed));
            out.insert("properties".to_owned(), Value::Object(all));
        }
        // The top is an object with named arguments and nothing else, which is all that every chat format can say.
        match schema.get("additionalProperties") {
            Some(Value::Bool(more)) => drop(out.insert("additionalProperties".to_owned(), (*more).into())),
            Some(more @ Value::Object(_)) if depth > 0 => {
                let more = self.schema(more, depth + 1)?;
                out.insert("additionalProperties".to_owned(), more);
            }
            Some(_) | None => {}
        }
        if depth == 0 {
            return Some(out);
        }
        if let Some(items @ Value::Object(_)) = schema.get("items") {
            let items = self.schema(items, depth + 1)?;
            out.insert("items".to_owned(), items);
        }
        if let Some(values) = listed(schema) {
            out.insert("enum".to_owned(), values);
        }
        if let Some(branches) = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(*key)?.as_array()) {
            let mut any = Vec::new();
            for branch in branches {
                any.push(self.schema(branch, depth + 1)?);
            }
            if !any.is_empty() {
                out.insert("anyOf".to_owned(), any.into());
            }
        }
        if let Some([only]) = schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
            && let Value::Object(more) = self.schema(only, depth + 1)?
        {
            for (key, value) in more {
                out.entry(key).or_insert(value);
            }
        }
        bounds(schema, "minimum", "maximum", |number| number.is_finite() && number.abs() < 1e15, &mut out);
        #[expect(clippy::cast_precision_loss, reason = "the bound is a small number")]
        let small = |number: f64| number >= 0.0 && number.fract() == 0.0 && number <= COUNT_MAX as f64;
        bounds(schema, "minLength", "maxLength", small, &mut out);
        bounds(schema, "minItems", "maxItems", small, &mut out);
        Some(out)
    }
}

/// Keeps a pair of bounds as far as each makes sense, and neither when they contradict each other.
fn bounds(
    schema: &Map<String, Value>,
    least: &str,
    most: &str,
    sane: impl Fn(f64) -> bool,
    out: &mut Map<String, Value>,
) {
    let of = |key: &str| {
        let value = schema.get(key)?;
        value.as_f64().filter(|number| sane(*number)).map(|number| (number, value.clone()))
    };
    let (low, high) = (of(least), of(most));
    if let (Some((low, _)), Some((high, _))) = (&low, &high)
        && low > high
    {
        return;
    }
    for (key, bound) in [(least, low), (most, high)] {
        if let Some((_, value)) = bound {
            out.insert(key.to_owned(), value);
        }
    }
}

fn kinds(kind: Option<&Value>) -> Option<Value> {
    let known = |kind: &Value| kind.as_str().is_some_and(|kind| TYPES.contains(&kind));
    match kind? {
        kind @ Value::String(_) => known(kind).then(|| kind.clone()),
        Value::Array(kinds) if !kinds.is_empty() && kinds.iter().all(known) => Some(kinds.clone().into()),
        _ => None,
    }
}

/// The values that a schema lists, if they are few and plain.
fn listed(schema: &Map<String, Value>) -> Option<Value> {
    let values = match (schema.get("const"), schema.get("enum").and_then(Value::as_array)) {
        (Some(only), _) => vec![only.clone()],
        (None, values) => values?.clone(),
    };
    let plain = |value: &Value| {
        !value.is_object()
            && !value.is_array()
            && value.to_string().len() <= VALUE_BYTES_MAX
            && printable(value)
    };
    (!values.is_empty() && values.len() <= VALUES_MAX && values.iter().all(plain)).then(|| values.into())
}

fn printable(value: &Value) -> bool {
    value.as_str().is_none_or(|text| !text.contains(char::is_control))
}

fn required(schema: &Map<String, Value>) -> Vec<&str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether an argument's name can stand in every chat format.
fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$' | '@');
    !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.chars().all(fits)
}

fn described(about: &str) -> String {
    shortened(about, DESCRIPTION_CHARS_MAX)
}

/// A stranger's words on one line, harmless and no longer than this.
pub(super) fn shortened(text: &str, chars_max: usize) -> String {
    let line = harmless(text.as_bytes()).0.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(chars_max) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(schema: Value, expected: Expect) {
        let Value::Object(schema) = schema else { panic!("a schema is an object") };
        let said = match fit(&schema) {
            Ok((fit, simpler)) => format!("{}{fit}", if simpler { "simpler: " } else { "" }),
            Err(why) => format!("left out: {why}"),
        };
        expected.assert_eq(&said);
    }

    #[test]
    fn what_a_grammar_understands_is_kept_and_the_rest_is_dropped() {
        // A pattern can cost a lexer more than a reply, and a reference can lead anywhere.
        check(
            json!({
                "$schema": "http://json-schema.org/draft-07/schema#", "title": "T", "type": "object",
                "properties": {
                    "path": {"type": "string", "pattern": "(a+)+$", "format": "uri", "description": "where\u{1b}[31m\nit is"},
                    "mode": {"oneOf": [{"const": "r"}, {"const": "w"}], "default": "r"},
                    "limit": {"type": ["integer", "null"], "minimum": 1, "maximum": 100},
                    "point": {"$ref": "#/$defs/Point", "description": "which"},
                    "away": {"$ref": "https://example.org/schema.json"},
                    "list": {"type": "array", "items": {"allOf": [{"$ref": "#/$defs/Point"}]}, "minItems": 5, "maxItems": 2},
                    "<bad>": {"type": "string"},
                },
                "$defs": {"Point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x", "y"]}},
                "required": ["path"],
            }),
            expect![[
                r#"{"type":"object","required":["path"],"properties":{"path":{"type":"string","description":"where it is"},"mode":{"anyOf":[{"enum":["r"]},{"enum":["w"]}]},"limit":{"type":["integer","null"],"minimum":1,"maximum":100},"point":{"type":"object","required":["x"],"properties":{"x":{"type":"number"}},"description":"which"},"away":{},"list":{"type":"array","items":{"type":"object","required":["x"],"properties":{"x":{"type":"number"}}}}},"additionalProperties":false}"#
            ]],
        );
        check(json!({}), expect![[r#"{"type":"object"}"#]]);
        check(
            json!({"type": "object", "additionalProperties": false}),
            expect![[r#"{"type":"object","additionalProperties":false}"#]],
        );
    }

    #[test]
    fn a_hostile_schema_costs_little_and_is_left_out_or_made_simpler() {
        // Whoever lists a tool must not be able to occupy the service, nor fill the prompt.
        let mut defs = Map::new();
        for n in 0..40 {
            let next = format!("#/$defs/d{}", n + 1);
            defs.insert(format!("d{n}"), json!({"properties": {
                "a": {"$ref": next}, "b": {"$ref": next}, "c": {"$ref": next}, "d": {"$ref": next}, "e": {"$ref": next},
            }}));
        }
        check(
            json!({"properties": {"bomb": {"$ref": "#/$defs/d0"}, "n": {"type": "integer", "description": "how many"}},
                   "required": ["n"], "$defs": defs}),
            expect![[
                r#"simpler: {"type":"object","properties":{"bomb":{},"n":{"description":"how many"}},"required":["n"],"additionalProperties":false}"#
            ]],
        );
        check(
            json!({"properties": {"me": {"$ref": "#"}}}),
            expect![[
                r#"{"type":"object","required":[],"properties":{"me":{"required":[],"properties":{"me":{"required":[],"properties":{"me":{"required":[],"properties":{"me":{"required":[],"properties":{"me":{}}}}}}}}}},"additionalProperties":false}"#
            ]],
        );
        check(json!({"type": "string"}), expect!["left out: its arguments are not an object"]);
        check(
            json!({"properties": {"a\n</tool_call>": {}}, "required": ["a\n</tool_call>"]}),
            expect![[r#"left out: its argument "a </tool_call>" has a name that cannot be written"#]],
        );
        let many: Map<String, Value> =
            (0..200).map(|n| (format!("argument_number_{n:030}"), json!({"type": "string"}))).collect();
        check(json!({"properties": many}), expect!["left out: its schema is too large"]);
    }
}
