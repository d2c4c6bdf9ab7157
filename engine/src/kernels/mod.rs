//! The arithmetic of the forward pass, over slices of f32.
//!
//! Activations are plain slices in buffers that are reused from chunk to chunk, not tensors: every step here
//! is one pass over memory that the next step reads, several matrices share one quantised input, and results
//! are written into their place. A tensor per step would allocate and copy between them. Candle reads the
//! model files, and its quantisers and its own products judge these kernels in the tests.
//!
//! `plain.rs` and `float.rs` are the specification. A faster kernel is chosen at run time, because a released
//! binary must run on any machine of its architecture, and must give the same bits.

#![expect(
    clippy::needless_range_loop,
    reason = "an index here is a row, lane or digit of several arrays at once"
)]

mod blocks;
pub(crate) mod float;
mod multiply;
pub(crate) mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;

pub(crate) use blocks::Input;
pub(crate) use float::{State, TILE, Tile};
pub(crate) use multiply::{Product, multiply};

use crate::Error;

/// Which kernels compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// The specification itself: slow, and the same on every machine.
    Plain,
    /// For x86-64 machines with AVX2, FMA and F16C; only ever made where they were found.
    #[cfg(target_arch = "x86_64")]
    Avx2(Found),
}

/// The proof that this machine has what a kernel needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found(());

impl Kernels {
    /// The fastest kernels of this machine, or the ones that `SAGA_KERNELS` names (`plain` or `avx2`).
    pub(crate) fn pick() -> Result<Kernels, Error> {
        let fastest = Kernels::available().pop().expect("the plain kernels are always available");
        let Some(wanted) = std::env::var_os("SAGA_KERNELS").filter(|name| !name.is_empty()) else {
            return Ok(fastest);
        };
        Kernels::available().into_iter().find(|kernels| wanted == kernels.name()).ok_or_else(|| {
            let names: Vec<_> = Kernels::available().iter().map(|kernels| kernels.name()).collect();
            Error::Option(format!("SAGA_KERNELS is {wanted:?}; this machine has {}", names.join(", ")))
        })
    }

    /// All kernels this machine can run, the fastest last.
    pub(crate) fn available() -> Vec<Kernels> {
        let mut kernels = vec![Kernels::Plain];
        #[cfg(target_arch = "x86_64")]
        if x86::available() {
            kernels.push(Kernels::Avx2(Found(())));
        }
        kernels
    }

    /// The name `SAGA_KERNELS` knows them by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kernels::Plain => "plain",
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2(_) => "avx2",
        }
    }

    /// Quantises one block of activations. See [`float::quantise`].
    pub(crate) fn quantise(self, x: &mut [f32], values: &mut [i8], sums: &mut [i16]) -> f32 {
        match self {
            Kernels::Plain => float::quantise(x, values, sums),
            // SAFETY: `Found` exists only where `available` found the features.
            // WHY: the only way to call code compiled for features found at run time.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2(_) => unsafe { x86::quantise(x, values, sums) },
        }
    }

    /// See [`float::rms_norm`].
    pub(crate) fn rms_norm(self, x: &[f32], weight: &[f32], epsilon: f32, to: &mut [f32]) {
        match self {
            Kernels::Plain => float::rms_norm(x, weight, epsilon, to),
            // SAFETY: `Found` exists only where `available` found the features.
            // WHY: the only way to call code compiled for features found at run time.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2(_) => unsafe { x86::rms_norm(x, weight, epsilon, to) },
        }
    }

    /// See [`float::silu_times`].
    pub(crate) fn silu_times(self, gate: &mut [f32], up: &[f32]) {
        match self {
            Kernels::Plain => float::silu_times(gate, up),
            // SAFETY: `Found` exists only where `available` found the features.
            // WHY: the only way to call code compiled for features found at run time.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2(_) => unsafe { x86::silu_times(gate, up) },
        }
    }

    /// See [`float::attend`].
    #[expect(
        clippy::too_many_arguments,
        reason = "they are one tile's operands, and a struct would only rename them"
    )]
    pub(crate) fn attend(
        self,
        tile: &mut Tile,
        keys: &[u16],
        values: &[u16],
        head: usize,
        scale: f32,
        queries: &[f32],
        seen: &[usize],
        states: &mut [State],
        outputs: &mut [f32],
    ) {
        match self {
            Kernels::Plain => float::attend::<float::OneByOne>(
                tile, keys, values, head, scale, queries, seen, states, outputs,
            ),
            // SAFETY: `Found` exists only where `available` found the features.
            // WHY: the only way to call code compiled for features found at run time.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2(_) => unsafe {
                x86::attend(tile, keys, values, head, scale, queries, seen, states, outputs);
            },
        }
    }
}
