//! What a model thinks is worth remembering of a turn: asked beside the session while nobody waits, and given up as soon as
//! somebody does.

use super::{Driver, in_full, in_words};
use crate::Error;
use crate::context::Message;
use crate::event::{Event, Stop};
use crate::learn::Lessons;
use crate::world::{Cancel, Sink};

/// The most a model may say. Tokens.
const TOKENS_MAX: u32 = 300;

impl Driver<'_> {
    /// Asks what the turn showed, lets through what can be held against the session, and adds it to the notes. What a model concludes
    /// takes no other note's place and is told to nobody unasked before somebody accepts it.
    pub(super) async fn reflect(&mut self, turn: u32) -> Result<(), Error> {
        let Some(diary) = self.state.reflecting().cloned() else { return Ok(()) };
        let created = self.state.created().expect("only a created session has a turn").clone();
        let conversation = self.state.conversation().clone();
        let mut asked = conversation.to_vec();
        asked.push(Message::User { text: include_str!("../prompts/reflect.md").trim().to_string() });
        let mut asking = created.as_ref().clone();
        asking.budget.reply_tokens_max = self.state.reply_tokens_max().min(TOKENS_MAX);
        let manner = in_words(&created);
        let (switch, cancel) = Cancel::pair();
        let (world, quiet) = (self.world, Sink::none());
        let thought = world.think(&asked, &asking, &manner, &cancel, &quiet);
        tokio::pin!(thought);
        let thought = loop {
            tokio::select! {
                biased;
                thought = &mut thought => break thought,
                order = self.inbox.recv(), if !self.closing => match order {
                    Some(order) => {
                        self.obey(order, Some(&switch)).await?;
                        if self.state.waiting() > 0 {
                            switch.send_replace(true);
                        }
                    }
                    None => {
                        self.closing = true;
                        switch.send_replace(true);
                        return Ok(());
                    }
                },
            }
        };
        let (mut notes, mut usage) = (Vec::new(), None);
        match thought {
            Ok(thought) => {
                usage = Some(thought.usage);
                if thought.stop != Some(Stop::Interrupted) {
                    notes = diary.reflections(self.id.as_str(), &created, &thought.text, &conversation);
                }
            }
            Err(Error::Stopping) => return Err(Error::Stopping),
            Err(error) => {
                tracing::warn!(session = %self.id, turn, error = %in_full(&error), "a model could not be asked what a turn showed");
            }
        }
        let notes = match self.world.learn(Lessons { notes, used: Vec::new() }).await {
            Ok(notes) => notes,
            Err(Error::Stopping) => return Err(Error::Stopping),
            Err(error) => {
                tracing::warn!(session = %self.id, turn, error = %in_full(&error), "what a turn showed could not be written down");
                Vec::new()
            }
        };
        self.record(Event::Reflected { turn, notes, usage }).await
    }
}
