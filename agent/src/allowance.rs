//! What a tenant may use in a day, and what of it is used up: counted from the journals of all its sessions.

use std::sync::{Mutex, PoisonError};

use crate::event::{Event, Recorded, Usage};

/// Milliseconds of a day. Days begin at midnight, UTC.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Tokens that all sessions of a tenant may use in a day: those of prompts that were not there already, and those that are sampled.
#[derive(Debug)]
pub struct Allowance {
    /// Tokens a day.
    most: u64,
    used: Mutex<Used>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Used {
    /// Days since 1970.
    day: u64,
    tokens: u64,
}

/// What is left of an allowance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Tokens.
    pub tokens: u64,
    /// The limit, in words that say what to do once nothing is left.
    pub limit: String,
}

impl Allowance {
    /// So many tokens a day.
    pub fn new(most: u64) -> Allowance {
        Allowance { most, used: Mutex::default() }
    }

    /// Counts what an event has cost.
    pub fn count(&self, at_ms: u64, event: &Event) {
        let Some(usage) = event.usage() else { return };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let day = at_ms / DAY_MS;
        match day.cmp(&used.day) {
            std::cmp::Ordering::Greater => *used = Used { day, tokens: tokens(usage) },
            std::cmp::Ordering::Equal => used.tokens += tokens(usage),
            // Of a day that is over.
            std::cmp::Ordering::Less => {}
        }
    }

    /// Counts what a session has used that is in its journal. What a fork or a file brought along was used by another one.
    pub fn count_all(&self, events: &[Recorded]) {
        let own = events
            .iter()
            .rposition(|recorded| matches!(recorded.event, Event::Forked { .. } | Event::Imported { .. }));
        let own = &events[own.map_or(0, |last| last + 1)..];
        own.iter().for_each(|recorded| self.count(recorded.at_ms, &recorded.event));
    }

    /// What is left at this time.
    pub fn left(&self, now_ms: u64) -> Left {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let used = if used.day == now_ms / DAY_MS { used.tokens } else { 0 };
        let minutes = (DAY_MS - now_ms % DAY_MS).div_ceil(60_000);
        let limit = format!(
            "{} tokens a day for all sessions of this tenant; in {} h {} min (midnight, UTC) there are new ones: say then that it should go \
             on, or ask whoever runs the service for more",
            self.most,
            minutes / 60,
            minutes % 60
        );
        Left { tokens: self.most.saturating_sub(used), limit }
    }
}

fn tokens(usage: Usage) -> u64 {
    usage.prompt_tokens.saturating_sub(usage.cached_tokens) + usage.output_tokens
}

#[cfg(test)]
mod tests {
    use memory::Seq;

    use super::*;
    use crate::event::{SessionId, Stop};
    use crate::goal::Checked;
    use crate::state::State;

    fn reply(at_ms: u64, usage: Usage) -> Recorded {
        let (tokens, calls, refused) = (Vec::new(), Vec::new(), Vec::new());
        let event =
            Event::Reply { step: 1, tokens, text: String::new(), calls, refused, stop: Stop::End, usage };
        Recorded { seq: Seq(1), at_ms, event }
    }

    #[test]
    fn tokens_of_the_day_are_counted_once_and_forgotten_at_midnight() {
        let usage = Usage { prompt_tokens: 30, cached_tokens: 20, output_tokens: 5, ..Usage::default() };
        let noon = 20_000 * DAY_MS + DAY_MS / 2;
        let allowance = Allowance::new(100);
        let forked = Event::Forked { from: SessionId::new(0, 0), at: Seq(1) };
        let forked = Recorded { seq: Seq(2), at_ms: noon, event: forked };
        // A session, a fork of it that has gone on, and one of yesterday.
        allowance.count_all(&[reply(noon, usage), reply(noon + 1, usage)]);
        allowance.count_all(&[reply(noon, usage), forked, reply(noon + 2, usage)]);
        allowance.count_all(&[reply(noon - DAY_MS, usage)]);
        assert_eq!(allowance.left(noon).tokens, 100 - 3 * 15);
        assert!(allowance.left(noon).limit.contains("in 12 h 0 min"), "{}", allowance.left(noon).limit);
        assert_eq!(allowance.left(noon + DAY_MS / 2).tokens, 100);
        allowance.count(noon + DAY_MS, &reply(0, Usage { output_tokens: 200, ..usage }).event);
        assert_eq!(allowance.left(noon + DAY_MS).tokens, 0);
    }

    #[test]
    fn whatever_a_model_is_asked_for_is_counted() {
        let usage =
            Some(Usage { prompt_tokens: 30, cached_tokens: 20, output_tokens: 5, ..Usage::default() });
        let (said, evidence) = (String::new(), Vec::new());
        let asked = [
            Event::Compacted { messages: 1, digest: String::new(), before_tokens: 2, after_tokens: 1, usage },
            Event::Reflected { turn: 1, notes: Vec::new(), usage },
            Event::GoalChecked(Checked { check: 1, met: true, said, evidence, barred: None, usage }),
            // It costs nothing.
            Event::Uncompacted,
        ];
        let allowance = Allowance::new(100);
        asked.iter().for_each(|event| allowance.count(1, event));
        assert_eq!(allowance.left(1).tokens, 100 - 3 * 15);
        // Nor is it forgotten by a session that is wound back.
        let at =
            |n: usize, event: &Event| Recorded { seq: Seq(n as u64 + 1), at_ms: 1, event: event.clone() };
        let mut events: Vec<Recorded> = asked.iter().enumerate().map(|(n, event)| at(n, event)).collect();
        let tree = "0".repeat(64).parse().unwrap();
        events.push(at(asked.len(), &Event::Rewound { to: Seq(0), tree }));
        assert_eq!(State::fold(&events).usage().output_tokens, 15);
    }
}
