//! A task that is encoded once and run again and again, by any process of the program.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::{
    IntoTask,
    entry::{Entry, FunctionId},
};
use crate::{
    arena::passage::{self, Luggage, Reach},
    codec::{self, Encoded},
    error::{CodecError, Part, TaskError},
    unwind,
};

#[derive(Clone)]
pub(crate) struct EncodedTask {
    pub(crate) entry: &'static Entry,
    pub(crate) payload: Arc<[u8]>,
    /// Keeps the primitives that the payload names.
    luggage: Luggage,
}

impl EncodedTask {
    pub(crate) fn of<M>(task: impl IntoTask<M>) -> Result<Self, CodecError> {
        let task = task.into_task();
        let mut payload = Vec::new();
        let mut luggage = Luggage::default();
        let (args, part) = (&task.args, Part::Argument);
        let encoded = codec::encode(args, &mut payload, part, Reach::Tree, &mut luggage);
        let entry = task.function.entry();
        unwind::discard(task);
        encoded?;
        Ok(EncodedTask {
            entry,
            payload: payload.into(),
            luggage,
        })
    }

    /// Runs it on this thread.
    pub(crate) fn run(&self) -> Result<(), TaskError> {
        let done = self.entry.run(Encoded::Bytes(&self.payload), None);
        done.map(drop).map_err(TaskError::from)
    }
}

impl EncodedTask {
    /// Whether it can go there: primitives go only where the memory is shared that they are in.
    pub(crate) fn check(&self, reach: Reach) -> Result<(), CodecError> {
        if reach == Reach::Tree || self.luggage.is_empty() {
            return Ok(());
        }
        let why =
            "it holds a primitive, and the worker is not known to share this process's memory";
        Err(CodecError::new(
            Part::Argument,
            self.entry.argument_name(),
            &why,
        ))
    }
}

impl Serialize for EncodedTask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let function = self.entry.id().ok_or_else(|| {
            ser::Error::custom(TaskError::SharedLibrary(self.entry.function_name().into()))
        })?;
        passage::add(&self.luggage);
        (function, &self.payload[..], self.luggage.ids()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EncodedTask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (function, payload, ids) =
            <(FunctionId, Vec<u8>, Vec<u64>)>::deserialize(deserializer)?;
        Ok(EncodedTask {
            entry: Entry::find(function).map_err(de::Error::custom)?,
            payload: payload.into(),
            luggage: Luggage::attach(&ids),
        })
    }
}
