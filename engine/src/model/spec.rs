//! What a model says of itself, layer by layer, checked: known parts, in order. The forward pass knows the parts
//! and no families; `families.rs` says which parts a family has.

use super::families::FAMILIES;
use super::reader::Reader;
use crate::Error;
use crate::weights::Source;

/// A model's description.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec {
    /// The family's name in model files.
    pub(crate) architecture: String,
    /// How many tokens the model can tell apart.
    pub(crate) vocabulary: usize,
    /// How many numbers describe a token between layers.
    pub(crate) width: usize,
    /// The longest line the model was made for.
    pub(crate) context_tokens: usize,
    /// What is added to the mean square in every norm.
    pub(crate) norm_epsilon: f32,
    /// What embeddings are multiplied with.
    pub(crate) embedding_scale: f32,
    pub(crate) output: Output,
    /// Logits are bent so that none is larger than this, if there is one.
    pub(crate) logit_cap: Option<f32>,
    pub(crate) residual: Residual,
    /// How the tables of its layers are looked up, if any has one.
    pub(crate) grams: Option<Grams>,
    pub(crate) layers: Vec<Layer>,
    /// One more layer behind these, which guesses the token after the next, if there is one and it is to be used.
    pub(crate) predictor: Option<Layer>,
}

/// What layers read from and add to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Residual {
    /// One stream: x += part(norm(x)).
    Plain,
    Hyper(Hyper),
}

/// Several streams, which every part reads a mix of, adds to and mixes anew (Zhu et al. 2024), the new mix kept close
/// to one whose rows and columns add up to one (Xie et al. 2025).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hyper {
    pub(crate) streams: usize,
    /// How often the columns of a new mix are made to add up to one, and the rows in between.
    pub(crate) iterations: usize,
    /// What is added to weights, and to what they are divided by.
    pub(crate) epsilon: f32,
    /// Whether a part reads with the weights that were made for the part before it. The first reads the first stream,
    /// and what is left of the streams in the end is read with the weights of the last.
    pub(crate) lagged: bool,
}

/// Which matrix turns the last layer's result into logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// The token embedding's.
    Tied,
    /// One of its own.
    Separate,
}

/// One layer: x += mix(norm(x)), then x += channel(norm(x)); before it, if it has a table, x += what was looked up.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layer {
    pub(crate) engram: Option<Engram>,
    pub(crate) mixer: Mixer,
    pub(crate) channel: Channel,
    pub(crate) norms: Norms,
}

/// How n-grams of tokens lead to rows of tables (Engram).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Grams {
    /// The longest n-gram, in tokens. The shortest has two.
    pub(crate) order: usize,
    /// How often each order is hashed.
    pub(crate) heads: usize,
    /// The token that stands for a piece of an image, if the model sees images. No n-gram reaches across one.
    pub(crate) image: Option<usize>,
    pub(crate) hashes: GramHashes,
}

/// Where multipliers and primes come from. Layers with a table come in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GramHashes {
    /// They follow from sizes and from the vocabulary.
    Drawn {
        /// The numbers of the layers.
        layers: Vec<usize>,
        /// For each order from two up: every hash has at least this many rows.
        rows_min: Vec<u64>,
        /// The token that stands before a text's first.
        padding: usize,
        /// Added to the seed of every layer's multipliers.
        seed: u64,
        /// How many classes the vocabulary must have, if the file says so.
        classes: Option<u64>,
    },
    /// The file has them.
    Given {
        /// The class of each token, and of what stands before a text's first.
        classes: Vec<u32>,
        padding: u32,
        /// [layers, order]
        multipliers: Vec<u64>,
        /// [layers, order − 1, heads]
        primes: Vec<u64>,
        /// [layers, order − 1, heads]: where the rows of each hash start.
        starts: Vec<u64>,
    },
}

/// A layer's table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Engram {
    /// Which of the layers with a table this is.
    pub(crate) which: usize,
    /// How many numbers a row has.
    pub(crate) row: usize,
    pub(crate) form: EngramForm,
}

/// How what was looked up is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EngramForm {
    /// DeepSeek V4.1's: the streams share a value.
    Shared,
    /// The paper's: values go through a convolution over time, which sees this many places, as far apart as the longest
    /// n-gram is long.
    Paper { taps: usize },
}

/// Where a layer norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Norms {
    /// Before either part; the tensor of the second has this name.
    Before { channel: &'static str },
    /// Before and after either part.
    Around,
}

/// How tokens learn of each other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mixer {
    Gqa(Gqa),
    Mla(Mla),
    Delta(Delta),
    Compressed(Compressed),
}

/// Attention whose query heads share the keys and values of fewer heads (Ainslie et al. 2023).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gqa {
    pub(crate) heads: usize,
    /// Divides `heads`.
    pub(crate) kv_heads: usize,
    /// How long a head is.
    pub(crate) head: usize,
    /// Whether queries, keys and values have a bias.
    pub(crate) bias: bool,
    /// Whether the result has a bias.
    pub(crate) output_bias: bool,
    /// Queries, keys and values are cut off at this size, if there is one.
    pub(crate) clamp: Option<f32>,
    pub(crate) qk_norm: QkNorm,
    pub(crate) rope: Rope,
    /// What scores are multiplied with.
    pub(crate) scale: f32,
    /// How many positions a query sees, its own included; all if there is none.
    pub(crate) window: Option<usize>,
    /// Whether every head has one more score whose value is nothing.
    pub(crate) sinks: bool,
    /// Whether the query matrix also makes a gate for every number of the result.
    pub(crate) gate: bool,
}

/// Attention over one short row per position, of which the keys and values of all heads are made (DeepSeek-AI 2024).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mla {
    pub(crate) heads: usize,
    /// How long the row is that queries are made of, if they are not made at once.
    pub(crate) query_row: Option<usize>,
    /// How long the row is that keys and values are made of.
    pub(crate) row: usize,
    /// How many numbers of a head's key are made of the row. The rotated ones, which follow, are common to all heads.
    pub(crate) still: usize,
    /// How long a head's values are.
    pub(crate) value: usize,
    /// Whether what makes the rows, and the result, have biases.
    pub(crate) bias: bool,
    pub(crate) rope: Rope,
    /// What scores are multiplied with.
    pub(crate) scale: f32,
}

/// A short convolution, then a matrix per head that every token corrects and asks (Yang et al. 2024).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Delta {
    /// Heads of queries and keys, and how long each is.
    pub(crate) key_heads: usize,
    pub(crate) key: usize,
    /// Heads of values, and how long each is. Each has a matrix of its own.
    pub(crate) value_heads: usize,
    pub(crate) value: usize,
    pub(crate) sharing: Sharing,
    /// How many positions the convolution sees, its own included.
    pub(crate) taps: usize,
    /// Whether one matrix makes everything, key head by key head: its query, its key, its values, their gates.
    pub(crate) packed: bool,
    /// Whether one matrix makes rates and decays, key head by key head.
    pub(crate) packed_rates: bool,
}

/// Which value heads have a key head in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Those that lie together: (0, 1, …), (n, n + 1, …), …
    Neighbours,
    /// One of each round: (0, n, …), (1, n + 1, …), …
    Rounds,
}

/// Attention whose heads all look at the same rows, which are keys and values at once: those of the last positions,
/// and farther back rows that stand for several positions each (DeepSeek-V4).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Compressed {
    pub(crate) heads: usize,
    /// How long a head is. Its last numbers are rotated.
    pub(crate) head: usize,
    /// Numbers between the two matrices of the queries.
    pub(crate) query_rank: usize,
    /// Whether every head's queries are normed.
    pub(crate) query_norm: bool,
    /// Groups of heads whose results are projected by themselves. Divides `heads`.
    pub(crate) output_groups: usize,
    /// Numbers that a group's results are projected to.
    pub(crate) output_rank: usize,
    /// How many positions a query sees row by row, its own included.
    pub(crate) window: usize,
    pub(crate) rope: Rope,
    pub(crate) far: Option<Far>,
    /// The round trips through fewer bits that rows and index keys take, if they do.
    pub(crate) trips: Option<Trips>,
}

/// Round trips through fewer bits, as a family's models were trained with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trips {
    /// DeepSeek V4: rows through FP8 but for what is rotated, index queries and keys through a Hadamard transform and FP4.
    V4,
    /// DeepSeek V4.1: the window's rows through FP8, the others and index queries and keys through FP4.
    V41,
}

/// Rows that stand for one position or several.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Far {
    /// How many positions make a row.
    pub(crate) ratio: usize,
    pub(crate) rows: Rows,
    pub(crate) choice: Choosing,
}

/// Who makes the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    Own(Compression),
    /// An earlier layer, this one.
    Of(usize),
}

/// How positions become a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Positions have scores, to which something is added for each place in the row.
    Placed,
    /// The same, and a row is also made of the positions of the row before, which have numbers of their own for that.
    Overlapping,
    /// Positions have scores and nothing else.
    Scored,
    /// A row is made of one position.
    Single,
}

/// Which of the rows a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choosing {
    All,
    Indexed(Indexer),
    /// Those that an earlier layer has chosen for it.
    AsBefore,
}

/// A small attention that judges rows by keys of its own (DeepSeek-V3.2's lightning indexer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Indexer {
    pub(crate) heads: usize,
    /// How long a head is. Its last numbers are rotated.
    pub(crate) head: usize,
    /// How many rows a query sees.
    pub(crate) rows: usize,
    pub(crate) keys: Keys,
    pub(crate) candidates: Candidates,
}

/// Where an indexer's keys come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// A compressor of their own.
    Compressed,
    /// The layer's rows, before they are rotated.
    OfRows,
    /// The layer that makes the rows.
    OfSource,
}

/// Which rows an indexer judges at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidates {
    /// All.
    All,
    /// All, and it leaves to later layers the best `kept` blocks of `size` rows each, judged by their best row.
    Leaves { kept: usize, size: usize },
    /// Those in the blocks that an earlier layer has left, of this many rows each.
    Left { size: usize },
}

/// What queries and keys are normed over before they are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QkNorm {
    /// They are not.
    None,
    /// Every head by itself.
    Heads,
    /// All heads together.
    Rows,
}

/// Rotary position embedding (Su et al. 2021).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    pub(crate) pairs: Pairs,
    /// How many of a head's numbers are rotated; the rest stays. Even.
    pub(crate) rotated: usize,
    pub(crate) base: f32,
    pub(crate) scaling: Scaling,
    /// Whether the file has a divisor of its own for every frequency (`rope_freqs`, as Llama 3 has).
    pub(crate) factors: bool,
}

/// How positions beyond those of the training are reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scaling {
    None,
    /// Positions are divided by this.
    Linear(f32),
    Yarn(Yarn),
}

/// Slow frequencies are divided, fast ones stay (Peng et al. 2023).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Yarn {
    pub(crate) factor: f32,
    /// Positions of the training.
    pub(crate) original: usize,
    /// Turns within `original` from which on a frequency is fast, and up to which it is slow.
    pub(crate) beta_fast: f32,
    pub(crate) beta_slow: f32,
    /// Whether the borders between fast and slow are pairs, or lie between them.
    pub(crate) whole_pairs: bool,
    /// What sines and cosines are multiplied with.
    pub(crate) magnitude: f32,
}

/// Which two numbers of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// Neighbours: (0, 1), (2, 3), …
    Neighbours,
    /// One from each half: (0, n/2), (1, n/2 + 1), …
    Halves,
}

/// What happens to each token by itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Channel {
    Dense(Dense),
    Moe(Moe),
}

/// down(activation(gate(x)) · up(x)) (Shazeer 2020).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dense {
    /// How many numbers lie between the matrices.
    pub(crate) hidden: usize,
    /// Whether the matrices' results have biases.
    pub(crate) bias: bool,
    pub(crate) activation: Activation,
}

/// What stands between the matrices of a feed-forward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Activation {
    /// silu(gate) · up
    Silu,
    /// gelu(gate) · up
    Gelu,
    /// silu(min(gate, limit)) · clamp(up, ±limit)
    ClampedSilu { limit: f32 },
    /// min(gate, limit) · σ(alpha · min(gate, limit)) · (clamp(up, ±limit) + 1)
    ShiftedSwish { alpha: f32, limit: f32 },
}

/// Many feed-forwards, of which every token goes through a few (Shazeer et al. 2017).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moe {
    pub(crate) experts: usize,
    pub(crate) expert: Dense,
    pub(crate) router: Router,
    /// One more feed-forward that every token goes through.
    pub(crate) shared: Option<Shared>,
}

/// How a token's experts are chosen and weighed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Router {
    /// How many experts a token goes through.
    pub(crate) used: usize,
    pub(crate) scoring: Scoring,
    pub(crate) choice: Choice,
    /// Whether the router's matrix has a bias.
    pub(crate) bias: bool,
    /// Whether the chosen experts' weights are made to add up to one.
    pub(crate) normalise: bool,
    /// What is added to their sum then.
    pub(crate) floor: f32,
    /// What weights are multiplied with in the end.
    pub(crate) scale: f32,
}

/// What makes scores of a router's results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scoring {
    /// A softmax over all experts.
    Softmax,
    /// A softmax over the chosen ones.
    SoftmaxOfChosen,
    Sigmoid,
    /// √(softplus)
    SqrtSoftplus,
}

/// Which experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Those with the highest scores.
    Best,
    /// Those with the highest scores after a correction, which does not count for their weights.
    Corrected,
    /// The same within the `used` best of `count` groups, judged by their two best experts.
    Grouped { count: usize, used: usize },
    /// The same within the `used` best of `count` groups, judged by their best expert, without a correction.
    GroupedByBest { count: usize, used: usize },
    /// Those that a table has for the token.
    Table,
}

/// The feed-forward of all tokens in a mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shared {
    pub(crate) dense: Dense,
    /// Whether every token's result is multiplied with a sigmoid of its own.
    pub(crate) gate: bool,
}

/// Whether models of this family can be run.
pub(crate) fn know(architecture: &str) -> Result<(), Error> {
    if FAMILIES.iter().any(|(name, _)| *name == architecture) {
        return Ok(());
    }
    Err(unsupported(architecture))
}

pub(super) fn unsupported(architecture: &str) -> Error {
    let names: Vec<_> = FAMILIES.iter().map(|(name, _)| *name).collect();
    Error::Unsupported { architecture: architecture.to_owned(), supported: names.join(", ") }
}

impl Spec {
    /// The description of the model in `file`.
    pub(crate) fn read(file: &Source) -> Result<Spec, Error> {
        let architecture = file.architecture();
        let (_, describe) = FAMILIES
            .iter()
            .find(|(name, _)| *name == architecture)
            .ok_or_else(|| unsupported(architecture))?;
        let spec = describe(&Reader { file, architecture })?;
        spec.check().map_err(|why| file.bad(why))?;
        Ok(spec)
    }

    /// Leaves round trips through fewer bits out, or makes sure that they can be taken.
    pub(crate) fn take_trips(&mut self, wanted: bool) -> Result<(), String> {
        for (i, layer) in self.layers.iter_mut().chain(&mut self.predictor).enumerate() {
            let Mixer::Compressed(compressed) = &mut layer.mixer else { continue };
            if !wanted {
                compressed.trips = None;
            } else if let (Some(Trips::V4), Some(Far { choice: Choosing::Indexed(indexer), .. })) =
                (compressed.trips, &compressed.far)
                && !indexer.head.is_power_of_two()
            {
                let head = indexer.head;
                return Err(format!(
                    "layer {i}: index heads of {head} numbers cannot be taken through round trips"
                ));
            }
        }
        Ok(())
    }
}

impl Residual {
    /// How many streams there are.
    pub(crate) fn streams(self) -> usize {
        match self {
            Residual::Plain => 1,
            Residual::Hyper(hyper) => hyper.streams,
        }
    }
}
