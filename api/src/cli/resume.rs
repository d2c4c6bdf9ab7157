//! `saga resume`: show where a session stood, and go on.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use agent::Event;

use super::follow::{Followed, Follower, summary, usage_line};
use super::reach::{Reached, Server};
use super::run::exit_code;
use super::until::Until;
use crate::config::Overrides;
use crate::diff::Snapshot;
use crate::failure::Failure;
use crate::goals::Goal;
use crate::term::{Ink, Screen, To, clean, say};
use crate::wire;

const EXAMPLES: &str = "\
Examples:
  saga resume s-1m5k3f8q2z0ab                     watch it, or type what comes next
  saga resume s-1m5k3f8q2z0ab \"now write the changelog\"";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The session, as `saga sessions list` shows it.
    id: String,
    /// What to say to it.
    text: Option<String>,
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
    let (folders, mut config) = super::settings()?;
    args.overrides.apply(&mut config)?;
    let screen = Screen::new(if args.json { To::Stderr } else { To::Stdout });
    let running = args.server.running(&folders).await?;
    let mut roots = config.workspace_roots.clone();
    if running.is_none() {
        // The session's own model and folder are what its service needs, whatever the settings say by now.
        let created = super::sessions::stored(&folders, &args.id).await?;
        config.model = created.model;
        roots.push(created.workspace.into());
    }
    let reached = args.server.reach(&config, &folders, roots, &screen).await?;
    let goal = args.until.goal();
    let done =
        match (&goal, &args.text) {
            (Some(_), None) => Err(Failure::new("a goal comes with something to say")
                .next("saga resume ID --until COMMAND \"…\"")),
            _ => go_on(&reached, &args.id, (args.text, goal), args.json, &screen).await,
        };
    reached.leave().await;
    done
}

async fn go_on(
    reached: &Reached,
    id: &str,
    (mut text, mut goal): (Option<String>, Option<Goal>),
    json: bool,
    screen: &Screen,
) -> Result<u8, Failure> {
    let client = &reached.client;
    let mut session = client.session(id).await?;
    let mut follower = Follower::new(client, id, screen, json, reached.is_inside())?;
    if !json {
        where_it_stood(&follower, &session).await?;
    }
    let mut code = 0;
    loop {
        let running = matches!(session.status, wire::Status::Running | wire::Status::Asking);
        let words = match text.take() {
            Some(words) => words,
            None if running => String::new(),
            None if screen.live() && !json => match ask(screen).await? {
                Some(words) => words,
                None => return Ok(code),
            },
            None => {
                if !json {
                    screen.line("it rests; say something to go on: saga resume ID \"…\"");
                }
                return Ok(code);
            }
        };
        let workspace = Path::new(&session.workspace);
        let before = workspace.is_dir().then(|| Snapshot::take(workspace));
        let started = Instant::now();
        let (from, until) = if words.trim().is_empty() {
            (session.last, session.last)
        } else {
            let asked = follower.say(&words, goal.take()).await?;
            (if running { session.last } else { asked - 1 }, asked)
        };
        let followed = follower.follow(from, until).await?;
        let now = client.session(id).await?;
        let changes = before.map(|before| before.changes());
        if json {
            let end = match &followed {
                Followed::Ended(end) => Some(end),
                Followed::Asks | Followed::Left => None,
            };
            say(&summary(&now, end, changes.as_ref().map(|c| c.text.as_str()), started.elapsed()).to_string());
        } else {
            screen.line("");
            if let Some(changes) = &changes {
                changes.show(screen);
            }
            screen.line(&screen.ink(Ink::Dim, &usage_line(&session, &now, started.elapsed())));
        }
        code = exit_code(&followed);
        match followed {
            Followed::Left => {
                follower.say_left();
                return Ok(code);
            }
            Followed::Asks => {
                follower.say_asks();
                return Ok(code);
            }
            Followed::Ended(_) => {}
        }
        session = now;
        if !screen.live() || json {
            return Ok(code);
        }
    }
}

/// Shows the last thing that was said, by either side.
async fn where_it_stood(follower: &Follower<'_>, session: &wire::Session) -> Result<(), Failure> {
    let screen = follower.screen;
    let about = format!("session {} · {} · {}", session.id, session.model, session.workspace);
    screen.line(&screen.ink(Ink::Dim, &about));
    let (mut asked, mut replied) = (None, None);
    let mut after = 0;
    loop {
        let page = follower.client.events(follower.id, after).await?;
        for recorded in page.events {
            match recorded.event {
                Event::Input { text, .. } => (asked, replied) = (Some(text), None),
                Event::Reply { text, .. } if !text.trim().is_empty() => replied = Some(text),
                _ => {}
            }
        }
        match page.next_after {
            Some(next) => after = next,
            None => break,
        }
    }
    if let Some(asked) = asked {
        screen.line(&format!(
            "{} {}",
            screen.ink(Ink::Accent, "›"),
            screen.ink(Ink::Bold, clean(&asked).trim())
        ));
    }
    if let Some(replied) = replied {
        screen.line(clean(&replied).trim());
    }
    let state = match (session.status, &session.error, &session.ended) {
        (wire::Status::Running, ..) => format!("running, step {}", session.steps),
        (wire::Status::Asking, ..) => "it asks for your approval".to_string(),
        (wire::Status::Failed, Some(error), _) => format!("failed: {error}"),
        (_, _, Some(end)) => {
            format!("rests after {} steps ({})", session.steps, super::sessions::end_word(end))
        }
        _ => "has not been asked anything".to_string(),
    };
    screen.line(&screen.ink(Ink::Dim, &clean(&state)));
    Ok(())
}

/// What the person types; nothing at the end of input or for an empty line.
async fn ask(screen: &Screen) -> Result<Option<String>, Failure> {
    screen.text(&screen.ink(Ink::Accent, "› "));
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdout().flush().and_then(|()| std::io::stdin().read_line(&mut line)).map(|_| line)
    });
    let line = tokio::select! {
        line = read => line.map_err(|error| Failure::new(format!("the keyboard cannot be read: {error}")))?,
        _ = tokio::signal::ctrl_c() => Ok(String::new()),
    };
    let line = line.map_err(|error| Failure::new(format!("the keyboard cannot be read: {error}")))?;
    // The person ended the line, or left it.
    if line.is_empty() {
        screen.end_text();
    }
    Ok(Some(line.trim().to_string()).filter(|line| !line.is_empty()))
}
