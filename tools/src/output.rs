//! What a command prints, as a model may read it.
