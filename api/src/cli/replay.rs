//! `saga replay`: go through a session's journal again, with what was sampled and what came of calls as they were written, and see that every
//! prompt is the one that was shown then; or go on differently from a place of it.

use std::path::PathBuf;

use agent::dialect::{Dialect, tokens_of};
use agent::{Created, Event, Message, Model, Replayed, replay};
use engine::{Token, Tokenizer};
use serde_json::json;
use tools::Call;

use super::reach::Server;
use super::render::tokenizer;
use super::run::watch;
use super::sessions::{FILES_SHOWN, Source, files_in_words, reach};
use crate::failure::{EXIT_NO, Failure};
use crate::host::count;
use crate::term::{Screen, To, one_line, say};
use crate::wire;

const EXAMPLES: &str = "\
Without --from nothing is thought and nothing is run: the journal is gone through again.

  saga replay ID                                          every prompt is as it was, or the line says where it is not
  saga replay ID --from 12 --dry-run                      what a session that goes on from event 12 would have
  saga replay ID --from 12 --with \"use a lock instead\"    makes that session, says this to it and shows the work
  saga replay ID --from 12 --with \"…\" --into ../other     the same, in another folder with the files of then

Exit code 0: every prompt is as it was; 3: one is not. With --with they are those of `saga run`.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES, group(clap::ArgGroup::new("ways").multiple(true)))]
pub(crate) struct Args {
    /// The session, as `saga sessions list` shows it.
    id: String,
    /// Go on differently from this event, as `saga sessions show` lists them: what comes after it, the new session does not know of. This
    /// one stays as it is.
    #[arg(long, value_name = "SEQ", requires = "ways")]
    from: Option<u64>,
    /// What is said to the new session.
    #[arg(long, value_name = "TEXT", requires = "from", group = "ways")]
    with: Option<String>,
    /// Show what would be kept and dropped, and do nothing.
    #[arg(long, requires = "from", group = "ways")]
    dry_run: bool,
    /// A folder that is empty or not there: the new session works there, on the files as they were. When left out, it works in the same
    /// folder, whose files stay as they are now.
    #[arg(long, value_name = "DIR", requires = "with")]
    into: Option<PathBuf>,
    /// Print one JSON object per step, and the sums as the last line; with --from, what `saga run --json` prints.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    match (args.from, &args.with) {
        (Some(from), _) if args.dry_run => look(&args, from).await,
        (Some(from), Some(with)) => go_on(&args, from, with).await,
        _ => again(&args).await,
    }
}

/// Shows what a session that goes on from there would have.
async fn look(args: &Args, from: u64) -> Result<u8, Failure> {
    let reached = reach(&args.id, &args.server, None).await?;
    let looked = reached.client.look_at_fork(&args.id, Some(from)).await;
    reached.leave().await;
    let forking = looked?;
    if args.json {
        say(&serde_json::to_string(&forking).expect("a preview has only string keys"));
    } else {
        say(&in_words(&forking));
    }
    Ok(0)
}

fn in_words(forking: &wire::Forking) -> String {
    let plural = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let part = |what: &str, part: &wire::ForkPart| {
        let head = format!(
            "{what}: {}, {}, {}",
            plural(part.events, "event", "events"),
            plural(part.replies, "reply", "replies"),
            plural(part.calls, "call", "calls")
        );
        let said = part.inputs.iter().map(|input| format!("  › {}", one_line(input, 100)));
        std::iter::once(head).chain(said).collect::<Vec<_>>().join("\n")
    };
    let files = match &forking.files {
        None => "files: no checkpoints tell what became of them".to_string(),
        Some(files) if files.is_empty() => "files: none has changed since".to_string(),
        Some(files) => format!("files that changed since:\n{}", files_in_words(files, FILES_SHOWN)),
    };
    let (kept, dropped) = (part("kept", &forking.kept), part("dropped", &forking.dropped));
    format!("from event {}\n{kept}\n{dropped}\n{files}", forking.at)
}

/// Makes a session that goes on from there, and says something else to it.
async fn go_on(args: &Args, from: u64, with: &str) -> Result<u8, Failure> {
    if with.trim().is_empty() {
        return Err(Failure::new("the other instruction is empty").next("say it after --with"));
    }
    let workspace = args.into.as_ref().map(std::path::absolute).transpose().map_err(|error| {
        Failure::new(format!("that folder cannot be named: {error}")).next("give its whole path")
    })?;
    let screen = Screen::new(if args.json { To::Stderr } else { To::Stdout });
    let reached = reach(&args.id, &args.server, workspace.as_deref()).await?;
    let fork = wire::NewFork { at: Some(from), workspace };
    let done = match reached.client.fork(&args.id, &fork).await {
        Ok(session) => watch(&reached, &session, with, args.json, &screen).await,
        Err(refusal) => Err(refusal.into()),
    };
    reached.leave().await;
    done
}

/// Goes through the journal again.
async fn again(args: &Args) -> Result<u8, Failure> {
    let (folders, _) = super::settings()?;
    let events = Source::open(&args.server, &folders).await?.events(&args.id).await?;
    let created = events.iter().find_map(|recorded| match &recorded.event {
        Event::Created(created) => Some::<&Created>(created),
        _ => None,
    });
    let created = created.ok_or_else(|| {
        Failure::new(format!("there is no session {}", args.id))
            .next("`saga sessions list` shows those there are")
    })?;
    // A server somewhere else makes its own prompts of the messages; there is nothing to count here.
    let words = match Dialect::named(&created.dialect) {
        Some(dialect) => Some((dialect, tokenizer(&created.model).await?)),
        None => None,
    };
    let counted = words.is_some();
    let replayed = replay(&events, &Words(words))?;
    let differing = replayed.differing().count();
    if args.json {
        show_json(&replayed, differing);
    } else {
        for step in replayed.differing() {
            let trouble = step.trouble.as_deref().unwrap_or_default();
            say(&format!("step {} (event {}): {trouble}", step.step, step.seq));
        }
        let how = match (counted, differing) {
            (false, _) => "its prompts were made elsewhere, so only the events were gone through".to_string(),
            (true, 0) => {
                format!("every prompt is as it was, {} tokens in all", count(replayed.prompt_tokens()))
            }
            (true, n) => format!(
                "{n} of them not as they were; the journal was changed, or the model or its tokenizer is another one"
            ),
        };
        say(&format!("{} events, {} steps: {how}", replayed.events, replayed.steps.len()));
    }
    Ok(if differing == 0 { 0 } else { EXIT_NO })
}

fn show_json(replayed: &Replayed, differing: usize) {
    for step in &replayed.steps {
        say(&json!({
            "step": step.step,
            "seq": step.seq,
            "prompt_tokens": step.prompt_tokens,
            "counted": step.counted,
            "same": step.trouble.is_none(),
            "trouble": step.trouble,
        })
        .to_string());
    }
    say(&json!({
        "events": replayed.events,
        "steps": replayed.steps.len(),
        "differing": differing,
        "prompt_tokens": replayed.prompt_tokens(),
        "conversation": replayed.conversation,
    })
    .to_string());
}

/// A model's chat format and vocabulary, where its prompts were made here.
struct Words(Option<(Dialect, Tokenizer)>);

impl Model for Words {
    type Error = engine::Error;

    fn prompt_tokens(&self, conversation: &[Message]) -> Result<Option<u64>, engine::Error> {
        let Some((dialect, tokenizer)) = &self.0 else { return Ok(None) };
        Ok(Some(tokens_of(&dialect.render(conversation), tokenizer)?.len() as u64))
    }

    fn read(&self, created: &Created, tokens: &[Token], whole: bool) -> Option<(String, Vec<Call>)> {
        let (dialect, tokenizer) = self.0.as_ref()?;
        let parsed = dialect.parse(&tokenizer.decode(tokens), whole, &created.tools);
        Some((parsed.text, parsed.calls))
    }
}
