//! `saga sessions export` and `import`: a session as one file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::portable::Place;
use agent::{SessionId, Worlds, bring, portable};

use super::reach::Server;
use crate::carrying::{ExportWish, ImportWish};
use crate::client::Client;
use crate::config::{Config, Folders};
use crate::failure::Failure;
use crate::host::bytes;
use crate::server::{open_checkpoints, open_live, open_memory};
use crate::term::say;

/// Writes a session to a file.
pub(super) async fn export(
    id: &str,
    output: Option<PathBuf>,
    wish: ExportWish,
    server: &Server,
) -> Result<u8, Failure> {
    let (folders, config) = super::settings()?;
    let to_stdout = output.as_deref() == Some(Path::new("-"));
    let path = output.unwrap_or_else(|| PathBuf::from(format!("{}.saga", id.replace(['/', '.'], "_"))));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !to_stdout && path.exists() {
        return Err(
            Failure::new(format!("{} is there already", path.display())).next("name another file with -o")
        );
    }
    let unwritable = |error: std::io::Error| Failure::unwritable(&path, &error);
    // Nobody else may read it, and it is there as a whole or not at all.
    let file = match to_stdout {
        true => tempfile::NamedTempFile::new(),
        false => tempfile::NamedTempFile::new_in(folder),
    }
    .map_err(unwritable)?;
    match server.running(&folders).await? {
        Some(client) => client.export(id, wish, file.as_file()).await?,
        None => write(id, wish, &config, &folders, &file).await?,
    }
    if to_stdout {
        let mut from = file.reopen().map_err(unwritable)?;
        std::io::copy(&mut from, &mut std::io::stdout().lock()).map_err(unwritable)?;
        return Ok(0);
    }
    file.as_file().sync_all().map_err(unwritable)?;
    let size = file.as_file().metadata().map_err(unwritable)?.len();
    file.persist_noclobber(&path).map_err(|error| unwritable(error.error))?;
    let secrets = if wish.secrets { "with the secrets in it" } else { "secrets blotted out" };
    say(&format!("{} · {} · {secrets}; `saga sessions import` reads it", path.display(), bytes(size)));
    Ok(0)
}

/// Without a service the memory is read directly.
async fn write(
    id: &str,
    wish: ExportWish,
    config: &Config,
    folders: &Folders,
    file: &tempfile::NamedTempFile,
) -> Result<(), Failure> {
    let id: SessionId = id.parse()?;
    let memory = open_memory(&folders.memory()).await?;
    let checkpoints = open_checkpoints(&folders.data.join("checkpoints"), config.checkpoint_bytes).await;
    let to = file.as_file().try_clone().map_err(|error| Failure::new(error.to_string()))?;
    let done = tokio::task::spawn_blocking(move || {
        let mut to = std::io::BufWriter::new(to);
        let wish = portable::Export { workspace: wish.workspace, secrets: wish.secrets };
        portable::export(&memory, checkpoints.as_ref(), &id, wish, super::sessions::now_ms(), &mut to)?;
        to.flush().map_err(|error| agent::Error::NotExported(error.to_string()))
    });
    Ok(done.await.map_err(|error| Failure::new(format!("writing the file failed: {error}")))??)
}

/// Makes a session of a file.
pub(super) async fn import(file: &Path, wish: ImportWish, server: &Server) -> Result<u8, Failure> {
    let (folders, config) = super::settings()?;
    let whole = |folder: Option<PathBuf>| folder.map(std::path::absolute).transpose();
    let named =
        |error| Failure::new(format!("that folder cannot be named: {error}")).next("give its whole path");
    let wish = ImportWish {
        workspace: whole(wish.workspace).map_err(named)?,
        into: whole(wish.into).map_err(named)?,
    };
    let unreadable = |error: std::io::Error| Failure::new(format!("cannot read {}: {error}", file.display()));
    let (id, folder) = match server.running(&folders).await? {
        Some(client) => by(&client, wish, std::fs::read(file).map_err(unreadable)?).await?,
        None => read(std::fs::File::open(file).map_err(unreadable)?, wish, &config, &folders).await?,
    };
    say(&format!("{id} is there and rests, in {folder}; `saga resume {id}` goes on with it"));
    Ok(0)
}

async fn by(client: &Client, wish: ImportWish, file: Vec<u8>) -> Result<(String, String), Failure> {
    let session = client.import(&wish, file).await?;
    Ok((session.id, session.workspace))
}

/// Without a service the memory is written directly: starting one would take up the work that was under way.
async fn read(
    file: std::fs::File,
    wish: ImportWish,
    config: &Config,
    folders: &Folders,
) -> Result<(String, String), Failure> {
    let place = wish.place().map_err(Failure::new)?;
    let mut roots = config.workspace_roots.clone();
    roots.extend(std::env::current_dir().ok());
    match &place {
        // Who names a folder means it; who made the file names none.
        Place::Same => {}
        Place::In(folder) => roots.push(folder.clone()),
        Place::Into(folder) => roots.extend(folder.parent().map(Path::to_path_buf)),
    }
    let memory = open_memory(&folders.memory()).await?;
    let live: Arc<dyn Worlds> = Arc::new(open_live(config, folders, &memory, roots).await?);
    let id = bring(&memory, &live, file, place).await.map_err(|error| match error {
        error @ (agent::Error::OutsideRoots { .. } | agent::Error::BadRequest(_)) => Failure::of(&error)
            .next("--workspace DIR names the folder to work in, --into DIR an empty one for its files"),
        error => Failure::of(&error),
    })?;
    let session = super::sessions::of(&memory, id.as_str()).await?;
    Ok((session.id, session.workspace))
}
