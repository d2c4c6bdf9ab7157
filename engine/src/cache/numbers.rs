//! Numbers of the cache as bytes, little-endian.

/// Adds them to `to`.
pub(super) fn put_floats(numbers: &[f32], to: &mut Vec<u8>) {
    to.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
}

/// Adds them to `to`.
pub(super) fn put_halves(numbers: &[u16], to: &mut Vec<u8>) {
    to.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
}

/// Adds them to `to`.
pub(super) fn put_bytes(numbers: &[i8], to: &mut Vec<u8>) {
    to.extend(numbers.iter().map(|x| x.cast_unsigned()));
}

/// Takes so many from the front of `from`, if there are as many.
pub(super) fn take_floats(count: usize, from: &mut &[u8]) -> Option<Vec<f32>> {
    let (numbers, rest) = from.split_at_checked(count.checked_mul(4)?)?;
    *from = rest;
    Some(numbers.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

/// Takes so many from the front of `from`, if there are as many.
pub(super) fn take_halves(count: usize, from: &mut &[u8]) -> Option<Vec<u16>> {
    let (numbers, rest) = from.split_at_checked(count.checked_mul(2)?)?;
    *from = rest;
    Some(numbers.as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes)).collect())
}

/// Takes so many from the front of `from`, if there are as many.
pub(super) fn take_bytes(count: usize, from: &mut &[u8]) -> Option<Vec<i8>> {
    let (numbers, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(numbers.iter().map(|&byte| byte.cast_signed()).collect())
}
