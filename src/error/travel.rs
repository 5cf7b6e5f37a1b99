//! How the parts of errors travel that serde does not carry by itself.

/// For what several errors hold: on the other side one does, at first.
pub(super) mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::error) fn serialize<T: Serialize, S: Serializer>(
        shared: &Arc<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        T::serialize(shared, serializer)
    }

    pub(in crate::error) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(deserializer).map(Arc::new)
    }
}

/// For an error of the system: its code says all; of any other one kind and text arrive.
pub(super) mod io_error {
    use std::io::{Error, ErrorKind};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// The code of an error of this kind, which names the kind; a few kinds have none and become `Other`.
    fn code_of(kind: ErrorKind) -> Option<i32> {
        /// Linux has none above.
        const LAST: i32 = libc::EHWPOISON;

        (1..=LAST).find(|&code| Error::from_raw_os_error(code).kind() == kind)
    }

    pub(in crate::error) fn serialize<S: Serializer>(
        error: &Error,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let (code, text) = match error.raw_os_error() {
            Some(code) => (Some(code), None),
            None => (code_of(error.kind()), Some(error.to_string())),
        };
        (code, text).serialize(serializer)
    }

    pub(in crate::error) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Error, D::Error> {
        let (code, text): (Option<i32>, Option<String>) = Deserialize::deserialize(deserializer)?;
        let error = code.map_or_else(|| ErrorKind::Other.into(), Error::from_raw_os_error);
        Ok(match text {
            Some(text) => Error::new(error.kind(), text),
            None => error,
        })
    }
}
