//! Encoding and decoding: the only file that knows bincode.
//!
//! The format is bincode's fixed-width one, which encodes and decodes fastest. User code runs in
//! here (`Serialize`, `Deserialize`), so panics are caught and become errors like any other.

use std::{
    any::type_name,
    fmt::Display,
    io::{self, ErrorKind, Read},
};

use bincode::{BincodeRead, Options};
use serde::{
    Serialize,
    de::{DeserializeOwned, Visitor},
};

use crate::{
    arena::{
        extent::{Extent, ExtentReader, LARGE},
        passage::{self, Luggage, Reach},
    },
    error::{CodecError, Part},
    unwind,
};

/// So much room is enough for most values.
pub(crate) const ENOUGH: usize = 256;

/// Values up to this size are likely to need no more room than that.
const SMALL: usize = 128;

/// What an encoding has beside the bytes in its frame.
#[derive(Default)]
pub(crate) struct Freight {
    /// The primitives that it names.
    pub(crate) luggage: Luggage,
    /// The encoding itself, if it is large.
    pub(crate) extent: Option<Extent>,
}

/// Where an encoding is.
pub(crate) enum Encoded<'a> {
    Bytes(&'a [u8]),
    Extent(Extent),
}

impl Encoded<'_> {
    /// The value. The memory that it was encoded in is free then.
    pub(crate) fn decode<T: DeserializeOwned>(self, part: Part) -> Result<T, CodecError> {
        match self {
            Encoded::Bytes(bytes) => decode(bytes, part),
            Encoded::Extent(extent) => contain::<T, _>(part, || {
                bincode::deserialize_from_custom(Shared(extent.reader()))
            }),
        }
    }
}

/// Encodes `value` behind what is in `frame`, which holds `limit` bytes at most; or in the memory that the
/// processes share, if it is large, goes no further, and there is room.
pub(crate) fn ship<T: Serialize>(
    value: &T,
    frame: &mut Vec<u8>,
    part: Part,
    reach: Reach,
    limit: usize,
) -> Result<Freight, CodecError> {
    let start = frame.len();
    let mut luggage = Luggage::default();
    let encoded = passage::pack(reach, &mut luggage, || {
        contain::<T, _>(part, || {
            // Primitives are packed twice then, which does no harm.
            let size = usize::try_from(bincode::serialized_size(value)?).unwrap_or(usize::MAX);
            // What is too large for a frame is refused, wherever it is.
            let fits = size <= limit.saturating_sub(start);
            if size >= LARGE && fits && reach == Reach::Tree {
                match encode_in_extent(value, size) {
                    Ok(Some(extent)) => return Ok(Some(extent)),
                    Err(error) if !has_outgrown(&error) => return Err(error),
                    _ => {}
                }
            }
            frame.reserve(size);
            bincode::serialize_into(&mut *frame, value).map(|()| None)
        })
    });
    if encoded.is_err() {
        frame.truncate(start);
    }
    encoded.map(|extent| Freight { luggage, extent })
}

fn encode_in_extent<T: Serialize>(value: &T, size: usize) -> bincode::Result<Option<Extent>> {
    let Some(mut extent) = Extent::claim(size) else {
        return Ok(None);
    };
    bincode::serialize_into(extent.writer(), value)?;
    Ok(Some(extent))
}

/// Whether a value is larger than the room there is. It can have become so since its size was taken.
fn has_outgrown(error: &bincode::ErrorKind) -> bool {
    matches!(error, bincode::ErrorKind::Io(error) if error.kind() == ErrorKind::WriteZero)
}

/// Appends the encoding of `value` to `out`, which is as before when that fails. The primitives that it names, which
/// are errors where they cannot be [`Reach`]ed, are added to the luggage.
#[inline]
pub(crate) fn encode<T: Serialize>(
    value: &T,
    out: &mut Vec<u8>,
    part: Part,
    reach: Reach,
    luggage: &mut Luggage,
) -> Result<(), CodecError> {
    let start = out.len();
    let encoded = passage::pack(reach, luggage, || {
        contain::<T, _>(part, || {
            if size_of::<T>() <= SMALL && append_small(value, out)? {
                return Ok(());
            }
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
    encoded
}

/// Appends the encoding of a value if that has no more than [`SMALL`] bytes; `false` if it has more.
///
/// The room is of a fixed size, so that the compiler can keep in a register how much is used. A vector would
/// have to be asked for more room at each number.
#[inline]
fn append_small<T: Serialize>(value: &T, out: &mut Vec<u8>) -> bincode::Result<bool> {
    let start = out.len();
    out.resize(start + SMALL, 0);
    let mut rest = &mut out[start..];
    match bincode::serialize_into(&mut rest, value) {
        Ok(()) => {
            let left = rest.len();
            out.truncate(start + SMALL - left);
            Ok(true)
        }
        Err(error) => {
            out.truncate(start);
            match has_outgrown(&error) {
                true => Ok(false),
                false => Err(error),
            }
        }
    }
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

/// Memory that other processes can change: what is read is copied, once.
struct Shared<'a>(ExtentReader<'a>);

impl Read for Shared<'_> {
    #[inline]
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }

    #[inline]
    fn read_exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(out)
    }
}

impl<'de> BincodeRead<'de> for Shared<'_> {
    fn forward_read_str<V: Visitor<'de>>(
        &mut self,
        len: usize,
        visitor: V,
    ) -> bincode::Result<V::Value> {
        let bytes = self.get_byte_buffer(len)?;
        match String::from_utf8(bytes) {
            Ok(string) => visitor.visit_string(string),
            Err(error) => Err(bincode::ErrorKind::InvalidUtf8Encoding(error.utf8_error()).into()),
        }
    }

    fn get_byte_buffer(&mut self, len: usize) -> bincode::Result<Vec<u8>> {
        Ok(self.0.take_bytes(len)?)
    }

    fn forward_read_bytes<V: Visitor<'de>>(
        &mut self,
        len: usize,
        visitor: V,
    ) -> bincode::Result<V::Value> {
        visitor.visit_byte_buf(self.get_byte_buffer(len)?)
    }
}
