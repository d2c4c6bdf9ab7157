//! The children of sessions: sessions like all others, but that somebody waits for.

use std::sync::{Arc, Weak};

use async_trait::async_trait;

use super::{Agent, Command, Inner, NewSession, SessionInfo, Status, blocking, encode};
use crate::Error;
use crate::child::{self, Access, Child, Mode, Parent, Returned};
use crate::drive::{Order, in_full};
use crate::event::{Created, Event, Recorded, SessionId};
use crate::family::Family;
use crate::state::{State, holding};

/// The id of the input that gives a child its task: sent again it changes nothing.
const TASK: &str = "task";

/// The way from a driver to the children of its session.
pub(super) struct Household {
    pub(super) agent: Weak<Inner>,
    pub(super) id: SessionId,
}

#[async_trait]
impl Family for Household {
    async fn begin(&self, child: &Child) -> Result<Option<Returned>, Error> {
        let agent = Agent(self.agent.upgrade().ok_or(Error::Stopping)?);
        agent.begin_child(&self.id, child).await
    }

    async fn cancel(&self, child: &SessionId) -> Result<(), Error> {
        let agent = Agent(self.agent.upgrade().ok_or(Error::Stopping)?);
        agent.order(child, |done| Order::Interrupt { done }).await.map(drop)
    }
}

/// Tells a session what its child has come to. What cannot be told now is told when the session is driven again: its driver asks.
pub(super) fn tell_parent(agent: Weak<Inner>, parent: SessionId, returned: Returned) {
    tokio::spawn(async move {
        let Some(agent) = agent.upgrade().map(Agent) else { return };
        let child = returned.child.clone();
        let told =
            agent.order(&parent, |done| Order::Returned { returned: Box::new(returned.clone()), done }).await;
        match told {
            Ok(_) | Err(Error::NoSession(_) | Error::Stopping) => {}
            Err(error) => {
                tracing::warn!(session = %parent, %child, error = %in_full(&error), "a session cannot be told of its sub-agent's end");
            }
        }
    });
}

impl Agent {
    async fn begin_child(&self, parent: &SessionId, child: &Child) -> Result<Option<Returned>, Error> {
        if !self.slots().contains_key(&child.child) {
            self.make_child(parent, child).await?;
        }
        let task = Command::Input { id: TASK.to_string(), text: child::brief(child) };
        self.submit(&child.child, task).await?;
        Ok(self.fold(&child.child).await?.returned(&child.child))
    }

    async fn make_child(&self, parent: &SessionId, child: &Child) -> Result<(), Error> {
        let events = self.journal(parent).await?;
        let held: Vec<&Recorded> = {
            let all: Vec<&Recorded> = events.iter().collect();
            holding(&all).into_iter().map(|n| all[n]).collect()
        };
        let state = State::fold(&events);
        let created = held.iter().find_map(|recorded| match &recorded.event {
            Event::Created(created) => Some(Created::clone(created)),
            _ => None,
        });
        let created = created.ok_or_else(|| Error::NoSession(parent.clone()))?;
        let mut made = match child.mode {
            Mode::Fork => created.clone(),
            Mode::Clean => {
                let new = NewSession {
                    workspace: created.workspace.clone(),
                    model: Some(created.model.clone()),
                    rules: created.rules.clone(),
                    memory: Some(false),
                    ..NewSession::default()
                };
                let mut made = self.0.worlds.plan(&new).await?;
                let may = |name: &String| child.only.as_ref().is_none_or(|only| only.contains(name));
                made.tools.retain(|tool| !child::has(&tool.name) && may(&tool.name));
                made
            }
        };
        if let Some(base) = child.base.as_ref().filter(|_| child.access == Access::Own) {
            let folder = self.0.worlds.branch(&child.child, base).await?;
            if child.mode == Mode::Clean {
                let (old, new) = (made.workspace.display().to_string(), folder.display().to_string());
                made.system = made.system.replace(&old, &new);
            }
            made.workspace = folder;
        }
        made.parent = Some(Parent {
            session: parent.clone(),
            call: child.call.clone(),
            access: child.access,
            external: state.external(),
            only: child.only.clone(),
        });
        made.budget = child.budget;
        // Its task was written by a model, and must not be learned as what a person said.
        made.memory = false;
        made.checkpoints &= child.access == Access::Own;
        made.children_max = 0;
        made.until = None;
        let mut records = Vec::new();
        let now_ms = self.0.worlds.now_ms();
        match child.mode {
            Mode::Clean => records.push(encode(now_ms, &Event::Created(Box::new(made)))),
            Mode::Fork => {
                let asks = |recorded: &&Recorded| match &recorded.event {
                    Event::Reply { calls, .. } => calls.iter().any(|call| call.id == child.call),
                    _ => false,
                };
                let cut = held.iter().rposition(asks).ok_or_else(|| {
                    Error::BadRequest(format!("no reply of session {parent} asks for {}", child.call))
                })?;
                for Recorded { at_ms, event, .. } in &held[..=cut] {
                    let event = match event {
                        Event::Created(_) => Event::Created(Box::new(made.clone())),
                        Event::Rewound { to, .. } => Event::Forked { from: parent.clone(), at: *to },
                        other => other.clone(),
                    };
                    records.push(encode(*at_ms, &event));
                }
                records.push(encode(now_ms, &Event::Forked { from: parent.clone(), at: held[cut].seq }));
            }
        }
        let (memory, name) = (self.0.memory.clone(), child.child.clone());
        blocking(move || {
            let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            Ok(memory.journal(name.as_str())?.append_all(&records).map(drop)?)
        })
        .await?;
        let state = self.fold(&child.child).await?;
        self.insert(&child.child, SessionInfo::of(&child.child, &state, None));
        Ok(())
    }

    /// The children of a session, by their names.
    pub(super) fn children(
        &self,
        parent: &SessionId,
        which: impl Fn(&SessionInfo) -> bool,
    ) -> Vec<SessionId> {
        let slots: Vec<Arc<super::Slot>> = self.slots().values().cloned().collect();
        let infos = slots.iter().map(|slot| slot.info());
        infos.filter(|info| info.parent.as_ref() == Some(parent) && which(info)).map(|info| info.id).collect()
    }

    /// Stops the children that a session has left working in the background.
    pub(super) async fn interrupt_children(&self, parent: &SessionId) {
        let working = |info: &SessionInfo| matches!(info.status, Status::Running | Status::Asking);
        for child in self.children(parent, working) {
            if let Err(error) = self.order(&child, |done| Order::Interrupt { done }).await {
                tracing::warn!(session = %parent, %child, error = %in_full(&error), "a sub-agent could not be stopped");
            }
        }
    }
}
