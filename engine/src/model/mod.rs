//! A model: what its file says (`spec`), its weights, and the way through them (`forward`).

mod dense;
mod forward;
mod mixer;
mod norm;
mod rope;
mod spec;

pub(crate) use forward::{Model, Scratch, Want};
pub(crate) use spec::{Spec, know};
