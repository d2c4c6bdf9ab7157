//! Runs mixture-of-experts and dense language models: tokens in, tokens out.
