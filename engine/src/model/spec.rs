//! What a model says of itself, layer by layer, checked: known parts, in order. The forward pass knows the parts
//! and no families; `families.rs` says which parts a family has.

use super::families::FAMILIES;
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

/// More places than any convolution sees.
const TAPS_MAX: usize = 64;

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

    /// What the forward pass relies on.
    fn check(&self) -> Result<(), String> {
        ensure(self.vocabulary > 0, "the vocabulary is empty")?;
        ensure(self.width > 0, "the embedding length is zero")?;
        ensure(!self.layers.is_empty(), "it has no layers")?;
        ensure(self.context_tokens > 0, "the context length is zero")?;
        ensure(self.norm_epsilon >= 0.0, "the norm's epsilon is negative")?;
        if let Residual::Hyper(hyper) = self.residual {
            ensure((1..=STREAMS_MAX).contains(&hyper.streams), "it has no residual streams, or too many")?;
            ensure(hyper.iterations > 0, "the mixes of residual streams are not normalised")?;
            ensure(hyper.epsilon >= 0.0, "the epsilon of residual streams is negative")?;
        }
        let mut tables = 0;
        for (i, layer) in self.layers.iter().enumerate() {
            layer.check().map_err(|why| format!("layer {i}: {why}"))?;
            self.check_sources(i).map_err(|why| format!("layer {i}: {why}"))?;
            if let Some(engram) = &layer.engram {
                let taps = match engram.form {
                    EngramForm::Shared => 1,
                    EngramForm::Paper { taps } => taps,
                };
                ensure((1..=TAPS_MAX).contains(&taps), "its table's convolution sees nothing, or too much")?;
                ensure(
                    engram.which == tables && engram.row > 0,
                    "its table is not the next, or has empty rows",
                )?;
                tables += 1;
            }
        }
        if let Some(layer) = &self.predictor {
            layer.check().map_err(|why| format!("the layer that guesses ahead: {why}"))?;
            ensure(layer.engram.is_none(), "the layer that guesses ahead has a table")?;
        }
        match &self.grams {
            None => ensure(tables == 0, "layers have tables, and nothing says how they are looked up"),
            Some(grams) => grams.check(tables),
        }
    }
}

impl Spec {
    /// Whether what layer `i` takes from earlier ones is there.
    fn check_sources(&self, i: usize) -> Result<(), String> {
        let far = |i: usize| match &self.layers[i].mixer {
            Mixer::Compressed(Compressed { head, rope, far: Some(far), .. }) => Some((*head, rope, far)),
            _ => None,
        };
        let Some((head, rope, own)) = far(i) else { return Ok(()) };
        let source = match own.rows {
            Rows::Own(_) => i,
            Rows::Of(source) => {
                let theirs = (source < i).then(|| far(source)).flatten();
                let fits = theirs.is_some_and(|(theirs, their_rope, far)| {
                    matches!(far.rows, Rows::Own(_))
                        && (theirs, their_rope, far.ratio) == (head, rope, own.ratio)
                });
                ensure(fits, &format!("it looks at rows of layer {source}, which makes none like that"))?;
                source
            }
        };
        // What an earlier layer with rows like these leaves.
        let left = (0..i).rev().filter_map(far).filter(|(_, _, far)| far.ratio == own.ratio);
        let mut left = left.filter_map(|(_, _, far)| match far.choice {
            Choosing::Indexed(indexer) => Some(indexer),
            Choosing::All | Choosing::AsBefore => None,
        });
        match own.choice {
            Choosing::All => Ok(()),
            Choosing::AsBefore => ensure(left.next().is_some(), "no earlier layer chooses rows for it"),
            Choosing::Indexed(indexer) => {
                if let Candidates::Left { size: own } = indexer.candidates {
                    let fits = left.any(
                        |theirs| matches!(theirs.candidates, Candidates::Leaves { size, .. } if size == own),
                    );
                    ensure(fits, "no earlier layer leaves blocks of rows for it")?;
                }
                match indexer.keys {
                    Keys::Compressed => Ok(()),
                    Keys::OfRows => ensure(source == i, "its keys are to be made of rows it does not make"),
                    Keys::OfSource => {
                        let fits = far(source).is_some_and(|(_, _, far)| match far.choice {
                            Choosing::Indexed(theirs) => {
                                theirs.keys == Keys::OfRows && theirs.head == indexer.head
                            }
                            Choosing::All | Choosing::AsBefore => false,
                        });
                        ensure(
                            fits,
                            &format!("it judges rows by keys of layer {source}, which makes none like that"),
                        )
                    }
                }
            }
        }
    }
}

impl Grams {
    fn check(&self, tables: usize) -> Result<(), String> {
        ensure(tables > 0, "no layer has a table")?;
        ensure(
            (2..=ORDER_MAX).contains(&self.order),
            &format!("n-grams of up to {} tokens; 2 to {ORDER_MAX} are supported", self.order),
        )?;
        ensure(self.heads > 0, "n-grams are not hashed")?;
        let columns =
            (self.order - 1).checked_mul(self.heads).and_then(|columns| columns.checked_mul(tables));
        let fits = match &self.hashes {
            GramHashes::Drawn { layers, rows_min, .. } => {
                layers.len() == tables && rows_min.len() == self.order - 1
            }
            GramHashes::Given { multipliers, primes, starts, .. } => {
                Some(multipliers.len()) == self.order.checked_mul(tables)
                    && Some(primes.len()) == columns
                    && Some(starts.len()) == columns
            }
        };
        ensure(fits, "the hashes of n-grams are not as many as its layers with tables need")
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

fn ensure(holds: bool, why: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why.to_owned()) }
}

impl Layer {
    fn check(&self) -> Result<(), String> {
        match &self.mixer {
            Mixer::Gqa(gqa) => gqa.check()?,
            Mixer::Mla(mla) => mla.check()?,
            Mixer::Delta(delta) => delta.check()?,
            Mixer::Compressed(compressed) => compressed.check()?,
        }
        match &self.channel {
            Channel::Dense(dense) => ensure(dense.hidden > 0, "a feed-forward length is zero"),
            Channel::Moe(moe) => moe.check(),
        }
    }
}

impl Gqa {
    fn check(&self) -> Result<(), String> {
        ensure(self.heads > 0 && self.kv_heads > 0, "an attention has no heads")?;
        ensure(
            self.heads.is_multiple_of(self.kv_heads),
            "the query heads cannot share the key heads evenly",
        )?;
        ensure(self.head > 0, "a head's length is zero")?;
        ensure(self.window != Some(0), "an attention's window is empty")?;
        self.rope.check(self.head)
    }
}

impl Mla {
    fn check(&self) -> Result<(), String> {
        ensure(self.heads > 0, "an attention has no heads")?;
        ensure(
            self.row > 0 && self.query_row != Some(0),
            "the row that keys or queries are made of is empty",
        )?;
        ensure(self.still > 0 && self.value > 0, "a head's length is zero")?;
        ensure(self.rope.rotated > 0, "no part of the keys is rotated")?;
        self.rope.check(self.rope.rotated)
    }
}

impl Delta {
    fn check(&self) -> Result<(), String> {
        ensure(self.key_heads > 0 && self.value_heads > 0, "a layer with states has no heads")?;
        ensure(
            self.value_heads.is_multiple_of(self.key_heads),
            "the value heads cannot share the key heads evenly",
        )?;
        ensure(self.key > 0 && self.value > 0, "a head's length is zero")?;
        ensure(self.taps > 0, "the convolution sees nothing")?;
        let state = self.key.saturating_mul(self.value).saturating_mul(self.value_heads);
        ensure(state <= STATE_MAX, &format!("its states would have {state} numbers"))
    }
}

impl Compressed {
    fn check(&self) -> Result<(), String> {
        ensure(self.heads > 0, "an attention has no heads")?;
        ensure(self.head > 0, "a head's length is zero")?;
        ensure(self.query_rank > 0 && self.output_rank > 0, "an attention's rank is zero")?;
        ensure(
            self.output_groups > 0 && self.heads.is_multiple_of(self.output_groups),
            &format!("{} heads cannot be divided into {} groups", self.heads, self.output_groups),
        )?;
        ensure(self.window > 0, "an attention's window is empty")?;
        self.rope.check(self.head)?;
        let Some(far) = &self.far else { return Ok(()) };
        ensure(far.ratio > 0, "a row of several positions is made of none")?;
        ensure(
            far.rows != Rows::Own(Compression::Single) || far.ratio == 1,
            &format!("{} positions are to make a row without scores", far.ratio),
        )?;
        let Choosing::Indexed(indexer) = &far.choice else { return Ok(()) };
        ensure(indexer.heads > 0 && indexer.rows > 0, "an indexer has no heads, or chooses no rows")?;
        match indexer.candidates {
            Candidates::All => {}
            Candidates::Leaves { kept, size } => {
                ensure(
                    kept > 0 && (1..=BLOCK_MAX).contains(&size),
                    "its blocks of rows are none, or too large",
                )?;
            }
            Candidates::Left { size } => ensure(size > 0, "its blocks of rows are empty")?,
        }
        self.rope.check(indexer.head)
    }
}

impl Rope {
    /// Whether heads of this length can be rotated so.
    pub(super) fn check(&self, head: usize) -> Result<(), String> {
        ensure(self.rotated <= head, "more is rotated than a head has")?;
        ensure(self.rotated.is_multiple_of(2), "an odd number of a head's numbers is rotated")?;
        ensure(self.base > 1.0, "the rotation's base is not above 1")?;
        match self.scaling {
            Scaling::None => Ok(()),
            Scaling::Linear(factor) => ensure(factor > 0.0, "the rotation's scaling factor is not positive"),
            Scaling::Yarn(yarn) => {
                ensure(yarn.factor > 0.0, "the rotation's scaling factor is not positive")?;
                ensure(yarn.original > 0, "the rotation's original context is empty")?;
                ensure(
                    yarn.beta_fast > 0.0 && yarn.beta_slow > 0.0,
                    "the rotation's borders between fast and slow are not positive",
                )
            }
        }
    }
}

impl Moe {
    fn check(&self) -> Result<(), String> {
        let used = self.router.used;
        ensure(self.expert.hidden > 0, "the experts' feed-forward length is zero")?;
        ensure(self.shared.is_none_or(|shared| shared.dense.hidden > 0), "a feed-forward length is zero")?;
        ensure(used > 0, "no expert is used")?;
        ensure(
            used <= self.experts,
            &format!("{used} experts are to be used of the {} there are", self.experts),
        )?;
        match self.router.choice {
            Choice::Best | Choice::Corrected | Choice::Table => Ok(()),
            Choice::Grouped { count, used: groups } | Choice::GroupedByBest { count, used: groups } => {
                ensure(
                    count > 0 && self.experts.is_multiple_of(count),
                    &format!("{} experts cannot be divided into {count} groups", self.experts),
                )?;
                ensure(groups > 0 && groups <= count, "more groups of experts are used than there are")?;
                ensure(
                    used <= groups * (self.experts / count),
                    "the groups that are used have too few experts",
                )
            }
        }
    }
}

/// More numbers than any layer's state has: real ones have about half a million.
const STATE_MAX: usize = 1 << 26;

/// Longer n-grams are a mistake in a file: the largest model has four.
pub(super) const ORDER_MAX: usize = 16;

/// More rows than any model judges together.
const BLOCK_MAX: usize = 1 << 16;

/// More residual streams than any model has.
const STREAMS_MAX: usize = 64;

/// More layers than any model has; a number beyond it is damage, not a model.
const LAYERS_MAX: usize = 1024;

/// Reads a family's own keys, which start with its name.
pub(super) struct Reader<'a> {
    pub(super) file: &'a Source,
    pub(super) architecture: &'a str,
}

impl Reader<'_> {
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// Whether there is a tensor of this name.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.file.has(tensor)
    }

    pub(super) fn bad(&self, why: impl ToString) -> Error {
        self.file.bad(why)
    }

    pub(super) fn number(&self, key: &str) -> Result<usize, Error> {
        let key = self.key(key);
        let number = self.file.number(&key)?;
        self.size(&key, number.ok_or_else(|| self.bad(format!("`{key}` is missing")))?)
    }

    pub(super) fn number_or(&self, key: &str, otherwise: usize) -> Result<usize, Error> {
        let key = self.key(key);
        self.file.number(&key)?.map_or(Ok(otherwise), |number| self.size(&key, number))
    }

    /// A number for every layer: a list, or one number for all.
    pub(super) fn per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>, Error> {
        let name = self.key(key);
        let Some(list) = self.file.numbers(&name)? else {
            return match self.file.number(&name)? {
                None => Ok(None),
                Some(number) => Ok(Some(vec![self.size(&name, number)?; layers])),
            };
        };
        if list.len() < layers {
            return Err(self.bad(format!("`{name}` has {} numbers for {layers} layers", list.len())));
        }
        list.into_iter().map(|number| self.size(&name, number)).collect::<Result<_, _>>().map(Some)
    }

    /// A list of layers.
    pub(super) fn list(&self, key: &str) -> Result<Option<Vec<usize>>, Error> {
        let name = self.key(key);
        let Some(list) = self.file.numbers(&name)? else { return Ok(None) };
        list.into_iter().map(|number| self.size(&name, number)).collect::<Result<_, _>>().map(Some)
    }

    /// Whether the file has a list under this key, and not one number.
    pub(super) fn is_list(&self, key: &str) -> bool {
        matches!(self.file.numbers(&self.key(key)), Ok(Some(_)))
    }

    fn size(&self, key: &str, number: u64) -> Result<usize, Error> {
        // Beyond 32 bits, products of such numbers would wrap.
        u32::try_from(number)
            .map(|n| n as usize)
            .map_err(|_| self.bad(format!("`{key}` is {number}, which is no size")))
    }

    pub(super) fn real(&self, key: &str) -> Result<f32, Error> {
        let key = self.key(key);
        self.file.real(&key)?.ok_or_else(|| self.bad(format!("`{key}` is missing")))
    }

    pub(super) fn real_or(&self, key: &str, otherwise: f32) -> Result<f32, Error> {
        Ok(self.file.real(&self.key(key))?.unwrap_or(otherwise))
    }

    /// A real number for every layer: a list, or one number for all.
    pub(super) fn real_per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<f32>>, Error> {
        let name = self.key(key);
        match self.file.reals(&name)? {
            None => Ok(self.file.real(&name)?.map(|real| vec![real; layers])),
            Some(list) if list.len() < layers => {
                Err(self.bad(format!("`{name}` has {} numbers for {layers} layers", list.len())))
            }
            Some(list) => Ok(Some(list)),
        }
    }

    pub(super) fn truth_or(&self, key: &str, otherwise: bool) -> Result<bool, Error> {
        Ok(self.file.truth(&self.key(key))?.unwrap_or(otherwise))
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.file.text(&self.key(key))
    }

    /// How many layers there are, without those that only guess ahead (`nextn_predict_layers`), which stand
    /// behind the others.
    pub(super) fn layers(&self) -> Result<usize, Error> {
        let layers = self.number("block_count")?;
        let ahead = self.number_or("nextn_predict_layers", 0)?;
        if layers > LAYERS_MAX || ahead >= layers.max(1) {
            return Err(self.bad(format!("it announces {layers} layers, {ahead} of them to guess ahead")));
        }
        Ok(layers - ahead)
    }
}
