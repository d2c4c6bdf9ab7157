//! Decides: events, state, and the one next thing to do.
