//! Acts: the tools a model may call and the sandbox they run in.
