//! The ways in which tokens learn of each other.

mod attend;
mod compressed;
mod delta;
mod gqa;
mod mla;

pub(crate) use compressed::{Compressed, Sight};
pub(crate) use delta::Delta;
pub(crate) use gqa::{Gqa, add_to_rows};
pub(crate) use mla::Mla;
