//! `saga sandbox`: run a command as the tools of a session would, and try attacks on it.

use std::path::PathBuf;
use std::time::Duration;

use agent::dialect::{Dialect, Piece, Transcript};
use serde_json::json;
use tools::attack::{self, Ground, Verdict};
use tools::{Backend, Command, Ended, Sandbox};

use crate::failure::{EXIT_NO, Failure};
use crate::host;
use crate::term::{To, clean, say, write_to};

#[derive(clap::Subcommand)]
pub(crate) enum Args {
    /// Run one command in a sandbox: it sees the workspace and read-only system folders, and no network but what the settings
    /// open.
    #[command(after_help = "\
Examples:
  saga sandbox run --workspace . -- cargo test --offline
  saga sandbox run --workspace /tmp/x -- sh -c 'id; ls /'

The exit code is the command's own; 124 when its time was up, 125 when the sandbox could not be opened, 127 when the \
command could not be started, 128 + N when signal N ended it.")]
    Run(Run),
    /// Try a file of attacks on the tools, and say of each whether it was held.
    #[command(after_help = "\
Examples:
  saga sandbox attack cases.jsonl                     as the user you are
  saga sandbox attack cases.jsonl --as-user nobody    as root: once more as an ordinary user
  saga sandbox attack cases.jsonl --backend runsc     with each command in gVisor
  saga sandbox attack cases.jsonl --plain             without a sandbox: the harmless ones must leak, or they tell nothing

Exit code 0: none leaked; 3: some did.")]
    Attack(Attack),
}

#[derive(clap::Args)]
pub(crate) struct Attack {
    /// The cases, one JSON object a line.
    #[arg(value_name = "FILE.jsonl")]
    file: PathBuf,
    /// Only these cases (repeatable).
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// Become this user first; only root can.
    #[arg(long, value_name = "NAME")]
    as_user: Option<String>,
    /// What runs the commands of the sandbox; native when left out.
    #[arg(long, value_name = "BACKEND", conflicts_with = "plain")]
    backend: Option<BackendName>,
    /// Without any sandbox, on this host. Cases that would harm it are skipped; root becomes `nobody` for it.
    #[arg(long)]
    plain: bool,
    /// Print one JSON object a case, and at the end one with the counts.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct Run {
    /// The folder the command may write.
    #[arg(long, value_name = "DIR")]
    workspace: PathBuf,
    /// A sandbox layer that may be missing (repeatable); `saga doctor` names them.
    #[arg(long, env = "SAGA_LOWERED", value_name = "LAYER", value_delimiter = ',')]
    lowered: Vec<String>,
    /// What runs it, in place of what the settings say.
    #[arg(long, value_name = "BACKEND")]
    backend: Option<BackendName>,
    /// Seconds the command may take.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    timeout_secs: Option<u64>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// A backend, as it is called in a command line.
#[derive(Clone, Copy, clap::ValueEnum)]
enum BackendName {
    Native,
    Runsc,
}

impl BackendName {
    fn text(self) -> &'static str {
        match self {
            BackendName::Native => "native",
            BackendName::Runsc => "runsc",
        }
    }
}

impl From<BackendName> for Backend {
    fn from(name: BackendName) -> Backend {
        match name {
            BackendName::Native => Backend::Native,
            BackendName::Runsc => Backend::Runsc,
        }
    }
}

/// The exit codes of `timeout` and `env`, which scripts know.
const TIMED_OUT: u8 = 124;
const NO_SANDBOX: u8 = 125;
const NOT_STARTED: u8 = 127;
/// What shells add to the number of the signal that ended a command.
const SIGNAL_BASE: i32 = 128;

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    match args {
        Args::Run(args) => run_one(args).await,
        // It waits for processes all the time and needs no other thread meanwhile.
        Args::Attack(args) => tokio::task::spawn_blocking(move || attack(args))
            .await
            .map_err(|error| Failure::new(format!("the attacks broke off: {error}")))?,
    }
}

/// Whom root becomes to try attacks on a bare host: root could really do what they try.
const NOBODY: &str = "nobody";

fn attack(args: Attack) -> Result<u8, Failure> {
    let is_root = rustix::process::geteuid().is_root();
    let user = args.as_user.as_deref().or_else(|| (args.plain && is_root).then_some(NOBODY));
    if let Some(user) = user {
        let mut after: Vec<&str> = args.only.iter().flat_map(|id| ["--only", id.as_str()]).collect();
        after.extend(args.plain.then_some("--plain"));
        after.extend(args.json.then_some("--json"));
        if let Some(backend) = args.backend {
            after.extend(["--backend", backend.text()]);
        }
        return attack::as_user(user, &["sandbox", "attack"], &args.file, &after).map_err(|why| {
            Failure::new(why).next("run it as root, with the name of a user of this machine")
        });
    }
    let text = std::fs::read_to_string(&args.file).map_err(|error| {
        Failure::new(format!("cannot read {}: {error}", args.file.display())).next("name a file of cases")
    })?;
    let backend = args.backend.map_or(Backend::Native, Backend::from);
    let ground = if args.plain { Ground::Plain(None) } else { Ground::Sandbox(None, backend) };
    let [mut held, mut leaked, mut skipped] = [0_u64; 3];
    for case in attack::read(&text).iter().filter(|case| args.only.is_empty() || args.only.contains(&case.id))
    {
        let verdict = case.attack(&ground, Some(&in_prompt));
        let (word, why) = match &verdict {
            Verdict::Held => ("held", None),
            Verdict::Leaked(why) => ("leaked", Some(why)),
            Verdict::Skipped(why) => ("skipped", Some(why)),
        };
        match verdict {
            Verdict::Held => held += 1,
            Verdict::Leaked(_) => leaked += 1,
            Verdict::Skipped(_) => skipped += 1,
        }
        if args.json {
            say(&json!({"id": case.id, "verdict": word, "why": why}).to_string());
        } else {
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            say(&clean(&format!("{word:8} {}{why}", case.id)));
        }
    }
    if args.json {
        say(&json!({"held": held, "leaked": leaked, "skipped": skipped, "plain": args.plain}).to_string());
    } else {
        say(&format!("{held} held, {leaked} leaked, {skipped} skipped"));
    }
    Ok(if leaked > 0 && !args.plain { EXIT_NO } else { 0 })
}

/// What a tool's result could do in a prompt, in any of the chat formats: where it has special tokens, it must have the same
/// ones that any other result has.
fn in_prompt(result: &str) -> Option<String> {
    let specials = |dialect: Dialect, result: &str| -> Option<Vec<&'static str>> {
        let call = json!({"id": "1", "type": "function", "function": {"name": "exec", "arguments": "{}"}});
        let messages = json!({"messages": [
            {"role": "user", "content": "Look."},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": result},
        ]});
        let pieces = dialect.write(&Transcript::read(&messages).ok()?).ok()?;
        let specials = pieces.into_iter().filter_map(|piece| match piece {
            Piece::Special(name) => Some(name),
            Piece::Text(_) | Piece::Sampled(_) => None,
        });
        Some(specials.collect())
    };
    if Dialect::ALL.into_iter().all(|dialect| specials(dialect, "plain").is_none()) {
        return Some("no chat format can write the conversation it is looked for in".to_string());
    }
    Dialect::ALL.into_iter().find_map(|dialect| {
        let plain = specials(dialect, "plain")?;
        let same = specials(dialect, result).is_some_and(|found| found == plain);
        (!same).then(|| format!("in the format {} a result adds special tokens", dialect.name()))
    })
}

async fn run_one(args: Run) -> Result<u8, Failure> {
    let (_, config) = super::settings()?;
    let workspace = args.workspace.canonicalize().map_err(|error| {
        Failure::new(format!("the workspace {} cannot be used: {error}", args.workspace.display()))
            .next("name an existing folder")
            .exit(NO_SANDBOX)
    })?;
    let mut policy = config.sandbox.policy(workspace);
    policy.egress = config.sandbox.egress.open().map_err(|why| Failure::new(why).exit(NO_SANDBOX))?;
    if let Some(backend) = args.backend {
        policy.backend = backend.into();
    }
    if !args.lowered.is_empty() {
        policy.lowered = args.lowered;
    }
    let sandbox = Sandbox::open(policy).await.map_err(|error| Failure::from(error).exit(NO_SANDBOX))?;
    for layer in sandbox.missing() {
        write_to(To::Stderr, &format!("warning: the layer {} does not hold: {}\n", layer.name, layer.detail));
    }
    let mut command = Command::new(args.command.clone());
    command.timeout = args.timeout_secs.map(Duration::from_secs);
    let show = |text: &str| write_to(To::Stdout, &clean(text));
    let ran =
        sandbox.run_streaming(command, &show).await.map_err(|error| Failure::from(error).exit(NO_SANDBOX))?;
    let say = |line: String| write_to(To::Stderr, &format!("saga: {line}\n"));
    if ran.leftovers {
        say("processes that the command had left behind were ended".to_string());
    }
    Ok(match ran.ended {
        Ended::Exited(code) => u8::try_from(code).unwrap_or(1),
        Ended::Signalled(signal) => {
            say(format!("the command was ended by signal {signal}"));
            u8::try_from(SIGNAL_BASE + signal).unwrap_or(1)
        }
        Ended::TimedOut(after) => {
            say(format!("the command was stopped after {}", host::seconds(after.as_secs_f64())));
            TIMED_OUT
        }
        Ended::Flooded => {
            say(format!("the command was stopped: it printed {}", host::bytes(ran.bytes_total)));
            1
        }
        Ended::OutOfMemory => {
            say("the command was stopped: its memory was used up".to_string());
            1
        }
        Ended::WorkspaceFull => {
            say("the command was stopped: the workspace has grown by more than it may".to_string());
            1
        }
        Ended::NotStarted(why) => {
            return Err(
                Failure::new(format!("{} could not be started: {why}", args.command[0])).exit(NOT_STARTED)
            );
        }
    })
}
