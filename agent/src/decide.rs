//! The one next thing to do. Pure: the same state always gives the same action.

use tools::{Call, Replay};

use crate::SessionId;
use crate::child;
use crate::event::{Changed, End, Loop};
use crate::state::{Settled, Spawning, State};

/// What a session does next.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Wait for somebody.
    Rest,
    /// Start the turn that the waiting inputs ask for.
    Begin {
        /// Its number.
        turn: u32,
    },
    /// Look for what was remembered and bears on what people said.
    Recall {
        /// What they said.
        said: String,
    },
    /// Ask the model.
    Think {
        /// The number of the step.
        step: u32,
    },
    /// Run a call. One that was started before and may be run again is run again.
    Act(Call),
    /// Ask somebody whether a call may run.
    Ask {
        /// The call.
        call: Call,
        /// Why.
        why: String,
    },
    /// Write down that a call's outcome is lost.
    Lose(Call),
    /// Put files back as they were and forget the attempt that changed them.
    Undo {
        /// The files.
        files: Vec<Changed>,
        /// What people are told of it.
        note: String,
    },
    /// Ask the model what of a turn is worth remembering.
    Reflect {
        /// It.
        turn: u32,
    },
    /// Keep what the workspace holds.
    Checkpoint,
    /// Leave older messages out of the prompt.
    Compact,
    /// Bring back what a sub-agent has changed.
    Merge {
        /// It.
        child: SessionId,
    },
    /// Write down what came of the call that has begun a sub-agent.
    Return(Call),
    /// Begin a check of the goal.
    Audit {
        /// Its number.
        check: u32,
    },
    /// Write down what came of the command that checks the goal.
    Conclude {
        /// The check's number.
        check: u32,
    },
    /// Write down that the model repeats itself.
    Notice(Loop),
    /// End the turn.
    End {
        /// The turn.
        turn: u32,
        /// Why.
        end: End,
    },
    /// Write down what people said, or what the turn that ended has taught.
    Learn {
        /// The turn.
        turn: u32,
    },
}

impl State {
    /// The one next thing to do.
    pub fn next(&self) -> Action {
        if self.created().is_none() {
            return Action::Rest;
        }
        if let Some(merge) = self.unmerged() {
            return merge;
        }
        let (turn, step) = (self.turn(), self.step() + 1);
        if !self.running() {
            if let Some(diary) = self.learning() {
                return Action::Learn { turn: diary.turn() };
            }
            return match self.waiting() {
                0 if self.may_reflect() => Action::Reflect { turn },
                // Nobody waits for an answer, so this is the time to make room for the next one.
                0 if self.cramped() => Action::Compact,
                0 => Action::Rest,
                // A turn that ended before it began would end like that again.
                _ if self.held() => Action::Rest,
                _ => Action::Begin { turn: turn + 1 },
            };
        }
        if let Some(what) = self.looping() {
            return Action::Notice(what.clone());
        }
        // A call that was started and never settled means that the service stopped in between. It is settled first,
        // also when the turn was interrupted: what it did to the workspace is not known.
        // Sub-agents work while their calls wait, several beside each other; what comes after them may build on them.
        let mut waits = false;
        for (call, settled) in self.calls() {
            if child::has(&call.name) && !self.interrupted() {
                match self.spawning(call, settled) {
                    Spawning::Begin => {}
                    Spawning::Return => return Action::Return(call.clone()),
                    Spawning::Wait => {
                        waits = true;
                        continue;
                    }
                }
            } else if waits && !matches!(settled, Settled::Answered(_)) {
                break;
            }
            match settled {
                Settled::Started(Replay::Unsafe) => return Action::Lose(call.clone()),
                // What checks the goal may run any number of times, but it is not let end the service again and again.
                Settled::Started(_) if self.checks(&call.id) && self.cut_off() => {}
                Settled::Started(Replay::Safe) if !self.interrupted() => return Action::Act(call.clone()),
                // Somebody has said more, so what would be checked is not the end of the turn any more.
                Settled::Waiting | Settled::Allowed if self.checks(&call.id) && !self.answered() => {}
                // What was asked for in time is not begun when the time is over.
                Settled::Waiting | Settled::Allowed if self.overdue() => {}
                Settled::Allowed if !self.interrupted() => return Action::Act(call.clone()),
                Settled::Waiting if !self.interrupted() => {
                    return match self.guarded(call) {
                        Some(why) => Action::Ask { call: call.clone(), why },
                        None => Action::Act(call.clone()),
                    };
                }
                Settled::Asked { .. } if !self.interrupted() => return Action::Rest,
                Settled::Started(Replay::Safe)
                | Settled::Waiting
                | Settled::Asked { .. }
                | Settled::Allowed
                | Settled::Answered(_) => {}
            }
        }
        if waits && !self.interrupted() {
            return Action::Rest;
        }
        // Before anything else is done to it, and whatever the turn comes to.
        if self.unkept() {
            return Action::Checkpoint;
        }
        let end = |end| Action::End { turn, end };
        if self.interrupted() {
            return end(End::Interrupted);
        }
        if self.answered() {
            return self.pursue().unwrap_or_else(|| end(End::Done));
        }
        if let Some((files, note)) = self.failed_attempt() {
            return Action::Undo { files, note };
        }
        if let Some(limit) = self.spent() {
            return end(End::Budget { limit });
        }
        if let Some((asked, limit)) = self.full() {
            return end(End::ContextFull { asked, limit });
        }
        if self.cramped() {
            return Action::Compact;
        }
        if self.unwritten().is_some() {
            return Action::Learn { turn };
        }
        match self.unrecalled() {
            Some(said) => Action::Recall { said },
            None => Action::Think { step },
        }
    }
}
