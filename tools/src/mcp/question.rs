//! What a server asks while it is called (elicitation): answered with the defaults that its own question carries, where the operator
//! says so, and declined otherwise. Nothing is ever made up.
//!
//! <https://modelcontextprotocol.io/specification/2025-11-25/client/elicitation>; defaults are those of SEP-1034.

use rmcp::model::{ElicitRequestParams, ElicitResult, ElicitationAction};
use serde_json::{Map, Value};

use super::schema::shortened;

/// How much of a question is told. Characters.
const QUESTION_CHARS: usize = 300;

/// How much of an answer is told. Characters.
const ANSWER_CHARS: usize = 300;

/// An answer, and what is told of it to those who could not be asked.
pub(super) struct Answered {
    pub(super) result: ElicitResult,
    /// One line.
    pub(super) told: String,
}

/// Answers a question. `defaults` says whether its own defaults may be taken.
pub(super) fn answer(asked: &ElicitRequestParams, defaults: bool) -> Answered {
    let decline = |message: &str, why: &str| Answered {
        result: ElicitResult::new(ElicitationAction::Decline),
        told: format!("the server asked {:?}, which was declined: {why}", shortened(message, QUESTION_CHARS)),
    };
    match asked {
        ElicitRequestParams::FormElicitationParams { message, requested_schema, .. } => {
            if !defaults {
                return decline(message, "nobody can be asked from here");
            }
            let schema = serde_json::to_value(requested_schema).unwrap_or_default();
            match by_default(&schema) {
                Ok(content) => {
                    let content = Value::Object(content);
                    let told = format!(
                        "the server asked {:?} and was answered with its own defaults: {}",
                        shortened(message, QUESTION_CHARS),
                        shortened(&content.to_string(), ANSWER_CHARS)
                    );
                    Answered {
                        result: ElicitResult::new(ElicitationAction::Accept).with_content(content),
                        told,
                    }
                }
                Err(why) => decline(message, &why),
            }
        }
        ElicitRequestParams::UrlElicitationParams { message, .. } => {
            decline(message, "nobody can visit a page from here")
        }
        _ => decline("", "it is a question of a kind that is not known here"),
    }
}

/// The default of each field that has one; or the field that has to be given and has none.
fn by_default(schema: &Value) -> Result<Map<String, Value>, String> {
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let mut content = Map::new();
    for (name, property) in properties {
        if let Some(default) = property.get("default").filter(|default| fits(property, default)) {
            content.insert(name.clone(), default.clone());
        }
    }
    let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    match required.iter().filter_map(Value::as_str).find(|name| !content.contains_key(*name)) {
        Some(name) => Err(format!("{:?} has to be given and has no default", shortened(name, 80))),
        None => Ok(content),
    }
}

/// Whether a value is one that a field takes. A default that is none would be an answer its server has to refuse.
fn fits(field: &Value, value: &Value) -> bool {
    let limit = |name: &str| field[name].as_f64();
    let within = |count: f64, least: &str, most: &str| {
        limit(least).is_none_or(|least| count >= least) && limit(most).is_none_or(|most| count <= most)
    };
    match field["type"].as_str() {
        Some("string") => value.as_str().is_some_and(|text| {
            let chars = text.chars().count() as f64;
            within(chars, "minLength", "maxLength") && is_among(field, "oneOf", value)
        }),
        Some("number") => value.as_f64().is_some_and(|number| within(number, "minimum", "maximum")),
        Some("integer") => {
            value.as_f64().is_some_and(|number| number.fract() == 0.0 && within(number, "minimum", "maximum"))
        }
        Some("boolean") => value.is_boolean(),
        Some("array") => value.as_array().is_some_and(|values| {
            within(values.len() as f64, "minItems", "maxItems")
                && values.iter().all(|value| is_among(&field["items"], "anyOf", value))
        }),
        Some(_) | None => false,
    }
}

/// Whether a value is one of those that can be chosen, if the choice is limited: `enum`, or `const` with a title each.
fn is_among(field: &Value, titled: &str, value: &Value) -> bool {
    if let Some(values) = field["enum"].as_array() {
        return values.contains(value);
    }
    field[titled].as_array().is_none_or(|choices| choices.iter().any(|choice| &choice["const"] == value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(schema: Value) -> ElicitRequestParams {
        serde_json::from_value(json!({"mode": "form", "message": "Who are\nyou?", "requestedSchema": schema}))
            .unwrap()
    }

    fn check(schema: Value, expected: Result<Value, &str>) {
        let schema = json!({"type": "object", "properties": schema["p"], "required": schema["r"]});
        let answered = answer(&asked(schema.clone()), true);
        match expected {
            Ok(content) => {
                assert_eq!(answered.result.action, ElicitationAction::Accept, "{}", answered.told);
                assert_eq!(answered.result.content, Some(content));
            }
            Err(why) => {
                assert_eq!(answered.result.action, ElicitationAction::Decline, "{}", answered.told);
                assert!(answered.told.contains(why), "{}", answered.told);
                assert_eq!(answered.result.content, None);
            }
        }
        // Without the operator's word nothing is accepted, however harmless it looks.
        assert_eq!(answer(&asked(schema), false).result.action, ElicitationAction::Decline);
    }

    #[test]
    fn each_field_is_answered_with_its_own_default_and_no_other_value() {
        // SEP-1034. A field without a default stays open, and one that has to be given then ends it: nothing is made up.
        check(
            json!({"p": {
                "name": {"type": "string", "default": "John"},
                "age": {"type": "integer", "default": 30},
                "score": {"type": "number", "default": 95.5},
                "status": {"type": "string", "enum": ["on", "off"], "default": "on"},
                "titled": {"type": "string", "oneOf": [{"const": "a", "title": "A"}], "default": "a"},
                "several": {"type": "array", "items": {"type": "string", "enum": ["x", "y"]}, "default": ["y"]},
                "sure": {"type": "boolean", "default": false},
                "open": {"type": "string"},
            }, "r": ["name", "sure"]}),
            Ok(
                json!({"name": "John", "age": 30, "score": 95.5, "status": "on", "titled": "a", "several": ["y"],
                      "sure": false}),
            ),
        );
        check(json!({"p": {"key": {"type": "string"}}, "r": ["key"]}), Err("\"key\" has to be given"));
        check(json!({"p": {"key": {"type": "string"}}, "r": []}), Ok(json!({})));
    }

    #[test]
    fn a_default_that_its_own_field_does_not_take_is_none() {
        let one = |field: Value| by_default(&json!({"properties": {"a": field}, "required": ["a"]}));
        for wrong in [
            json!({"type": "string", "enum": ["on"], "default": "up"}),
            json!({"type": "string", "oneOf": [{"const": "on"}], "default": "up"}),
            json!({"type": "string", "maxLength": 2, "default": "long"}),
            json!({"type": "integer", "default": 1.5}),
            json!({"type": "integer", "maximum": 3, "default": 4}),
            json!({"type": "number", "default": "4"}),
            json!({"type": "boolean", "default": "true"}),
            json!({"type": "array", "items": {"enum": ["x"]}, "default": ["z"]}),
            json!({"type": "array", "items": {"enum": ["x"]}, "minItems": 1, "default": []}),
            json!({"type": "object", "default": {}}),
        ] {
            assert!(one(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_page_to_visit_is_declined() {
        // It would have to be visited by somebody who reads what it says.
        let asked = serde_json::from_value(
            json!({"mode": "url", "message": "Pay", "url": "https://pay.test/", "elicitationId": "1"}),
        );
        let answered = answer(&asked.unwrap(), true);
        assert_eq!(answered.result.action, ElicitationAction::Decline);
        assert!(answered.told.contains("nobody can visit"), "{}", answered.told);
    }
}
