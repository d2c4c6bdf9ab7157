//! Whether a description makes sense: what the forward pass relies on, and what no model has. It is asked before any
//! weight is read.

use super::spec::{
    Candidates, Channel, Choice, Choosing, Compressed, Compression, Delta, EngramForm, Gqa, GramHashes,
    Grams, Keys, Layer, Mixer, Mla, Moe, Residual, Rope, Rows, Scaling, Spec,
};

/// More numbers than any layer's state has: real ones have about half a million.
const STATE_MAX: usize = 1 << 26;

/// Longer n-grams are a mistake in a file: the largest model has four.
pub(super) const ORDER_MAX: usize = 16;

/// More rows than any model judges together.
const BLOCK_MAX: usize = 1 << 16;

/// More residual streams than any model has.
const STREAMS_MAX: usize = 64;

/// More places than any convolution sees.
const TAPS_MAX: usize = 64;

impl Spec {
    /// What the forward pass relies on.
    pub(super) fn check(&self) -> Result<(), String> {
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
