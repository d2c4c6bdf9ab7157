//! The ways in which tokens learn of each other.

mod gqa;

pub(crate) use gqa::Gqa;
