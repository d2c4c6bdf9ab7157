//! Runs a command.

use std::fmt::Write as _;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::arguments::Arguments;
use crate::output::size;
use crate::{Command, Ended, Error, Outcome, Ran, Replay, Sandbox, Spec, Tool};

/// The `exec` tool.
pub(super) struct Exec {
    spec: Spec,
}

impl Exec {
    pub(super) fn new() -> Exec {
        let fields = [
            ("command", "string", "a line for the shell"),
            ("timeout_s", "integer", "seconds it may take; 120 if left out, at most 600"),
            ("cwd", "string", "folder to run in; the workspace if left out"),
        ];
        Exec { spec: super::spec("exec", include_str!("exec.md"), Replay::Unsafe, 1, &fields) }
    }

    fn command(&self, given: &Value) -> Result<(Command, Option<String>), String> {
        let mut arguments = Arguments::read(given, &self.spec)?;
        let line = arguments.text("command")?;
        if line.trim().is_empty() {
            return Err(arguments.wrong("\"command\" is empty"));
        }
        if line.contains('\0') {
            return Err(arguments.wrong("\"command\" holds a NUL character, which no command can"));
        }
        // The kernel takes no longer word (128 KiB).
        if line.len() > 100_000 {
            return Err(arguments.wrong("\"command\" is too long; write a script with write and run it"));
        }
        let mut command = Command::shell(line);
        // A model that asks for no time at all means the default.
        command.timeout = arguments.number("timeout_s")?.filter(|secs| *secs > 0).map(Duration::from_secs);
        command.cwd = arguments.optional_text("cwd")?;
        Ok((command, arguments.repairs()))
    }
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
        match self.command(arguments) {
            Ok((command, repairs)) => Ok(outcome(sandbox.run_streaming(command, out).await?, repairs)),
            Err(wrong) => Ok(Outcome::refused(wrong)),
        }
    }
}

/// How a command ended comes first, in plain words: it is what a small model has to act on.
fn outcome(ran: Ran, repairs: Option<String>) -> Outcome {
    let (how, brief) = match &ran.ended {
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
        Ended::NotStarted(why) => (format!("not started: {why}"), "not started".to_owned()),
    };
    let mut text = how;
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
    if let Some(repairs) = repairs {
        let _ = write!(text, "\n{repairs}");
    }
    let exit = match ran.ended {
        Ended::Exited(code) => Some(code),
        Ended::Signalled(_)
        | Ended::TimedOut(_)
        | Ended::Flooded
        | Ended::OutOfMemory
        | Ended::NotStarted(_) => None,
    };
    Outcome {
        ok: exit == Some(0),
        text,
        summary: format!("{brief} · {:.1} s · {}", ran.wall.as_secs_f32(), size(ran.bytes_total)),
        exit,
        wall_ms: u64::try_from(ran.wall.as_millis()).unwrap_or(u64::MAX),
        bytes_total: ran.bytes_total,
        truncated: ran.truncated,
        missing_layers: Vec::new(),
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
