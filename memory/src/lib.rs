//! Remembers: journals, blobs and notes on one append-only log.
