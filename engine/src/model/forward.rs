//! The way through a model, from top to bottom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use memmap2::MmapMut;

use super::dense::Buffers;
use super::end::{End, Streams};
use super::engram::{self, Engram};
use super::hyper::{Head, Mix};
use super::layer::{Layer, Tables};
use super::mixer::Sight;
use super::norm::Norm;
use super::predictor::Predictor;
use super::spec::{Output, Residual, Spec};
use crate::cache::{Cache, KvKind, LayerLayout, Layout};
use crate::experts::Uses;
use crate::kernels::{Input, Kernels};
use crate::weights::{Builder, Bytes, MappedFile, Matrix, Place, Source, Table};
use crate::{Error, Token, Tokenizer};

/// A model's parts. They point into the mapped file.
pub(crate) struct Model {
    spec: Spec,
    kernels: Kernels,
    /// [vocabulary, width]
    embedding: Matrix,
    layers: Vec<Layer>,
    end: End,
    predictor: Option<Predictor>,
}

/// Which positions' logits are wanted. They cost a product with the largest matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    None,
    /// Those of so many last positions, at least one and no more than there are.
    Last(usize),
    All,
}

impl Want {
    /// How many of so many positions these are.
    pub(crate) fn positions(self, count: usize) -> usize {
        match self {
            Want::None => 0,
            Want::Last(positions) => positions,
            Want::All => count,
        }
    }
}

/// What one line has computed in a pass that it may share with others.
pub(crate) struct Part<'a> {
    pub(crate) cache: &'a mut Cache,
    /// What the line says, up to the last of the tokens that are computed.
    pub(crate) line: &'a [Token],
    /// How many of its last tokens are computed, at least one. They are in the vocabulary and follow what is in the cache,
    /// and no mark is due before the last of them.
    pub(crate) count: usize,
    pub(crate) want: Want,
}

impl Part<'_> {
    /// What is in the cache already, and what follows it.
    fn split(&self) -> (&[Token], &[Token]) {
        self.line.split_at(self.line.len() - self.count)
    }
}

/// Tokens at hand that stand together in one line, and what is kept of that line.
pub(crate) struct Stretch<'a> {
    pub(crate) cache: &'a mut Cache,
    pub(crate) tokens: usize,
}

impl Stretch<'_> {
    /// The position of the first.
    pub(crate) fn first(&self) -> usize {
        self.cache.tokens()
    }
}

/// The buffers of a forward pass, reused from one to the next.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The residual streams: [tokens, streams, width].
    pub(crate) x: Vec<f32>,
    /// What a part reads: [tokens, width].
    pub(crate) normed: Vec<f32>,
    /// What a part adds to the streams: [tokens, width].
    pub(crate) change: Vec<f32>,
    /// How the part that is at work mixes several streams.
    pub(crate) mix: Mix,
    /// A part's input in the forms its matrices want.
    pub(crate) input: Input,
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) mixed: Vec<f32>,
    pub(crate) turns: Vec<f32>,
    /// For each line at hand, what was chosen of rows that stand for so many positions.
    pub(crate) sights: Vec<BTreeMap<usize, Sight>>,
    pub(crate) engram: engram::Scratch,
    pub(crate) gate: Vec<f32>,
    pub(crate) dense: Buffers,
    /// What a second part adds.
    pub(crate) more: Vec<f32>,
}

impl Model {
    /// Finds every tensor the description asks for, and refuses a file that has others: a part left out
    /// would not be noticed in what the model says. Nothing of the weights is read yet.
    ///
    /// The tokenizer says which rows of tables tokens read, if there are tables; of these at most `table_bytes` are kept
    /// in memory.
    pub(crate) fn load(
        file: &Source,
        mut spec: Spec,
        tokenizer: &Tokenizer,
        table_bytes: u64,
        kernels: Kernels,
    ) -> Result<Model, Error> {
        let (width, vocabulary, epsilon) = (spec.width, spec.vocabulary, spec.norm_epsilon);
        let hashes = spec.grams.as_ref().map(|grams| engram::hashes(grams, tokenizer)).transpose();
        let hashes = hashes.map_err(|why| file.bad(why))?.map(Arc::new);
        let tables = spec.layers.iter().filter(|layer| layer.engram.is_some()).count();
        let bytes = usize::try_from(table_bytes).unwrap_or(usize::MAX) / tables.max(1);
        let tables = Tables { hashes, bytes };
        let embedding = file.matrix("token_embd.weight", vocabulary, width)?;
        let layers = spec.layers.iter().enumerate();
        let layers = layers.map(|(i, layer)| Layer::load(file, &spec, i, layer, &tables));
        let layers: Vec<Layer> = layers.collect::<Result<_, _>>()?;
        let streams = match spec.residual {
            Residual::Plain => Streams::One,
            Residual::Hyper(hyper) if hyper.lagged => Streams::Lagged,
            Residual::Hyper(hyper) => Streams::Head(Head::load(file, "output_hc", width, epsilon, hyper)?),
        };
        let norm = Norm::load(file, "output_norm.weight", width, epsilon)?;
        let output = match spec.output {
            Output::Tied => embedding.clone(),
            Output::Separate => file.matrix("output.weight", vocabulary, width)?,
        };
        let end = End { streams, norm, output, cap: spec.logit_cap };
        let predictor = match &spec.predictor {
            None => None,
            Some(layer) => match Predictor::load(file, &spec, layer, &embedding, &end, kernels) {
                // Some converters leave out a part of it. The model does not need it.
                Err(Error::Tensor { name, .. }) if !file.has(&name) => {
                    tracing::warn!(missing = name, "the layer that guesses ahead is not whole and not used");
                    None
                }
                predictor => Some(predictor?),
            },
        };
        if predictor.is_none() {
            spec.predictor = None;
        }
        // What guesses ahead and is not used, or is a second layer that guesses, stands behind the others.
        for name in file.names() {
            if layer_of(&name).is_some_and(|layer| layer >= spec.layers.len()) {
                file.pass_over(&name);
            }
        }
        if let Some(name) = file.unused() {
            return Err(Error::Tensor {
                name,
                why: format!("is no part of a `{}` model as it is known here", spec.architecture),
            });
        }
        Ok(Model { spec, kernels, embedding, layers, end, predictor })
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What a timeline of this model keeps.
    pub(crate) fn cache_layout(&self, kind: KvKind) -> Layout {
        // What tables' convolutions keep comes after all layers.
        let tables =
            self.engrams().map(|engram| LayerLayout { state: engram.kept(), ..LayerLayout::default() });
        Layout { kind, layers: self.spec.layers.iter().map(Layer::layout).chain(tables).collect() }
    }

    /// Whether anything is computed with the tensor of this name: not so with those of layers that could guess ahead, if
    /// they do not.
    pub(crate) fn uses(&self, name: &str) -> bool {
        let layers = self.layers.len() + usize::from(self.predictor.is_some());
        layer_of(name).is_none_or(|layer| layer < layers)
    }

    /// The layer that guesses ahead, if there is one.
    pub(crate) fn predictor(&self) -> Option<&Predictor> {
        self.predictor.as_ref()
    }

    /// What a predictor is shown of the tokens that were computed last: to [tokens, streams · width].
    pub(crate) fn shown(&self, scratch: &Scratch, to: &mut Vec<f32>) {
        self.end.shown(self.kernels, &scratch.x, to);
    }

    /// The layers' tables, in order.
    fn engrams(&self) -> impl Iterator<Item = &Engram> {
        self.layers.iter().filter_map(|layer| layer.engram.as_ref())
    }

    /// Computes some tokens of some lines together and returns the logits that are wanted of each line: [positions,
    /// vocabulary]. What is computed of a line does not depend on which others come along.
    ///
    /// # Errors
    /// If a table cannot be read. Then the caches are of no more use.
    pub(crate) fn forward(
        &self,
        parts: &mut [Part<'_>],
        scratch: &mut Scratch,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let mut tokens: Vec<Token> = Vec::with_capacity(parts.iter().map(|part| part.count).sum());
        for part in &*parts {
            assert!(part.count > 0);
            let (before, now) = part.split();
            assert_eq!(before.len(), part.cache.tokens(), "the tokens follow what is in the cache");
            for engram in self.engrams() {
                engram.foresee(before, now);
            }
            tokens.extend_from_slice(now);
        }
        let kernels = self.kernels;
        for part in &mut *parts {
            part.cache.grow(part.count);
        }
        self.embed(&tokens, &mut scratch.x);
        if let Streams::Lagged = self.end.streams {
            scratch.mix.start(tokens.len(), self.spec.residual.streams());
        }
        let row = scratch.x.len() / tokens.len();
        let mut table = self.layers.len();
        for (i, layer) in self.layers.iter().enumerate() {
            if let Some(engram) = &layer.engram {
                let mut x = &mut scratch.x[..];
                for part in &mut *parts {
                    let (own, others) = x.split_at_mut(part.count * row);
                    let (before, now) = part.line.split_at(part.line.len() - part.count);
                    let kept = part.cache.layer_mut(table).state_mut();
                    engram.forward(kernels, before, now, own, kept, &mut scratch.engram)?;
                    x = others;
                }
                table += 1;
            }
            let stretch = |part| {
                let Part { cache, count, .. }: &mut Part<'_> = part;
                Stretch { cache, tokens: *count }
            };
            let mut stretches: Vec<Stretch<'_>> = parts.iter_mut().map(stretch).collect();
            layer.mix(kernels, &mut stretches, i, scratch);
            layer.channel(kernels, &tokens, scratch);
        }
        let mut wanted = Vec::new();
        let mut end = 0;
        for part in &mut *parts {
            part.cache.commit(part.count);
            end += part.count;
            wanted.extend(end - part.want.positions(part.count)..end);
        }
        let mut logits = match wanted.is_empty() {
            true => Vec::new(),
            false => self.end.logits(kernels, &wanted, scratch),
        };
        // Most passes are of one line, whose logits need not be copied.
        let mut results: Vec<Vec<f32>> = Vec::with_capacity(parts.len());
        for part in parts.iter().skip(1).rev() {
            let own = part.want.positions(part.count) * self.spec.vocabulary;
            results.push(logits.split_off(logits.len() - own));
        }
        results.push(logits);
        results.reverse();
        Ok(results)
    }

    /// The tokens' embeddings, the same in every stream: x [tokens, streams, width].
    fn embed(&self, tokens: &[Token], x: &mut Vec<f32>) {
        let width = self.spec.width;
        let streams = self.spec.residual.streams();
        x.resize(tokens.len() * streams * width, 0.0);
        for (&token, x) in tokens.iter().zip(x.chunks_exact_mut(streams * width)) {
            let (first, others) = x.split_at_mut(width);
            embed(&self.embedding, self.spec.embedding_scale, &[token], first);
            for other in others.chunks_exact_mut(width) {
                other.copy_from_slice(first);
            }
        }
    }

    /// How many bytes [`Model::turn`] would take.
    pub(crate) fn turn_bytes(&mut self) -> u64 {
        let mut seen = BTreeSet::new();
        let matrices = self.matrices().into_iter();
        let new = matrices.filter(|matrix| matrix.can_turn() && seen.insert(address(matrix)));
        new.map(|matrix| room(matrix) as u64).sum()
    }

    /// Turns all matrices that can be, for kernels that take sixteen rows at once. `on` gets the bytes that are not needed any
    /// more as they lie.
    ///
    /// # Errors
    /// If the system has no memory for it. Then nothing is turned.
    pub(crate) fn turn(&mut self, mut on: impl FnMut(&[u8])) -> std::io::Result<()> {
        let bytes = usize::try_from(self.turn_bytes()).map_err(std::io::Error::other)?;
        // All in one piece, so that it can lie in large pages: with small ones the processor looks for pages as long as it
        // waits for what they hold.
        let mut memory = MmapMut::map_anon(bytes.max(1))?;
        #[cfg(target_os = "linux")]
        if let Err(error) = memory.advise(memmap2::Advice::HugePage) {
            tracing::debug!(%error, "weights lie in small pages");
        }
        // Some are used in two places.
        let mut starts = BTreeMap::new();
        let mut end = 0;
        for matrix in self.matrices().into_iter().filter(|matrix| matrix.can_turn()) {
            if starts.contains_key(&address(matrix)) {
                continue;
            }
            let lying = matrix.bytes(0..matrix.rows());
            matrix.turn(&mut memory[end..end + lying.len()]);
            on(lying);
            starts.insert(address(matrix), end);
            end += room(matrix);
        }
        let memory: Bytes = Arc::new(memory.make_read_only()?);
        for matrix in self.matrices() {
            if let Some(&start) = starts.get(&address(matrix)) {
                *matrix = matrix.turned(Arc::clone(&memory), start);
            }
        }
        Ok(())
    }

    /// All matrices that tokens are multiplied with, but for small ones and those of tables.
    fn matrices(&mut self) -> Vec<&mut Matrix> {
        // The largest first: while it is turned it is there twice, and then little else is.
        let mut matrices = vec![&mut self.end.output];
        matrices.extend(self.layers.iter_mut().flat_map(Layer::matrices));
        matrices.extend(self.predictor.iter_mut().flat_map(Predictor::matrices));
        matrices
    }

    /// Leaves the experts on disk, and keeps at most `budget` bytes of them in memory. `None` if there are no experts.
    pub(crate) fn place_experts(
        &mut self,
        budget: u64,
        files: Vec<MappedFile>,
    ) -> Result<Option<Arc<Place>>, Error> {
        let mut builder = Builder::new(files);
        let mut routed = Vec::new();
        for layer in &mut self.layers {
            if let Some((moe, norm)) = layer.moe_mut() {
                routed.push((moe.store(&mut builder), moe, norm));
            }
        }
        // The predictor has experts of its own, which no layer before it asks for ahead.
        let predictors = self.predictor.as_mut().and_then(Predictor::moe_mut);
        let predictors = predictors.map(|(moe, norm)| (moe.store(&mut builder), moe, norm));
        if routed.is_empty() && predictors.is_none() {
            return Ok(None);
        }
        let place = Arc::new(builder.build(budget)?);
        if let Some((first, moe, norm)) = predictors {
            moe.place(&place, first, norm, None);
        }
        let mut next = None;
        for (first, moe, norm) in routed.into_iter().rev() {
            next = Some(moe.place(&place, first, norm, next));
        }
        Ok(Some(place))
    }

    /// The tables that rows are looked up in, in the order of their layers.
    pub(crate) fn tables(&self) -> Vec<Arc<Table>> {
        self.engrams().map(|engram| Arc::clone(engram.table())).collect()
    }

    /// For every layer with experts, how often each was chosen since the model was opened.
    pub(crate) fn expert_uses(&self) -> Vec<Uses> {
        let layers = self.layers.iter().enumerate();
        layers.filter_map(|(layer, parts)| Some(Uses { layer, uses: parts.moe()?.uses() })).collect()
    }
}

/// What a matrix takes that is turned: whatever is loaded of it at once lies in one line of the processor's cache.
fn room(matrix: &Matrix) -> usize {
    matrix.stored(0..matrix.rows()).len().next_multiple_of(64)
}

/// Where a matrix begins in memory.
fn address(matrix: &Matrix) -> usize {
    matrix.stored(0..matrix.rows()).as_ptr().addr()
}

/// The number of the layer whose tensor has this name, if it is a layer's.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// The tokens' rows of `embedding`, times `scale`: to [tokens, width].
pub(crate) fn embed(embedding: &Matrix, scale: f32, tokens: &[Token], to: &mut [f32]) {
    for (&token, to) in tokens.iter().zip(to.chunks_exact_mut(embedding.columns())) {
        let row = token as usize;
        embedding.dequantise(row..row + 1, to);
        if scale != 1.0 {
            for x in to {
                *x *= scale;
            }
        }
    }
}
