//! The service under attack: a process of its own that holds the sandbox and its tools, with secrets in its environment and
//! folders open, as a service has. It takes one job over its standard input and says what came of it.

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::opening::Opening;
use super::plain;
use super::scene::Scene;
use crate::checkpoint::{Checkpoints, Tree};
use crate::egress::Egress;
use crate::{Backend, Call, Outcome, Policy, Sandbox, Toolbox};

/// The service's argv[0]: what tells it from a program that somebody started.
pub(super) const NAME: &str = "saga-attack-service";

/// Whose checkpoints these are, and how much they may take.
const OWNER: &str = "attack";
const CHECKPOINT_BYTES: u64 = 1 << 30;

/// What it says when it is there.
pub(super) const HELLO: &str = "ready";

/// Words in braces that only the service can fill in.
pub(super) const WORDS: [&str; 3] = ["FOREIGN_PROC_ID", "FOREIGN_OUTPUT_ID", "DEAD_PROC_ID"];

/// One call of a tool, by the tool's name here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) tool: String,
    pub(super) arguments: Value,
}

/// What is called after the attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Afterwards {
    /// Everything that looks at a workspace, so that it meets what was planted there.
    Everything,
    /// Only whether the sandbox still works.
    Life,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) workspace: PathBuf,
    pub(super) other_workspace: PathBuf,
    pub(super) canary: String,
    pub(super) steps: Vec<Step>,
    pub(super) afterwards: Afterwards,
    /// Where the workspace is kept before the attack, and put back from after it.
    pub(super) checkpoints: Option<PathBuf>,
    pub(super) plain: bool,
    /// What runs the commands of its sandboxes.
    pub(super) backend: Backend,
    /// What is open of the network to the session, and to another one that is open meanwhile.
    pub(super) egress: Option<Opening>,
    pub(super) other_egress: Option<Opening>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Reply {
    /// What the model would read, for each step.
    pub(super) texts: Vec<String>,
    /// Whether the last step was done.
    pub(super) ok: bool,
    /// How long the first step took. Seconds.
    pub(super) wall_s: f64,
    /// What the calls after the attack said.
    pub(super) after: Vec<String>,
    /// What broke, in words.
    pub(super) broken: Option<String>,
    /// Why it could not be tried.
    pub(super) unknown: Option<String>,
}

impl Step {
    /// A step as a case file says it. Tools have the names here that a case file may use, and some that others use.
    pub(super) fn read(tool: &str, mut arguments: Value, timeout_s: u64) -> Result<Step, String> {
        if arguments.is_null() {
            arguments = json!({});
        }
        let action = |action: &str| json!({"action": action, "id": arguments["id"]});
        let (tool, arguments) = match tool {
            "exec" | "bash" | "shell" => ("exec", arguments),
            "read" | "read_file" => ("read", arguments),
            "write" | "write_file" => ("write", arguments),
            "edit" | "edit_file" => ("edit", arguments),
            "apply_patch" | "patch" => ("apply_patch", arguments),
            "glob" | "grep" | "list" | "process" | "fetch" => (tool, arguments),
            "search" => ("grep", arguments),
            "list_dir" => ("list", arguments),
            "read_output" => ("read", json!({"path": arguments["id"]})),
            "process_output" => ("process", action("output")),
            "process_wait" => ("process", action("wait")),
            "process_kill" => ("process", action("kill")),
            "process_list" => ("process", json!({"action": "list"})),
            // The git a model has is the one in its sandbox.
            "git" => ("exec", json!({"command": git(&arguments)?})),
            other => return Err(format!("there is no tool {other:?} here")),
        };
        let mut step = Step { tool: tool.to_owned(), arguments };
        if step.tool == "exec" && step.arguments.is_object() && step.arguments["timeout_s"].is_null() {
            step.arguments["timeout_s"] = json!(timeout_s);
        }
        Ok(step)
    }

    /// With the scene's words filled in, also in lists and objects.
    pub(super) fn filled(&self, scene: &Scene) -> Result<Step, String> {
        let arguments = filled(&self.arguments, &|text| scene.fill(text))?;
        Ok(Step { tool: self.tool.clone(), arguments })
    }
}

pub(super) fn filled(value: &Value, fill: &dyn Fn(&str) -> Result<String, String>) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => Value::String(fill(text)?),
        Value::Array(values) => values.iter().map(|value| filled(value, fill)).collect::<Result<_, _>>()?,
        Value::Object(map) => {
            let pairs = map.iter().map(|(name, value)| Ok::<_, String>((name.clone(), filled(value, fill)?)));
            Value::Object(pairs.collect::<Result<_, _>>()?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

/// A line for the shell that does what a case asks of git.
fn git(arguments: &Value) -> Result<String, String> {
    let quoted = |name: &str| {
        let text = arguments[name].as_str().unwrap_or("");
        format!("'{}'", text.replace('\'', r"'\''"))
    };
    match arguments["op"].as_str().unwrap_or("") {
        // As careless as a model may be: any transport, submodules and all.
        "clone" => Ok(format!(
            "git -c protocol.file.allow=always clone --recurse-submodules -- {} clone && ls -laR clone",
            quoted("url")
        )),
        op @ ("status" | "diff" | "log") => Ok(format!("git {op}")),
        "show" => Ok(format!("git show {}", quoted("rev"))),
        op => Err(format!("there is no git {op:?} here")),
    }
}

/// Becomes the service under attack if this process was started as one, and then never returns.
pub(crate) fn maybe_serve() {
    if std::env::args_os().next().is_none_or(|name| name != NAME) {
        return;
    }
    let served = serve();
    std::process::exit(i32::from(served.is_err()));
}

fn serve() -> io::Result<()> {
    println!("{HELLO}");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let Ok(job) = serde_json::from_str::<Job>(&line) else { return Ok(()) };
    if job.plain {
        // Where the kernel lets nobody do that, there is less for an attack to succeed at.
        let _ = plain::become_root_of_little();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reply = if job.plain { plain::perform(&job) } else { runtime.block_on(perform(job)) };
    println!("{}", serde_json::to_string(&reply)?);
    io::stdout().flush()?;
    // It lives until it is let go of, so that whoever asked can look at it.
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

async fn perform(job: Job) -> Reply {
    let mut reply = Reply::default();
    if let Err(why) = attempt(&job, &mut reply).await {
        reply.broken = Some(why);
    }
    reply
}

/// The error is what broke.
async fn attempt(job: &Job, reply: &mut Reply) -> Result<(), String> {
    let egress = job.egress.as_ref().map(Opening::egress).transpose()?;
    let toolbox = Toolbox::new(egress.as_deref(), &[]);
    if let Some(step) = job.steps.iter().find(|step| toolbox.spec(&step.tool).is_none()) {
        reply.unknown = Some(format!("there is no tool {:?} yet", step.tool));
        return Ok(());
    }
    let sandbox = open(job, &job.workspace, egress).await?;
    let _other = match &job.other_egress {
        Some(opening) => Some(open(job, &job.other_workspace, Some(opening.egress()?)).await?),
        None => None,
    };
    let call = |sandbox, tool, arguments| call(&toolbox, sandbox, tool, arguments);
    let words =
        if job.steps.iter().any(|step| WORDS.iter().any(|word| step.arguments.to_string().contains(word))) {
            words(&toolbox, &sandbox, job).await?
        } else {
            Vec::new()
        };
    let fill = |text: &str| {
        let fill = |text: String, (name, value): &(&str, String)| text.replace(&format!("{{{name}}}"), value);
        Ok(words.iter().fold(text.to_owned(), fill))
    };
    let kept = match &job.checkpoints {
        Some(folder) => {
            let checkpoints =
                Checkpoints::open(folder, CHECKPOINT_BYTES).map_err(|error| error.to_string())?;
            let before = checkpoints.take(&sandbox, OWNER).await.map_err(|error| error.to_string())?.tree;
            Some((checkpoints, before))
        }
        None => None,
    };
    for (at, step) in job.steps.iter().enumerate() {
        let arguments = filled(&step.arguments, &fill)?;
        let began = Instant::now();
        let outcome = call(&sandbox, &step.tool, arguments).await?;
        if at == 0 {
            reply.wall_s = began.elapsed().as_secs_f64();
        }
        reply.ok = outcome.ok;
        reply.texts.push(outcome.text);
    }
    if let Some((checkpoints, before)) = kept {
        put_back(&checkpoints, &sandbox, &before).await?;
    }
    if job.afterwards == Afterwards::Everything {
        for (tool, arguments) in [
            ("exec", json!({"command": plain::GIT_LINE, "timeout_s": 10})),
            ("list", json!({})),
            ("glob", json!({"pattern": "**/*"})),
            ("grep", json!({"pattern": "."})),
        ] {
            reply.after.push(call(&sandbox, tool, arguments).await?.text);
        }
    }
    let alive = call(&sandbox, "exec", json!({"command": "echo al''ive", "timeout_s": 20})).await?;
    if !alive.text.contains("alive") {
        return Err(format!("the sandbox does not work any more: {}", alive.text));
    }
    Ok(())
}

/// Makes the workspace what it was. The error says how it is not.
async fn put_back(checkpoints: &Checkpoints, sandbox: &Sandbox, before: &Tree) -> Result<(), String> {
    let said = |error: crate::Error| error.to_string();
    let now = checkpoints.take(sandbox, OWNER).await.map_err(said)?.tree;
    checkpoints.restore(sandbox, OWNER, before, &now).await.map_err(said)?;
    let is = checkpoints.take(sandbox, OWNER).await.map_err(said)?.tree;
    if is == *before { Ok(()) } else { Err("the checkpoint did not bring the files back".to_owned()) }
}

async fn open(job: &Job, workspace: &Path, egress: Option<Arc<Egress>>) -> Result<Sandbox, String> {
    let policy = Policy { egress, backend: job.backend, ..Policy::new(workspace) };
    Sandbox::open(policy).await.map_err(|error| format!("no sandbox: {error}"))
}

/// Calls a tool, and sees that its answer is one that a model and a terminal may be shown.
async fn call(toolbox: &Toolbox, sandbox: &Sandbox, tool: &str, arguments: Value) -> Result<Outcome, String> {
    let call = Call { id: "1".to_owned(), name: tool.to_owned(), arguments };
    let outcome = toolbox.perform(&call, sandbox, &|_| ()).await;
    let outcome = outcome.map_err(|error| format!("{tool} broke: {error}"))?;
    if let Some(c) = outcome.text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Err(format!("{tool} answers with the control character {c:?}"));
    }
    Ok(outcome)
}

/// The ids of another session's background command and kept output, which tell the canary, and of an own command that has
/// ended.
async fn words(
    toolbox: &Toolbox,
    sandbox: &Sandbox,
    job: &Job,
) -> Result<Vec<(&'static str, String)>, String> {
    let other = open(job, &job.other_workspace, None).await?;
    let call = |sandbox, tool, arguments| call(toolbox, sandbox, tool, arguments);
    let id = |text: &str, before: &str| -> Result<String, String> {
        let id = text
            .split(before)
            .nth(1)
            .and_then(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '-').next());
        id.map(str::to_owned).ok_or_else(|| format!("no id in: {text}"))
    };
    let background = json!({"command": format!("echo {}; sleep 60", job.canary), "background": true});
    let foreign = id(&call(&other, "exec", background).await?.text, "background as ")?;
    let long = json!({"command": format!("yes {} | head -c 200000", job.canary)});
    let output = id(&call(&other, "exec", long).await?.text, "path ")?;
    let dead = id(
        &call(sandbox, "exec", json!({"command": "true", "background": true})).await?.text,
        "background as ",
    )?;
    call(sandbox, "process", json!({"action": "wait", "id": dead})).await?;
    // The other session goes on until the service ends.
    std::mem::forget(other);
    Ok(WORDS.into_iter().zip([foreign, output, dead]).collect())
}
