//! Attention over one short row per position, of which the keys and values of all heads are made.
//!
//! Only the rows are kept. Instead of making every head's keys of them, each query is multiplied with the matrix
//! that would make them, because q · (K row) = (Kᵀ q) · row; and instead of values, their weighted sum is made of the
//! weighted sum of the rows. So all heads look at the same keys, which are their own values too.

use std::sync::Arc;

use super::add_to_rows;
use super::attend::{Attention, attend, keep, lookers};
use crate::cache::{HeadsLayout, LayerLayout};
use crate::kernels::{Head, Input, Kernels, Product, multiply};
use crate::model::forward::{Scratch, Stretch};
use crate::model::norm::Norm;
use crate::model::rope::Rope;
use crate::model::spec;
use crate::weights::{Kind, Matrix, Source};
use crate::{Error, crew};

pub(crate) struct Mla {
    spec: spec::Mla,
    queries: Queries,
    /// [row + rotated, width]
    row: Matrix,
    row_bias: Option<Vec<f32>>,
    row_norm: Norm,
    rope: Rope,
    /// For each head [row, still]: what makes keys of a row, turned.
    keys: Vec<Matrix>,
    /// For each head [value, row].
    values: Vec<Matrix>,
    /// [width, heads · value]
    output: Matrix,
    output_bias: Option<Vec<f32>>,
}

/// What makes queries [heads, still + rotated].
enum Queries {
    /// [heads · (still + rotated), width]
    AtOnce(Matrix),
    ByRow {
        /// [query row, width]
        row: Matrix,
        bias: Option<Vec<f32>>,
        norm: Norm,
        /// [heads · (still + rotated), query row]
        queries: Matrix,
    },
}

impl Mla {
    pub(crate) fn load(
        file: &Source,
        layer: usize,
        width: usize,
        epsilon: f32,
        spec: &spec::Mla,
    ) -> Result<Mla, Error> {
        let &spec::Mla { heads, row, still, value, .. } = spec;
        let rotated = spec.rope.rotated;
        let name = |part: &str| format!("blk.{layer}.attn_{part}");
        let bias = |part: &str, len: usize| {
            if spec.bias { file.vector(&name(&format!("{part}.bias")), len).map(Some) } else { Ok(None) }
        };
        let queries = match spec.query_row {
            None => Queries::AtOnce(file.matrix(&name("q.weight"), heads * (still + rotated), width)?),
            Some(query_row) => Queries::ByRow {
                row: file.matrix(&name("q_a.weight"), query_row, width)?,
                bias: bias("q_a", query_row)?,
                norm: Norm::load(file, &name("q_a_norm.weight"), query_row, epsilon)?,
                queries: file.matrix(&name("q_b.weight"), heads * (still + rotated), query_row)?,
            },
        };
        let (both, split) = (name("kv_b.weight"), name("k_b.weight"));
        let (keys, values) = if file.has(&split) {
            // Files of some months have both forms.
            file.pass_over(&both);
            (
                file.matrices(&split, heads, row, still)?,
                file.matrices(&name("v_b.weight"), heads, value, row)?,
            )
        } else {
            let both = file.matrix(&both, heads * (still + value), row)?;
            // [head, still + value, row]: every head's keys, then its values.
            let start = |head: usize| head * (still + value);
            let part = |head| both.part(start(head)..start(head) + still);
            let keys = crew::map(heads, |head| turn(&part(head)));
            let part = |head| both.part(start(head) + still..start(head + 1));
            (keys, (0..heads).map(part).collect())
        };
        Ok(Mla {
            queries,
            row: file.matrix(&name("kv_a_mqa.weight"), row + rotated, width)?,
            row_bias: bias("kv_a_mqa", row + rotated)?,
            row_norm: Norm::load(file, &name("kv_a_norm.weight"), row, epsilon)?,
            rope: Rope::load(file, &spec.rope)?,
            keys,
            values,
            output: file.matrix(&name("output.weight"), width, heads * value)?,
            output_bias: bias("output", width)?,
            spec: spec.clone(),
        })
    }

    /// Its matrices.
    pub(crate) fn matrices(&mut self) -> Vec<&mut Matrix> {
        let mut matrices = vec![&mut self.row, &mut self.output];
        match &mut self.queries {
            Queries::AtOnce(queries) => matrices.push(queries),
            Queries::ByRow { row, queries, .. } => matrices.extend([row, queries]),
        }
        matrices.extend(self.keys.iter_mut().chain(&mut self.values));
        matrices
    }

    /// What a line keeps for this layer.
    pub(crate) fn layout(spec: &spec::Mla) -> LayerLayout {
        let key = spec.row + spec.rope.rotated;
        let heads = HeadsLayout { heads: 1, key, value: spec.row, shared: true };
        LayerLayout { heads: Some(heads), ..LayerLayout::default() }
    }

    /// `scratch.normed` [tokens, width] → `scratch.change` [tokens, width]. The tokens are those of all stretches, and their
    /// rows go into their caches as layer `i`'s.
    pub(crate) fn forward(
        &self,
        kernels: Kernels,
        stretches: &mut [Stretch<'_>],
        i: usize,
        scratch: &mut Scratch,
    ) {
        let Scratch { normed, change, input, q, k, v, mixed, turns, gate, .. } = scratch;
        let &spec::Mla { heads, row, still, value, scale, .. } = &self.spec;
        let (rotated, width) = (self.rope.rotated(), self.row.columns());
        let (key, head) = (row + rotated, still + rotated);
        let (matrix, to) = match &self.queries {
            Queries::AtOnce(queries) => (queries, &mut *q),
            Queries::ByRow { row, .. } => (row, &mut *gate),
        };
        input.set(kernels, normed, width, &[matrix.kind(), self.row.kind()]);
        let tokens = input.tokens();
        to.resize(tokens * matrix.rows(), 0.0);
        k.resize(tokens * key, 0.0);
        multiply(kernels, &mut [Product { input, matrix, to }, Product { input, matrix: &self.row, to: k }]);
        if let Queries::ByRow { row, bias, norm, queries } = &self.queries {
            if let Some(bias) = bias {
                add_to_rows(gate, bias);
            }
            norm.apply_in_place(kernels, gate);
            input.set(kernels, gate, row.rows(), &[queries.kind()]);
            q.resize(tokens * heads * head, 0.0);
            multiply(kernels, &mut [Product { input, matrix: queries, to: q }]);
        }
        if let Some(bias) = &self.row_bias {
            add_to_rows(k, bias);
        }
        self.rope.turns(stretches, turns);
        let per_position = self.rope.turns_per_position();
        for (token, k) in k.chunks_exact_mut(key).enumerate() {
            let (own, shared) = k.split_at_mut(row);
            self.row_norm.apply_in_place(kernels, own);
            self.rope.rotate(shared, rotated, &turns[token * per_position..][..per_position]);
        }
        keep(stretches, i, k, key, None);

        // v [tokens, heads, row + rotated]: what looks at the rows.
        let turned = each_head(kernels, &self.keys, q, head);
        v.resize(tokens * heads * key, 0.0);
        for (i, (v, q)) in v.chunks_exact_mut(key).zip(q.chunks_exact(head)).enumerate() {
            let (token, i) = (i / heads, i % heads);
            let (own, shared) = v.split_at_mut(row);
            own.copy_from_slice(&turned[i][token * row..][..row]);
            shared.copy_from_slice(&q[still..]);
            self.rope.rotate(shared, rotated, &turns[token * per_position..][..per_position]);
        }
        let attention = Attention {
            heads,
            kv_heads: 1,
            head: Head { key, value: row, scale },
            window: None,
            sinks: None,
        };
        attend(kernels, &attention, &lookers(stretches, i), v, mixed);

        let made = each_head(kernels, &self.values, mixed, row);
        v.resize(tokens * heads * value, 0.0);
        for (i, v) in v.chunks_exact_mut(value).enumerate() {
            v.copy_from_slice(&made[i % heads][i / heads * value..][..value]);
        }
        input.set(kernels, v, heads * value, &[self.output.kind()]);
        change.resize(tokens * width, 0.0);
        multiply(kernels, &mut [Product { input, matrix: &self.output, to: change }]);
        if let Some(bias) = &self.output_bias {
            add_to_rows(change, bias);
        }
    }
}

/// The first numbers of every head times a matrix of the head's own: x [tokens, heads, head] → for each head
/// [tokens, rows].
fn each_head(kernels: Kernels, matrices: &[Matrix], x: &[f32], head: usize) -> Vec<Vec<f32>> {
    let tokens = x.chunks_exact(matrices.len() * head);
    let count = tokens.len();
    let input = |i: usize| {
        let matrix: &Matrix = &matrices[i];
        let columns = matrix.columns();
        let mut own = Vec::with_capacity(count * columns);
        for token in tokens.clone() {
            own.extend_from_slice(&token[i * head..][..columns]);
        }
        let mut input = Input::default();
        input.set(kernels, &own, columns, &[matrix.kind()]);
        input
    };
    let inputs: Vec<Input> = crew::map(matrices.len(), input);
    let mut results: Vec<_> = matrices.iter().map(|matrix| vec![0.0; count * matrix.rows()]).collect();
    let products = inputs.iter().zip(matrices).zip(&mut results);
    let mut products: Vec<_> = products.map(|((input, matrix), to)| Product { input, matrix, to }).collect();
    multiply(kernels, &mut products);
    results
}

/// A matrix's columns as rows. What is stored as it is stays so; everything else becomes f32, because blocks and scales
/// lie along rows.
fn turn(matrix: &Matrix) -> Matrix {
    let (rows, columns) = (matrix.rows(), matrix.columns());
    let whole = matches!(matrix.kind(), Kind::F32 | Kind::F16 | Kind::Bf16) && !matrix.is_scaled();
    let (kind, bytes) = if whole {
        (matrix.kind(), matrix.bytes(0..rows).to_vec())
    } else {
        let mut numbers = vec![0.0; rows * columns];
        matrix.dequantise(0..rows, &mut numbers);
        (Kind::F32, numbers.into_iter().flat_map(f32::to_le_bytes).collect())
    };
    let size = kind.block_bytes();
    let mut turned = Vec::with_capacity(bytes.len());
    for column in 0..columns {
        for row in 0..rows {
            turned.extend_from_slice(&bytes[(row * columns + column) * size..][..size]);
        }
    }
    Matrix::new(Arc::new(turned), 0, columns, rows, kind)
}
