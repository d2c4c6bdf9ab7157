//! The kinds of blocks weights are stored in.

/// How a matrix's numbers are stored. A row is a whole number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
    /// Bytes with four bits of exponent and three of fraction, and no infinity.
    F8E4M3,
    /// Two numbers a byte, the first one in the low bits, with two bits of exponent and one of fraction each.
    F4E2M1,
}

/// What a kind's unpacked values stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    /// They are no blocks but floats.
    Floats,
    /// Signed bytes.
    Signed,
    /// Unsigned; this one stands for nothing.
    Around(u8),
    /// Unsigned; blocks have offsets of their own.
    Offset,
}

/// All there is to know of a kind but how its blocks are unpacked.
struct Facts {
    name: &'static str,
    gguf: Option<u32>,
    block: usize,
    block_bytes: usize,
    values: Values,
}

impl Kind {
    /// Every kind there is a kernel for.
    pub(crate) const ALL: [Kind; 23] = [
        Kind::F32,
        Kind::F16,
        Kind::Bf16,
        Kind::Q4_0,
        Kind::Q4_1,
        Kind::Q5_0,
        Kind::Q5_1,
        Kind::Q8_0,
        Kind::Q2K,
        Kind::Q3K,
        Kind::Q4K,
        Kind::Q5K,
        Kind::Q6K,
        Kind::Iq2Xxs,
        Kind::Iq2Xs,
        Kind::Iq2S,
        Kind::Iq3Xxs,
        Kind::Iq3S,
        Kind::Iq4Nl,
        Kind::Iq4Xs,
        Kind::Mxfp4,
        Kind::F8E4M3,
        Kind::F4E2M1,
    ];

    const fn facts(self) -> Facts {
        use Values::{Around, Floats, Offset, Signed};
        let (name, gguf, block, block_bytes, values) = match self {
            Kind::F32 => ("F32", Some(0), 1, 4, Floats),
            Kind::F16 => ("F16", Some(1), 1, 2, Floats),
            Kind::Bf16 => ("BF16", Some(30), 1, 2, Floats),
            Kind::Q4_0 => ("Q4_0", Some(2), 32, 18, Around(8)),
            Kind::Q4_1 => ("Q4_1", Some(3), 32, 20, Offset),
            Kind::Q5_0 => ("Q5_0", Some(6), 32, 22, Around(16)),
            Kind::Q5_1 => ("Q5_1", Some(7), 32, 24, Offset),
            Kind::Q8_0 => ("Q8_0", Some(8), 32, 34, Signed),
            Kind::Q2K => ("Q2_K", Some(10), 256, 84, Offset),
            Kind::Q3K => ("Q3_K", Some(11), 256, 110, Around(4)),
            Kind::Q4K => ("Q4_K", Some(12), 256, 144, Offset),
            Kind::Q5K => ("Q5_K", Some(13), 256, 176, Offset),
            Kind::Q6K => ("Q6_K", Some(14), 256, 210, Around(32)),
            Kind::Iq2Xxs => ("IQ2_XXS", Some(16), 256, 66, Signed),
            Kind::Iq2Xs => ("IQ2_XS", Some(17), 256, 74, Signed),
            Kind::Iq2S => ("IQ2_S", Some(22), 256, 82, Signed),
            Kind::Iq3Xxs => ("IQ3_XXS", Some(18), 256, 98, Signed),
            Kind::Iq3S => ("IQ3_S", Some(21), 256, 110, Signed),
            Kind::Iq4Nl => ("IQ4_NL", Some(20), 32, 18, Signed),
            Kind::Iq4Xs => ("IQ4_XS", Some(23), 256, 136, Signed),
            Kind::Mxfp4 => ("MXFP4", Some(39), 32, 17, Signed),
            Kind::F8E4M3 => ("F8_E4M3", None, 1, 1, Floats),
            Kind::F4E2M1 => ("F4_E2M1", None, 2, 1, Floats),
        };
        Facts { name, gguf, block, block_bytes, values }
    }

    /// The kind that has this number in GGUF files.
    pub(crate) fn from_gguf(number: u32) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.facts().gguf == Some(number))
    }

    /// How many weights one block holds.
    pub(crate) const fn block(self) -> usize {
        self.facts().block
    }

    /// How many bytes one block takes.
    pub(crate) const fn block_bytes(self) -> usize {
        self.facts().block_bytes
    }

    /// What the values of a block stand for.
    pub(crate) const fn values(self) -> Values {
        self.facts().values
    }

    /// Whether its numbers are floats, which are multiplied with activations as they are.
    pub(crate) const fn is_float(self) -> bool {
        matches!(self.values(), Values::Floats)
    }

    /// The name people know the kind by.
    pub(crate) const fn name(self) -> &'static str {
        self.facts().name
    }
}
