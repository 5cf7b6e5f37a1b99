//! Values without fields that are left out: what reads them would take the next field for the one that is missing.

use std::fmt::Display;

use serde::{
    Serialize, Serializer,
    ser::{
        Error, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
        SerializeTupleStruct, SerializeTupleVariant,
    },
};

/// A value, or a serializer with all that comes from it, where a field that is left out is an error.
pub(super) struct Complete<T>(pub(super) T);

impl<T: Serialize + ?Sized> Serialize for Complete<&T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Complete(serializer))
    }
}

fn left_out<E: Error>(field: &str) -> E {
    E::custom(format_args!(
        "the field `{field}` is left out (`skip_serializing_if`), which whoever reads it could not know"
    ))
}

/// Methods for what has nothing inside.
macro_rules! plain {
    ($($method:ident($type:ty),)*) => {$(
        #[inline]
        fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.0.$method(value)
        }
    )*};
}

/// Methods that begin something with parts.
macro_rules! begin {
    ($($method:ident($($name:ident: $type:ty),*) -> $parts:ident,)*) => {$(
        #[inline]
        fn $method(self, $($name: $type),*) -> Result<Complete<S::$parts>, S::Error> {
            self.0.$method($($name),*).map(Complete)
        }
    )*};
}

impl<S: Serializer> Serializer for Complete<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Complete<S::SerializeSeq>;
    type SerializeTuple = Complete<S::SerializeTuple>;
    type SerializeTupleStruct = Complete<S::SerializeTupleStruct>;
    type SerializeTupleVariant = Complete<S::SerializeTupleVariant>;
    type SerializeMap = Complete<S::SerializeMap>;
    type SerializeStruct = Complete<S::SerializeStruct>;
    type SerializeStructVariant = Complete<S::SerializeStructVariant>;

    plain! {
        serialize_bool(bool),
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_i128(i128),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_u64(u64),
        serialize_u128(u128),
        serialize_f32(f32),
        serialize_f64(f64),
        serialize_char(char),
        serialize_str(&str),
        serialize_bytes(&[u8]),
        serialize_unit_struct(&'static str),
    }

    begin! {
        serialize_seq(len: Option<usize>) -> SerializeSeq,
        serialize_tuple(len: usize) -> SerializeTuple,
        serialize_tuple_struct(name: &'static str, len: usize) -> SerializeTupleStruct,
        serialize_tuple_variant(
            name: &'static str,
            index: u32,
            variant: &'static str,
            len: usize
        ) -> SerializeTupleVariant,
        serialize_map(len: Option<usize>) -> SerializeMap,
        serialize_struct(name: &'static str, len: usize) -> SerializeStruct,
        serialize_struct_variant(
            name: &'static str,
            index: u32,
            variant: &'static str,
            len: usize
        ) -> SerializeStructVariant,
    }

    #[inline]
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.0.serialize_none()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_some(&Complete(value))
    }

    #[inline]
    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit_variant(name, index, variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_struct(name, &Complete(value))
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0
            .serialize_newtype_variant(name, index, variant, &Complete(value))
    }

    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.collect_str(value)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// The parts of what has them.
macro_rules! parts {
    ($($trait:ident: $method:ident($($name:ident: $type:ty),*), $($skip:ident)?;)*) => {$(
        impl<S: $trait> $trait for Complete<S> {
            type Ok = S::Ok;
            type Error = S::Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(
                &mut self,
                $($name: $type,)*
                value: &T,
            ) -> Result<(), S::Error> {
                self.0.$method($($name,)* &Complete(value))
            }

            $(fn $skip(&mut self, field: &'static str) -> Result<(), S::Error> {
                Err(left_out(field))
            })?

            #[inline]
            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        }
    )*};
}

parts! {
    SerializeSeq: serialize_element(),;
    SerializeTuple: serialize_element(),;
    SerializeTupleStruct: serialize_field(),;
    SerializeTupleVariant: serialize_field(),;
    SerializeStruct: serialize_field(field: &'static str), skip_field;
    SerializeStructVariant: serialize_field(field: &'static str), skip_field;
}

impl<S: SerializeMap> SerializeMap for Complete<S> {
    type Ok = S::Ok;
    type Error = S::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.0.serialize_key(&Complete(key))
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.0.serialize_value(&Complete(value))
    }

    #[inline]
    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}
