//! The plan a model makes for itself and people watch: the tool `todo`.

use serde::{Deserialize, Serialize};
use tools::{Call, Outcome, Reach, Replay, Spec};

/// One thing that is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What, in the model's words.
    pub text: String,
    /// How far it is.
    pub state: TaskState,
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Not begun.
    Open,
    /// Under way.
    Doing,
    /// Done.
    Done,
}

/// A plan with more tasks than this is no help to anybody.
const TASKS_MAX: usize = 40;
/// A task is a line that people read. Characters.
const TASK_CHARS_MAX: usize = 200;

/// Whether this is the tool.
pub(crate) fn has(tool: &str) -> bool {
    tool == "todo"
}

/// What a model is told of the tool.
pub(crate) fn spec() -> Spec {
    Spec {
        name: "todo".to_string(),
        description: include_str!("prompts/todo.md").trim().to_string(),
        parameters: serde_json::json!({
            "type": "object",
            "properties": {
                "plan": {
                    "type": "string",
                    "description": "the whole plan, a task on each line: [ ] to do, [>] doing, [x] done",
                },
            },
            "required": ["plan"],
            "additionalProperties": false,
        }),
        replay: Replay::Safe,
        bounds: Vec::new(),
        reach: Reach::Workspace,
    }
}

/// The plan that a call writes down; why it is none, in words for the model.
pub(crate) fn read(call: &Call) -> Result<Vec<Task>, String> {
    let text = match call.arguments.get("plan").or_else(|| call.arguments.get("items")) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Array(lines)) => {
            lines.iter().filter_map(|line| line.as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => {
            return Err(
                "Wrong arguments for todo: \"plan\" is missing. Expected: plan (text), a task on each line."
                    .to_string(),
            );
        }
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let tasks: Vec<Task> = lines.map(task).filter(|task| !task.text.is_empty()).collect();
    if tasks.len() > TASKS_MAX {
        return Err(format!(
            "A plan has at most {TASKS_MAX} tasks, this one has {}: say it in larger steps.",
            tasks.len()
        ));
    }
    Ok(tasks)
}

fn task(line: &str) -> Task {
    // Models number their lines and make lists of them, whatever they are told.
    let line = line.trim_start_matches(['-', '*', '•']).trim_start();
    let digits = line.chars().take_while(char::is_ascii_digit).count();
    let line = match line[digits..].strip_prefix(['.', ')']) {
        Some(rest) if digits > 0 => rest.trim_start(),
        _ => line,
    };
    let mark = |mark: &str| line.strip_prefix(mark);
    let (state, text) = if let Some(rest) = mark("[x]").or_else(|| mark("[X]")).or_else(|| mark("✓")) {
        (TaskState::Done, rest)
    } else if let Some(rest) = mark("[>]").or_else(|| mark("[~]")).or_else(|| mark("[-]")) {
        (TaskState::Doing, rest)
    } else {
        (TaskState::Open, mark("[ ]").or_else(|| mark("[]")).unwrap_or(line))
    };
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(TASK_CHARS_MAX).collect();
    Task { text, state }
}

/// A plan as lines.
pub(crate) fn written(tasks: &[Task]) -> String {
    let line = |task: &Task| {
        let mark = match task.state {
            TaskState::Open => "[ ]",
            TaskState::Doing => "[>]",
            TaskState::Done => "[x]",
        };
        format!("{mark} {}", task.text)
    };
    tasks.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What comes of a call.
pub(crate) fn outcome(call: &Call) -> Outcome {
    match read(call) {
        Err(wrong) => Outcome::refused(wrong),
        Ok(tasks) => {
            let done = tasks.iter().filter(|task| task.state == TaskState::Done).count();
            let next = tasks
                .iter()
                .find(|task| task.state == TaskState::Doing)
                .or_else(|| tasks.iter().find(|task| task.state == TaskState::Open));
            let next = next.map_or(String::new(), |task| format!(" Next: {}", task.text));
            let summary = format!("{done} of {} done", tasks.len());
            Outcome {
                ok: true,
                summary: summary.clone(),
                ..Outcome::refused(format!("Kept. {summary}.{next}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(plan: &str) -> Call {
        Call { id: "c1.1".into(), name: "todo".into(), arguments: serde_json::json!({ "plan": plan }) }
    }

    #[test]
    fn a_plan_is_read_however_its_lines_are_marked() {
        let plan =
            read(&call("[x] read it\n - [>] mend it\n3. [ ] test it\n\n* write it up\n[X] a")).unwrap();
        assert_eq!(written(&plan), "[x] read it\n[>] mend it\n[ ] test it\n[ ] write it up\n[x] a");
        assert_eq!(outcome(&call("[x] a\n[ ] b")).text, "Kept. 1 of 2 done. Next: b");
        assert!(!outcome(&Call { arguments: serde_json::json!({}), ..call("") }).ok);
        assert!(read(&call(&"x\n".repeat(41))).is_err());
        assert_eq!(read(&call("2nd try")).unwrap()[0].text, "2nd try");
    }
}
