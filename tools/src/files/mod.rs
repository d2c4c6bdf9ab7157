//! File operations inside the sandbox.
