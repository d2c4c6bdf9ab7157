//! The gated delta rule: every head has a matrix that says which value goes with a key. A token lets it fade,
//! corrects what it says of the token's key, and takes what it says of the token's query.
//!
//! The matrices and the last inputs of the convolution are the layer's whole past, so a line takes the same
//! memory however long it is. The state is kept in strips of columns, each continued by itself, token by token:
//! that is the work threads share out, and a chunk reads a strip from memory once.

use crate::cache::LayerLayout;
use crate::kernels::{Input, Kernels, Product, STRIP, Step, float, multiply};
use crate::model::forward::{Scratch, Stretch};
use crate::model::moe::softplus;
use crate::model::norm::Norm;
use crate::model::spec::{self, Sharing};
use crate::weights::{Kind, Matrix, Source};
use crate::{Error, crew};

pub(crate) struct Delta {
    spec: spec::Delta,
    /// Makes queries, keys and values [channels], and the values' gates [value_heads · value].
    entry: Pair,
    /// Makes how much is corrected, and how fast the past fades: [value_heads] each.
    rates: Pair,
    /// [taps, channels]
    convolution: Vec<f32>,
    /// [value_heads]: what a token's own fading is multiplied with, below zero, and what is added to it before.
    fading: Vec<f32>,
    fading_bias: Vec<f32>,
    norm: Norm,
    /// [width, value_heads · value]
    output: Matrix,
}

/// What makes two things of a token.
enum Pair {
    Apart(Matrix, Matrix),
    /// Both, key head by key head.
    Packed(Matrix),
}

impl Delta {
    pub(crate) fn load(
        file: &Source,
        layer: usize,
        width: usize,
        epsilon: f32,
        spec: &spec::Delta,
    ) -> Result<Delta, Error> {
        let &spec::Delta { value_heads, value, taps, .. } = spec;
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (channels, values) = (spec.channels(), value_heads * value);
        let entry = if spec.packed {
            Pair::Packed(file.matrix(&name("ssm_in.weight"), channels + values, width)?)
        } else {
            Pair::Apart(
                file.matrix(&name("attn_qkv.weight"), channels, width)?,
                file.matrix(&name("attn_gate.weight"), values, width)?,
            )
        };
        let rates = if spec.packed_rates {
            Pair::Packed(file.matrix(&name("ssm_ba.weight"), 2 * value_heads, width)?)
        } else {
            Pair::Apart(
                file.matrix(&name("ssm_beta.weight"), value_heads, width)?,
                file.matrix(&name("ssm_alpha.weight"), value_heads, width)?,
            )
        };
        let by_channel = file.floats(&name("ssm_conv1d.weight"), &[channels, taps])?;
        let convolution = (0..taps).flat_map(|tap| by_channel.iter().skip(tap).step_by(taps).copied());
        Ok(Delta {
            entry,
            rates,
            convolution: convolution.collect(),
            fading: file.vector(&name("ssm_a"), value_heads)?,
            fading_bias: file.vector(&name("ssm_dt.bias"), value_heads)?,
            norm: Norm::load(file, &name("ssm_norm.weight"), value, epsilon)?,
            output: file.matrix(&name("ssm_out.weight"), width, values)?,
            spec: spec.clone(),
        })
    }

    /// Its matrices.
    pub(crate) fn matrices(&mut self) -> Vec<&mut Matrix> {
        let mut matrices = vec![&mut self.output];
        for pair in [&mut self.entry, &mut self.rates] {
            match pair {
                Pair::Apart(first, second) => matrices.extend([first, second]),
                Pair::Packed(both) => matrices.push(both),
            }
        }
        matrices
    }

    /// What a line keeps for this layer: the last inputs of the convolution, then the strips of every head.
    pub(crate) fn layout(spec: &spec::Delta) -> LayerLayout {
        let strips = spec.value_heads * spec.strips() * spec.key * STRIP;
        LayerLayout { state: spec.tail() + strips, ..LayerLayout::default() }
    }

    /// `scratch.normed` [tokens, width] → `scratch.change` [tokens, width], where the tokens are those of all stretches. Each
    /// continues its own state, layer `i`'s.
    pub(crate) fn forward(
        &self,
        kernels: Kernels,
        stretches: &mut [Stretch<'_>],
        i: usize,
        scratch: &mut Scratch,
    ) {
        let Scratch {
            normed, change, input, q: entered, k: convolved, v: answers, mixed, gate, more, ..
        } = scratch;
        let &spec::Delta { key_heads, value_heads, value, .. } = &self.spec;
        let (channels, values, width) = (self.spec.channels(), value_heads * value, self.output.rows());

        let kinds = [self.entry.kinds(), self.rates.kinds()].concat();
        input.set(kernels, normed, width, &kinds);
        let tokens = input.tokens();
        entered.resize(tokens * channels, 0.0);
        gate.resize(tokens * values, 0.0);
        more.resize(tokens * 2 * value_heads, 0.0);
        let (rates, fading) = more.split_at_mut(tokens * value_heads);
        let (mut packed, mut packed_rates) = (Vec::new(), Vec::new());
        let mut products = self.entry.products(input, entered, gate, &mut packed);
        products.extend(self.rates.products(input, rates, fading, &mut packed_rates));
        multiply(kernels, &mut products);
        drop(products);
        let (key, share) = (self.spec.key, value_heads / key_heads);
        unpack(&packed, key_heads, &[key, key, share * value], entered, gate);
        unpack(&packed_rates, key_heads, &[share], rates, fading);
        for (rates, fading) in rates.chunks_exact_mut(value_heads).zip(fading.chunks_exact_mut(value_heads)) {
            for head in 0..value_heads {
                rates[head] = 1.0 / (1.0 + float::exp(-rates[head]));
                let own = softplus(fading[head] + self.fading_bias[head]);
                fading[head] = float::exp(self.fading[head] * own);
            }
        }

        answers.resize(tokens * values, 0.0);
        let mut start = 0;
        for stretch in stretches {
            let here = start..start + stretch.tokens;
            let part = |row: usize| here.start * row..here.end * row;
            self.go_on(
                kernels,
                stretch.cache.layer_mut(i).state_mut(),
                &entered[part(channels)],
                [&rates[part(value_heads)], &fading[part(value_heads)]],
                convolved,
                &mut answers[part(values)],
            );
            start = here.end;
        }

        self.norm.apply(kernels, answers, mixed);
        crew::each_part(crew::chunks(gate, values), 4, |token, gate| {
            kernels.silu_times(gate, &mixed[token * values..][..values]);
        });
        input.set(kernels, gate, values, &[self.output.kind()]);
        change.resize(input.tokens() * width, 0.0);
        multiply(kernels, &mut [Product { input, matrix: &self.output, to: change }]);
    }

    /// Continues one line's state with some tokens: entered [tokens, channels], and how much each corrects and lets fade,
    /// [tokens, value heads] → answers [tokens, value heads · value].
    fn go_on(
        &self,
        kernels: Kernels,
        state: &mut [f32],
        entered: &[f32],
        [rates, fading]: [&[f32]; 2],
        convolved: &mut Vec<f32>,
        answers: &mut [f32],
    ) {
        let spec = &self.spec;
        let &spec::Delta { key_heads, key, value_heads, value, taps, .. } = spec;
        let (channels, values) = (spec.channels(), value_heads * value);
        let tokens = entered.len() / channels;
        let (tail, strips) = state.split_at_mut(spec.tail());
        // What the convolution sees: [taps − 1 + tokens, channels].
        let seen = [&*tail, entered].concat();
        tail.copy_from_slice(&seen[tokens * channels..]);
        convolved.resize(tokens * channels, 0.0);
        crew::each_part(crew::chunks(convolved, channels), 1, |token, to| {
            kernels.convolve(&seen[token * channels..][..taps * channels], &self.convolution, to);
            for (i, head) in to[..2 * key_heads * key].chunks_exact_mut(key).enumerate() {
                // Queries are made shorter, so that what they get does not grow with their length.
                let length = if i < key_heads { 1.0 / (key as f32).sqrt() } else { 1.0 };
                let scale = length / (kernels.dot(head, head) + LENGTH_FLOOR).sqrt();
                for x in head {
                    *x *= scale;
                }
            }
        });

        let strips_per_head = spec.strips();
        // For every strip [tokens, STRIP].
        let mut results = vec![[0.0; STRIP]; strips.len() / (key * STRIP) * tokens];
        let work = (crew::chunks(strips, key * STRIP), crew::chunks(&mut results, tokens));
        let convolved = &*convolved;
        crew::each_part(work, 1, |i, (state, results)| {
            let (head, first) = (i / strips_per_head, i % strips_per_head * STRIP);
            let key_head = spec.key_head(head);
            let columns = STRIP.min(value - first);
            for (token, (x, to)) in convolved.chunks_exact(channels).zip(results).enumerate() {
                let (queries, rest) = x.split_at(key_heads * key);
                let (keys, x) = rest.split_at(key_heads * key);
                let mut own = [0.0; STRIP];
                own[..columns].copy_from_slice(&x[head * value + first..][..columns]);
                let at = token * value_heads + head;
                let step = Step {
                    decay: fading[at],
                    rate: rates[at],
                    query: &queries[key_head * key..][..key],
                    key: &keys[key_head * key..][..key],
                    value: own,
                };
                kernels.correct(state, &step, to);
            }
        });
        for (i, results) in results.chunks_exact(tokens).enumerate() {
            let (head, first) = (i / strips_per_head, i % strips_per_head * STRIP);
            for (answers, result) in answers.chunks_exact_mut(values).zip(results) {
                let to = &mut answers[head * value..(head + 1) * value][first..];
                let columns = STRIP.min(to.len());
                to[..columns].copy_from_slice(&result[..columns]);
            }
        }
    }
}

impl Pair {
    fn kinds(&self) -> [Kind; 2] {
        match self {
            Pair::Apart(first, second) => [first.kind(), second.kind()],
            Pair::Packed(both) => [both.kind(); 2],
        }
    }

    /// What is to be multiplied to get both, or to get them `packed`.
    fn products<'a>(
        &'a self,
        input: &'a Input,
        first: &'a mut [f32],
        second: &'a mut [f32],
        packed: &'a mut Vec<f32>,
    ) -> Vec<Product<'a>> {
        match self {
            Pair::Apart(first_matrix, second_matrix) => vec![
                Product { input, matrix: first_matrix, to: first },
                Product { input, matrix: second_matrix, to: second },
            ],
            Pair::Packed(matrix) => {
                packed.resize(input.tokens() * matrix.rows(), 0.0);
                vec![Product { input, matrix, to: packed }]
            }
        }
    }
}

/// Takes apart what lies key head by key head, if anything does: packed [tokens, heads, sizes and rest] → first
/// [tokens, size, heads] for each of `sizes` and second [tokens, heads, rest].
fn unpack(packed: &[f32], heads: usize, sizes: &[usize], first: &mut [f32], second: &mut [f32]) {
    if packed.is_empty() {
        return;
    }
    let size = sizes.iter().sum::<usize>();
    let rest = packed.len() * size / first.len() - size;
    let tokens = first.chunks_exact_mut(heads * size).zip(second.chunks_exact_mut(heads * rest));
    for ((first, second), packed) in tokens.zip(packed.chunks_exact(heads * (size + rest))) {
        for (head, packed) in packed.chunks_exact(size + rest).enumerate() {
            let (mut from, mut to) = (0, 0);
            for &size in sizes {
                first[to + head * size..][..size].copy_from_slice(&packed[from..][..size]);
                from += size;
                to += heads * size;
            }
            second[head * rest..][..rest].copy_from_slice(&packed[from..]);
        }
    }
}

/// What is added to a query's or key's square before its root, so that nothing stays nothing.
const LENGTH_FLOOR: f32 = 1e-6;

impl spec::Delta {
    /// How many numbers the convolution runs over: all queries, keys and values.
    fn channels(&self) -> usize {
        2 * self.key_heads * self.key + self.value_heads * self.value
    }

    /// How many numbers of the past the convolution sees.
    fn tail(&self) -> usize {
        (self.taps - 1) * self.channels()
    }

    /// The key head that a value head looks with.
    fn key_head(&self, head: usize) -> usize {
        match self.sharing {
            Sharing::Neighbours => head / (self.value_heads / self.key_heads),
            Sharing::Rounds => head % self.key_heads,
        }
    }

    /// How many strips a head's matrix has.
    fn strips(&self) -> usize {
        self.value.div_ceil(STRIP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_heads_share_key_heads_as_the_file_has_them() {
        // Converters put the heads of some families into another order, and nothing in a file's shapes tells.
        let spec = |sharing| spec::Delta {
            key_heads: 2,
            key: 3,
            value_heads: 4,
            value: 5,
            sharing,
            taps: 4,
            packed: false,
            packed_rates: false,
        };
        let heads = |sharing| std::array::from_fn(|head| spec(sharing).key_head(head));
        assert_eq!(heads(Sharing::Neighbours), [0, 0, 1, 1]);
        assert_eq!(heads(Sharing::Rounds), [0, 1, 0, 1]);
    }

    #[test]
    fn what_is_packed_by_key_heads_is_taken_apart() {
        // Two tokens of two heads: a query of one number, a key of one, two values; then two gates.
        let packed: Vec<f32> = (0..24).map(|x| x as f32).collect();
        let (mut mixed, mut gates) = (vec![0.0; 16], vec![0.0; 8]);
        unpack(&packed, 2, &[1, 1, 2], &mut mixed, &mut gates);
        assert_eq!(mixed[..8], [0.0, 6.0, 1.0, 7.0, 2.0, 3.0, 8.0, 9.0]);
        assert_eq!(gates[..4], [4.0, 5.0, 10.0, 11.0]);
        assert_eq!((mixed[8], mixed[9], gates[7]), (12.0, 18.0, 23.0));
    }
}
