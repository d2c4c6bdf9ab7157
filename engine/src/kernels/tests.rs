//! Every fast kernel against the specification, and the specification against sums of 64 bits. What a kind's weights
//! are is tested in `weights/quant`.

use std::sync::Arc;

use half::{bf16, f16};

use super::{Head, Input, Kernels, Product, STRIP, State, Step, TILE, Tile, multiply};
use crate::weights::quant::tests::{factors, random_bytes};
use crate::weights::{Kind, Matrix, Scale, Scales};

/// Numbers like those of a model: a pure function of the seed.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next() + next() * next()).collect()
}

/// The same with outliers here and there, so that some blocks of some tokens take two digits.
fn uneven(seed: u64, count: usize) -> Vec<f32> {
    let mut x = numbers(seed, count);
    for at in (150..count).step_by(701) {
        x[at] *= 100.0;
    }
    x
}

/// A matrix of random blocks whose weights are neither tiny nor huge.
fn matrix(kind: Kind, rows: usize, columns: usize, seed: u64) -> Matrix {
    let count = rows * columns;
    let bytes = match kind {
        Kind::F32 => numbers(seed, count).into_iter().flat_map(f32::to_le_bytes).collect(),
        Kind::F16 => numbers(seed, count).into_iter().flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
        Kind::Bf16 => {
            numbers(seed, count).into_iter().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect()
        }
        _ => {
            let mut bytes = random_bytes(seed, count / kind.block() * kind.block_bytes());
            for block in bytes.chunks_exact_mut(kind.block_bytes()) {
                for &place in factors(kind) {
                    // Exponents from −7 to −4, any sign and fraction.
                    block[place + 1] = block[place + 1] & 0x8f | 0x20;
                }
                match kind {
                    Kind::Mxfp4 => block[0] = 120 + block[0] % 8,
                    // No numbers that are none.
                    Kind::F8E4M3 => block[0] &= 0xbf,
                    _ => {}
                }
            }
            bytes
        }
    };
    Matrix::new(Arc::new(bytes), 0, rows, columns, kind)
}

/// A matrix of floats with a scale for every block of rows and columns.
fn scaled(kind: Kind, rows: usize, columns: usize, block: [usize; 2]) -> Matrix {
    let shape = [rows.div_ceil(block[0]), columns.div_ceil(block[1])];
    let powers = (0..shape[0] * shape[1]).map(|i| 120 + (i * 5 % 13) as u8).collect::<Vec<_>>();
    let scales = Scales::new("scales", Arc::new(powers), 0, Scale::E8M0, shape, [rows, columns], block);
    matrix(kind, rows, columns, 8).scaled(scales.unwrap())
}

fn product(kernels: Kernels, matrix: &Matrix, x: &[f32]) -> Vec<f32> {
    let mut input = Input::default();
    input.set(kernels, x, matrix.columns(), &[matrix.kind()]);
    let mut to = vec![f32::NAN; input.tokens() * matrix.rows()];
    multiply(kernels, &mut [Product { input: &input, matrix, to: &mut to }]);
    to
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn every_kernel_gives_the_bits_of_the_plain_one() {
    // Rows and tokens that fill registers, and some that do not; every way of cutting the work.
    for kind in Kind::ALL {
        let columns = if kind.block() == 32 { 96 } else { 768 };
        for (rows, tokens) in
            [(16, 1), (37, 1), (16, 3), (53, 4), (32, 7), (19, 66), (48, 2), (80, 5), (64, 33)]
        {
            let matrix = matrix(kind, rows, columns, 2);
            let x = uneven(3, tokens * columns);
            let expected = product(Kernels::PLAIN, &matrix, &x);
            for kernels in Kernels::available() {
                let found = product(kernels, &matrix, &x);
                assert_eq!(bits(&expected), bits(&found), "{kind:?} {kernels:?} {rows} × {tokens}");
                if kernels.want_turned() && matrix.can_turn() {
                    let mut bytes = vec![0; rows * matrix.row_bytes()];
                    matrix.turn(&mut bytes);
                    let turned = matrix.turned(Arc::new(bytes), 0);
                    let found = product(kernels, &turned, &x);
                    assert_eq!(bits(&expected), bits(&found), "{kind:?} turned {rows} × {tokens}");
                }
            }
        }
    }
}

#[test]
fn every_kernel_gives_the_bits_of_the_plain_one_with_scales() {
    // Rows that end within a register and scales that end within a row.
    for kind in [Kind::F8E4M3, Kind::F4E2M1, Kind::Bf16] {
        for (rows, columns, block) in [
            (37, 768, [128, 128]),
            (16, 70, [1, 32]),
            (9, 512, [32, 32]),
            (5, 46, [5, 46]),
            (6, 512, [128, 128]),
        ] {
            let matrix = scaled(kind, rows, columns, block);
            for tokens in [1, 3, 8] {
                let x = numbers(9, tokens * columns);
                let expected = product(Kernels::PLAIN, &matrix, &x);
                for kernels in Kernels::available() {
                    let found = product(kernels, &matrix, &x);
                    assert_eq!(bits(&expected), bits(&found), "{kind:?} {kernels:?} {rows} × {columns}");
                }
            }
        }
    }
}

#[test]
fn what_is_exact_is_a_product_of_floats_whatever_weights_are_stored_as() {
    for kind in Kind::ALL {
        let (columns, rows) = (if kind.block() == 32 { 96 } else { 768 }, 37);
        let matrix = matrix(kind, rows, columns, 4);
        let mut weights = vec![0.0; rows * columns];
        matrix.dequantise(0..rows, &mut weights);
        let bytes = weights.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let floats = Matrix::new(Arc::new(bytes), 0, rows, columns, Kind::F32);
        for tokens in [1, 3, 8] {
            let x = numbers(5, tokens * columns);
            let expected = product(Kernels::PLAIN, &floats, &x);
            for kernels in Kernels::available() {
                let found = product(kernels.exact(), &matrix, &x);
                assert_eq!(bits(&expected), bits(&found), "{kind:?} {kernels:?} {tokens}");
            }
        }
    }
}

#[test]
fn extreme_weights_do_not_overflow() {
    // Blocks with all bits set hold the largest values; sums of sixteen bits must not wrap or saturate.
    // Those with no bits set are the largest of IQ4_NL and IQ4_XS.
    let blocks = Kind::ALL.into_iter().filter(|kind| !kind.is_float());
    for (kind, byte) in blocks.flat_map(|kind| [(kind, 0xff_u8), (kind, 0)]) {
        let (rows, columns) = (16, 512);
        let bytes = vec![byte; rows * columns / kind.block() * kind.block_bytes()];
        let mut matrix_bytes = bytes.clone();
        // The factors must be numbers: one, where the format keeps its factors.
        for block in matrix_bytes.chunks_exact_mut(kind.block_bytes()) {
            for &place in factors(kind) {
                block[place..place + 2].copy_from_slice(&[0x00, 0x3c]);
            }
            if kind == Kind::Mxfp4 {
                block[0] = 127;
            }
        }
        let matrix = Matrix::new(Arc::new(matrix_bytes), 0, rows, columns, kind);
        for sign in [1.0, -1.0] {
            let x = vec![sign; 5 * columns];
            let expected = product(Kernels::PLAIN, &matrix, &x);
            let mut weights = vec![0.0; columns];
            matrix.dequantise(0..1, &mut weights);
            let exact = weights.iter().map(|&w| f64::from(w) * f64::from(sign)).sum::<f64>();
            assert!(
                (f64::from(expected[0]) - exact).abs() <= 1e-4 * exact.abs(),
                "{kind:?} {byte}: {exact} {expected:?}"
            );
            for kernels in Kernels::available() {
                for tokens in [1, 5] {
                    let found = product(kernels, &matrix, &x[..tokens * columns]);
                    assert_eq!(bits(&expected[..tokens * rows]), bits(&found), "{kind:?} {kernels:?}");
                }
            }
        }
    }
}

#[test]
fn products_are_close_to_those_of_the_floats() {
    // One digit of activations is as good as the weights where there are no outliers, and two are better than that where
    // there are; one would fail that by far.
    for (kind, outliers) in Kind::ALL.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        if outliers && kind.block() == 32 {
            continue;
        }
        let (rows, columns) = (16, 1024);
        let matrix = matrix(kind, rows, columns, 4);
        let mut x = numbers(5, columns);
        for outlier in x.iter_mut().skip(7).step_by(256).filter(|_| outliers) {
            *outlier = 150.0;
        }
        let mut weights = vec![0.0; rows * columns];
        matrix.dequantise(0..rows, &mut weights);
        let found = product(Kernels::PLAIN, &matrix, &x);
        for (row, found) in weights.chunks_exact(columns).zip(found) {
            let exact: f64 = row.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            let size = row.iter().zip(&x).map(|(&w, &x)| f64::from(w * x).powi(2)).sum::<f64>().sqrt();
            let bound = match (kind.is_float(), outliers) {
                (true, _) => 1e-4,
                (false, true) => 5e-3,
                (false, false) => 0.02,
            };
            assert!((f64::from(found) - exact).abs() < bound * size, "{kind:?}: {exact} {found}");
        }
    }
}

#[test]
fn nan_in_the_activations_comes_out_of_the_product() {
    // Swallowed NaN would turn a broken model into a plausible one.
    let matrix = matrix(Kind::Q4K, 16, 256, 6);
    let mut x = numbers(7, 256);
    x[100] = f32::NAN;
    for kernels in Kernels::available() {
        assert!(product(kernels, &matrix, &x).iter().all(|x| x.is_nan()));
    }
}

#[test]
fn exp_is_precise() {
    for i in -8700..=8800 {
        let x = i as f32 / 100.0;
        let (found, exact) = (f64::from(super::float::exp(x)), f64::from(x).exp());
        assert!((found - exact).abs() <= 3e-7 * exact, "{x}: {found} {exact}");
    }
}

/// What queries see of two tiles, the first two of them the same, taken `together` at once.
fn seen(kernels: Kernels, together: usize) -> Vec<u32> {
    let (head, count) = (Head { key: 20, value: 107, scale: 0.3 }, 7);
    let tile = |seed, size: f32| {
        let keys = numbers(seed, head.key * TILE).into_iter().map(|x| size * x);
        Tile { keys: keys.collect(), values: numbers(seed + 1, head.value * TILE) }
    };
    let seen = [[0, TILE], [0, TILE], [3, TILE], [3, 9], [3, 9], [5, 5], [0, 1]];
    let queries = numbers(10, count * head.key);
    let mut outputs = vec![0.0; count * head.value];
    let mut states: Vec<State> = (0..count).map(|_| State::EMPTY).collect();
    // The second one has larger scores, so that what the first one gave shrinks.
    for tile in [tile(8, 1.0), tile(17, 2.0)] {
        for i in (0..count).step_by(together) {
            let end = count.min(i + together);
            let outputs = &mut outputs[i * head.value..end * head.value];
            let queries = &queries[i * head.key..end * head.key];
            kernels.attend(&tile, head, queries, &seen[i..end], &mut states[i..end], outputs);
        }
    }
    bits(&outputs)
}

#[test]
fn a_query_sees_the_same_alone_and_among_others() {
    // Two that see the same are computed together, and which ones these are depends on how a line is cut.
    let expected = seen(Kernels::PLAIN, 1);
    for kernels in Kernels::available() {
        for together in [1, 2, 3, 7] {
            assert_eq!(seen(kernels, together), expected, "{kernels:?} {together}");
        }
    }
}

#[test]
fn every_kernel_continues_states_with_the_same_bits() {
    let (taps, columns, key) = (4, 75, 24);
    let (rows, weights) = (numbers(11, taps * columns), numbers(12, taps * columns));
    let (query, of) = (numbers(13, key), numbers(14, key));
    let mut found = Kernels::available().into_iter().map(|kernels| {
        let mut to = vec![0.0; columns];
        kernels.convolve(&rows, &weights, &mut to);
        let mut state = numbers(15, key * STRIP);
        let value = std::array::from_fn(|i| i as f32 / 7.0);
        let step = Step { decay: 0.7, rate: 0.4, query: &query, key: &of, value };
        let mut answer = [0.0; STRIP];
        kernels.correct(&mut state, &step, &mut answer);
        (bits(&to), bits(&state), bits(&answer))
    });
    let expected = found.next().unwrap();
    assert!(found.all(|found| found == expected));
}

#[test]
fn what_is_corrected_fully_is_known() {
    // The rule's promise: with a key of length one and a rate of one, the matrix then says the token's value for its
    // key, and for a key at right angles what is left of what it said before.
    let key = [0.6, 0.8, 0.0];
    let across = [0.8, -0.6, 0.0];
    let value = std::array::from_fn(|i| i as f32 - 9.0);
    let mut state = numbers(16, 3 * STRIP);
    let before: Vec<f32> = (0..STRIP).map(|i| 0.8 * state[i] - 0.6 * state[STRIP + i]).collect();
    let mut answer = [0.0; STRIP];
    let step = Step { decay: 0.5, rate: 1.0, query: &key, key: &key, value };
    Kernels::PLAIN.correct(&mut state, &step, &mut answer);
    let ask = Step { decay: 1.0, rate: 0.0, query: &across, key: &across, value: [0.0; STRIP] };
    let mut other = [0.0; STRIP];
    Kernels::PLAIN.correct(&mut state, &ask, &mut other);
    for i in 0..STRIP {
        assert!((answer[i] - value[i]).abs() < 1e-5, "{} {}", answer[i], value[i]);
        assert!((other[i] - 0.5 * before[i]).abs() < 1e-5, "{} {}", other[i], before[i]);
    }
}

#[test]
fn a_convolution_weighs_the_rows_of_each_column() {
    let mut to = [0.0; 2];
    // Σ = 1·10 + 3·20 and 2·1 + 4·(−1).
    Kernels::PLAIN.convolve(&[1.0, 2.0, 3.0, 4.0], &[10.0, 1.0, 20.0, -1.0], &mut to);
    for (found, sum) in to.into_iter().zip([70.0_f64, -2.0]) {
        let exact = sum / (1.0 + (-sum).exp());
        assert!((f64::from(found) - exact).abs() < 1e-5, "{found} {exact}");
    }
}
