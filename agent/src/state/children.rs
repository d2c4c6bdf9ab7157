//! The children of a session: those it has begun, what they came to, and what they take of its budget.

use tools::Call;

use super::{Settled, State};
use crate::SessionId;
use crate::child::{self, Child, Merged, Returned};
use crate::context::Answer;
use crate::decide::Action;
use crate::event::{Budget, End};

/// A child and how far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Kid {
    /// As it was begun.
    pub child: Child,
    /// What it has come to.
    pub returned: Option<Returned>,
    /// What came of bringing its changes back.
    pub merged: Option<Merged>,
    /// Whether the model was told of its end.
    told: bool,
}

impl Kid {
    /// Whether its changes are to be brought back and were not yet.
    fn unmerged(&self) -> bool {
        let worth = |returned: &Returned| returned.end == End::Done && returned.tree.is_some();
        self.child.base.is_some() && self.merged.is_none() && self.returned.as_ref().is_some_and(worth)
    }

    /// Tokens that it has taken, or that are set aside for it while it works.
    fn tokens(&self) -> u64 {
        match &self.returned {
            Some(returned) => returned.usage.output_tokens,
            None => self.child.budget.session_output_tokens_max,
        }
    }

    /// What it has cost, or may cost while it works; in billionths.
    fn cost_nanos(&self) -> u64 {
        match &self.returned {
            Some(returned) => returned.usage.cost_nanos,
            None => self.child.budget.session_cost_nanos_max,
        }
    }
}

/// What is left of a limit that is not 0, of which 1 stays: 0 would mean that there is none.
fn left_of(limit: u64, spent: u64) -> u64 {
    if limit == 0 { 0 } else { limit.saturating_sub(spent).max(1) }
}

/// What is to be done about a call that begins a child.
pub(crate) enum Spawning {
    /// It is begun like any call.
    Begin,
    /// A child is waited for: its own, or one that has to end before there is room for another.
    Wait,
    /// The call comes to its end.
    Return,
}

impl State {
    /// The children of the session, oldest first.
    pub fn kids(&self) -> &[Kid] {
        &self.kids
    }

    /// Those that work.
    pub(crate) fn working(&self) -> impl Iterator<Item = &Kid> {
        self.kids.iter().filter(|kid| kid.returned.is_none())
    }

    pub(crate) fn kid(&self, child: &SessionId) -> Option<&Kid> {
        self.kids.iter().find(|kid| kid.child.child == *child)
    }

    fn kid_mut(&mut self, child: &SessionId) -> Option<&mut Kid> {
        self.kids.iter_mut().find(|kid| kid.child.child == *child)
    }

    /// Tokens that children have taken, and that are set aside for those that work.
    pub(crate) fn kids_tokens(&self) -> u64 {
        self.kids.iter().map(Kid::tokens).sum::<u64>() + self.lost_tokens
    }

    /// What all children have cost, or may cost while they work; in billionths.
    pub(crate) fn kids_cost_nanos(&self) -> u64 {
        self.kids.iter().map(Kid::cost_nanos).sum::<u64>() + self.lost_cost_nanos
    }

    /// The child of a call that is under way.
    pub(crate) fn kid_of(&self, call: &str) -> Option<&Kid> {
        self.kids.iter().rev().find(|kid| kid.child.call == call && !kid.told)
    }

    /// What is to be done about a call that begins a child.
    pub(crate) fn spawning(&self, call: &Call, settled: &Settled) -> Spawning {
        let room = self.created.as_ref().map_or(0, |created| created.children_max) as usize;
        match (settled, self.kid_of(&call.id)) {
            (Settled::Started(_), Some(kid)) if kid.child.background || kid.returned.is_some() => {
                Spawning::Return
            }
            (Settled::Started(_), Some(_)) => Spawning::Wait,
            (Settled::Waiting | Settled::Allowed, _) if self.working().count() >= room.max(1) => {
                Spawning::Wait
            }
            _ => Spawning::Begin,
        }
    }

    /// The next child whose changes are to be brought back.
    pub(crate) fn unmerged(&self) -> Option<Action> {
        let kid = self.kids.iter().find(|kid| kid.unmerged())?;
        Some(Action::Merge { child: kid.child.child.clone() })
    }

    /// The limits of a child that is wished for; why there are none, in words for the model.
    pub(crate) fn kid_budget(&self, wish: &child::Wish) -> Result<Budget, String> {
        let own = self.created.as_ref().map(|created| created.budget).unwrap_or_default();
        let mut tokens = wish.output_tokens;
        if own.session_output_tokens_max > 0 {
            let spent = self.usage.output_tokens + self.kids_tokens();
            let left = own.session_output_tokens_max.saturating_sub(spent);
            if left == 0 {
                return Err("not begun: nothing is left of the session's tokens, or all of it is set aside for other sub-agents".into());
            }
            tokens = tokens.min(left);
        }
        let mut wall_secs_max = wish.wall_secs;
        if own.wall_secs_max > 0 {
            let took = self.updated_ms.saturating_sub(self.turn_began_ms) / 1000;
            wall_secs_max = wall_secs_max.min(own.wall_secs_max.saturating_sub(took).max(1));
        }
        Ok(Budget {
            steps_max: wish.steps,
            output_tokens_max: tokens,
            reply_tokens_max: own.reply_tokens_max,
            wall_secs_max,
            // It may be spoken to, and takes no more for that.
            session_output_tokens_max: tokens,
            tool_secs_max: left_of(own.tool_secs_max, self.tool_secs()),
            session_cost_nanos_max: left_of(
                own.session_cost_nanos_max,
                self.usage.cost_nanos + self.kids_cost_nanos(),
            ),
        })
    }

    /// Why a call is not to run in a child; nothing where it may.
    pub(crate) fn barred(&self, call: &Call) -> Option<String> {
        let parent = self.created.as_ref()?.parent.as_ref()?;
        if child::has(&call.name) {
            return Some("a sub-agent begins no sub-agents".to_string());
        }
        let only = parent.only.as_ref()?;
        (!only.contains(&call.name)).then(|| format!("this sub-agent may use {}", only.join(", ")))
    }

    pub(super) fn child_started(&mut self, child: &Child) {
        self.kids.push(Kid { child: child.clone(), returned: None, merged: None, told: false });
    }

    pub(super) fn child_ended(&mut self, returned: &Returned) {
        let Some(kid) = self.kid_mut(&returned.child).filter(|kid| kid.returned.is_none()) else { return };
        kid.returned = Some(returned.clone());
        if returned.external {
            self.external = true;
            self.doubtful = true;
            self.diary.read_external();
        }
        self.child_told(&returned.child);
    }

    pub(super) fn child_merged(&mut self, child: &SessionId, merged: &Merged) {
        let Some(kid) = self.kid_mut(child) else { return };
        kid.merged = Some(merged.clone());
        self.changed |= !merged.files.is_empty();
        for path in &merged.files {
            self.known.forget(path);
        }
        self.child_told(child);
    }

    /// Tells the model of a child whose call waits for nothing any more, once all is known of it.
    fn child_told(&mut self, child: &SessionId) {
        let (running, done) = (self.running, self.ended == Some(End::Done));
        let asked = |call: &str| {
            self.calls
                .iter()
                .any(|(known, settled)| known.id == call && !matches!(settled, Settled::Answered(_)))
        };
        let Some(kid) = self.kid(child) else { return };
        if kid.told || kid.unmerged() || !kid.child.background && asked(&kid.child.call) {
            return;
        }
        let Some(returned) = &kid.returned else { return };
        let news = child::news(&child::outcome(&kid.child, returned, kid.merged.as_ref())).into();
        if let Some(kid) = self.kid_mut(child) {
            kid.told = true;
        }
        // Whoever stopped the session does not want it to go on by itself.
        if running || done {
            self.waiting.append(&mut self.asides);
            self.waiting.push(news);
            self.answered = false;
        } else {
            self.asides.push(news);
        }
    }

    /// The call that began a child has its outcome.
    pub(super) fn child_call_finished(&mut self, call: &str) {
        let done = self.kids.iter_mut().rev().find(|kid| kid.child.call == call && !kid.told);
        if let Some(kid) = done.filter(|kid| !kid.child.background && kid.returned.is_some()) {
            kid.told = true;
        }
    }

    /// The session goes on from where another one stood: that one's children are not its own. A child of that one begins here.
    pub(super) fn forked(&mut self) {
        self.kids.clear();
        let Some(parent) = self.created.as_ref().and_then(|created| created.parent.clone()) else { return };
        for (call, settled) in &mut self.calls {
            *settled = Settled::Answered(Answer::to(call, child::begun_here(call, &parent)));
        }
        self.goal_dropped();
        self.born_step = self.step;
        self.usage = Default::default();
        self.lost_tokens = 0;
        self.lost_cost_nanos = 0;
    }

    /// What a child has come to, for its parent; nothing in a session that is no child, and while it works.
    pub(crate) fn returned(&self, id: &SessionId) -> Option<Returned> {
        let created = self.created.as_ref()?;
        created.parent.as_ref()?;
        let end = self.ended.clone().filter(|_| !self.running && self.waiting.is_empty())?;
        let answer = self.conversation.iter().rev().find_map(|message| match message {
            crate::Message::Assistant { text, .. } if !text.trim().is_empty() => Some(child::shortened(text)),
            _ => None,
        });
        Some(Returned {
            child: id.clone(),
            end,
            answer: answer.unwrap_or_default(),
            steps: self.step - self.born_step.min(self.step),
            usage: self.usage,
            tree: self.checkpoints.last().map(|checkpoint| checkpoint.tree).filter(|_| created.checkpoints),
            external: self.external,
        })
    }
}
