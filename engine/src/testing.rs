//! A writer of tiny random models, for tests that need a model and not its wisdom.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

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
    /// `qwen2` or `llama`.
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
    /// Whether the output matrix is the embedding.
    pub tied: bool,
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
            tied: architecture == "llama",
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

    /// What the file says about the model, by key.
    fn metadata(&self) -> Vec<(String, Value)> {
        let number = |n: usize| Value::U32(u32::try_from(n).expect("tiny"));
        let text = |text: &str| Value::String(text.to_owned());
        let texts = |texts: &[String]| Value::Array(texts.iter().map(|t| text(t)).collect());
        let (tokens, merges) = vocabulary();
        let kinds = (0..VOCABULARY).map(|i| Value::I32(if i < VOCABULARY - SPECIALS.len() { 1 } else { 3 }));
        let arch = |key: &str| format!("{}.{key}", self.architecture);
        vec![
            ("general.architecture".into(), text(&self.architecture)),
            ("general.name".into(), text("Tiny")),
            (arch("block_count"), number(self.layers)),
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
        ]
    }

    fn tensors(&self) -> Vec<(String, QTensor)> {
        let mut chance = Chance(self.seed);
        let (width, hidden) = (self.width, self.hidden);
        let head = width / self.heads;
        let mut tensors = Vec::new();
        let mut put = |name: String, shape: &[usize], dtype, centre: f32, spread: f32| {
            let count = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|_| centre + spread * chance.next()).collect();
            let tensor =
                Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values as the shape has");
            tensors.push((name, QTensor::quantize(&tensor, dtype).expect("rows are whole blocks")));
        };
        let float = GgmlDType::F32;
        let row = |columns: usize| 2.0 / (columns as f32).sqrt();
        put("token_embd.weight".into(), &[VOCABULARY, width], self.dtype, 0.0, 1.0);
        if !self.tied {
            put("output.weight".into(), &[VOCABULARY, width], self.dtype, 0.0, 2.0 * row(width));
        }
        put("output_norm.weight".into(), &[width], float, 1.0, 0.3);
        for i in 0..self.layers {
            let name = |part: &str| format!("blk.{i}.{part}");
            let (q, kv) = (self.heads * head, self.kv_heads * head);
            put(name("attn_norm.weight"), &[width], float, 1.0, 0.3);
            put(name("attn_q.weight"), &[q, width], self.dtype, 0.0, row(width));
            put(name("attn_k.weight"), &[kv, width], self.dtype, 0.0, row(width));
            put(name("attn_v.weight"), &[kv, width], self.dtype, 0.0, row(width));
            if self.architecture == "qwen2" {
                put(name("attn_q.bias"), &[q], float, 0.0, 0.5);
                put(name("attn_k.bias"), &[kv], float, 0.0, 0.5);
                put(name("attn_v.bias"), &[kv], float, 0.0, 0.5);
            }
            put(name("attn_output.weight"), &[width, q], self.dtype, 0.0, row(q));
            put(name("ffn_norm.weight"), &[width], float, 1.0, 0.3);
            put(name("ffn_gate.weight"), &[hidden, width], self.dtype, 0.0, row(width));
            put(name("ffn_up.weight"), &[hidden, width], self.dtype, 0.0, row(width));
            put(name("ffn_down.weight"), &[width, hidden], self.dtype, 0.0, row(hidden));
        }
        tensors
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
