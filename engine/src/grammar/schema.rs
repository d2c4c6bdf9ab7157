//! Schemas that refer to themselves, made finite.
//!
//! A schema of a tree admits a tree without an end, and a model that has begun to nest goes on until its tokens are used
//! up. What it wrote then is no value at all. So a reference that leads back to where it stands is followed only
//! [`DEPTH`] times; behind that the schema admits only what needs no further step, such as a node without children.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::SOURCE_BYTES_MAX;

/// How many times a reference may lead back among schemas that refer to each other.
const DEPTH: usize = 8;

/// The most targets of references that are looked at. A schema with more is left as it is.
const TARGETS_MAX: usize = 64;

/// How deep schemas may lie in each other before they are left as they are.
const NESTING_MAX: usize = 100;

/// Keywords whose value is a schema or a list of schemas.
const SCHEMAS: [&str; 16] = [
    "items",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
];

/// Keywords whose value is an object with schemas in it.
const MAPS: [&str; 3] = ["properties", "patternProperties", "dependentSchemas"];

/// `schema` with references that lead back to themselves followed at most eight times, so that a value cannot nest for
/// ever. What fits the result fits `schema`. A schema without such references comes back as it is, and so does one that
/// cannot be made finite: one that refers to what is not in it, or that only values without an end fit.
pub fn finite(schema: &Value) -> Value {
    unrolled(schema).unwrap_or_else(|| schema.clone())
}

fn unrolled(root: &Value) -> Option<Value> {
    let mut targets = Targets::default();
    let here = targets.references(root)?;
    let mut n = 0;
    while n < targets.pointers.len() {
        let target = root.pointer(&targets.pointers[n])?;
        let references = targets.references(target)?;
        targets.lead.push(references);
        n += 1;
    }
    let reached: Vec<Vec<bool>> = (0..n).map(|from| targets.reached(from)).collect();
    if here.is_empty() || (0..n).all(|target| !reached[target][target]) {
        return None;
    }
    let mut unroller = Unroller { root, targets, reached, copies: HashMap::new(), definitions: Map::new() };
    let from = unroller.targets.known.get("").copied();
    let mut whole = unroller.copy(root, from, 0);
    if impossible(&whole) {
        return None;
    }
    whole.as_object_mut()?.insert("$defs".to_owned(), Value::Object(unroller.definitions));
    (whole.to_string().len() <= SOURCE_BYTES_MAX).then_some(whole)
}

/// What references lead to, as JSON pointers.
#[derive(Default)]
struct Targets {
    pointers: Vec<String>,
    known: HashMap<String, usize>,
    /// For each target, the targets that it refers to.
    lead: Vec<Vec<usize>>,
}

impl Targets {
    /// The targets that `schema` refers to itself. `None` when one of them does not lie in the same schema.
    fn references(&mut self, schema: &Value) -> Option<Vec<usize>> {
        let mut found = Vec::new();
        let mut open = vec![(schema, 0)];
        while let Some((schema, depth)) = open.pop() {
            if depth > NESTING_MAX {
                return None;
            }
            if let Some(reference) = schema.get("$ref") {
                let pointer = pointer(reference)?;
                let next = self.pointers.len();
                let target = *self.known.entry(pointer.clone()).or_insert(next);
                if target == next {
                    self.pointers.push(pointer);
                }
                if next > TARGETS_MAX {
                    return None;
                }
                found.push(target);
            }
            open.extend(parts(schema).map(|part| (part, depth + 1)));
        }
        Some(found)
    }

    /// Which targets lie on a way that begins with a reference in `from`.
    fn reached(&self, from: usize) -> Vec<bool> {
        let mut reached = vec![false; self.pointers.len()];
        let mut open = self.lead[from].clone();
        while let Some(target) = open.pop() {
            if !reached[target] {
                reached[target] = true;
                open.extend(&self.lead[target]);
            }
        }
        reached
    }
}

struct Unroller<'a> {
    root: &'a Value,
    targets: Targets,
    reached: Vec<Vec<bool>>,
    /// For each target and the number of times one was led back: whether anything fits the copy. Its definition has the
    /// name that both give.
    copies: HashMap<(usize, usize), bool>,
    definitions: Map<String, Value>,
}

impl Unroller<'_> {
    /// `schema`, which lies in the target `from`, with references to copies.
    fn copy(&mut self, schema: &Value, from: Option<usize>, level: usize) -> Value {
        let Value::Object(map) = schema else { return schema.clone() };
        let mut out = map.clone();
        out.remove("$defs");
        out.remove("definitions");
        if let Some(target) =
            map.get("$ref").and_then(pointer).and_then(|to| self.targets.known.get(&to).copied())
        {
            let back = from.is_some_and(|from| self.reached[target][from] && self.reached[from][target]);
            match self.definition(target, if back { level + 1 } else { 0 }) {
                Some(name) => out.insert("$ref".to_owned(), format!("#/$defs/{name}").into()),
                None => return Value::Bool(false),
            };
        }
        for keyword in SCHEMAS {
            match map.get(keyword) {
                Some(Value::Array(all)) => {
                    let all = all.iter().map(|part| self.copy(part, from, level)).collect();
                    out.insert(keyword.to_owned(), Value::Array(all));
                }
                Some(part @ Value::Object(_)) => {
                    let part = self.copy(part, from, level);
                    out.insert(keyword.to_owned(), part);
                }
                Some(_) | None => {}
            }
        }
        for keyword in MAPS {
            if let Some(Value::Object(all)) = map.get(keyword) {
                let all =
                    all.iter().map(|(name, part)| (name.clone(), self.copy(part, from, level))).collect();
                out.insert(keyword.to_owned(), Value::Object(all));
            }
        }
        Value::Object(out)
    }

    /// The name of the copy of `target` that is reached after having been led back `level` times. `None` when nothing
    /// fits it.
    fn definition(&mut self, target: usize, level: usize) -> Option<String> {
        if level > DEPTH {
            return None;
        }
        let name = format!("{target}.{level}");
        let fits = match self.copies.get(&(target, level)) {
            Some(fits) => *fits,
            None => {
                let schema = self.root.pointer(&self.targets.pointers[target])?;
                let copy = self.copy(schema, Some(target), level);
                let fits = !impossible(&copy);
                if fits {
                    self.definitions.insert(name.clone(), copy);
                }
                self.copies.insert((target, level), fits);
                fits
            }
        };
        fits.then_some(name)
    }
}

/// The place a reference names in its own schema.
fn pointer(reference: &Value) -> Option<String> {
    let pointer = reference.as_str()?.strip_prefix('#')?;
    // Escapes of addresses are rare enough to be left alone, and a name without a slash is an anchor.
    let plain = (pointer.is_empty() || pointer.starts_with('/')) && !pointer.contains('%');
    plain.then(|| pointer.to_owned())
}

/// The schemas directly in `schema`, without definitions.
fn parts(schema: &Value) -> impl Iterator<Item = &Value> {
    let listed = SCHEMAS.iter().filter_map(|keyword| schema.get(keyword)).flat_map(|part| match part {
        Value::Array(all) => all.as_slice(),
        one => std::slice::from_ref(one),
    });
    let named = MAPS.iter().filter_map(|keyword| schema.get(keyword)?.as_object()).flat_map(Map::values);
    listed.chain(named)
}

/// Whether nothing fits `schema`, as far as that follows from what was cut off.
fn impossible(schema: &Value) -> bool {
    let all = |keyword: &str| schema.get(keyword).and_then(Value::as_array);
    if *schema == Value::Bool(false) {
        return true;
    }
    if all("allOf").is_some_and(|all| all.iter().any(impossible)) {
        return true;
    }
    if ["anyOf", "oneOf"].iter().filter_map(|keyword| all(keyword)).any(|any| any.iter().all(impossible)) {
        return true;
    }
    // Without a type, what cannot be an object or a list may be something else.
    let kind = schema.get("type").and_then(Value::as_str);
    let properties = schema.get("properties");
    let needed = all("required").into_iter().flatten().filter_map(Value::as_str);
    let lacks = |name: &str| properties.and_then(|all| all.get(name)).is_some_and(impossible);
    if kind == Some("object") && needed.into_iter().any(lacks) {
        return true;
    }
    let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0);
    let first = all("prefixItems").map_or(&[][..], Vec::as_slice);
    let short = |listed: usize| u64::try_from(listed).is_ok_and(|listed| listed < least);
    kind == Some("array")
        && (first.iter().position(impossible).is_some_and(short)
            || (schema.get("items").is_some_and(impossible) && short(first.len())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::grammar::{Grammar, GrammarSource};
    use crate::tokenizer::tests::tiny;

    /// Whether `value` can be written under a grammar of `schema`.
    fn admits(schema: &Value, value: &Value) -> bool {
        let tokenizer = tiny();
        let mut grammar = Grammar::new(&GrammarSource::JsonSchema(schema.clone()), &tokenizer).unwrap();
        let written = grammar.advance(&tokenizer.encode(&value.to_string()).unwrap());
        written.is_ok() && grammar.may_end()
    }

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!({"name": "x"}), |child, _| json!({"name": "x", "children": [child]}))
    }

    #[test]
    fn a_tree_ends() {
        let node = json!({"type": "object", "additionalProperties": false, "required": ["name"], "properties": {
            "name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}});
        let tree = json!({"$ref": "#/$defs/node", "$defs": {"node": node}});
        assert!(admits(&tree, &nested(DEPTH)));
        assert!(!admits(&tree, &nested(DEPTH + 1)));
        // The root may be what is referred to, and the other place for definitions is known too.
        let mut root = node.clone();
        root["properties"]["children"]["items"]["$ref"] = "#".into();
        assert!(admits(&root, &nested(DEPTH)));
        assert!(!admits(&root, &nested(DEPTH + 1)));
        let mut old = node;
        old["properties"]["children"]["items"]["$ref"] = "#/definitions/node".into();
        let old = json!({"$ref": "#/definitions/node", "definitions": {"node": old}});
        assert!(admits(&old, &nested(DEPTH)));
        assert!(!admits(&old, &nested(DEPTH + 1)));
    }

    #[test]
    fn what_is_cut_off_takes_along_what_needs_it() {
        // A sum needs both of its sides, so where no side can follow there is no sum: only the number is left. And what
        // needs a sum goes with it.
        let expression =
            json!({"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/sum"}, {"$ref": "#/$defs/two"}]});
        let sides = json!({"left": {"$ref": "#/$defs/expression"}, "right": {"$ref": "#/$defs/expression"}});
        let schema = json!({"$ref": "#/$defs/expression", "$defs": {
            "expression": expression,
            "sum": {"type": "object", "required": ["left", "right"], "additionalProperties": false, "properties": sides},
            "two": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"$ref": "#/$defs/expression"}},
        }});
        let sum = |levels: usize| (0..levels).fold(json!(1), |left, _| json!({"left": left, "right": 2}));
        let two = |levels: usize| (0..levels).fold(json!(1), |first, _| json!([first, 2]));
        // A step from an expression to a sum and one from there to an expression: half as deep.
        for value in [&sum, &two] as [&dyn Fn(usize) -> Value; 2] {
            assert!(admits(&schema, &value(DEPTH / 2)));
            assert!(!admits(&schema, &value(DEPTH / 2 + 1)));
        }
    }

    #[test]
    fn each_circle_is_counted_by_itself() {
        // A list of trees: the tree at the end of a long list may be as deep as the first.
        let schema = json!({"$ref": "#/$defs/list", "$defs": {
            "list": {"type": "object", "additionalProperties": false, "properties": {
                "next": {"$ref": "#/$defs/list"}, "tree": {"$ref": "#/$defs/tree"}}},
            "tree": {"type": "object", "additionalProperties": false, "properties": {"in": {"$ref": "#/$defs/tree"}}},
        }});
        let tree = |levels: usize| (0..levels).fold(json!({}), |child, _| json!({"in": child}));
        let list =
            |links: usize, end: Value| (0..links).fold(json!({"tree": end}), |next, _| json!({"next": next}));
        assert!(admits(&schema, &list(DEPTH, tree(DEPTH))));
        assert!(!admits(&schema, &list(DEPTH, tree(DEPTH + 1))));
        assert!(!admits(&schema, &list(DEPTH + 1, tree(0))));
    }

    #[test]
    fn what_needs_no_end_is_left_alone() {
        // References without a circle, a property of that name, data that looks like a schema, and what is impossible
        // or not to be found here.
        for schema in [
            json!({"properties": {"a": {"$ref": "#/$defs/x"}, "b": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "null"}}}),
            json!({"type": "object", "properties": {"$ref": {"type": "string"}}}),
            json!({"enum": [{"$ref": "#"}], "default": {"$ref": "#"}}),
            json!({"type": "object", "required": ["me"], "properties": {"me": {"$ref": "#"}}}),
            json!({"properties": {"a": {"$ref": "#"}, "b": {"$ref": "https://example.org/schema.json"}}}),
            json!({"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#/nowhere"}}}),
            json!(true),
        ] {
            assert_eq!(finite(&schema), schema);
        }
    }

    #[test]
    fn schemas_that_are_made_to_be_large_stay_as_they_are() {
        // Each refers to all others: copies of copies would be many.
        let all: Vec<Value> = (0..=TARGETS_MAX).map(|n| json!({"$ref": format!("#/$defs/d{n}")})).collect();
        let definitions: Map<String, Value> =
            (0..=TARGETS_MAX).map(|n| (format!("d{n}"), json!({"anyOf": all}))).collect();
        let wide = json!({"anyOf": all, "$defs": definitions});
        assert_eq!(finite(&wide), wide);
        let mut deep = json!({"$ref": "#"});
        for _ in 0..=NESTING_MAX {
            deep = json!({"items": deep});
        }
        assert_eq!(finite(&deep), deep);
    }
}
