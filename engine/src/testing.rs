//! A writer of tiny random models, for tests that need a model and not its wisdom.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

/// The special tokens of a tiny model, the last of its vocabulary.
pub const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// How many tokens a tiny model knows: one per byte, a few pairs, the specials.
pub const VOCABULARY: usize = 272;
/// The longest line a tiny model was made for.
pub const CONTEXT_TOKENS: usize = 1024;

/// A tiny model: random weights, a byte-level tokenizer, and the metadata a real file has.
#[derive(Clone, Debug)]
pub struct TinyModel {
    /// `qwen2`, `llama`, `deepseek2` or `qwen35moe`.
    pub architecture: String,
    /// How its matrices are stored; `Q4K` and its like need a `width` that is a multiple of 256.
    pub dtype: GgmlDType,
    /// Numbers per token between layers.
    pub width: usize,
    /// Numbers between the matrices of a feed-forward.
    pub hidden: usize,
    /// Query heads; `width` is shared out among them.
    pub heads: usize,
    /// Key heads; divides `heads`.
    pub kv_heads: usize,
    /// Layers.
    pub layers: usize,
    /// Experts of a layer, of which a token goes through two; 0 for none. `llama` can do without.
    pub experts: usize,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Whether a layer behind the others guesses ahead; `deepseek2` and `qwen35moe` know how.
    pub predictor: bool,
    /// Whose weights these are.
    pub seed: u64,
}

impl TinyModel {
    /// A model of this family that has every part the family knows.
    pub fn new(architecture: &str) -> TinyModel {
        TinyModel {
            architecture: architecture.to_owned(),
            dtype: GgmlDType::Q8_0,
            width: 128,
            hidden: 192,
            heads: 4,
            kv_heads: 2,
            layers: 2,
            experts: if matches!(architecture, "deepseek2" | "qwen35moe") { 8 } else { 0 },
            tied: architecture == "llama",
            predictor: matches!(architecture, "deepseek2" | "qwen35moe"),
            seed: 1,
        }
    }

    /// Writes the model as a GGUF file.
    ///
    /// # Panics
    /// If the file cannot be written, or the sizes do not fit together: this is for tests.
    pub fn write(&self, path: &Path) {
        let file = File::create(path).expect("a test's folder can be written to");
        let metadata = self.metadata();
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let tensors = self.tensors();
        let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        write(&mut BufWriter::new(file), &metadata, &tensors).expect("a tiny model can be written");
    }

    /// Writes the model as `tiny-00001-of-0000N.gguf` and so on into `folder`, as llama.cpp splits files, and returns the
    /// parts' paths.
    ///
    /// # Panics
    /// If the files cannot be written: this is for tests.
    pub fn write_parts(&self, folder: &Path, count: usize) -> Vec<PathBuf> {
        let tensors = self.tensors();
        let part = |i: usize| {
            let path = folder.join(format!("tiny-{:05}-of-{count:05}.gguf", i + 1));
            let mut metadata = if i == 0 { self.metadata() } else { Vec::new() };
            metadata.push(("split.no".into(), Value::U16(u16::try_from(i).expect("tiny"))));
            metadata.push(("split.count".into(), Value::U16(u16::try_from(count).expect("tiny"))));
            metadata.push((
                "split.tensors.count".into(),
                Value::I32(i32::try_from(tensors.len()).expect("tiny")),
            ));
            let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
            let share = i * tensors.len() / count..(i + 1) * tensors.len() / count;
            let tensors: Vec<_> =
                tensors[share].iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            let file = File::create(&path).expect("a test's folder can be written to");
            write(&mut BufWriter::new(file), &metadata, &tensors).expect("a tiny model can be written");
            path
        };
        (0..count).map(part).collect()
    }

    /// Writes the model as two GGUF files: the layer that guesses ahead lies in one beside the other.
    ///
    /// # Panics
    /// As [`TinyModel::write`].
    pub fn write_apart(&self, path: &Path) {
        assert!(self.predictor, "there is such a layer");
        TinyModel { predictor: false, ..self.clone() }.write(path);
        let name = path.file_name().and_then(|name| name.to_str()).expect("a file's name");
        self.write(&path.with_file_name(format!("mtp-{name}")));
    }

    /// What the file says about the model, by key.
    fn metadata(&self) -> Vec<(String, Value)> {
        let number = |n: usize| Value::U32(u32::try_from(n).expect("tiny"));
        let text = |text: &str| Value::String(text.to_owned());
        let texts = |texts: &[String]| Value::Array(texts.iter().map(|t| text(t)).collect());
        let (tokens, merges) = vocabulary();
        let kinds = (0..VOCABULARY).map(|i| Value::I32(if i < VOCABULARY - SPECIALS.len() { 1 } else { 3 }));
        let arch = |key: &str| format!("{}.{key}", self.architecture);
        let mut metadata = vec![
            ("general.architecture".into(), text(&self.architecture)),
            ("general.name".into(), text("Tiny")),
            (arch("block_count"), number(self.layers + usize::from(self.predictor))),
            (arch("context_length"), number(CONTEXT_TOKENS)),
            (arch("embedding_length"), number(self.width)),
            (arch("feed_forward_length"), number(self.hidden)),
            (arch("attention.head_count"), number(self.heads)),
            (arch("attention.head_count_kv"), number(self.kv_heads)),
            (arch("attention.layer_norm_rms_epsilon"), Value::F32(1e-6)),
            (arch("rope.freq_base"), Value::F32(10_000.0)),
            ("tokenizer.ggml.model".into(), text("gpt2")),
            ("tokenizer.ggml.pre".into(), text("qwen2")),
            ("tokenizer.ggml.tokens".into(), texts(&tokens)),
            ("tokenizer.ggml.token_type".into(), Value::Array(kinds.collect())),
            ("tokenizer.ggml.merges".into(), texts(&merges)),
            ("tokenizer.ggml.bos_token_id".into(), number(VOCABULARY - 3)),
            ("tokenizer.ggml.eos_token_id".into(), number(VOCABULARY - 1)),
            ("tokenizer.ggml.add_bos_token".into(), Value::Bool(false)),
            (
                "tokenizer.chat_template".into(),
                text(
                    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}\
                     <|im_end|>\n{% endfor %}<|im_start|>assistant\n",
                ),
            ),
        ];
        if self.predictor {
            metadata.push((arch("nextn_predict_layers"), number(1)));
        }
        metadata.extend(self.sizes().iter().map(|&(key, size)| (arch(key), number(size))));
        metadata
    }

    /// What only some families have.
    fn sizes(&self) -> Vec<(&str, usize)> {
        let experts = [
            ("expert_count", self.experts),
            ("expert_used_count", 2),
            ("expert_feed_forward_length", self.hidden),
            ("expert_shared_feed_forward_length", self.hidden),
        ];
        let own: &[(&str, usize)] = match self.architecture.as_str() {
            "deepseek2" => &[
                ("expert_group_count", 2),
                ("expert_group_used_count", 1),
                ("attention.q_lora_rank", rows::QUERY),
                ("attention.kv_lora_rank", rows::ROW),
                ("attention.key_length", rows::ROW + rows::ROTATED),
                ("attention.value_length", rows::ROW),
                ("attention.key_length_mla", rows::STILL + rows::ROTATED),
                ("attention.value_length_mla", rows::VALUE),
                ("rope.dimension_count", rows::ROTATED),
            ],
            "qwen35moe" => &[
                ("full_attention_interval", 2),
                ("ssm.conv_kernel", states::TAPS),
                ("ssm.group_count", states::KEY_HEADS),
                ("ssm.state_size", states::KEY),
                ("ssm.time_step_rank", states::VALUE_HEADS),
                ("ssm.inner_size", states::VALUE_HEADS * states::VALUE),
            ],
            "llama" if self.experts > 0 => return experts[..3].to_vec(),
            _ => return Vec::new(),
        };
        [&experts, own].concat()
    }

    fn tensors(&self) -> Vec<(String, QTensor)> {
        let mut to = Tensors { dtype: self.dtype, chance: Chance(self.seed), made: Vec::new() };
        to.matrix("token_embd.weight", &[VOCABULARY, self.width], 1.0);
        if !self.tied {
            to.matrix("output.weight", &[VOCABULARY, self.width], 2.0 * spread(self.width));
        }
        to.floats("output_norm.weight", &[self.width], 1.0, 0.3);
        for i in 0..self.layers + usize::from(self.predictor) {
            let name = |part: &str| format!("blk.{i}.{part}");
            let ahead = i == self.layers;
            if ahead {
                to.matrix(&name("nextn.eh_proj.weight"), &[self.width, 2 * self.width], spread(self.width));
                for norm in ["enorm", "hnorm", "shared_head_norm"] {
                    to.floats(&name(&format!("nextn.{norm}.weight")), &[self.width], 1.0, 0.3);
                }
            }
            to.floats(&name("attn_norm.weight"), &[self.width], 1.0, 0.3);
            let second_norm =
                if self.architecture == "qwen35moe" { "post_attention_norm" } else { "ffn_norm" };
            match self.architecture.as_str() {
                "deepseek2" => self.attention_over_rows(i, &mut to),
                "qwen35moe" if i % 2 == 0 && !ahead => self.states(i, &mut to),
                _ => self.attention(i, &mut to),
            }
            to.floats(&name(&format!("{second_norm}.weight")), &[self.width], 1.0, 0.3);
            match self.architecture.as_str() {
                "deepseek2" if i > 0 => self.experts(i, &mut to),
                "qwen35moe" => self.experts(i, &mut to),
                "llama" if self.experts > 0 => self.experts(i, &mut to),
                _ => self.feed_forward(i, "", &[], &mut to),
            }
        }
        to.made
    }

    fn attention(&self, layer: usize, to: &mut Tensors) {
        let name = |part: &str| format!("blk.{layer}.attn_{part}");
        let head = self.width / self.heads;
        let (q, kv) = (self.heads * head, self.kv_heads * head);
        let gated = self.architecture == "qwen35moe";
        to.matrix(&name("q.weight"), &[if gated { 2 * q } else { q }, self.width], spread(self.width));
        to.matrix(&name("k.weight"), &[kv, self.width], spread(self.width));
        to.matrix(&name("v.weight"), &[kv, self.width], spread(self.width));
        if self.architecture == "qwen2" {
            to.floats(&name("q.bias"), &[q], 0.0, 0.5);
            to.floats(&name("k.bias"), &[kv], 0.0, 0.5);
            to.floats(&name("v.bias"), &[kv], 0.0, 0.5);
        }
        if gated {
            to.floats(&name("q_norm.weight"), &[head], 1.0, 0.3);
            to.floats(&name("k_norm.weight"), &[head], 1.0, 0.3);
        }
        to.matrix(&name("output.weight"), &[self.width, q], spread(q));
    }

    fn attention_over_rows(&self, layer: usize, to: &mut Tensors) {
        use rows::{QUERY, ROTATED, ROW, STILL, VALUE};
        let name = |part: &str| format!("blk.{layer}.attn_{part}.weight");
        to.matrix(&name("q_a"), &[QUERY, self.width], spread(self.width));
        to.floats(&name("q_a_norm"), &[QUERY], 1.0, 0.3);
        to.matrix(&name("q_b"), &[self.heads * (STILL + ROTATED), QUERY], spread(QUERY));
        to.matrix(&name("kv_a_mqa"), &[ROW + ROTATED, self.width], spread(self.width));
        to.floats(&name("kv_a_norm"), &[ROW], 1.0, 0.3);
        if layer == 0 {
            to.matrix(&name("k_b"), &[self.heads, ROW, STILL], spread(ROW));
            to.matrix(&name("v_b"), &[self.heads, VALUE, ROW], spread(ROW));
        } else {
            // Older files have them in one.
            to.matrix(&name("kv_b"), &[self.heads * (STILL + VALUE), ROW], spread(ROW));
        }
        to.matrix(&name("output"), &[self.width, self.heads * VALUE], spread(self.heads * VALUE));
    }

    fn states(&self, layer: usize, to: &mut Tensors) {
        use states::{KEY, KEY_HEADS, TAPS, VALUE, VALUE_HEADS};
        let name = |part: &str| format!("blk.{layer}.{part}");
        let values = VALUE_HEADS * VALUE;
        let channels = 2 * KEY_HEADS * KEY + values;
        to.matrix(&name("attn_qkv.weight"), &[channels, self.width], spread(self.width));
        to.matrix(&name("attn_gate.weight"), &[values, self.width], spread(self.width));
        to.matrix(&name("ssm_beta.weight"), &[VALUE_HEADS, self.width], spread(self.width));
        to.matrix(&name("ssm_alpha.weight"), &[VALUE_HEADS, self.width], spread(self.width));
        to.floats(&name("ssm_conv1d.weight"), &[channels, TAPS], 0.2, 0.5);
        to.floats(&name("ssm_a"), &[VALUE_HEADS], -0.5, 0.4);
        to.floats(&name("ssm_dt.bias"), &[VALUE_HEADS], 0.0, 0.5);
        to.floats(&name("ssm_norm.weight"), &[VALUE], 1.0, 0.3);
        to.matrix(&name("ssm_out.weight"), &[self.width, values], spread(values));
    }

    fn experts(&self, layer: usize, to: &mut Tensors) {
        let name = |part: &str| format!("blk.{layer}.{part}");
        to.floats(&name("ffn_gate_inp.weight"), &[self.experts, self.width], 0.0, spread(self.width));
        if self.architecture == "llama" {
            return self.feed_forward(layer, "_exps", &[self.experts], to);
        }
        if self.architecture == "deepseek2" {
            to.floats(&name("exp_probs_b.bias"), &[self.experts], 0.0, 0.1);
        } else {
            to.floats(&name("ffn_gate_inp_shexp.weight"), &[self.width], 0.0, spread(self.width));
        }
        self.feed_forward(layer, "_exps", &[self.experts], to);
        self.feed_forward(layer, "_shexp", &[], to);
    }

    /// The three matrices of a feed-forward, or of as many as `count` says.
    fn feed_forward(&self, layer: usize, suffix: &str, count: &[usize], to: &mut Tensors) {
        let (width, hidden) = (self.width, self.hidden);
        for (part, rows, columns) in [("gate", hidden, width), ("up", hidden, width), ("down", width, hidden)]
        {
            let name = format!("blk.{layer}.ffn_{part}{suffix}.weight");
            to.matrix(&name, &[count, &[rows, columns]].concat(), spread(columns));
        }
    }
}

/// The sizes of attention over rows.
mod rows {
    pub(super) const QUERY: usize = 96;
    pub(super) const ROW: usize = 64;
    pub(super) const STILL: usize = 32;
    pub(super) const ROTATED: usize = 16;
    pub(super) const VALUE: usize = 32;
}

/// The sizes of layers with states. A head's values are no whole number of what is computed at once.
mod states {
    pub(super) const KEY_HEADS: usize = 2;
    pub(super) const KEY: usize = 24;
    pub(super) const VALUE_HEADS: usize = 4;
    pub(super) const VALUE: usize = 40;
    pub(super) const TAPS: usize = 4;
}

/// How far weights of rows this long lie from zero, so that products keep their size.
fn spread(columns: usize) -> f32 {
    2.0 / (columns as f32).sqrt()
}

/// Random tensors that have been made.
struct Tensors {
    dtype: GgmlDType,
    chance: Chance,
    made: Vec<(String, QTensor)>,
}

impl Tensors {
    /// Weights around zero, stored as the model's matrices are.
    fn matrix(&mut self, name: &str, shape: &[usize], spread: f32) {
        self.put(name, shape, self.dtype, 0.0, spread);
    }

    fn floats(&mut self, name: &str, shape: &[usize], centre: f32, spread: f32) {
        self.put(name, shape, GgmlDType::F32, centre, spread);
    }

    fn put(&mut self, name: &str, shape: &[usize], dtype: GgmlDType, centre: f32, spread: f32) {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| centre + spread * self.chance.next()).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values as the shape has");
        self.made.push((name.to_owned(), QTensor::quantize(&tensor, dtype).expect("rows are whole blocks")));
    }
}

/// The tokens and the merges of a byte-level vocabulary.
fn vocabulary() -> (Vec<String>, Vec<String>) {
    // GPT-2's readable stand-in for each byte: itself if it can be seen, otherwise a letter from U+0100 on.
    let mut next = 0x100;
    let mut tokens: Vec<String> = (0..=255_u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte).to_string(),
            _ => {
                next += 1;
                char::from_u32(next - 1).expect("letters from U+0100 on").to_string()
            }
        })
        .collect();
    let pairs = VOCABULARY - 256 - SPECIALS.len();
    let letters = ["t h", "i n", "e r", "a n", "o n", "r e", "s t", "e n", "a t", "o r", "Ġ t", "Ġ a", "o u"];
    let merges: Vec<String> = letters[..pairs].iter().map(|&merge| merge.to_owned()).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    tokens.extend(SPECIALS.map(str::to_owned));
    (tokens, merges)
}

/// Numbers in −1..1 from a seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }
}

/// The folders of the checkpoints that are held against their references: between them they have every mixer.
#[cfg(test)]
pub(crate) fn checkpoints() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}
