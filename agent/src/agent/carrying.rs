//! Sessions carried elsewhere and back, as files.

use std::io::{Read, Write};
use std::sync::Arc;

use memory::Memory;

use super::{Agent, SessionInfo, blocking, random};
use crate::Error;
use crate::event::{Created, SessionId};
use crate::portable::{self, Arrival, Export, Place, Title, move_to};
use crate::world::Worlds;

impl Agent {
    /// Writes a session as a file. It may work meanwhile: what is in the file is what was written when this began.
    ///
    /// # Errors
    /// [`Error::NoSession`]; [`Error::NotExported`].
    pub async fn export(
        &self,
        id: &SessionId,
        wish: Export,
        mut to: impl Write + Send + 'static,
    ) -> Result<Title, Error> {
        self.slot(id)?;
        let (memory, checkpoints) = (self.0.memory.clone(), self.0.worlds.checkpoints());
        let (id, now_ms) = (id.clone(), self.0.worlds.now_ms());
        blocking(move || portable::export(&memory, checkpoints.as_ref(), &id, wish, now_ms, &mut to)).await
    }

    /// Makes a session of a file, as [`bring`] does.
    ///
    /// # Errors
    /// Those of [`bring`].
    pub async fn import(&self, from: impl Read + Send + 'static, place: Place) -> Result<SessionInfo, Error> {
        let id = bring(&self.0.memory, &self.0.worlds, from, place).await?;
        let state = self.fold(&id).await?;
        Ok(self.insert(&id, SessionInfo::of(&id, &state, None)).info())
    }
}

/// Makes a session of a file, under a new id. All of it is there when this returns, or nothing; nothing of it runs before somebody says
/// something to it.
///
/// # Errors
/// [`Error::NotImported`] with the line where the file is damaged; [`Error::OutsideRoots`] and [`Error::BadRequest`] for its folder.
pub async fn bring(
    memory: &Memory,
    worlds: &Arc<dyn Worlds>,
    mut from: impl Read + Send + 'static,
    place: Place,
) -> Result<SessionId, Error> {
    let (folder, filled) = match place {
        Place::Same => (None, false),
        Place::In(folder) => (Some(worlds.folder(&folder)?), false),
        Place::Into(folder) => (Some(worlds.empty(&folder).await?), true),
    };
    let now_ms = worlds.now_ms();
    let id = SessionId::new(now_ms, random());
    let (memory, checkpoints, settling) = (memory.clone(), worlds.checkpoints(), worlds.clone());
    let arrival = blocking(move || {
        let mut settle = |created: &mut Created| {
            match folder.clone() {
                Some(folder) => move_to(created, folder),
                None => created.workspace = settling.folder(&created.workspace)?,
            }
            settling.vet(created);
            Ok(())
        };
        portable::import(&memory, checkpoints.as_ref(), &id, &mut from, &mut settle)
    })
    .await?;
    if filled && let Err(error) = fill(&arrival, worlds).await {
        blocking(move || arrival.abandon()).await?;
        return Err(error);
    }
    blocking(move || arrival.finish(now_ms)).await
}

/// Puts the files that a session had last into its folder, which is empty.
async fn fill(arrival: &Arrival, worlds: &Arc<dyn Worlds>) -> Result<(), Error> {
    let tree = arrival.tree.ok_or_else(|| {
        Error::BadRequest(
            "the file holds no files of a workspace; export it with its workspace, or name the folder to work in"
                .to_string(),
        )
    })?;
    let world = worlds.open(&arrival.id, &arrival.created).await?;
    let nothing =
        || Error::BadRequest("workspaces are not kept here, so files cannot be put back".to_string());
    let now = world.checkpoint().await?.ok_or_else(nothing)?;
    match world.put_back(&tree, &now).await? {
        changed if changed.is_empty() => Ok(()),
        paths => Err(Error::ChangedMeanwhile { paths }),
    }
}
