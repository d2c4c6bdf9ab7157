//! Models on this machine: where the file of one is, and getting it when it is not there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use engine::catalog::{self, Pull};

use crate::config::Folders;
use crate::failure::Failure;
use crate::host;
use crate::term::{Ink, Screen, bar, clean};

/// How a model stands on this machine.
pub(crate) enum State {
    /// It is there; whether it was pulled and has been checked.
    There { path: PathBuf, verified: bool },
    /// It can be pulled.
    Absent,
    /// It cannot be used; why.
    Unusable(String),
}

/// How `model`, an id, an address or a path, stands.
pub(crate) fn state(model: &str, folders: &Folders) -> State {
    match catalog::resolve(model, &folders.models) {
        Ok(path) => State::There { path, verified: !catalog::is_path(model) },
        Err(engine::Error::NotPulled { .. }) => State::Absent,
        Err(error) => State::Unusable(error.to_string()),
    }
}

/// The file of `model`, which is pulled when it is known and not there.
/// Pulls a model that is not here yet. One on another machine is left where it is.
pub(crate) async fn ready(model: &str, folders: &Folders, screen: &Screen) -> Result<(), Failure> {
    if model.starts_with(agent::mind::remote::PREFIX) {
        return Ok(());
    }
    ensure(model, folders, screen).await.map(drop)
}

pub(crate) async fn ensure(model: &str, folders: &Folders, screen: &Screen) -> Result<PathBuf, Failure> {
    match catalog::resolve(model, &folders.models) {
        Err(engine::Error::NotPulled { id }) => pull(&id, folders, screen).await,
        done => Ok(done?),
    }
}

/// How often a line is written about a long pull where nobody watches.
const LINE: Duration = Duration::from_secs(10);
/// Cells of the bar.
const CELLS: usize = 24;

/// Pulls the model of an id or an address and shows how far it is: a bar on a terminal, lines elsewhere.
pub(crate) async fn pull(id: &str, folders: &Folders, screen: &Screen) -> Result<PathBuf, Failure> {
    let (asked, models, shown) = (id.to_owned(), folders.models.clone(), screen.clone());
    let work = move || {
        let mut view = View::new(shown);
        let done = catalog::pull(&asked, &models, &mut |pull| view.show(pull));
        view.screen.quiet();
        done
    };
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Failure::new(format!("pulling {id} failed: {error}")))??)
}

/// How a pull looks.
struct View {
    screen: Screen,
    /// When the current source began, and how much had come in before.
    began: Option<(Instant, u64)>,
    said: Instant,
    /// How many files there are, and how many of them are ready.
    files: usize,
    ready: usize,
}

impl View {
    fn new(screen: Screen) -> View {
        View { screen, began: None, said: Instant::now(), files: 1, ready: 0 }
    }

    fn show(&mut self, pull: Pull) {
        match pull {
            Pull::Waiting => self.screen.line("another saga pulls this model; waiting for it"),
            Pull::Begins { what, files, bytes } => {
                self.files = files;
                let many = if files > 1 { format!("{files} files, ") } else { String::new() };
                self.screen.line(&format!("pulling {what} ({many}{})", host::bytes(bytes)));
            }
            Pull::Checking { file } => self.screen.status(&format!("checking {file}")),
            Pull::Fetching { source, file, done_bytes, total_bytes } => {
                let (began, before) = *self.began.get_or_insert((Instant::now(), done_bytes));
                let rate =
                    done_bytes.saturating_sub(before) as f64 / began.elapsed().as_secs_f64().max(0.001);
                let so_far = format!("{} of {}", host::bytes(done_bytes), host::bytes(total_bytes));
                // A rate means something once a second has passed.
                let pace = if rate > 0.0 && began.elapsed() > Duration::from_secs(1) {
                    let left = host::seconds(total_bytes.saturating_sub(done_bytes) as f64 / rate);
                    format!(" · {}/s · {left} left", host::bytes(rate as u64))
                } else {
                    String::new()
                };
                if self.screen.live() {
                    let bar = bar(done_bytes, total_bytes, CELLS);
                    let which = if self.files > 1 {
                        format!("file {} of {} · ", (self.ready + 1).min(self.files), self.files)
                    } else {
                        String::new()
                    };
                    self.screen.status(&format!("{bar} {which}{so_far}{pace} · {source}"));
                } else if self.said.elapsed() > LINE {
                    self.said = Instant::now();
                    self.screen.line(&format!("{file}: {so_far}{pace}"));
                }
            }
            Pull::SourceFailed { source, file, why } => {
                self.began = None;
                let line = format!("{source} could not deliver {file}: {}", clean(&why).replace('\n', " "));
                self.screen.line(&self.screen.ink(Ink::Warn, &line));
            }
            Pull::Ready { file } => {
                self.began = None;
                self.ready += 1;
                self.screen.line(&format!("{file} is here and has been checked"));
            }
        }
    }
}

/// The embedder that memories are searched with.
pub(crate) const EMBEDDER: &str = "minilm-l6-v2";

/// Opens the embedder, which is pulled when it is not there.
pub(crate) async fn embedder(
    folders: &Folders,
    screen: &Screen,
) -> Result<std::sync::Arc<dyn memory::Embedder>, Failure> {
    let path = ensure(EMBEDDER, folders, screen).await?;
    let dir = if path.is_dir() { path } else { path.parent().map(Into::into).unwrap_or(path) };
    let opened = tokio::task::spawn_blocking(move || memory::Bert::open(&dir, EMBEDDER)).await;
    let opened = opened.map_err(|error| Failure::new(format!("opening the embedder failed: {error}")))?;
    Ok(std::sync::Arc::new(opened.map_err(|error| Failure::of(&error))?))
}

/// The embedder, if it is on this machine and can be opened.
pub(crate) async fn embedder_if_there(folders: &Folders) -> Option<std::sync::Arc<dyn memory::Embedder>> {
    let path = catalog::resolve(EMBEDDER, &folders.models).ok()?;
    let dir = if path.is_dir() { path } else { path.parent().map(Into::into).unwrap_or(path) };
    match tokio::task::spawn_blocking(move || memory::Bert::open(&dir, EMBEDDER)).await {
        Ok(Ok(embedder)) => Some(std::sync::Arc::new(embedder)),
        Ok(Err(error)) => {
            tracing::warn!(%error, "memories are searched by their words alone");
            None
        }
        Err(error) => {
            tracing::error!(%error, "opening the embedder failed");
            None
        }
    }
}
