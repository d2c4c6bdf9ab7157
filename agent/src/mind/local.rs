//! Thinking with the embedded engine: render, prefill what is new, sample under the grammar, read.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use engine::repeats::{Repeat, Repeats};
use engine::snapshot::{Secret, Slot};
use engine::{Engine, Grammar, Timeline, Token, Tokenizer};

use crate::Error;
use crate::context::Message;
use crate::dialect::{Bound, Dialect, Part, Reader, Shape, text_bytes, tokens_of};
use crate::event::{Created, Loop, Stop, Usage};
use crate::world::{Cancel, Manner, Progress, Sink, Thought};
use tools::Spec;

/// Tokens of a prompt that are computed before they are written to disk, while more are to come.
const PIECE_TOKENS: usize = 8192;
/// Tokens that are worth being written before the reply is there: a few seconds of work.
const WRITTEN_TOKENS: usize = 512;
/// Grammars kept; a led turn goes to and fro between a handful.
const GRAMMARS_MAX: usize = 8;
/// What those kept are bound to, together. Bytes; a grammar takes some hundred times as much.
const GRAMMAR_TEXT_BYTES_MAX: usize = 128 << 10;

/// One session's mind: a timeline that keeps what has been computed, and the grammar of its replies.
pub struct LocalMind {
    engine: Engine,
    dialect: Dialect,
    /// Of the replies asked for last: their shape, the tools left out, what their arguments are bound to, and the grammar.
    grammars: VecDeque<(Shape, BTreeSet<String>, Vec<Bound>, Grammar)>,
    /// The tools that they are made of.
    tools: Vec<Spec>,
    timeline: Timeline,
    /// Where the timeline is written when a long prompt was read and at the end of each reply, and what it is sealed with.
    slot: Option<Slot>,
    secret: Option<Secret>,
}

impl LocalMind {
    /// A mind with nothing computed yet. Fails when the tools' schemas make no grammar.
    /// What was written to `slot` before is gone on with, if the engine has its folder and the secret is the same.
    pub fn new(
        engine: Engine,
        created: &Created,
        slot: Option<Slot>,
        secret: Option<Secret>,
    ) -> Result<LocalMind, Error> {
        let dialect = Dialect::named(&created.dialect).ok_or_else(|| {
            Error::BadRequest(format!(
                "this session speaks the dialect {:?}, which this version does not know",
                created.dialect
            ))
        })?;
        let timeline = begin(&engine, secret.as_ref())?;
        let tools = created.tools.clone();
        Ok(LocalMind { engine, dialect, grammars: VecDeque::new(), tools, timeline, slot, secret })
    }

    /// The grammar of a reply, compiled at first use: a few milliseconds.
    fn grammar(&mut self, created: &Created, manner: &Manner) -> Result<Grammar, Error> {
        if self.tools != created.tools {
            self.grammars.clear();
            self.tools.clone_from(&created.tools);
        }
        let known = self.grammars.iter().find(|(shape, without, bound, _)| {
            (shape, without, bound) == (&manner.shape, &manner.without, &manner.bounds)
        });
        if let Some((.., grammar)) = known {
            return Ok(grammar.clone());
        }
        let grammar = match self.compiled(created, manner, &manner.bounds) {
            // What cannot be bound is free: a reply must stay possible, whatever stands in a file.
            Err(error @ engine::Error::Grammar(_)) if !manner.bounds.is_empty() => {
                tracing::warn!(%error, "arguments are not bound");
                self.compiled(created, manner, &[])?
            }
            made => made?,
        };
        let held = |grammars: &VecDeque<(_, _, Vec<Bound>, _)>| {
            grammars.iter().map(|(_, _, bounds, _)| text_bytes(bounds)).sum::<usize>()
        };
        while self.grammars.len() >= GRAMMARS_MAX || held(&self.grammars) > GRAMMAR_TEXT_BYTES_MAX {
            self.grammars.pop_front();
        }
        let (without, bounds) = (manner.without.clone(), manner.bounds.clone());
        self.grammars.push_back((manner.shape, without, bounds, grammar.clone()));
        Ok(grammar)
    }

    fn compiled(
        &self,
        created: &Created,
        manner: &Manner,
        bounds: &[Bound],
    ) -> Result<Grammar, engine::Error> {
        let tools: Vec<&Spec> =
            created.tools.iter().filter(|spec| !manner.without.contains(&spec.name)).collect();
        let special = |name: &str| self.engine.tokenizer().special(name);
        self.engine.grammar(&self.dialect.grammar(&tools, manner.shape, bounds, special))
    }

    /// The grammar of a reply of which `said` has been said, without the bounds of its arguments.
    fn unbound(&self, created: &Created, manner: &Manner, said: &[Token]) -> Result<Grammar, engine::Error> {
        let mut grammar = self.compiled(created, manner, &[])?;
        grammar.advance(said)?;
        Ok(grammar)
    }

    /// The bytes of KV that are held.
    pub fn kv_bytes(&self) -> u64 {
        self.timeline.tokens().len() as u64 * self.engine.model().kv_bytes_per_token as u64
    }

    /// Lets go of what has been computed; the next thought computes it again.
    pub fn forget(&mut self) {
        // An engine that has stopped says so at the next thought.
        if let Ok(timeline) = begin(&self.engine, self.secret.as_ref()) {
            self.timeline = timeline;
        }
    }

    /// Computes a prompt, and has what was computed written to disk as it goes, so that a crash in the middle of a long one, or of
    /// the reply to it, costs no more than a piece. Returns how many tokens were computed.
    async fn read(&mut self, prompt: &[Token], out: &Sink) -> Result<usize, Error> {
        let known = std::iter::zip(self.timeline.tokens(), prompt).take_while(|(a, b)| a == b).count();
        let (mut end, mut computed) = (known, 0);
        loop {
            end = (end + PIECE_TOKENS).min(prompt.len());
            let rest = prompt.len() - end;
            let before = computed;
            let on = |progress| out.say(seen(progress, before, rest));
            let synced = self.timeline.sync(&prompt[..end], on).await?;
            computed += synced.computed;
            if let Some(slot) = self.slot.as_ref().filter(|_| synced.computed >= WRITTEN_TOKENS) {
                // As after a reply.
                self.timeline.snapshot(slot)?;
            }
            if end == prompt.len() {
                return Ok(computed);
            }
        }
    }

    /// Replies to a conversation.
    pub async fn think(
        &mut self,
        conversation: &[Message],
        created: &Created,
        manner: &Manner,
        cancel: &Cancel,
        out: &Sink,
    ) -> Result<Thought, Error> {
        let mut grammar = self.grammar(created, manner)?;
        let tokenizer = self.engine.tokenizer().clone();
        let prompt = tokens_of(&self.dialect.render(conversation), &tokenizer)?;
        let limit = self.engine.model().context_tokens;
        // A reply needs room too: a prompt that leaves less than this is full.
        const ROOM: usize = 256;
        if prompt.len() + ROOM > limit {
            return Err(Error::ContextFull { asked: (prompt.len() + ROOM) as u64, limit: limit as u64 });
        }
        let mut usage = Usage { prompt_tokens: prompt.len() as u64, ..Usage::default() };
        let started = Instant::now();
        let computed = tokio::select! {
            biased;
            () = cancel.set() => return Ok(Thought { stop: Some(Stop::Interrupted), usage, ..Thought::default() }),
            computed = self.read(&prompt, out) => computed?,
        };
        usage.cached_tokens = (prompt.len() - computed) as u64;
        usage.prefill_ms = started.elapsed().as_millis() as u64;

        let room = (limit - prompt.len()).min(created.budget.reply_tokens_max as usize);
        let mut reply: Vec<Token> = Vec::new();
        let mut shown = Shown::new(self.dialect);
        let mut repeats = Repeats::default();
        let decoding = Instant::now();
        let mut bound = !manner.bounds.is_empty();
        let stop = loop {
            if reply.len() >= room {
                break Stop::Length;
            }
            let next = tokio::select! {
                biased;
                () = cancel.set() => break Stop::Interrupted,
                next = self.timeline.next(&manner.sampling, Some(&mut grammar)) => next,
            };
            let next = match next {
                // What is bound led to where nothing fits, or became too much for the library: the reply goes on without.
                Err(error @ engine::Error::Grammar(_)) if bound => {
                    tracing::warn!(%error, "arguments are bound no longer");
                    bound = false;
                    grammar = self.unbound(created, manner, &reply).map_err(|_| error)?;
                    continue;
                }
                next => next?,
            };
            usage.output_tokens += 1;
            if tokenizer.ends().contains(&next) {
                break Stop::End;
            }
            reply.push(next);
            shown.add(tokenizer.bytes(next), out);
            if let Some(repeat) = repeats.push(next) {
                out.say(Progress::Looping { what: looping(repeat, &reply, &tokenizer) });
                // A small model does not come out of it, and would take minutes to the end of its reply.
                if created.led && repeat.times >= LOOP_TIMES && repeat.times * repeat.length >= LOOP_TOKENS {
                    break Stop::Length;
                }
            }
            out.say(Progress::Speed {
                output_tokens: usage.output_tokens,
                decode_ms: decoding.elapsed().as_millis() as u64,
            });
            if grammar.ended() {
                break Stop::End;
            }
        };
        shown.finish(out);
        if let Some(slot) = &self.slot {
            // It is written beside whatever comes next; what fails is logged, and costs a prefill at most.
            self.timeline.snapshot(slot)?;
        }
        usage.decode_ms = decoding.elapsed().as_millis() as u64;
        let parsed = self.dialect.parse(&tokenizer.decode(&reply), stop == Stop::End, &created.tools);
        Ok(Thought {
            tokens: reply,
            text: parsed.text,
            calls: parsed.calls,
            refused: if stop == Stop::Interrupted { Vec::new() } else { parsed.refused },
            stop: Some(stop),
            usage,
        })
    }
}

/// Counts the tokens of each message of a conversation: they add up to its prompt.
pub(crate) fn weigh(
    dialect: Dialect,
    tokenizer: &Tokenizer,
    conversation: &[Message],
) -> Result<Vec<u64>, Error> {
    let whole = tokens_of(&dialect.render(conversation), tokenizer)?.len() as u64;
    let Some(first) = conversation.get(..1) else { return Ok(Vec::new()) };
    let mut tokens = vec![tokens_of(&dialect.render(first), tokenizer)?.len() as u64];
    for message in &conversation[1..] {
        let count = |text: &str| Ok::<_, Error>(tokenizer.encode(text)?.len() as u64);
        tokens.push(match message {
            Message::System { text, .. } | Message::User { text } => count(text)?,
            Message::Assistant { tokens, .. } => tokens.len() as u64,
            Message::Results { answers } => {
                answers.iter().map(|answer| count(&answer.text)).sum::<Result<u64, _>>()?
            }
        });
    }
    // What is left are the marks around the messages.
    let (marks, others) = (whole.saturating_sub(tokens.iter().sum()), tokens.len() as u64 - 1);
    for (n, tokens) in tokens.iter_mut().skip(1).enumerate() {
        *tokens += marks / others + u64::from((n as u64) < marks % others);
    }
    Ok(tokens)
}

/// So often, and for so many tokens, a led model may say the same in a row before its reply is cut.
const LOOP_TIMES: usize = 8;
const LOOP_TOKENS: usize = 192;

/// A stretch that a reply repeats, for people.
fn looping(repeat: Repeat, reply: &[Token], tokenizer: &Tokenizer) -> Loop {
    /// Enough to see what it is.
    const CHARS_MAX: usize = 200;
    let Repeat { start, length, times } = repeat;
    let text: String = tokenizer.decode(&reply[start..start + length]).chars().take(CHARS_MAX).collect();
    // A reply has far fewer tokens than fit.
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Loop::Text { text, length: number(length), start: number(start), times: number(times) }
}

/// A timeline with nothing on it.
fn begin(engine: &Engine, secret: Option<&Secret>) -> Result<Timeline, Error> {
    Ok(match secret {
        Some(secret) => engine.timeline_under(secret)?,
        None => engine.timeline(),
    })
}

/// How far a piece is, after so many tokens and before so many more.
fn seen(progress: engine::Progress, before: usize, rest: usize) -> Progress {
    match progress {
        engine::Progress::Loading { done_bytes, total_bytes } => {
            Progress::Loading { done_bytes, total_bytes }
        }
        engine::Progress::Prefilling { done_tokens, total_tokens } => Progress::Prefilling {
            done_tokens: (before + done_tokens) as u64,
            total_tokens: (before + total_tokens + rest) as u64,
        },
    }
}

/// What of a reply has been shown: whole characters only, and no beginning of a call taken for text.
struct Shown {
    reader: Reader,
    /// The bytes of a character that is not whole yet.
    pending: Vec<u8>,
}

impl Shown {
    fn new(dialect: Dialect) -> Shown {
        Shown { reader: Reader::new(dialect), pending: Vec::new() }
    }

    fn add(&mut self, bytes: &[u8], out: &Sink) {
        self.pending.extend_from_slice(bytes);
        let whole: Vec<u8> = self.pending.drain(..whole_characters(&self.pending)).collect();
        self.reader.add(&String::from_utf8_lossy(&whole)).into_iter().for_each(|part| say(part, out));
    }

    fn finish(mut self, out: &Sink) {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        let parts = self.reader.add(&rest);
        parts.into_iter().chain(self.reader.finish()).for_each(|part| say(part, out));
    }
}

fn say(part: Part, out: &Sink) {
    out.say(match part {
        Part::Thought(text) => Progress::Thought { text },
        Part::Text(text) => Progress::Text { text },
        Part::Call(text) => Progress::Calling { text },
    });
}

/// How many bytes of `bytes` end at a character's border. What can never become a character counts as whole.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn where_bounds_lead_nowhere_a_reply_goes_on_without_them() {
        // A grammar that leaves no token would end the turn, for nothing that anybody did.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        engine::testing::TinyModel::new("qwen2").write(&path);
        let options = engine::Options { threads: 1, ..engine::Options::default() };
        let engine = Engine::open(&path, options, &mut |_| ()).unwrap();
        let toolbox = tools::Toolbox::builtin();
        let created = Created {
            dialect: "qwen3-coder".into(),
            tools: vec![toolbox.spec("edit").unwrap().clone()],
            budget: crate::Budget { reply_tokens_max: 200, ..crate::Budget::default() },
            ..Created::default()
        };
        // No tool shows this control character, and no piece holds it: nothing fits.
        let stretch = "a\u{1}b\n".to_string();
        let known =
            crate::dialect::Known { path: "a.py".into(), pieces: vec![stretch; 2], whole: String::new() };
        let quoted = crate::dialect::Quoted {
            of: "path".into(),
            files: vec![known],
            lines: true,
            all: None,
            free: None,
            others: false,
        };
        let to = crate::dialect::To::Piece(quoted);
        let manner = Manner {
            shape: crate::dialect::Shape::CallNow,
            bounds: vec![Bound { tool: "edit".into(), argument: "old".into(), to }],
            sampling: engine::Sampling { temperature: 1.0, ..engine::Sampling::default() },
            without: std::collections::BTreeSet::new(),
        };
        let mut mind = LocalMind::new(engine, &created, None, None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let said = [Message::User { text: "x".into() }];
        let out = Sink::new(|_| ());
        let (_switch, cancel) = Cancel::pair();
        let thought = runtime.block_on(mind.think(&said, &created, &manner, &cancel, &out)).unwrap();
        let text = mind.engine.tokenizer().decode(&thought.tokens);
        let (_, old) = text.split_once("<parameter=old>").unwrap_or_else(|| panic!("{text:?}"));
        assert!(!old.trim().is_empty(), "{text:?}");
    }

    #[test]
    fn a_reader_sees_text_without_call_marks_or_broken_characters() {
        // Tokens cut characters and marks anywhere; what is shown must not.
        let said = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let said = said.clone();
            Sink::new(move |progress| said.lock().unwrap().push(progress))
        };
        let mut shown = Shown::new(Dialect::Hermes);
        for byte in "a < b, 日<tool_call>\n{\"x\"".as_bytes() {
            shown.add(&[*byte], &sink);
        }
        shown.finish(&sink);
        let (mut text, mut call) = (String::new(), String::new());
        for progress in said.lock().unwrap().iter() {
            match progress {
                Progress::Text { text: more } => text.push_str(more),
                Progress::Calling { text: more } => call.push_str(more),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((text.as_str(), call.as_str()), ("a < b, 日", "<tool_call>\n{\"x\""));
    }
}
