//! Logits → token. Pure: the same logits, seed and position give the same token.

use serde::{Deserialize, Serialize};

/// How a token is chosen from its logits. The default is greedy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 takes the likeliest token; higher values flatten the distribution.
    pub temperature: f32,
    /// Keeps the likeliest tokens that together have this probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Drops tokens less likely than this share of the likeliest one; 0 drops none.
    pub min_p: f32,
    /// Divides the logits of tokens seen in the window (multiplies negative ones); 1 changes nothing.
    pub repetition_penalty: f32,
    /// How many of the line's last tokens the penalty looks at.
    pub repetition_window: usize,
    /// The chance's seed: the same seed gives the same run.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: 0,
        }
    }
}
