//! Weights as they lie on disk: what kinds of blocks there are, and matrices that point into mapped files.

mod source;

mod fingerprint;
mod folder;
mod gguf;

mod kind;
mod matrix;
mod place;
pub(crate) mod quant;
pub(crate) mod sound;
mod table;
pub(crate) mod turned;

pub(crate) use folder::Folder;
pub(crate) use gguf::Gguf;
pub(crate) use kind::{Kind, Values};
pub(crate) use matrix::{Bytes, Matrix, Scale, Scales};
pub(crate) use place::{Builder, MappedFile, Place};
pub(crate) use source::{Source, TensorSize};
pub(crate) use table::{Rows, Stored, Table};
