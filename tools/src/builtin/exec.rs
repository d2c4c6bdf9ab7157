//! Runs a command.

use std::fmt::Write as _;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::arguments::Arguments;
use crate::egress::Egress;
use crate::output::size;
use crate::{Command, Ended, Error, Outcome, Ran, Replay, Sandbox, Spec, Tool};

/// The `exec` tool.
pub(super) struct Exec {
    spec: Spec,
}

impl Exec {
    pub(super) fn new(egress: Option<&Egress>) -> Exec {
        let fields = [
            ("command", "string", "a line for the shell"),
            ("timeout_s", "integer", "seconds it may take; 120 if left out, at most 600"),
            ("cwd", "string", "folder to run in; the workspace if left out"),
            ("background", "boolean", "go on at once and let it run, such as a server; process looks at it"),
            ("tty", "boolean", "give it a terminal"),
        ];
        let mut spec = super::spec("exec", include_str!("exec.md"), Replay::Unsafe, 1, &fields);
        if let Some(egress) = egress {
            assert!(spec.description.contains(CLOSED), "the description says that there is no network");
            let open = format!("There is no input. {}", super::open_hosts(egress).trim_end_matches('.'));
            spec.description = spec.description.replace(CLOSED, &open);
            spec.reach = super::reach(egress);
        }
        Exec { spec }
    }

    fn command(&self, given: &Value) -> Result<Asked, String> {
        let mut arguments = Arguments::read(given, &self.spec)?;
        let line = arguments.text("command")?;
        if line.trim().is_empty() {
            return Err(arguments.wrong("\"command\" is empty"));
        }
        if line.contains('\0') {
            return Err(arguments.wrong("\"command\" holds a NUL character, which no command can"));
        }
        if let Some(tool) = tool_called(&line) {
            return Err(
                arguments.wrong(&format!("{tool} is no command but a tool: call {tool} instead of exec"))
            );
        }
        // The kernel takes no longer word (128 KiB).
        if line.len() > 100_000 {
            return Err(arguments.wrong("\"command\" is too long; write a script with write and run it"));
        }
        let mut command = Command::shell(line.clone());
        // A model that asks for no time at all means the default.
        command.timeout = arguments.number("timeout_s")?.filter(|secs| *secs > 0).map(Duration::from_secs);
        command.cwd = arguments.optional_text("cwd")?;
        command.tty = arguments.flag("tty")?;
        let background = arguments.flag("background")?;
        Ok(Asked { command, line, background, repairs: arguments.repairs() })
    }
}

/// What the description says of the network where nothing is open.
const CLOSED: &str = "There is no network and no input";

/// The tool that a line calls as if it were a function, which small models were seen to do again and again: no shell runs such a
/// line.
fn tool_called(line: &str) -> Option<&str> {
    const TOOLS: [&str; 9] =
        ["read", "write", "edit", "grep", "glob", "list", "symbols", "process", "apply_patch"];
    let (name, rest) = line.trim().split_once('(')?;
    (TOOLS.contains(&name) && rest.ends_with(')') && !rest.contains('\n')).then_some(name)
}

/// What a call asks for.
struct Asked {
    command: Command,
    line: String,
    background: bool,
    repairs: Option<String>,
}

/// How many refusals of the network a model is told with a command.
const REFUSALS_TOLD: usize = 5;

/// How long a command in the background is waited for: what is wrong with it is mostly said at once.
const SETTLE: Duration = Duration::from_millis(500);

/// Starts a command in the background and shows how it begins.
async fn start(sandbox: &Sandbox, line: String, command: Command) -> Result<Outcome, Error> {
    let job = match sandbox.background().start(sandbox, line, command).await? {
        Ok(job) => job,
        Err(why) => return Ok(Outcome::refused(why)),
    };
    job.wait(SETTLE).await;
    let mut outcome = super::process::show(&job, sandbox);
    outcome.text = format!("started in the background as {}\n{}", job.id, outcome.text);
    Ok(outcome)
}

#[async_trait]
impl Tool for Exec {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    async fn call(
        &self,
        arguments: &Value,
        sandbox: &Sandbox,
        out: &(dyn for<'t> Fn(&'t str) + Send + Sync),
    ) -> Result<Outcome, Error> {
        let before = sandbox.gate().map(|gate| gate.contacts().now());
        let mut outcome = match self.command(arguments) {
            Ok(Asked { command, line, background: true, repairs }) => {
                (start(sandbox, line, command).await?, repairs)
            }
            Ok(Asked { command, repairs, .. }) => {
                (outcome(sandbox.run_streaming(command, out).await?), repairs)
            }
            Err(wrong) => (Outcome::refused(wrong), None),
        };
        if let (Some(gate), Some(before)) = (sandbox.gate(), before) {
            // Programs seldom say why they were refused.
            for refused in gate.contacts().refused_since(before).iter().take(REFUSALS_TOLD) {
                let _ = write!(outcome.0.text, "\n(note: the network refused {refused})");
            }
        }
        if let Some(repairs) = outcome.1 {
            let _ = write!(outcome.0.text, "\n{repairs}");
        }
        Ok(outcome.0)
    }
}

/// How a command ended, in plain words for a model, and briefly for people.
pub(super) fn how(ended: &Ended) -> (String, String) {
    match ended {
        Ended::Exited(code) => (format!("exit code {code}"), format!("exit {code}")),
        Ended::Signalled(signal) => {
            let name = signal_name(*signal);
            (format!("killed by signal {signal}{name}"), format!("signal {signal}"))
        }
        Ended::TimedOut(wall) => (
            format!("stopped: it was still running after {} s. Its output up to then:", wall.as_secs_f32()),
            "timed out".to_owned(),
        ),
        Ended::Flooded => {
            ("stopped: it printed too much. The beginning and the end:".to_owned(), "flooded".to_owned())
        }
        Ended::OutOfMemory => {
            ("killed: it used more memory than the sandbox has".to_owned(), "out of memory".to_owned())
        }
        Ended::WorkspaceFull => (
            "killed: the workspace has grown by more than it may. Delete what is not needed.".to_owned(),
            "workspace full".to_owned(),
        ),
        Ended::NotStarted(why) => (format!("not started: {why}"), "not started".to_owned()),
    }
}

/// What is said of output that is kept beyond what is shown.
pub(super) fn kept(output_id: Option<&str>, bytes: u64) -> Option<String> {
    output_id.map(|id| format!("(note: all {} are kept: use read or grep with path {id})", size(bytes)))
}

/// The exit code of a command that came to its end.
pub(super) fn exit(ended: &Ended) -> Option<i32> {
    match ended {
        Ended::Exited(code) => Some(*code),
        Ended::Signalled(_)
        | Ended::TimedOut(_)
        | Ended::Flooded
        | Ended::OutOfMemory
        | Ended::WorkspaceFull
        | Ended::NotStarted(_) => None,
    }
}

/// How a command ended comes first: it is what a small model has to act on.
fn outcome(ran: Ran) -> Outcome {
    let (mut text, brief) = how(&ran.ended);
    if ran.output.is_empty() {
        if matches!(ran.ended, Ended::Exited(_)) {
            text.push_str("\n(no output)");
        }
    } else {
        let _ = write!(text, "\n{}", ran.output.trim_end_matches('\n'));
    }
    if ran.leftovers {
        text.push_str("\n(note: processes left in the background were stopped when the command ended)");
    }
    if let Some(kept) = kept(ran.output_id.as_deref(), ran.bytes_total) {
        let _ = write!(text, "\n{kept}");
    }
    let exit = exit(&ran.ended);
    Outcome {
        ok: exit == Some(0),
        text,
        summary: format!("{brief} · {:.1} s · {}", ran.wall.as_secs_f32(), size(ran.bytes_total)),
        exit,
        wall_ms: u64::try_from(ran.wall.as_millis()).unwrap_or(u64::MAX),
        bytes_total: ran.bytes_total,
        truncated: ran.truncated,
        missing_layers: Vec::new(),
        external: false,
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGABRT => " (abort)",
        libc::SIGSEGV => " (segmentation fault)",
        libc::SIGKILL => " (kill)",
        libc::SIGTERM => " (terminate)",
        libc::SIGFPE => " (arithmetic error)",
        libc::SIGXFSZ => " (file too large)",
        libc::SIGSYS => " (system call not allowed)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::tool_called;

    #[test]
    fn a_tool_that_is_called_in_a_command_is_noticed_and_no_command_is_taken_for_one() {
        for (line, tool) in [
            ("read(settings/types.py, 0)", Some("read")),
            (" edit('a.py', 'x', 'y') ", Some("edit")),
            ("grep(", None),
            ("grep -c '(' a.py", None),
            ("read() { cat; }; read", None),
            ("list(){ ls; }\nlist(", None),
            ("python3 -c 'print(read(1))'", None),
            ("(cd a && ls)", None),
        ] {
            assert_eq!(tool_called(line), tool, "{line}");
        }
    }
}
