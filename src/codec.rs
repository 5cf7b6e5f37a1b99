//! Encoding and decoding: the only file that knows bincode.
//!
//! The format is bincode's fixed-width one, which encodes and decodes fastest. User code runs in
//! here (`Serialize`, `Deserialize`), so panics are caught and become errors like any other.

mod complete;

use std::{
    any::type_name,
    fmt::{self, Display, Formatter},
    io::{self, ErrorKind, Read, Write},
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
use complete::Complete;

/// What an encoding has beside the bytes in its frame.
#[derive(Default)]
pub(crate) struct Freight {
    /// The primitives that it names.
    pub(crate) luggage: Luggage,
    /// The encoding itself, if it is large.
    pub(crate) extent: Option<Extent>,
    /// How large the encoding would be, if it is nowhere since no frame holds it; else zero.
    pub(crate) excess: usize,
}

/// What bincode says of bytes that a value has not read.
const LEFT_OVER: &str = "Slice had bytes remaining after deserialization";

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
                let mut reader = extent.reader();
                let value = bincode::deserialize_from_custom(&mut reader)?;
                match reader.is_at_end() {
                    true => Ok(value),
                    false => Err(bincode::ErrorKind::Custom(LEFT_OVER.into()).into()),
                }
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
    let mut excess = 0;
    let encoded = passage::pack(reach, &mut luggage, || {
        contain::<T, _>(part, || {
            // Primitives are packed twice then, which does no harm.
            let size =
                usize::try_from(bincode::serialized_size(&Complete(value))?).unwrap_or(usize::MAX);
            // What is too large for a frame is refused, wherever it is; if it is much too large, there may be no memory.
            if size > limit {
                excess = size;
                return Ok(None);
            }
            let fits = size <= limit.saturating_sub(start);
            if size >= LARGE && fits && reach == Reach::Tree {
                match encode_in_extent(value, size) {
                    Ok(Some(extent)) => return Ok(Some(extent)),
                    Err(error) if !has_outgrown(&error) => return Err(error),
                    _ => {}
                }
            }
            frame.reserve(size);
            bincode::serialize_into(&mut *frame, &Complete(value)).map(|()| None)
        })
    });
    if encoded.is_err() {
        frame.truncate(start);
    }
    encoded.map(|extent| Freight {
        luggage,
        extent,
        excess,
    })
}

fn encode_in_extent<T: Serialize>(value: &T, size: usize) -> bincode::Result<Option<Extent>> {
    let Some(mut extent) = Extent::claim(size) else {
        return Ok(None);
    };
    bincode::serialize_into(extent.writer(), &Complete(value))?;
    // Of one that has become smaller since, whoever takes it would leave some behind.
    Ok((extent.len() >= size).then_some(extent))
}

/// Whether a value has become larger since its size was taken, as one can that others change.
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
            let mut appender = Appender::new(out);
            bincode::serialize_into(&mut appender, &Complete(value))?;
            appender.finish();
            Ok(())
        })
    });
    if encoded.is_err() {
        out.truncate(start);
    }
    encoded
}

/// Writes behind what is in a vector, at first into room that is there already: mostly that is enough, and the
/// compiler can keep in a register how much of it is used. A vector would have to be asked for more at each number.
struct Appender<'a> {
    /// Ends with room that is not used yet.
    out: &'a mut Vec<u8>,
    /// How much of it is used.
    len: usize,
}

impl<'a> Appender<'a> {
    /// To begin with.
    const ROOM: usize = 128;

    #[inline]
    fn new(out: &'a mut Vec<u8>) -> Self {
        let len = out.len();
        out.resize(len + Self::ROOM, 0);
        Appender { out, len }
    }

    #[inline]
    fn finish(self) {
        self.out.truncate(self.len);
    }

    #[cold]
    fn spill(&mut self, bytes: &[u8]) {
        /// So much is cleared at once for what may follow.
        const MORE: usize = 4096;

        self.out.truncate(self.len);
        self.out.extend_from_slice(bytes);
        self.len = self.out.len();
        let spare = self.out.capacity() - self.len;
        self.out.resize(self.len + spare.min(MORE), 0);
    }
}

impl Write for Appender<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.out.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.spill(bytes),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How values are decoded. One that does not read all that it has written, as where a field is skipped in one of the
/// two only, has most likely taken something for what it is not, and is an error.
#[inline]
fn whole() -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .reject_trailing_bytes()
}

/// The value that `bytes` encode.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], part: Part) -> Result<T, CodecError> {
    contain::<T, _>(part, || whole().deserialize(bytes))
}

/// The same, moved no oftener than need be.
#[inline]
pub(crate) fn decode_into<T: DeserializeOwned>(
    bytes: &[u8],
    part: Part,
    value: &mut Option<T>,
) -> Result<(), CodecError> {
    contain::<T, _>(part, || {
        *value = Some(whole().deserialize(bytes)?);
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

/// Whether an encoded tuple begins with `Some`: that is its first byte.
pub(crate) fn begins_with_some(encoding: &mut impl Read) -> bool {
    let mut first = [0];
    encoding.read_exact(&mut first).is_ok() && first == [1]
}

#[inline]
fn contain<T, U>(part: Part, code: impl FnOnce() -> bincode::Result<U>) -> Result<U, CodecError> {
    match unwind::catch(code) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(cause)) => Err(CodecError::new(part, type_name::<T>(), &Cause(cause))),
        Err(panic) => Err(CodecError::new(part, type_name::<T>(), &panic)),
    }
}

/// An error of bincode's, and what to do where that is not known from it.
struct Cause(bincode::Error);

impl Display for Cause {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self.0 {
            bincode::ErrorKind::DeserializeAnyNotSupported
            | bincode::ErrorKind::SequenceMustHaveLength => write!(
                f,
                "{}; a value as `serde_json::Value`, or one with `#[serde(flatten)]`, `tag` or `untagged`, can travel as a \
                 string",
                self.0
            ),
            _ => self.0.fmt(f),
        }
    }
}

/// Other processes can change that memory: what is read is copied, once.
impl<'de> BincodeRead<'de> for &mut ExtentReader<'_> {
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
        Ok(self.take_bytes(len)?)
    }

    fn forward_read_bytes<V: Visitor<'de>>(
        &mut self,
        len: usize,
        visitor: V,
    ) -> bincode::Result<V::Value> {
        visitor.visit_byte_buf(self.get_byte_buffer(len)?)
    }
}
