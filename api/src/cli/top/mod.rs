//! `saga top`: watch all sessions of a service, follow one, stop one.
//!
//! It is a client like every other command. What is drawn is in `view.rs`.

mod view;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

use super::follow::Follower;
use super::reach::Server;
use crate::client::{Client, Refusal};
use crate::failure::Failure;
use crate::term::{Screen, To, say};
use crate::wire;
use view::{Figures, View};

const EXAMPLES: &str = "\
Keys: up and down choose a session, enter follows it (Ctrl-C interrupts it, twice comes back), i interrupts it, q ends.

  saga top
  saga top --once             one picture as plain text, for scripts
  saga top --server http://gpu1:7777";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Print one picture as plain text, and end.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    every: f64,
    #[command(flatten)]
    server: Server,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.2..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "give 0.2 to 3600 seconds".to_string())
}

/// How wide a picture is where no terminal says so.
const WIDTH: u16 = 120;
/// How often the keyboard is looked at.
const KEYS: Duration = Duration::from_millis(100);
/// How long one look at the service may take before it counts as away.
const LOOK: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let (folders, _) = super::settings()?;
    let client = args.server.running(&folders).await?.ok_or_else(|| {
        Failure::new("no service runs here").next("start it with `saga up`, or name one with --server")
    })?;
    let mut view = View::default();
    look(&client, &mut view).await;
    if args.once {
        say(&picture(&mut view)?);
        return Ok(u8::from(view.away.is_some()));
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(
            Failure::new("this is no terminal to draw on").next("use --once for one picture as plain text")
        );
    }
    watch(&client, &mut view, Duration::from_secs_f64(args.every)).await?;
    Ok(0)
}

/// Asks the service how everything stands. When it does not answer, what was known stays and is marked as old.
async fn look(client: &Client, view: &mut View) {
    let looked = tokio::time::timeout(LOOK, async {
        let sessions = client.sessions(None).await?.sessions;
        Ok::<_, Refusal>((sessions, Figures::of(&client.metrics().await?)))
    });
    match looked.await {
        Ok(Ok((sessions, figures))) => view.update(sessions, figures),
        Ok(Err(refusal)) => view.away = Some(Failure::from(refusal).to_string()),
        Err(_) => view.away = Some(format!("the service at {} does not answer", client.url())),
    }
}

/// One picture as plain text.
fn picture(view: &mut View) -> Result<String, Failure> {
    let width = ratatui::crossterm::terminal::size().map_or(WIDTH, |(width, _)| width);
    let width = if std::io::stdout().is_terminal() { width } else { WIDTH };
    view.selected = None;
    plain(view, width, view.height())
}

/// What a terminal of this size would show.
fn plain(view: &mut View, width: u16, height: u16) -> Result<String, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("nothing can be drawn: {error}"));
    let mut terminal = Terminal::new(TestBackend::new(width, height)).map_err(|error| failed(&error))?;
    terminal.draw(|frame| view.draw(frame)).map_err(|error| failed(&error))?;
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    let lines: Vec<String> = (0..height).map(|y| line(y).trim_end().to_string()).collect();
    Ok(lines.join("\n").trim_end().to_string())
}

async fn watch(client: &Client, view: &mut View, every: Duration) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("the terminal cannot be drawn on: {error}"));
    let mut terminal = ratatui::try_init().map_err(failed)?;
    // Whatever happens, the terminal is given back as it was.
    let done = async {
        let (keys, listening) = keys();
        let mut keys = keys;
        let mut ticks = tokio::time::interval(every);
        loop {
            terminal.draw(|frame| view.draw(frame)).map_err(failed)?;
            tokio::select! {
                _ = ticks.tick() => look(client, view).await,
                key = keys.recv() => match key.unwrap_or(Key::Quit) {
                    Key::Quit => return Ok(()),
                    Key::Up => view.up(),
                    Key::Down => view.down(),
                    Key::Redraw => {}
                    Key::Interrupt => interrupt(client, view).await,
                    Key::Follow => {
                        let Some(session) = view.chosen().cloned() else { continue };
                        if session.status != wire::Status::Running {
                            view.said = Some(format!("it rests; `saga resume {}` goes on with it", session.id));
                            continue;
                        }
                        listening.store(false, Ordering::SeqCst);
                        ratatui::try_restore().map_err(failed)?;
                        let followed = follow(client, &session).await;
                        terminal = ratatui::try_init().map_err(failed)?;
                        terminal.clear().map_err(failed)?;
                        listening.store(true, Ordering::SeqCst);
                        view.said = followed.err().map(|failure| failure.to_string());
                        look(client, view).await;
                    }
                },
            }
        }
    }
    .await;
    // It may have been given back already; then this changes nothing.
    let _ = ratatui::try_restore();
    done
}

async fn interrupt(client: &Client, view: &mut View) {
    let Some(id) = view.chosen().map(|session| session.id.clone()) else { return };
    view.said = Some(match client.interrupt(&id).await {
        Ok(done) if done.fresh => format!("{id} is interrupted"),
        Ok(_) => format!("{id} rests already"),
        Err(refusal) => Failure::from(refusal).to_string(),
    });
    look(client, view).await;
}

/// Shows a session's work as `saga resume` does, until it rests or the person comes back.
async fn follow(client: &Client, session: &wire::Session) -> Result<(), Failure> {
    let screen = Screen::new(To::Stdout);
    screen.line(&format!("session {} · {} · {}", session.id, session.model, session.workspace));
    let mut follower = Follower::new(client, &session.id, &screen, false, false)?;
    follower.follow(session.last, session.last).await.map(drop)
}

/// What a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Up,
    Down,
    Follow,
    Interrupt,
    Redraw,
    Quit,
}

impl Key {
    fn of(event: &Event) -> Option<Key> {
        match event {
            Event::Resize(..) => Some(Key::Redraw),
            Event::Key(key) if key.kind != KeyEventKind::Release => match key.code {
                KeyCode::Up | KeyCode::Char('k') => Some(Key::Up),
                KeyCode::Down | KeyCode::Char('j') => Some(Key::Down),
                KeyCode::Enter => Some(Key::Follow),
                KeyCode::Char('i') => Some(Key::Interrupt),
                KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The keys that are pressed, while the switch is on. The thread ends when nobody wants them any more.
fn keys() -> (mpsc::Receiver<Key>, Arc<AtomicBool>) {
    let (pressed, keys) = mpsc::channel(16);
    let listening = Arc::new(AtomicBool::new(true));
    let on = listening.clone();
    std::thread::spawn(move || {
        while !pressed.is_closed() {
            if !on.load(Ordering::SeqCst) {
                std::thread::sleep(KEYS);
                continue;
            }
            // A terminal that has gone is the end.
            let Ok(there) = event::poll(KEYS) else { return };
            if !there || !on.load(Ordering::SeqCst) {
                continue;
            }
            let Ok(event) = event::read() else { return };
            if let Some(key) = Key::of(&event)
                && pressed.blocking_send(key).is_err()
            {
                return;
            }
        }
    });
    (keys, listening)
}

#[cfg(test)]
mod tests;
