//! The room in the model's context: what fills it, and what was left out to make some.

use std::collections::BTreeMap;
use std::sync::Arc;

use memory::Seq;
use serde::{Deserialize, Serialize};

use super::{Settled, State};
use crate::compact;
use crate::context::Message;

/// What is known of the room in the model's context, and what was done to make some.
#[derive(Debug, Clone, Default)]
pub(super) struct Room {
    /// Tokens the context holds; 0 while that is not known.
    pub(super) window: u64,
    /// Tokens of the prompt with the last reply, as far as they were counted.
    pub(super) prompt: u64,
    /// What the model of the last step said that it asked for and there was no room for.
    pub(super) full: Option<(u64, u64)>,
    /// Somebody wants room to be made; perhaps they said what matters to them.
    pub(super) asked: Option<Option<String>>,
    /// Messages that are left out, oldest first, and what was done about it.
    pub(super) left_out: Vec<Message>,
    pub(super) compactions: Vec<Compaction>,
    /// Whether nothing was replied since room was made or could not be made: then trying again would lead nowhere.
    pub(super) tried: bool,
    /// Whether somebody wants to see it all, as long as there is room.
    pub(super) reluctant: bool,
}

/// Messages that were left out together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compaction {
    /// The place of the event.
    pub seq: Seq,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// How many messages of the conversation.
    pub messages: usize,
    /// Tokens of the prompt before …
    pub before_tokens: u64,
    /// … and after.
    pub after_tokens: u64,
    /// What the model is shown in their place, and in the place of an earlier digest.
    pub digest: String,
}

impl State {
    /// Messages are left out of the conversation, and a digest stands for them.
    pub(super) fn compacted(&mut self, compaction: Compaction) {
        let head = self.head();
        let conversation = Arc::make_mut(&mut self.conversation);
        if conversation.len() < head + compaction.messages {
            return;
        }
        self.room.left_out.extend(conversation.drain(head..head + compaction.messages));
        conversation.drain(1.min(conversation.len())..head);
        conversation.insert(1.min(conversation.len()), Message::User { text: compaction.digest.clone() });
        // An attempt that goes on longer than there is room for is kept as it is.
        self.attempt = None;
        self.room.prompt = compaction.after_tokens;
        self.room.full = None;
        self.room.asked = None;
        self.room.tried = true;
        self.room.compactions.push(compaction);
        // What folders say may be among what is left out: it is told again when the session comes there again.
        self.guided.clear();
        // Where the model was told of tools may be left out now, and the prompt is computed anew in any case.
        self.place_tools();
    }

    pub(super) fn uncompacted(&mut self) {
        let head = self.head();
        let Some(last) = self.room.compactions.pop() else { return };
        let from = self.room.left_out.len().saturating_sub(last.messages);
        let back = self.room.left_out.split_off(from);
        let conversation = Arc::make_mut(&mut self.conversation);
        let digest = self.room.compactions.last().map(|before| Message::User { text: before.digest.clone() });
        conversation.splice(1.min(conversation.len())..head, digest.into_iter().chain(back));
        self.room.prompt = last.before_tokens;
        self.room.asked = None;
        // Whoever wants to see it all again does not want it to be left out at once.
        self.room.reluctant = true;
        self.room.tried = false;
    }

    /// How many messages at the front of the conversation are its system prompt and a digest.
    pub(crate) fn head(&self) -> usize {
        (1 + usize::from(!self.room.compactions.is_empty())).min(self.conversation.len())
    }

    /// Whether room has to be made before the model is asked again; between turns also when it will be needed soon.
    pub(crate) fn cramped(&self) -> bool {
        let room = &self.room;
        if room.asked.is_some() {
            return true;
        }
        if room.tried || room.reluctant {
            return false;
        }
        // What the model has not been shown yet comes on top of what was counted. Four bytes are about a token.
        let untold: usize = self
            .calls
            .iter()
            .map(|(_, settled)| match settled {
                Settled::Answered(answer) => answer.text.len() / 4,
                Settled::Waiting | Settled::Asked { .. } | Settled::Allowed | Settled::Started(_) => 0,
            })
            .sum();
        let mid_turn = self.running && self.turn_steps > 0;
        room.full.is_some()
            || self.attempt.is_none() && compact::due(room.prompt + untold as u64, room.window, mid_turn)
    }

    /// Why the model cannot be asked again: there is no room, and making some was of no use.
    pub(crate) fn full(&self) -> Option<(u64, u64)> {
        self.room.full.filter(|_| self.room.tried)
    }

    /// Whether room has to be made at any price, and what somebody wants to be kept most of all.
    pub(crate) fn pressed(&self) -> (bool, Option<&str>) {
        let asked = self.room.asked.as_ref();
        (asked.is_some() || self.room.full.is_some(), asked.and_then(|focus| focus.as_deref()))
    }

    /// What a digest is made of, if `messages` more are left out.
    pub(crate) fn left_out_with(&self, messages: usize) -> Vec<Message> {
        let head = self.head();
        let more = self.conversation.get(head..head + messages).unwrap_or_default();
        self.room.left_out.iter().chain(more).cloned().collect()
    }

    /// What came of calls, by their ids.
    pub(crate) fn outcomes(&self) -> &BTreeMap<String, (bool, String)> {
        &self.outcomes
    }

    /// The times that messages were left out and that hold, oldest first.
    pub fn compactions(&self) -> &[Compaction] {
        &self.room.compactions
    }

    /// Messages that the model is not shown any more, oldest first.
    pub fn left_out(&self) -> &[Message] {
        &self.room.left_out
    }

    /// Tokens that the model's context holds, as far as they are known.
    pub fn window(&self) -> Option<u64> {
        Some(self.room.window).filter(|window| *window > 0)
    }

    /// Tokens of the prompt with the last reply, as they were counted then.
    pub fn prompt_tokens(&self) -> u64 {
        self.room.prompt
    }
}
