//! `saga sessions`: list, show and delete.
//!
//! Without a running service the memory is read directly: starting an agent would take up the work that was under way.

mod history;
mod source;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use agent::{Event, State};

use super::reach::{Reached, Server};
use crate::carrying::{ExportWish, ImportWish};
use crate::failure::Failure;
use crate::show::checked_in_words;
use crate::term::{Screen, To, one_line, say, table};
use crate::wire;

use history::line;
use source::blocking;
#[cfg(test)]
use source::unreadable;
pub(super) use source::{Source, of, stored};

#[derive(clap::Subcommand)]
pub(crate) enum Args {
    /// List the sessions, newest first.
    List {
        /// Print one JSON object per session.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Show a session and what happened in it.
    Show {
        /// The session, as `saga sessions list` shows it.
        id: String,
        /// Print one JSON object per event.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Let the call run that a session asks about.
    Approve {
        /// The session, as `saga sessions list` shows it.
        id: String,
        /// Allow the same command, file or tool for the rest of the session.
        #[arg(long)]
        always: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Do not let the call run that a session asks about. It goes on without.
    Deny {
        /// The session, as `saga sessions list` shows it.
        id: String,
        #[command(flatten)]
        server: Server,
    },
    /// List the places a session can be wound back to.
    Checkpoints {
        /// The session, as `saga sessions list` shows it.
        id: String,
        /// Print one JSON object per place.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Show which files of a session's workspace changed between two places.
    Changes {
        /// The session, as `saga sessions list` shows it.
        id: String,
        /// The one place, as `saga sessions checkpoints` shows it; the first when left out.
        #[arg(long, value_name = "SEQ")]
        from: Option<u64>,
        /// The other; the last when left out.
        #[arg(long, value_name = "SEQ")]
        to: Option<u64>,
        #[command(flatten)]
        server: Server,
    },
    /// Show a session's goal and how far it has got with it, or take it back.
    Goal {
        /// The session, as `saga sessions list` shows it.
        id: String,
        /// Take it back: turns end when the model answers.
        #[arg(long)]
        drop: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Show what fills a session's prompt, and what was left out of it.
    Context {
        /// The session, as `saga sessions list` shows it.
        id: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Leave older messages out of a session's prompt; a digest stands for them.
    Compact {
        /// The session, as `saga sessions list` shows it.
        id: String,
        /// What is to be kept most of all.
        #[arg(long, value_name = "TEXT")]
        focus: Option<String>,
        #[command(flatten)]
        server: Server,
    },
    /// Show the model again what was left out last.
    Uncompact {
        /// The session, as `saga sessions list` shows it.
        id: String,
        #[command(flatten)]
        server: Server,
    },
    /// Show what a session may use and what of it is used, or set it.
    Budget {
        /// The session, as `saga sessions list` shows it.
        id: String,
        #[command(flatten)]
        limits: super::limits::Limits,
        #[command(flatten)]
        server: Server,
    },
    /// Wind a session back, or forward again: its files, and what its model knows. Shows what that means and asks first.
    Rewind {
        /// The session, as `saga sessions list` shows it.
        id: String,
        /// The place, as `saga sessions checkpoints` or `saga sessions show` shows it.
        #[arg(long, value_name = "SEQ")]
        at: u64,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Make a session that goes on from where another one stood. It works in the same folder unless `--into` names another.
    Fork {
        /// The session, as `saga sessions list` shows it.
        id: String,
        /// The place, as `saga sessions show` shows it; the end when left out.
        #[arg(long, value_name = "SEQ")]
        at: Option<u64>,
        /// A folder that is empty or not there: it gets the files as they were.
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
        #[command(flatten)]
        server: Server,
    },
    /// Write a session to one file. Secrets are blotted out of it unless you want them.
    Export {
        /// The session, as `saga sessions list` shows it.
        id: String,
        /// The file; `-` for standard output, `ID.saga` when left out.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Put in what the workspace held at the session's checkpoints.
        #[arg(long)]
        with_workspace: bool,
        /// Leave everything as it is, secrets too: then the session goes on elsewhere with the very prompts it had.
        #[arg(long)]
        with_secrets: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Make a session of such a file. It rests until you say something to it, and what was allowed in it is not allowed here.
    Import {
        /// The file.
        file: PathBuf,
        /// The folder that it works in, as that is; the one it worked in when left out.
        #[arg(long, value_name = "DIR", conflicts_with = "into")]
        workspace: Option<PathBuf>,
        /// A folder that is empty or not there: it gets the files that the workspace held last.
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
        #[command(flatten)]
        server: Server,
    },
    /// Delete a session and everything it has written. Its workspace stays as it is.
    Delete {
        /// The session, as `saga sessions list` shows it.
        id: String,
        #[command(flatten)]
        server: Server,
    },
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let (folders, _) = super::settings()?;
    match args {
        Args::List { json, server } => {
            let sessions = Source::open(&server, &folders).await?.list().await?;
            if json {
                for session in &sessions {
                    say(&serde_json::to_string(session).expect("a session has only string keys"));
                }
            } else if sessions.is_empty() {
                say("no sessions yet; `saga run \"…\"` makes one");
            } else {
                say(&render(&sessions));
            }
        }
        Args::Show { id, json, server } => {
            let source = Source::open(&server, &folders).await?;
            for recorded in source.events(&id).await? {
                if json {
                    say(&serde_json::to_string(&recorded).expect("an event has only string keys"));
                } else {
                    say(&line(&recorded));
                }
            }
        }
        Args::Approve { id, always, server } => answer(&id, true, always, &server).await?,
        Args::Deny { id, server } => answer(&id, false, false, &server).await?,
        Args::Checkpoints { id, json, server } => {
            let source = Source::open(&server, &folders).await?;
            let state = State::fold(&source.events(&id).await?);
            let places = state.checkpoints();
            if json {
                let place = |place| serde_json::to_string(&wire::Checkpoint::from(place));
                places.iter().for_each(|one| say(&place(one).expect("a checkpoint has only string keys")));
            } else if places.is_empty() {
                say("no checkpoints: its workspace was not kept");
            } else {
                say(&checkpoints_table(places));
            }
        }
        Args::Changes { id, from, to, server } => {
            let reached = reach(&id, &server, None).await?;
            let changes = reached.client.changes(&id, from, to).await;
            reached.leave().await;
            let files = changes?.files;
            let nothing = || "nothing changed".to_string();
            say(&if files.is_empty() { nothing() } else { files_in_words(&files, usize::MAX) });
        }
        Args::Goal { id, drop: true, server } => {
            let reached = reach(&id, &server, None).await?;
            let done = reached.client.drop_goal(&id).await;
            reached.leave().await;
            say(if done?.fresh { "the goal was taken back" } else { "it has no goal" });
        }
        Args::Goal { id, drop: false, server } => {
            let state = State::fold(&Source::open(&server, &folders).await?.events(&id).await?);
            let Some(agent::Progressed { goal, met, rounds, last }) = state.goal() else {
                say("it has no goal; `saga resume ID --until COMMAND \"…\"` sets one");
                return Ok(0);
            };
            let how = if met {
                "reached".to_string()
            } else {
                format!("not reached; {rounds} of {} checks of a turn", goal.rounds_max)
            };
            say(&format!("{}\n{how}", goal.in_words()));
            last.into_iter().for_each(|last| say(&checked_in_words(last)));
        }
        Args::Context { id, json, server } => {
            let reached = reach(&id, &server, None).await?;
            let context = reached.client.context(&id).await;
            reached.leave().await;
            super::context::show(&context?, json);
        }
        Args::Compact { id, focus, server } => {
            let reached = reach(&id, &server, None).await?;
            let done = super::context::compact(&reached.client, &id, focus).await;
            reached.leave().await;
            return done;
        }
        Args::Uncompact { id, server } => {
            let reached = reach(&id, &server, None).await?;
            let done = reached.client.uncompact(&id).await;
            reached.leave().await;
            done?;
            say("the model is shown again what was left out last");
        }
        Args::Budget { id, limits, server } => return super::limits::run(&id, limits, &server).await,
        Args::Rewind { id, at, yes, server } => {
            let reached = reach(&id, &server, None).await?;
            let done = rewind(&reached, &id, at, yes).await;
            reached.leave().await;
            return done;
        }
        Args::Fork { id, at, into, server } => {
            let workspace = into.map(std::path::absolute).transpose().map_err(|error| {
                Failure::new(format!("that folder cannot be named: {error}")).next("give its whole path")
            })?;
            let reached = reach(&id, &server, workspace.as_deref()).await?;
            let made = reached.client.fork(&id, &wire::NewFork { at, workspace }).await;
            reached.leave().await;
            let wire::Session { id: new, workspace, .. } = made?;
            say(&format!("{new} goes on from {id} in {workspace}; `saga resume {new}` talks to it"));
        }
        Args::Export { id, output, with_workspace, with_secrets, server } => {
            let wish = ExportWish { workspace: with_workspace, secrets: with_secrets };
            return super::carry::export(&id, output, wish, &server).await;
        }
        Args::Import { file, workspace, into, server } => {
            return super::carry::import(&file, ImportWish { workspace, into }, &server).await;
        }
        Args::Delete { id, server } => {
            Source::open(&server, &folders).await?.delete(&id).await?;
            say(&format!("deleted {id}; its workspace is as it was"));
        }
    }
    Ok(0)
}

/// A service that has a session: the one that runs, or one inside of this process. `besides` is a folder that is to be made.
pub(super) async fn reach(id: &str, server: &Server, besides: Option<&Path>) -> Result<Reached, Failure> {
    let (folders, mut config) = super::settings()?;
    let mut roots = config.workspace_roots.clone();
    if server.running(&folders).await?.is_none() {
        let created = stored(&folders, id).await?;
        config.model = created.model;
        roots.push(created.workspace.into());
        roots.extend(besides.and_then(Path::parent).map(Path::to_path_buf));
    }
    server.reach(&config, &folders, roots, &Screen::new(To::Stderr)).await
}

async fn rewind(reached: &Reached, id: &str, at: u64, yes: bool) -> Result<u8, Failure> {
    let look = reached.client.rewind(id, &wire::NewRewinding { at, now: None }).await?;
    let mut lines = vec![format!("to event {} of turn {}", look.to.seq, look.to.turn)];
    lines.push(match look.files.is_empty() {
        true => "no file changes".to_string(),
        false => files_in_words(&look.files, FILES_SHOWN),
    });
    if look.replies > 0 || !look.inputs.is_empty() {
        let replies = if look.replies == 1 { "reply" } else { "replies" };
        lines.push(format!("its model forgets {} {replies}", look.replies));
        lines.extend(look.inputs.iter().map(|input| format!("  › {}", one_line(input, 100))));
    }
    say(&lines.join("\n"));
    if !yes && !confirmed("wind it back? [y/N] ")? {
        say("nothing was done");
        return Ok(1);
    }
    let wish = wire::NewRewinding { at: look.to.seq, now: Some(look.now) };
    reached.client.rewind(id, &wish).await?;
    say(&format!("done; `saga resume {id}` goes on from there, and it can be wound forward again"));
    Ok(0)
}

/// Asks somebody at the terminal. Without one the answer is an error that says what to do.
fn confirmed(question: &str) -> Result<bool, Failure> {
    use std::io::{IsTerminal, Write};
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new("nobody is there to be asked").next("give --yes to do it"));
    }
    let mut out = std::io::stderr();
    // If it cannot be shown, the answer is read all the same.
    let _ = write!(out, "{question}").and_then(|()| out.flush());
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::new(format!("reading the answer failed: {error}")))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Files that a preview shows.
pub(super) const FILES_SHOWN: usize = 40;

pub(super) fn files_in_words(files: &[wire::FileChange], most: usize) -> String {
    let sign = |how| match how {
        wire::How::Added => '+',
        wire::How::Changed => '~',
        wire::How::Removed => '-',
    };
    let line = |file: &wire::FileChange| format!("{} {}", sign(file.how), one_line(&file.path, 120));
    // What git has of its own is one thing to a person, however many files it is.
    let repository = |path: &str| {
        let end = path.find("/.git/").map(|at| at + 5).or_else(|| path.starts_with(".git/").then_some(4))?;
        Some(path[..end].to_owned())
    };
    let repositories: std::collections::BTreeSet<String> =
        files.iter().filter_map(|file| repository(&file.path)).collect();
    let files: Vec<&wire::FileChange> =
        files.iter().filter(|file| repository(&file.path).is_none()).collect();
    let mut lines: Vec<String> = repositories
        .iter()
        .map(|path| format!("~ {}: where it stands, what is staged or its settings", one_line(path, 120)))
        .collect();
    lines.extend(files.iter().take(most).map(|file| line(file)));
    if files.len() > most {
        lines.push(format!("… and {} more", files.len() - most));
    }
    lines.join("\n")
}

fn checkpoints_table(places: &[agent::Checkpoint]) -> String {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut before = None;
    for place in places {
        let same = before.replace(place.tree) == Some(place.tree);
        rows.push(vec![
            place.seq.0.to_string(),
            place.turn.to_string(),
            place.step.to_string(),
            age(now_ms.saturating_sub(place.at_ms)),
            if same { "as before".to_string() } else { short(&place.tree) },
        ]);
    }
    table(&["SEQ", "TURN", "STEP", "AGE", "FILES"], &rows)
}

/// Enough of a checkpoint's name to tell it from others.
fn short(tree: &tools::checkpoint::Tree) -> String {
    tree.to_string().chars().take(12).collect()
}

/// Tells a session whether the call may run that it asks about. Without a service nobody drives the session while this process
/// has its memory open, so the answer is written down here and taken up by `saga resume`.
async fn answer(id: &str, allowed: bool, always: bool, server: &Server) -> Result<(), Failure> {
    let (folders, _) = super::settings()?;
    let none = || {
        Failure::new(format!("session {id} asks about nothing"))
            .next("`saga sessions show` tells what it did")
    };
    let (what, next) = match Source::open(server, &folders).await? {
        Source::Service(client) => {
            let ask = client.session(id).await?.asks.ok_or_else(none)?;
            let by = super::who();
            client.approve(id, &wire::Approval { call: ask.call, allowed, always, by }).await?;
            (ask.tool, "the session goes on".to_string())
        }
        source @ Source::Memory(_) => {
            let events = source.events(id).await?;
            let state = State::fold(&events);
            let call = state.asks().ok_or_else(none)?.call;
            let (what, asked) = (call.name.clone(), call.id.clone());
            let event = Event::ApprovalGiven { id: asked, allowed, always, by: super::who() };
            let Source::Memory(memory) = source else { return Ok(()) };
            let now_ms =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
            let name = id.to_string();
            blocking(move || Ok(memory.journal(&name)?.append(&agent::encode(now_ms, &event))?)).await?;
            (what, format!("`saga resume {id}` goes on"))
        }
    };
    say(&format!("{what} {}; {next}", if allowed { "may run" } else { "does not run" }));
    Ok(())
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn render(sessions: &[wire::Session]) -> String {
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|since| since.as_millis() as u64)
        .unwrap_or_default();
    let rows: Vec<Vec<String>> = families(sessions)
        .into_iter()
        .map(|session| {
            vec![
                match session.parent {
                    Some(_) => format!("└ {}", session.id),
                    None => session.id.clone(),
                },
                state_word(session),
                age(now_ms.saturating_sub(session.updated_ms)),
                session.steps.to_string(),
                one_line(&session.workspace, 40),
                one_line(session.title.as_deref().or(session.error.as_deref()).unwrap_or_default(), 60),
            ]
        })
        .collect();
    table(&["ID", "STATE", "AGE", "STEPS", "WORKSPACE", "TITLE"], &rows)
}

/// Sessions with their sub-agents below them, these oldest first.
fn families(sessions: &[wire::Session]) -> Vec<&wire::Session> {
    let known = |id: &String| sessions.iter().any(|session| session.id == *id);
    let mut all = Vec::with_capacity(sessions.len());
    for session in
        sessions.iter().filter(|session| session.parent.as_ref().is_none_or(|parent| !known(parent)))
    {
        all.push(session);
        all.extend(sessions.iter().rev().filter(|child| child.parent.as_ref() == Some(&session.id)));
    }
    all
}

/// What a session is doing, in a word.
pub(super) fn state_word(session: &wire::Session) -> String {
    let word = match (session.status, &session.ended) {
        (wire::Status::Running, _) => "running",
        (wire::Status::Asking, _) => "asks you",
        (wire::Status::Failed, _) => "failed",
        (wire::Status::Idle, Some(end)) => end_word(end),
        (wire::Status::Idle, None) => "new",
    };
    word.to_string()
}

/// Why a turn ended, in a word.
pub(super) fn end_word(end: &wire::End) -> &'static str {
    match end {
        wire::End::Done => "done",
        wire::End::Interrupted => "interrupted",
        wire::End::Budget { .. } => "at a limit",
        wire::End::GoalUnmet { .. } => "goal unmet",
        wire::End::ContextFull { .. } => "context full",
        wire::End::Failed { .. } => "failed",
    }
}

fn age(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..86_400 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_agents_stand_below_their_parents() {
        let session = |id: &str, parent: Option<&str>| wire::Session {
            parent: parent.map(str::to_string),
            ..unreadable(id, 0, String::new())
        };
        // Newest first, as they are listed; the parent of one is not among them.
        let sessions = [
            session("c-2", Some("s-1")),
            session("c-9", Some("s-gone")),
            session("c-1", Some("s-1")),
            session("s-2", None),
            session("s-1", None),
        ];
        let order: Vec<&str> = families(&sessions).into_iter().map(|session| session.id.as_str()).collect();
        assert_eq!(order, ["c-9", "s-2", "s-1", "c-1", "c-2"]);
        let shown = render(&sessions);
        assert!(shown.lines().any(|line| line.starts_with("└ c-1")), "{shown}");
    }
}
