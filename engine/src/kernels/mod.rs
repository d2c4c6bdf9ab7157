//! The arithmetic of the forward pass, over slices of f32.
//!
//! Activations are plain slices in buffers that are reused from chunk to chunk, not tensors: every step here
//! is one pass over memory that the next step reads, several matrices share one quantised input, and results
//! are written into their place. A tensor per step would allocate and copy between them.
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
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;

pub(crate) use blocks::Input;
pub(crate) use float::{Head, STRIP, State, Step, TILE, Tile};
pub(crate) use multiply::{Product, multiply};

use crate::Error;
use crate::weights::Kind;
use blocks::Form;

/// Which kernels compute, and on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernels {
    set: Set,
    exact: bool,
}

/// For which machine they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    /// The specification itself: slow, and the same on every machine.
    Plain,
    /// For x86-64 machines with AVX2, FMA and F16C; only ever made where they were found.
    #[cfg(target_arch = "x86_64")]
    Avx2(Found),
    /// For those that also have AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(Found),
    /// For aarch64 machines, all of which have what these take.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// For those that also have the dot product of bytes.
    #[cfg(target_arch = "aarch64")]
    Dotprod(Found),
}

/// The proof that this machine has what a kernel needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found(());

/// Calls a function of `float.rs` as it is compiled for the chosen kernels.
macro_rules! by {
    ($kernels:expr, $name:ident($($argument:expr),*)) => {
        match $kernels.set {
            Set::Plain => float::$name($($argument),*),
            // SAFETY: `Found` exists only where the features were found.
            // WHY: the only way to call code compiled for features found at run time.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => unsafe { x86::avx2::$name($($argument),*) },
            // SAFETY: as above.
            // WHY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => unsafe { x86::avx512::$name($($argument),*) },
            // It is compiled for all that these machines have.
            #[cfg(target_arch = "aarch64")]
            Set::Neon | Set::Dotprod(_) => float::$name($($argument),*),
        }
    };
}

impl Kernels {
    /// The specification.
    #[cfg(test)]
    pub(crate) const PLAIN: Kernels = Kernels { set: Set::Plain, exact: false };

    /// The same, but activations stay floats whatever weights are stored as: far slower, for judging a model and not for
    /// work.
    pub(crate) fn exact(self) -> Kernels {
        Kernels { exact: true, ..self }
    }

    /// The form in which activations meet weights of this kind.
    fn form(self, kind: Kind) -> Form {
        if self.exact { Form::Floats } else { Form::of(kind) }
    }

    /// The fastest kernels of this machine, or the ones that `SAGA_KERNELS` names (`plain`; `avx2` or `avx512`; `neon`
    /// or `dotprod`).
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
        let mut sets = vec![Set::Plain];
        #[cfg(target_arch = "x86_64")]
        if x86::has_avx2() {
            sets.push(Set::Avx2(Found(())));
        }
        #[cfg(target_arch = "x86_64")]
        if x86::has_avx512() {
            sets.push(Set::Avx512(Found(())));
        }
        #[cfg(target_arch = "aarch64")]
        sets.push(Set::Neon);
        #[cfg(target_arch = "aarch64")]
        if neon::has_dotprod() {
            sets.push(Set::Dotprod(Found(())));
        }
        sets.into_iter().map(|set| Kernels { set, exact: false }).collect()
    }

    /// Whether products are faster with matrices that are turned: see [`crate::weights::turned`].
    pub(crate) fn want_turned(self) -> bool {
        match self.set {
            Set::Plain => false,
            #[cfg(target_arch = "aarch64")]
            Set::Neon | Set::Dotprod(_) => false,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => false,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => !self.exact,
        }
    }

    /// The name `SAGA_KERNELS` knows them by.
    pub(crate) fn name(self) -> &'static str {
        match self.set {
            Set::Plain => "plain",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Set::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Set::Dotprod(_) => "dotprod",
        }
    }

    /// Quantises one block of activations. See [`float::quantise`].
    pub(crate) fn quantise(self, x: &[f32], values: &mut [i8], sums: &mut [i16]) -> (f32, bool) {
        by!(self, quantise(x, values, sums))
    }

    /// See [`float::rms_norm`].
    pub(crate) fn rms_norm(self, x: &[f32], weight: &[f32], epsilon: f32, to: &mut [f32]) {
        by!(self, rms_norm(x, weight, epsilon, to))
    }

    /// See [`float::silu_times`].
    pub(crate) fn silu_times(self, gate: &mut [f32], up: &[f32]) {
        by!(self, silu_times(gate, up))
    }

    /// See [`float::gelu_times`].
    pub(crate) fn gelu_times(self, gate: &mut [f32], up: &[f32]) {
        by!(self, gelu_times(gate, up))
    }

    /// See [`float::clamped_silu_times`].
    pub(crate) fn clamped_silu_times(self, gate: &mut [f32], up: &[f32], limit: f32) {
        by!(self, clamped_silu_times(gate, up, limit))
    }

    /// See [`float::shifted_swish_times`].
    pub(crate) fn shifted_swish_times(self, gate: &mut [f32], up: &[f32], alpha: f32, limit: f32) {
        by!(self, shifted_swish_times(gate, up, alpha, limit))
    }

    /// See [`float::halves`].
    pub(crate) fn halves(self, from: &[u16], to: &mut [f32]) {
        by!(self, halves(from, to))
    }

    /// See [`float::dot`].
    pub(crate) fn dot(self, x: &[f32], y: &[f32]) -> f32 {
        by!(self, dot(x, y))
    }

    /// See [`float::convolve`].
    pub(crate) fn convolve(self, rows: &[f32], weights: &[f32], to: &mut [f32]) {
        by!(self, convolve(rows, weights, to))
    }

    /// See [`float::correct`].
    pub(crate) fn correct(self, state: &mut [f32], step: &Step<'_>, to: &mut [f32; STRIP]) {
        by!(self, correct(state, step, to))
    }

    /// See [`float::attend`].
    pub(crate) fn attend(
        self,
        tile: &Tile,
        head: Head,
        queries: &[f32],
        seen: &[[usize; 2]],
        states: &mut [State],
        outputs: &mut [f32],
    ) {
        by!(self, attend(tile, head, queries, seen, states, outputs))
    }

    /// See [`float::turn`].
    pub(crate) fn turn(self, rows: &[f32], to: &mut [f32]) {
        by!(self, turn(rows, to))
    }

    /// See [`float::judge`].
    pub(crate) fn judge(
        self,
        keys: &[f32],
        queries: &[f32],
        weights: &[f32],
        bar: f32,
        to: &mut [f32; TILE],
    ) -> bool {
        by!(self, judge(keys, queries, weights, bar, to))
    }

    /// See [`float::pool`].
    pub(crate) fn pool(self, state: &mut [f32], values: &[f32], scores: &[f32], places: &[f32]) {
        by!(self, pool(state, values, scores, places))
    }
}
