//! What a driver does about the children of its session.

use tools::{Call, Outcome};

use super::{Abandon, Driver, in_full, refuse};
use crate::agent::Admitted;
use crate::child::{self, Access, Child, Merged, Returned};
use crate::event::{End, Event, Usage};
use crate::world::Cancel;
use crate::{Error, SessionId};
use memory::Seq;
use tokio::sync::{mpsc, oneshot};
use tools::Replay;

impl Driver<'_> {
    /// Begins the child that a call asks for. What makes it is durable before it is there; its call ends when it does.
    pub(super) async fn spawn(&mut self, call: Call) -> Result<(), Error> {
        self.reached(None).await?;
        self.record(Event::CallStarted { id: call.id.clone(), replay: Replay::Safe, before: None }).await?;
        match self.child(&call).await {
            Ok(child) => {
                self.record(Event::ChildStarted(Box::new(child.clone()))).await?;
                self.begin_child(&child).await
            }
            Err(Error::Stopping) => Err(Error::Stopping),
            Err(error) => self.finish(&call, Outcome::refused(in_full(&error))).await,
        }
    }

    /// The child that a call asks for.
    async fn child(&self, call: &Call) -> Result<Child, Error> {
        let created = self.state.created().expect("only a created session has calls").clone();
        if created.children_max == 0 {
            return Err(Error::BadRequest("not begun: this session begins no sub-agents".to_string()));
        }
        let wish = child::read(call, &created.tools).map_err(Error::BadRequest)?;
        let budget = self.state.kid_budget(&wish).map_err(Error::BadRequest)?;
        let base = match wish.access {
            Access::Read => None,
            Access::Own => {
                let tree = match created.checkpoints {
                    true => self.world.checkpoint().await?,
                    false => None,
                };
                Some(tree.ok_or_else(|| {
                    Error::BadRequest(
                        "not begun: workspaces are not kept here, so there can be no copy of this one; use workspace \"read\""
                            .to_string(),
                    )
                })?)
            }
        };
        let at = self.state.last().unwrap_or(Seq(0)).0;
        Ok(Child {
            call: call.id.clone(),
            child: child::name(self.id, &call.id, at),
            task: wish.task,
            mode: wish.mode,
            access: wish.access,
            only: wish.only,
            budget,
            background: wish.background,
            base,
        })
    }

    /// Sees to it that a child works, and hears what it has come to if it does no more.
    async fn begin_child(&mut self, child: &Child) -> Result<(), Error> {
        let (switch, _) = Cancel::pair();
        let (_, mut none) = mpsc::channel(1);
        let family = self.family;
        // Begun again it is the same.
        let Some(begun) = self.until(family.begin(child), &switch, Abandon::Yes, &mut none).await? else {
            return Ok(());
        };
        match begun {
            Ok(None) => Ok(()),
            Ok(Some(returned)) => self.returned(returned).await,
            Err(Error::Stopping) => Err(Error::Stopping),
            Err(error) => {
                let end = End::Failed { error: format!("it could not be begun: {}", in_full(&error)) };
                let (answer, usage) = (String::new(), Usage::default());
                let child = child.child.clone();
                self.returned(Returned { child, end, answer, steps: 0, usage, tree: None, external: false })
                    .await
            }
        }
    }

    /// Sees to the children of a session whose driver begins: the service may have stopped in between.
    pub(super) async fn gather(&mut self) -> Result<(), Error> {
        let working: Vec<Child> = self.state.working().map(|kid| kid.child.clone()).collect();
        for child in working {
            if self.closing {
                return Ok(());
            }
            self.begin_child(&child).await?;
        }
        Ok(())
    }

    /// Stops the children of a session that somebody stops.
    pub(super) async fn cancel_children(&mut self) -> Result<(), Error> {
        let working: Vec<SessionId> = self.state.working().map(|kid| kid.child.child.clone()).collect();
        for child in working {
            match self.family.cancel(&child).await {
                Ok(()) | Err(Error::NoSession(_)) => {}
                Err(Error::Stopping) => return Err(Error::Stopping),
                Err(error) => {
                    tracing::warn!(session = %self.id, %child, error = %in_full(&error), "a sub-agent could not be stopped");
                }
            }
        }
        Ok(())
    }

    /// A child tells what it has come to.
    pub(super) async fn hear_child(
        &mut self,
        returned: Returned,
        done: oneshot::Sender<Result<Admitted, Error>>,
    ) -> Result<(), Error> {
        let waits = self.state.kid(&returned.child).is_some_and(|kid| kid.returned.is_none());
        let seq = match waits {
            true => match self.write(Event::ChildEnded(Box::new(returned))).await {
                Ok(seq) => seq,
                Err(error) => return refuse(done, error),
            },
            false => self.state.last().unwrap_or(Seq(0)),
        };
        let _ = done.send(Ok(Admitted { seq, fresh: waits }));
        Ok(())
    }

    async fn returned(&mut self, returned: Returned) -> Result<(), Error> {
        match self.state.kid(&returned.child).is_some_and(|kid| kid.returned.is_none()) {
            true => self.record(Event::ChildEnded(Box::new(returned))).await,
            // It has told so itself meanwhile.
            false => Ok(()),
        }
    }

    /// Brings back what a child has changed. Doing so again after it was cut off changes nothing more.
    pub(super) async fn merge(&mut self, child: SessionId) -> Result<(), Error> {
        let kid = self.state.kid(&child).expect("only a known child has changes").clone();
        let trees = (kid.child.base, kid.returned.and_then(|returned| returned.tree));
        let (Some(base), Some(theirs)) = trees else { return Ok(()) };
        let merged = match self.world.merge(&base, &theirs).await {
            Ok(merged) => merged,
            Err(Error::Stopping) => return Err(Error::Stopping),
            Err(error) => Merged { trouble: Some(in_full(&error)), ..Merged::default() },
        };
        self.record(Event::ChildMerged { child, merged }).await
    }

    /// The call that began a child comes to its end.
    pub(super) async fn child_returns(&mut self, call: Call) -> Result<(), Error> {
        let kid = self.state.kid_of(&call.id).expect("only a call with a child returns");
        let outcome = match &kid.returned {
            Some(returned) if !kid.child.background => {
                child::outcome(&kid.child, returned, kid.merged.as_ref())
            }
            _ => child::in_background(&kid.child),
        };
        self.finish(&call, outcome).await
    }

    async fn finish(&mut self, call: &Call, outcome: Outcome) -> Result<(), Error> {
        self.record(Event::CallFinished { id: call.id.clone(), outcome, left: None, recalled: Vec::new() })
            .await
    }
}
