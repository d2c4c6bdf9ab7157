//! The limits of a turn and of a session: what of them is used up.

use super::State;
use crate::event::{Budget, money};
use crate::lead::DRAFT_TOKENS_MAX;

/// So many calls in a row that lead nowhere end a turn: the model was told of each, and sampled ever more freely.
const CIRCLES_MAX: u32 = 8;
/// What is said of a limit of the session: a new turn alone does not lead past it.
const RAISE: &str = "raise it with `saga sessions budget`, and say that it should go on";

/// How long the tools of a turn have run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ToolTime {
    /// In calls that have ended. Milliseconds.
    ran_ms: u64,
    /// When the call began that runs.
    began_ms: Option<u64>,
}

impl ToolTime {
    pub(super) fn begins(&mut self, at_ms: u64) {
        // One that runs once more because its outcome was lost counts from now on.
        self.began_ms = Some(at_ms);
    }

    pub(super) fn ends(&mut self, at_ms: u64) {
        if let Some(began_ms) = self.began_ms.take() {
            self.ran_ms += at_ms.saturating_sub(began_ms);
        }
    }

    /// How long it ran before the service stopped is not known.
    pub(super) fn is_lost(&mut self) {
        self.began_ms = None;
    }
}

impl State {
    /// Which limit of its budget the session has reached, in words. Nothing is asked of the model or of a tool beyond it.
    pub(crate) fn spent(&self) -> Option<String> {
        let Budget {
            steps_max,
            output_tokens_max,
            wall_secs_max,
            session_output_tokens_max,
            tool_secs_max,
            session_cost_nanos_max,
            ..
        } = self.created.as_ref()?.budget;
        let took_ms = self.updated_ms.saturating_sub(self.turn_began_ms);
        if self.turn_steps >= steps_max {
            Some(format!("{steps_max} steps in a turn"))
        } else if self.turn_output_tokens >= output_tokens_max {
            Some(format!("{output_tokens_max} sampled tokens in a turn"))
        } else if session_output_tokens_max > 0
            && self.usage.output_tokens + self.kids_tokens() >= session_output_tokens_max
        {
            Some(format!("{session_output_tokens_max} sampled tokens in the session; {RAISE}"))
        } else if session_cost_nanos_max > 0 && self.cost_nanos() >= session_cost_nanos_max {
            Some(format!(
                "a cost of {} in the session, of which {} are spent; {RAISE}",
                money(session_cost_nanos_max),
                money(self.cost_nanos())
            ))
        } else if self.late() {
            Some(format!("{wall_secs_max} seconds in a turn, of which {} have passed", took_ms / 1000))
        } else if self.tools_late() {
            let ran = self.tool_time.ran_ms / 1000;
            Some(format!("{tool_secs_max} seconds of tools in a turn, of which they have run {ran}"))
        } else if self.circles >= CIRCLES_MAX {
            Some(format!(
                "{} calls in a row that were made before with the same answers; say what it should do instead",
                self.circles
            ))
        } else {
            None
        }
    }

    /// Whether no further call is to begin in this turn: it has taken as long as it may, or its tools have.
    pub(crate) fn overdue(&self) -> bool {
        self.late() || self.tools_late()
    }

    /// What the session has cost, its children too; in billionths.
    fn cost_nanos(&self) -> u64 {
        self.usage.cost_nanos + self.kids_cost_nanos()
    }

    /// How long the tools of this turn have run, in whole seconds.
    pub(super) fn tool_secs(&self) -> u64 {
        self.tool_time.ran_ms / 1000
    }

    fn late(&self) -> bool {
        let wall_secs_max = self.created.as_ref().map_or(0, |created| created.budget.wall_secs_max);
        let took_ms = self.updated_ms.saturating_sub(self.turn_began_ms);
        wall_secs_max > 0 && took_ms >= wall_secs_max.saturating_mul(1000)
    }

    fn tools_late(&self) -> bool {
        let tool_secs_max = self.created.as_ref().map_or(0, |created| created.budget.tool_secs_max);
        tool_secs_max > 0 && self.tool_time.ran_ms >= tool_secs_max.saturating_mul(1000)
    }

    /// How many tokens the next reply may have: what is left of all that bounds it.
    pub(crate) fn reply_tokens_max(&self) -> u32 {
        let Some(created) = &self.created else { return 0 };
        let Budget { output_tokens_max, reply_tokens_max, session_output_tokens_max, .. } = created.budget;
        let of_turn = output_tokens_max.saturating_sub(self.turn_output_tokens);
        let of_session = match session_output_tokens_max {
            0 => u64::MAX,
            most => most.saturating_sub(self.usage.output_tokens + self.kids_tokens()),
        };
        // A file that grows beyond what it was to be is none.
        let of_draft = self.drafting().map_or(u32::MAX, |_| DRAFT_TOKENS_MAX);
        let left = of_turn.min(of_session).min(u64::from(reply_tokens_max.min(of_draft)));
        u32::try_from(left).unwrap_or(reply_tokens_max)
    }

    /// What the next reply may cost: what is left of the session's budget. 0: as much as it likes.
    pub(crate) fn cost_left_nanos(&self) -> u64 {
        match self.created.as_ref().map_or(0, |created| created.budget.session_cost_nanos_max) {
            0 => 0,
            most => most.saturating_sub(self.cost_nanos()).max(1),
        }
    }
}
