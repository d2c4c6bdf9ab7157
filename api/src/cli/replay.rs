//! `saga replay`: go through a session's journal again, with what was sampled and what came of calls as they were written, and see that every
//! prompt is the one that was shown then.

use agent::dialect::{Dialect, tokens_of};
use agent::{Created, Event, Recorded, State, digest};
use serde::Serialize;

use super::reach::Server;
use super::render::tokenizer;
use super::sessions::Source;
use crate::failure::{EXIT_NO, Failure};
use crate::host::count;
use crate::term::say;

const EXAMPLES: &str = "\
Nothing is thought and nothing is run. To go on differently from a place of the journal:
  saga sessions fork ID --at SEQ
  saga resume NEW \"other instructions\"

Exit code 0: every prompt is as it was; 3: one is not, and the line says where.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The session, as `saga sessions list` shows it.
    id: String,
    /// Print one JSON object per step, and the sums as the last line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

/// A step that was gone through again.
#[derive(Serialize)]
struct Step {
    step: u32,
    seq: u64,
    /// Tokens of the prompt now; nothing for a session that thought on another machine.
    prompt_tokens: Option<u64>,
    /// Tokens of the prompt as they were counted then.
    counted: u64,
    same: bool,
}

#[derive(Serialize)]
struct Sums {
    events: usize,
    steps: usize,
    differing: usize,
    prompt_tokens: u64,
    /// SHA-256 of what the model would be shown next.
    conversation: String,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
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
    let tokenizer = match Dialect::named(&created.dialect) {
        Some(dialect) => Some((dialect, tokenizer(&created.model).await?)),
        None => None,
    };
    let mut sums =
        Sums { events: events.len(), steps: 0, differing: 0, prompt_tokens: 0, conversation: String::new() };
    let mut state = State::default();
    let mut shown = None;
    for (n, recorded) in events.iter().enumerate() {
        match &recorded.event {
            // What holds from here on is told by all that came before.
            Event::Rewound { .. } => state = State::fold(&events[..=n]),
            _ => state.apply(recorded),
        }
        match &recorded.event {
            Event::StepStarted { .. } => {
                shown = match &tokenizer {
                    Some((dialect, tokenizer)) => {
                        Some(tokens_of(&dialect.render(state.conversation()), tokenizer)?.len() as u64)
                    }
                    None => None,
                };
            }
            Event::Reply { step, usage, .. } => {
                let one = replayed(recorded, *step, shown, usage.prompt_tokens);
                sums.steps += 1;
                sums.differing += usize::from(!one.same);
                sums.prompt_tokens += one.prompt_tokens.unwrap_or_default();
                if args.json {
                    say(&serde_json::to_string(&one).expect("a step has only string keys"));
                } else if !one.same {
                    say(&format!(
                        "step {step} (event {}): the prompt has {} tokens, then it had {}",
                        recorded.seq.0,
                        count(one.prompt_tokens.unwrap_or_default()),
                        count(one.counted)
                    ));
                }
            }
            _ => {}
        }
    }
    let conversation =
        serde_json::to_string(&**state.conversation()).expect("messages have only string keys");
    sums.conversation = digest(&conversation);
    if args.json {
        say(&serde_json::to_string(&sums).expect("sums have only string keys"));
    } else {
        let how = match (tokenizer.is_some(), sums.differing) {
            (false, _) => "its prompts were made elsewhere, so only the events were gone through".to_string(),
            (true, 0) => format!("every prompt is as it was, {} tokens in all", count(sums.prompt_tokens)),
            (true, n) => {
                format!("{n} prompts are not as they were; the model or its tokenizer is another one")
            }
        };
        say(&format!("{} events, {} steps: {how}", sums.events, sums.steps));
    }
    Ok(if sums.differing == 0 { 0 } else { EXIT_NO })
}

fn replayed(recorded: &Recorded, step: u32, shown: Option<u64>, counted: u64) -> Step {
    // A reply that was cut off before its prompt was made counted nothing.
    let same = shown.is_none_or(|shown| shown == counted || counted == 0);
    Step { step, seq: recorded.seq.0, prompt_tokens: shown, counted, same }
}
