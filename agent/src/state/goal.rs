//! The goal of a session: what is checked when a turn would end, and how far that has got.

use std::sync::Arc;

use tools::{Call, Outcome};

use super::{Settled, State};
use crate::decide::Action;
use crate::event::End;
use crate::goal::{self, Checked, Goal, Test};

/// What is known of a session's goal.
#[derive(Debug, Clone, Default)]
pub(super) struct Pursuit {
    goal: Option<Arc<Goal>>,
    /// A goal that holds from the input of this id on: until that is durable, nobody was promised anything.
    coming: Option<(String, Arc<Goal>)>,
    /// The step after which what calls show is evidence.
    since: u32,
    met: bool,
    /// Checks of the session, and those of this turn that said no.
    checks: u32,
    rounds: u32,
    /// The check under way, and how often in a row its command was begun and cut off.
    checking: Option<u32>,
    begun: u32,
    outcome: Option<Outcome>,
    /// What the model has not been told yet.
    feedback: Option<Arc<str>>,
    last: Option<Checked>,
}

/// How far a session has got with its goal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progressed<'a> {
    /// The goal.
    pub goal: &'a Goal,
    /// Whether it is reached.
    pub met: bool,
    /// How often it was checked in this turn, or in the last one, and not reached.
    pub rounds: u32,
    /// What came of the last check.
    pub last: Option<&'a Checked>,
}

/// A check that was begun and cut off by the service's end so often is not begun again: it may be what ended it.
const CUT_OFF_MAX: u32 = 3;

impl State {
    /// The goal of the session and how far it has got; nothing when it has none.
    pub fn goal(&self) -> Option<Progressed<'_>> {
        let Pursuit { goal, met, rounds, last, .. } = &self.pursuit;
        Some(Progressed { goal: goal.as_deref()?, met: *met, rounds: *rounds, last: last.as_ref() })
    }

    /// Whether a call is a check of the goal: its outcome is no answer to the model.
    pub(crate) fn checks(&self, id: &str) -> bool {
        self.pursuit.checking.is_some_and(|check| id.strip_prefix('g') == Some(check.to_string().as_str()))
    }

    /// What calls have shown since the goal was set, oldest first.
    pub(crate) fn shown_since(&self) -> impl Iterator<Item = (&str, &str)> {
        let since = self.pursuit.since;
        goal::shown(&self.room.left_out, since).chain(goal::shown(&self.conversation, since))
    }

    /// What came of the command that checks the goal, as an event is made of it.
    pub(crate) fn concluded(&self) -> Option<Checked> {
        let Pursuit { goal, checking, outcome, begun, .. } = &self.pursuit;
        let check = (*checking)?;
        let call = goal.as_ref()?.call(check)?;
        if outcome.is_none() && *begun >= CUT_OFF_MAX {
            let why = format!(
                "the service stopped {begun} times while its check ran; see whether the check is what stops it, then say how to go on"
            );
            return Some(goal::barred(check, why));
        }
        let why = self.calls.iter().find_map(|(call, settled)| match settled {
            Settled::Answered(answer) if self.checks(&call.id) => Some(answer.text.clone()),
            _ => None,
        });
        Some(goal::by_command(
            &call,
            check,
            outcome.as_ref().ok_or(why.as_deref().unwrap_or("it was not run")),
        ))
    }

    /// What is to be done about the goal before the turn may end; nothing when there is none, or it is reached.
    pub(crate) fn pursue(&self) -> Option<Action> {
        let Pursuit { goal, met, rounds, checking, last, .. } = &self.pursuit;
        let goal = goal.as_ref().filter(|_| !met)?;
        let turn = self.turn;
        let end = |end| Some(Action::End { turn, end });
        if let (Some(check), Test::Command(_)) = (*checking, &goal.test) {
            return match self.spent().filter(|_| self.overdue() && self.pursuit.outcome.is_none()) {
                Some(limit) => end(End::Budget { limit }),
                None => Some(Action::Conclude { check }),
            };
        }
        if let Some(why) = last.as_ref().filter(|_| *rounds > 0).and_then(|last| last.barred.as_ref()) {
            return end(End::GoalUnmet { question: format!("the goal cannot be checked: {why}") });
        }
        if *rounds >= goal.rounds_max {
            let times = if *rounds == 1 { "once".to_string() } else { format!("{rounds} times") };
            return end(End::GoalUnmet {
                question: format!(
                    "the goal was checked {times} and is not reached: {}; say how to go on",
                    goal.in_words()
                ),
            });
        }
        // A command takes no tokens: what the last step has done is looked at, whatever is left for another one.
        match (&goal.test, self.spent()) {
            (Test::Command(_), Some(limit)) if self.overdue() => return end(End::Budget { limit }),
            (Test::Judged(_), Some(limit)) => return end(End::Budget { limit }),
            (Test::Judged(_), None) => {
                if let Some((asked, limit)) = self.full() {
                    return end(End::ContextFull { asked, limit });
                }
                if self.cramped() {
                    return Some(Action::Compact);
                }
            }
            (Test::Command(_), _) => {}
        }
        Some(Action::Audit { check: self.pursuit.checks + 1 })
    }

    /// Whether the check's command has been begun and cut off as often as it may.
    pub(crate) fn cut_off(&self) -> bool {
        self.pursuit.begun >= CUT_OFF_MAX
    }

    pub(super) fn goal_set(&mut self, goal: &Goal, input: Option<&String>) {
        match input {
            Some(id) => self.pursuit.coming = Some((id.clone(), Arc::new(goal.clone()))),
            None => self.goal_holds(Arc::new(goal.clone())),
        }
    }

    fn goal_holds(&mut self, goal: Arc<Goal>) {
        let checks = self.pursuit.checks;
        self.goal_check_ends();
        self.pursuit = Pursuit { goal: Some(goal), since: self.step, checks, ..Pursuit::default() };
    }

    pub(super) fn goal_dropped(&mut self) {
        self.goal_check_ends();
        self.pursuit = Pursuit { checks: self.pursuit.checks, ..Pursuit::default() };
    }

    /// What the model is shown of an input: with the goal that came with it, or that the session was made with.
    pub(super) fn with_goal(&mut self, id: &str, text: &Arc<str>) -> Arc<str> {
        let coming = self.pursuit.coming.take_if(|(input, _)| input == id);
        let first = self.inputs.is_empty();
        if let Some((_, goal)) = coming {
            self.goal_holds(goal);
        } else if !first {
            return text.clone();
        }
        match &self.pursuit.goal {
            Some(goal) => goal::with_words(text, goal).into(),
            None => text.clone(),
        }
    }

    /// A check begins.
    pub(super) fn goal_checking(&mut self, check: u32, call: Option<&Call>) {
        self.pursuit.checks = check;
        self.pursuit.checking = Some(check);
        self.pursuit.begun = 0;
        self.pursuit.outcome = None;
        if let Some(call) = call {
            self.calls.push((call.clone(), Settled::Waiting));
        }
    }

    /// The command of the check starts, and may change the workspace.
    pub(super) fn goal_call_started(&mut self) {
        self.pursuit.begun += 1;
        self.changed = true;
    }

    pub(super) fn goal_call_finished(&mut self, outcome: &Outcome) {
        self.pursuit.outcome = Some(outcome.clone());
    }

    /// A check has come to something. What somebody says meanwhile asks for more than it has looked at.
    pub(super) fn goal_checked(&mut self, checked: &Checked) {
        let usage = checked.usage.unwrap_or_default();
        self.usage = self.usage.plus(usage);
        self.turn_output_tokens += usage.output_tokens;
        self.pursuit.checks = self.pursuit.checks.max(checked.check);
        self.goal_check_ends();
        let Some(goal) = self.pursuit.goal.clone().filter(|_| self.answered) else { return };
        self.pursuit.met = checked.met;
        self.pursuit.last = Some(checked.clone());
        if checked.met {
            return;
        }
        self.pursuit.rounds += 1;
        if checked.barred.is_none() {
            self.pursuit.feedback = Some(goal::feedback(&goal, checked, self.pursuit.rounds).into());
            self.answered = self.pursuit.rounds >= goal.rounds_max;
        }
    }

    /// No check is under way any more; its call was none of the model's.
    pub(super) fn goal_check_ends(&mut self) {
        if let Some(check) = self.pursuit.checking {
            let id = format!("g{check}");
            self.calls.retain(|(call, _)| call.id != id);
        }
        self.pursuit.checking = None;
        self.pursuit.outcome = None;
    }

    /// A turn begins: it has all its rounds before it.
    pub(super) fn goal_turn(&mut self) {
        self.pursuit.rounds = 0;
    }

    /// What the model is told before anything else that it has not been shown.
    pub(super) fn goal_told(&mut self) {
        self.goal_check_ends();
        if let Some(feedback) = self.pursuit.feedback.take() {
            self.waiting.insert(0, feedback);
        }
    }

    /// The turn is over: what a check said is told with what somebody says next.
    pub(super) fn goal_rests(&mut self) {
        self.goal_check_ends();
        self.asides.extend(self.pursuit.feedback.take());
    }
}
