//! Every fast kernel against the specification, and the specification against candle.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};

use super::{Input, Kernels, Product, multiply, plain};
use crate::weights::{Kind, Matrix};

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

fn matrix(kind: Kind, rows: usize, columns: usize, weights: &[f32]) -> Matrix {
    let tensor = Tensor::from_slice(weights, (rows, columns), &Device::Cpu).unwrap();
    let quantised = QTensor::quantize(&tensor, kind.to_candle()).unwrap();
    let bytes = quantised.data().unwrap().into_owned();
    Matrix::new(Arc::new(bytes), 0, rows, columns, kind)
}

fn product(kernels: Kernels, matrix: &Matrix, x: &[f32]) -> Vec<f32> {
    let mut input = Input::default();
    input.set(kernels, x, matrix.columns(), &[matrix.kind()]);
    let mut to = vec![f32::NAN; input.tokens() * matrix.rows()];
    multiply(kernels, &input, &mut [Product { matrix, to: &mut to }]);
    to
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn unpacked_weights_are_what_candle_reads() {
    // The layouts were written down a second time here; candle's reader judges them.
    for kind in Kind::ALL {
        let weights = numbers(1, 2 * 512);
        let matrix = matrix(kind, 2, 512, &weights);
        let mut ours = vec![0.0; weights.len()];
        plain::dequantise(kind, matrix.bytes(0..2), &mut ours);
        let tensor = Tensor::from_slice(&weights, (2, 512), &Device::Cpu).unwrap();
        let theirs = QTensor::quantize(&tensor, kind.to_candle()).unwrap().dequantize(&Device::Cpu).unwrap();
        let theirs = theirs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!((ours - theirs).abs() <= 1e-6 * theirs.abs().max(1.0), "{kind:?}: {ours} {theirs}");
        }
    }
}

#[test]
fn every_kernel_gives_the_bits_of_the_plain_one() {
    // Rows and tokens that fill registers, and some that do not; every way of cutting the work.
    for kind in Kind::ALL {
        let columns = if kind.block() == 32 { 96 } else { 768 };
        for (rows, tokens) in [(16, 1), (37, 1), (16, 3), (53, 4), (32, 7), (19, 66)] {
            let matrix = matrix(kind, rows, columns, &numbers(2, rows * columns));
            let x = numbers(3, tokens * columns);
            let expected = product(Kernels::Plain, &matrix, &x);
            for kernels in Kernels::available() {
                let found = product(kernels, &matrix, &x);
                assert_eq!(bits(&expected), bits(&found), "{kind:?} {kernels:?} {rows} × {tokens}");
            }
        }
    }
}

#[test]
fn extreme_weights_do_not_overflow() {
    // Blocks with all bits set hold the largest values; sums of sixteen bits must not wrap or saturate.
    for kind in Kind::ALL.into_iter().filter(|kind| kind.block() > 1) {
        let (rows, columns) = (16, 512);
        let bytes = vec![0xff_u8; rows * columns / kind.block() * kind.block_bytes()];
        let mut matrix_bytes = bytes.clone();
        // The factors must be numbers: one, where the format keeps its factors.
        for block in matrix_bytes.chunks_exact_mut(kind.block_bytes()) {
            let places: &[usize] = match kind {
                Kind::Q4_0 | Kind::Q5_0 | Kind::Q8_0 => &[0],
                Kind::Q4_1 | Kind::Q5_1 | Kind::Q4K | Kind::Q5K => &[0, 2],
                Kind::Q2K => &[80, 82],
                Kind::Q3K => &[108],
                Kind::Q6K => &[208],
                Kind::F32 | Kind::F16 | Kind::Bf16 => &[],
            };
            for &place in places {
                block[place..place + 2].copy_from_slice(&[0x00, 0x3c]);
            }
        }
        let matrix = Matrix::new(Arc::new(matrix_bytes), 0, rows, columns, kind);
        for sign in [1.0, -1.0] {
            let x = vec![sign; 5 * columns];
            let expected = product(Kernels::Plain, &matrix, &x);
            let mut weights = vec![0.0; columns];
            plain::dequantise(kind, matrix.bytes(0..1), &mut weights);
            let exact = weights.iter().map(|&w| f64::from(w) * f64::from(sign)).sum::<f64>();
            assert!(
                (f64::from(expected[0]) - exact).abs() <= 1e-4 * exact.abs(),
                "{kind:?}: {exact} {expected:?}"
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
    // Two digits of activations are as good as floats; one would fail this by far.
    for kind in Kind::ALL {
        let (rows, columns) = (16, 1024);
        let matrix = matrix(kind, rows, columns, &numbers(4, rows * columns));
        let x = numbers(5, columns);
        let mut weights = vec![0.0; rows * columns];
        plain::dequantise(kind, matrix.bytes(0..rows), &mut weights);
        let found = product(Kernels::Plain, &matrix, &x);
        for (row, found) in weights.chunks_exact(columns).zip(found) {
            let exact: f64 = row.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            let size = row.iter().zip(&x).map(|(&w, &x)| f64::from(w * x).powi(2)).sum::<f64>().sqrt();
            let bound = 1e-4;
            assert!((f64::from(found) - exact).abs() < bound * size, "{kind:?}: {exact} {found}");
        }
    }
}

#[test]
fn nan_in_the_activations_comes_out_of_the_product() {
    // Swallowed NaN would turn a broken model into a plausible one.
    let matrix = matrix(Kind::Q4K, 16, 256, &numbers(6, 16 * 256));
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
