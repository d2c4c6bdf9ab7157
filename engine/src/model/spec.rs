//! What a model file says, layer by layer, checked. A family is a function here that describes its models with
//! known parts; the forward pass knows the parts and no families.

use crate::Error;
use crate::weights::Gguf;

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
    pub(crate) output: Output,
    pub(crate) layers: Vec<Layer>,
}

/// Which matrix turns the last layer's result into logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// The token embedding's.
    Tied,
    /// One of its own.
    Separate,
}

/// One layer: x += mix(norm(x)), then x += channel(norm(x)).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layer {
    pub(crate) mixer: Mixer,
    pub(crate) channel: Channel,
}

/// How tokens learn of each other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mixer {
    Gqa(Gqa),
}

/// Attention whose query heads share the keys and values of fewer heads (Ainslie et al. 2023).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gqa {
    pub(crate) heads: usize,
    /// Divides `heads`.
    pub(crate) kv_heads: usize,
    /// A multiple of sixteen.
    pub(crate) head: usize,
    /// Whether queries, keys and values have a bias.
    pub(crate) bias: bool,
    /// Whether every head's queries and keys are normed before they are rotated.
    pub(crate) qk_norm: bool,
    pub(crate) rope: Rope,
}

/// Rotary position embedding (Su et al. 2021).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    pub(crate) pairs: Pairs,
    /// How many of a head's numbers are rotated; the rest stays. Even.
    pub(crate) rotated: usize,
    pub(crate) base: f32,
    /// Positions are divided by this: linear scaling to longer contexts.
    pub(crate) stretch: f32,
    /// Whether the file has a divisor of its own for every frequency (`rope_freqs`, as Llama 3 has).
    pub(crate) factors: bool,
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
    /// down(silu(gate(x)) · up(x)) (Shazeer 2020), with this many numbers between.
    Dense { hidden: usize },
}

/// The families, each with the function that describes its models.
const FAMILIES: [(&str, Describe); 2] = [("llama", llama), ("qwen2", qwen2)];

/// Describes the model in a file.
type Describe = fn(&Reader<'_>) -> Result<Spec, Error>;

/// Whether models of this family can be run.
pub(crate) fn know(architecture: &str) -> Result<(), Error> {
    if FAMILIES.iter().any(|(name, _)| *name == architecture) {
        return Ok(());
    }
    Err(unsupported(architecture))
}

fn unsupported(architecture: &str) -> Error {
    let names: Vec<_> = FAMILIES.iter().map(|(name, _)| *name).collect();
    Error::Unsupported { architecture: architecture.to_owned(), supported: names.join(", ") }
}

impl Spec {
    /// The description of the model in `file`.
    pub(crate) fn read(file: &Gguf) -> Result<Spec, Error> {
        let architecture = file.text("general.architecture").unwrap_or_default();
        let (_, describe) = FAMILIES
            .iter()
            .find(|(name, _)| *name == architecture)
            .ok_or_else(|| unsupported(architecture))?;
        let spec = describe(&Reader { file, architecture })?;
        spec.check().map_err(|why| file.bad(why))?;
        Ok(spec)
    }

    /// What the forward pass relies on.
    fn check(&self) -> Result<(), String> {
        let ensure = |holds: bool, why: &str| if holds { Ok(()) } else { Err(why.to_owned()) };
        ensure(self.vocabulary > 0, "the vocabulary is empty")?;
        ensure(self.width > 0, "the embedding length is zero")?;
        ensure(!self.layers.is_empty(), "it has no layers")?;
        ensure(self.context_tokens > 0, "the context length is zero")?;
        ensure(self.norm_epsilon >= 0.0, "the norm's epsilon is negative")?;
        for layer in &self.layers {
            let Mixer::Gqa(Gqa { heads, kv_heads, head, ref rope, .. }) = layer.mixer;
            ensure(heads > 0 && kv_heads > 0, "an attention has no heads")?;
            ensure(heads.is_multiple_of(kv_heads), "the query heads cannot share the key heads evenly")?;
            ensure(head > 0 && head.is_multiple_of(16), "a head's length is no multiple of 16")?;
            ensure(
                rope.rotated <= head && rope.rotated.is_multiple_of(2),
                "more is rotated than a head has",
            )?;
            ensure(rope.base > 1.0, "the rotation's base is not above 1")?;
            ensure(rope.stretch > 0.0, "the rotation's scaling factor is not positive")?;
            let Channel::Dense { hidden } = layer.channel;
            ensure(hidden > 0, "a feed-forward length is zero")?;
        }
        Ok(())
    }
}

/// Llama and what is built like it. Its files have queries and keys reordered so that neighbours rotate
/// together.
fn llama(file: &Reader<'_>) -> Result<Spec, Error> {
    let experts = file.number_or("expert_count", 0)?;
    if experts > 0 {
        return Err(unsupported(&format!("llama with {experts} experts")));
    }
    dense(file, Pairs::Neighbours, file.has("blk.0.attn_q.bias"))
}

/// Qwen 2 and 2.5: biases on queries, keys and values, halves rotated together.
fn qwen2(file: &Reader<'_>) -> Result<Spec, Error> {
    dense(file, Pairs::Halves, true)
}

/// Grouped-query attention and a gated feed-forward in every layer, alike throughout.
fn dense(file: &Reader<'_>, pairs: Pairs, bias: bool) -> Result<Spec, Error> {
    let width = file.number("embedding_length")?;
    let heads = file.number("attention.head_count")?;
    let kv_heads = file.number_or("attention.head_count_kv", heads)?;
    let head = file.number_or("attention.key_length", width / heads.max(1))?;
    if file.number_or("attention.value_length", head)? != head {
        return Err(file.file.bad("keys and values of different lengths are not supported"));
    }
    let factors = file.has("rope_freqs.weight");
    let scaling = file.file.text(&file.key("rope.scaling.type")).unwrap_or("none");
    let factor = file.real_or("rope.scaling.factor", 1.0)?;
    let stretch = match scaling {
        "none" => 1.0,
        "linear" => factor,
        other => return Err(file.file.bad(format!("rope scaling of type `{other}` is not supported"))),
    };
    let gqa = Gqa {
        heads,
        kv_heads,
        head,
        bias,
        qk_norm: false,
        rope: Rope {
            pairs,
            rotated: file.number_or("rope.dimension_count", head)?,
            base: file.real_or("rope.freq_base", 10_000.0)?,
            stretch,
            factors,
        },
    };
    let layer = Layer {
        mixer: Mixer::Gqa(gqa),
        channel: Channel::Dense { hidden: file.number("feed_forward_length")? },
    };
    // Within its window, a model with sliding windows is one without.
    let context = file.number("context_length")?;
    let window = file.number_or("attention.sliding_window", context)?;
    let layers = file.number("block_count")?;
    if layers > LAYERS_MAX {
        return Err(file.file.bad(format!("it announces {layers} layers")));
    }
    Ok(Spec {
        architecture: file.architecture.to_owned(),
        vocabulary: file.file.shape("token_embd.weight")?.first().copied().unwrap_or(0),
        width,
        context_tokens: if window == 0 { context } else { context.min(window) },
        norm_epsilon: file.real("attention.layer_norm_rms_epsilon")?,
        output: if file.has("output.weight") { Output::Separate } else { Output::Tied },
        layers: vec![layer; layers],
    })
}

/// More layers than any model has; a number beyond it is damage, not a model.
const LAYERS_MAX: usize = 1024;

/// Reads a family's own keys, which start with its name.
struct Reader<'a> {
    file: &'a Gguf,
    architecture: &'a str,
}

impl Reader<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn has(&self, tensor: &str) -> bool {
        self.file.has(tensor)
    }

    fn number(&self, key: &str) -> Result<usize, Error> {
        let key = self.key(key);
        let number = self.file.number(&key)?;
        let number = number.ok_or_else(|| self.file.bad(format!("`{key}` is missing")))?;
        // Beyond 32 bits, products of such numbers would wrap.
        u32::try_from(number)
            .map(|n| n as usize)
            .map_err(|_| self.file.bad(format!("`{key}` is {number}, which is no size")))
    }

    fn number_or(&self, key: &str, otherwise: usize) -> Result<usize, Error> {
        if self.file.number(&self.key(key))?.is_some() { self.number(key) } else { Ok(otherwise) }
    }

    fn real(&self, key: &str) -> Result<f32, Error> {
        let key = self.key(key);
        self.file.real(&key)?.ok_or_else(|| self.file.bad(format!("`{key}` is missing")))
    }

    fn real_or(&self, key: &str, otherwise: f32) -> Result<f32, Error> {
        Ok(self.file.real(&self.key(key))?.unwrap_or(otherwise))
    }
}
