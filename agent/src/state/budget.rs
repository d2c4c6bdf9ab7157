//! The limits of a turn and of a session: what of them is used up.

use super::State;
use crate::event::Budget;

/// So many calls in a row that lead nowhere end a turn: the model was told of each, and sampled ever more freely.
const CIRCLES_MAX: u32 = 8;

impl State {
    /// Which limit of its budget the session has reached, in words. Nothing is asked of the model or of a tool beyond it.
    pub(crate) fn spent(&self) -> Option<String> {
        let Budget { steps_max, output_tokens_max, wall_secs_max, session_output_tokens_max, .. } =
            self.created.as_ref()?.budget;
        let took_ms = self.updated_ms.saturating_sub(self.turn_began_ms);
        if self.turn_steps >= steps_max {
            Some(format!("{steps_max} steps in a turn"))
        } else if self.turn_output_tokens >= output_tokens_max {
            Some(format!("{output_tokens_max} sampled tokens in a turn"))
        } else if session_output_tokens_max > 0
            && self.usage.output_tokens + self.kids_tokens() >= session_output_tokens_max
        {
            Some(format!("{session_output_tokens_max} sampled tokens in the session"))
        } else if self.late() {
            Some(format!("{wall_secs_max} seconds in a turn, of which {} have passed", took_ms / 1000))
        } else if self.circles >= CIRCLES_MAX {
            Some(format!(
                "{} calls in a row that were made before with the same answers; say what it should do instead",
                self.circles
            ))
        } else {
            None
        }
    }

    /// Whether the turn has taken as long as it may.
    pub(crate) fn late(&self) -> bool {
        let wall_secs_max = self.created.as_ref().map_or(0, |created| created.budget.wall_secs_max);
        let took_ms = self.updated_ms.saturating_sub(self.turn_began_ms);
        wall_secs_max > 0 && took_ms >= wall_secs_max.saturating_mul(1000)
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
        let left = of_turn.min(of_session).min(u64::from(reply_tokens_max));
        u32::try_from(left).unwrap_or(reply_tokens_max)
    }
}
