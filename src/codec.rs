//! Encoding and decoding: the only file that knows bincode.
//!
//! The format is bincode's fixed-width one, which encodes and decodes fastest. User code runs in
//! here (`Serialize`, `Deserialize`), so panics are caught and become errors like any other.

use std::{any::type_name, fmt::Display};

use bincode::Options;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    arena::passage::{self, Luggage, Reach},
    error::{CodecError, Part},
    unwind,
};

/// So much room is enough for most values.
pub(crate) const ENOUGH: usize = 256;

/// Appends the encoding of `value` to `out`; `out` is as before when that fails. Gives the primitives that
/// it names, which are errors where they cannot be [`Reach`]ed.
#[inline]
pub(crate) fn encode<T: Serialize>(
    value: &T,
    out: &mut Vec<u8>,
    part: Part,
    reach: Reach,
) -> Result<Luggage, CodecError> {
    let start = out.len();
    let (encoded, luggage) = passage::pack(reach, || {
        contain::<T, _>(part, || {
            // What is likely to fit is not measured first. Primitives are packed twice then, which does
            // no harm.
            if out.spare_capacity_mut().len() < ENOUGH {
                out.reserve(usize::try_from(bincode::serialized_size(value)?).unwrap_or(0));
            }
            bincode::serialize_into(&mut *out, value)
        })
    });
    if encoded.is_err() {
        out.truncate(start);
    }
    encoded.map(|()| luggage)
}

/// The value that `bytes` encode.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], part: Part) -> Result<T, CodecError> {
    contain::<T, _>(part, || bincode::deserialize(bytes))
}

/// The same, moved no oftener than need be.
#[inline]
pub(crate) fn decode_into<T: DeserializeOwned>(
    bytes: &[u8],
    part: Part,
    value: &mut Option<T>,
) -> Result<(), CodecError> {
    contain::<T, _>(part, || {
        *value = Some(bincode::deserialize(bytes)?);
        Ok(())
    })
}

/// The value at the start of `bytes`, which then begin behind it.
pub(crate) fn decode_first<T: DeserializeOwned>(bytes: &mut &[u8]) -> Result<T, String> {
    // A length that is larger than what there is must not be believed.
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .allow_trailing_bytes()
        .with_limit(bytes.len() as u64)
        .deserialize_from(bytes)
        .map_err(|error| error.to_string())
}

#[inline]
fn contain<T, U>(part: Part, code: impl FnOnce() -> bincode::Result<U>) -> Result<U, CodecError> {
    let error = |message: &dyn Display| CodecError::new(part, type_name::<T>(), message);
    match unwind::catch(code) {
        Ok(result) => result.map_err(|cause| error(&cause)),
        Err(panic) => Err(error(&panic)),
    }
}
