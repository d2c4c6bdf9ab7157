//! Attacks on the tools: cases that say what is tried and what must not come of it, each tried on a fresh scene.
//!
//! A case file has one JSON object a line: `id`, `class`, `tool`, `setup` (a line for the host's shell), `command` or `args`,
//! `check`, `timeout_s`, `plain` (`run`, or `skip` where it would harm a host without a sandbox) and `note`; with `egress`, what is
//! open of the network (`allow`, `allow_private`, `names`, `secrets`), and with `other_egress` what is open to another session. Words in braces
//! (`{OUT}`, `{WS}`, `{CANARY}`, …) are filled in by the scene. What the runner does not know, be it a tool, a check or a
//! word in braces, makes a case skipped, with the reason: a case that was not tried has not been held.
//!
//! Besides what a case checks, some things must hold after every one: the canary is in no result, nothing changed in the
//! folders of the host, the service that held the sandbox is alive, has not grown, and its sandbox still works.

mod opening;
mod plain;
mod scene;
mod servers;
mod service;
mod user;

pub(crate) use service::maybe_serve;
pub use user::as_user;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::Backend;
use crate::output::size;
use opening::Opening;
use scene::Scene;
use service::{Afterwards, Job, Reply, Step};

/// What a service may grow by during one case, whatever is printed at it. Bytes.
const GROWTH_BYTES: u64 = 64 << 20;

/// How long a service may take beyond what its case may, before it counts as hung: some cases are followed by others.
const PATIENCE: Duration = Duration::from_secs(90);

/// The longest a case may run when it does not say. Seconds.
const TIMEOUT_S: u64 = 10;

/// Where a case is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ground {
    /// On the tools as sessions use them. The binary is started as the service and as the sandbox's helper, as
    /// [`Policy::helper`](crate::Policy); `None` is this very one. Its commands run in this backend.
    Sandbox(Option<PathBuf>, Backend),
    /// On this host with no sandbox at all and tools that trust everything: what proves that a case can tell a leak. Cases
    /// that would harm the host are skipped, and for root all of them: what an ordinary user is refused, root does.
    Plain(Option<PathBuf>),
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It did no harm.
    Held,
    /// It did, in words.
    Leaked(String),
    /// It was not tried, for this reason.
    Skipped(String),
}

/// Looks at what a result becomes in the prompt of a model, and says in words what it could do there.
pub type Prompt<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One attack.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name.
    pub id: String,
    class: String,
    steps: Vec<Step>,
    setup: String,
    check: Check,
    timeout_s: u64,
    harmless_on_host: bool,
    note: String,
    /// What is open of the network, as it stands in the case: to the session, and to another one beside it.
    egress: Value,
    other_egress: Value,
    /// Why it cannot be tried.
    unknown: Option<String>,
}

/// What must be true of a case's result.
#[derive(Debug, Clone, Default)]
struct Check {
    lacks: Vec<String>,
    has: Vec<String>,
    host: Option<String>,
    wall_s: Option<f64>,
    out_bytes: Option<u64>,
    ok: Option<bool>,
}

/// Reads a case file. A line that is no case comes back as one that is skipped and says why.
pub fn read(text: &str) -> Vec<Case> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(at, line)| Case::read(line, at + 1)).collect()
}

impl Case {
    fn read(line: &str, number: usize) -> Case {
        let mut case = Case {
            id: format!("line {number}"),
            class: String::new(),
            steps: Vec::new(),
            setup: String::new(),
            check: Check::default(),
            timeout_s: TIMEOUT_S,
            harmless_on_host: false,
            note: String::new(),
            egress: Value::Null,
            other_egress: Value::Null,
            unknown: None,
        };
        match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => {
                if let Some(id) = fields.get("id").and_then(Value::as_str) {
                    id.clone_into(&mut case.id);
                }
                case.unknown = case.fill(&fields).err();
            }
            Ok(_) => case.unknown = Some("the line is no JSON object".to_owned()),
            Err(error) => case.unknown = Some(format!("the line is no JSON: {error}")),
        }
        case
    }

    fn fill(&mut self, fields: &Map<String, Value>) -> Result<(), String> {
        let text = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => Err(format!("{name:?} is no text")),
        };
        text("class")?.clone_into(&mut self.class);
        text("setup")?.clone_into(&mut self.setup);
        text("note")?.clone_into(&mut self.note);
        // Only a case that is said to be harmless is tried on a bare host.
        self.harmless_on_host = text("plain")? == "run";
        if let Some(secs) = fields.get("timeout_s").and_then(Value::as_f64) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is cut to the range"
            )]
            let secs = secs.ceil().clamp(1.0, 600.0) as u64;
            self.timeout_s = secs;
        }
        let arguments = match fields.get("args") {
            None | Some(Value::Null) => serde_json::json!({"command": text("command")?}),
            Some(arguments) => arguments.clone(),
        };
        let field = |name: &str| fields.get(name).cloned().unwrap_or(Value::Null);
        (self.egress, self.other_egress) = (field("egress"), field("other_egress"));
        let (tool, arguments) = match text("tool")? {
            // Asked of the session's own proxy, by a command.
            "proxy" => {
                let (opening, command) = Opening::proxy(&arguments)?;
                self.egress = serde_json::to_value(opening).map_err(|error| error.to_string())?;
                ("exec", command)
            }
            tool => (tool, arguments),
        };
        self.steps.push(Step::read(tool, arguments, self.timeout_s)?);
        for step in fields.get("then").and_then(Value::as_array).into_iter().flatten() {
            let tool = step.get("tool").and_then(Value::as_str).unwrap_or("");
            let arguments = step.get("args").cloned().unwrap_or(Value::Null);
            let times = step.get("times").and_then(Value::as_u64).unwrap_or(1).clamp(1, 1000);
            let step = Step::read(tool, arguments, self.timeout_s)?;
            self.steps.extend((0..times).map(|_| step.clone()));
        }
        self.check = Check::read(fields.get("check").unwrap_or(&Value::Null))?;
        Ok(())
    }

    /// Tries it. Blocks until it is over, at most somewhat longer than the case's timeout.
    ///
    /// A case that is about the prompt is skipped where nobody looks at it.
    pub fn attack(&self, ground: &Ground, prompt: Option<Prompt<'_>>) -> Verdict {
        if let Some(why) = &self.unknown {
            return Verdict::Skipped(why.clone());
        }
        let (binary, plain, backend) = match ground {
            Ground::Sandbox(binary, backend) => (binary, false, *backend),
            Ground::Plain(binary) => (binary, true, Backend::Native),
        };
        if plain && !self.harmless_on_host {
            return Verdict::Skipped("it would harm a host without a sandbox".to_owned());
        }
        if plain && rustix::process::geteuid().is_root() {
            return Verdict::Skipped("as root it would harm a host without a sandbox".to_owned());
        }
        if self.is_about_the_prompt() && prompt.is_none() {
            return Verdict::Skipped("what the prompt becomes is not known here".to_owned());
        }
        let scene = match Scene::set(binary.clone()) {
            Ok(scene) => scene,
            Err(error) => return Verdict::Skipped(format!("its scene could not be set: {error}")),
        };
        let verdict = self.attack_on(scene, (plain, backend), prompt);
        verdict.unwrap_or_else(Verdict::Skipped)
    }

    fn is_about_the_prompt(&self) -> bool {
        self.note.contains("checks the prompt")
    }

    /// The error is why it could not be tried.
    fn attack_on(
        &self,
        mut scene: Scene,
        (plain, backend): (bool, Backend),
        prompt: Option<Prompt<'_>>,
    ) -> Result<Verdict, String> {
        let setup = scene.fill(&self.setup)?;
        if !setup.is_empty() {
            scene.prepare(&setup)?;
        }
        let opening = |given: &Value| -> Result<Option<Opening>, String> {
            let filled = service::filled(given, &|text| scene.fill(text))?;
            (!filled.is_null()).then(|| Opening::read(&filled)).transpose()
        };
        let job = Job {
            egress: opening(&self.egress)?,
            other_egress: opening(&self.other_egress)?,
            workspace: scene.workspace.clone(),
            other_workspace: scene.other_workspace.clone(),
            canary: scene::CANARY.to_owned(),
            steps: self.steps.iter().map(|step| step.filled(&scene)).collect::<Result<_, String>>()?,
            afterwards: self.afterwards(),
            checkpoints: self.note.contains("checkpoint before").then(|| scene.checkpoints()),
            plain,
            backend,
        };
        let before = scene.host_files();
        if self.note.contains("kills the launcher") {
            return Ok(scene.kill_service_in(&job));
        }
        let patience = Duration::from_secs(self.timeout_s * self.steps.len() as u64) + PATIENCE;
        let reply = match scene.ask(&job, Instant::now() + patience) {
            Ok(reply) => reply,
            Err(why) => return Ok(Verdict::Leaked(why)),
        };
        if let Some(why) = &reply.unknown {
            return Err(why.clone());
        }
        let grown = || {
            let grown = scene.growth().filter(|grown| *grown > GROWTH_BYTES && !plain)?;
            Some(format!("the service grew by {}", size(grown)))
        };
        let in_prompt = || {
            let look = prompt.filter(|_| self.is_about_the_prompt() && !plain)?;
            reply.texts.iter().find_map(|text| look(text))
        };
        let leak = self.check.leak(&reply, &scene)?;
        let leak = leak.or_else(|| scene.changed(&before)).or_else(grown).or_else(in_prompt);
        Ok(leak.map_or(Verdict::Held, Verdict::Leaked))
    }

    /// What is called when the attack is over, so that what it planted is met.
    fn afterwards(&self) -> Afterwards {
        match self.class.as_str() {
            "resource" | "output" | "timeout" | "destructive" | "crash" | "process" => Afterwards::Life,
            _ => Afterwards::Everything,
        }
    }
}

impl Check {
    fn read(given: &Value) -> Result<Check, String> {
        let fields = match given {
            Value::Null => return Ok(Check::default()),
            Value::Object(fields) => fields,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err("its check is no object".to_owned());
            }
        };
        let words = |name: &str, value: &Value| -> Result<Vec<String>, String> {
            let words = match value {
                Value::String(word) => Some(vec![word.clone()]),
                Value::Array(words) => words.iter().map(|word| word.as_str().map(str::to_owned)).collect(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
            };
            words.ok_or_else(|| format!("its check {name:?} is no list of texts"))
        };
        let mut check = Check::default();
        for (name, value) in fields {
            let wrong = || format!("its check {name:?} is of the wrong type");
            match name.as_str() {
                "stdout_lacks" => check.lacks = words(name, value)?,
                "stdout_has" => check.has = words(name, value)?,
                "host" => check.host = Some(value.as_str().ok_or_else(wrong)?.to_owned()),
                "max_wall_s" => check.wall_s = Some(value.as_f64().ok_or_else(wrong)?),
                "max_out_bytes" => check.out_bytes = Some(value.as_u64().ok_or_else(wrong)?),
                "ok" => check.ok = Some(value.as_bool().ok_or_else(wrong)?),
                _ => return Err(format!("its check {name:?} is not known here")),
            }
        }
        Ok(check)
    }

    /// What does not hold, in words.
    fn leak(&self, reply: &Reply, scene: &Scene) -> Result<Option<String>, String> {
        let all = |words: &[String]| words.iter().map(|word| scene.fill(word)).collect::<Result<Vec<_>, _>>();
        let said = |word: &str| reply.texts.iter().chain(&reply.after).any(|text| text.contains(word));
        let first = reply.texts.first().map_or("", String::as_str);
        if let Some(broken) = &reply.broken {
            return Ok(Some(broken.clone()));
        }
        if let Some(word) = all(&self.lacks)?.iter().find(|word| said(word)) {
            return Ok(Some(format!("a result holds {word:?}")));
        }
        if said(scene::CANARY) {
            return Ok(Some("a result holds the secret".to_owned()));
        }
        if let Some(word) = all(&self.has)?.iter().find(|word| !first.contains(word.as_str())) {
            let begins: String = first.chars().take(200).collect();
            return Ok(Some(format!("the result lacks {word:?}: {begins}")));
        }
        if let Some(max) = self.out_bytes.filter(|max| first.len() as u64 > *max) {
            return Ok(Some(format!("the result has {} bytes, more than {max}", first.len())));
        }
        if let Some(max) = self.wall_s.filter(|max| reply.wall_s > *max) {
            return Ok(Some(format!("it took {:.1} s, more than {max} s", reply.wall_s)));
        }
        if let Some(ok) = self.ok.filter(|ok| *ok != reply.ok) {
            let what = if ok { "refused" } else { "done" };
            return Ok(Some(format!("it was {what}: {}", first.chars().take(200).collect::<String>())));
        }
        match &self.host {
            Some(line) => {
                let line = scene.fill(line)?;
                Ok((!scene.host(&line)?).then(|| format!("on the host, this does not hold: {line}")))
            }
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(line: &str) -> String {
        let cases = read(line);
        assert_eq!(cases.len(), 1);
        match cases[0].attack(&Ground::Sandbox(None, Backend::Native), None) {
            Verdict::Skipped(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_known_is_skipped_and_never_held() {
        // A runner that counts as held what it did not try makes every sandbox look whole.
        for (line, why) in [
            ("{", "the line is no JSON"),
            ("[1]", "no JSON object"),
            (r#"{"id": "a", "tool": "teleport", "args": {}}"#, "\"teleport\""),
            (r#"{"id": "a", "tool": "exec", "command": "true", "check": {"kernel": 1}}"#, "\"kernel\""),
            (r#"{"id": "a", "tool": "exec", "command": "true", "check": {"max_wall_s": "x"}}"#, "wrong type"),
            (r#"{"id": "a", "tool": "exec", "command": "true", "check": [1]}"#, "no object"),
            (
                r#"{"id": "a", "tool": "exec", "command": "true", "note": "harness checks the prompt"}"#,
                "the prompt",
            ),
            (r#"{"id": "a", "tool": "git", "args": {"op": "teleport"}}"#, "\"teleport\""),
        ] {
            let said = skipped(line);
            assert!(said.contains(why), "{line}: {said}");
        }
        assert!(read("\n\n").is_empty());
        assert_eq!(read("{\n")[0].id, "line 1");
    }

    #[test]
    fn nothing_runs_on_a_bare_host_that_is_not_said_to_be_harmless() {
        // The proof of the runner must not be the end of the host.
        for plain in [r#", "plain": "skip""#, r#", "plain": "RUN""#, ""] {
            let line = format!(r#"{{"id": "a", "tool": "exec", "command": "touch /saga-was-here"{plain}}}"#);
            let verdict = read(&line)[0].attack(&Ground::Plain(None), None);
            assert!(matches!(verdict, Verdict::Skipped(why) if why.contains("harm")));
        }
    }
}
