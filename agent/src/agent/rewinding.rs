//! Sessions wound back and forward, and gone on with in another one.

use std::path::Path;
use std::sync::Arc;

use memory::Seq;
use serde::{Deserialize, Serialize};
use tools::checkpoint::{Difference, Tree};

use super::{Agent, SessionInfo, Status, blocking, close, encode, random};
use crate::Error;
use crate::event::{Created, Event, Recorded, SessionId};
use crate::state::{Checkpoint, State, holding};
use crate::world::Said;

/// What winding a session back means, or has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewinding {
    /// Where it goes.
    pub to: Checkpoint,
    /// What the workspace holds before.
    pub now: Tree,
    /// What becomes of its files, by path.
    pub files: Vec<Difference>,
    /// What people said that the model will not know of any more, oldest first.
    pub inputs: Vec<String>,
    /// Replies that it will not know of any more.
    pub replies: usize,
    /// Whether it is done.
    pub done: bool,
}

/// What a fork at a place would have of a session, and what it would not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forking {
    /// The place.
    pub at: Seq,
    /// What it would go on from …
    pub kept: ForkPart,
    /// … and what it would not know of.
    pub dropped: ForkPart,
    /// What has become of the workspace's files since, as far as checkpoints tell; nothing where there are none.
    pub files: Option<Vec<Difference>>,
}

/// A part of a session's events: those that hold, without what was wound back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkPart {
    /// How many events.
    pub events: usize,
    /// What people said, oldest first.
    pub inputs: Vec<String>,
    /// Replies.
    pub replies: usize,
    /// Calls that have ended.
    pub calls: usize,
}

impl ForkPart {
    fn of<'a>(events: impl Iterator<Item = &'a Recorded>) -> ForkPart {
        let mut part = ForkPart::default();
        for recorded in events {
            part.events += 1;
            match &recorded.event {
                Event::Input { text, .. } => part.inputs.push(text.clone()),
                Event::Reply { .. } => part.replies += 1,
                Event::CallFinished { .. } | Event::CallLost { .. } => part.calls += 1,
                _ => {}
            }
        }
        part
    }
}

impl Agent {
    /// The places a session can be wound back to, oldest first.
    pub async fn checkpoints(&self, id: &SessionId) -> Result<Vec<Checkpoint>, Error> {
        self.slot(id)?;
        Ok(State::fold(&self.journal(id).await?).checkpoints().to_vec())
    }

    /// What differs in the workspace between two places of a session, each at the last checkpoint at or before it.
    pub async fn compare(&self, id: &SessionId, from: Seq, to: Seq) -> Result<Vec<Difference>, Error> {
        self.slot(id)?;
        let events = self.journal(id).await?;
        let (from, to) = (checkpoint_at(id, &events, from)?, checkpoint_at(id, &events, to)?);
        let state = State::fold(&events);
        let created = state.created().ok_or_else(|| Error::NoSession(id.clone()))?;
        let world = self.0.worlds.open(id, created).await?;
        world.differences(&from.tree, &to.tree).await
    }

    /// Winds a resting session back, or forward again, to a place of its journal: its files and what its model knows. A place between a
    /// call and the checkpoint after it counts as the checkpoint before. `now` is what the workspace holds as a look before has told;
    /// without it this is that look, and nothing changes.
    ///
    /// # Errors
    /// [`Error::Running`] while a turn runs; [`Error::NoCheckpoint`]; [`Error::ChangedMeanwhile`] when the workspace is no longer as `now`
    /// says.
    pub async fn rewind(&self, id: &SessionId, at: Seq, now: Option<Tree>) -> Result<Rewinding, Error> {
        let slot = self.slot(id)?;
        let mut driver = slot.driver.lock().await;
        if matches!(slot.info().status, Status::Running | Status::Asking) {
            return Err(Error::Running(id.clone()));
        }
        close(&mut driver).await;
        let events = self.journal(id).await?;
        let state = State::fold(&events);
        if state.working().next().is_some() {
            // Nobody could tell it of their end.
            drop(driver);
            self.wake(id, &slot).await?;
            return Err(Error::Running(id.clone()));
        }
        if state.busy() {
            // Something came in just before, and its driver has been ended.
            drop(driver);
            self.wake(id, &slot).await?;
            return Err(Error::Running(id.clone()));
        }
        let to = checkpoint_at(id, &events, at)?;
        let created = state.created().ok_or_else(|| Error::NoSession(id.clone()))?.clone();
        let world = self.0.worlds.open(id, &created).await?;
        let is = world.checkpoint().await?.ok_or_else(|| Error::NoCheckpoint { id: id.clone(), at })?;
        let lost: Vec<&Recorded> = {
            let all: Vec<&Recorded> = events.iter().collect();
            holding(&all).into_iter().map(|n| all[n]).filter(|event| event.seq > to.seq).collect()
        };
        let inputs = lost.iter().filter_map(|event| match &event.event {
            Event::Input { text, .. } => Some(text.clone()),
            _ => None,
        });
        let mut rewinding = Rewinding {
            files: world.differences(&is, &to.tree).await?,
            inputs: inputs.collect(),
            replies: lost.iter().filter(|event| matches!(event.event, Event::Reply { .. })).count(),
            to,
            now: is,
            done: false,
        };
        let Some(now) = now else { return Ok(rewinding) };
        let changed = match now == is {
            true => world.put_back(&rewinding.to.tree, &now).await?,
            false => world.differences(&now, &is).await?.into_iter().map(|changed| changed.path).collect(),
        };
        if !changed.is_empty() {
            return Err(Error::ChangedMeanwhile { paths: changed });
        }
        let event = Event::Rewound { to: rewinding.to.seq, tree: rewinding.to.tree };
        let at_ms = world.now_ms();
        let seq = world.append(at_ms, &event).await?;
        let state = self.fold(id).await?;
        slot.set(SessionInfo::of(id, &state, None));
        // Nobody may be watching.
        let _ = slot.said.send(Said::Recorded(Arc::new(Recorded { seq, at_ms, event })));
        rewinding.done = true;
        Ok(rewinding)
    }

    /// What a fork at a place of a session's journal would have of it, and what not. Nothing changes.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when the journal has no such place.
    pub async fn forking(&self, id: &SessionId, at: Option<Seq>) -> Result<Forking, Error> {
        self.slot(id)?;
        let events = self.journal(id).await?;
        let at = place(id, &events, at)?;
        let all: Vec<&Recorded> = events.iter().collect();
        let held = |events: &[&Recorded]| -> Vec<usize> { holding(events) };
        let cut = events.partition_point(|event| event.seq <= at);
        let kept = ForkPart::of(held(&all[..cut]).into_iter().map(|n| all[n]));
        // What holds now and lies behind the place.
        let behind = held(&all).into_iter().map(|n| all[n]).filter(|event| event.seq > at);
        let dropped = ForkPart::of(behind);
        let files = match checkpoint_at(id, &events, at) {
            Ok(_) => Some(self.compare(id, at, Seq(u64::MAX)).await?),
            Err(Error::NoCheckpoint { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Forking { at, kept, dropped, files })
    }

    /// Makes a session that goes on from where another one stood at a place of its journal: its end, when left out. It works in the same
    /// folder, whose files stay as they are; or in `into`, an empty folder, which gets the files of the last checkpoint before that place.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] when files are wanted and none were kept; [`Error::BadRequest`] when the folder is not empty, or when the
    /// journal has no such place.
    pub async fn fork(
        &self,
        id: &SessionId,
        at: Option<Seq>,
        into: Option<&Path>,
    ) -> Result<SessionInfo, Error> {
        self.slot(id)?;
        let mut events = self.journal(id).await?;
        let at = place(id, &events, at)?;
        let cut = events.partition_point(|event| event.seq <= at);
        events.truncate(cut);
        let held: Vec<Recorded> = {
            let all: Vec<&Recorded> = events.iter().collect();
            holding(&all).into_iter().map(|n| all[n].clone()).collect()
        };
        let state = State::fold(&held);
        // As it was made: the events that are copied add what servers gave it since.
        let mut created = held
            .iter()
            .find_map(|event| match &event.event {
                Event::Created(created) => Some(Created::clone(created)),
                _ => None,
            })
            .ok_or_else(|| Error::NoSession(id.clone()))?;
        let kept = match into {
            Some(_) => Some(checkpoint_at(id, &events, at)?.tree),
            None => None,
        };
        if let Some(into) = into {
            let folder = self.0.worlds.empty(into).await?;
            let (old, new) = (created.workspace.display().to_string(), folder.display().to_string());
            created.system = created.system.replace(&old, &new);
            created.workspace = folder;
        }
        let now_ms = self.0.worlds.now_ms();
        let new = SessionId::new(now_ms, random());
        let mut records = Vec::with_capacity(held.len() + 1);
        for Recorded { at_ms, event, .. } in &held {
            let event = match event {
                Event::Created(_) => Event::Created(Box::new(created.clone())),
                // Where it went has another place here; that it rested there holds.
                Event::Rewound { to, .. } => Event::Forked { from: id.clone(), at: *to },
                other => other.clone(),
            };
            records.push(encode(*at_ms, &event));
        }
        records.push(encode(now_ms, &Event::Forked { from: id.clone(), at }));
        let world = self.0.worlds.open(&new, &created).await?;
        let trees: Vec<Tree> = state.checkpoints().iter().map(|checkpoint| checkpoint.tree).collect();
        world.adopt(&trees).await?;
        if let Some(tree) = kept {
            let now = world.checkpoint().await?.ok_or_else(|| Error::NoCheckpoint { id: id.clone(), at })?;
            let changed = world.put_back(&tree, &now).await?;
            if !changed.is_empty() {
                return Err(Error::ChangedMeanwhile { paths: changed });
            }
        }
        let (memory, name) = (self.0.memory.clone(), new.clone());
        blocking(move || {
            let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            Ok(memory.journal(name.as_str())?.append_all(&records).map(drop)?)
        })
        .await?;
        let state = self.fold(&new).await?;
        Ok(self.insert(&new, SessionInfo::of(&new, &state, None)).info())
    }
}

/// A place of a session's journal that can be gone on from: its end, when left out.
fn place(id: &SessionId, events: &[Recorded], at: Option<Seq>) -> Result<Seq, Error> {
    let last = events.last().map_or(Seq(0), |event| event.seq);
    match at {
        None => Ok(last),
        Some(at) if at.0 >= 1 && at <= last => Ok(at),
        Some(at) => Err(Error::BadRequest(format!(
            "session {id} has no event {}: its events are 1 to {}; `saga sessions show {id}` lists them",
            at.0, last.0
        ))),
    }
}

/// A place of a session's journal with what the workspace held there: the last checkpoint before it, which is also the place itself where
/// something was done to the workspace since.
fn checkpoint_at(id: &SessionId, events: &[Recorded], at: Seq) -> Result<Checkpoint, Error> {
    let cut = events.partition_point(|event| event.seq <= at);
    let state = State::fold(&events[..cut]);
    let last = state.checkpoints().last().ok_or_else(|| Error::NoCheckpoint { id: id.clone(), at })?;
    let here = Checkpoint {
        seq: state.last().unwrap_or(last.seq),
        at_ms: state.updated_ms(),
        turn: state.turn(),
        step: state.step(),
        ..*last
    };
    Ok(if state.unkept() { last.clone() } else { here })
}
