//! Prefill and decode timing on a timeline, as `saga bench` prints it.
