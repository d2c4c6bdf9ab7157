//! Weights as they lie in a model file: what kinds of blocks there are, and matrices that point into the
//! mapped file.

mod gguf;
mod kind;
mod matrix;

pub(crate) use gguf::Gguf;
pub(crate) use kind::Kind;
pub(crate) use matrix::{Bytes, Matrix};
