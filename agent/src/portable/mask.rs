//! Secrets blotted out of a session that is carried elsewhere.
//!
//! A secret is found where something tells that it is one, such as a name before it, and may stand elsewhere without; so all of them are
//! found first, and then blotted out wherever they stand. A reply's tokens spell its text, and what was thought besides: where there is
//! any secret, no tokens are carried at all.

use std::collections::BTreeSet;

use serde_json::Value;

/// A file with more secrets than these is a list of them; beyond that each text is only looked at by itself.
const SECRETS_MAX: usize = 2_000;

/// The secrets of a session.
#[derive(Debug, Default)]
pub(super) struct Masks {
    /// The longest first, so that a secret within another one does not cut it in two.
    known: BTreeSet<(std::cmp::Reverse<usize>, String)>,
}

impl Masks {
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Looks for secrets in everything that is said in an event.
    pub(super) fn look_at(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.look_in(text),
            Value::Array(items) => items.iter().for_each(|item| self.look_at(item)),
            Value::Object(fields) => {
                for (name, field) in fields {
                    self.look_in(name);
                    match field {
                        // The name may be what tells.
                        Value::String(text) => self.look_beside(name, text),
                        _ => self.look_at(field),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    pub(super) fn look_in(&mut self, text: &str) {
        memory::secrets(text).into_iter().for_each(|secret| self.add(secret));
    }

    fn look_beside(&mut self, name: &str, text: &str) {
        self.look_in(text);
        if text.lines().count() == 1 {
            let both = format!("{name}={text}");
            let found = memory::secrets(&both);
            found.into_iter().filter(|secret| text.contains(secret)).for_each(|secret| self.add(secret));
        }
    }

    fn add(&mut self, secret: &str) {
        if self.known.len() < SECRETS_MAX && !secret.trim().is_empty() {
            self.known.insert((std::cmp::Reverse(secret.len()), secret.to_string()));
        }
    }

    /// A text without secrets.
    pub(super) fn mask(&self, text: &str) -> String {
        if self.known.is_empty() {
            return text.to_string();
        }
        let mut text = text.to_string();
        for (_, secret) in &self.known {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), &memory::mark(secret));
            }
        }
        memory::redact(&text)
    }

    /// An event without secrets, and without the tokens that may spell them.
    pub(super) fn apply(&self, event: &mut Value) {
        if event["type"] == "reply" {
            event["tokens"] = Value::Array(Vec::new());
        }
        self.blot(event);
    }

    fn blot(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.mask(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.blot(item)),
            Value::Object(fields) => {
                let named = fields.keys().any(|name| self.mask(name) != *name);
                if named {
                    let whole = std::mem::take(fields);
                    fields.extend(whole.into_iter().map(|(name, field)| (self.mask(&name), field)));
                }
                fields.values_mut().for_each(|field| self.blot(field));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Joined here, so that no scanner takes a test for a leak.
    fn key() -> String {
        ["gh", "p_", "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7d"].concat()
    }

    #[test]
    fn a_secret_is_blotted_out_wherever_it_stands() {
        // One place tells what it is; the others would give it away all the same.
        let events = [
            json!({"type": "input", "text": "DB_PASSWORD=hunter2!x, use it"}),
            json!({"type": "reply", "tokens": [1, 2], "text": "I shall log in with hunter2!x.",
                   "calls": [{"id": "c1.1", "name": "exec", "arguments": {"command": "login hunter2!x", "env": {"api_token": "opensesame7!"}}}]}),
            json!({"type": "call_finished", "outcome": {"text": format!("opensesame7! {}", key())}}),
            json!({"type": "recalled", "notes": [{"text": "the code is hunter2!x"}]}),
        ];
        let mut masks = Masks::default();
        events.iter().for_each(|event| masks.look_at(event));
        for mut event in events {
            masks.apply(&mut event);
            let text = event.to_string();
            for secret in ["hunter2", "opensesame7", &key()[4..]] {
                assert!(!text.contains(secret), "{text}");
            }
            assert!(text.contains("[secret "), "{text}");
            assert!(event["type"] != "reply" || event["tokens"] == json!([]), "{text}");
            // What is blotted out holds no secret any more.
            let mut again = Masks::default();
            again.look_at(&event);
            assert!(again.is_empty(), "{again:?} in {text}");
        }
    }

    #[test]
    fn what_holds_no_secret_stays_as_it_is() {
        let event = json!({"type": "reply", "tokens": [1], "text": "fixed in 8ae9ecb1f2c3d4e5f60718293a4b5c6d7e8f9012",
                           "usage": {"output_tokens": 5}});
        let mut masks = Masks::default();
        masks.look_at(&event);
        assert!(masks.is_empty(), "{masks:?}");
    }
}
