//! Looks at commands in the background, writes to them and ends them.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;

use super::exec;
use crate::arguments::Arguments;
use crate::output::{harmless, size};
use crate::sandbox::Job;
use crate::{Error, Outcome, Replay, Sandbox, Spec, Tool};

/// How long `wait` waits when nothing else is asked for, and at most. A model that waits for longer should look in between.
const WAIT: Duration = Duration::from_secs(60);
const WAIT_MAX: Duration = Duration::from_secs(600);

/// How long an answer to what was written, or the end after a signal, is waited for.
const ANSWER: Duration = Duration::from_millis(300);

/// How much of a command's line is shown in a list. Characters.
const LINE_CHARS: usize = 100;

/// The `process` tool.
pub(super) struct Process {
    spec: Spec,
}

impl Process {
    pub(super) fn new() -> Process {
        let fields = [
            ("action", "string", "output, wait, write, signal, kill or list"),
            ("id", "string", "the command, as exec named it: p-…"),
            ("text", "string", "for write: what to type; a line end is added"),
            ("signal", "string", "for signal: int, term, hup, quit, usr1 or usr2"),
            ("timeout_s", "integer", "for wait: seconds; 60 if left out"),
        ];
        Process { spec: super::spec("process", include_str!("process.md"), Replay::Unsafe, 1, &fields) }
    }

    /// What a call asks for. The error is for the model.
    fn read(&self, given: &Value) -> Result<Asked, String> {
        let mut arguments = Arguments::read(given, &self.spec)?;
        let action = arguments.text("action")?.trim().to_lowercase();
        let id = arguments.optional_text("id")?.unwrap_or_default();
        let text = arguments.optional_text("text")?;
        let signal = arguments.optional_text("signal")?.unwrap_or_default();
        let wait = arguments.number("timeout_s")?.map_or(WAIT, Duration::from_secs).min(WAIT_MAX);
        let action = match action.as_str() {
            "list" => Action::List,
            "output" | "read" | "look" | "poll" => Action::Output,
            "wait" => Action::Wait(wait),
            "write" | "input" => match text {
                Some(text) => Action::Write(text),
                None => return Err(arguments.wrong("\"text\" is missing")),
            },
            "signal" => match signal_number(&signal) {
                Some(number) => Action::Signal(number),
                None => return Err(arguments.wrong("\"signal\" must be int, term, hup, quit, usr1 or usr2")),
            },
            "kill" | "stop" => Action::Kill,
            _ => return Err(arguments.wrong("\"action\" must be output, wait, write, signal, kill or list")),
        };
        Ok(Asked { action, id, repairs: arguments.repairs() })
    }
}

struct Asked {
    action: Action,
    id: String,
    repairs: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    List,
    Output,
    Wait(Duration),
    Write(String),
    Signal(i32),
    Kill,
}

#[async_trait]
impl Tool for Process {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    async fn call(
        &self,
        arguments: &Value,
        sandbox: &Sandbox,
        _out: &(dyn for<'t> Fn(&'t str) + Send + Sync),
    ) -> Result<Outcome, Error> {
        let began = Instant::now();
        let asked = match self.read(arguments) {
            Ok(asked) => asked,
            Err(wrong) => return Ok(Outcome::refused(wrong)),
        };
        let mut outcome = match (&asked.action, sandbox.background().find(&asked.id)) {
            (Action::List, _) => list(sandbox),
            (_, Some(job)) => act(asked.action, &job, sandbox).await,
            (_, None) => Outcome::refused(format!(
                "There is no command {} in the background of this session. {}",
                shown(&asked.id),
                list(sandbox).text
            )),
        };
        if let Some(repairs) = asked.repairs {
            let _ = write!(outcome.text, "\n{repairs}");
        }
        outcome.wall_ms = super::wall_ms(began);
        Ok(outcome)
    }
}

async fn act(action: Action, job: &Arc<Job>, sandbox: &Sandbox) -> Outcome {
    let done = match action {
        Action::List | Action::Output => true,
        Action::Wait(wait) => {
            job.wait(wait).await;
            true
        }
        // A command that has ended reads nothing and minds no signal; that it has ended is what is shown.
        Action::Write(text) if !job.has_ended() => {
            let written = job.write((text + "\n").into_bytes());
            job.wait(ANSWER).await;
            written
        }
        Action::Signal(signal) if !job.has_ended() => {
            let sent = job.signal(signal);
            job.wait(ANSWER).await;
            sent
        }
        Action::Kill if !job.has_ended() => {
            let asked = job.stop();
            job.wait(WAIT).await;
            asked
        }
        Action::Write(_) | Action::Signal(_) | Action::Kill => true,
    };
    if !done && !job.has_ended() {
        return Outcome::refused(format!("{} does not read what it is sent; use kill to end it", job.id));
    }
    show(job, sandbox)
}

/// A command as it is now, with what it printed since the last look.
pub(crate) fn show(job: &Job, sandbox: &Sandbox) -> Outcome {
    let look = job.look(sandbox);
    let (mut text, brief) = match &look.ended {
        Some(ended) => exec::how(ended),
        None => (format!("running for {:.0} s", look.wall.as_secs_f32()), "running".to_owned()),
    };
    match look.output.trim_end_matches('\n') {
        "" => text.push_str("\n(no new output)"),
        output => {
            let _ = write!(text, "\n{output}");
        }
    }
    if let Some(kept) = exec::kept(look.output_id.as_deref(), look.bytes_new) {
        let _ = write!(text, "\n{kept}");
    }
    let exit = look.ended.as_ref().and_then(exec::exit);
    Outcome {
        // One that runs is well; one that has ended is when its exit code says so.
        ok: look.ended.is_none() || exit == Some(0),
        text,
        summary: format!("{} · {brief} · {}", job.id, size(look.bytes_total)),
        exit,
        wall_ms: 0,
        bytes_total: look.bytes_new,
        truncated: look.truncated,
        missing_layers: Vec::new(),
        external: false,
    }
}

fn list(sandbox: &Sandbox) -> Outcome {
    let jobs = sandbox.background().all();
    let mut text =
        if jobs.is_empty() { "Nothing runs in the background." } else { "In the background:" }.to_owned();
    for job in &jobs {
        let (ended, wall) = job.state();
        let how = ended.map_or_else(
            || format!("running for {:.0} s", wall.as_secs_f32()),
            |ended| format!("ended: {}", exec::how(&ended).1),
        );
        let _ = write!(text, "\n{} {how}: {}", job.id, shown(&job.line));
    }
    let running = jobs.iter().filter(|job| !job.has_ended()).count();
    Outcome {
        ok: true,
        bytes_total: text.len() as u64,
        text,
        summary: format!("{running} running, {} in all", jobs.len()),
        exit: None,
        wall_ms: 0,
        truncated: false,
        missing_layers: Vec::new(),
        external: false,
    }
}

/// What a model wrote, on one line and not too long.
fn shown(text: &str) -> String {
    let (text, _) = harmless(text.as_bytes());
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = line.chars().take(LINE_CHARS).collect();
    if cut.len() < line.len() { cut + " ..." } else { cut }
}

fn signal_number(name: &str) -> Option<i32> {
    let name = name.trim().to_lowercase();
    Some(match name.strip_prefix("sig").unwrap_or(&name) {
        "int" | "2" => libc::SIGINT,
        "term" | "15" => libc::SIGTERM,
        "hup" | "1" => libc::SIGHUP,
        "quit" | "3" => libc::SIGQUIT,
        "usr1" | "10" => libc::SIGUSR1,
        "usr2" | "12" => libc::SIGUSR2,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn near_misses_of_actions_are_taken_and_others_are_told() {
        // The model has only these words to mend its call by.
        let process = Process::new();
        let action = |given: Value| process.read(&given).map(|asked| asked.action);
        assert_eq!(action(json!({"action": "LIST"})), Ok(Action::List));
        assert_eq!(
            action(json!({"action": "wait", "id": "p-a", "timeout": 5000})),
            Ok(Action::Wait(WAIT_MAX))
        );
        assert_eq!(
            action(json!({"action": "write", "id": "p-a", "text": "y"})),
            Ok(Action::Write("y".to_owned()))
        );
        assert_eq!(
            action(json!({"action": "signal", "id": "p-a", "signal": "SIGINT"})),
            Ok(Action::Signal(libc::SIGINT))
        );
        assert!(action(json!({"action": "write", "id": "p-a"})).unwrap_err().contains("\"text\" is missing"));
        assert!(
            action(json!({"action": "signal", "id": "p-a", "signal": "9"})).unwrap_err().contains("usr2")
        );
        assert!(action(json!({"action": "explode"})).unwrap_err().contains("must be output"));
    }
}
