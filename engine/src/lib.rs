//! Runs mixture-of-experts and dense language models: tokens in, tokens out.
//!
//! An [`Engine`] opens one model file and hands out [`Timeline`]s. A timeline is one line of tokens with
//! its KV cache: [`Timeline::sync`] makes it say exactly what the caller wants it to say, and
//! [`Timeline::next`] samples what comes after. The crate knows tokens and nothing of messages or roles.

mod engine;
mod timeline;

mod grammar;
mod sample;
mod schedule;
mod tokenizer;

mod guess;
mod shelf;
mod worker;

mod model;

mod cache;
mod counts;
mod crew;
mod kernels;
mod weights;

mod error;

pub mod bench;
pub mod catalog;
pub mod experts;
pub mod kv;
pub mod logits;
pub mod plan;
pub mod repeats;
pub mod snapshot;
pub mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use cache::KvKind;
pub use counts::Activity;
pub use engine::{Engine, ModelInfo, Options, Progress, Token};
pub use error::Error;
pub use grammar::{Grammar, GrammarSource, finite};
pub use guess::{Guesses, Speculate};
pub use sample::Sampling;
pub use timeline::{Synced, Timeline};
pub use tokenizer::Tokenizer;
pub use worker::Priority;

#[cfg(test)]
mod tests;
