//! Arguments as models write them: nearly right. What can mean only one thing is taken and noted; the rest is refused in
//! words that show what is expected.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::Spec;

/// Names that models use for ours. Compared in lower case without `_` and `-`.
const ALIASES: [(&str, &[&str]); 17] = [
    ("path", &["filepath", "file", "filename", "targetfile", "directory", "dir", "folder"]),
    ("command", &["cmd", "commandline", "shellcommand", "script", "bash", "shell"]),
    ("old", &["oldstring", "oldstr", "oldtext", "oldcode", "search", "find", "before", "original"]),
    ("new", &["newstring", "newstr", "newtext", "newcode", "replace", "replacement", "after", "updated"]),
    ("content", &["text", "contents", "body", "data", "filecontent", "filetext", "code"]),
    ("pattern", &["regex", "regexp", "query", "search", "expression", "globpattern"]),
    ("timeout_s", &["timeout", "timeoutsecs", "timeoutseconds"]),
    ("offset", &["start", "startline", "line", "linestart", "from"]),
    ("limit", &["lines", "count", "numlines", "maxlines", "linecount"]),
    ("all", &["replaceall", "global"]),
    ("cwd", &["workdir", "workingdirectory", "workingdir"]),
    ("glob", &["include", "filepattern", "files"]),
    ("patch", &["input", "diff", "patchtext"]),
    ("background", &["runinbackground", "isbackground", "detach"]),
    ("url", &["uri", "link", "address", "href", "website", "page"]),
    ("max_bytes", &["maxbytes", "maxlength", "maxlen", "bytes"]),
    ("id", &["processid", "sessionid", "pid", "bashid", "shellid"]),
];

/// A call's arguments, by our names.
#[derive(Debug)]
pub(crate) struct Arguments<'a> {
    spec: &'a Spec,
    values: BTreeMap<String, Value>,
    repairs: Vec<String>,
}

impl<'a> Arguments<'a> {
    /// Reads the arguments of a call. The error is for the model.
    pub(crate) fn read(given: &Value, spec: &'a Spec) -> Result<Arguments<'a>, String> {
        let mut arguments = Arguments { spec, values: BTreeMap::new(), repairs: Vec::new() };
        let given = match given {
            Value::Object(map) => match map.iter().next() {
                // Some models wrap the object once more.
                Some((name, Value::Object(inner)))
                    if map.len() == 1
                        && ["arguments", "parameters", "args", "input"].contains(&name.as_str()) =>
                {
                    inner.clone()
                }
                Some(_) | None => map.clone(),
            },
            Value::Null => Map::new(),
            // A bare text can only be the one text a tool needs.
            Value::String(_) => match arguments.required().as_slice() {
                [only] => Map::from_iter([((*only).to_owned(), given.clone())]),
                _ => return Err(arguments.wrong("The arguments must be an object")),
            },
            Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                return Err(arguments.wrong("The arguments must be an object"));
            }
        };
        let given: BTreeMap<String, Value> = given.into_iter().collect();
        for (name, value) in given {
            let ours = arguments.our_name(&name);
            match ours {
                Some(ours) if arguments.values.contains_key(&ours) => {
                    return Err(arguments.wrong(&format!("\"{ours}\" is given twice")));
                }
                Some(ours) => {
                    if ours != name {
                        arguments.repairs.push(format!("\"{}\" was taken as \"{ours}\"", plain(&name)));
                    }
                    if !value.is_null() {
                        arguments.values.insert(ours, value);
                    }
                }
                None => return Err(arguments.wrong(&format!("There is no argument \"{}\"", plain(&name)))),
            }
        }
        if let Some(missing) =
            arguments.required().into_iter().find(|name| !arguments.values.contains_key(*name))
        {
            return Err(arguments.wrong(&format!("\"{missing}\" is missing")));
        }
        Ok(arguments)
    }

    fn required(&self) -> Vec<&'a str> {
        let required = self.spec.parameters.get("required").and_then(Value::as_array);
        required.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn properties(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.spec.parameters.get("properties").and_then(Value::as_object).into_iter().flatten()
    }

    /// Our name for the one the model used: the same, the same but for case and dashes, or a known other.
    fn our_name(&self, name: &str) -> Option<String> {
        let bare = |name: &str| name.to_lowercase().replace(['_', '-', ' '], "");
        let wanted = bare(name);
        let fits = |ours: &str| {
            bare(ours) == wanted
                || ALIASES.iter().any(|(known, others)| *known == ours && others.contains(&wanted.as_str()))
        };
        let exact = self.properties().find(|(ours, _)| *ours == name);
        exact.or_else(|| self.properties().find(|(ours, _)| fits(ours))).map(|(ours, _)| ours.clone())
    }

    /// A refusal that shows what is expected.
    pub(crate) fn wrong(&self, what: &str) -> String {
        let required = self.required();
        let mut properties: Vec<_> = self.properties().collect();
        // What is needed first; a map's own order depends on how serde_json was built.
        properties
            .sort_by_key(|(name, _)| (required.iter().position(|r| r == name).unwrap_or(usize::MAX), *name));
        let expected: Vec<String> = properties
            .into_iter()
            .map(|(name, schema)| {
                let kind = match schema.get("type").and_then(Value::as_str) {
                    Some("integer") => "number",
                    Some("boolean") => "true or false",
                    Some(_) | None => "text",
                };
                let optional = if required.contains(&name.as_str()) { "" } else { ", optional" };
                format!("{name} ({kind}{optional})")
            })
            .collect();
        format!("Wrong arguments for {}: {what}. Expected: {}.", self.spec.name, expected.join(", "))
    }

    /// A text that must be there.
    pub(crate) fn text(&mut self, name: &str) -> Result<String, String> {
        Ok(self.optional_text(name)?.unwrap_or_default())
    }

    pub(crate) fn optional_text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.values.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Array(lines)) if lines.iter().all(Value::is_string) => {
                // A list of lines, or a command as a list of words.
                let lines: Vec<&str> = lines.iter().filter_map(Value::as_str).collect();
                self.repairs.push(format!("the list in \"{name}\" was joined"));
                Ok(Some(match (name, lines.as_slice()) {
                    ("command", [shell, flag, line]) if shell.ends_with("sh") && flag.starts_with('-') => {
                        (*line).to_owned()
                    }
                    ("command", words) => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
                    (_, lines) => lines.join("\n"),
                }))
            }
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
            Some(value @ Value::Object(_)) if name == "content" => {
                self.repairs.push("the object in \"content\" was written as JSON".to_owned());
                Ok(Some(serde_json::to_string_pretty(&value).unwrap_or_default() + "\n"))
            }
            Some(Value::Null | Value::Array(_) | Value::Object(_)) => {
                Err(self.wrong(&format!("\"{name}\" must be text")))
            }
        }
    }

    pub(crate) fn number(&mut self, name: &str) -> Result<Option<u64>, String> {
        let Some(value) = self.values.remove(name) else { return Ok(None) };
        let number = match &value {
            Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
            Value::String(text) if text.trim().is_empty() => return Ok(None),
            Value::String(text) => text.trim().parse().ok().or_else(|| whole(text.trim().parse().ok()?)),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(&format!("\"{name}\" must be a whole number from 0 on"))),
        }
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, String> {
        match self.values.remove(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(Value::String(text)) if ["true", "yes", "1"].contains(&text.to_lowercase().trim()) => {
                Ok(true)
            }
            Some(Value::String(text)) if ["false", "no", "0", ""].contains(&text.to_lowercase().trim()) => {
                Ok(false)
            }
            Some(Value::Number(number)) if number.as_u64().is_some_and(|number| number < 2) => {
                Ok(number.as_u64() == Some(1))
            }
            Some(_) => Err(self.wrong(&format!("\"{name}\" must be true or false"))),
        }
    }

    /// What was taken differently from how it was written, as a line for the outcome.
    pub(crate) fn repairs(&self) -> Option<String> {
        (!self.repairs.is_empty()).then(|| format!("(note: {})", self.repairs.join("; ")))
    }
}

/// A number that was written as a fraction but is whole.
fn whole(number: f64) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and in range")]
    (number.fract() == 0.0 && (0.0..1e15).contains(&number)).then_some(number as u64)
}

/// A word as the shell takes it for one.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A name the model made up, short and harmless.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Toolbox;

    fn check(tool: &str, given: &Value, expected: &str) {
        let toolbox = Toolbox::builtin();
        let spec = toolbox.spec(tool).unwrap();
        let read = Arguments::read(given, spec).map(|arguments| {
            let repairs = arguments.repairs().unwrap_or_default();
            format!("{} {repairs}", serde_json::to_string(&arguments.values).unwrap())
        });
        assert_eq!(read.unwrap_or_else(|wrong| wrong).trim_end(), expected);
    }

    #[test]
    fn what_a_model_nearly_says_is_understood() {
        // Each of these was a failed call of some local model.
        check("read", &json!({"file_path": "a"}), r#"{"path":"a"} (note: "file_path" was taken as "path")"#);
        check(
            "edit",
            &json!({"filePath": "a", "oldString": "x", "new_str": "y"}),
            r#"{"new":"y","old":"x","path":"a"} (note: "filePath" was taken as "path"; "new_str" was taken as "new"; "oldString" was taken as "old")"#,
        );
        check("exec", &json!("ls"), r#"{"command":"ls"}"#);
        check(
            "exec",
            &json!({"arguments": {"cmd": "ls"}}),
            r#"{"command":"ls"} (note: "cmd" was taken as "command")"#,
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_what_is_expected() {
        // The model has only these words to mend its call by.
        check(
            "exec",
            &json!({"command": "ls", "dangerouslyDisableSandbox": true}),
            "Wrong arguments for exec: There is no argument \"dangerouslyDisableSandbox\". \
             Expected: command (text), background (true or false, optional), cwd (text, optional), \
             timeout_s (number, optional), tty (true or false, optional).",
        );
        check(
            "read",
            &json!({}),
            "Wrong arguments for read: \"path\" is missing. \
             Expected: path (text), limit (number, optional), offset (number, optional).",
        );
    }

    #[test]
    fn values_of_a_near_type_are_taken() {
        // Numbers as text and lists as text are the commonest slips after wrong names.
        let toolbox = Toolbox::builtin();
        let spec = toolbox.spec("exec").unwrap();
        let given = json!({"command": ["bash", "-lc", "echo a b"], "timeout_s": "30"});
        let mut arguments = Arguments::read(&given, spec).unwrap();
        assert_eq!(arguments.text("command").unwrap(), "echo a b");
        assert_eq!(arguments.number("timeout_s").unwrap(), Some(30));
        let given = json!({"command": ["grep", "it's", "f"], "timeout_s": -1});
        let mut arguments = Arguments::read(&given, spec).unwrap();
        assert_eq!(arguments.text("command").unwrap(), r"grep 'it'\''s' f");
        assert!(arguments.number("timeout_s").unwrap_err().contains("must be a whole number"));
    }
}
