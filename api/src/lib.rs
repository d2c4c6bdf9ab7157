//! Speaks: the `saga` command, the HTTP API and everything a person sees.
