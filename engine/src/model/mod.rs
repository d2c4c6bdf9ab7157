//! A model: what its file says (`spec`), its weights, and the way through them (`forward`).

mod check;
mod dense;
mod end;
mod engram;
mod families;
mod forward;
mod hyper;
mod layer;
mod mixer;
mod moe;
mod norm;
mod predictor;
mod reader;
mod residual;
mod rope;
mod spec;

pub(crate) use forward::{Model, Part, Scratch, Want};
pub(crate) use predictor::Predictor;
pub(crate) use spec::{Spec, know};
