//! `saga run`: give a task to a new session and watch it work.

use std::path::{Path, PathBuf};
use std::time::Instant;

use agent::End;

use super::follow::{Followed, Follower, summary, usage_line};
use super::reach::{Reached, Server};
use super::until::Until;
use crate::config::Overrides;
use crate::diff::Snapshot;
use crate::failure::{EXIT_INTERRUPTED, EXIT_NO, Failure};
use crate::term::{Ink, Screen, To, say};
use crate::wire;

const EXAMPLES: &str = "\
Examples:
  saga run \"the tests fail, find the bug and fix it\"
  saga run --repo ~/src/project --model ~/models/coder.gguf \"add a --quiet flag\"
  saga run --until \"cargo test\" \"make the tests pass\"   the turn ends when they do
  git log -1 -p | saga run -                          the task from standard input
  saga run --json \"…\" | jq -r 'select(.type==\"reply\").text'

Ctrl-C interrupts the turn; a second one leaves. `saga resume ID` goes on.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What is to be done; `-` reads it from standard input.
    task: String,
    /// The folder to work in; the current one when left out.
    #[arg(long, short = 'C', value_name = "DIR")]
    repo: Option<PathBuf>,
    /// What the session is told beyond its system prompt.
    #[arg(long, value_name = "TEXT")]
    instructions: Option<String>,
    /// Most steps in a turn.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps_max: Option<u32>,
    /// A call that may run without asking: TOOL, exec:COMMAND, fetch:HOST or TOOL:PATH (repeatable).
    #[arg(long, value_name = "WHAT", value_parser = allow)]
    allow: Vec<tools::rules::Rule>,
    /// A call that you are asked about first, such as "exec:git push *" (repeatable).
    #[arg(long, value_name = "WHAT", value_parser = ask)]
    ask: Vec<tools::rules::Rule>,
    /// A call that does not run, such as "edit:migrations/**" (repeatable).
    #[arg(long, value_name = "WHAT", value_parser = deny)]
    deny: Vec<tools::rules::Rule>,
    /// Recall nothing of earlier work, and write down nothing of this.
    #[arg(long)]
    no_memory: bool,
    #[command(flatten)]
    until: Until,
    /// Print one JSON object per event, and a summary as the last line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    overrides: Overrides,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let task = if args.task == "-" { read_stdin()? } else { args.task };
    if task.trim().is_empty() {
        return Err(Failure::new("the task is empty")
            .next("say what is to be done: saga run \"the tests fail, fix them\""));
    }
    let repo = folder(args.repo)?;
    let (folders, mut config) = super::settings()?;
    args.overrides.apply(&mut config)?;
    let screen = Screen::new(if args.json { To::Stderr } else { To::Stdout });
    let reached = args.server.reach(&config, &folders, vec![repo.clone()], &screen).await?;
    let budget =
        args.steps_max.map(|steps| wire::Budget { steps_max: Some(steps), ..wire::Budget::default() });
    let new = wire::NewSession {
        workspace: repo.clone(),
        model: args.overrides.model()?,
        instructions: args.instructions,
        id: None,
        budget,
        memory: args.no_memory.then_some(false),
        rules: args.allow.into_iter().chain(args.ask).chain(args.deny).map(wire::Rule::from).collect(),
        until: args.until.goal(),
    };
    let done = work(&reached, &new, &task, args.json, &screen).await;
    reached.leave().await;
    done
}

async fn work(
    reached: &Reached,
    new: &wire::NewSession,
    task: &str,
    json: bool,
    screen: &Screen,
) -> Result<u8, Failure> {
    let session = reached.create(new, screen).await?;
    watch(reached, &session, task, json, screen).await
}

/// Says a task to a session that rests, and shows the work until it rests again.
pub(super) async fn watch(
    reached: &Reached,
    session: &wire::Session,
    task: &str,
    json: bool,
    screen: &Screen,
) -> Result<u8, Failure> {
    let client = &reached.client;
    let before = Snapshot::take(Path::new(&session.workspace));
    if !json {
        let about = format!("session {} · {} · {}", session.id, session.model, session.workspace);
        screen.line(&screen.ink(Ink::Dim, &about));
    }
    let mut follower = Follower::new(client, &session.id, screen, json, reached.is_inside())?;
    let started = Instant::now();
    let asked = follower.say(task, None).await?;
    let followed = follower.follow(asked - 1, asked).await?;
    let now = client.session(&session.id).await?;
    let changes = before.changes();
    let end = match &followed {
        Followed::Ended(end) => Some(end),
        Followed::Asks | Followed::Left => None,
    };
    if json {
        say(&summary(&now, end, Some(&changes.text), started.elapsed()).to_string());
    } else {
        screen.line("");
        changes.show(screen);
        let usage = usage_line(session, &now, started.elapsed());
        screen.line(&screen.ink(Ink::Dim, &format!("{} · {usage}", changes.summary())));
        match &followed {
            Followed::Left => follower.say_left(),
            Followed::Asks => follower.say_asks(),
            Followed::Ended(_) => screen.line(&screen.ink(Ink::Dim, &follower.how_to_go_on())),
        }
    }
    Ok(exit_code(&followed))
}

/// The exit code that tells a script how the turn ended.
pub(crate) fn exit_code(followed: &Followed) -> u8 {
    match followed {
        Followed::Ended(End::Done) => 0,
        Followed::Ended(End::Interrupted) | Followed::Left => EXIT_INTERRUPTED,
        Followed::Asks
        | Followed::Ended(
            End::Budget { .. } | End::GoalUnmet { .. } | End::ContextFull { .. } | End::Failed { .. },
        ) => EXIT_NO,
    }
}

fn allow(text: &str) -> Result<tools::rules::Rule, String> {
    tools::rules::short(tools::rules::Effect::Allow, text)
}

fn ask(text: &str) -> Result<tools::rules::Rule, String> {
    tools::rules::short(tools::rules::Effect::Ask, text)
}

fn deny(text: &str) -> Result<tools::rules::Rule, String> {
    tools::rules::short(tools::rules::Effect::Deny, text)
}

/// The folder to work in, with every link followed.
pub(super) fn folder(asked: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let asked = match asked {
        Some(folder) => folder,
        None => std::env::current_dir().map_err(|error| {
            Failure::new(format!("the current folder cannot be used: {error}")).next("name one with --repo")
        })?,
    };
    let cannot = |why: &str| {
        Failure::new(format!("cannot work in {}: {why}", asked.display()))
            .next("name an existing folder with --repo")
    };
    let real = asked.canonicalize().map_err(|error| cannot(&error.to_string()))?;
    if !real.is_dir() {
        return Err(cannot("it is not a folder"));
    }
    if real.parent().is_none() {
        return Err(cannot("it is the root of the file system"));
    }
    Ok(real)
}

/// The longest task that is read; the service takes no longer inputs either.
const TASK_BYTES_MAX: u64 = 256 * 1024;

fn read_stdin() -> Result<String, Failure> {
    use std::io::Read;
    let mut text = String::new();
    std::io::stdin()
        .take(TASK_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::new(format!("the task cannot be read from standard input: {error}")))?;
    if text.len() as u64 > TASK_BYTES_MAX {
        return Err(Failure::new("the task is longer than 256 KiB")
            .next("put long material into a file of the folder"));
    }
    Ok(text)
}
