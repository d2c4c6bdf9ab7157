//! Chat formats: how a conversation is shown to a model, and how its reply is read.
//!
//! A dialect is one file here. Rendering gives [`Piece`]s rather than a string, so that text stays data: only a
//! dialect can place a special token, whatever a file or a tool prints. Reading a rendered reply gives it back.
//!
//! A session's replies are told again as they were sampled ([`Dialect::render`]). A conversation that comes from
//! elsewhere has none: there a dialect writes them from text, thought and calls ([`Dialect::write`]), as the model's
//! own template does.

use tools::{Call, Spec};

use crate::context::Message;
use crate::event::Refused;

mod bounds;
mod dsml;
mod glm;
mod harmony;
mod hermes;
mod json;
mod lark;
mod qwen;
mod raw;
mod stream;
mod transcript;

pub(crate) use bounds::text_bytes;
pub use bounds::{Besides, Bound, Known, Quoted, To, Whole};
pub use json::spaced;
pub use stream::{Part, Reader};
pub use transcript::{Effort, Orders, Said, Task, Transcript, Turn};

/// A part of a rendered prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// A special token by its name; plain text for a vocabulary that has no such token.
    Special(&'static str),
    /// Text, in which nothing is special.
    Text(String),
    /// Tokens as they were sampled.
    Sampled(Vec<engine::Token>),
}

/// A reply as read from its text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// What the model thought before it spoke.
    pub thought: String,
    /// The text outside the calls.
    pub text: String,
    /// The calls, their ids still empty.
    pub calls: Vec<Call>,
    /// Calls that cannot be read.
    pub refused: Vec<Refused>,
}

/// What a reply may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Free text, then none or more calls.
    Free,
    /// Free text, then a call or none.
    OneCall,
    /// A paragraph of thought, then a call.
    MustCall,
    /// A call, at once: what a model says of what it has not seen is invented.
    CallNow,
}

/// A chat format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// ChatML turns with Hermes tool calls: Qwen2.5, Qwen3, Hermes and many others.
    Hermes,
    /// ChatML turns with calls in tags: Qwen3-Coder.
    Qwen3Coder,
    /// The same calls, and thoughts: Qwen3.5 and Qwen3.6.
    Qwen35,
    /// GLM-4.5 and GLM-4.6.
    Glm,
    /// GLM-4.7.
    Glm47,
    /// DeepSeek V4, release of 31 July.
    DsmlV4,
    /// DeepSeek V4.1.
    DsmlV41,
    /// Channels of messages: gpt-oss.
    Harmony,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Dialect; 8] = [
        Dialect::DsmlV4,
        Dialect::DsmlV41,
        Dialect::Glm,
        Dialect::Glm47,
        Dialect::Harmony,
        Dialect::Hermes,
        Dialect::Qwen3Coder,
        Dialect::Qwen35,
    ];

    /// The dialect of a model: by the chat template its file carries, or by its family, for some have a format and no
    /// template.
    pub fn of_model(template: Option<&str>, family: &str) -> Option<Dialect> {
        match family {
            "deepseek4" | "deepseek_v4" => Some(Dialect::DsmlV4),
            "deepseek41" | "deepseek_v41" => Some(Dialect::DsmlV41),
            "gpt-oss" | "gpt_oss" => Some(Dialect::Harmony),
            _ => template.and_then(Dialect::of_template),
        }
    }

    /// The dialect of a model, by the chat template its file carries.
    pub fn of_template(template: &str) -> Option<Dialect> {
        let has = |text| template.contains(text);
        if has("｜DSML｜") {
            return Some(if has("｜DSML｜ ") { Dialect::DsmlV41 } else { Dialect::DsmlV4 });
        }
        if has("<|start|>") && has("<|channel|>") {
            return Some(Dialect::Harmony);
        }
        if has("<arg_key>") && has("[gMASK]") {
            // GLM-5 tells efforts and orders its answers, and is another format.
            return match (has("Reasoning Effort"), has("{function-name}<arg_key>")) {
                (true, _) => None,
                (false, true) => Some(Dialect::Glm47),
                (false, false) => Some(Dialect::Glm),
            };
        }
        match (has("<|im_start|>"), has("<function="), has("<parameters>")) {
            (true, true, true) => Some(Dialect::Qwen3Coder),
            (true, true, false) => Some(Dialect::Qwen35),
            (true, false, _) => Some(Dialect::Hermes),
            (false, ..) => None,
        }
    }

    /// The dialect of a name written by [`Dialect::name`].
    pub fn named(name: &str) -> Option<Dialect> {
        Dialect::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// The name that journals store.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Hermes => "hermes",
            Dialect::Qwen3Coder => "qwen3-coder",
            Dialect::Qwen35 => "qwen3.5",
            Dialect::Glm => "glm",
            Dialect::Glm47 => "glm-4.7",
            Dialect::DsmlV4 => "dsml-v4",
            Dialect::DsmlV41 => "dsml-v41",
            Dialect::Harmony => "harmony",
        }
    }

    /// The prompt for the next reply to a conversation. A longer conversation's prompt begins with a shorter one's,
    /// up to the reply that was sampled there.
    pub fn render(self, conversation: &[Message]) -> Vec<Piece> {
        self.pieces(&Transcript::of(conversation))
    }

    /// The prompt for the next reply to a conversation given as data.
    ///
    /// # Errors
    /// When it asks for an effort that the format does not know, in words.
    pub fn write(self, transcript: &Transcript) -> Result<Vec<Piece>, String> {
        match self {
            Dialect::DsmlV4 => dsml::Version::V4.effort(transcript.effort).map(drop)?,
            Dialect::DsmlV41 => dsml::Version::V41.effort(transcript.effort).map(drop)?,
            Dialect::Harmony => harmony::effort(transcript).map(drop)?,
            // These have no efforts: what is asked for changes nothing.
            Dialect::Hermes | Dialect::Qwen3Coder | Dialect::Qwen35 | Dialect::Glm | Dialect::Glm47 => {}
        }
        Ok(self.pieces(transcript))
    }

    fn pieces(self, transcript: &Transcript) -> Vec<Piece> {
        match self {
            Dialect::Hermes => hermes::render(transcript),
            Dialect::Qwen3Coder => qwen::render(transcript, qwen::Form::Coder),
            Dialect::Qwen35 => qwen::render(transcript, qwen::Form::Thinker),
            Dialect::Glm => glm::render(transcript, glm::Form::Lines),
            Dialect::Glm47 => glm::render(transcript, glm::Form::Dense),
            Dialect::DsmlV4 => dsml::render(transcript, dsml::Version::V4),
            Dialect::DsmlV41 => dsml::render(transcript, dsml::Version::V41),
            Dialect::Harmony => harmony::render(transcript),
        }
    }

    /// A reply as the model writes it after the prompt of a session.
    pub fn reply(self, thought: &str, text: &str, calls: &[Call]) -> Vec<Piece> {
        let mut out = Vec::new();
        match self {
            Dialect::Hermes => hermes::reply(thought, text, calls, &mut out),
            Dialect::Qwen3Coder => qwen::reply(qwen::Form::Coder, Some(thought), text, calls, &mut out),
            Dialect::Qwen35 => qwen::reply(qwen::Form::Thinker, Some(thought), text, calls, &mut out),
            Dialect::Glm => glm::reply(glm::Form::Lines, thought, text, calls, &mut out),
            Dialect::Glm47 => glm::reply(glm::Form::Dense, thought, text, calls, &mut out),
            Dialect::DsmlV4 => dsml::reply(dsml::Version::V4, Some(thought), text, calls, &mut out),
            Dialect::DsmlV41 => dsml::reply(dsml::Version::V41, Some(thought), text, calls, &mut out),
            Dialect::Harmony => harmony::reply(thought, text, calls, &mut out),
        }
        out
    }

    /// Reads a reply. `whole` is false for one that was cut off. The tools tell which arguments are texts, where the
    /// format does not.
    pub fn parse(self, reply: &str, whole: bool, tools: &[Spec]) -> Parsed {
        match self {
            Dialect::Hermes => hermes::parse(reply, whole),
            Dialect::Qwen3Coder => qwen::parse(qwen::Form::Coder, reply, whole, tools),
            Dialect::Qwen35 => qwen::parse(qwen::Form::Thinker, reply, whole, tools),
            Dialect::Glm | Dialect::Glm47 => glm::parse(reply, whole, tools),
            Dialect::DsmlV4 | Dialect::DsmlV41 => dsml::parse(reply, whole, tools),
            Dialect::Harmony => harmony::parse(reply, whole),
        }
    }

    /// The grammar of a reply of this shape, with calls that fit the tools' schemas. `special` tells which names the
    /// vocabulary has as one token.
    pub fn grammar(
        self,
        tools: &[&Spec],
        shape: Shape,
        bounds: &[Bound],
        special: impl Fn(&str) -> Option<engine::Token>,
    ) -> engine::GrammarSource {
        engine::GrammarSource::Lark(match self {
            Dialect::Hermes => hermes::grammar(tools, shape, bounds, &special),
            Dialect::Qwen3Coder => qwen::grammar(tools, shape, bounds, &special, qwen::Form::Coder),
            Dialect::Qwen35 => qwen::grammar(tools, shape, bounds, &special, qwen::Form::Thinker),
            Dialect::Glm => glm::grammar(tools, shape, bounds, &special, glm::Form::Lines),
            Dialect::Glm47 => glm::grammar(tools, shape, bounds, &special, glm::Form::Dense),
            Dialect::DsmlV4 => dsml::grammar(tools, shape, bounds, &special, dsml::Version::V4),
            Dialect::DsmlV41 => dsml::grammar(tools, shape, bounds, &special, dsml::Version::V41),
            Dialect::Harmony => harmony::grammar(tools, shape, bounds, &special),
        })
    }

    /// What a reply to a session's prompt begins with.
    fn first(self) -> Stage {
        match self {
            Dialect::Hermes | Dialect::Qwen3Coder | Dialect::Glm => Stage::Text,
            Dialect::Qwen35 | Dialect::Glm47 | Dialect::DsmlV4 | Dialect::DsmlV41 => Stage::Thought,
            Dialect::Harmony => Stage::Head,
        }
    }

    /// Finds what ends a stage of a reply.
    fn mark(self, stage: Stage, text: &str) -> Seek {
        match self {
            Dialect::Hermes => hermes::mark(stage, text),
            Dialect::Qwen3Coder | Dialect::Qwen35 => qwen::mark(stage, text),
            Dialect::Glm | Dialect::Glm47 => glm::mark(stage, text),
            Dialect::DsmlV4 | Dialect::DsmlV41 => dsml::mark(stage, text),
            Dialect::Harmony => harmony::mark(stage, text),
        }
    }
}

/// The text of a prompt whose pieces are all text or marks; tokens as `spell` spells them.
pub fn text_of(pieces: &[Piece], spell: impl Fn(&[engine::Token]) -> String) -> String {
    pieces
        .iter()
        .map(|piece| match piece {
            Piece::Special(name) => (*name).to_string(),
            Piece::Text(text) => text.clone(),
            Piece::Sampled(tokens) => spell(tokens),
        })
        .collect()
}

/// The tokens of a rendered prompt. Text never becomes a special token.
///
/// # Errors
/// [`engine::Error::Tokenizer`] when the model came without a tokenizer.
pub fn tokens_of(
    pieces: &[Piece],
    tokenizer: &engine::Tokenizer,
) -> Result<Vec<engine::Token>, engine::Error> {
    let mut out = Vec::new();
    let mut text = String::new();
    for piece in pieces {
        match piece {
            // Neighbouring texts are one text to the tokenizer, as they are to the model's own template.
            Piece::Text(more) => text.push_str(more),
            Piece::Special(name) => match tokenizer.special(name) {
                Some(token) => {
                    out.extend(tokenizer.encode_after(&out, &std::mem::take(&mut text))?);
                    out.push(token);
                }
                None => text.push_str(name),
            },
            Piece::Sampled(tokens) => {
                out.extend(tokenizer.encode_after(&out, &std::mem::take(&mut text))?);
                out.extend(tokens);
            }
        }
    }
    out.extend(tokenizer.encode_after(&out, &text)?);
    Ok(out)
}

/// Where a reply stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Before what tells what comes.
    Head,
    /// In its thought.
    Thought,
    /// In its text.
    Text,
    /// In its calls, to its end.
    Call,
}

/// What was found in a beginning of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seek {
    /// A mark of `len` bytes: what comes before it belongs to the stage it ends.
    At { at: usize, len: usize, next: Stage },
    /// Perhaps one begins here: the next bytes will tell.
    Perhaps(usize),
    /// Nothing.
    No,
}

impl Seek {
    /// The one of two findings that comes first.
    fn or_earlier(self, other: Seek) -> Seek {
        let place = |seek: Seek| match seek {
            Seek::At { at, .. } | Seek::Perhaps(at) => at,
            Seek::No => usize::MAX,
        };
        if place(other) < place(self) { other } else { self }
    }
}

/// Finds the first of some marks.
fn seek(text: &str, marks: &[(&str, Stage)]) -> Seek {
    for (at, _) in text.char_indices() {
        let rest = &text[at..];
        if let Some((mark, next)) = marks.iter().find(|(mark, _)| rest.starts_with(mark)) {
            return Seek::At { at, len: mark.len(), next: *next };
        }
        if marks.iter().any(|(mark, _)| mark.starts_with(rest)) {
            return Seek::Perhaps(at);
        }
    }
    Seek::No
}

/// Adds text to a prompt.
fn push(out: &mut Vec<Piece>, more: String) {
    match out.last_mut() {
        _ if more.is_empty() => {}
        Some(Piece::Text(text)) => text.push_str(&more),
        _ => out.push(Piece::Text(more)),
    }
}

/// Adds a text of our own, in which `marks` are special.
fn marked(text: &str, marks: &[&'static str], out: &mut Vec<Piece>) {
    let mut rest = text;
    while let Some((at, mark)) = marks
        .iter()
        .filter_map(|mark| Some((rest.find(mark)?, *mark)))
        .min_by_key(|(at, mark)| (*at, usize::MAX - mark.len()))
    {
        push(out, rest[..at].to_string());
        out.push(Piece::Special(mark));
        rest = &rest[at + mark.len()..];
    }
    push(out, rest.to_string());
}
