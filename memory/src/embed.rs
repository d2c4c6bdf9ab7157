//! Text as vectors: texts that mean the same lie near each other.

use std::fmt;
use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use serde::Deserialize;
use tokenizers::{Tokenizer, TruncationParams};

use crate::Error;

/// Turns text into vectors. Vectors of two embedders cannot be compared: a store keeps the name of its own, and makes all
/// vectors anew when it is given another.
pub trait Embedder: Send + Sync + fmt::Debug {
    /// A name that stands for this embedder and its weights alone.
    fn name(&self) -> &str;

    /// How many numbers a vector has.
    fn dimensions(&self) -> usize;

    /// One vector of length 1 for each text. What a text says beyond the embedder's own bound is not looked at.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error>;
}

/// The most tokens of a text that are looked at: what MiniLM was trained with.
const TOKENS_MAX: usize = 256;
/// Tokens that go through the layers together.
const BATCH_TOKENS: usize = 4096;

/// A sentence encoder of BERT's architecture (Devlin and others 2018) that takes the mean of its last layer's tokens, as
/// all-MiniLM-L6-v2 does. It computes in 32-bit floats with candle.
pub struct Bert {
    name: String,
    heads: usize,
    epsilon: f64,
    tokenizer: Tokenizer,
    /// [vocabulary, hidden]
    words: Tensor,
    /// [positions, hidden], with the first token type added: a text alone is of that type.
    places: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    merge: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

struct Linear {
    /// [in, out]
    weight: Tensor,
    bias: Tensor,
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
}

/// What is read of `config.json`.
#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    max_position_embeddings: usize,
    #[serde(default = "epsilon")]
    layer_norm_eps: f64,
    #[serde(default = "activation")]
    hidden_act: String,
    #[serde(default = "architecture")]
    model_type: String,
}

fn epsilon() -> f64 {
    1e-12
}

fn activation() -> String {
    "gelu".into()
}

fn architecture() -> String {
    "bert".into()
}

impl Bert {
    /// Opens a folder with `model.safetensors`, `tokenizer.json` and `config.json`. `name` stands for these weights.
    pub fn open(dir: &Path, name: &str) -> Result<Bert, Error> {
        let bad = |what: String| {
            Error::BadInput(format!(
                "the embedder in {} cannot be used: {what}; pull it again, or choose another",
                dir.display()
            ))
        };
        let config = dir.join("config.json");
        let config = std::fs::read(&config).map_err(|e| Error::io(&config, e))?;
        let config: Config = serde_json::from_slice(&config).map_err(|e| bad(format!("config.json: {e}")))?;
        if config.model_type != "bert" || config.hidden_act != "gelu" {
            return Err(bad(format!(
                "it is of type {:?} with the activation {:?}, and \"bert\" with \"gelu\" is what is known here",
                config.model_type, config.hidden_act
            )));
        }
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        if heads == 0 || !hidden.is_multiple_of(heads) {
            return Err(bad(format!("{hidden} numbers cannot be shared out among {heads} heads")));
        }
        let tokens_max = TOKENS_MAX.min(config.max_position_embeddings);
        let mut tokenizer = Tokenizer::from_file(dir.join("tokenizer.json"))
            .map_err(|e| bad(format!("tokenizer.json: {e}")))?;
        let truncation = TruncationParams { max_length: tokens_max, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|e| bad(format!("tokenizer.json: {e}")))?;
        tokenizer.with_padding(None);
        let weights = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu)
            .map_err(|e| bad(format!("model.safetensors: {e}")))?;
        let get = |key: &str, shape: &[usize]| -> Result<Tensor, Error> {
            let found = weights.get(key).or_else(|| weights.get(&format!("bert.{key}")));
            let found = found.ok_or_else(|| bad(format!("model.safetensors has no {key}")))?;
            let fits = found.rank() == shape.len()
                && found.dims().iter().zip(shape).all(|(&is, &should)| should == 0 || is == should);
            if !fits {
                return Err(bad(format!("{key} is {:?} and should be {shape:?}", found.dims())));
            }
            found.to_dtype(DType::F32).map_err(|e| bad(format!("{key}: {e}")))
        };
        let linear = |key: &str, from: usize, to: usize| -> Result<Linear, Error> {
            let weight = get(&format!("{key}.weight"), &[to, from])?;
            let weight = weight.t().and_then(|weight| weight.contiguous());
            let weight = weight.map_err(|e| bad(format!("{key}: {e}")))?;
            Ok(Linear { weight, bias: get(&format!("{key}.bias"), &[to])? })
        };
        let norm = |key: &str| -> Result<Norm, Error> {
            Ok(Norm {
                weight: get(&format!("{key}.weight"), &[hidden])?,
                bias: get(&format!("{key}.bias"), &[hidden])?,
            })
        };
        let layer = |n: usize| -> Result<Layer, Error> {
            let key = |part: &str| format!("encoder.layer.{n}.{part}");
            let inner = get(&key("intermediate.dense.bias"), &[0])?.elem_count();
            Ok(Layer {
                query: linear(&key("attention.self.query"), hidden, hidden)?,
                key: linear(&key("attention.self.key"), hidden, hidden)?,
                value: linear(&key("attention.self.value"), hidden, hidden)?,
                merge: linear(&key("attention.output.dense"), hidden, hidden)?,
                attention_norm: norm(&key("attention.output.LayerNorm"))?,
                up: linear(&key("intermediate.dense"), hidden, inner)?,
                down: linear(&key("output.dense"), inner, hidden)?,
                norm: norm(&key("output.LayerNorm"))?,
            })
        };
        let types = get("embeddings.token_type_embeddings.weight", &[0, hidden])?;
        let places = get("embeddings.position_embeddings.weight", &[config.max_position_embeddings, hidden])?;
        let places = types.narrow(0, 0, 1).and_then(|first| places.broadcast_add(&first));
        let words = get("embeddings.word_embeddings.weight", &[0, hidden])?;
        let vocabulary = words.dims()[0];
        if tokenizer.get_vocab_size(true) > vocabulary {
            return Err(bad(format!(
                "its tokenizer has more tokens than the {vocabulary} it has vectors for"
            )));
        }
        Ok(Bert {
            name: name.into(),
            heads,
            epsilon: config.layer_norm_eps,
            tokenizer,
            words,
            places: places.map_err(|e| bad(e.to_string()))?,
            norm: norm("embeddings.LayerNorm")?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
        })
    }

    /// The vectors of some texts' tokens. The texts lie behind each other, so that every matrix is read once for all of them;
    /// only attention goes text by text.
    fn forward(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, candle_core::Error> {
        let ids: Vec<u32> = texts.concat();
        let places: Vec<u32> = texts.iter().flat_map(|text| 0..text.len() as u32).collect();
        let rows = ids.len();
        let words = self.words.index_select(&Tensor::from_vec(ids, rows, &Device::Cpu)?, 0)?;
        let places = self.places.index_select(&Tensor::from_vec(places, rows, &Device::Cpu)?, 0)?;
        let mut x = self.norm.of(&(words + places)?, self.epsilon)?;
        let hidden = x.dims()[1];
        let width = hidden / self.heads;
        let scale = 1.0 / (width as f64).sqrt();
        for layer in &self.layers {
            let (query, key, value) = (layer.query.of(&x)?, layer.key.of(&x)?, layer.value.of(&x)?);
            let mut seen = Vec::with_capacity(texts.len());
            let mut start = 0;
            for text in texts {
                // [heads, tokens, width]
                let heads = |of: &Tensor| -> Result<Tensor, candle_core::Error> {
                    let part = of.narrow(0, start, text.len())?;
                    part.reshape((text.len(), self.heads, width))?.transpose(0, 1)?.contiguous()
                };
                let scores = (heads(&query)?.matmul(&heads(&key)?.t()?.contiguous()?)? * scale)?;
                let most = scores.max_keepdim(D::Minus1)?;
                let weights = scores.broadcast_sub(&most)?.exp()?;
                let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
                let merged = weights.matmul(&heads(&value)?)?.transpose(0, 1)?;
                seen.push(merged.reshape((text.len(), hidden))?);
                start += text.len();
            }
            let seen = layer.merge.of(&Tensor::cat(&seen, 0)?)?;
            x = layer.attention_norm.of(&(x + seen)?, self.epsilon)?;
            let inner = layer.up.of(&x)?.gelu_erf()?;
            x = layer.norm.of(&(layer.down.of(&inner)? + &x)?, self.epsilon)?;
        }
        let mut vectors = Vec::with_capacity(texts.len());
        let mut start = 0;
        for text in texts {
            let mut vector: Vec<f32> = x.narrow(0, start, text.len())?.mean(0)?.to_vec1()?;
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            vector.iter_mut().for_each(|x| *x /= length);
            vectors.push(vector);
            start += text.len();
        }
        Ok(vectors)
    }
}

impl Embedder for Bert {
    fn name(&self) -> &str {
        &self.name
    }

    fn dimensions(&self) -> usize {
        self.words.dims()[1]
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Error> {
        let failed = |e: &dyn fmt::Display| Error::BadInput(format!("{} cannot read a text: {e}", self.name));
        let mut vectors = Vec::with_capacity(texts.len());
        let mut batch: Vec<Vec<u32>> = Vec::new();
        let mut tokens = 0;
        for (n, text) in texts.iter().enumerate() {
            let encoding = self.tokenizer.encode_fast(*text, true).map_err(|e| failed(&e))?;
            tokens += encoding.get_ids().len();
            batch.push(encoding.get_ids().to_vec());
            if tokens >= BATCH_TOKENS || n + 1 == texts.len() {
                let ids: Vec<&[u32]> = batch.iter().map(Vec::as_slice).collect();
                vectors.extend(self.forward(&ids).map_err(|e| failed(&e))?);
                batch.clear();
                tokens = 0;
            }
        }
        Ok(vectors)
    }
}

impl fmt::Debug for Bert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bert").field("name", &self.name).field("layers", &self.layers.len()).finish()
    }
}

impl Linear {
    fn of(&self, x: &Tensor) -> Result<Tensor, candle_core::Error> {
        x.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl Norm {
    /// (x − mean) / √(variance + epsilon) · weight + bias, over the last dimension.
    fn of(&self, x: &Tensor, epsilon: f64) -> Result<Tensor, candle_core::Error> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
        x.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const HIDDEN: usize = 8;
    const INNER: usize = 12;
    const HEADS: usize = 2;
    const LAYERS: usize = 2;
    const WORDS: [&str; 8] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "run", "the", "tests", "now"];

    /// Numbers that follow from a name.
    fn numbers(name: &str, count: usize) -> Vec<f32> {
        let mut state =
            name.bytes().fold(88172645463325252_u64, |sum, byte| sum.wrapping_mul(31) ^ u64::from(byte));
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count).map(|_| next()).collect()
    }

    fn shapes() -> Vec<(String, Vec<usize>)> {
        let mut shapes = vec![
            ("embeddings.word_embeddings.weight".to_string(), vec![WORDS.len(), HIDDEN]),
            ("embeddings.position_embeddings.weight".to_string(), vec![16, HIDDEN]),
            ("embeddings.token_type_embeddings.weight".to_string(), vec![2, HIDDEN]),
        ];
        let mut linear = |key: String, from: usize, to: usize| {
            shapes.push((format!("{key}.weight"), vec![to, from]));
            shapes.push((format!("{key}.bias"), vec![to]));
        };
        for n in 0..LAYERS {
            let key = |part: &str| format!("encoder.layer.{n}.{part}");
            for part in [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
            ] {
                linear(key(part), HIDDEN, HIDDEN);
            }
            linear(key("intermediate.dense"), HIDDEN, INNER);
            linear(key("output.dense"), INNER, HIDDEN);
        }
        let norms = (0..LAYERS).flat_map(|n| {
            [
                format!("encoder.layer.{n}.attention.output.LayerNorm"),
                format!("encoder.layer.{n}.output.LayerNorm"),
            ]
        });
        for norm in norms.chain(["embeddings.LayerNorm".to_string()]) {
            shapes.push((format!("{norm}.weight"), vec![HIDDEN]));
            shapes.push((format!("{norm}.bias"), vec![HIDDEN]));
        }
        shapes
    }

    /// A small model in a folder, but for what `leave_out` says.
    fn model(leave_out: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let tensors: HashMap<String, Tensor> = shapes()
            .into_iter()
            .filter(|(name, _)| name != leave_out)
            .map(|(name, shape)| {
                let count = shape.iter().product();
                (name.clone(), Tensor::from_vec(numbers(&name, count), shape, &Device::Cpu).unwrap())
            })
            .collect();
        candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
        let config = serde_json::json!({
            "model_type": "bert", "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
            "max_position_embeddings": 16, "hidden_act": "gelu",
        });
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let vocabulary: HashMap<&str, usize> =
            WORDS.iter().enumerate().map(|(id, word)| (*word, id)).collect();
        let special = |id: usize| serde_json::json!({ "id": WORDS[id], "ids": [id], "tokens": [WORDS[id]] });
        let tokenizer = serde_json::json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "decoder": null,
            // As published, texts are cut and filled up to so many tokens; neither may have an effect.
            "truncation": { "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0 },
            "padding": { "strategy": { "Fixed": 12 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                         "pad_type_id": 0, "pad_token": "[PAD]" },
            "pre_tokenizer": { "type": "WhitespaceSplit" },
            "post_processor": { "type": "TemplateProcessing",
                "single": [{ "SpecialToken": { "id": "[CLS]", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                           { "SpecialToken": { "id": "[SEP]", "type_id": 0 } }],
                "pair": [], "special_tokens": { "[CLS]": special(2), "[SEP]": special(3) } },
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]" },
        });
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        dir
    }

    /// The same, written down a second time in plain loops and double precision.
    fn plainly(ids: &[usize]) -> Vec<f64> {
        let of = |name: &str| -> Vec<f64> {
            let shape = shapes().into_iter().find(|(key, _)| key == name).unwrap().1;
            numbers(name, shape.iter().product()).into_iter().map(f64::from).collect()
        };
        let linear = |key: &str, x: &[f64]| -> Vec<f64> {
            let (weight, bias) = (of(&format!("{key}.weight")), of(&format!("{key}.bias")));
            let row = |(row, bias): (&[f64], &f64)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias;
            weight.chunks(x.len()).zip(&bias).map(row).collect()
        };
        let norm = |key: &str, x: &[f64]| -> Vec<f64> {
            let (weight, bias) = (of(&format!("{key}.weight")), of(&format!("{key}.bias")));
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
            x.iter()
                .zip(weight.iter().zip(&bias))
                .map(|(x, (w, b))| (x - mean) / (variance + 1e-12).sqrt() * w + b)
                .collect()
        };
        // The error function, from its series.
        let erf = |x: f64| {
            let mut term = x;
            let mut sum = x;
            for n in 1..80 {
                term *= -x * x / n as f64;
                sum += term / (2 * n + 1) as f64;
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        };
        let (words, places, types) = (
            of("embeddings.word_embeddings.weight"),
            of("embeddings.position_embeddings.weight"),
            of("embeddings.token_type_embeddings.weight"),
        );
        let mut x: Vec<Vec<f64>> = ids
            .iter()
            .enumerate()
            .map(|(place, id)| {
                let sum = |i: usize| words[id * HIDDEN + i] + places[place * HIDDEN + i] + types[i];
                norm("embeddings.LayerNorm", &(0..HIDDEN).map(sum).collect::<Vec<_>>())
            })
            .collect();
        let width = HIDDEN / HEADS;
        for n in 0..LAYERS {
            let key = |part: &str| format!("encoder.layer.{n}.{part}");
            let all = |part: &str| -> Vec<Vec<f64>> { x.iter().map(|x| linear(&key(part), x)).collect() };
            let (query, keys, value) =
                (all("attention.self.query"), all("attention.self.key"), all("attention.self.value"));
            let mut next = Vec::new();
            for t in 0..ids.len() {
                let mut seen = vec![0.0; HIDDEN];
                for head in 0..HEADS {
                    let part = head * width..(head + 1) * width;
                    let score = |s: usize| {
                        let products = query[t][part.clone()].iter().zip(&keys[s][part.clone()]);
                        (products.map(|(q, k)| q * k).sum::<f64>() / (width as f64).sqrt()).exp()
                    };
                    let scores: Vec<f64> = (0..ids.len()).map(score).collect();
                    let total: f64 = scores.iter().sum();
                    for i in part {
                        seen[i] = (0..ids.len()).map(|s| scores[s] / total * value[s][i]).sum();
                    }
                }
                let merged = linear(&key("attention.output.dense"), &seen);
                let sum: Vec<f64> = merged.iter().zip(&x[t]).map(|(a, b)| a + b).collect();
                let middle = norm(&key("attention.output.LayerNorm"), &sum);
                let inner = linear(&key("intermediate.dense"), &middle);
                let inner: Vec<f64> =
                    inner.iter().map(|x| x * 0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2))).collect();
                let out = linear(&key("output.dense"), &inner);
                let sum: Vec<f64> = out.iter().zip(&middle).map(|(a, b)| a + b).collect();
                next.push(norm(&key("output.LayerNorm"), &sum));
            }
            x = next;
        }
        let mean: Vec<f64> =
            (0..HIDDEN).map(|i| x.iter().map(|x| x[i]).sum::<f64>() / x.len() as f64).collect();
        let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
        mean.into_iter().map(|x| x / length).collect()
    }

    #[test]
    fn vectors_are_what_the_architecture_says_alone_and_together() {
        // A vector that depends on its company would make recall depend on what was written beside.
        let dir = model("");
        let bert = Bert::open(dir.path(), "small").unwrap();
        assert_eq!((bert.name(), bert.dimensions()), ("small", HIDDEN));
        let texts = [
            ("run the tests now", vec![2, 4, 5, 6, 7, 3]),
            ("tests", vec![2, 6, 3]),
            ("", vec![2, 3]),
            ("what now", vec![2, 1, 7, 3]),
        ];
        let together = bert.embed(&texts.each_ref().map(|(text, _)| *text)).unwrap();
        for ((text, ids), vector) in texts.iter().zip(&together) {
            let alone = &bert.embed(&[text]).unwrap()[0];
            for ((x, y), expected) in vector.iter().zip(alone).zip(plainly(ids)) {
                assert!((x - y).abs() < 1e-6, "{text:?}");
                assert!((f64::from(*x) - expected).abs() < 1e-5, "{text:?}: {x} should be {expected}");
            }
        }
        let long = vec!["run"; 500].join(" ");
        assert_eq!(bert.embed(&[&long]).unwrap()[0].len(), HIDDEN, "what is too long is cut");
        assert_eq!(bert.embed(&[]).unwrap().len(), 0);
    }

    #[test]
    fn a_model_that_cannot_be_one_is_refused_by_name() {
        let refused = |dir: &Path| match Bert::open(dir, "x") {
            Ok(_) => panic!("it opened"),
            Err(error) => error.to_string(),
        };
        let missing = "encoder.layer.1.output.dense.bias";
        assert!(refused(model(missing).path()).contains(missing));
        let dir = model("");
        std::fs::write(dir.path().join("model.safetensors"), b"x").unwrap();
        assert!(refused(dir.path()).contains("model.safetensors"));
        let dir = model("");
        std::fs::write(dir.path().join("config.json"), r#"{"model_type":"t5","hidden_size":8,"num_attention_heads":2,"num_hidden_layers":2,"max_position_embeddings":16}"#).unwrap();
        assert!(refused(dir.path()).contains("t5"));
        let dir = model("");
        std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
        assert!(refused(dir.path()).contains("tokenizer.json"));
    }
}
